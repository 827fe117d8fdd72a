"""Studies in seconds: the searchers on a recorded table of trials or on a test function, under a virtual clock.

    python -m search.replay benchmarks/tables/fsp_digits.parquet --searchers grid,random,bo --studies 300
    python -m search.replay hartmann6 --searchers random --workers 1000 --trials 5000 --stragglers 0.05 --asha

The searchers and the ASHA scheduler are those of a real search; only trials are looked up instead of trained, and
time is a number. A table is made by `benchmarks/table.py`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a study is a process's, its matrices are small

import numpy as np
from numpy.typing import NDArray

from methods.errors import UsageError
from methods.space import Choice, Domain, Integer, Real
from search.command import FAILED, OK, Parser, carry_out, positive
from search.searchers import SEARCHERS, make_searcher
from search.statistics import Course, analyse

if TYPE_CHECKING:
    from search.study import Study

Array = NDArray[np.floating[Any]]
Settings = Mapping[str, Any]

ATTEMPTS = 3  # of a trial whose process dies, as in a real search
SLOWNESS = 5.0  # of a straggler


class Recorded(NamedTuple):
    """A trial as it would run.

    Attributes:
        curve: value after each epoch, noise included; NaN where an epoch has none.
        seconds: of each epoch.
        macs: of the whole training.
        truth: the last value without noise.
    """

    curve: Array
    seconds: Array
    macs: float
    truth: float


class Problem(Protocol):
    """What trials are looked up in.

    Attributes:
        space: searched fields.
        shared: seconds that the first trial spends on a stage that all share, while the others wait.
        unit: "accuracy", or what else the value is.
    """

    @property
    def space(self) -> dict[str, Domain]: ...

    @property
    def shared(self) -> float: ...

    @property
    def unit(self) -> str: ...

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """One trial, its noise drawn from `rng`."""
        ...


@dataclass(frozen=True)
class Function:
    """A test function turned upside down, with noise, and a learning curve that approaches the value as 1 / epoch."""

    space: dict[str, Domain]
    regret: Callable[..., float]
    noise: float = 0.0
    epochs: int = 9
    rise: float = 1.0  # from the first epoch to the last
    shared: float = 0.0
    unit: str = "value"

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        left = self.rise * (1 / np.arange(1, self.epochs + 1) - 1 / self.epochs)
        truth = -self.regret(*(settings[name] for name in self.space))
        curve = truth + self.noise * rng.standard_normal() - left
        return Recorded(curve, np.ones(self.epochs), float(self.epochs), truth)


def branin(x: float, y: float) -> float:
    """On [-5, 10] x [0, 15], three minima (Dixon & Szego 1978), less the optimum."""
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.39788735772973816


HARTMANN_WIDTH = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_CENTRE = np.array(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ]
)


def hartmann6(*x: float) -> float:
    """On the unit cube, six local minima (Hartmann 1973), less the optimum."""
    near = np.exp(-(HARTMANN_WIDTH * (np.array(x) - HARTMANN_CENTRE) ** 2).sum(axis=1))
    return 3.322368011415515 - float(np.array([1.0, 1.2, 3.0, 3.2]) @ near)


def function(name: str, noise: float) -> Function:
    if name == "branin":
        return Function({"x": Real(-5, 10), "y": Real(0, 15)}, branin, noise, rise=10.0)
    return Function({f"x{i}": Real(0, 1) for i in range(1, 7)}, hartmann6, noise)


FUNCTIONS = ("branin", "hartmann6")


@dataclass(frozen=True)
class Table:
    """A dense grid of real trials, each over several seeds.

    The value of a configuration is the mean over seeds, interpolated between the grid's points on each field's own
    scale. A trial's noise is the whole learning curve's departure from that mean, drawn from all those recorded, made
    larger by sqrt(n / (n - 1)) because the mean of n seeds is part of them.

    Attributes:
        curves: (points of field 1, ..., of field n, seeds, epochs); NaN where an epoch has no accuracy.
        seconds: likewise; MACs: without the last axis and seeds.
        about: what the file says of itself: method, data, command and so on.
    """

    space: dict[str, Domain]
    axes: tuple[tuple[Any, ...], ...]
    curves: Array
    seconds: Array
    macs: Array
    shared: float = 0.0
    nearest: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "accuracy"

    @staticmethod
    def read(path: str | Path, nearest: bool = False) -> Table:
        """A table from its file.

        Raises:
            UsageError: there is none, or it is not a whole table.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            content = parquet.read_table(path)
            about = json.loads((content.schema.metadata or {})[b"table"])
            rows = content.to_pylist()
        except FileNotFoundError:
            raise UsageError(f"{path}: no such table; give a Parquet file or one of {', '.join(FUNCTIONS)}") from None
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            words = " ".join(str(error).split())[:120]
            raise UsageError(f"{path} is not a table of trials ({words}); make one by benchmarks/table.py") from None
        space = {name: domain_of(words) for name, words in about["space"].items()}
        axes = tuple(tuple(values) for values in about["axes"].values())
        seeds = about["seeds"]
        shape = (*map(len, axes), len(seeds))
        if len(rows) != math.prod(shape):
            raise UsageError(f"{path} has {len(rows)} of {math.prod(shape)} trials; run benchmarks/table.py to its end")
        epochs = max(len(row["val_accuracy"]) for row in rows)
        curves, seconds = np.full((*shape, epochs), np.nan), np.zeros((*shape, epochs))
        macs = np.zeros(shape[:-1])
        for row in rows:
            at = tuple(axis.index(row[name]) for name, axis in zip(space, axes, strict=True))
            index = (*at, seeds.index(row["seed"]))
            # Where settings change the number of epochs, a shorter training keeps what it had reached.
            curve = np.array([np.nan if value is None else value for value in row["val_accuracy"]])
            curves[index] = np.pad(curve, (0, epochs - len(curve)), mode="edge")
            seconds[index][: len(curve)] = row["seconds"]
            macs[at] = row["macs"]
        return Table(space, axes, curves, seconds, macs, about["shared_seconds"], nearest, about)

    def _coordinate(self, name: str, value: Any) -> float:
        domain = self.space[name]
        if isinstance(domain, Choice):
            return float(domain.options.index(value))
        return math.log(value) if isinstance(domain, Real | Integer) and domain.log else float(value)

    @cached_property
    def mean(self) -> Array:
        """(points of field 1, ..., of field n, epochs)"""
        return np.asarray(self.curves.mean(axis=-2))

    @cached_property
    def residuals(self) -> Array:
        """(all recorded trials, epochs)"""
        seeds = self.curves.shape[-2]
        left = (self.curves - self.mean[..., None, :]) * math.sqrt(seeds / max(1, seeds - 1))
        return np.asarray(left.reshape(-1, self.curves.shape[-1]))

    @cached_property
    def _surface(self) -> Any:
        """(trials, fields) coordinates -> (trials, 2 epochs + 1): mean curve, seconds and MACs."""
        from scipy.interpolate import RegularGridInterpolator

        grid = [[self._coordinate(n, v) for v in axis] for n, axis in zip(self.space, self.axes, strict=True)]
        values = np.concatenate([self.mean, self.seconds.mean(axis=-2), self.macs[..., None]], axis=-1)
        return RegularGridInterpolator(grid, values, method="nearest" if self.nearest else "linear")

    def expected(self, settings: Sequence[Settings]) -> tuple[Array, Array, Array]:
        """Mean curves and seconds (settings, epochs) and MACs (settings,)."""
        found = self._surface([[self._coordinate(name, one[name]) for name in self.space] for one in settings])
        epochs = self.curves.shape[-1]
        return found[:, :epochs], found[:, epochs:-1], found[:, -1]

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        (curve,), (seconds,), (macs,) = self.expected([settings])
        noise = self.residuals[rng.integers(len(self.residuals))]
        return Recorded(curve + noise, seconds, float(macs), float(curve[-1]))


