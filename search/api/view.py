"""A study as Python code sees it."""

from __future__ import annotations

import html
import io
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError, counted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.records import Outcome, Trial
    from bo_distill.search.study.winner import Deployed

HEIGHT = 800  # of a page in a notebook, in pixels


class Text(str):
    """Text that a prompt or a notebook shows as it is, with its lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Result:
    """What came of one trial.

    Attributes:
        number: of the trial in its study.
        phase: "search", "confirm" (one of the best again), "tune" (a control's own search), "final" (the winner over a
            fresh seed) or "control".
        control: which control, or None.
        seed: of the trial.
        settings: the searched hyperparameters ("stage.field" -> value).
        status: "done", "failed", "pruned" (a scheduler stopped it) or "interrupted".
        reason: why it ended, if not done.
        val: "accuracy", "loss" and others on validation; shares from 0 to 1.
        test: the same on test; of the phases "final" and "control" alone.
        seconds: from start to finish.
    """

    number: int
    phase: str
    control: str | None
    seed: int
    settings: dict[str, Any]
    status: str
    reason: str | None
    val: dict[str, float]
    test: dict[str, float]
    seconds: float

    @classmethod
    def of(cls, study: Study, trial: Trial, outcome: Outcome) -> Result:
        """Of a trial that has ended."""
        job = trial.job
        settings = {name: job.settings[name] for name in study.plan.space if name in job.settings}
        return cls(
            job.number, job.phase, job.control, job.seed, settings, outcome.status, outcome.reason,
            dict(outcome.val), dict(outcome.test), outcome.seconds,
        )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Accuracy on test over fresh seeds, a share from 0 to 1.

    Attributes:
        mean: over the seeds.
        sd: standard deviation over the seeds; None for one seed.
        n: how many seeds.
        interval: 95% interval of the mean; None for one seed, or where all seeds are equal.
    """

    mean: float
    sd: float | None
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Report:
    """A study's page, which shows itself in a notebook.

    Attributes:
        path: of the page, one HTML file that needs no network.
    """

    path: str
    text: str = field(repr=False)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.text)}" width="100%" height="{HEIGHT}" frameborder="0"></iframe>'


