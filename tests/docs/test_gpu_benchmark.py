"""The GPU run without a GPU: the whole command in its CPU form, and what must not be wrong on the day."""

import gc
import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import agreement, inner_loop, interpreter, parts
from benchmarks.gpu.attacks import network_of
from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.clock import summary
from benchmarks.gpu.inputs import Run, images, linear_terms
from benchmarks.gpu.parts import PARTS, Part, measure, path_of, write
from benchmarks.gpu.processes import run_alone
from benchmarks.gpu.report import costs, passed, short, tables
from percep import Window, kernels

CPU = torch.device("cpu")
OPERATIONS = ("product", "update", "mean", "adjoint", "update of a mean")
KERNELS = ("mean", "adjoint", "product", "curvature", "update, floor", "update, mean", "update, both")


def check_schema(result: dict) -> None:
    assert set(result) == {"machine", "device", "settings", "parts", "rows", "costs"}
    machine = result["machine"]
    assert machine["cpu"] and machine["versions"]["torch"] and machine["seed"] == result["settings"]["seed"] == 0
    assert result["device"]["type"] in ("cpu", "cuda")
    for part in result["parts"]:
        assert set(part) == {"part", "title", "status", "error", "seconds", "limit_s"}
    assert {row["part"] for row in result["rows"]} <= {part["part"] for part in result["parts"]}
    assert result["costs"] and all(isinstance(words, str) for words in result["costs"])


@pytest.mark.multiprocess
@pytest.mark.slow("every part of the GPU run, in Triton's interpreter where it has kernels")
def test_the_whole_command_in_its_cpu_form(tmp_path, capsys):
    assert command.main(["--output", str(tmp_path), "--device", "cpu", "--minutes", "8"]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    check_schema(result)
    assert [part["part"] for part in result["parts"]] == list("abcdefgh")
    assert {part["status"] for part in result["parts"]} == {"complete"}
    rows = {letter: [row for row in result["rows"] if row["part"] == letter] for letter in PARTS}
    assert all(rows.values()) and not any("note" in row for row in result["rows"])
    assert {row["kernel"] for row in rows["b"]} >= set(KERNELS) and all(
        row["passed"] for row in rows["b"] + rows["c"][:1]
    )
    assert {(row["operation"], row["way"]) for row in rows["d"]} == {
        (o, w) for o in OPERATIONS for w in inner_loop.WAYS
    }
    assert {row["kind"] for row in rows["e"]} == {"floor", "mean"} and all(row["launches"] > 0 for row in rows["e"])
    assert {row["attack"] for row in rows["g"]} == {"FrankWolfe, mean", "FrankWolfe, floor", "MinimalPerturbation"}
    assert json.loads((tmp_path / "iteration-eager.json").read_text())["traceEvents"]
    for letter in PARTS:
        alone = json.loads(path_of(tmp_path, letter).read_text())
        assert [{"part": letter} | row for row in alone["rows"]] == rows[letter]
    assert len(result["costs"]) == 3 and "floor solve of 1 image to a gap of 0.1" in result["costs"][0]
    assert (tmp_path / "gpu.md").read_text() == tables(result) and tables(result) in capsys.readouterr().out


def test_in_the_rehearsal_tensors_go_to_triton_for_the_rest_of_the_process(monkeypatch):
    with ExitStack() as stack:
        monkeypatch.setattr(interpreter, "_OPEN", stack)
        interpreter.rehearse(CPU)
        gc.collect()
        assert kernels.launcher_for(torch.zeros(8, 8), Window.gaussian()) is import_module("percep.kernels.gpu.launch")
    assert kernels.launcher_for(torch.zeros(8, 8), Window.gaussian()) is None


def measured(letter: str, run: Run) -> None:
    """In place of `parts.measure`: one row, and then the end that its letter stands for."""
    write(path_of(run.folder, letter), {"status": "running", "rows": [{"value": 1.5}]})
    if letter == "b":
        os.abort()
    if letter == "c":
        print("waiting for ever", flush=True)
        time.sleep(600)
    write(path_of(run.folder, letter), {"status": "complete", "rows": [{"value": 1.5}, {"value": 2.5}]})


@pytest.mark.multiprocess
@pytest.mark.slow("a process that hangs is given its time")
def test_a_part_that_crashes_or_hangs_costs_that_part_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "measure", measured)
    shares = {"a": 20.0, "b": 20.0, "c": 2.0, "d": 20.0}
    monkeypatch.setattr(
        command, "PARTS", {letter: PARTS[letter]._replace(share=share) for letter, share in shares.items()}
    )
    result = command.run(tmp_path, "cpu", 60.0)
    check_schema(result)
    assert [part["status"] for part in result["parts"]] == ["complete", "crashed", "killed", "complete"]
    assert result["parts"][1]["error"].startswith("SIGABRT")
    assert result["parts"][2]["error"].endswith("s; waiting for ever") and result["parts"][2]["seconds"] < 30
    # What was measured before the end is kept.
    assert [row["part"] for row in result["rows"]] == ["a", "a", "b", "c", "d", "d"]
    assert not passed(result) and json.loads((tmp_path / "gpu.json").read_text()) == result
    assert "| b | Kernels against torch | crashed |" in tables(result)