def domain_of(words: Mapping[str, Any]) -> Domain:
    """A domain as a table's file writes it: the fields of its class beside the class's name."""
    match words["kind"]:
        case "Real":
            return Real(words["low"], words["high"], words["log"])
        case "Integer":
            return Integer(words["low"], words["high"], words["log"])
        case "Choice":
            return Choice(tuple(words["options"]))
        case other:
            raise AssertionError(other)


@dataclass
class Simulated:
    """One trial on the virtual clock; times in seconds since the study began."""

    settings: Settings
    started: float
    truth: float
    status: str = "running"
    finished: float = math.inf
    value: float = math.nan
    seconds: float = 0.0
    macs: float = 0.0


def stream(seed: int, *place: int) -> np.random.Generator:
    """Chance of its own for each trial. Random search, which draws from the same seed, shares none of it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def simulate(
    problem: Problem,
    searcher: Any,
    *,
    trials: int,
    workers: int = 1,
    seed: int = 0,
    stragglers: float = 0.0,
    failures: float = 0.0,
    asha: bool = False,
    overhead: float = 0.0,
) -> list[Simulated]:
    """One study as an event queue runs it; the trials in the order in which they ended.

    Args:
        searcher: asked and told as in a real search.
        trials: budget.
        workers: trials at once.
        seed: of noise, stragglers and failures.
        stragglers: share of trials that take five times as long.
        failures: share of attempts that die at a random moment; the third death fails the trial.
        asha: Ray's scheduler looks at every epoch; a trial that it stops ends with its next epoch, as in a real search.
        overhead: seconds between a trial's end and the next one's start.
    """
    scheduler: Any = None
    running: dict[int, Simulated] = {}
    plans: dict[int, tuple[Array, Array, float]] = {}  # value and time after each epoch, MACs of one
    events: list[tuple[float, int, int]] = []  # (time, trial, epochs done)
    ended: list[Simulated] = []
    asked, shared_at, stopping = 0, math.inf, set[int]()

    def start(now: float) -> bool:
        nonlocal asked, shared_at, scheduler
        if asked >= trials:
            return False
        settings = searcher.suggest(str(asked))
        if not isinstance(settings, dict):  # exhausted
            return False
        # Numbered, so that what happens to a trial does not hang on how many ran beside it.
        rng = stream(seed, asked)
        curve, seconds, macs, truth = problem.look_up(settings, rng)
        seconds = seconds * (SLOWNESS if rng.random() < stragglers else 1.0)
        shared_at = min(shared_at, now + problem.shared)
        deaths = 0
        lost = max(0.0, shared_at - now)
        while deaths < ATTEMPTS and rng.random() < failures:
            lost += float(seconds.sum()) * rng.random()
            deaths += 1
        trial = Simulated(settings, now, truth, macs=macs)
        running[asked] = trial
        if deaths == ATTEMPTS:
            trial.status = "failed"
            heapq.heappush(events, (now + lost, asked, len(curve)))
        else:
            plans[asked] = curve, now + lost + np.cumsum(seconds), macs / len(curve)
            if asha and scheduler is None:
                from ray.tune.schedulers import ASHAScheduler

                scheduler = ASHAScheduler(
                    time_attr="epoch", metric="value", mode="max", max_t=len(curve) + 1, grace_period=1,
                    reduction_factor=3,
                )  # fmt: skip
            if scheduler:
                scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(asked)))
            first = 1 if asha else len(curve)
            heapq.heappush(events, (float(plans[asked][1][first - 1]), asked, first))
        asked += 1
        return True

    for _ in range(workers):
        if not start(0.0):
            break
    while events:
        now, number, epoch = heapq.heappop(events)
        trial = running[number]
        if trial.status == "running":
            curve, times, macs = plans[number]
            value = float(curve[epoch - 1])
            if epoch < len(curve) and number not in stopping:
                if not math.isnan(value):
                    report = {"epoch": epoch, "value": value}
                    if scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), report) == "STOP":
                        stopping.add(number)
                heapq.heappush(events, (float(times[epoch]), number, epoch + 1))
                continue
            trial.status = "pruned" if epoch < len(curve) else "done"
            trial.value, trial.macs = value, macs * epoch
        trial.finished, trial.seconds = now, now - trial.started
        ended.append(running.pop(number))
        known = not math.isnan(trial.value)
        searcher.on_trial_complete(
            str(number), {"val_accuracy": trial.value} if known else None, error=trial.status == "failed"
        )
        start(now + overhead)
    return ended


def course(trials: Sequence[Simulated]) -> Course:
    """What a comparison sees of a simulated study: a trial that was stopped early is not one to choose."""
    return Course(
        tuple(trial.value if trial.status == "done" else math.nan for trial in trials),
        tuple(trial.seconds for trial in trials),
        tuple(trial.macs for trial in trials),
    )


def chosen(trials: Sequence[Simulated]) -> Simulated | None:
    """The trial that the study would name its winner."""
    return max((trial for trial in trials if trial.status == "done"), key=lambda trial: trial.value, default=None)


def makespan(trials: Sequence[Simulated]) -> float:
    return max((trial.finished for trial in trials), default=0.0)


@dataclass(frozen=True)
class Replayed:
    """Trials that are known already, in the order in which they were asked for: a problem and its own searcher."""

    seconds: tuple[float, ...]
    space: dict[str, Domain] = field(default_factory=dict)
    shared: float = 0.0
    unit: str = "accuracy"

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {"number": int(trial_id)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """What came of a trial changes nothing here."""

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        return Recorded(np.zeros(1), np.array([self.seconds[settings["number"]]]), 0.0, 0.0)


def makespans(study: Study, overhead: float = 0.0) -> tuple[float, float]:
    """(simulated, real) seconds from a study's first trial to its last one's end.

    The simulation is given each trial's duration and as many workers as were seen at work at once; when each trial
    starts is its own affair.

    Raises:
        UsageError: no trial of the study is finished.
    """
    outcomes = [study.outcome(trial.job.number) for trial in study.trials if trial.finished]
    if not outcomes:
        raise UsageError(f"study {study.plan.task.study}: no trial is finished; run it first")
    begun = [o.started for o in outcomes]
    over = [o.started + o.seconds for o in outcomes]
    at_once = max(sum(a <= moment < b for a, b in zip(begun, over, strict=True)) for moment in begun)
    known = Replayed(tuple(o.seconds for o in outcomes))
    found = simulate(known, known, trials=len(outcomes), workers=at_once, overhead=overhead)
    return makespan(found), max(over) - min(begun)


def confirmed(
    problem: Problem, trials: Sequence[Simulated], keep: int, seeds: int, seed: int
) -> tuple[float, Simulated]:
    """Run the `keep` best again over fresh seeds: the winner by its mean over them, and that mean.

    Raises:
        ValueError: no trial is done.
    """
    best = sorted((t for t in trials if t.status == "done"), key=lambda t: t.value, reverse=True)[:keep]
    if not best:
        raise ValueError("no trial is done")
    means = []
    for number, trial in enumerate(best):
        rng = stream(seed, number, 1)
        means.append(float(np.mean([problem.look_up(trial.settings, rng).curve[-1] for _ in range(seeds)])))
    winner = int(np.argmax(means))
    return means[winner], best[winner]


def winners_curse(problem: Problem, *, budget: int, keep: int, seeds: int, studies: int) -> dict[str, float]:
    """What a winner's reported value is above its true one, with and without `keep` x `seeds` trials of the same
    budget spent on running the best again. Random search, means over studies.

    Returns:
        `optimism`, `optimism_confirmed`, `removed` (share), `truth`, `truth_confirmed`, and `truth_se`, the standard
        error of the difference between those two.
    """
    plain, raced = [], []
    for study in range(studies):
        searcher = make_searcher("random", problem.space, study, budget)
        trials = simulate(problem, searcher, trials=budget, seed=study)
        winner = chosen(trials)
        assert winner is not None
        plain.append((winner.value, winner.truth))
        value, better = confirmed(problem, trials[: budget - keep * seeds], keep, seeds, study)
        raced.append((value, better.truth))
    a, b = np.array(plain), np.array(raced)
    before, after = float((a[:, 0] - a[:, 1]).mean()), float((b[:, 0] - b[:, 1]).mean())
    return {
        "optimism": before,
        "optimism_confirmed": after,
        "removed": 1 - after / before if before else 0.0,
        "truth": float(a[:, 1].mean()),
        "truth_confirmed": float(b[:, 1].mean()),
        "truth_se": float((b[:, 1] - a[:, 1]).std(ddof=1) / math.sqrt(studies)),
    }


def one_study(problem: Problem, options: Mapping[str, Any], job: tuple[str, int]) -> tuple[Course, float, float]:
    """(course, the chosen configuration's true value, makespan) of one searcher under one seed."""
    name, seed = job
    searcher = make_searcher(name, problem.space, seed, options["trials"])
    trials = simulate(problem, searcher, seed=seed, **options)
    winner = chosen(trials)
    return course(trials), winner.truth if winner else math.nan, makespan(trials)


def parser() -> Parser:
    p = Parser(prog="python -m search.replay", description="Simulate studies on recorded trials.", allow_abbrev=False)
    p.add_argument("problem", metavar="TABLE", nargs="?", help=f"a Parquet file, or {' or '.join(FUNCTIONS)}")
    p.add_argument("--searchers", default="grid,random,bo", help=f"by commas: {', '.join(SEARCHERS)}")
    p.add_argument("--trials", type=int, default=20, metavar="N", help="budget of a study (20)")
    p.add_argument("--studies", type=int, default=100, metavar="K", help="of each searcher (100)")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="trials at once (1)")
    p.add_argument("--stragglers", type=float, default=0.0, metavar="P", help="share of trials, five times as slow")
    p.add_argument("--failures", type=float, default=0.0, metavar="P", help="share of attempts that die")
    p.add_argument("--overhead", type=float, default=0.0, metavar="S", help="seconds between two trials")
    p.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    p.add_argument("--noise", type=float, default=0.0, metavar="SD", help="of a test function's values")
    p.add_argument("--nearest", action="store_true", help="the nearest recorded trial, not an interpolated one")
    p.add_argument("--confirm", type=int, metavar="K", help="also measure what running the K best again would do")
    p.add_argument("--confirm-seeds", type=int, default=3, metavar="N", help="times each of them (3)")
    p.add_argument("--makespan", metavar="STUDY", help="instead: a recorded study's real and simulated makespan")
    p.add_argument("--storage", default="results", metavar="DIR", help="of that study")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def run(args: argparse.Namespace) -> int:
    for name in ("trials", "workers", "jobs", "confirm", "confirm_seeds"):
        positive("--" + name.replace("_", "-"), getattr(args, name))
    positive("--studies", args.studies, 2)
    for name in ("stragglers", "failures"):
        if not 0 <= getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name):g}: give a share from 0 up to, not including, 1")
    for name in ("noise", "overhead"):
        if not getattr(args, name) >= 0:
            raise UsageError(f"--{name} {getattr(args, name):g}: give at least 0")
    if args.makespan:
        return real(args)
    if args.problem is None:
        raise UsageError(f"which table? give a Parquet file or one of {', '.join(FUNCTIONS)}")
    names = names_of(args.searchers)
    problem: Problem
    if args.problem in FUNCTIONS:
        problem = function(args.problem, args.noise)
    else:
        problem = Table.read(args.problem, args.nearest)
    if args.confirm and args.confirm * args.confirm_seeds >= args.trials:
        spent = args.confirm * args.confirm_seeds
        raise UsageError(f"--confirm {args.confirm}: {spent} of {args.trials} trials are no search; give --trials more")
    for name in names:
        make_searcher(name, problem.space, 0, args.trials)  # says now what a grid cannot do
    words = ("trials", "workers", "stragglers", "failures", "asha", "overhead")
    options = {name: getattr(args, name) for name in words}
    started = time.perf_counter()
    jobs = [(name, seed) for name in names for seed in range(args.studies)]
    with ProcessPoolExecutor(args.jobs) as pool:
        work = pool.map(partial(one_study, problem, options), jobs, chunksize=max(1, min(10, args.studies // 8)))
        done = list(work)
    found = {name: done[i * args.studies : (i + 1) * args.studies] for i, name in enumerate(names)}
    summary: dict[str, Any] = {
        "problem": args.problem,
        **options,
        "studies": args.studies,
        **analyse({name: [one[0] for one in runs] for name, runs in found.items()}, problem.unit),
        "truth": {name: float(np.nanmean([one[1] for one in runs])) for name, runs in found.items()},
        "makespan": {name: float(np.mean([one[2] for one in runs])) for name, runs in found.items()},
        "seconds": time.perf_counter() - started,
    }
    if args.confirm:
        summary["confirm"] = winners_curse(
            problem, budget=args.trials, keep=args.confirm, seeds=args.confirm_seeds, studies=args.studies
        )
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        show(summary, problem.unit)
    return OK


def names_of(text: str) -> list[str]:
    """Searchers as a command names them, by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SEARCHERS:
            raise UsageError(f"--searchers {name}: there are {', '.join(SEARCHERS)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--searchers {text}: name each searcher once, by commas")
    return names


def real(args: argparse.Namespace) -> int:
    from distributed.storage import Storage
    from search.study import Study

    simulated, measured = makespans(Study.open(Storage(args.storage), args.makespan), args.overhead)
    summary = {"study": args.makespan, "simulated": simulated, "real": measured, "error": simulated / measured - 1}
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        print(f"{args.makespan}: simulated {simulated:.1f} s, real {measured:.1f} s, {summary['error']:+.1%}")
    return OK if abs(summary["error"]) <= 0.15 else FAILED


def show(summary: Mapping[str, Any], unit: str) -> None:
    """The same for a person, on stdout."""
    from rich.console import Console
    from rich.table import Table as Printed

    scale = 100 if unit == "accuracy" else 1
    console = Console(soft_wrap=True)
    count = summary["studies"] * len(summary["searchers"])
    title = f"{summary['problem']}: {count} studies of {summary['trials']} trials, {summary['workers']} at once"
    table = Printed(title=title, title_justify="left")
    table.add_column("searcher")
    for name in ("best seen", "its true value", "regret", f"as good as {summary['reference']} after", "makespan s"):
        table.add_column(name, justify="right")
    for name, found in summary["searchers"].items():
        reached = [trials for trials in found["to_reference"]["trials"] if trials is not None]
        share = len(reached) / summary["studies"]
        table.add_row(
            name,
            f"{scale * found['mean']:.4g}",
            f"{scale * summary['truth'][name]:.4g}",
            f"{scale * float(np.mean(found['regret'])):.3g}",
            f"{np.median(reached):.0f} trials in {share:.0%}" if reached else "never",
            f"{summary['makespan'][name]:.4g}",
        )
    console.print(table)
    console.print(summary["verdict"], highlight=False)
    if "confirm" in summary:
        found = summary["confirm"]
        console.print(
            f"winner's curse: {scale * found['optimism']:.3g} too high, {scale * found['optimism_confirmed']:.3g} when "
            f"confirmed ({found['removed']:.0%} removed); true value {scale * found['truth']:.4g}, confirmed "
            f"{scale * found['truth_confirmed']:.4g} (standard error {scale * found['truth_se']:.2g})",
            highlight=False,
        )
    console.print(f"{summary['seconds']:.1f} s", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
