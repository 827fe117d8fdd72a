"""The section that shows how the winner answers on validation: confusions, calibration, its most confident errors."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from bo_distill.methods import pictures
from bo_distill.methods.data import stage_running
from bo_distill.methods.data.dataset import Split
from bo_distill.methods.errors import UsageError, counted
from bo_distill.methods.metrics import calibration_error, reliability
from bo_distill.search.evidence.words import percent
from bo_distill.search.pages.charts.look import NARROW
from bo_distill.search.pages.charts.predictions import diagram
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Cell, Page
from bo_distill.search.pages.sections.paper import LEFT_OUT, rebuilt
from bo_distill.search.study.winner import winner

SHOWN = 12  # errors
CONFUSED = 8  # pairs of classes


def add_predictions(page: Page, f: Findings, draw: bool) -> None:
    """
    Args:
        draw: run the winner's network on validation; else say that this is left out.
    """
    page.section("Answers")
    chosen = winner(f.study)
    if chosen is None or not draw:
        page.say("No trial has finished." if chosen is None else LEFT_OUT)
        return
    try:
        with stage_running():  # the test split is locked
            run = rebuilt(f.study, chosen)
            net = run.worker.place(f.study.method.model(run.configs, run.states, run.worker.data.info))
            logits = run.worker.predict(net, run.split.x)
    except UsageError as error:
        page.say(f"The winner's network cannot be run: {error}.")
        return
    labels = run.split.y if run.split.y.dim() == 1 else run.split.y[:, 0]
    info = run.worker.data.info
    confidence, guess = logits.softmax(1).max(1)
    right = float((guess == labels).double().mean())
    task = f", {info.tasks[0][0]}" if len(info.tasks) > 1 else ""
    page.say(
        f"Trial {chosen.job.number} (seed {chosen.job.seed}) on the {counted(len(labels), 'row')} of validation{task}:",
        f"{percent(right)}% right.",
    )
    _confusions(page, labels, guess, info.classes)
    bins, gap = reliability(logits, labels), percent(calibration_error(logits, labels))
    page.chart(
        "reliability",
        lambda narrow: diagram(bins, narrow),
        "Reliability diagram",
        "Accuracy of the answers against their confidence, and how many there are of each. On the diagonal an answer "
        f"of 80% is right in 80 of 100 cases; expected calibration error {gap}%.",
    )
    add_errors(page, run.split, labels, guess, confidence, info.classes)


def _confusions(page: Page, labels: Tensor, guess: Tensor, classes: tuple[str, ...]) -> None:
    page.chart(
        "confusion",
        lambda narrow: pictures.confusion(labels, guess, classes, title="", width=NARROW if narrow else 6.4),
        "Confusion matrix",
        "Confusion matrix: of the rows of each true class, the per cent that were taken for each class.",
    )
    size = len(classes)
    counts = torch.bincount(labels * size + guess, minlength=size * size).view(size, size)
    totals = counts.sum(1)
    counts.fill_diagonal_(0)
    most = counts.flatten().argsort(descending=True, stable=True)[:CONFUSED]
    pairs = [divmod(int(place), size) for place in most if counts.flatten()[place]]
    if pairs:
        page.table(
            ("true class", "taken for", "rows", "% of the class"),
            [
                (
                    Cell(classes[true], classes[true]),
                    Cell(classes[taken], classes[taken]),
                    int(counts[true, taken]),
                    percent(float(counts[true, taken] / totals[true]), 1),
                )
                for true, taken in pairs
            ],
            "The most frequent confusions",
        )


def add_errors(
    page: Page, split: Split, labels: Tensor, guess: Tensor, confidence: Tensor, classes: tuple[str, ...]
) -> None:
    """The answers that are wrong with the highest confidence, with their inputs. labels, guess, confidence (n,)."""
    wrong = (guess != labels).nonzero()[:, 0]
    if not len(wrong):
        page.say("Every answer is right.")
        return
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:SHOWN].tolist()
    page.add(
        "errors",
        title=f"The most confident errors, {len(worst)} of {len(wrong):,}",
        entries=[
            {
                "image": "" if split.texts else _png(split.x[row]),
                "text": split.texts[row] if split.texts else "",
                "true": classes[labels[row]],
                "guess": classes[guess[row]],
                "confidence": percent(float(confidence[row]), 1),
            }
            for row in worst
        ],
    )


def _png(image: Tensor) -> str:
    """An image (c, h, w) uint8 as a PNG in base64; of other than three channels the first is shown."""
    pixels = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
