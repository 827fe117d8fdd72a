"""The live page: drawn anew as trials end, served to this machine alone, closed with its search."""

from __future__ import annotations

import io
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search import report
from bo_distill.search.pages import live
from bo_distill.search.study.ledger import Study
from helpers.made_up import made_up

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def begun(storage: Storage, trials: int) -> tuple[Study, list[Any]]:
    """A study of which only so many trials have ended, and the others."""
    study = made_up(storage)
    rest = study.trials[trials:]
    del study.trials[trials:]
    study.save()
    return study, rest


def got(address: str, path: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of an answer, once the page is drawn, however long a busy machine takes for it."""
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return error.code, error.read().decode()


def test_a_process_serves_it_to_this_machine_alone_and_ends_with_the_search(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = begun(storage, 3)
    page, said = live.LivePage(0), io.StringIO()
    address = live.address(page.door)
    script = ModuleType("__main__")  # without a guard: the process must not run it again
    script.__file__, again = str(tmp_path / "script.py"), tmp_path / "again"
    Path(script.__file__).write_text(f"open({str(again)!r}, 'w')\n")
    with monkeypatch.context() as running:
        running.setitem(sys.modules, "__main__", script)
        page.show(study, said)
    try:
        assert said.getvalue() == f"live page: {address}\n" and address.startswith("http://127.0.0.1:")
        status, text = got(address)
        assert status == 200 and "Live: 3 of 10 trials have ended." in text and 'data-trial="2"' in text
        assert not again.exists()
        assert "connect-src 'self'" in text and "default-src 'none'" in text
        assert got(address, "version") == (200, '{"version": 1, "ended": false}')
        assert got(address, Host="photos.example:80")[0] == 403
        for path in ("study.json", "../study.json", "?a"):
            assert got(address, path)[0] == 404, path
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(urllib.request.Request(address, b"x=1", method="POST"), timeout=60)
        page.process.kill()  # costs the page, and nothing else
        page.process.join()
    finally:
        page.close(at_once=False)
    with pytest.raises(urllib.error.URLError):
        got(address)


def test_a_browser_leaves_out_the_port_that_is_the_web_s_own() -> None:
    def names(port: int) -> set[str]:
        door: Any = SimpleNamespace(getsockname=lambda: (live.HOST, port), fileno=lambda: -1, close=lambda: None)
        return live.Server(door, live.Board()).names

    assert names(80) == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}
    assert names(8080) == {"127.0.0.1:8080", "localhost:8080"}


def test_a_taken_port_and_a_finished_study_are_refused(storage: Storage) -> None:
    with live.listen(0) as door, pytest.raises(UsageError, match=r"--live \d+: Address already in use; give another"):
        live.listen(door.getsockname()[1])
    made_up(storage)
    with pytest.raises(UsageError, match="has ended; leave it out to write its page"):
        report.run(report.parser().parse(["fsp-bo-made-up", "--live", f"--storage={storage.uri}"]))
    with pytest.raises(UsageError, match="--live: NAME: no port"):
        report.parser().parse(["--live", "NAME"])


def test_a_page_that_cannot_be_drawn_is_tried_again_with_the_next_trial(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, rest = begun(storage, 3)
    drawn, looks = [], iter(range(3))

    def draw(study: Study, version: int) -> str:
        drawn.append(len(study.trials))
        if len(drawn) == 1:
            raise RuntimeError("no such font")
        return "<html></html>"

    def over(seconds: float) -> bool:
        look = next(looks)
        if look == 1:
            study.trials.append(rest.pop(0))
            study.save()
        return look == 2

    monkeypatch.setattr("bo_distill.search.pages.study.live_page", draw)
    live.serve(live.listen(0), storage, study.plan.task.study, over)
    assert drawn == [3, 4]
    assert capsys.readouterr().err == "the page was not drawn: no such font\n"


@pytest.fixture
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def test_what_a_reader_did_stays_while_trials_are_added(chromium: Any, storage: Storage) -> None:
    study, rest = begun(storage, 6)
    end = threading.Event()
    door = live.listen(0)
    server = threading.Thread(target=live.serve, args=(door, storage, study.plan.task.study, end.wait))
    server.start()
    said: list[str] = []
    page = chromium.new_page(viewport={"width": 1300, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))
    try:
        page.goto(live.address(door))
        status = page.locator(".live")
        assert status.inner_text() == "Live: 6 of 10 trials have ended."
        page.get_by_role("button", name="validation %").click()
        page.get_by_role("searchbox").fill("done validation>=90")
        page.get_by_text("study.json").click()
        page.locator("tr[data-trial='1'] td").nth(3).click()
        assert "Trial 1" in page.get_by_role("dialog").inner_text()
        page.keyboard.press("Escape")
        page.get_by_role("searchbox").focus()
        heading = page.locator("#training")
        heading.evaluate("each => scrollTo(0, each.getBoundingClientRect().top + scrollY - 100)")
        study.trials += rest[:4]
        study.save()
        sync(page, "10 of 10 trials")
        assert abs(heading.evaluate("each => each.getBoundingClientRect().top") - 100) < 2, (
            "it scrolls to no other place"
        )
        shown = page.locator("table.trials tbody tr:visible td:first-child").all_inner_texts()
        assert shown == ["7", "0", "3", "1", "2"] or set(shown) == {"0", "1", "2", "3", "7"}
        values = page.locator("table.trials tbody tr:visible td:nth-child(4)").all_inner_texts()
        assert values == sorted(values), "still sorted"
        assert page.get_by_role("searchbox").input_value() == "done validation>=90"
        assert page.get_by_role("searchbox").evaluate("each => each === document.activeElement")
        assert page.locator("details[open]").last.locator("summary").inner_text() == "study.json"
        assert page.get_by_role("status").nth(1).inner_text() == "5 of 10 trials"
        page.locator("g.trials[data-trials='2']:visible").first.click()
        assert "Trial 2, the winner" in page.get_by_role("dialog").inner_text()
        page.keyboard.press("Escape")
        end.set()
        sync(page, "The search has ended; this page does not change any more.")
        server.join(10)
        assert not server.is_alive()
        time.sleep(1.5)  # it asks no more, or the console would say that nobody answers
    finally:
        end.set()
        server.join()
    assert said == [] and len(loads) == 1


def sync(page: Any, words: str) -> None:
    """Wait until the page's status says so."""
    page.locator(".live", has_text=words).wait_for(timeout=30_000)
