"""The law of the layout: which part of the package may import which, and where the tests of each part are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = (
    "errors",
    "choices",
    "validation",
    "precision",
    "summaries",
    "kernels",
    "environment",
    "windows",
    "ssim",
    "certificate",
    "ball",
    "program",
    "solvers",
    "layer",
    "models",
    "data",
    "attacks",
    "explain",
    "study",
    "report",
    "runs",
    "cli",
)
"""Each imports from itself and from those before it."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "percep").rglob("*.py")
}


def _imports(path: Path, *, anywhere: bool) -> Iterator[str]:
    """The modules of the package that one imports: at any depth of its code, or when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def _floor(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name not in ("percep", "percep.__main__")))
def test_a_module_imports_from_its_own_floor_and_those_before(module: str) -> None:
    allowed = FLOORS[: FLOORS.index(_floor(module)) + 1]
    found = [name for name in _imports(MODULES[module], anywhere=True) if name in MODULES]
    assert [name for name in found if _floor(name) not in allowed] == []


@pytest.mark.slow("parses every module")
def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: {one for one in _imports(path, anywhere=False) if one in MODULES} for name, path in MODULES.items()}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_quote_the_floors(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert ", ".join(f"`{floor}`" for floor in FLOORS) in text


def test_the_package_itself_is_small() -> None:
    assert len(list((ROOT / "percep").glob("*.py"))) <= 12
    assert not any(path.is_symlink() for path in (ROOT / "percep").rglob("*"))


def test_tests_lie_where_the_modules_lie() -> None:
    single = {floor for floor in FLOORS if (ROOT / "percep" / f"{floor}.py").is_file()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {floor for floor in FLOORS if floor not in single} | {"core", "docs", "support"}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
