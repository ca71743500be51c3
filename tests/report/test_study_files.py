"""What a study writes beside its page: tables, also for a paper, plots, and panels of chosen photographs."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from percep.explain import block_means
from percep.report.common.columns import UNKNOWN, Column
from percep.report.common.latex import write_latex
from percep.report.common.plot import LIGHT, Theme, themed
from percep.report.study import plots
from percep.report.study.gallery import study_exhibits
from percep.report.study.panels import (
    Choice,
    PanelRow,
    associations_of,
    chosen_photographs,
    panel_row,
    rule,
    save_panels,
    stored_row,
)
from percep.report.study.paper import PAPER_TABLES, write_paper_table
from percep.report.study.plots import Mark, save_study_plots, study_plots
from percep.report.study.tables import write_study_table
from percep.study import Evidence, Findings, PhotographRow, photograph_evidence
from tests.report.test_attack_page import CLASS
from tests.report.test_study_page import NAMES, findings, measurements

__all__ = ["findings"]  # the fixture

MAIN = "efficientnet_lite0, mean 0.999"
PLACE = Choice("a photograph", "median", 0.25)


def written(path: Path, name: str, findings: Findings) -> pd.DataFrame:
    write_study_table(path / f"{name}.csv", name, findings)
    return pd.read_csv(path / f"{name}.csv")


def test_means_over_photographs_are_those_of_the_other_tables(tmp_path: Path, findings: Findings) -> None:
    table = written(tmp_path, "photographs", findings)
    assert set(table.variant) == {MAIN, CLASS}  # one could not be run
    main = table[table.variant == MAIN].set_index("name")
    assert main.status[NAMES].eq("fooled").all() and main.status["blind"] == "not_finite"
    assert main.loc["blind"].drop(["variant", "status"]).isna().all()
    assert main.label[NAMES].eq(0).all() and main.new_class[NAMES].eq(1).all()
    assert main.confidence[NAMES].eq(float(torch.tensor([4.0, 0.0]).softmax(0)[0])).all()
    compared = 0
    for row in findings.associations:
        column = f"{row.statistic}_{row.first}_{row.second}"
        if row.variant == MAIN and column in table:
            np.testing.assert_allclose(main[column].mean(), row.estimate, rtol=1e-12)
            assert main[column].count() == row.images
            compared += 1
    assert compared >= 12
    association, control, causal = findings.criteria
    own, first, random = (
        main[f"spearman_{name}_gradcam"][NAMES] for name in ("dissimilarity", "first_order", "random")
    )
    assert own.mean() == pytest.approx(association.interval.estimate)
    assert (first - random).mean() == pytest.approx(control.interval.estimate)
    assert (main.gain_top - main.gain_matched).mean() == pytest.approx(causal.interval.estimate)
    assert not any("multiplier" in column for column in table)  # the same everywhere, so nothing is correlated


def test_variants_have_their_intervals(tmp_path: Path, findings: Findings) -> None:
    table = written(tmp_path, "variants", findings).set_index("variant")
    interval = findings.criteria[2].interval
    assert table.loc[MAIN, ["causal", "causal_low", "causal_high"]].tolist() == [
        interval.estimate,
        interval.low,
        interval.high,
    ]
    assert table.loc[MAIN, "causal_met"] and table.loc["absent"].isna().sum() >= 12
    assert table.loc["absent", "problem"].startswith("no weights")


@pytest.fixture(scope="module")
def figures(findings: Findings) -> list[Figure]:
    """Of the page's plots."""
    drawn = []

    def capture(draw: Callable[[Figure, Theme], None], *, width: int, height: int, **_: object) -> None:
        with themed(LIGHT):
            figure = Figure((width / 96, height / 96))
            draw(figure, LIGHT)
            FigureCanvasAgg(figure).draw()
        drawn.append(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot", capture)
        study_plots(findings)
    return drawn


def test_plots_are_of_every_photograph_in_one_unit_and_can_be_read(figures: list[Figure]) -> None:
    assert len(figures) == 9
    for figure in figures:
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) / 0.75 * 400 / (96 * figure.get_figwidth()) >= 10
    axes = [figure.axes[0] for figure in figures]
    means = [0, 1, 2, 3, 6, 7, 8]
    for place in means:
        lines = axes[place].get_lines()
        dots = [line.get_xdata() for line in lines if line.get_alpha() is not None]
        centres = [line.get_xdata()[0] for line in lines if line.get_alpha() is None and len(line.get_xdata()) == 1]
        assert [len(values) for values in dots] == [len(NAMES)] * len(centres)
        np.testing.assert_allclose([np.mean(values) for values in dots], centres, rtol=1e-12)
    limits = [axes[place].get_xlim() for place in means]
    assert limits[0] == limits[1] != limits[2] == limits[3] and limits[4] == limits[5] != limits[6]
    shares = [axes[place].get_xaxis().get_major_formatter()(0.5) for place in (2, 3, 4, 5, 8)]
    assert all(share.endswith("%") for share in shares)


