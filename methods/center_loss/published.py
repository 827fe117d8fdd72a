"""Sections 3-1 and 3-2 of the report, and the ablation that it should have had."""

from __future__ import annotations

from methods.center_loss.method import METHOD, STEPPED, VARIANTS
from methods.data.dataset import DataSpec
from methods.published import Cell, PaperTable, Scale

NAMES = {
    "a": "a: plain",
    "b": "b: a + batch norm",
    "c": "c: b + schedule",
    "d": "d: c + rotation and flip",
    "e": "e: c with SGD",
    "f": "f: c with RMSprop",
}
PRINTED = {"a": 81.77, "b": 82.61, "c": 84.57, "d": 81.21, "e": 81.80, "f": 83.47}
AGAINST = {"a": "", "b": NAMES["a"], "c": NAMES["b"], "d": NAMES["c"], "e": NAMES["c"], "f": NAMES["c"]}
WITHOUT, WITH = "cross-entropy alone", "with the centre-aligned loss"
# The modern recipe's training, for as many epochs as the others have; they are too few for its warm-up.
MODERN = {
    name: value
    for name, value in METHOD.recipes["modern"].settings.items()
    if name not in ("joint.epochs", "joint.warmup")
}


def tables(scale: Scale) -> tuple[PaperTable, ...]:
    epochs = {"joint.epochs": scale.settings.get("joint.epochs", 150)}
    plain = {**STEPPED, **epochs}

    def aligned(**fields: object) -> dict[str, object]:
        return {**plain, "joint.term": "hinge", **{f"joint.{name}": value for name, value in fields.items()}}

    ablation = (
        Cell("centres from class means", aligned(start="means"), against=WITHOUT),
        Cell("centres at random", aligned(start="random"), against=WITHOUT),
        Cell("pull alone", aligned(term="pull"), against=WITHOUT),
        Cell("push alone", aligned(term="push"), against=WITHOUT),
        Cell("contrastive ratio", aligned(term="ratio"), against=WITHOUT),
        Cell("learned centres", aligned(centres="learned"), against=WITHOUT),
        Cell("cosine margin in place of the loss (CosFace)", aligned(term="none", head="cosine"), against=WITHOUT),
    )
    both = (Cell(WITHOUT, plain, 86.44), Cell(WITH, aligned(), 87.80, against=WITHOUT))
    modern = (
        Cell("crop, flip and cosine", {**plain, **MODERN}, against=WITHOUT),
        Cell("crop, flip, cosine and the loss", {**aligned(), **MODERN}, against="crop, flip and cosine"),
    )
    return (
        PaperTable(
            "Section 3-1: six variants, thirty epochs each",
            tuple(Cell(NAMES[k], VARIANTS[k], PRINTED[k], against=AGAINST[k]) for k in VARIANTS),
        ),
        PaperTable(
            "Section 3-2: the loss at equal epochs, and its parts",
            (*both, *ablation, *modern),
            note="The report's two figures are single runs of 122 and 150 epochs; here both train equally long.",
        ),
        PaperTable(
            "Section 3-2: mean distance within a class over mean distance between classes, in the features",
            (
                Cell(WITHOUT, plain, metric="distance_ratio"),
                Cell(WITH, aligned(), metric="distance_ratio", against=WITHOUT),
            ),
            unit="",
        ),
    )


SCALES = {
    "small": Scale(
        "paper",
        {"main": DataSpec("cifar10", train_size=1000, val_size=200)},
        {"joint.epochs": 30, "joint.width": 16, "joint.features": 128, "joint.batch_size": 64},
        seeds=5,
        shown=(WITH,),
        compared=(WITHOUT, WITH),
    ),
    "paper": Scale("paper", {"main": DataSpec("cifar10")}, seeds=5, shown=(WITH,), compared=(WITHOUT, WITH)),
}
