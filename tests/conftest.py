"""Fixtures for every test file, how processes share the cores, and what is said of skipped tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# Another process may take the time that an example has.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a run with a skipped test is not green (.ci/run)")


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported whether it interprets: always, but for the tests that need a device."""
    if config.option.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"
    if config.getoption("dist", "no") != "no":  # pytest-xdist's, and this the process that starts the others
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(config.option.tx))))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before -m selects: what asks for the browser, itself or by a fixture, is marked so; what is slow says why."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if any(not marker.args for marker in item.iter_markers("slow")):
            raise pytest.UsageError(f'{item.nodeid} is marked slow without a reason: pytest.mark.slow("why")')


def _reasons(config: pytest.Config) -> list[str]:
    """Why tests were skipped, a reason for each; none in a process that pytest-xdist started."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    reports = terminal.stats.get("skipped", []) if terminal else []
    return [report.longrepr[2].removeprefix("Skipped: ") for report in reports]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.no_skips and session.exitstatus == pytest.ExitCode.OK and _reasons(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not (reasons := _reasons(config)):
        return
    from tests.support.chromium import MISSING, REMEDY  # noqa: PLC0415

    if browserless := [reason for reason in reasons if reason.startswith(MISSING)]:
        line = f"{len(browserless)} BROWSER TESTS WERE SKIPPED, {browserless[0]}: {REMEDY}"
        terminalreporter.write_line(line, red=True, bold=True)
    if config.option.no_skips:
        terminalreporter.write_line(f"--no-skips: {len(reasons)} skipped, so this run fails", red=True, bold=True)
        for reason in sorted(set(reasons)):
            terminalreporter.write_line(f"  {reasons.count(reason)} skipped: {reason}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    """Headless Chromium, which reaches no address; a test that asks for it is skipped where none starts."""
    from tests.support.chromium import NoBrowserError, start  # noqa: PLC0415

    try:
        driver = start(tmp_path_factory.mktemp("profile"))
    except NoBrowserError as error:
        pytest.skip(str(error))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors lose more to threads than they gain."""
    import torch  # noqa: PLC0415  not in the process that only shares out the tests

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command is run in an empty folder but for `photos`."""
    from tests.support.command import enter  # noqa: PLC0415  importing the command takes seconds

    enter(tmp_path, monkeypatch)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model the command asks for, it is given a small network."""
    from tests.support.command import use_small_model  # noqa: PLC0415

    use_small_model(monkeypatch)
