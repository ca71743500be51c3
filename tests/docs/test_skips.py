"""A machine without a browser: what is looked up and installed, and what the run says of the tests it skips."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException

from tests import conftest
from tests.support import chromium

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))
SUITE = """
import os, pytest

@pytest.mark.parametrize("case", range(3))
def test_in_the_browser(browser, case):
    raise AssertionError

def test_elsewhere():
    assert os.environ.get("OMP_NUM_THREADS") == EXPECTED
"""
SKIPS = """
import pytest
pytest.importorskip("no_module", reason="one")

def test_unreached():
    pass
"""
MORE_SKIPS = """
import pytest

@pytest.mark.skip("two")
def test_marked():
    pass

def test_inside():
    pytest.skip("two")

def test_this_one():
    pass
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Writes a shell script into the only folder of `PATH`, where there are none but `env` and `true`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("env", "true"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str = "") -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a small suite with this suite's conftest on a machine without a browser, nor a way to one."""
    monkeypatch.setenv("SE_MANAGER_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nmarkers = browser: as in this suite\n")

    def run(*options: str, **suite: str) -> "subprocess.CompletedProcess[str]":
        for name, text in suite.items():
            (tmp_path / f"test_{name}.py").write_text(text)
        command = (sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "xdist.plugin", *options)
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.multiprocess
def test_tests_without_a_browser_are_skipped_and_one_line_says_so(run: Run) -> None:
    finished = run(suite=SUITE.replace("EXPECTED", "None"))
    assert finished.returncode == 0, finished.stdout
    *_, line, closing = finished.stdout.splitlines()
    assert line.startswith("3 BROWSER TESTS WERE SKIPPED, no browser starts (")
    assert "apt-get install chromium chromium-driver" in line
    assert "1 passed, 3 skipped" in closing
    assert finished.stdout.count("BROWSER TESTS") == 1


@pytest.mark.multiprocess
@pytest.mark.slow("a suite within the suite, which starts two processes more")
def test_nor_is_that_green_where_nothing_may_be_skipped(run: Run) -> None:
    """In two processes, which share the cores."""
    finished = run("--no-skips", "-n", "2", suite=SUITE.replace("EXPECTED", f"'{max(1, CORES // 2)}'"))
    assert finished.returncode == 1, finished.stdout
    assert finished.stdout.count("3 BROWSER TESTS WERE SKIPPED") == 1
    assert "--no-skips: 3 skipped, so this run fails" in finished.stdout
    assert "1 passed, 3 skipped" in finished.stdout.splitlines()[-1]


@pytest.mark.multiprocess
@pytest.mark.slow("two suites within the suite")
def test_every_kind_of_skip_counts(run: Run) -> None:
    finished = run("--no-skips", first=SKIPS, second=MORE_SKIPS)
    assert finished.returncode == 1, finished.stdout
    assert "--no-skips: 3 skipped, so this run fails\n  1 skipped: one\n  2 skipped: two\n" in finished.stdout
    assert "BROWSER" not in finished.stdout
    assert run("--no-skips", "test_second.py", "-k", "this_one").returncode == 0


@pytest.mark.parametrize(("workers", "given", "threads"), [(1, None, CORES), (CORES + 1, None, 1), (2, "3", 3)])
def test_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int, given: str | None, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    options = {"dist": "worksteal", "tx": ["popen"] * workers, "markexpr": ""}
    config = SimpleNamespace(option=SimpleNamespace(**options), getoption=lambda name, default: options[name])
    conftest.pytest_configure(cast(pytest.Config, config))
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


def test_what_asks_for_the_browser_is_marked_and_what_is_slow_says_why() -> None:
    def item(fixtures: tuple[str, ...], *slow: pytest.Mark) -> SimpleNamespace:
        marked: list[str] = []
        return SimpleNamespace(
            nodeid="test_one",
            fixturenames=fixtures,
            marked=marked,
            add_marker=marked.append,
            iter_markers=lambda _: slow,
        )

    items = [item(("page", "browser")), item(("page",), pytest.mark.slow("a reason").mark)]
    conftest.pytest_collection_modifyitems(cast("list[pytest.Item]", items))
    assert [collected.marked for collected in items] == [["browser"], []]
    with pytest.raises(pytest.UsageError, match="test_one is marked slow without a reason"):
        conftest.pytest_collection_modifyitems(cast("list[pytest.Item]", [item((), pytest.mark.slow.mark)]))


def test_a_browser_is_looked_up(program: Program) -> None:
    assert chromium.found() == (None, None)
    chrome = program("google-chrome", "")
    assert chromium.found() == (str(chrome), None)
    driver, own = program("chromedriver", ""), program("chromium", "")
    assert chromium.found() == (str(own), str(driver))


def test_one_that_does_not_start_is_followed_by_what_selenium_finds(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def crash(options: webdriver.ChromeOptions, service: webdriver.ChromeService) -> None:
        asked.append((options.binary_location, service.path))
        raise WebDriverException(f"crash {len(asked)}; For documentation on this error, please visit: a page\nmore")

    monkeypatch.setattr(webdriver, "Chrome", crash)
    with pytest.raises(chromium.NoBrowserError, match=r"^no browser starts \(crash 1\)$"):
        chromium.start(tmp_path)
    assert asked == [("", "")]
    browser, driver = program("chromium", ""), program("chromedriver", "")
    with pytest.raises(chromium.NoBrowserError):
        chromium.start(tmp_path)
    assert asked[1:] == [(str(browser), str(driver)), ("", "")]


@pytest.mark.parametrize(("root", "sudo"), [(True, None), (False, "exit 0"), (False, "exit 1"), (False, None)])
def test_debian_s_packages_are_installed_where_they_can_be(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: bool, sudo: str | None
) -> None:
    log = tmp_path / "log"
    program("apt-get", f'echo "$DEBIAN_FRONTEND $@" >> {log}; test "$2" != update')
    if sudo is not None:
        program("sudo", f'[ "$1" = --non-interactive ] || exit 2\nshift\n"$@" && {sudo}')
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    looked = []
    monkeypatch.setattr(chromium, "starts", lambda: looked.append("here"))
    chromium.main()
    if root or sudo == "exit 0":
        assert log.read_text().splitlines() == [
            "noninteractive --quiet update",  # which fails
            "noninteractive --quiet install --yes --no-install-recommends chromium chromium-driver",
        ]
        assert looked == []
    else:
        assert not log.exists()
        assert looked == ["here"]


def test_where_no_package_can_be_had_selenium_is_asked(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(chromium, "starts", lambda: looked.append("here"))
    chromium.main()  # no apt-get
    program("apt-get", "exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    chromium.main()
    assert looked == ["here", "here"]


def test_a_browser_that_starts_is_left_as_it_is(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "install", lambda: pytest.fail("there is one"))
    monkeypatch.setattr(chromium, "starts", lambda: True)
    program("chromium", "")
    chromium.main()
