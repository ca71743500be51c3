"""The benchmark harness: what it writes, its arithmetic, and the tables made of it."""

import json
import math
import re

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks import bars, default_ball, plots, solve_costs, solvers, startup, study_scaling, table
from benchmarks.cases import Case
from benchmarks.timing import Timing, extrapolated, fastest, power_law, quartiles
from percep import Program, SSIMBall, Window
from percep.runs.settings import validated
from percep.solvers import Dual
from tests.solvers.test_solvers import random_like
from tests.support.references import photograph


def timing(case: str, side: int, solver: str, kind: str, target: float, seconds: float, reached: bool = True) -> Timing:
    return Timing(case, side, 1, solver, kind, "", target, target if reached else None, reached, [0.1], [seconds])


@pytest.fixture(scope="module")
def smoke() -> dict:
    with initialize_config_dir(str(table.ROOT / "benchmarks" / "conf"), version_base="1.3"):
        settings = compose("solvers", ["preset=smoke", "name=smoke"])
    return json.loads(json.dumps(solvers.run(settings)))


def check_schema(result: dict) -> None:
    assert set(result) == {"machine", "settings", "timings", "figures", "bars"}
    machine = result["machine"]
    assert machine["threads"] == 1 and machine["cpu"] and machine["versions"]["torch"] and machine["seed"] == 0
    for row in result["timings"]:
        parsed = Timing(**row)
        assert parsed.kind in ("percep", "conic")
        assert parsed.extrapolated or not parsed.reached or parsed.gap <= parsed.target
        assert not parsed.reached or all(seconds > 0 for seconds in parsed.solve_s)
        assert parsed.reached or parsed.note or parsed.gap > parsed.target
    figures = result["figures"]
    for name in ("gradient_s", "mean_s", "warm_s", "product_s"):
        first, middle, third = figures[name]
        assert 0 < first <= middle <= third
    assert figures["copy_gigabytes_per_s"] > 0.1
    assert all(0 <= loss < 1 for loss in figures["tiles_loss"])
    assert len(result["bars"]) == 11
    assert all(set(row) == {"case", "bar", "measured", "reached"} for row in result["bars"])


@pytest.mark.slow("times every solver, the conic one among them, in the smallest preset")
def test_a_run_of_the_harness_keeps_to_its_schema(smoke, tmp_path):
    check_schema(smoke)
    kinds = {(row["solver"], row["case"]) for row in smoke["timings"]}
    assert {("dual", "gray"), ("admm", "strided"), ("SCS", "gray"), ("SCS", "photograph")} <= kinds
    (picture,) = plots.save(smoke, tmp_path)
    assert picture.stat().st_size > 10_000


def test_the_default_ball_is_one_that_was_measured_and_fools_them_all():
    result = json.loads((table.RESULTS / "default-ball.json").read_text())
    lines = default_ball.summary(result["rows"])
    assert lines == result["summary"] and lines[0]["ratio"] == 1
    with initialize_config_dir(str(table.ROOT / "conf"), version_base="1.3"):
        ball = validated(compose("config", ["output=unused"])).ball
    assert ball.mean == result["mean"]
    (own,) = (line for line in lines if line["floor"] == ball.floor)
    assert own["successes"] == own["photographs"] == 20
    assert own["least_min_ssim"] >= ball.floor > lines[0]["least_min_ssim"]
    assert own["largest_change"] < lines[0]["largest_change"]
    assert len(default_ball.table(lines).splitlines()) == 2 + len(default_ball.FLOORS)


def test_the_scaling_of_the_study_is_what_the_documentation_shows():
    result = json.loads((table.RESULTS / "study-scaling.json").read_text())
    assert study_scaling.report(result) in (table.ROOT / "docs" / "scaling.md").read_text()


def test_the_committed_result_keeps_to_the_schema():
    check_schema(json.loads((table.RESULTS / "solvers-full.json").read_text()))


@pytest.mark.parametrize("page", table.PAGES)
def test_committed_results_are_what_a_page_shows(page):
    text = (table.ROOT / page).read_text()
    assert table.updated(text, table.PAGES[page]) == text
    assert set(re.findall(r"<!-- ([a-z-]+):begin -->", text)) == set(table.PAGES[page])