def test_legends_cover_no_curve(figures: list[Figure]) -> None:
    for figure in figures[4:6]:
        (legend,), (axes,) = figure.legends, figure.axes
        assert len(legend.get_texts()) == 4
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1


def test_many_photographs_have_no_dots() -> None:
    assert len(Mark("few", 0.0, 0.0, 0.0, (0.0,) * 60).dots) == 60
    assert not Mark("many", 0.0, 0.0, 0.0, (0.0,) * 61).dots


def test_figures_are_the_same_files_again_and_vectors_have_their_fonts(tmp_path: Path, findings: Findings) -> None:
    rows = [PanelRow(PLACE, "tench", "goldfinch 日", (np.full((4, 4, 3), 0.5),) * 6)]
    for name, save in (
        ("plots.pdf", lambda path: save_study_plots(path, findings)),
        ("panels.pdf", lambda path: save_panels(path, rows, "One photograph")),
    ):
        first, second = (tmp_path / f"{place}{name}" for place in (1, 2))
        save(first), save(second)
        content = first.read_bytes()
        assert content == second.read_bytes()
        assert b"Date" not in content and b"matplotlib" not in content.lower()
        assert b"/FontFile2" in content and b"/Type3" not in content
    save_study_plots(tmp_path / "plots.png", findings)
    with Image.open(tmp_path / "plots.png") as picture:
        assert picture.width == 2 * 480 < picture.height  # below one another, so that text is as large as can be


def test_tables_for_a_paper_have_every_row(tmp_path: Path, findings: Findings) -> None:
    for name in PAPER_TABLES:
        write_paper_table(tmp_path / f"{name}.tex", name, findings)
        lines = (tmp_path / f"{name}.tex").read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines if line.endswith(r"\\")]
        assert len(rows) == 1 + len(pd.DataFrame(written(tmp_path, name, findings)))
        (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", "\n".join(lines))
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    table = (tmp_path / "variants.tex").read_text(encoding="utf-8")
    found = findings.criteria[0].interval
    assert f"& {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}] & yes &" in table
    assert r"$<$img src=x onerror='window.harmed = 1'$>$" in table and r"efficientnet\_lite0, mean 0.999" in table
    groups = (tmp_path / "associations.tex").read_text(encoding="utf-8").split(r"\midrule")
    assert len(groups) == 1 + 2  # head, and the variants, each in one piece


def test_latex_prints_what_is_special_as_it_is(tmp_path: Path) -> None:
    columns = [
        Column("50% & more", lambda row: row[0]),
        Column("Value", lambda row: row[1], lambda value: f"{value}", numeric=True),
    ]
    write_latex(
        tmp_path / "t.tex", columns, [(r"a_b {c} \d #1 $2 ^~", -0.5), ("1 − SSIM\n→", "[-1, 1e-05]"), ("x", None)]
    )
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"50\% \& more & Value \\",
        r"\midrule",
        r"a\_b \{c\} \textbackslash{}d \#1 \$2 \textasciicircum{}\textasciitilde{} & $-$0.5 \\",
        r"1 $-$ SSIM $\to$ & [$-$1, 1e-05] \\",
        r"x & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert UNKNOWN != "--"


def with_associations(findings: Findings, values: list[float]) -> Findings:
    photographs = [
        PhotographRow(MAIN, f"{place}", "fooled", 0, 1, 0.9, {"spearman_dissimilarity_gradcam": value})
        for place, value in enumerate(values)
    ]
    return replace(findings, photographs=photographs)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        (
            [8, 7, 6, 5, 4, 3, 2, 1, 0],
            {"8": "minimum", "6": "lower quartile", "4": "median", "2": "upper quartile", "0": "maximum"},
        ),
        ([0.1, np.nan, 0.3, 0.2], {"0": "minimum", "3": "median", "2": "maximum"}),
        ([0.5, 0.5], {"0": "minimum", "1": "maximum"}),
        ([0.5], {"0": "minimum"}),
        ([np.nan], {}),
    ],
)
def test_panels_are_of_the_quartiles(findings: Findings, values: list[float], chosen: dict[str, str]) -> None:
    found = chosen_photographs(associations_of(with_associations(findings, [float(value) for value in values])))
    assert {choice.name: choice.quantile for choice in found} == chosen
    assert [choice.association for choice in found] == sorted(values[int(name)] for name in chosen)


