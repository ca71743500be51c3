"""The report of a study in a browser: criteria on top, plots that say what they show, maps, tables that sort."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By

from percep.explain import ssim_maps
from percep.report import Facts
from percep.report.study.gallery import study_exhibits
from percep.report.study.page import save_study_report
from percep.study import Claim, Evidence, Findings, Inference, Measurements, VariantResult, analyse, photograph_evidence
from percep.study.causal import BUDGETS, REGIONS, CurveRow, RegionRow
from percep.study.effects import CURVES
from percep.study.findings import PENDING
from percep.study.movement import MOVEMENT
from tests.report.test_attack_page import CLASS, HOSTILE, SIDE, shown
from tests.support.chromium import show
from tests.support.smooth_fields import smooth_fields

FACTS = Facts(
    command="percep task=explain 'data.path=</code><script>window.harmed = 1</script>'",
    settings={"task": "explain", "seed": 7, "model": {"name": CLASS}, "criteria": {"level": 0.95}},
    planned=8,
)
GAINS = {"top": 0.7, "outside": 0.5, "matched": 0.3, "shifted": 0.25, "random": 0.2}
NAMES = list(HOSTILE)


def measurements() -> Measurements:
    """The flat photograph of the other reports, with planted maps."""
    truth, count = shown(), len(NAMES)
    references, saved = (image.expand(count, -1, -1, -1).contiguous() for image in (truth.original, truth.adversarial))
    fields = smooth_fields(9 * count, SIDE, 4.0, 0).reshape(9, count, SIDE, SIDE)
    logits = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    curves = [
        CurveRow(name, kind, order, 0.6 - 0.1 * place, 0.5, (0.0, 0.5 + 0.05 * (4 - place), 1.0))
        for name in NAMES
        for kind in CURVES
        for place, order in enumerate(("gradcam", "another_image", "squared_perturbation", "random"))
    ]
    random = np.random.default_rng(0)
    regions = [
        RegionRow(name, 0.2, region, budget, 0.3, GAINS[region] + 0.02 * random.standard_normal(), True, True, None)
        for name in NAMES
        for region in REGIONS
        for budget in BUDGETS
    ]
    attention = fields[0]
    return Measurements(
        names=NAMES,
        labels=torch.zeros(count, dtype=torch.int64),
        new_classes=torch.ones(count, dtype=torch.int64),
        references=references,
        saved=saved,
        logits_before=logits[1].expand(count, 2),
        logits_after=logits[0].expand(count, 2),
        ssim=ssim_maps(references, saved),
        changes={
            "dissimilarity": attention + 0.5 * fields[1],
            "energy": fields[2].exp(),
            "multiplier": torch.ones(count, SIDE, SIDE),
            "contribution": fields[3],
            "ablation": torch.zeros(count, SIDE, SIDE),
        },
        attention={
            "gradcam": attention.clamp_min(0),
            "integrated_gradients": fields[4].clamp_min(0),
            "occlusion": torch.zeros(count, SIDE, SIDE),
            "another_image": fields[5],
        },
        movement={name: fields[place].abs() for place, name in enumerate(MOVEMENT)},
        confounds={"texture": fields[6]},
        others={"first_order": attention + 0.5 * fields[1], "random": fields[7]},
        regions=regions,
        curves=curves,
    )


@pytest.fixture(scope="module")
def findings() -> Findings:
    variants = []
    for name in ("efficientnet_lite0, mean 0.999", CLASS):
        statuses = dict.fromkeys(NAMES, "fooled") | {"blind": "not_finite", "left": PENDING}
        variants.append(
            VariantResult(name, "efficientnet_lite0", Evidence.of(photograph_evidence(measurements(), 8)), statuses)
        )
    absent = VariantResult("absent", "absent", problem="no weights <script>window.harmed = 1</script>")
    claim = Claim("dissimilarity", "gradcam", "spearman", "random", "matched", 0.2)
    return analyse([*variants, absent], claim, (0.2,), Inference(0, 0.95, 199), ("attended_area",))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, findings: Findings) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    exhibits = study_exhibits(measurements(), NAMES, lambda index: ("goldfinch", CLASS)[index])
    save_study_report(path, FACTS, findings, exhibits)
    return path


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    show(browser, report)
    return browser


def cells(page: webdriver.Chrome, heading: str, title: str) -> list[str]:
    """A column of the table that this heading names."""
    script = """const [id, title] = arguments;
        const table = document.querySelector(`[aria-labelledby="${id}"] table`);
        const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === title);
        return [...table.tBodies[0].rows].map(row => row.cells[place].textContent.trim());"""
    return page.execute_script(script, heading, title)


def test_the_verdict_and_a_sentence_per_criterion_come_first(page, findings):
    assert page.find_element(By.TAG_NAME, "h1").text == findings.verdict
    sentences = [item.text for item in page.find_elements(By.CSS_SELECTOR, ".criteria li")]
    assert sentences == [f"{criterion.sentence}." for criterion in findings.criteria]
    assert all(criterion.met for criterion in findings.criteria)
    assert "7 of 8 photographs were done" in page.find_element(By.CSS_SELECTOR, ".lead").text


def test_every_variant_is_in_the_table_with_what_came_of_it(page, findings):
    assert cells(page, "criteria-heading", "Variant") == ["efficientnet_lite0, mean 0.999", CLASS, "absent"]
    own = findings.criteria[0].interval
    assert cells(page, "criteria-heading", "Association") == [
        f"{own.estimate:.2f} [{own.low:.2f}, {own.high:.2f}]"
    ] * 2 + ["–"]
    assert cells(page, "criteria-heading", "Problem")[2] == "no weights <script>window.harmed = 1</script>"


def test_plots_say_in_words_what_they_show(page, findings):
    texts = [image.get_attribute("alt") for image in page.find_elements(By.CSS_SELECTOR, ".plot img")]
    assert len(texts) == 9
    top = next(row for row in findings.causal if (row.region, row.budget) == ("top", "equal"))
    assert f"top of Grad-CAM, 20% {top.gain:.0%} from {top.low:.0%} to {top.high:.0%}" in texts[2]
    assert any("random" in text and "the attack" in text for text in texts)
    drawn = page.execute_script("return [...document.querySelectorAll('.plot img')].map(i => i.naturalWidth)")
    assert all(width > 100 for width in drawn)


def test_maps_of_every_photograph_are_there(page):
    articles = page.find_elements(By.TAG_NAME, "article")
    assert len(articles) == len(NAMES)
    captions = [
        caption.get_attribute("textContent") for caption in articles[0].find_elements(By.TAG_NAME, "figcaption")
    ]
    assert (
        len(captions) == 2 + 2 + 4 + 3 + 3
    )  # cuttings, difference and SSIM, of the perturbation, of the classifier, after
    absent = [
        figure.get_attribute("textContent")
        for figure in articles[0].find_elements(By.CSS_SELECTOR, "figure:has(.absent)")
    ]
    assert len(absent) == 2 and all("the same everywhere" in text for text in absent)
    assert any("multiplier" in text for text in absent) and any("ablation" in text for text in absent)
    assert [caption for caption in captions if caption.startswith(("Grad-CAM after", "Appearing"))] == captions[-3:]
    assert any("occlusion" in caption.lower() and "zero everywhere" in caption for caption in captions)
    heading = articles[0].find_element(By.TAG_NAME, "h3").text
    assert "goldfinch" in heading and CLASS in heading


def test_photographs_have_what_the_criteria_are_means_of(page, findings):
    values = [float(value) for value in cells(page, "statuses-heading", "Association") if value != "–"]
    assert len(values) == len(NAMES) and np.mean(values) == pytest.approx(
        findings.criteria[0].interval.estimate, abs=1e-3
    )
    page.find_element(By.CSS_SELECTOR, "[aria-labelledby='statuses-heading'] th:nth-child(4) button").click()
    ordered = cells(page, "statuses-heading", "Association")
    assert ordered[: len(NAMES)] == [f"{value:.3f}" for value in sorted(values)] and ordered[-1] == "–"


def test_tables_sort_each_on_its_own(page):
    heading = page.find_element(By.CSS_SELECTOR, "[aria-labelledby='causal-heading'] th:nth-child(6) button")
    before = cells(page, "associations-heading", "Mean")
    heading.click()
    gains = [float(value) for value in cells(page, "causal-heading", "Share of the gain")]
    assert gains == sorted(gains) and gains[0] < 0.25 and gains[-1] > 0.65
    assert cells(page, "associations-heading", "Mean") == before


def test_how_attention_moves_is_a_table(page, findings):
    means = [f"{row.estimate:.3f}" for row in findings.movement]
    assert means and cells(page, "movement-heading", "Mean") == means
    assert {"1 − Pearson", "share of the gain, own budget"} <= set(cells(page, "movement-heading", "Statistic"))
    groups = [row.group for row in findings.strata]
    assert cells(page, "strata-heading", "Group") == groups and len(groups) == 2


def test_undefined_statistics_are_counted(page, findings):
    assert findings.zero["occlusion"] == len(NAMES)
    rows = zip(
        cells(page, "associations-heading", "Second"),
        cells(page, "associations-heading", "Undefined"),
        cells(page, "associations-heading", "Mean"),
        strict=True,
    )
    assert {(undefined, mean) for second, undefined, mean in rows if second == "occlusion"} == {("6", "–")}


def test_hostile_names_are_text_and_nothing_leaves_the_page(page):
    page.get_log("browser"), page.get_log("performance")
    page.refresh()
    page.execute_script("scrollTo(0, document.body.scrollHeight)")
    assert page.execute_script("return window.harmed") is None
    assert page.execute_script("return document.scripts.length") == 1
    names = [link.get_attribute("textContent") for link in page.find_elements(By.CSS_SELECTOR, ".name a")]
    assert names == NAMES
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 1600])
def test_it_fits_the_width(browser, report, width):
    show(browser, report, width)
    content = browser.execute_script(
        """for (const article of document.querySelectorAll("article")) article.style.contentVisibility = "visible";
        return document.documentElement.scrollWidth;"""
    )
    assert content == width


def test_pictures_have_a_text_and_a_size_and_headings_are_in_order(page):
    for picture in page.find_elements(By.TAG_NAME, "img"):
        assert picture.get_attribute("alt").strip()
        assert int(picture.get_attribute("width")) and int(picture.get_attribute("height"))
    levels = [int(heading.tag_name[1]) for heading in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in pairwise(levels))
