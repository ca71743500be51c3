PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-gpu lint bench example clean

# The main job: imperceptible adversarial versions of twenty ImageNet photographs, into outputs/demo.
demo: .venv/installed
	rm -rf outputs/demo
	$(BIN)/percep task=attack model=efficientnet_lite0 data=samples ball.mean=0.999 output=outputs/demo

test: .venv/installed
	$(BIN)/python -m pytest

# What needs a CUDA device.
test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# About two hours and a half on two cores: solvers, the layer against cvxpylayers, attacks against every peer.
bench: .venv/installed
	$(BIN)/python -m benchmarks.solvers preset=full
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.compiled
	$(BIN)/python -m benchmarks.device
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.table

# A generator of perturbations trained through the differentiable layer, into outputs/generator.
example: .venv/installed
	$(BIN)/python examples/generator.py --output outputs/generator

clean:
	rm -rf .venv outputs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchattacks adv-lib
	touch $@
