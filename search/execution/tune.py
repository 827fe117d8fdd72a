"""Runs a study's trials on Ray Tune."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ray import cloudpickle, get_runtime_context, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.search import Searcher
from torch import OutOfMemoryError

from bo_distill.distributed.ray.cluster import Layout, alive, free_orphans, node_lost
from bo_distill.methods.errors import UsageError
from bo_distill.methods.records import decoded
from bo_distill.search.command.interruption import interruption
from bo_distill.search.execution.asha import GracefulStop
from bo_distill.search.execution.progress import ProgressLines
from bo_distill.search.execution.trainable import in_process, on_workers
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Task, Trial


class StudySearch(Searcher):
    """A study's conductor, as Tune asks for trials and tells what came of them."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric="val_accuracy", mode="max")
        self.conductor = conductor
        self.running: dict[str, Trial] = {}
        self.problem: Exception | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep what goes wrong in here: Tune would wrap it, or take it for the trial's."""
        try:
            yield
        except Finished:
            raise
        except Exception as problem:
            self.problem = problem
            raise

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """True: the study has said already what is searched and what is best."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration for Tune; None while it must wait for one that runs."""
        try:
            with self.noted():
                trial = self.conductor.ask()
        except Finished:
            return Searcher.FINISHED
        if trial is None:
            return None if self.running else Searcher.FINISHED
        self.running[trial_id] = trial
        return {"job": dataclasses.asdict(trial.job)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep what came of a trial; one that was interrupted stays in the ledger as running."""
        if error:
            return  # see `lost`, which is told what the error is
        trial = self.running.pop(trial_id, None)
        if trial and result and "outcome" in result:
            with self.noted():
                self.conductor.settle(trial, decoded(Outcome, json.loads(result["outcome"])))
        # Else it was interrupted: it stays in the ledger as running, and is run again by --resume.

    def lost(self, trial_id: str, error: Exception) -> None:
        """A trial's process, or one of its workers, is gone, or the GPU refused it. It is run again, so often as that
        is not its own fault.

        Raises:
            UsageError: it could not write to the storage, and nor could another trial.
        """
        trial = self.running.pop(trial_id)
        if interruption().asked:
            return  # the same signal ended the trial's process: it stays in the ledger as running
        cause = error.cause if isinstance(error, RayTaskError) else error
        with self.noted():
            if isinstance(cause, UsageError):
                raise cause
            self.conductor.lost(
                trial,
                cause,
                blamed=not node_lost(cause),
                killed=isinstance(cause, RayActorError),
                crowded=isinstance(cause, OutOfMemoryError),
            )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is written after every event, and Tune's own copy would only grow old."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class LostTrials(tune.Callback):
    """Tells the search which trials' processes died, and frees what they held.

    Args:
        home: Ray's id of the node that the search itself runs on.
    """

    def __init__(self, search: StudySearch, home: str) -> None:
        self.search, self.home = search, home
        self.looked = 0.0

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tell the search whose process died and of what."""
        if self.search.problem:
            raise self.search.problem
        if trial.pickled_error_file is None:  # Ray could not so much as start its process, and left words alone
            _, _, words = Path(trial.error_file).read_text().partition("\n")
            self.search.lost(trial.trial_id, RuntimeError(" ".join(words.split())[:300]))
            return
        # Tune's own `get_pickled_error` looks where the file will have been copied to, later.
        with open(trial.pickled_error_file, "rb") as file:
            self.search.lost(trial.trial_id, cloudpickle.load(file))

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """End the search if that was asked. Once a second: end it if its own node is gone, and free what lost trials
        held."""
        if interruption().asked:
            raise KeyboardInterrupt
        if time.monotonic() - self.looked > 1:
            if self.home not in alive():  # Tune would wait for ever for somewhere to run the next trial
                words = self.search.conductor.study.resume_words
                sys.exit(f"error: the node of Ray that this search runs on is gone; go on with {words}")
            free_orphans()
            self.looked = time.monotonic()


def trainable_of(task: Task, layout: Layout) -> Any:
    """What Tune runs for each trial, with the resources that the trial takes.

    The task goes with the function, not by `tune.with_parameters`, which would keep it in Ray's object store: Ray ends
    this process at once, with exit code 1 and without a word, when a scheduler's signal to every process of a job has
    ended the node that an object of ours lies on.
    """
    if layout.workers == 1:
        return tune.with_resources(
            functools.partial(in_process, task=task),
            {"CPU": layout.cpus, **({"GPU": layout.gpus} if layout.gpus else {})},
        )
    # The trial itself only waits for its workers. A sliver of the head costs no CPU that they would need.
    return tune.with_resources(
        functools.partial(on_workers, task=task),
        tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}]),
    )


def run_study(study: Study, layout: Layout, terminal: TextIO | None) -> None:
    """Run a study to its end, or until it is interrupted. What is finished is in its folder and on the leaderboard.

    Ray must be up.

    Args:
        terminal: where progress is shown; None for nowhere.

    Raises:
        UsageError: of a trial, which another one would raise too.
        Exception: of a listener of the study, once the trial that it was told of is kept.
    """
    plan, task = study.plan, study.plan.task
    conductor = Conductor(study)
    search, scheduler = StudySearch(conductor), None
    if plan.asha:
        stage, length = conductor.curve
        scheduler = GracefulStop(study, stage, length.curve)
    progress = ProgressLines(study, terminal, layout.concurrency)
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        try:
            with interruption().deferred():
                tune.Tuner(
                    trainable_of(task, layout),
                    tune_config=tune.TuneConfig(
                        metric="val_accuracy",
                        mode="max",
                        search_alg=search,
                        scheduler=scheduler,
                        num_samples=-1,
                        max_concurrent_trials=layout.concurrency,
                        reuse_actors=True,
                        trial_dirname_creator=lambda trial: str(trial.trial_id),
                    ),
                    run_config=tune.RunConfig(
                        name=task.study,
                        storage_path=scratch,
                        verbose=0,
                        callbacks=[progress, LostTrials(search, get_runtime_context().get_node_id())],
                    ),
                ).fit()
        except KeyboardInterrupt:
            pass  # nothing to wait for: Ray ends the trials that run, and the ledger has those that ended
        except Exception:
            if search.problem:  # Tune wraps what a callback raises
                raise search.problem from None
            raise
        finally:
            progress.close()
    for name in study.storage.list(f"{study.folder}/stop"):
        study.storage.delete(name)
