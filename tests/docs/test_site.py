"""The documentation: it builds without a warning, names everything public, and its code does what it shows."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

import percep
import percep.attacks.baselines
import percep.study
from tests.support.chromium import show
from tests.support.pages import LANGUAGES, ROOT, check, commands, fences, run

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    build = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ)
    assert build.returncode == 0, build.stderr
    return folder


@pytest.mark.multiprocess
@pytest.mark.slow("builds the whole site, which the others share")
def test_every_public_name_has_an_entry(site: Path) -> None:
    _, _, _, _, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    entries = {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}
    modules = {"percep": percep, "percep.attacks.baselines": percep.attacks.baselines, "percep.study": percep.study}
    modules |= {f"percep.{name}": getattr(percep, name) for name in ("attacks", "explain", "solvers")}
    public = {f"{module}.{name}" for module, members in modules.items() for name in members.__all__}
    assert public - entries == set()


@pytest.mark.multiprocess
@pytest.mark.slow("needs the whole site")
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//|<link[^>]*rel="stylesheet"[^>]*href="https?:'
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert [page.name for page in pages if loaded.search(page.read_text())] == []


@pytest.mark.multiprocess
@pytest.mark.slow("needs the whole site, and lays out every formula")
def test_every_formula_is_set(site: Path, browser: webdriver.Chrome) -> None:
    show(browser, site / "mathematics" / "index.html", width=1300)
    formulas = browser.find_elements(By.CSS_SELECTOR, ".arithmatex")
    assert len(formulas) > 100
    assert all(formula.find_elements(By.CSS_SELECTOR, ".katex-html") for formula in formulas)
    assert browser.find_elements(By.CSS_SELECTOR, ".katex-error") == []
    # The end of a formula, and the number beside it, at the width of a laptop's window.
    overlaps = """return [...document.querySelectorAll(".katex-display")].filter(formula => {
      const bases = [...formula.querySelectorAll(".katex-base")].map(base => base.getBoundingClientRect().right);
      const tag = formula.querySelector(".katex-tag");
      const end = (tag ? tag : formula).getBoundingClientRect()[tag ? "left" : "right"];
      return Math.max(...bases.slice(0, tag ? -1 : undefined)) > end;
    }).map(formula => formula.textContent.slice(0, 80))"""
    assert browser.execute_script(overlaps) == []
    text = browser.find_element(By.CSS_SELECTOR, "article").text
    assert "$" not in text and "\\" not in text
    assert browser.execute_script("return document.fonts.check('16px KaTeX_Math')")


@pytest.mark.slow("what is shown is of the real networks, on whole photographs")
@BY_NAME
def test_python_prints_what_is_shown(page: Path) -> None:
    _, pairs = run(page)
    for printed, shown in pairs:
        assert printed == shown
    assert len(pairs) == sum(language == "python" and not title for language, title, _ in fences(page))


@BY_NAME
def test_blocks_are_marked_and_commands_exist(page: Path) -> None:
    assert {language for language, _, _ in fences(page)} <= LANGUAGES
    files = [(title, text) for language, title, text in fences(page) if language == "python" and title]
    assert all(text == f'--8<-- "{title}"\n' and (ROOT / title).is_file() for title, text in files)
    for arguments in commands(page):
        check(arguments)
