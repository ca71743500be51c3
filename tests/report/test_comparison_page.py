"""The report of a comparison in a browser: its verdict, its curves, and the pictures of every attack."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from percep import data
from percep.attacks.comparison import ATTACK_NAMES, Outcome
from percep.models import Preprocessing
from percep.report import Facts, Prediction
from percep.report.common.plot import DARK, LIGHT
from percep.report.comparison.curves import line_style
from percep.report.comparison.gallery import GALLERY_LIMIT, ComparedPictures, ComparisonGallery, compared_pictures
from percep.report.comparison.page import comparison_verdict, save_comparison_report
from percep.report.comparison.tables import ComparedImages, ComparisonRow, ranked, summary
from tests.report.test_attack_page import (
    CLASS,
    HOSTILE,
    SIDE,
    decoded,
    luminance,
    pixels,
    place_the_divider,
    seconds_to_load,
    shown,
)
from tests.support.chromium import show

ATTACKS = ("fgsm", "ddn+8bit", "percep")
FACTS = Facts(
    command="percep task=compare 'data.path=</code><script>window.harmed = 1</script>'",
    settings={
        "task": "compare",
        "seed": 7,
        "model": {"name": CLASS},
        "attack": {"target": None},
        "compare": {"gradients": 40, "attacks": list(ATTACKS)},
    },
    planned=8,
)
CHANGES = {"fgsm": (20, -10), "ddn+8bit": (-50, 3), "percep": (4, 2)}
"""Levels by which an attack changes the left and the right half of the first channel and of the second."""


def outcome(attack: str, cost: float, floor: bool | None = None) -> Outcome:
    """FGSM loses everything when simply rounded."""
    saved = math.inf if attack == "fgsm" else cost
    return Outcome(attack, "a library", cost / 2, saved, cost, floor, 40, 3, 1.5)


def row(name: str, attack: str, cost: float) -> ComparisonRow:
    return ComparisonRow(name, "attacked", 1, CLASS, outcome=outcome(attack, cost))


def images(attack: str) -> ComparedImages:
    original = shown().original
    first, second = CHANGES[attack]
    perturbation = torch.zeros_like(original)
    perturbation[0, :, :40], perturbation[1, :, 24:] = first / 255, second / 255
    before, after = Prediction(CLASS, 0.9712), Prediction(f"{attack}-like", 0.5)
    return ComparedImages(original, (original + perturbation).clamp(0, 1), before, after)


def pictures(attack: str) -> ComparedPictures:
    return compared_pictures(images(attack))


def rows_of(costs: dict[str, Sequence[float]]) -> list[ComparisonRow]:
    return [row(name, attack, costs[attack][place]) for place, name in enumerate(HOSTILE) for attack in costs]


ROWS = [
    *rows_of(
        {
            "fgsm": (1e-3, 1.5e-3, 2e-3, 3e-3, math.inf, 4e-3),
            "ddn+8bit": (4e-5, 5e-5, 9e-7, 6e-5, 7e-5, 8e-5),
            "percep": (1e-5, 3e-5, 1e-6, 1.2e-5, 2e-5, 2.5e-5),
        }
    ),
    ComparisonRow("blind", "not_finite"),
    ComparisonRow("broken<b>", "unreadable: not an image <script>window.harmed = 1</script>"),
]


def save(path: Path, rows: Sequence[ComparisonRow] = ROWS, facts: Facts = FACTS) -> Path:
    gallery = ComparisonGallery()
    for each in rows:
        gallery.add(each, None if each.outcome is None else pictures(each.outcome.attack))
    save_comparison_report(path / "report.html", facts, rows, gallery, ATTACKS)
    return path / "report.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    show(browser, report)
    return browser


def table(page: webdriver.Chrome, section: str) -> list[dict[str, str]]:
    """The rows of a section's table, as they stand, by the titles of its columns."""
    script = """const table = document.querySelector(`#${arguments[0]} table`), of = (row) => [...row.cells].map(cell =>
            cell.textContent);
        return [of(table.tHead.rows[0]), ...[...table.tBodies[0].rows].map(of)];"""
    titles, *rows = page.execute_script(script, section)
    return [dict(zip(titles, cells, strict=True)) for cells in rows]


def sort(page: webdriver.Chrome, section: str, title: str) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, f"#{section} thead button")
    next(button for button in buttons if button.get_attribute("textContent") == title).click()