def test_power_laws_are_recovered_and_extrapolated():
    exponent, at_one = power_law([8, 16, 32], [3.0 * (side * side) ** 1.3 for side in (8, 16, 32)])
    assert exponent == pytest.approx(1.3) and at_one == pytest.approx(3.0)
    rows = [timing("gray", side, "SCS", "conic", 1e-2, 1e-3 * (side * side) ** 1.5) for side in (8, 16, 32)]
    rows.append(timing("gray", 64, "SCS", "conic", 1e-2, 1.0, reached=False))
    reference = photograph(3, 20)
    case = Case("photograph", "", reference, random_like(reference, 1), Window.gaussian(), floor=0.9)
    (guess,) = extrapolated(rows, "gray", case)
    assert guess.extrapolated and guess.median == pytest.approx(1e-3 * 1200**1.5)
    assert extrapolated(rows[:2], "gray", case) == []


def test_bars_take_the_fastest_that_reached_the_gap():
    rows = [
        timing("gray", 8, "dual", "percep", 1e-2, 0.5),
        timing("gray", 8, "SCS", "conic", 1e-2, 5.0),
        timing("gray", 8, "CLARABEL", "conic", 1e-2, 4.0),
        timing("gray", 8, "MOREAU", "conic", 1e-2, 1.0, reached=False),
    ]
    conic = fastest(rows, "gray", 8, "conic", 1e-2)
    assert conic is not None and conic.solver == "CLARABEL"
    assert rows[-1].median == math.inf
    assert fastest(rows, "gray", 8, "conic", 1e-3) is None
    assert bars.growth([{"side": 8, "seconds": 1.0}, {"side": 16, "seconds": 4.0}]) == pytest.approx(1.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_start_up_is_held_against_hydras_import():
    seconds = {startup._REFERENCE: [0.1, 0.2, 0.3], "percep --help": [0.1, 0.3, 0.5], "import percep": [0.1, 0.31, 0.5]}
    lines = startup.report({"seconds": seconds}).splitlines()
    assert lines[3] == "| `percep --help` | 0.30 | 1.50 | <= 1.5 | yes |"
    assert lines[4] == "| `import percep` | 0.31 | 1.55 | <= 1.5 | no |"


def test_the_committed_start_up_times_reach_their_bars():
    result = json.loads(startup.RESULT.read_text())
    assert set(result["seconds"]) == set(startup._COMMANDS)
    for name, bar in startup.BARS.items():
        first, median, third = result["seconds"][name]
        assert 0 < first <= median <= third
        assert median <= bar * result["seconds"][startup._REFERENCE][1], name
    assert startup.report(result).count("| yes |") == len(startup.BARS)


def test_passes_over_the_image_are_counted_with_their_bytes():
    image, pixels = torch.rand(3, 60, 60), 3 * 60 * 60

    def work() -> None:
        (image[None] + image.flatten().reshape(1, 3, 60, 60)).mul_(image)  # reads two and writes one, twice
        torch.ones(pixels - 1).sum()  # smaller than an image
        torch.empty_like(image)
        Window.gaussian().mean(image)

    counts = solve_costs.counted(work, pixels)
    assert counts["set-up"] == {"products": 0, "preconditioned": 0, "passes": 3, "bytes": (3 + 3 + 2) * 4 * pixels}
    assert not any(number for phase in solve_costs.PHASES[1:] for number in counts[phase].values())


def test_the_phases_of_a_solve_are_those_of_its_operations():
    program = Program(SSIMBall(photograph(3, 52).float(), floor=0.9), random_like(photograph(3, 52), 1).float())
    counts = solve_costs.counted(lambda: Dual().solve(program, 1e-2), program.linear.numel())
    assert counts["iterate"]["products"] > counts["iterate"]["preconditioned"] / 2 > 5
    assert counts["iterate"]["bytes"] < 15 * 16 * counts["iterate"]["products"] * program.linear.numel()
    assert not counts["set-up"]["products"] and not counts["repair"]["products"]
    assert all(counts[phase]["passes"] > 10 and counts[phase]["bytes"] > 0 for phase in solve_costs.PHASES)
