"""A storage's place: how it is named, and whether it can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.run import main


def test_a_folder_of_another_person_is_named() -> None:
    """The root is everybody's, `stages` somebody's: seen with the rights of a person, who is not root."""
    with tempfile.TemporaryDirectory() as name:
        root, own = Path(name, "team"), os.geteuid()
        stages = root / "stages"
        stages.mkdir(parents=True)
        for folder, mode in ((Path(name), 0o755), (root, 0o777), (stages, 0o555)):
            folder.chmod(mode)
        storage = Storage(root)
        try:
            if own == 0:
                os.seteuid(65534)
            storage.check_writable("studies/new")
            with pytest.raises(UsageError, match=f"{stages} cannot be written: Permission denied; have its owner let"):
                storage.check_writable("studies", "stages")
        finally:
            os.seteuid(own)
        assert os.listdir(root) == ["stages"] and os.listdir(stages) == []


@pytest.mark.parametrize("name", ["studies", "stages", "leaderboard/rows", "leaderboard"])
def test_a_folder_that_cannot_be_written_is_found_before_anything_starts(
    name: str, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_bytes(name, b"")  # a file where a folder should be: not even root can write into it
    assert main(["fsp", f"--storage={storage.uri}"]) == 2
    said = capsys.readouterr().err
    assert f"{name}" in said and "cannot be written: Not a directory" in said and said.count("\n") == 1
    assert storage.list() == [name]


def test_a_name_that_is_not_utf8_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--storage=/tmp/caf\udce9"], ["--data=imagefolder:/tmp/caf\udce9"], ["--data-dir=/tmp/caf\udce9"]):
        assert main(["fsp", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and r"/tmp/caf\xe9: this name is not UTF-8; rename it" in said


def test_a_uri_is_decoded_and_a_path_is_none(tmp_path: Path) -> None:
    assert Storage(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    assert Storage(f"{tmp_path}/a%20b").uri == f"{tmp_path}/a%20b"
