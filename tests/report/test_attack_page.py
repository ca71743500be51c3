"""The report in a browser: what it shows, that it answers to the keyboard, and that nothing in it can do harm."""

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from percep import data
from percep.explain import allocation_maps, ssim_maps
from percep.models import Preprocessing
from percep.report import Exhibit, Facts, ImageRow, MinimalRow, Panel, Prediction, exhibit, save_report, summarise
from percep.report.common.panel import cut_off
from percep.report.common.verdict import verdict
from tests.support.chromium import show

SIDE = 64
HOSTILE = (
    "</script><script>window.harmed = 1</script>",
    '" onload="window.harmed = 1" x="',
    "' autofocus onfocus='window.harmed = 1",
    "{{ 7 * 7 }}{% raw %}<!--",
    "two\nlines & 日本 \u202eleft",
    "no_space_" * 30,
)
CLASS = "<img src=x onerror='window.harmed = 1'>"
FACTS = Facts(
    command="percep 'data.path=</code><script>window.harmed = 1</script>'",
    settings={"task": "attack", "seed": 7, "model": {"name": CLASS}, "ball": {"floor": None, "mean": 0.9}},
    planned=8,
)


def panel(name: str, original: torch.Tensor, perturbation: torch.Tensor) -> Panel:
    """`perturbation` is in levels; the adversarial image keeps to the range."""
    adversarial = (original + perturbation / 255).clamp(0, 1)
    ssim = ssim_maps(original[None], adversarial[None])[0]
    shape = (original.shape[-2], original.shape[-1])
    return Panel(
        name=name,
        original=original,
        adversarial=adversarial,
        ssim=ssim,
        gradcam=torch.linspace(0, 1, shape[1]).expand(shape),
        allocation=allocation_maps(1 - ssim[None], shape)[0],
        before=Prediction("goldfinch", 0.971),
        after=Prediction(CLASS, 0.502),
        min_ssim=float(ssim.min()),
        mean_ssim=float(ssim.mean()),
        floor=None,
        mean=0.9,
        certified=True,
        status="adversarial",
    )


def shown() -> Panel:
    """A flat photograph with black pixels, visibly changed in both directions."""
    original = torch.full((3, SIDE, SIDE), 100 / 255)
    original[:, :8] = 0
    perturbation = torch.zeros(3, SIDE, SIDE)
    perturbation[0, :, :40], perturbation[1, 16:48], perturbation[2, ::2] = 60, -30, 1
    return panel("shown", original, perturbation)


def row(name: str, gap: float = 1e-3, seconds: float = 1.0) -> ImageRow:
    return ImageRow(
        name=name,
        status="adversarial",
        label=1,
        label_name="goldfinch",
        predicted_before=1,
        predicted_before_name="goldfinch",
        predicted_after=2,
        predicted_after_name=CLASS,
        success=True,
        certified=True,
        min_ssim=0.75,
        mean_ssim=0.9123456,
        l2=2.0,
        linf=0.2,
        gap=gap,
        gradient_calls=12,
        seconds=seconds,
    )


