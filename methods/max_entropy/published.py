"""Table 1 of Cho, Kim & Yoon with the controls that it lacks, collapse against cure, and why the base is low."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.max_entropy.method import METHOD
from bo_distill.methods.method import flatten
from bo_distill.methods.published import Cell, Claim, PaperTable, Scale, headline, short

NONE, PRINTED, TURNED = "no augmentation", "as printed", "the sign turned and nothing else"
FLIPPED = "crop and flip"
CURED = "cured: bounded, with strength as input and a teacher's label term"


def tables(scale: Scale) -> tuple[PaperTable, ...]:
    """Table 1, what the learned maps do, and why the base is low, as cells to be trained at this scale."""
    complete = flatten(METHOD.configure(scale.recipe, scale.settings))
    control = {name: change(complete) for name, change in METHOD.controls.items()}
    cure = {f"augmenter.{name}": value for name, value in CURE.items()}
    learned = (
        Cell(PRINTED, control["as_printed"], 87.60, against=NONE),
        Cell(TURNED, control["sign_turned"], against=NONE),
        Cell(CURED, cure, against=NONE),
    )
    plain = tuple(
        Cell(words, control[name], against=NONE)
        for name, words in (
            ("crop_flip", FLIPPED),
            ("randaugment", "RandAugment"),
            ("trivialaugment", "TrivialAugmentWide"),
        )
    )
    alternate = Cell(
        "cured, classifier and augmenter in turn",
        {**cure, **METHOD.controls["alternate"]({**complete, **cure})},
        against=NONE,
    )
    on_top = {"augmenter.augment": "crop_flip", "finetune.augment": "crop_flip"}
    more = (
        Cell("cured, with colours", {**cure, "augmenter.colour": "affine"}, against=CURED),
        Cell(
            "cured, on top of crop and flip",
            {**cure, **on_top},
            against=FLIPPED,
        ),
        Cell(
            "cured, with colours, on top of crop and flip",
            {**cure, **on_top, "augmenter.colour": "affine"},
            against=FLIPPED,
        ),
    )
    return (
        PaperTable(
            "Table 1: fine-tuned on augmented images",
            (
                *headline(Cell(NONE, control["none"], 87.36), learned[0], learned[2], plain[0]),
                learned[1],
                *more,
                *plain[1:],
                alternate,
            ),
            note="All seeds that a machine trains start from the same classifier, so that intervals are over what "
            "follows it; a difference is taken only where line and control started from the same one. All are "
            "fine-tuned for as many epochs, but for the line in turn: it has fewer, as many as cost the "
            "multiply-adds of augmenter and fine-tuning one after the other. The paper's 87.36 is its network "
            "without augmentation: Adam at 0.1 for 100 epochs, then at 0.01 for 100 more.",
        ),
        *observations((*learned, alternate)),
        PaperTable(
            "Why the base is low: augmentation, stem, optimiser",
            tuple(suspect(a, b, c, complete) for a, b, c in product((False, True), repeat=3)),
            note="The paper's schedule: 0.1 for the classifier's epochs, then 0.01 for the fine-tuning's, in one "
            "training from the first weights. Adam without augmentation is the paper's; it does not name its stem, so "
            "its 87.36 stands beside both. All seeds of a line start from the same weights: what initialisation adds "
            "to the spread is not in it.",
        ),
    )


def observations(cells: Sequence[Cell]) -> Iterator[PaperTable]:
    """What the learned maps of these lines do to images: collapse, or augmentation."""
    collapse = "Frobenius, mean over images; 0 is collapse."
    for title, metric, most, note in (
        ("Distance of the learned map from the identity", "distance", math.inf, collapse),
        ("Entropy of the classifier on augmented images", "entropy_after", math.inf, "In bits."),
        (
            "Share of augmented images that the classifier has right before fine-tuning",
            "agreement",
            1,
            "Of the images as they were, see `agreement_before` in the rows: what falls from there is lost to the map.",
        ),
    ):
        lines = tuple(Cell(cell.name, cell.settings, metric=metric) for cell in cells)
        yield PaperTable(title, lines, unit="", within=(0, most), note=note)


CURE = {
    "objective": "corrected",
    "affine": "bounded",
    "colour": "none",
    "noise": "strength",
    "guard": "teacher",
    "apply": "fixed",
    "probability": 0.5,
    "padding": "reflection",
    "lr": 1e-3,
}


def suspect(augmented: bool, small_stem: bool, sgd: bool, complete: Mapping[str, Any]) -> Cell:
    """A base that differs from the paper's in some of three suspects; the last stage trains all of its schedule.

    Args:
        complete: all settings of the scale.
    """
    first, then = complete["classifier.epochs"], complete["finetune.epochs"]
    settings: dict[str, Any] = {
        "classifier.epochs": 0,
        "classifier.stem": "cifar" if small_stem else "imagenet",
        "augmenter.epochs": 0,
        "finetune.learned": False,
        "finetune.epochs": first + then,
        "finetune.augment": "crop_flip" if augmented else "none",
        "finetune.optimizer": "sgd" if sgd else "adam",
        "finetune.batch_size": 128,
        "finetune.lr": 0.1,
        "finetune.schedule": "step",
        "finetune.warmup": 0.0,
        "finetune.milestones": (float(first),),
        "finetune.factors": (0.1,),
        "finetune.decayed": "all",
        "finetune.weight_decay": 5e-4 if sgd else 0.0,
    }
    name = ", ".join(
        (
            "crop and flip" if augmented else "no augmentation",
            "CIFAR stem" if small_stem else "ImageNet stem",
            "SGD" if sgd else "Adam",
        )
    )
    return Cell(f"{name}, 0.1 then 0.01", settings, None if augmented or sgd else 87.36)


CLAIMS = (
    Claim(
        "Is an augmentation that learns to raise the classifier's entropy better than none, with the loss as printed?",
        "no improvement",
        "Table 1",
        PRINTED,
        NONE,
    ),
    Claim(
        "And with the loss's sign turned, and the augmenter bounded, with strength as input and a label term?",
        "",
        "Table 1",
        CURED,
        NONE,
    ),
)

SCALES = {
    "small": Scale(
        "subset",
        {"main": DataSpec("cifar10", train_size=3000, val_size=500)},
        {"classifier.epochs": 10, "augmenter.epochs": 4, "finetune.epochs": 4},
        shown=(CURED,),
        compared=(PRINTED, TURNED, CURED),
    ),
    # A quarter of ResNet-18's width: as printed, an epoch takes two cores a quarter of an hour.
    "full": Scale(
        "paper",
        {"main": DataSpec("cifar10")},
        {
            "classifier.width": 16,
            **short("classifier", 12),
            "augmenter.epochs": 3,
            **short("finetune", 16),
        },
        words="ResNet-18 at a quarter of its width with the stem for small images; 12 epochs and then 16 of "
        "fine-tuning by Muon with a triangular rate in place of Adam at 0.1 for 100 epochs and at 0.01 for 100 "
        "more; 3 epochs of the augmenter in place of 50.",
        shown=(CURED,),
        compared=(PRINTED, TURNED, CURED),
    ),
    "paper": Scale("paper", {"main": DataSpec("cifar10")}, shown=(CURED,), compared=(PRINTED, TURNED, CURED)),
}
