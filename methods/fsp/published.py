"""Tables 1 and 2 and Figure 4 of Kim & Bae 2020."""

from __future__ import annotations

from typing import Any

from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.fsp.method import METHOD, student_alone, student_alone_equal_epochs
from bo_distill.methods.method import flatten, stretched
from bo_distill.methods.published import Cell, Claim, PaperTable, Scale, headline, short

SOFT: dict[str, Any] = {"finetune.distill": 0.5}
# Hinton et al. 2015; Zhao et al. 2022; Sun et al. 2024; learned weights Kendall et al. 2018.
LATER: dict[str, dict[str, Any]] = {
    " and soft targets": SOFT,
    " and decoupled soft targets": {**SOFT, "finetune.soft": "dkd"},
    " and standardised soft targets": {**SOFT, "finetune.standardise": True},
    ", sections balanced at the start": {"transfer.balance": "start"},
    ", sections with learned weights": {"transfer.balance": "learned"},
}
HOMOGENEOUS, HETEROGENEOUS = {"teacher.arch": "resnet26"}, {"teacher.arch": "vgg26"}
ALONE, EQUAL = "student alone", "student alone, equal epochs"
TUNED = "Bayesian, student alone for equal epochs"
HOMO, HETERO = "homogeneous teacher", "heterogeneous teacher"


def tables(scale: Scale) -> tuple[PaperTable, ...]:
    """Tables 1 and 2 and Figure 4 as cells to be trained at this scale."""
    complete = flatten(METHOD.configure(scale.recipe, scale.settings))
    # Where a teacher takes an hour, a student alone does not wait for one.
    untaught = {"teacher.epochs": 0} if scale.recipe == "paper" else {}
    alone = {**student_alone(complete), **untaught}
    equal = {**student_alone_equal_epochs(complete), **untaught}
    shorter: dict[str, Any] = {}
    if scale.searching:
        while_searching = flatten(METHOD.configure(scale.recipe, {**scale.settings, **scale.searching}))
        shorter = {**student_alone_equal_epochs(while_searching), **untaught}
    rate = complete["finetune.lr"]
    around = f"{rate / 10:g}:{rate * 10:g}:log"
    longer = {**alone, **stretched(complete, "finetune", 2 * complete["finetune.epochs"])}
    return (
        PaperTable(
            "Table 1: ResNet-14 alone and after the transfer",
            (
                *headline(
                    Cell(ALONE, alone, 90.32),
                    Cell(EQUAL, equal, against=ALONE),
                    Cell(HOMO, HOMOGENEOUS, 90.92, against=EQUAL),
                    Cell(HETERO, HETEROGENEOUS, 90.70, against=EQUAL),
                ),
                *(Cell(f"{HOMO}{words}", {**HOMOGENEOUS, **more}, against=EQUAL) for words, more in LATER.items()),
                Cell(f"{HETERO} and soft targets", {**HETEROGENEOUS, **SOFT}, against=EQUAL),
                Cell("student alone, twice the epochs", longer, against=ALONE, seeds=1),
            ),
            note="Lambda 1 and the default learning rate, not searched. Soft targets and balanced sections are what "
            "later work adds.",
        ),
        PaperTable(
            "The teachers",
            tuple(
                Cell(f"{words} teacher, its own accuracy", settings, metric="teacher_accuracy", shared=True)
                for words, settings in (("homogeneous", HOMOGENEOUS), ("heterogeneous", HETEROGENEOUS))
            ),
            note="A teacher below the student alone gives away the flow of a worse network: nothing above then speaks "
            "against the method. One serves all seeds that a machine trains and counts once, so n is of teachers, and "
            "the intervals of students above are over their seeds alone. Yim et al. 2017 print 91.75 for ResNet-26.",
        ),
        PaperTable(
            "Table 2 and Figure 4: grid search against Bayesian optimisation",
            (
                Cell("grid, homogeneous", HOMOGENEOUS, 91.12, searcher="grid", printed_seconds=411_665),
                Cell(
                    "Bayesian, homogeneous",
                    HOMOGENEOUS,
                    91.35,
                    searcher="bo",
                    against="grid, homogeneous",
                    printed_seconds=184_498,
                ),
                Cell("grid, heterogeneous", HETEROGENEOUS, 90.85, searcher="grid", printed_seconds=403_208),
                Cell(
                    "Bayesian, heterogeneous",
                    HETEROGENEOUS,
                    90.96,
                    searcher="bo",
                    against="grid, heterogeneous",
                    printed_seconds=147_576,
                ),
            ),
            note="Validation chooses; the paper chose on test. The Bayesian search stops after a number of trials "
            "without a better accuracy, as the paper's does.",
        ),
        PaperTable(
            "Table 2 against its control, searched alike",
            (
                Cell(TUNED, equal, searcher="bo", space={"finetune.lr": around}, searching=shorter),
                Cell("Bayesian, homogeneous", HOMOGENEOUS, searcher="bo", against=TUNED),
                Cell("Bayesian, heterogeneous", HETEROGENEOUS, searcher="bo", against=TUNED),
            ),
            note="The winners of Table 2 had a search; here the control has one with the same patience, of no more "
            f"trials, over the one thing that it has of its own, the learning rate of its labels ({around}). The "
            "lines of Table 1 are searched on neither side.",
        ),
    )


CLAIMS = (
    Claim("Does a homogeneous teacher's flow make a better student than labels?", "better", "Table 1", HOMO, EQUAL),
    Claim("Does that of a heterogeneous one, a network without shortcuts?", "better", "Table 1", HETERO, EQUAL),
)

SCALES = {
    "small": Scale(
        "quick",
        {"main": DataSpec("cifar10", train_size=1000, val_size=500)},
        {f"{stage}.augment": "crop_flip" for stage in ("teacher", "transfer", "finetune")},
        trials=12,
        patience=5,
        shown=(HOMO,),
    ),
    # The transfer keeps plain momentum: an orthogonalised step does not feel lambda, by which eq. (1) is scaled.
    "full": Scale(
        "paper",
        {"main": DataSpec("cifar10")},
        {
            **short("teacher", 24),
            **short("finetune", 24),
            "transfer.epochs": 6,
            "transfer.nesterov": True,
            "transfer.decayed": "matrices",
            "transfer.schedule": "linear",
            "transfer.warmup": 1.2,
            "transfer.milestones": (),
            "transfer.factors": (),
            "transfer.norm": "global",
            "transfer.clip": 5.0,
        },
        trials=12,
        patience=5,
        words="The networks and the data are the paper's. Teacher and student train for 24 epochs by Muon with a "
        "triangular rate, the transfer for 6 by SGD; the paper prints no epochs, and those of its scale here "
        "are He et al.'s 182 in steps. The searches train their trials for 8 epochs, their winners in full.",
        shown=(HOMO,),
        searching={"transfer.epochs": 2, "transfer.warmup": 0.4, "finetune.epochs": 6, "finetune.warmup": 1.2},
    ),
    "paper": Scale("paper", {"main": DataSpec("cifar10")}, trials=12, patience=5, shown=(HOMO,)),
}
