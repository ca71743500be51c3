PYTHON ?= python3
BIN := .venv/bin

# Compiled modules are kept: every further Python that a test starts, and pytest for its asserts, would compile them anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast test-gpu lint docs bench study example examples clean

# The main job: imperceptible adversarial versions of twenty ImageNet photographs, into outputs/demo.
demo: .venv/installed
	rm -rf outputs/demo
	$(BIN)/percep task=attack model=efficientnet_lite0 data=samples output=outputs/demo

# On every core. Without a browser, where none can be installed, its tests are skipped and the last lines say so.
test: .venv/installed
	$(BIN)/python tests/support/chromium.py
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# While working: what is quick, and needs neither a browser nor further processes.
test-fast: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal \
		-m "not gpu and not slow and not browser and not multiprocess"

# What needs a CUDA device.
test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation, into site/; a warning is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# About three hours on two cores: solvers, the layer against cvxpylayers, attacks against every baseline, the study.
bench: study
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.default_ball
	$(BIN)/python -m benchmarks.solvers preset=full
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.compiled
	$(BIN)/python -m benchmarks.device
	$(BIN)/python -m benchmarks.attacks
	cp outputs/study/summary.json benchmarks/results/study.json
	cp outputs/study/plots.png docs/study.png
	cp benchmarks/results/attacks.png docs/attacks.png
	cp benchmarks/results/solvers-full.png docs/solvers.png
	$(BIN)/python -m benchmarks.table

# Whether perturbations fall on what the classifier looks at, on the sample photographs, into outputs/study.
study: .venv/installed
	rm -rf outputs/study
	$(BIN)/percep task=explain output=outputs/study

# A generator of perturbations trained through the differentiable layer, into outputs/generator.
example: .venv/installed
	$(BIN)/python examples/generator.py --output outputs/generator

# What the scripts of examples/ print and draw, into docs/examples.
examples: .venv/installed
	$(BIN)/python -m examples.gallery

clean:
	rm -rf .venv outputs site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchattacks adv-lib
	touch $@