@pytest.mark.multiprocess
def test_an_error_is_the_last_line_that_was_printed(tmp_path):
    outcome = run_alone(json.loads, ("",), 60, tmp_path / "log")
    assert outcome.status == "failed" and "Expecting value" in outcome.error


def test_without_time_no_part_runs(tmp_path):
    result = command.run(tmp_path, "cpu", 0.0)
    check_schema(result)
    assert {(part["status"], part["error"]) for part in result["parts"]} == {("killed", "no time was left")}
    assert result["costs"] == ["No solve was profiled: what costs most is not known."]


def test_a_part_writes_every_row_and_ends_when_its_time_is_nearly_over(monkeypatch, tmp_path):
    seen = []

    def rows(run: Run):
        for value in range(3):
            yield {"value": value}
            seen.append(json.loads(path_of(tmp_path, "a").read_text())["rows"][-1]["value"])

    monkeypatch.setattr(parts, "PARTS", {"a": Part("A part", rows, 1.0)})
    monkeypatch.setattr(parts.torch, "set_num_threads", lambda count: None)
    measure("a", Run("cpu", tmp_path, 60.0))
    assert seen == [0, 1, 2] and json.loads(path_of(tmp_path, "a").read_text())["status"] == "complete"
    measure("a", Run("cpu", tmp_path, 0.0))
    ended = json.loads(path_of(tmp_path, "a").read_text())
    assert ended["status"] == "out of time" and ended["rows"] == [{"value": 0}]


@pytest.mark.multiprocess
def test_a_case_that_crashes_costs_that_case_alone(monkeypatch):
    windows = [Window.uniform(size) for size in (1, 2, 3)]
    cases = [agreement.Case(window, (4, 4), torch.float32, 1, CPU) for window in windows]

    def compared(case: agreement.Case):
        if case.window.size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield case.row("mean", 0.5, 1.0)
        if case.window.size == 2:
            raise ValueError("no such kernel")

    monkeypatch.setattr(agreement, "compared", compared)
    found = {row["window"][:11]: row for row in agreement.forked(cases, 2) if not row["passed"]}
    assert found["Window(1x1 "]["note"] == "ended with exit code -9"
    assert found["Window(2x2 "]["note"] == "ValueError: no such kernel"
    assert len(found) == 2


def test_a_difference_that_is_no_number_does_not_pass():
    case = agreement.Case(Window.uniform(3), (4, 4), torch.float32, 1, CPU)
    assert not case.row("mean", float("nan"), 1.0)["passed"] and case.row("mean", 1.0, 1.0)["passed"]


def test_a_measurement_that_fails_is_a_row_that_says_so():
    def exhausted() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert attempt({"batch": 1}, lambda: {"seconds": 2.0}) == {"batch": 1, "seconds": 2.0}
    assert attempt({"batch": 256}, exhausted) == {"batch": 256, "note": "out of memory"}
    assert attempt({"batch": 2}, lambda: {}["x"]) == {"batch": 2, "note": "KeyError: 'x'"}


def test_a_run_passes_if_all_is_complete_and_nothing_failed_but_for_want_of_memory():
    complete = {"parts": [{"status": "complete"}]}
    assert passed(complete | {"rows": [{"passed": True}, {"seconds": 1.0}, {"note": "out of memory"}]})
    for row in ({"passed": False}, {"note": "RuntimeError: no such kernel"}):
        assert not passed(complete | {"rows": [row]})
    assert not passed({"parts": [{"status": "out of time"}], "rows": []})


def event(cat: str, name: str, ts: float, dur: float, **args: int) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, "args": args}


