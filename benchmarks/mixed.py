"""Our Bayesian search beside Optuna's GPSampler on mixed and categorical spaces, at few trials.

    python -m benchmarks.mixed                           100 pairs on each problem, a quarter of an hour on one core
    python -m benchmarks.mixed --only options --pairs 20 --seed 1000

A pair is one made-up function, drawn by its seed, and both searchers on it under that seed. Told apart is the best
value after `--trials`, in standard deviations of the function over random configurations. Exit status 1 if ours is
worse on any problem (paired t test, one-sided, p <= 0.05).

    mixed    numbers on linear and log scales, whole ones, and options that move where the numbers are best
    options  unordered options alone, whose effects add up, and in pairs do not
    gated    half of the numbers matter under one option only
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported: a core is a process's here

import numpy as np
import optuna

from benchmarks.paired import no_worse, told
from bo_distill.methods.space import Choice, Integer, Real, Searched
from bo_distill.search.searchers.base import METRIC, Settings
from bo_distill.search.searchers.random import random_point
from bo_distill.search.searchers.registry import make_searcher

Space = Mapping[str, Searched]
Value = Callable[[Settings], float]
SPREAD = 200  # random configurations that a function's values are scaled by


def choice(count: int) -> Choice:
    return Choice(tuple(f"option {number}" for number in range(count)))


NUMBERS: dict[str, Searched] = {
    "rate": Real(1e-4, 1, log=True),
    "decay": Real(1e-6, 1e-2, log=True),
    "share": Real(0, 1),
}
SPACES: dict[str, Space] = {
    "mixed": {
        **NUMBERS,
        "depth": Integer(1, 8),
        "width": Integer(8, 256, log=True),
        "kind": choice(4),
        "norm": choice(3),
    },
    "options": {f"choice {number}": choice(count) for number, count in enumerate((3, 4, 5, 3, 4))},
    "gated": {**NUMBERS, "power": Real(0, 2), "kind": choice(4), "norm": choice(2)},
}


def drawn(space: Space, gated: bool, seed: int) -> Value:
    """A function: a hill in the numbers, whose top each option of the first choice moves, and options that add to it.

    Args:
        gated: the second half of the numbers matters under the first choice's first option only.
    """
    rng = np.random.default_rng(seed)
    numbers = [name for name, domain in space.items() if not isinstance(domain, Choice)]
    choices = {name: domain.options for name, domain in space.items() if isinstance(domain, Choice)}
    first, *_ = choices
    top, width = rng.uniform(0.15, 0.85, len(numbers)), rng.uniform(0.3, 0.9, len(numbers))
    moved = {option: rng.normal(0, 0.15, len(numbers)) for option in choices[first]}
    effect = {
        name: dict(zip(options, rng.normal(0, 0.4, len(options)), strict=True)) for name, options in choices.items()
    }
    names = list(choices)
    joint = {
        (a, b, x, y): rng.normal(0, 0.2)
        for number, a in enumerate(names)
        for b in names[number + 1 :]
        for x in choices[a]
        for y in choices[b]
    }

    def value(settings: Settings) -> float:
        options = {name: settings[name] for name in names}
        added = sum(effect[name][option] for name, option in options.items())
        added += sum(height for (a, b, x, y), height in joint.items() if options[a] == x and options[b] == y)
        unit = np.array([space[name].to_unit(settings[name]) for name in numbers])
        far = ((unit - np.clip(top + moved[options[first]], 0, 1)) / width) ** 2
        if gated and options[first] != choices[first][0]:
            far[len(numbers) // 2 :] = 0
        return float(added + 2 * np.exp(-far.sum() / 2))

    return value


def ours(space: Space, value: Value, trials: int, seed: int) -> float:
    """The best value that our search finds."""
    searcher = make_searcher("bo", space, seed, trials)
    best = -np.inf
    for number in range(trials):
        settings = searcher.suggest(str(number))
        if settings == searcher.FINISHED:
            break
        best = max(best, found := value(settings))
        searcher.on_trial_complete(str(number), {METRIC: found})
    return best


def theirs(space: Space, value: Value, trials: int, seed: int) -> float:
    """The best value that Optuna's GPSampler finds."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GPSampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        settings: dict[str, Any] = {}
        for name, domain in space.items():
            match domain:
                case Choice(options):
                    settings[name] = trial.suggest_categorical(name, options)
                case Integer(low, high, log=log):
                    settings[name] = trial.suggest_int(name, low, high, log=log)
                case Real(low, high, log=log):
                    settings[name] = trial.suggest_float(name, low, high, log=log)
        return value(settings)

    study.optimize(objective, n_trials=trials)
    return study.best_value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="functions of each problem (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the next has one more (0)")
    parser.add_argument("--trials", type=int, default=20, help="of a search (20)")
    parser.add_argument("--only", choices=SPACES, help="one problem")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    missed = False
    print(
        "| problem | random | GPSampler | ours | ours less GPSampler, 95% | better, equal, worse | p of no worse | s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for problem in [args.only] if args.only else SPACES:
        space, begun, rows = SPACES[problem], time.process_time(), []
        for seed in range(args.seed, args.seed + args.pairs):
            value = drawn(space, problem == "gated", seed)
            random = np.array([value(random_point(space, seed, number)) for number in range(SPREAD)])
            found = [
                random[: args.trials].max(),
                theirs(space, value, args.trials, seed),
                ours(space, value, args.trials, seed),
            ]
            rows.append((np.array(found) - random.mean()) / random.std())
        values = np.array(rows)
        less = values[:, 2] - values[:, 1]
        p = no_worse(less)
        missed |= p <= 0.05
        signs = " ".join(str(count) for count in ((less > 1e-9).sum(), (abs(less) <= 1e-9).sum(), (less < -1e-9).sum()))
        print(
            f"| {problem} | {' | '.join(f'{mean:.2f}' for mean in values.mean(axis=0))} | "
            f"{told(less)} | {signs} | {p:.2g} | "
            f"{time.process_time() - begun:.0f} |{'  MISSED' if p <= 0.05 else ''}",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