def told(page: webdriver.Chrome, selector: str) -> dict[str, str]:
    """What is seen of a list of facts."""
    lines = next(each for each in page.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed())
    words = lines.text.split("\n")
    return dict(zip(words[::2], words[1::2], strict=True))


class TestGallery:
    @pytest.mark.parametrize("attack", ATTACKS)
    def test_the_divider_uncovers_exactly_what_the_chosen_attack_changes(self, page, attack):
        Select(page.find_element(By.TAG_NAME, "select")).select_by_value(attack)
        place_the_divider(page, 100)
        original = pixels(page)
        place_the_divider(page, 0)
        adversarial = pixels(page)
        truth = images(attack)
        wanted = (255 * (truth.adversarial - truth.original)).round().permute(1, 2, 0).numpy()
        inner = (slice(8, None), slice(2, -2))  # clear of black pixels, which compression moves, and the divider's line
        assert np.abs(wanted).max() == max(map(abs, CHANGES[attack]))
        assert (adversarial - original)[inner].tolist() == wanted[inner].tolist()

    def test_the_cheapest_attack_comes_first_and_the_keyboard_chooses(self, page):
        chooser = page.find_element(By.TAG_NAME, "select")
        assert [option.text for option in Select(chooser).options] == [
            "percep, 1.00e-05",
            "ddn+8bit, 4.00e-05",
            "fgsm, 1.00e-03",
        ]
        assert told(page, ".facts")["After"] == "percep-like, 50.0%"
        place_the_divider(page, 30)
        chooser.send_keys(Keys.ARROW_DOWN)
        facts = told(page, ".facts")
        assert facts["After"] == "ddn+8bit-like, 50.0%" and facts["Before"] == f"{CLASS}, 97.1%"
        assert facts["Resaved cost"] == "4.00e-05" and facts["Gradients"] == "40"
        assert page.find_element(By.CSS_SELECTOR, ".control input").get_attribute("value") == "30"
        pictures = page.find_elements(By.CSS_SELECTOR, "article:first-of-type img")
        assert sum(picture.is_displayed() for picture in pictures) == 7  # original, two layers, two maps, two cuttings
        # The other photographs keep theirs.
        assert "percep-like" in page.find_elements(By.TAG_NAME, "article")[1].text

    def test_an_image_that_is_not_adversarial_says_so(self, page):
        article = page.find_elements(By.TAG_NAME, "article")[4]
        chooser = Select(article.find_element(By.TAG_NAME, "select"))
        chooser.select_by_visible_text("fgsm, not adversarial")
        assert "saved, not adversarial" in article.text and "resaved" not in article.text

    def test_only_the_first_photographs_have_pictures_and_the_page_says_so(self, browser, tmp_path):
        many = [row(f"photograph {place}", "percep", 1e-5) for place in range(GALLERY_LIMIT + 2)]
        gallery = ComparisonGallery()
        for each in many:
            gallery.add(each, pictures("percep"))
        save_comparison_report(tmp_path / "report.html", replace(FACTS, planned=52), many, gallery, ["percep"])
        show(browser, tmp_path / "report.html")
        assert len(browser.find_elements(By.TAG_NAME, "article")) == GALLERY_LIMIT
        assert f"the first {GALLERY_LIMIT} of {GALLERY_LIMIT + 2} photographs" in browser.page_source
        assert len(table(browser, "results")) == GALLERY_LIMIT + 2
        assert len(browser.find_elements(By.CSS_SELECTOR, "tbody a")) == GALLERY_LIMIT


