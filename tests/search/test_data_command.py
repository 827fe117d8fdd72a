"""`python -m search.data`: what is in a data set, in words, as JSON, on a page and on a sheet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bo_distill.search import data
from helpers.data_files import ROWS, folder, table

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_folder_in_words_and_on_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = folder(tmp_path / "x", {"cat": 9, "dog": 12})
    (tmp_path / "x" / "cat" / "again.png").write_bytes((tmp_path / "x" / "cat" / "1.png").read_bytes())
    sheet = tmp_path / "sheet.png"
    assert data.main([spec.name, "--image-size", "8", "--out", str(sheet)]) == 0
    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines() if line.split()[:1] in (["cat"], ["dog"], ["all"])] == [
        ["cat", "7", "1", "1"],
        ["dog", "8", "2", "2"],
        ["all", "2", "classes", "15", "3", "3"],
    ]
    assert "1 row left out: equal to another row of their part (train, e.g. cat/again.png)" in told.out
    with Image.open(sheet) as image:
        assert image.size == (640, 128)


def test_a_text_as_json_and_on_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = table(tmp_path / "a.csv", [*ROWS, ("<b>odd</b>", "No"), ("<i>", "No"), ("<u>", "No")])
    page = tmp_path / "page.html"
    assert data.main(["--data", spec.name, "--json", "--out", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["train"] == {"No": 1, "no": 17, "yes": 17} and told["left_out"] == []
    assert told["notes"] == ["labels that look alike stay different classes: no (20 rows), No (3 rows)"]
    html = page.read_text()
    assert "sentence number" in html and "look alike" in html and "<b>odd" not in html
    assert data.main([spec.name, "--out", str(tmp_path / "sheet.png")]) == 2
    assert "has no images; give a name that ends in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which data?"),
        (["digits", "--data", "digits"], "which data?"),
        (["digits", "--out", "page.pdf"], "ends in .html or .png"),
        (["digits", "--out", "nowhere/page.html"], "no such folder"),
        (["nothing"], "no such data set"),
    ],
)
def test_bad_usage_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(words) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
