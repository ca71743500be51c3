"""What the CPU's kernels rely on in Numba beyond what its documentation promises."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numba
import pytest
import torch
from packaging.requirements import Requirement

from percep import Window, kernels
from percep.kernels.cpu import compile as compiling
from percep.kernels.cpu import numba_internals
from tests.core.test_layout import ROOT

NAMES = [(module, name) for module, names in numba_internals.NAMES.items() for name in names]
PUBLIC = {"numba", "numba.core", "numba.extending"}
"""Modules whose names are documented, or are modules."""


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Whether Numba will do is found out in the test, and again after it."""
    kernels._installed.cache_clear()
    yield
    kernels._installed.cache_clear()


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_installed_numba_has_it(module, name):
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
        assert found is not None, (
            f"Numba {numba.__version__} has no {module}.{name} any more: adapt percep/kernels/cpu, "
            "or lower the range of versions in pyproject.toml"
        )


def test_all_that_the_kernels_import_is_listed():
    listed = {(module, name.split(".")[0]) for module, name in NAMES}
    of_modules = {"cgutils": "numba.core.cgutils", "types": "numba.core.types", "ir": "llvmlite.ir"}
    used = set()
    for path in (ROOT / "percep" / "kernels" / "cpu").glob("*.py"):
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("numba"):
                used |= {(node.module, name.name) for name in node.names if node.module not in PUBLIC}
        if "from llvmlite import ir" in code:
            used |= {(of_modules[alias], name) for alias, name in re.findall(r"\b(cgutils|types|ir)\.(\w+)", code)}
    assert len(used) > 20
    assert used - listed == {("numba.core.datamodel", "models")}  # itself a module that is listed


@pytest.mark.parametrize(
    "name", ["numba.core.cgutils.for_range_slice", "numba.core.dispatcher.Dispatcher.get_compile_result"]
)
def test_a_numba_without_it_leaves_the_work_to_torch(monkeypatch, asked_again, name):
    window, x = Window.gaussian(), torch.rand(60, 60)
    monkeypatch.delattr(name)
    with pytest.warns(UserWarning, match=rf"torch does its work: {re.escape(name)} is missing"):
        assert kernels.launcher_for(x, window) is None
    found = window.mean(x)
    monkeypatch.setenv(kernels.CHOICE, "torch")
    assert torch.equal(found, window.mean(x))


def test_a_numba_that_keeps_code_elsewhere_keeps_none(monkeypatch, tmp_path):
    (tmp_path / "thrice.py").write_text("def thrice(value):\n    return 3 * value\n")
    monkeypatch.syspath_prepend(tmp_path)
    thrice = import_module("thrice").thrice
    kept = compiling.compiled(thrice)
    assert kept(2) == 6 and list(Path(kept._cache.cache_path).glob("thrice*.nbi"))
    monkeypatch.delattr("numba.core.caching.IndexDataCacheFile._data_name")
    other = compiling.compiled(thrice)
    assert other(2) == 6 and not sum(other.stats.cache_hits.values()) and other._cache.cache_path is None


def test_the_versions_that_are_asked_for_are_bounded_and_those_tested():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for library in ("numba", "llvmlite"):
        (asked,) = (Requirement(found) for found in re.findall(rf'"({library}[<>=][^"]*)"', text))
        assert asked.specifier.contains(version(library))
        assert any(each.operator == "<" for each in asked.specifier)


def test_a_triton_that_is_too_old_leaves_the_work_to_torch(monkeypatch, asked_again):
    monkeypatch.setattr(kernels, "version", lambda library: "3.3.1")
    monkeypatch.setenv(kernels.CHOICE, "triton")
    with pytest.warns(UserWarning, match=r"torch does its work: kernels need Triton 3\.4 or later, not 3\.3\.1"):
        assert kernels.launcher_for(torch.rand(60, 60), Window.gaussian()) is None
