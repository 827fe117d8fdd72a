"""Every method on one data set, from end to end on Ray."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from helpers.running import start

pytestmark = pytest.mark.slow


def test_sentences_are_given_to_the_one_method_that_takes_them(tmp_path: Path) -> None:
    process = start(
        "all", "--data=docstrings", "--train-size=120", "--val-size=60", "--trials=1", "--seeds=2", "--json",
        storage=tmp_path, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, said = process.communicate(timeout=560)
    assert process.returncode == 0, said
    found = json.loads(out)
    assert list(found["studies"]) == ["res_ic"] and found["left_out"]["fsp"] == "takes image data"
    assert "res_ic, 1 of 1" in said and "without internal" in found["sentences"][0]
    page = (tmp_path / "comparisons" / found["all"] / "report.html").read_text()
    assert found["studies"]["res_ic"]["study"] in page