class TestTables:
    def test_attacks_from_the_cheapest_on(self, page):
        rows = table(page, "attacks")
        assert [each["Attack"] for each in rows] == ["percep", "ddn+8bit", "fgsm"]
        assert rows[0]["Resaved cost"] == "1.60e-05"  # the middle of 1.2e-05 and 2e-05
        assert (rows[2]["Float success"], rows[2]["Saved success"], rows[2]["Saved cost"]) == ("83%", "0%", "–")
        assert "At the floor" not in rows[0]
        sort(page, "attacks", "Saved cost")
        sort(page, "attacks", "Saved cost")
        assert [each["Attack"] for each in table(page, "attacks")] == ["ddn+8bit", "percep", "fgsm"]

    def test_every_photograph_under_every_attack(self, page):
        rows = table(page, "results")
        assert [(each["Photograph"], each["Attack"]) for each in rows] == [
            (each.name, each.outcome.attack if each.outcome else "–") for each in ROWS
        ]
        assert rows[-1]["Status"] == ROWS[-1].status
        sort(page, "results", "Resaved cost")
        costs = [each["Resaved cost"] for each in table(page, "results")]
        assert costs[:3] == ["9.00e-07", "1.00e-06", "1.00e-05"] and costs[-3:] == ["–"] * 3
        links = page.find_elements(By.CSS_SELECTOR, "#results tbody a")
        assert links[0].get_attribute("href").endswith("#photograph-3")

    def test_the_floor_and_targets_have_columns_where_asked(self, browser, tmp_path):
        survived = row("a", "percep", 1e-5)
        rows = [replace(survived, target=3, outcome=outcome("percep", 1e-5, True))]
        settings = FACTS.settings | {"attack": {"target": "random"}}
        gallery = ComparisonGallery()
        gallery.add(rows[0], replace(pictures("percep"), target="wanted"))
        save_comparison_report(tmp_path / "report.html", replace(FACTS, settings=settings), rows, gallery, ["percep"])
        show(browser, tmp_path / "report.html")
        assert table(browser, "attacks")[0]["At the floor"] == "100%"
        assert table(browser, "results")[0]["At the floor"] == "yes"
        assert table(browser, "results")[0]["Target"] == "3"
        assert "wanted" in browser.find_element(By.CSS_SELECTOR, "article h3").text
        assert "towards random targets" in browser.find_element(By.CSS_SELECTOR, ".lead").text