ROWS = [
    *(
        row(name, gap, seconds)
        for name, gap, seconds in zip(HOSTILE, (9, 0.5, 1e-5, 20, math.nan, 3), (9, 10, 1, 2, 3, 4), strict=True)
    ),
    ImageRow("blind", "not_finite"),
    ImageRow("broken<b>", "unreadable: not an image <script>window.harmed = 1</script>"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    picture = exhibit(shown())
    save_report(path, FACTS, ROWS, dict.fromkeys(HOSTILE, picture))
    return path


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    show(browser, report)
    return browser


def decoded(browser: webdriver.Chrome, pictures: Callable[[], Sequence[Any]]) -> None:
    """Waits until pictures can be drawn: `decode` fails where the browser changes a picture's source meanwhile.

    A lazy picture that the browser does not hold to be near the viewport is never loaded, so they are made eager.
    """
    ask = """const [pictures, done] = arguments;
        for (const picture of pictures) picture.loading = "eager";
        setTimeout(() => done(false), 5000);
        Promise.all(pictures.map(picture => picture.decode())).then(() => done(true), () => done(false));"""
    if not any(browser.execute_async_script(ask, pictures()) for _ in range(6)):
        states = "return arguments[0].map(({complete, naturalWidth, loading}) => [complete, naturalWidth, loading])"
        pytest.fail(f"pictures are not decoded: {browser.execute_script(states, pictures())}")


def pixels(browser: webdriver.Chrome) -> np.ndarray:
    """What is seen of the first comparison, `(SIDE, SIDE, 3)`, one pixel of the image a pixel of the screen."""
    stage = """const stage = document.querySelector(".stage");"""
    browser.execute_script(
        stage
        + """stage.style.width = `${arguments[0]}px`;
        stage.style.margin = "0";
        stage.scrollIntoView({block: "center"});""",
        SIDE,
    )
    decoded(
        browser,
        lambda: browser.execute_script(
            stage + """return [...stage.querySelectorAll("img")].filter(image => image.checkVisibility());"""
        ),
    )
    box = browser.execute_script(
        stage
        + """const {left, top} = stage.getBoundingClientRect();
        return [left + scrollX, top + scrollY];"""
    )
    clip = {"x": round(box[0]), "y": round(box[1]), "width": SIDE, "height": SIDE, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")).astype(int)


def column(browser: webdriver.Chrome, title: str) -> tuple[Any, int]:
    """The heading of a column of the table, and its place."""
    headings = browser.find_elements(By.CSS_SELECTOR, ".sortable thead th")
    titles = [heading.text for heading in headings]
    return headings[titles.index(title)], titles.index(title)


def cells(browser: webdriver.Chrome, place: int) -> Sequence[str]:
    script = (
        "return [...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[arguments[0]].textContent)"
    )
    return browser.execute_script(script, place)


def place_the_divider(browser: webdriver.Chrome, percent: int) -> None:
    browser.execute_script(
        """const input = document.querySelector(".control input");
        input.value = arguments[0];
        input.dispatchEvent(new Event("input", {bubbles: true}));""",
        percent,
    )


class TestComparison:
    def test_the_divider_uncovers_exactly_the_difference_of_the_files(self, page):
        place_the_divider(page, 100)
        original = pixels(page)
        place_the_divider(page, 0)
        adversarial = pixels(page)
        truth = shown()
        wanted = (255 * (truth.adversarial - truth.original)).round().permute(1, 2, 0).numpy()
        inner = (
            slice(None),
            slice(2, -2),
        )  # clear of the divider's line; the first row may share a pixel of the screen
        assert np.abs(wanted).max() == 60
        assert (adversarial - original)[8:][inner].tolist() == wanted[8:][inner].tolist()
        # Compression may have moved black pixels: nothing is taken away from them beyond what there is.
        assert np.abs((adversarial - original - wanted)[1:8][inner]).max() <= 2
        assert np.abs(original[10:][inner] - 100).max() <= 3

    def test_the_left_side_is_the_original(self, page):
        place_the_divider(page, 50)
        half = pixels(page)
        assert np.abs(half[20:, 2:30, 0] - 100).max() <= 3
        assert np.abs(half[20:, 34:38, 0] - 160).max() <= 3

    def test_the_keyboard_moves_it(self, page):
        slider = page.find_element(By.CSS_SELECTOR, ".control input")
        before = pixels(page)
        slider.send_keys(Keys.ARROW_RIGHT * 10)
        assert slider.get_attribute("value") == "60"
        assert slider.get_attribute("aria-valuetext") == "60% original"
        assert (pixels(page) != before).any()
        slider.send_keys(Keys.HOME)
        assert slider.get_attribute("value") == "0"

    def test_dragging_on_the_picture_moves_it(self, page):
        stage = page.find_element(By.CSS_SELECTOR, ".stage")
        width = stage.size["width"]
        ActionChains(page).move_to_element(stage).click_and_hold().move_by_offset(width // 4, 5).release().perform()
        assert page.find_element(By.CSS_SELECTOR, ".control input").get_attribute("value") in ("75", "76")
        ActionChains(page).move_by_offset(-width // 2, 0).perform()
        assert page.find_element(By.CSS_SELECTOR, ".control input").get_attribute("value") in ("75", "76")


class TestTable:
    def test_numbers_sort_as_numbers_both_ways_and_the_unknown_stay_last(self, page):
        heading, place = column(page, "Gap")
        assert heading.get_attribute("aria-sort") == "none"
        heading.find_element(By.TAG_NAME, "button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert cells(page, place) == ["1.00e-05", "0.500", "3", "9", "20", "–", "–", "–"]
        heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert heading.get_attribute("aria-sort") == "descending"
        assert cells(page, place) == ["20", "9", "3", "0.500", "1.00e-05", "–", "–", "–"]

    def test_text_sorts_and_one_column_at_a_time_says_so(self, page):
        column(page, "Seconds")[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
        assert cells(page, column(page, "Seconds")[1])[:6] == ["1", "2", "3", "4", "9", "10"]
        heading, place = column(page, "Status")
        heading.find_element(By.TAG_NAME, "button").click()
        assert cells(page, place)[5:7] == ["adversarial", "not finite"]
        orders = [other.get_attribute("aria-sort") for other in page.find_elements(By.CSS_SELECTOR, "thead th")]
        assert sorted(orders) == ["ascending"] + ["none"] * 13

    def test_images_without_pictures_are_in_it_with_their_reason(self, page):
        _, place = column(page, "Status")
        assert cells(page, place)[6:] == ["not finite", ROWS[7].status]
        assert len(page.find_elements(By.TAG_NAME, "article")) == 6


class TestSafety:
    def test_hostile_names_are_text(self, page):
        links = page.find_elements(By.CSS_SELECTOR, ".name a")
        assert [link.get_attribute("textContent") for link in links] == list(HOSTILE)
        assert all(link.get_attribute("href").startswith("file:///") for link in links)
        assert cells(page, 0) == [row.name for row in ROWS]
        assert page.find_element(By.CSS_SELECTOR, "pre").text == FACTS.command
        assert CLASS in page.find_element(By.CSS_SELECTOR, "h3").text
        page.execute_script("scrollTo(0, document.body.scrollHeight)")
        assert page.execute_script("return window.harmed") is None
        assert page.execute_script("return document.scripts.length") == 1

    def test_nothing_is_asked_of_the_network_and_nothing_goes_wrong(self, page):
        page.get_log("browser"), page.get_log("performance")
        page.refresh()
        page.execute_script("scrollTo(0, document.body.scrollHeight)")
        sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        requests = [
            event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"
        ]
        assert any(url.startswith("file:") for url in requests)
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert len({url for url in requests if url.startswith("file:")}) == 1
        assert page.get_log("browser") == []


class TestReading:
    @pytest.mark.parametrize("width", [400, 1600])
    def test_it_fits_the_width(self, browser, report, width):
        show(browser, report, width)
        script = """for (const article of document.querySelectorAll("article")) {
                article.style.contentVisibility = "visible";
            }
            return [document.documentElement.scrollWidth, innerWidth, document.querySelector("h1").scrollWidth];"""
        content, window, heading = browser.execute_script(script)
        assert (content, window) == (width, width)
        assert heading < width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_colours_follow_the_scheme_and_can_be_read(self, browser, report, scheme):
        show(browser, report, scheme=scheme)
        texts = [browser.find_element(By.CSS_SELECTOR, name) for name in ("h1", ".lead", "dt", ".note", "nav a", "td")]
        ground = luminance(browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
        assert ground > 0.9 if scheme == "light" else ground < 0.02
        for text in texts:
            bright, dark = sorted((ground, luminance(text.value_of_css_property("color"))), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, text.tag_name

    def test_pictures_have_a_text_and_a_size_and_controls_a_label(self, page):
        pictures = page.find_elements(By.TAG_NAME, "img")
        assert len(pictures) == 3 + 6 * 9
        for picture in pictures:
            assert picture.get_attribute("alt").strip()
            assert int(picture.get_attribute("width")) and int(picture.get_attribute("height"))
        for control in page.find_elements(By.CSS_SELECTOR, "input"):
            assert page.find_element(By.CSS_SELECTOR, f"label[for={control.get_attribute('id')}]").text == "Divider"
        assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"

    def test_headings_are_in_order(self, page):
        levels = [int(heading.tag_name[1]) for heading in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(next_ <= level + 1 for level, next_ in pairwise(levels))

    def test_the_focus_is_seen_everywhere(self, page):
        stops = (
            1 + 3 + 6 * 2 + 1 + 14 + 6 + 1
        )  # skip link, sections, comparisons, table, its headings and links, command
        seen = set()
        for _ in range(stops):
            ActionChains(page).send_keys(Keys.TAB).perform()
            focused = page.switch_to.active_element
            assert focused.value_of_css_property("outline-style") != "none", focused.tag_name
            seen.add(focused.id)
        assert len(seen) == stops

    def test_the_figures_of_the_run(self, page):
        assert page.find_element(By.TAG_NAME, "h1").text == verdict(summarise(ROWS))
        figures = page.find_element(By.CSS_SELECTOR, ".figures").text.split("\n")
        assert dict(zip(figures[::2], figures[1::2], strict=True)) == {
            "Photographs": "8",
            "Unreadable": "1",
            "Classified correctly": "6 of 6",
            "Mean SSIM, median": "0.912345",
            "Least SSIM of all": "0.750000",
            "Largest change of all": "51/255",
            "Gradients, median": "12",
            "Seconds, median": "3.50",
        }
        facts = page.find_element(By.CSS_SELECTOR, ".facts").text.split("\n")
        told = dict(zip(facts[::2], facts[1::2], strict=True))
        assert told["Asked"] == "mean ≥ 0.9" and told["Certified"] == "yes" and told["Before"] == "goldfinch, 97.1%"
        settings = page.find_element(By.CSS_SELECTOR, ".entries").text
        assert "ball.floor\nnull\nball.mean\n0.9" in settings


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG defines it, of "rgb(...)" or "rgba(...)"."""
    levels = [float(level) / 255 for level in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_five_hundred_photographs_open_at_once(browser, tmp_path):
    generator = torch.Generator().manual_seed(0)
    pictures: list[Exhibit] = []
    for photograph in data.samples(Preprocessing(resize=256, crop=224)).first(10):
        assert photograph.image is not None
        strength = torch.linspace(0, 1.2, 224)  # levels; as an attack's, nothing in places
        perturbation = (strength * torch.randn(3, 224, 224, generator=generator)).round()
        pictures.append(exhibit(panel(photograph.name, photograph.image, perturbation)))
    names = [f"photograph {number}" for number in range(500)]
    exhibits = {name: pictures[number % len(pictures)] for number, name in enumerate(names)}
    path = tmp_path / "report.html"
    save_report(path, replace(FACTS, planned=500), [row(name) for name in names], exhibits)
    assert path.stat().st_size < 60e6
    assert any(seconds_to_load(browser, path) < 3 for _ in range(3))
    # Far down, a picture is there once it is looked at.
    browser.find_elements(By.CSS_SELECTOR, "tbody a")[-1].click()
    last = browser.find_elements(By.CSS_SELECTOR, "article:last-of-type .stage img")[0]
    decoded(browser, lambda: [last])
    assert browser.execute_script("return arguments[0].naturalWidth", last) == 224
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", last)
    assert 0 <= top < 1000


def seconds_to_load(browser: webdriver.Chrome, path: Path) -> float:
    """Until the load event, of the thread that the page runs in: what other processes take is not counted."""

    def spent() -> float:
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    browser.execute_cdp_cmd("Performance.enable", {})
    before = spent()
    show(browser, path)
    after = spent()
    return after - before if after > before else after  # the second where the page has a process of its own


def test_the_smallest_change_has_what_was_found_instead_of_a_ball(browser, tmp_path):
    found = MinimalRow(**vars(row("a")), found=0.99995, missed=0.99996)
    blind = MinimalRow("b", "not_finite")
    picture = exhibit(replace(shown(), mean=None))
    save_report(tmp_path / "report.html", replace(FACTS, planned=9), [found, blind], {"a": picture})
    show(browser, tmp_path / "report.html")
    assert cells(browser, column(browser, "1 − SSIM found")[1]) == ["5.00e-05", "–"]
    assert cells(browser, column(browser, "1 − SSIM missed")[1]) == ["4.00e-05", "–"]
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "Certified" not in text and "Asked" not in text
    assert "The run was interrupted: 2 of 9 photographs were done." in text


def test_the_worst_place_is_ringed_and_enlarged_before_and_after(browser, tmp_path):
    """The window with the least SSIM is in the middle of the ring and inside the outline, at any width."""
    original = torch.full((3, SIDE, SIDE), 100 / 255)
    perturbation = torch.zeros(3, SIDE, SIDE)
    perturbation[:, 10, 50] = 40  # the window's middle weighs most
    picture = exhibit(panel("place", original, perturbation))
    worst = picture.worst
    assert (worst.row, worst.column, worst.change) == (10, 50, 40)
    save_report(tmp_path / "report.html", replace(FACTS, planned=1), [row("place")], {"place": picture})
    for width in (400, 1600):
        show(browser, tmp_path / "report.html", width)
        boxes = browser.execute_script(
            """document.querySelector("article").style.contentVisibility = "visible";
            const marked = [...document.querySelectorAll(".marked")];
            return marked.map(figure => [figure.querySelector("img"), figure.querySelector("span")].map(element => {
                const {left, top, width, height} = element.getBoundingClientRect();
                return [left, top, width, height];
            }));"""
        )
        before, after, ring = boxes  # the cuttings stand below the comparison, which comes first
        (left, top, side, height), (x, y, across, down) = ring
        assert x + across / 2 - left == pytest.approx(50.5 / SIDE * side, abs=1)
        assert y + down / 2 - top == pytest.approx(10.5 / SIDE * height, abs=1)
        for (left, top, side, _), (x, y, across, down) in (before, after):
            pixel = side / worst.width
            assert across == pytest.approx(11 * pixel, abs=2) and down == pytest.approx(11 * pixel, abs=2)
            # Columns 31 to 63 are cut out, rows 0 to 32.
            assert (x - left) / pixel == pytest.approx(45 - 31, abs=0.5)
            assert (y - top) / pixel == pytest.approx(5, abs=0.5)
            assert left >= 0 and left + side <= width
    text = browser.find_element(By.TAG_NAME, "article").text
    assert f"SSIM {cut_off(worst.ssim)} around row 10, column 50" in text
    assert "changes of up to 40/255 in the window" in text
    for source, wanted in ((worst.original, 100), (worst.adversarial, 140)):
        content = base64.b64decode(source.partition(",")[2])
        levels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert levels.shape == (33, 33, 3) and (levels[10, 50 - 31] == wanted).all()  # exact
        assert (np.delete(levels.reshape(-1, 3), 10 * 33 + 19, 0) == 100).all()


def test_a_network_without_grad_cam_has_its_reason_in_the_pictures_place(browser, tmp_path):
    reason = "no layer <script>window.harmed = 1</script>"
    picture = exhibit(replace(shown(), gradcam=None, no_gradcam=reason))
    save_report(tmp_path / "report.html", FACTS, ROWS[:1], {ROWS[0].name: picture})
    show(browser, tmp_path / "report.html")
    absent = browser.find_element(By.CSS_SELECTOR, ".absent")
    assert absent.text == reason and browser.execute_script("return window.harmed") is None
    ssim_map = browser.find_element(By.CSS_SELECTOR, ".maps .marked img")
    assert absent.size["height"] == pytest.approx(ssim_map.size["height"], abs=1)
    assert not any(
        image.get_attribute("alt").startswith("Grad-CAM") for image in browser.find_elements(By.TAG_NAME, "img")
    )
    assert "Colour scale of Grad-CAM" not in browser.page_source


def test_a_run_at_chance_begins_with_a_warning(browser, tmp_path):
    known = {"classes": 1000, "at_chance": True}
    save_report(tmp_path / "report.html", FACTS, ROWS, {}, summarise(ROWS) | known)
    show(browser, tmp_path / "report.html")
    warning = browser.find_element(By.CSS_SELECTOR, "header .warning").text
    assert "6 of 6 labelled photographs are classified correctly, of 1000 classes" in warning
    assert "model.mean" in warning


@pytest.mark.parametrize("side", [11, 28])
def test_small_grey_images_are_drawn_pixel_by_pixel(browser, tmp_path, side):
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(40, 200, (1, side, side), generator=generator) / 255
    perturbation = torch.randint(-9, 10, (1, side, side), generator=generator).float()
    picture = exhibit(panel("grey", original, perturbation))
    assert (picture.worst.width, picture.worst.height) == (side, side)  # there is nothing to cut away
    save_report(tmp_path / "report.html", replace(FACTS, planned=1), [row("grey")], {"grey": picture})
    show(browser, tmp_path / "report.html", 400)
    styles = browser.execute_script(
        "return [...document.querySelectorAll('article img')].map(image => getComputedStyle(image).imageRendering)"
    )
    assert set(styles) == {"pixelated"}
    content = base64.b64decode(picture.worst.adversarial.partition(",")[2])
    levels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert (levels == (255 * original[0] + perturbation[0]).round().numpy()[..., None]).all()


def test_a_run_without_pictures_has_its_table(browser, tmp_path):
    save_report(tmp_path / "report.html", FACTS, ROWS[6:], {})
    show(browser, tmp_path / "report.html")
    assert browser.find_elements(By.ID, "photographs") == []
    assert cells(browser, 0) == ["blind", "broken<b>"]


def test_a_grey_image_without_a_change_is_drawn():
    picture = exhibit(panel("grey", torch.full((1, 32, 40), 0.2), torch.zeros(1, 32, 40)))
    assert (picture.width, picture.height, picture.factor, picture.largest, picture.spent) == (40, 32, 1, 0, False)