def test_a_trace_is_summed_by_kernel_and_by_graph():
    events = [
        {"ph": "M", "name": "process_name"},
        event("cuda_runtime", "cudaLaunchKernel", 0, 5, correlation=1),
        event("cuda_runtime", "cudaGraphLaunch", 5, 5, correlation=2),
        event("cpu_op", "aten::add", 0, 9),
        event("kernel", "product_kernel", 10, 2e6, correlation=2),
        event("kernel", "product_kernel", 20, 1e6, correlation=2),
        event("kernel", "void at::add<float>(int)", 30, 5e5, correlation=1),
        event("gpu_memcpy", "Memcpy DtoH", 40, 5e5, correlation=3),
    ]
    found = summary(events, 5.0)
    assert (found.device_s, found.graph_s, found.launches, found.graphs) == (4.0, 3.0, 4, 1)
    assert found.operations[0] == ("product_kernel", 3.0, 2)
    on_cpu = summary([event("cpu_op", "aten::sum", 0, 10), event("cpu_op", "aten::add", 2, 3)], 1.0)
    assert on_cpu.operations == [("aten::sum", 1e-5, 1)]


def solve_row(kind: str, batch: int, tol: float, operations: list) -> dict:
    profile = {"wall_s": 4.0, "device_s": sum(row[1] for row in operations), "operations": operations}
    return {"part": "e", "kind": kind, "batch": batch, "tol": tol, "profile": profile}


def test_the_largest_costs_are_those_of_the_largest_floor_solve_in_words():
    operations = [["product_kernel", 1.0, 300], ["void at::native::mul<float>(int)", 0.6, 40], ["Memcpy DtoH", 0.4, 7]]
    rows = [solve_row("floor", 1, 1e-2, operations), solve_row("floor", 64, 1e-2, operations)]
    rows += [solve_row("floor", 64, 1e-3, []), solve_row("mean", 256, 1e-2, []), {"part": "e", "note": "out of memory"}]
    program = "a floor solve of 64 images to a gap of 0.01, 4e+03 ms"
    assert costs(rows) == [
        f"1. 50% of {program}: the host, while the device has nothing to do, 2e+03 ms.",
        f"2. 25% of {program}: product_kernel, 300 times, 1e+03 ms.",
        f"3. 15% of {program}: mul, 40 times, 600 ms.",
    ]
    assert (
        short("aten::add") == "add" and short("(anonymous)") == "(anonymous)" and short("Memcpy DtoH") == "Memcpy DtoH"
    )


def test_tables_have_a_column_for_every_key_and_only_the_failures_of_comparisons():
    state = {"status": "complete", "error": "", "seconds": 1.0, "limit_s": 2.0}
    rows = [
        {"part": "b", "kernel": "mean", "error": 0.5, "passed": False},
        {"part": "b", "kernel": "adjoint", "error": 0.0, "passed": True},
        {"part": "d", "seconds": [1.0, 2.0, 3.0], "graph": True},
        {"part": "d", "note": "a | b", "profile": {"wall_s": 1.0}},
    ]
    titles = [{"part": letter, "title": letter.upper()} | state for letter in "bd"]
    machine = {"cpu": "A processor", "date": "2026-11-29T10:00:00"}
    text = tables({"machine": machine, "device": {"type": "cpu"}, "parts": titles, "rows": rows, "costs": ["1. All."]})
    lines = text.splitlines()
    assert lines[0] == "# A processor, 2026-11-29" and lines[-1] == "1. All."
    assert "1 of 2 comparisons passed." in lines and "| mean | 0.5 | no |" in lines and "adjoint" not in text
    assert {"| seconds | graph | note |", "| 2 [1, 3] | yes |  |", "|  |  | a \\| b |"} <= set(lines)


def test_three_products_in_tf32_are_as_exact_as_one_in_float32():
    first, second = (torch.randn(40, 40, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    high, low = inner_loop._split(first)
    assert torch.equal(high + low, first) and not bool((high.view(torch.int32) & 0x1FFF).any())
    exact = first.double() @ second.double()
    assert float((inner_loop.in_three_parts(first, second) - exact).abs().max()) < 2e-5


def test_images_of_a_batch_differ_and_fill_the_range():
    found = images(33, (40, 40), CPU)
    assert found.shape == (33, 3, 40, 40) and len({float(image.sum()) for image in found}) == 33
    assert float(found.min()) == 0 and float(found.max()) == 1 and torch.equal((found * 255).round() / 255, found)
    assert linear_terms(found).shape == found.shape


def test_without_timm_and_torchvision_the_network_is_a_small_one(monkeypatch):
    for name in ("timm", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)
    name, network = network_of(True)
    assert name == "three convolutions" and network(torch.zeros(2, 3, 20, 20)).shape == (2, 100)


def test_the_folder_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PARTS", {})
    monkeypatch.setattr(command, "run", lambda *arguments: {"parts": [], "rows": []})
    assert command.main(["--output", str(tmp_path / "new" / "folder"), "--device", "cpu"]) == 0
    assert Path(tmp_path / "new" / "folder").is_dir()
