"""The kernels compiled ahead of time for sm_80 and sm_90, in a process that does not interpret them."""

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from benchmarks.table import RESULTS, ROOT

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow("every kernel is compiled for two architectures")]

CODE = "import json; from benchmarks.compiled import rows; print(json.dumps(rows(tap_by_tap={})))"


@cache
def compiled(tap_by_tap: bool) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = CODE.format(tap_by_tap)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("tap_by_tap", [False, True])
def test_no_kernel_spills_and_all_fit(tap_by_tap):
    rows = compiled(tap_by_tap)
    kernels = {(row["kernel"], row["architecture"]) for row in rows}
    assert kernels == {(k, a) for k in ("mean", "adjoint", "product", "update") for a in ("sm_80", "sm_90")}
    for row in rows:
        assert row["spilled"] == 0, row
        assert 0 < row["registers"] <= 128 and row["shared"] <= 48 * 1024, row


def test_the_committed_table_is_of_the_same_kernels():
    rows = compiled(False)
    committed = json.loads((RESULTS / "compiled.json").read_text())["rows"]
    named = [
        [{key: row[key] for key in ("kernel", "window", "dtype", "architecture")} for row in t]
        for t in (rows, committed)
    ]
    assert named[0] == named[1]
    assert not any(row["spilled"] for row in committed)
