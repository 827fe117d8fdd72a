"""The winner's package: what comes out of it is what the network said."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data import load
from bo_distill.methods.errors import UsageError
from bo_distill.search import predict
from bo_distill.search.api.answers import open_model, probabilities, rows_of
from bo_distill.search.api.view import StudyView
from bo_distill.search.study import exported
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.winner import Card, Deployed, load_model, save_winner, stored_states, winner
from helpers.made_up import changed, made_up
from helpers.tiny import tiny_sentences


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = made_up(Storage(tmp_path_factory.mktemp("predict")))
    assert save_winner(study) == f"{study.folder}/model"
    return study


@pytest.fixture
def pictures(study: Study, tmp_path: Path) -> Path:
    """The first validation images as files."""
    from PIL import Image

    for row, image in enumerate(load(study.plan.task.data).val.x[:5]):
        Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()).save(
            tmp_path / f"{row}.png"
        )
    return tmp_path


def direct(study: Study) -> torch.Tensor:
    """Probabilities of the first validation images by the method's own model."""
    trial, data = winner(study), load(study.plan.task.data)
    assert trial is not None and trial.job.phase == "final"
    configs, states = stored_states(study, trial)
    net = get("fsp").model(configs, states, data.info).eval()
    with torch.no_grad():
        return net(data.val.x[:5].float() / 255).softmax(1)


def test_only_what_the_network_needs_is_kept(study: Study) -> None:
    card = json.loads(study.storage.read_bytes(f"{study.folder}/model/model.json"))
    assert list(card["stages"]) == ["finetune"]
    info = load(study.plan.task.data).info
    assert card["info"]["classes"] == list(info.classes)
    assert card["info"]["account"] == json.loads(json.dumps(dataclasses.asdict(info.account))), "what was read is said"


def test_saved_twice_is_the_same(study: Study) -> None:
    names = [f"{study.folder}/model/{name}" for name in ("model.json", "model.safetensors")]
    before = [study.storage.read_bytes(name) for name in names]
    save_winner(study)
    assert [study.storage.read_bytes(name) for name in names] == before