class TestCurves:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_they_are_drawn_in_the_colours_of_the_scheme(self, browser, report, scheme):
        show(browser, report, scheme=scheme)
        plots = browser.find_elements(By.CSS_SELECTOR, ".plot img")
        assert len(plots) == 2
        theme = LIGHT if scheme == "light" else DARK
        decoded(browser, lambda: plots)
        for plot in plots:
            svg = browser.execute_script("return atob(arguments[0].currentSrc.split(',')[1])", plot)
            assert f"stroke: {theme.ink}" in svg
            assert browser.execute_script("return arguments[0].naturalWidth", plot)

    def test_a_text_tells_what_the_lines_show(self, page):
        saved, resaved = [plot.get_attribute("alt") for plot in page.find_elements(By.CSS_SELECTOR, ".plot img")]
        assert "percep 6 of 6, ddn+8bit 6 of 6, fgsm 0 of 6" in saved and "fgsm 5 of 6" in resaved
        assert page.find_element(By.CLASS_NAME, "key").text.split("\n") == ["percep", "ddn+8bit", "fgsm"]

    @pytest.mark.parametrize(("theme", "ground"), [(LIGHT, "rgb(252, 252, 251)"), (DARK, "rgb(19, 19, 22)")])
    def test_every_attack_has_a_line_of_its_own_with_or_without_colour(self, theme, ground):
        styles = [line_style(name, theme) for name in ATTACK_NAMES]
        without = [
            (style.get("marker"), style.get("linestyle"), style.get("markerfacecolor") == "none") for style in styles
        ]
        assert len(set(without)) == len(ATTACK_NAMES)
        hues = {style["color"] for style in styles}
        assert len(hues) == 12
        for hue in hues:
            red, green, blue = (int(hue[place : place + 2], 16) for place in (1, 3, 5))
            bright, dark = sorted((luminance(f"rgb({red}, {green}, {blue})"), luminance(ground)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 3, hue  # WCAG's for graphics


class TestSafety:
    def test_hostile_names_are_text(self, page):
        assert [name.get_attribute("textContent") for name in page.find_elements(By.CLASS_NAME, "name")] == list(
            HOSTILE
        )
        assert CLASS in page.find_element(By.CSS_SELECTOR, "article h3").text
        assert page.find_element(By.TAG_NAME, "pre").text == FACTS.command
        page.execute_script("scrollTo(0, document.body.scrollHeight)")
        assert page.execute_script("return window.harmed") is None
        assert page.execute_script("return document.scripts.length") == 1

    def test_nothing_is_asked_of_the_network_and_nothing_goes_wrong(self, page):
        page.get_log("browser"), page.get_log("performance")
        page.refresh()
        for chooser in page.find_elements(By.TAG_NAME, "select"):
            Select(chooser).select_by_value("fgsm")
        page.execute_script("scrollTo(0, document.body.scrollHeight)")
        sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        urls = {event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"}
        assert len({url for url in urls if url.startswith("file:")}) == 1
        assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
        assert page.get_log("browser") == []


class TestReading:
    @pytest.mark.parametrize("width", [400, 1600])
    def test_it_fits_the_width(self, browser, report, width):
        show(browser, report, width)
        script = """for (const article of document.querySelectorAll("article")) {
                article.style.contentVisibility = "visible";
            }
            const widest = Math.max(...[...document.querySelectorAll("img, select, h1, h2, h3, dd")].map(
                element => element.getBoundingClientRect().right));
            return [document.documentElement.scrollWidth, widest];"""
        content, widest = browser.execute_script(script)
        assert content == width and widest <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_can_be_read(self, browser, report, scheme):
        show(browser, report, scheme=scheme)
        ground = luminance(browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
        for name in ("h1", ".lead", ".key li", ".chooser label", ".note", "td", "thead button", "select"):
            text = browser.find_element(By.CSS_SELECTOR, name)
            bright, dark = sorted((ground, luminance(text.value_of_css_property("color"))), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, name

    def test_pictures_have_a_text_and_a_size_and_controls_a_label(self, page):
        pictures = page.find_elements(By.CSS_SELECTOR, "img:not(.key img)")
        assert len(pictures) == 2 + 1 + 6 * (1 + 3 * 6)
        assert all(picture.get_attribute("alt").strip() for picture in pictures)
        for picture in page.find_elements(By.TAG_NAME, "img"):
            assert int(picture.get_attribute("width")) and int(picture.get_attribute("height"))
        controls = page.find_elements(By.CSS_SELECTOR, "input, select")
        labels = [page.find_element(By.CSS_SELECTOR, f"label[for={each.get_attribute('id')}]") for each in controls]
        assert [label.text for label in labels] == ["Attack", "Divider"] * 6

    def test_headings_are_in_order(self, page):
        levels = [int(heading.tag_name[1]) for heading in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(next_ <= level + 1 for level, next_ in pairwise(levels))

    def test_the_focus_is_seen_everywhere(self, page):
        headings = len(page.find_elements(By.CSS_SELECTOR, "thead button"))
        stops = 1 + 4 + 2 + headings + 6 * 2 + 18 + 1  # skip link, sections, tables, photographs, links, command
        seen = set()
        for _ in range(stops):
            ActionChains(page).send_keys(Keys.TAB).perform()
            focused = page.switch_to.active_element
            assert focused.value_of_css_property("outline-style") != "none", focused.tag_name
            seen.add(focused.id)
        assert len(seen) == stops

    def test_the_figures_of_the_run(self, page):
        assert page.find_element(By.TAG_NAME, "h1").text == (
            "percep is cheapest on saved images: a median 1 − mean SSIM of 1.60e-05 over 6 photographs, "
            "against 5.50e-05 for the next best, ddn+8bit"
        )
        assert told(page, ".figures") == {
            "Photographs": "6",
            "Not attacked": "2",
            "Cheapest": "percep",
            "Cost against the next best's": "0.29 ×",
            "Cheapest on": "5 of 6",
            "Adversarial on": "6 of 6",
        }
        assert "Simply rounded, the cheapest is percep, at 1.60e-05." in page.find_element(By.CLASS_NAME, "lead").text
        origins, settings, _ = page.find_elements(By.CLASS_NAME, "entries")
        assert origins.text.split("\n") == ["percep", "a library", "ddn+8bit", "a library", "fgsm", "a library"]
        assert "compare.gradients\n40" in settings.text


def test_a_hostile_verdict_is_text_and_its_numbers_stay_whole(browser, tmp_path, monkeypatch):
    hostile = "<script>window.harmed = 1</script> at 1 − mean SSIM of 1.00e-05"
    monkeypatch.setattr("percep.report.comparison.page.comparison_verdict", lambda _: hostile)
    show(browser, save(tmp_path, ROWS[:3]))
    assert browser.find_element(By.TAG_NAME, "h1").text == hostile
    kept = browser.find_elements(By.CLASS_NAME, "unbroken")
    assert [each.text for each in kept] == ["1 − mean SSIM", "1.00e-05"]


def test_an_interrupted_run_compares_what_all_attacks_have_done(browser, tmp_path):
    show(browser, save(tmp_path, ROWS[:5]))
    assert "The run was interrupted: 1 of 8 photographs were done" in browser.find_element(By.CLASS_NAME, "lead").text
    assert "over 1 photograph," in browser.find_element(By.TAG_NAME, "h1").text
    assert len(table(browser, "results")) == 5 and len(browser.find_elements(By.TAG_NAME, "article")) == 2


def test_a_run_interrupted_at_once_has_its_table(browser, tmp_path):
    show(browser, save(tmp_path, [ROWS[-1], ROWS[0]]))
    assert browser.find_element(By.TAG_NAME, "h1").text == "No photograph has been under every attack"
    assert browser.find_elements(By.ID, "attacks") == []
    assert len(table(browser, "results")) == 2


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (
            {"percep": [3e-5, 4e-5], "ddn": [1e-5, 2e-5]},
            "ddn is cheapest on saved images: a median 1 − mean SSIM of 1.50e-05 over 2 photographs, "
            "against 3.50e-05 for the next best, percep",
        ),
        (
            {"percep": [3e-5], "ddn": [1e-5], "cw": [2e-5], "fmn": [math.inf]},
            "ddn is cheapest on saved images: a median 1 − mean SSIM of 1.00e-05 over 1 photograph, "
            "against 2.00e-05 for the next best, cw; percep is number 3 of 4, at 3.00e-05",
        ),
        (
            {"percep": [math.inf], "ddn": [1e-5], "cw": [2e-5]},
            "ddn is cheapest on saved images: a median 1 − mean SSIM of 1.00e-05 over 1 photograph, "
            "against 2.00e-05 for the next best, cw; percep is number 3 of 3, with no more than half of them",
        ),
        (
            {"percep": [1e-5, 1e-5, math.inf], "ddn": [1e-6, math.inf, math.inf]},
            "percep is cheapest on saved images: a median 1 − mean SSIM of 1.00e-05 over 3 photographs, "
            "and no other attack succeeded on more than half of them",
        ),
        (
            {"percep": [1e-5], "ddn": [1e-5], "cw": [2e-5]},
            "percep and ddn are equally cheap on saved images: a median 1 − mean SSIM of 1.00e-05 over 1 photograph",
        ),
        (
            {"percep": [math.inf] * 3, "ddn": [1e-5, math.inf, math.inf], "cw": [math.inf, math.inf, 1e-6]},
            "No attack succeeded on more than half of 3 photographs as saved images: ddn and cw succeeded on most, 1",
        ),
        (
            {"percep": [math.inf] * 2, "ddn": [math.inf] * 2},
            "No attack succeeded on any of 2 photographs as a saved image",
        ),
        (
            {"percep": [1e-5, 1e-5]},
            "percep succeeded on 2 of 2 photographs as saved images, at a median 1 − mean SSIM of 1.00e-05",
        ),
        ({"percep": [1e-5, math.inf]}, "percep succeeded on 1 of 2 photographs as saved images"),
        ({}, "No photograph has been under every attack"),
    ],
)
def test_the_verdict(costs, words):
    found = [summary([outcome(name, cost) for cost in each]) for name, each in costs.items()]
    assert comparison_verdict(ranked(found)) == words


def test_five_hundred_photographs_under_six_attacks_open_at_once(browser, tmp_path):
    generator = torch.Generator().manual_seed(0)
    attacks = ("percep", "fgsm", "pgd_linf", "pgd_l2", "ddn", "cw")
    encoded: list[ComparedPictures] = []
    strength = torch.linspace(0, 1.2, 224)  # levels; as an attack's, nothing in places
    for photograph in data.samples(Preprocessing(resize=256, crop=224)).first(10):
        assert photograph.image is not None
        noise = (strength * torch.randn(3, 224, 224, generator=generator)).round() / 255
        adversarial = (photograph.image + noise).clamp(0, 1)
        compared = ComparedImages(photograph.image, adversarial, Prediction("a", 0.9), Prediction("b", 0.5))
        encoded.append(compared_pictures(compared))
    gallery, rows = ComparisonGallery(), []
    for place in range(500):
        for attack in attacks:
            rows.append(row(f"photograph {place}", attack, 1e-5 * (1 + place)))
            if attack == "percep":
                gallery.add(rows[-1], encoded[place % len(encoded)])
    for exhibit in gallery.exhibits.values():
        first = exhibit.versions["percep"]
        exhibit.versions.update(dict.fromkeys(attacks, first))
    path = tmp_path / "report.html"
    save_comparison_report(path, replace(FACTS, planned=500), rows, gallery, attacks)
    assert path.stat().st_size < 60e6
    assert any(seconds_to_load(browser, path) < 3 for _ in range(3))


def test_the_side_of_the_pictures_is_the_images():
    gallery = ComparisonGallery()
    gallery.add(row("a", "percep", 1e-5), pictures("percep"))
    version = gallery.exhibits["a"].versions["percep"]
    assert (version.width, version.height, version.largest) == (SIDE, SIDE, 4)
