"""Sections 3-1 and 3-2 of the report, and the ablation that it should have had."""

from __future__ import annotations

import math

from bo_distill.methods.center_loss.method import METHOD, STEPPED, VARIANTS
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.method import flatten
from bo_distill.methods.published import Cell, Claim, PaperTable, Scale, headline, short

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
    """The report's comparison and the ablation, as cells to be trained at this scale."""
    plain = {**STEPPED, "joint.epochs": 150, **scale.settings}
    lesser = {**plain, **scale.lesser}
    # The variants are the report's: its training, whatever the scale's is, where that changes more than the size.
    printed = flatten(METHOD.configure("paper"))
    theirs = {name: printed[name] for name in scale.settings if scale.lesser}
    variants = tuple(
        Cell(NAMES[k], {**theirs, **scale.lesser, **VARIANTS[k]}, PRINTED[k], against=AGAINST[k]) for k in VARIANTS
    )

    def aligned(**fields: object) -> dict[str, object]:
        """The lesser settings with the hinge, and these fields of `joint`."""
        return {**lesser, "joint.term": "hinge", **{f"joint.{name}": value for name, value in fields.items()}}

    both = (Cell(WITHOUT, plain, 86.44), Cell(WITH, {**plain, "joint.term": "hinge"}, 87.80, against=WITHOUT))
    parts = [
        Cell("centres from class means", aligned(start="means"), against=WITHOUT),
        Cell("centres at random", aligned(start="random"), against=WITHOUT),
        Cell("pull alone", aligned(term="pull"), against=WITHOUT),
        Cell("push alone", aligned(term="push"), against=WITHOUT),
        Cell("contrastive ratio", aligned(term="ratio"), against=WITHOUT),
        Cell("learned centres", aligned(centres="learned"), against=WITHOUT),
        Cell("cosine margin in place of the loss (CosFace)", aligned(term="none", head="cosine"), against=WITHOUT),
    ]
    if scale.lesser:
        parts = [Cell(WITHOUT, lesser), Cell(WITH, aligned(), against=WITHOUT), *parts]
    else:
        modern = "crop, flip and cosine"
        parts = [
            *both,
            *parts,
            Cell(modern, {**plain, **MODERN}, against=WITHOUT),
            Cell(f"{modern.replace(' and', ',')} and the loss", {**aligned(), **MODERN}, against=modern),
        ]
    return (
        PaperTable(
            "Section 3-2: with the loss and without",
            headline(*both),
            note="The report's two figures are single runs of 122 and 150 epochs; here both train equally long.",
        ),
        PaperTable(
            "Section 3-2: the loss's parts",
            tuple(parts),
            note="At half the width." if scale.lesser else "",
        ),
        PaperTable(
            "Section 3-1: six variants, thirty epochs each",
            variants,
            note="The report's own training, at half the width." if scale.lesser else "",
        ),
        PaperTable(
            "Section 3-2: mean distance within a class over mean distance between classes, in the features",
            (
                Cell(WITHOUT, plain, metric="distance_ratio"),
                Cell(WITH, both[1].settings, metric="distance_ratio", against=WITHOUT),
            ),
            unit="",
            within=(0, math.inf),
        ),
    )


CLAIMS = (
    Claim(
        "Is a network better whose features are pulled to their class's centre, and centres pushed apart?",
        "better, by 1.4",
        "Section 3-2: with the loss",
        WITH,
        WITHOUT,
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
    "full": Scale(
        "paper",
        {"main": DataSpec("cifar10")},
        {**short("joint", 16), "joint.augment": "crop_flip"},
        words="The network and the data are the report's. It trains for 16 epochs by Muon with a triangular rate, "
        "crops and flips in place of 150 by Adam without them; the parts of the loss and the six variants "
        "have half the width, the variants the report's own training for its 30 epochs.",
        shown=(WITH,),
        compared=(WITHOUT, WITH),
        lesser={"joint.width": 32, "joint.features": 256},
    ),
    "paper": Scale(
        "paper",
        {"main": DataSpec("cifar10")},
        {"joint.patience": 2000},
        words="No training stops early: with the report's patience each line would train for another number of epochs.",
        seeds=5,
        shown=(WITH,),
        compared=(WITHOUT, WITH),
    ),
}
