"""What the repository's host reads: workflows, forms and hooks that parse, and name what there is."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
FILES = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _read(path: Path) -> dict:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_parses(path: Path) -> None:
    assert _read(path)


def test_the_versions_tested_are_those_promised() -> None:
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"])
    promised = [match[1] for match in found if match]
    jobs = _read(WORKFLOWS / "test.yml")["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == promised
    assert set(jobs["elsewhere"]["strategy"]["matrix"]["python"]) <= set(promised)
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_what_workflows_name_exists() -> None:
    """Files, folders of tests, and extras of the package."""
    steps = [step for path in WORKFLOWS.iterdir() for job in _read(path)["jobs"].values() for step in job["steps"]]
    commands = " ".join(step.get("run", "") for step in steps)
    cached = " ".join(step.get("with", {}).get("cache-dependency-path", "") for step in steps)
    named = [word for word in commands.split() if word.startswith((".ci/", "tests/"))] + cached.split()
    assert {".ci/run", "tests/solvers", "pyproject.toml", "constraints.txt"} <= set(named)
    assert [name for name in named if not (ROOT / name).exists()] == []
    extras = {extra for names in re.findall(r"\.\[([\w,]+)\]", commands) for extra in names.split(",")}
    assert extras and extras <= set(PROJECT["optional-dependencies"])


def test_forms_ask_for_something_by_names_of_their_own() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"):
        form = _read(path)
        assert {"name", "description", "body"} <= set(form)
        names = [field["id"] for field in form["body"]]
        assert len(names) == len(set(names)) > 0


def test_hooks_run_what_lint_does() -> None:
    lint = re.findall(r"\$\(BIN\)/(ruff \w+|mypy)", (ROOT / "Makefile").read_text())
    local = [
        hook
        for repo in _read(ROOT / ".pre-commit-config.yaml")["repos"]
        if repo["repo"] == "local"
        for hook in repo["hooks"]
    ]
    assert [hook["name"] for hook in local] == lint
    assert [hook["entry"] for hook in local] == [f".venv/bin/{tool}" for tool in lint]


def test_the_version_is_the_same_everywhere() -> None:
    assert _read(ROOT / "CITATION.cff")["version"] == PROJECT["version"]
