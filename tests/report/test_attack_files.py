"""Pictures, image files and tables: exact, deterministic, and whole whatever the names in them."""

import csv
import json
import math
import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from percep import certify
from percep.attacks.baselines import BASELINES
from percep.attacks.comparison import ROUNDING, Outcome
from percep.environment import versions
from percep.errors import InputError
from percep.explain import Association, Associations, allocation_maps, ssim_maps
from percep.report import (
    ImageRow,
    Panel,
    Prediction,
    exhibit,
    read_image,
    save_image,
    save_overview,
    save_panel,
    save_summary,
    summarise,
    write_results,
)
from percep.report.common.canvas import Canvas, printable
from percep.report.common.colours import amplification, ssim_colours
from percep.report.common.panel import certificate_line
from percep.report.common.plot import DARK, LIGHT
from percep.report.common.worst_place import span, worst_place
from percep.report.comparison import curves
from percep.report.comparison.tables import save_curves


def levels(*shape: int, seed: int = 0) -> torch.Tensor:
    """An 8-bit image as floats."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float() / 255


@pytest.fixture(scope="module")
def panel() -> Panel:
    original = levels(3, 56, 56)
    adversarial = (original + torch.randint(-2, 3, (3, 56, 56)) / 255).clamp(0, 1)
    ssim = ssim_maps(original[None], adversarial[None])[0]
    return Panel(
        name="photograph.jpg",
        original=original,
        adversarial=adversarial,
        ssim=ssim,
        gradcam=torch.rand(56, 56),
        allocation=allocation_maps(1 - ssim[None], (56, 56))[0],
        before=Prediction("goldfinch", 0.971),
        after=Prediction("brambling", 0.502),
        min_ssim=float(ssim.min()),
        mean_ssim=float(ssim.mean()),
        floor=0.9,
        mean=None,
        certified=True,
        status="adversarial",
    )


class TestImages:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_level_survives_the_file(self, tmp_path, channels):
        image = (torch.arange(256).float() / 255).reshape(1, 16, 16).repeat(channels, 1, 1)
        image[-1] = image[-1].flip(0)
        save_image(tmp_path / "image.png", image)
        assert torch.equal(read_image(tmp_path / "image.png"), image)

    def test_an_adversarial_image_reached_by_adding_a_perturbation_survives(self, tmp_path):
        original, wanted = levels(3, 20, 20), levels(3, 20, 20, seed=1)
        save_image(tmp_path / "image.png", original + (wanted - original))
        assert torch.equal(read_image(tmp_path / "image.png"), wanted)

    @pytest.mark.parametrize("value", [0.5, 1.0 + 1 / 255, -1 / 255, 100 / 255 + 1e-6, math.nan])
    def test_what_a_file_cannot_hold_is_refused(self, tmp_path, value):
        image = torch.zeros(3, 4, 4)
        image[1, 2, 3] = value
        with pytest.raises(InputError, match="multiples of 1/255"):
            save_image(tmp_path / "image.png", image)
        assert not (tmp_path / "image.png").exists()

    def test_shapes_and_modes_are_checked(self, tmp_path):
        with pytest.raises(InputError, match="got \\(4, 5, 5\\)"):
            save_image(tmp_path / "image.png", torch.zeros(4, 5, 5))
        Image.new("RGBA", (4, 4)).save(tmp_path / "alpha.png")
        with pytest.raises(InputError, match="mode RGBA"):
            read_image(tmp_path / "alpha.png")


class TestPanel:
    def test_equal_panels_give_equal_bytes_whatever_the_users_style(self, tmp_path, panel):
        save_panel(tmp_path / "first.png", panel)
        with mpl.rc_context({"font.size": 30, "image.interpolation": "bilinear", "savefig.facecolor": "red"}):
            save_panel(tmp_path / "second.png", panel)
            assert mpl.rcParams["font.size"] == 30
        first = (tmp_path / "first.png").read_bytes()
        assert first == (tmp_path / "second.png").read_bytes()
        save_panel(tmp_path / "third.png", replace(panel, min_ssim=panel.min_ssim - 0.01))
        assert first != (tmp_path / "third.png").read_bytes()
        with Image.open(tmp_path / "first.png") as picture:
            assert picture.size == (1448, 1112)
            assert "Software" not in picture.info

    def test_original_and_adversarial_are_drawn_as_they_are(self, tmp_path, panel):
        save_panel(tmp_path / "panel.png", panel)
        with Image.open(tmp_path / "panel.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        for left, image in ((28, panel.original), (28 + 448 + 24, panel.adversarial)):
            drawn = pixels[122 : 122 + 448, left : left + 448]
            assert (drawn == drawn[::8, ::8].repeat(8, 0).repeat(8, 1)).all()
            assert (drawn[::8, ::8] == (255 * image).round().permute(1, 2, 0).numpy()).all()

    def test_hostile_names_zero_maps_and_a_grey_image_are_drawn_without_a_warning(self, tmp_path, panel):
        hostile = replace(
            panel,
            name="$\\frac{a_$\n\udce9\x00日本.jpg",
            original=panel.original[:1, :30],
            adversarial=panel.original[:1, :30],
            ssim=torch.ones(1, 30, 56),
            gradcam=torch.zeros(30, 56),
            allocation=torch.zeros(30, 56),
            before=Prediction("$x_{1}^{", 1.0),
            after=Prediction("a name without an end " * 20, 0.0),
            certified=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save_panel(tmp_path / "panel.png", hostile)
            save_overview(tmp_path / "overview.png", [hostile, panel])
        with Image.open(tmp_path / "overview.png") as picture:
            assert picture.width == 1442

    def test_where_there_is_no_grad_cam_its_reason_is_written(self, tmp_path, panel, monkeypatch):
        written: list[str] = []
        text = Canvas.text

        def listen(page, left, middle, words, **style):
            written.append(words)
            text(page, left, middle, words, **style)

        monkeypatch.setattr(Canvas, "text", listen)
        reason = "the network has no convolutional stage in front of its pooling, so no layer for Grad-CAM " * 2
        without = replace(panel, gradcam=None, no_gradcam=reason + "日\n")
        save_panel(tmp_path / "panel.png", without)
        assert reason in " ".join(written) + " "
        save_overview(tmp_path / "overview.png", [without, panel])
        cell = (28 + 448 + 24 + 4, 122 + 448 + 42 + 4)  # of Grad-CAM
        with Image.open(tmp_path / "panel.png") as picture:
            assert picture.getpixel(cell) == (242, 242, 242)[: len(picture.getpixel(cell))] + (255,) * (
                len(picture.getpixel(cell)) - 3
            )

    def test_a_ring_is_around_the_least_ssim(self, tmp_path, panel):
        ssim = torch.full((3, 56, 56), 0.99, dtype=torch.float64)
        ssim[1, 40, 12] = 0.5
        ringed = replace(panel, ssim=ssim)
        assert (ringed.worst.row, ringed.worst.column, ringed.worst.ssim) == (40, 12, 0.5)
        save_panel(tmp_path / "ring.png", ringed)
        save_panel(tmp_path / "none.png", replace(ringed, adversarial=panel.original))  # nothing was changed
        assert replace(ringed, adversarial=panel.original).worst is None
        pixels = [
            np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in ("ring.png", "none.png")
        ]
        cell = (slice(612, 612 + 448), slice(28, 28 + 448))
        changed = np.argwhere((pixels[0][cell] != pixels[1][cell]).any(-1))
        middle = (np.array([40, 12]) + 0.5) * 8
        distances = np.hypot(*(changed + 0.5 - middle).T)
        assert distances.min() > 6 and distances.max() < 16 and len(changed) > 100
        np.testing.assert_allclose(changed.mean(0) + 0.5, middle, atol=1)

    def test_an_overview_needs_a_panel(self, tmp_path):
        with pytest.raises(InputError, match="at least one"):
            save_overview(tmp_path / "overview.png", [])

    def test_its_repr_fits_on_a_screen(self, panel):
        assert "tensor" not in repr(panel) and len(repr(panel)) < 600 and "photograph.jpg" in repr(panel)
        assert len(repr(exhibit(panel))) < 900

    def test_a_certificate_is_never_rounded_up(self, panel):
        line = certificate_line(replace(panel, min_ssim=0.98999999, mean_ssim=0.9999999))
        assert "min SSIM 0.989999" in line and "mean SSIM 0.999999" in line
        assert certificate_line(replace(panel, certified=False)).startswith("not certified")

    def test_names_are_cut_and_made_printable(self):
        assert printable("two\nlines\tand  spaces", 40) == "two lines and spaces"
        assert printable("日\udce9\u202e", 40) == "\ufffd\ufffd\ufffd"
        assert printable("x" * 50, 10) == "x" * 9 + "…"
        assert printable("été, Ελλάδα", 40) == "été, Ελλάδα"

    @pytest.mark.parametrize(
        ("largest", "factor"),
        [(0.0, 1), (1.0, 1), (0.25, 2), (0.09, 5), (2 / 255, 50), (1 / 255, 100), (1e-4, 5000)],
    )
    def test_the_amplification_is_a_round_number_that_fits(self, largest, factor):
        perturbation = torch.zeros(3, 8, 8)
        perturbation[:, ::2] = -largest
        assert amplification(perturbation) == factor

    def test_the_scale_of_ssim_is_labelled_in_ssim(self):
        ssim = 1 - torch.logspace(-8, -2, 64, dtype=torch.float64).reshape(1, 8, 8)
        colours, scale = ssim_colours(ssim)
        assert list(scale.ticks.values()) == ["0.99", "0.999", "0.9999", "0.99999"]
        for value, label in scale.ticks.items():
            assert 1 - value == pytest.approx(float(label), abs=1e-12)
        brightness = colours[..., :3].sum(-1).ravel()
        assert (np.diff(brightness) >= 0).all() and brightness[-1] > 2 > brightness[0]


class TestWorstPlace:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(11, 40), st.integers(11, 40), st.sampled_from([1, 3]), st.integers(0, 2**31))
    def test_it_is_the_window_with_the_least_ssim(self, height, width, channels, seed):
        original = levels(channels, height, width, seed=seed)
        adversarial = levels(channels, height, width, seed=seed + 1)
        ssim = ssim_maps(original[None], adversarial[None])[0]
        found = worst_place(original, adversarial, ssim)
        assert found.ssim == float(ssim.min()) == float(ssim[:, found.row, found.column].min())
        certificate = certify(original[None], adversarial[None])  # shares no code with the map
        assert found.ssim == pytest.approx(float(certificate.min_ssim), abs=1e-9)
        change = (adversarial - original).abs().amax(0)
        near = [
            float(change[row, column])
            for row in range(height)
            for column in range(width)
            if max(abs(row - found.row), abs(column - found.column)) <= 5
        ]
        assert found.change == pytest.approx(max(near))

    def test_equal_images_have_none(self):
        image = levels(3, 16, 16)
        assert worst_place(image, image, torch.ones(3, 16, 16)) is None

    @given(st.integers(0, 99), st.integers(1, 100), st.integers(1, 40))
    def test_a_cutting_is_inside_the_image_around_its_middle(self, middle, length, size):
        middle = middle % length
        part = span(middle, length, size)
        assert 0 <= part.start <= middle < part.stop <= length
        assert part.stop - part.start == min(size, length)


class TestCurves:
    def test_more_baselines_than_hues_can_be_told_apart(self, monkeypatch):
        for theme in (LIGHT, DARK):
            pairs = len(theme.hues) * len(set(curves._MARKERS))
            for count in (len(BASELINES), 12, 25, pairs):
                names = [f"attack{place}" for place in range(count)]
                monkeypatch.setattr(curves, "BASELINES", tuple(names))
                styles = [curves.line_style(name, theme) for name in names]
                assert len({(style["color"], style["marker"]) for style in styles}) == count
                dashed = curves.line_style(names[-1] + ROUNDING, theme)
                assert dashed["color"] == styles[-1]["color"] and dashed["linestyle"] != styles[-1]["linestyle"]
            names.append("one more")  # has a style that was there before, not an error
            monkeypatch.setattr(curves, "BASELINES", tuple(names))
            assert curves.line_style("one more", theme)["color"] in theme.hues

    def test_they_are_drawn(self, tmp_path, monkeypatch):
        names = [f"attack{place}" for place in range(14)]
        monkeypatch.setattr(curves, "BASELINES", tuple(names))
        outcome = Outcome("", "", 1e-4, 1e-4, 1e-4, None, 1, 1, 1.0)
        rows = {
            name: [replace(outcome, attack=name, saved_cost=1e-4 * (1 + place))] for place, name in enumerate(names)
        }
        save_curves(tmp_path / "curves.png", rows, 10)
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG"


def association(pearson: float) -> Association:
    return Association(pearson, pearson / 2)


UNDEFINED = Association(math.nan, math.nan, "gradcam is constant")
ROWS = [
    ImageRow(
        name="a",
        status="adversarial",
        label=1,
        label_name='crane, "bird"',
        predicted_before=1,
        predicted_after=2,
        success=True,
        certified=True,
        min_ssim=0.1 + 0.2,
        mean_ssim=1 - 1e-5,
        l2=1 / 3,
        linf=2 / 255,
        gap=math.nan,
        gradient_calls=4,
        seconds=1.0,
        associations=Associations(association(0.5), association(0.75), association(0.25)),
        zero_gradcam=False,
    ),
    ImageRow(
        name="b",
        status="adversarial",
        label=3,
        predicted_before=3,
        predicted_after=4,
        success=True,
        certified=True,
        min_ssim=0.5,
        mean_ssim=1 - 3e-5,
        l2=1.0,
        linf=4 / 255,
        gap=0.001,
        gradient_calls=8,
        seconds=2.0,
        associations=Associations(UNDEFINED, association(0.25), UNDEFINED),
        zero_gradcam=True,
    ),
    ImageRow(
        name="c",
        status="not_found",
        label=3,
        predicted_before=3,
        predicted_after=3,
        success=False,
        certified=True,
    ),
    ImageRow(
        name="d",
        status="already_adversarial",
        label=5,
        predicted_before=6,
        predicted_after=6,
        success=True,
        certified=True,
        min_ssim=1.0,
        mean_ssim=1.0,
        gradient_calls=0,
    ),
    ImageRow(name="é\udce9,\n=1", status="unreadable: truncated file"),
]


class TestTables:
    def test_results_read_back_exactly(self, tmp_path):
        write_results(tmp_path / "results.csv", ROWS)
        with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
            first, second, *_, last = csv.DictReader(file)
        assert first["label_name"] == 'crane, "bird"' and first["success"] == "True"
        assert float(first["min_ssim"]) == 0.1 + 0.2 and float(first["l2"]) == 1 / 3
        assert first["spearman_dissimilarity_gradcam"] == "0.25" and first["undefined"] == ""
        assert second["pearson_gradcam_texture"] == "" and second["undefined"] == "gradcam is constant"
        assert last.pop("name") == "é\\udce9,\n=1" and last.pop("status") == "unreadable: truncated file"
        assert last.pop("missing") == "0"  # it stands for no label without a photograph
        assert set(last.values()) == {""}

    def test_columns_are_the_same_for_any_rows_and_bytes_for_the_same_rows(self, tmp_path):
        for name, rows in (("one", ROWS), ("two", ROWS), ("none", []), ("unreadable", ROWS[4:])):
            write_results(tmp_path / name, rows)
        text = (tmp_path / "one").read_text(encoding="utf-8")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        header = text.split("\n")[0]
        assert (tmp_path / "none").read_text(encoding="utf-8") == header + "\n"
        assert (tmp_path / "unreadable").read_text(encoding="utf-8").startswith(header + "\n")
        assert header.startswith("name,status,label,label_name,predicted_before,")
        assert text.split("\n")[1].startswith('a,adversarial,1,"crane, ""bird""",1,')

    def test_the_summary_counts_and_takes_medians_over_the_successes(self):
        summary = summarise(ROWS)
        counts = {key: summary[key] for key in ("images", "unreadable", "correct_before", "successes", "certified")}
        assert counts == {"images": 5, "unreadable": 1, "correct_before": 3, "successes": 2, "certified": 2}
        medians = summary["medians"]
        assert medians["one_minus_mean_ssim"] == pytest.approx(2e-5, rel=1e-9)
        assert medians["min_ssim"] == pytest.approx(0.4)
        assert (medians["gradient_calls"], medians["seconds"]) == (6, 1.5)
        assert summary["associations"] == {
            "dissimilarity_gradcam": {"pearson": 0.5, "spearman": 0.25, "images": 1},
            "dissimilarity_texture": {"pearson": 0.5, "spearman": 0.25, "images": 2},
            "gradcam_texture": {"pearson": 0.25, "spearman": 0.125, "images": 1},
        }
        assert summary["zero_gradcam_maps"] == 1

    @pytest.mark.parametrize("rows", [ROWS, ROWS[4:], []])
    def test_the_summary_is_strict_json(self, tmp_path, rows):
        save_summary(tmp_path / "summary.json", summarise(rows), seed=7)

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)
        assert summary["seed"] == 7 and summary["images"] == len(rows)
        if len(rows) < 2:
            assert set(summary["medians"].values()) == {None}
            assert summary["associations"]["gradcam_texture"]["pearson"] is None

    def test_versions_name_what_a_result_depends_on(self):
        found = versions()
        assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
        assert {"python", "percep", "torchvision", "kornia", "captum", "hydra-core", "numpy"} <= set(found)
