"""The page in a real browser: what a reader can do with it, and that it says nothing on the console."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.search.pages.study import write
from helpers.made_up import made_up

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(options))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    storage = Storage(tmp_path_factory.mktemp("page"))
    return Path(storage.path(write(made_up(storage)))).as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    said: list[str] = []
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert said == []


def shown(page: Any) -> list[str]:
    return page.locator("table.trials tbody tr:visible td:first-child").all_inner_texts()


def test_trials_are_sorted_by_value_and_filtered(page: Any) -> None:
    assert shown(page) == [str(n) for n in range(10)]
    head = page.get_by_role("button", name="validation %")
    head.click()
    assert shown(page)[0] == "9", "the pruned trial has the lowest accuracy"
    head.click()
    assert shown(page)[0] == "2" and shown(page)[-1] == "8", "the winner first, the trial without a value last"
    assert page.locator("table.trials tr.best td").first.inner_text() == "2"
    field = page.get_by_role("searchbox")
    field.fill("failed")
    assert shown(page) == ["8"]
    field.fill("done validation>=90")
    assert set(shown(page)) == {"0", "1", "2", "3", "7"}
    assert page.get_by_role("status").first.inner_text() == "5 of 10 trials"


def test_what_is_shown_is_exported_in_full(page: Any) -> None:
    page.get_by_role("searchbox").fill("failed")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert download.value.suggested_filename == "fsp-bo-made-up.csv"
    assert lines[0] == "trial,transfer.lr,transfer.weight,validation %,seconds,status"
    assert lines[1].startswith("8,0.00912010839") and ",0.9," in lines[1] and "diverged" not in lines[1]
    assert len(lines) == 2


def test_a_click_shows_a_trial_with_its_settings_and_curves(page: Any) -> None:
    page.locator("tr[data-trial='3'] td").nth(3).click()
    dialog = page.get_by_role("dialog")
    text = dialog.inner_text()
    assert "Trial 3" in text and "transfer.lr" in text and "0.002291" in text and "Dashed" in text
    assert dialog.locator("svg polyline.own").count() == 3, "accuracy and both losses of finetune"
    dialog.get_by_role("button", name="previous").click()
    assert "Trial 2, the winner" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_marks_in_charts_are_trials(page: Any) -> None:
    history = page.get_by_role("img", name="Validation accuracy of each trial and the best so far")
    assert history.locator(".mark").count() == 8 + 1 + 1 + 1, (
        "done, failed and pruned, and the winner's star over its own"
    )
    star = page.locator("g.trials[data-trials='2']:visible").first
    star.hover()
    assert page.locator(".tip").inner_text().startswith("Trial 2, the winner\nvalidation accuracy: 94.55%")
    star.click()
    assert "Trial 2" in page.get_by_role("dialog").inner_text()


def test_a_phone_can_read_it(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.evaluate("""() => {
        const drawn = [...document.querySelectorAll('.chart svg')].filter(svg => svg.getBoundingClientRect().width);
        const scale = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        const size = text => parseFloat(getComputedStyle(text).fontSize);
        return drawn.flatMap(svg => [...svg.querySelectorAll('text')].map(text => size(text) * scale(svg)));
    }""")
    assert len(sizes) > 50 and min(sizes) >= 8.5, "CSS pixels"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", paper)[:3])) < 120
    page.close()