class StudyView:
    """A study that was run, or is running elsewhere: what `bo_distill.run` and `bo_distill.open` return.

    It shows what the study's folder held when it was opened; open it again to see what another process added.

    Attributes:
        name: of the study.
        storage: where it is kept.
    """

    def __init__(self, study: Study, seconds: float | None = None) -> None:
        self._study, self._seconds = study, seconds
        self.name: str = study.plan.task.study
        self.storage: str = study.storage.uri

    def __repr__(self) -> str:
        plan, best = self._study.plan, self._study.best()
        found = f", the best {self._study.metric.told(self._study.value(best))}" if best else ""
        ended = sum(trial.finished for trial in self._study.of_phase("search"))
        return f"<study {self.name}: {plan.task.method} on {plan.task.data.name}, {counted(ended, 'trial')}{found}>"

    @property
    def path(self) -> str:
        """The study's folder."""
        return self._study.storage.path(self._study.folder)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run; `bo_distill.run(resume=study.name)` goes on with one that is not."""
        return self._study.complete

    @property
    def trials(self) -> list[Result]:
        """Every trial that has ended, in the order in which they were asked for."""
        return [self._result(trial) for trial in self._study.trials if trial.finished]

    @property
    def best(self) -> Result | None:
        """The winner, chosen on validation alone; None as long as no trial is done."""
        best = self._study.best()
        return self._result(best) if best else None

    @property
    def test(self) -> Score | None:
        """The winner's accuracy on test; None as long as the test split is unread."""
        return self._score("final", None)

    @property
    def controls(self) -> dict[str, Score | None]:
        """Each control's accuracy on test."""
        names = dict.fromkeys(trial.job.control for trial in self._study.of_phase("control"))
        return {name: self._score("control", name) for name in names if name}

    def result(self) -> Text:
        """What was found, in words: the trials, the winner, a verdict on each control, what to do next."""
        from bo_distill.search.command.summary import print_summary
        from bo_distill.search.evidence.advice import in_python
        from bo_distill.search.evidence.summary import summarise

        seconds = self._seconds
        if seconds is None:
            seconds = sum(trial.seconds for trial in self._study.trials)
        out = io.StringIO()
        print_summary(summarise(self._study, seconds, in_python), out)
        return Text(out.getvalue().strip("\n"))

    def frame(self) -> pd.DataFrame:
        """A row for each trial that has ended; the searched hyperparameters are columns by their names, scores are
        "val_accuracy", "test_accuracy" and so on.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UsageError("frame() needs pandas; pip install -e '.[notebook]'") from None
        rows = []
        for one in self.trials:
            plain = {name: value for name, value in vars(one).items() if name not in ("settings", "val", "test")}
            scores = {f"val_{name}": value for name, value in one.val.items()}
            scores |= {f"test_{name}": value for name, value in one.test.items()}
            rows.append({"trial": plain.pop("number"), **one.settings, **scores, **plain})
        return pd.DataFrame(rows)

    def report(self, figures: bool = True) -> Report:
        """Draw the study's page; a notebook shows it.

        Args:
            figures: also those that need the winner's network, which take a while.

        Raises:
            UsageError: the storage cannot be written.
        """
        from bo_distill.search.pages.study import keep, page_of

        storage, page = self._study.storage, page_of([self._study], figures)
        return Report(storage.path(keep(storage, f"{self._study.folder}/report.html", *page)), page[0])

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Each task that the winner answers, the main one first -> the names of its classes, in order."""
        return self._model.tasks

    def predict(self, x: Any, task: str | None = None) -> list[str]:
        """The class that the winner finds most probable for each row.

        Args:
            x: images as for `data` of `bo_distill.run`, of the size that the network was trained on, or names of image
                files and folders, which are brought to that size; or sentences.
            task: of `tasks`; None for the main one.

        Raises:
            UsageError: the rows are not what the network takes, or the study has no winner yet.
        """
        classes = self.tasks[self._task(task)]
        return [classes[number] for number in self.predict_proba(x, task).argmax(1)]

    def predict_proba(self, x: Any, task: str | None = None) -> NDArray[np.float32]:
        """The winner's probabilities (n, classes), columns in the order of `tasks`; each row's sum is 1.

        Args:
            x, task: as for `predict`.

        Raises:
            UsageError: as `predict`.
        """
        import torch

        from bo_distill.search.api.answers import ROWS, handed_over, probabilities

        name = self._task(task)
        parts = handed_over(x, self._model).split(ROWS)
        return torch.cat([probabilities(self._model, part)[name] for part in parts]).numpy()

    def _task(self, name: str | None) -> str:
        if name is None:
            return next(iter(self.tasks))
        if name not in self.tasks:
            raise UsageError(f"predict: task {name}: there are {', '.join(self.tasks)}")
        return name

    @cached_property
    def _model(self) -> Deployed:
        from bo_distill.search.study.winner import winners_model

        return winners_model(self._study)

    def _result(self, trial: Trial) -> Result:
        return Result.of(self._study, trial, self._study.outcome(trial.job.number))

    def _score(self, phase: str, control: str | None) -> Score | None:
        from bo_distill.search.evidence.summary import summary_of
        from bo_distill.search.evidence.verdicts import scores

        found = summary_of([*scores(self._study, phase, control).values()])
        return Score(**found) if found else None


def open_study(name: str, storage: Storage) -> Study:
    """A study by its name, or by its folder.

    Raises:
        UsageError: there is none.
    """
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.ledger import Study

    folder = study_folder(name)
    return Study.open(Storage(folder.parent.parent), folder.name) if folder else Study.open(storage, name.strip("/"))


def study_folder(name: str) -> Path | None:
    """The study's folder, where `name` is one."""
    folder = Path(os.path.abspath(os.path.expanduser(name)))
    return folder if folder.parent.name == "studies" and os.path.isfile(folder / "study.json") else None