def test_round_trip_by_folder_and_by_name(study: Study, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = direct(study)
    for model in (study.storage.path(study.folder), study.storage.path(study.folder, "model"), study.plan.task.study):
        assert predict.main([model, str(pictures), "--json", "--storage", study.storage.uri]) == 0
        answers = json.loads(capsys.readouterr().out)
        assert [Path(a["input"]).name for a in answers] == [f"{n}.png" for n in range(5)]
        classes = load(study.plan.task.data).info.classes
        told = torch.tensor([[a["probabilities"][c] for c in classes] for a in answers])
        torch.testing.assert_close(told, expected)
        assert [a["label"] for a in answers] == [classes[k] for k in expected.argmax(1)]


def test_words_for_a_person(study: Study, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([study.storage.path(study.folder), "--top", "3", str(pictures / "0.png")]) == 0
    name, *labels = capsys.readouterr().out.strip().split("\t")
    assert name.endswith("0.png") and len(labels) == 3
    shares = [float(label.split()[-1]) for label in labels]
    assert shares == sorted(shares, reverse=True)


def test_sentences_are_read_as_in_training(tmp_path: Path) -> None:
    data = tiny_sentences()
    deployed = Deployed({"kind": Nth(2, 2, 4).eval()}, data.info, None)  # type: ignore[arg-type]
    file = tmp_path / "some.txt"
    file.write_text("\n".join(data.val.texts[:6]) + "\n\n   \n", encoding="utf-8")
    ((names, x),) = rows_of([str(file)], deployed, [])
    bad: list[str] = []
    assert not [*rows_of([str(tmp_path)], deployed, bad)]
    assert bad == [f"{tmp_path}: Is a directory; give a table or a text file"]
    assert [name.rsplit(":", 1)[1] for name in names] == list("123456")
    assert torch.equal(x, data.val.x[:6])
    assert torch.equal(probabilities(deployed, x)["kind"].argmax(1), data.val.y[:6, 0])


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_exports_answer_as_the_original(
    form: str, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    file = tmp_path / f"model.{form}"
    assert predict.main([study.storage.path(study.folder), "--export", form, str(file)]) == 0
    assert file.stat().st_size > 10_000
    assert "tolerance" in capsys.readouterr().err


def test_an_export_that_differs_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exported, "TOLERANCE", -1.0)
    file = tmp_path / "model.pt2"
    assert predict.main([study.storage.path(study.folder), "--export", "torch", str(file)]) == 1
    assert not file.exists() and "nothing was written" in capsys.readouterr().err


def test_the_model_is_the_winner_s(study: Study, tmp_path: Path) -> None:
    """Also once the search went on, and after a kill between the two files."""
    folder = study.storage.path(study.folder)
    trial = open_model(folder, "").card.trial
    for name, part in (("model.json", {"trial": 99}), ("model.safetensors", None)):
        file = f"{study.folder}/model/{name}"
        kept = study.storage.read_bytes(file)
        if part:
            changed(study.storage, file, **part)
        else:
            study.storage.write_bytes(file, kept[:-1] + bytes([kept[-1] ^ 1]))
        assert open_model(folder, "").card.trial == StudyView(study)._model.card.trial == trial
        assert study.storage.read_bytes(file) == kept


def test_damaged_package(study: Study, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for name in ("model.json", "model.safetensors"):
        storage.write_bytes(name, study.storage.read_bytes(f"{study.folder}/model/{name}"))
    weights = storage.read_bytes("model.safetensors")
    storage.write_bytes("model.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UsageError, match=r"is not what model\.json names"):
        load_model(storage)
    storage.write_bytes("model.json", b"{")
    with pytest.raises(UsageError, match="cannot be read"):
        load_model(storage)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["MODEL"], "no INPUT"),
        (["MODEL", "missing.png"], "missing.png: there is no such file"),
        (["MODEL", "EMPTY"], "there is no image in this folder"),
        (["MODEL", "BROKEN", "--top", "0"], "--top 0: give at least 1"),
        (["MODEL", "--export", "keras", "out"], "--export keras: give torch or onnx"),
        (["MODEL", "--export", "torch", "no/such/folder/out"], "there is no such folder"),
        (["nothing", "BROKEN"], "nothing: no such folder, nor a study"),
        (["EMPTY", "BROKEN"], "there is no model.json"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], told: str, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    stand_for = {
        "MODEL": study.storage.path(study.folder),
        "EMPTY": str(tmp_path / "empty"),
        "BROKEN": str(tmp_path / "broken.png"),
    }
    command = [stand_for.get(word, word) for word in words]
    assert predict.main([*command, "--storage", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and told in message and message.count("\n") == 1


def test_a_study_without_a_winner(study: Study, tmp_path: Path) -> None:
    other = Study(Storage(tmp_path), dataclasses.replace(study.plan))
    with pytest.raises(UsageError, match="no trial was finished"):
        save_winner(other)


def test_no_ray() -> None:
    """A machine that only answers needs no Ray."""
    script = """
import sys
import bo_distill.search.predict
import bo_distill.search.study.winner
assert not any(name.split(".")[0] == "ray" for name in sys.modules)
"""
    done: Any = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_bad_file_does_not_end_the_answers(study: Study, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "1.png").write_bytes(b"no image")
    (pictures / "._1.png").write_bytes(b"what another system keeps beside a file")
    (pictures / ".ipynb_checkpoints").mkdir()
    (pictures / ".ipynb_checkpoints" / "0.png").write_bytes((pictures / "0.png").read_bytes())
    assert predict.main([study.storage.path(study.folder), str(pictures), "--json"]) == 3
    told = capsys.readouterr()
    assert [Path(one["input"]).name for one in json.loads(told.out)] == ["0.png", "2.png", "3.png", "4.png"]
    assert "1.png: this is not an image" in told.err and told.err.count("\n") == 1


class Nth(torch.nn.Module):
    """The logits of a sentence are a function of one of its characters."""

    def __init__(self, at: int, first: int, classes: int) -> None:
        super().__init__()
        self.at, self.first, self.classes = at, first, classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((x[:, self.at] - self.first).clamp(0), 30)[:, : self.classes].float() * 9


@pytest.fixture
def two_tasks() -> Deployed:
    info = dataclasses.replace(tiny_sentences().info, reading={"text_column": "text"})
    card = Card("res_ic", "none", "quick", {}, info, {}, "made-up", 0, 0, {}, {}, "")
    return Deployed({"kind": Nth(2, 2, 4).eval(), "tone": Nth(5, 6, 2).eval()}, info, card)


@pytest.fixture
def sentences(tmp_path: Path) -> str:
    file = tmp_path / "some.txt"
    file.write_text("\n".join(tiny_sentences().val.texts[:6]), encoding="utf-8")
    return str(file)


def asked(*words: str) -> Any:
    return predict.parser().parse(["MODEL", *words])


def test_deep_greys_are_answered_as_training_reads_them(
    study: Study, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(pictures / "0.png") as image:
        grey = np.asarray(image.convert("L"))
    Image.fromarray(grey).save(pictures / "shallow.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(pictures / "deep.png")
    words = [str(pictures / name) for name in ("shallow.png", "deep.png")]
    assert predict.main([study.storage.path(study.folder), *words, "--json"]) == 0
    shallow, as_deep = json.loads(capsys.readouterr().out)
    assert shallow["probabilities"] == as_deep["probabilities"]


def test_every_task_is_answered(two_tasks: Deployed, sentences: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, tone = tiny_sentences().val.y[:6].T.tolist()
    assert predict.answer(asked(sentences, "--json"), two_tasks) == 0
    for answer, a, b in zip(json.loads(capsys.readouterr().out), kind, tone, strict=True):
        assert answer["label"] == answer["tasks"]["kind"]["label"] == "abcd"[a]
        assert answer["tasks"]["tone"]["label"] == "xy"[b]
        assert sum(answer["tasks"]["tone"]["probabilities"].values()) == pytest.approx(1)
    assert predict.answer(asked(sentences, "--top", "2"), two_tasks) == 0
    name, *said = capsys.readouterr().out.splitlines()[0].split("\t")
    assert name == f"{sentences}:1" and [word.split()[0] for word in said[::2]] == [
        f"kind={'abcd'[kind[0]]}",
        f"tone={'xy'[tone[0]]}",
    ]


def test_an_onnx_file_carries_what_its_inputs_and_outputs_mean_and_is_run(
    two_tasks: Deployed, sentences: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    content, off, tolerance = exported.export(two_tasks, "onnx")
    assert off <= tolerance
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    said = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == {"kind": ["a", "b", "c", "d"], "tone": ["x", "y"]}
    assert "cut at 24 characters" in said["preprocessing"]
    assert json.loads(said["card"])["info"]["vocabulary"] == list(two_tasks.info.vocabulary)
    assert predict.main([str(file), sentences, "--json"]) == 0
    of_file = json.loads(capsys.readouterr().out)
    predict.answer(asked(sentences, "--json"), two_tasks)
    assert of_file == json.loads(capsys.readouterr().out)

    for spoilt in (content[:200], content.replace(b'"weights"', b'"Weights"'), b"no network"):
        file.write_bytes(spoilt)
        assert predict.main([str(file), sentences]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {file}") and message.count("\n") == 1


def test_images_of_a_study_are_answered_by_its_onnx_file(
    study: Study, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file = str(tmp_path / "model.onnx")
    assert predict.main([study.storage.path(study.folder), "--export", "onnx", file]) == 0
    assert predict.main([file, str(pictures), "--json"]) == 0
    answers, classes = json.loads(capsys.readouterr().out), load(study.plan.task.data).info.classes
    told = torch.tensor([[answer["probabilities"][c] for c in classes] for answer in answers])
    torch.testing.assert_close(told, direct(study), atol=1e-5, rtol=1e-4)


def test_a_table_with_and_without_a_line_of_names(two_tasks: Deployed, tmp_path: Path) -> None:
    texts = tiny_sentences().val.texts[:3]
    headerless = dataclasses.replace(
        two_tasks,
        info=dataclasses.replace(two_tasks.info, reading={"text_column": "text", "columns": ["label", "text"]}),
    )
    (tmp_path / "a.csv").write_text("".join(f"x,{text}\n" for text in texts), encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,id\n" + "".join(f"{text},7\n" for text in texts), encoding="utf-8")
    for name in ("a.csv", "b.csv"):
        ((names, x),) = rows_of([str(tmp_path / name)], headerless, [])
        assert len(names) == 3 and torch.equal(x, tiny_sentences().val.x[:3])
    told = predict.read_as(two_tasks, {"columns": "label,text"})
    ((_, x),) = rows_of([str(tmp_path / "a.csv")], told, [])
    assert torch.equal(x, tiny_sentences().val.x[:3])
    with pytest.raises(UsageError, match="--ground: this network reads texts"):
        predict.read_as(two_tasks, {"ground": "red"})


def test_a_text_that_cannot_be_read_ends_nothing_and_names_are_shown(
    two_tasks: Deployed, sentences: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    odd = tmp_path / "odd\x1b[31m\n.txt"
    odd.write_text(tiny_sentences().val.texts[0])
    words = [str(tmp_path / "latin.txt"), str(odd), sentences]
    assert predict.answer(asked(*words), two_tasks) == 3
    told = capsys.readouterr()
    assert told.out.count("\n") == 7 and "\x1b" not in told.out
    assert "latin.txt: not UTF-8 at byte 0" in told.err and told.err.count("\n") == 1


def test_tables_are_read_by_column_and_lines_as_an_editor_counts_them(tmp_path: Path) -> None:
    data = tiny_sentences()
    deployed = Deployed({"kind": torch.nn.Identity()}, data.info, None)  # type: ignore[arg-type]
    texts = data.val.texts[:3]
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(f"x,{text}\n" for text in texts), encoding="utf-8")
    (tmp_path / "a.txt").write_text("\n".join([texts[0] + "\u2028" + texts[1], texts[2]]), encoding="utf-8")
    (tmp_path / "a.tsv").write_text("label\ttext\n" + "".join(f"x\t{text}\n" for text in texts), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": 7, "text": text}) + "\n" for text in texts))
    for table in ("a.csv", "a.tsv", "a.jsonl"):
        ((names, x),) = rows_of([str(tmp_path / table)], deployed, [])
        assert len(names) == 3 and torch.equal(x, data.val.x[:3]), table
    ((names, x),) = rows_of([str(tmp_path / "a.txt")], deployed, [])
    assert [name.rsplit(":", 1)[1] for name in names] == ["1", "2"] and torch.equal(x[1], data.val.x[2])