def test_the_rule_is_stated(findings: Findings) -> None:
    known = associations_of(with_associations(findings, [0.1, np.nan, 0.3]))
    assert rule(findings.claim, len(known)) == (
        "Photographs at the minimum, quartiles and maximum of Spearman of 1 − SSIM with Grad-CAM over 2 photographs"
    )


def test_a_row_of_panels_shows_each_picture_under_its_title(tmp_path: Path) -> None:
    shades = [(40 * place + 10, 20, 250 - 40 * place) for place in range(6)]
    pictures = [np.broadcast_to(np.array(shade) / 255, (224, 224, 3)) for shade in shades]
    rows = [PanelRow(PLACE, "a", "b", tuple(pictures)), PanelRow(PLACE, "a", "b", (None, *pictures[1:]))]
    save_panels(tmp_path / "panels.png", rows, "By hand")
    with Image.open(tmp_path / "panels.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    columns = []
    for place, shade in enumerate(shades):
        rows_of, columns_of = np.nonzero((pixels == shade).all(-1))
        assert len(rows_of) > (1 if place == 0 else 2) * 220**2
        columns.append((columns_of.min(), columns_of.max()))
    assert all(right < left for (_, right), (left, _) in pairwise(columns))


def test_attention_after_is_on_the_scale_before() -> None:
    original, adversarial = torch.full((3, 16, 16), 0.5), torch.full((1, 16, 16), 0.25)
    peak = torch.zeros(4, 4)
    peak[1, 2] = 1
    maps = {"gradcam": peak, "adversarial": 0.5 * peak, "adversarial_new_class": 0.5 * peak}
    row = panel_row(PLACE, ("a", "b"), original, adversarial, torch.full((2, 2), 1e-2), maps)
    before, after, new_class = row.pictures[3:]
    assert before.shape == after.shape == new_class.shape == (16, 16, 3)
    place = np.unravel_index(after.sum(-1).argmax(), (16, 16))
    assert new_class[place].sum() > after[place].sum() + 0.3  # half as high, but on a scale of its own
    lacking = panel_row(PLACE, ("a", "b"), None, adversarial, torch.zeros(2, 2), {"gradcam": peak})
    assert [picture is None for picture in lacking.pictures] == [True, False, False, False, True, True]


def test_panels_are_made_of_what_a_run_keeps() -> None:
    measured = measurements()
    evidence = Evidence.of(photograph_evidence(measured, 8))
    (exhibit,) = study_exhibits(measured, NAMES[2:3], lambda index: ("goldfinch", CLASS)[index]).values()
    choice = replace(PLACE, name=NAMES[2])
    pictured = stored_row(choice, evidence, exhibit, measured.saved[2])
    assert (pictured.before, pictured.after) == ("goldfinch", CLASS)
    original, adversarial, *_ = pictured.pictures
    assert abs(original - measured.references[2].permute(1, 2, 0).numpy()).mean() < 0.02  # compressed with loss
    np.testing.assert_allclose(adversarial, measured.saved[2].permute(1, 2, 0).numpy(), atol=1e-7)
    bare = stored_row(choice, evidence, None, measured.saved[2])
    assert (bare.before, bare.after) == ("class 0", "class 1") and bare.pictures[0] is None
    blocks = block_means(measured.changes["dissimilarity"][2:3], 8)[0]
    expected = panel_row(choice, ("a", "b"), None, measured.saved[2], blocks, {})
    np.testing.assert_array_equal(bare.pictures[2], expected.pictures[2])
    np.testing.assert_allclose(pictured.pictures[4], bare.pictures[4])
