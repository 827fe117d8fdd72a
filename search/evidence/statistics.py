"""Is one search better than another? Regret, intervals, an exact test and a verdict in one sentence.

Searches are compared on repeats: repeat r runs every searcher with the same seed, so that what a seed brings (the
teacher, the order of the batches) is the same for all and drops out of the differences.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from bo_distill.methods.errors import counted
from bo_distill.methods.paired import holm
from bo_distill.search.evidence.words import points, span
from bo_distill.search.searchers.registry import SEARCHERS

Array = NDArray[np.floating[Any]]


ALPHA = 0.05


RESAMPLES = 9999  # sign flips: all of them up to 13 pairs, a random draw of them beyond, which keeps the level as well


FEWEST = 6  # pairs that have a bootstrap interval: of 95%, that of 2 normal ones holds the truth in 48%, of 5 in 90%


MANY = 50  # pairs that differ, from which the mean of the differences is normal enough for the t test


@dataclass(frozen=True)
class Course:
    """One study, trial by trial, in the order in which the trials ended.

    Attributes:
        values: validation accuracy, NaN where a trial has none to choose it by.
        seconds: training time that each trial is charged, as if nothing had been cached.
        macs: multiply-adds of training, likewise.
    """

    values: tuple[float, ...]
    seconds: tuple[float, ...]
    macs: tuple[float, ...]

    @property
    def best(self) -> Array:
        """The best value so far after each trial; NaN before there is one."""
        return np.fmax.accumulate(np.array(self.values, dtype=float))

    def within(self, seconds: float = math.inf, macs: float = math.inf) -> Course:
        """The trials that ended before a budget was overdrawn."""
        fits = (np.cumsum(self.seconds) <= seconds) & (np.cumsum(self.macs) <= macs)
        count = int(fits.sum())
        return Course(self.values[:count], self.seconds[:count], self.macs[:count])


CONFIDENCE = 0.95


def alike(values: Sequence[float]) -> bool:
    """Whether numbers are equal but for rounding, as 0.9 - 0.8 and 0.8 - 0.7 are: there is no spread to test by."""
    return float(np.ptp(values)) <= 1e-9 * max(1.0, float(np.max(np.abs(values))))


def t_test(differences: Sequence[float], alternative: str = "two-sided") -> float | None:
    """p of the hypothesis that the mean is 0; None where there is none: of one value, or of equal ones.

    Args:
        alternative: "two-sided", or "less", whose hypothesis is that the mean is not below 0.
    """
    if len(differences) < 2 or alike(differences):
        return None
    return float(stats.ttest_1samp(differences, 0.0, alternative=alternative).pvalue)


def student(
    values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf
) -> tuple[float, float] | None:
    """Student's 95% interval of the mean; None where there is none: of one value, or of equal ones.

    Args:
        lowest, highest: where the quantity ends whatever Student says; 0 and 1 for a mean accuracy.
    """
    if len(values) < 2 or alike(values):
        return None
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, float(np.mean(values)), float(stats.sem(values)))
    return max(float(low), lowest), min(float(high), highest)


@dataclass(frozen=True)
class Paired:
    """One set of scores minus another, over the seeds that both have.

    Attributes:
        n: seeds.
        mean: of the differences, as a share.
        interval: Student's 95% interval of that mean, None where there is none.
        p: of the paired t test, two-sided; None likewise.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float | None

    @staticmethod
    def of(scores: Mapping[int, float], others: Mapping[int, float]) -> Paired | None:
        """seed -> accuracy of both; None where they have no seed in common."""
        seeds = sorted(scores.keys() & others.keys())
        if not seeds:
            return None
        differences = [scores[seed] - others[seed] for seed in seeds]
        return Paired(len(seeds), float(np.mean(differences)), student(differences), t_test(differences))

    @property
    def open(self) -> bool:
        """Whether there is an interval, and zero lies in it: no difference is shown."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]

    def visible(self, seeds: int, share: float = 0.8) -> float | None:
        """The difference that so many seeds would show in this share of cases, were they to differ as these do; by the
        noncentral t distribution. None where there is no interval."""
        if self.interval is None:
            return None
        spread = (self.interval[1] - self.mean) * math.sqrt(self.n) / stats.t.isf(ALPHA / 2, self.n - 1)
        critical = stats.t.isf(ALPHA / 2, seeds - 1)
        found = optimize.brentq(lambda shift: stats.nct.sf(critical, seeds - 1, shift) - share, 0.0, 100.0)
        return float(found * spread / math.sqrt(seeds))

    def sentence(self, name: str, other: str) -> str:
        """What the difference shows, in one sentence."""
        over = counted(self.n, "seed")
        if self.interval is None:
            why = "one seed shows no difference" if self.n == 1 else f"the same on all {over}, so there is no interval"
            return f"From {other} to {name}: {points(self.mean)} points; {why}."
        found = f"{points(self.mean)} points, 95% interval {span(self.interval, signed=True)}, {over}"
        if self.open:
            return f"No difference between {name} and {other} is shown ({found})."
        return f"{name[0].upper()}{name[1:]} is {'better' if self.mean > 0 else 'worse'} than {other} ({found})."


def paired_test(differences: Array, resamples: int = RESAMPLES) -> Array:
    """Two-sided p of the hypothesis that the sign of every difference is a coin's toss (Fisher 1935, sec. 21).

    Exact whatever the distribution, ties and zeros included; where `MANY` differences or more are not zero the t test,
    which by then agrees.

    Args:
        differences: (..., pairs).
        resamples: sign flips to draw where there are more than so many.

    Returns:
        (...)
    """
    if np.count_nonzero(differences, axis=-1).min() >= MANY:
        return np.nan_to_num(stats.ttest_1samp(differences, 0.0, axis=-1).pvalue, nan=1.0)
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2**21 // differences.size),
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return np.asarray(found.pvalue)


def interquartile_mean(*strata: Array, axis: int = -1) -> Array:
    """Mean of the middle half of all strata's numbers (Agarwal et al. 2021, sec. 4.3)."""
    return np.asarray(stats.trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis))


def interval(strata: Sequence[Array]) -> tuple[float, float] | None:
    """95% bootstrap interval (percentile) of the interquartile mean, each stratum resampled by itself; None where one
    has fewer pairs than `FEWEST`, by which the exact test shows nothing either.

    Args:
        strata: paired differences, (pairs,) for each data set or method.
    """
    if min(map(len, strata)) < FEWEST:
        return None
    found = stats.bootstrap(
        list(strata),
        interquartile_mean,
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def power(repeats: int, pairs: int = 1, gap: float = 1.0, designs: int = 1000) -> float:
    """Share of comparisons that would show a gap, by simulation.

    Args:
        repeats: of each searcher.
        pairs: of searchers that are tested together, Holm's first step.
        gap: in standard deviations of one search's result over repeats. The two searches of a pair are taken to be
            independent: where a seed helps or hurts both, the power is higher.
        designs: simulated; the figure's standard error is at most 0.016 for 1000.
    """
    differences = np.random.default_rng(0).normal(gap, math.sqrt(2), (designs, repeats))
    flips = max(999, 400 * pairs)  # enough that p can fall well below the first step's level
    return float(np.mean(paired_test(differences, flips) <= ALPHA / pairs))


def repeats_needed(pairs: int = 1, share: float = 0.85) -> int:
    """The fewest repeats whose power for one standard deviation is at least `share`, by the noncentral t distribution.

    With the 0.85 that the t test would have, the exact test has 0.8 also where results are skewed or coarse:
    `benchmarks/verdicts.py` sees to it.
    """

    def found(repeats: int) -> float:
        """The power of so many repeats."""
        critical = stats.t.isf(ALPHA / pairs / 2, repeats - 1)
        return float(stats.nct.sf(critical, repeats - 1, math.sqrt(repeats / 2)))

    return 2 + bisect_left(range(2, 1000), share, key=found)


def smallest_p(repeats: int) -> float:
    """What the exact test gives when all repeats point the same way."""
    return min(1.0, 2.0 ** (1 - repeats))


def too_few(repeats: int, searchers: int) -> str | None:
    """What is to be said before so few repeats are paid for; None where they can show a difference."""
    pairs = math.comb(searchers, 2)
    if smallest_p(repeats) * pairs <= ALPHA:
        return None
    enough = next(number for number in itertools.count(repeats) if smallest_p(number) * pairs <= ALPHA)
    return (
        f"{repeats} repeats of {searchers} searchers cannot show a difference, since their smallest possible p is "
        f"{min(1.0, smallest_p(repeats) * pairs):.2g}; --repeats {enough} can"
    )


def analyse(courses: Mapping[str, Sequence[Course]], unit: str = "accuracy") -> dict[str, Any]:
    """Compare searchers over paired repeats.

    Args:
        courses: searcher -> its course in every repeat, the same number of repeats for each, at least two.
        unit: "accuracy" is worded in points of a hundred; anything else as it is.

    Returns:
        Plain JSON: `searchers` (final best values, simple regret against the best that anybody saw in the repeat,
        trials, seconds and MACs until the reference's final best was reached, null where it never was), `reference`,
        `pairs` (interquartile mean difference, interval or nulls, p, Holm's p), `power`, `repeats_needed`, `verdict`.
    """
    names = list(courses)
    repeats = len(courses[names[0]])
    worst = min((v for runs in courses.values() for run in runs for v in run.values if v == v), default=0.0)
    # A search in which nothing was finished has the worst result that anybody saw.
    final = {
        name: np.array([run.best[-1] if len(run.values) and run.best[-1] == run.best[-1] else worst for run in runs])
        for name, runs in courses.items()
    }
    reference = next((name for name in names if name in SEARCHERS and SEARCHERS[name].sized), names[0])
    pairs = _pairs(final) if repeats > 1 else []
    count = max(1, len(pairs))
    found: dict[str, Any] = {
        "repeats": repeats,
        "reference": reference,
        "searchers": _searchers(courses, final, reference),
        "pairs": pairs,
        "power": power(repeats, count) if repeats > 1 else 0.0,
        "repeats_needed": repeats_needed(count),
        "noise_sd": float(np.sqrt(np.mean([values.var(ddof=1) for values in final.values()]))) if repeats > 1 else None,
    }
    return {**found, "verdict": verdict(found, unit)}


def _searchers(
    courses: Mapping[str, Sequence[Course]], final: Mapping[str, Array], reference: str
) -> dict[str, dict[str, Any]]:
    """What each searcher reached, and when it was as good as the reference's end."""
    top = np.max(list(final.values()), axis=0)
    searchers = {}
    for name, runs in courses.items():
        reached = [_reached(run, float(target)) for run, target in zip(runs, final[reference], strict=True)]
        searchers[name] = {
            "final": final[name].tolist(),
            "mean": float(final[name].mean()),
            "sd": float(final[name].std(ddof=1)) if len(runs) > 1 else None,
            "regret": (top - final[name]).tolist(),
            "trials": [len(run.values) for run in runs],
            "to_reference": {
                "trials": [at and at[0] for at in reached],
                "seconds": [at and at[1] for at in reached],
                "macs": [at and at[2] for at in reached],
            },
        }
    return searchers


def _pairs(final: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Every two searchers: difference, interval, exact p and Holm's."""
    combinations = list(itertools.combinations(final, 2))
    if not combinations:
        return []
    differences = np.array([final[a] - final[b] for a, b in combinations])
    p = np.array([float(paired_test(row)) for row in differences])
    pairs = []
    for (a, b), row, raw, adjusted in zip(combinations, differences, p, holm(p), strict=True):
        low, high = interval([row]) or (None, None)
        pairs.append(
            {
                "a": a,
                "b": b,
                "difference": float(interquartile_mean(row)),
                "mean": float(row.mean()),
                "low": low,
                "high": high,
                "p": float(raw),
                "p_holm": float(adjusted),
                "shown": bool(adjusted <= ALPHA),
            }
        )
    return pairs


def _reached(run: Course, target: float) -> tuple[int, float, float] | None:
    """(trials, seconds, MACs) that a study had spent when it first was as good as `target`."""
    good = np.flatnonzero(run.best >= target)
    if not len(good):
        return None
    end = int(good[0]) + 1
    return end, float(sum(run.seconds[:end])), float(sum(run.macs[:end]))


def verdict(found: Mapping[str, Any], unit: str = "accuracy") -> str:
    """What `analyse` found, in one sentence."""
    scale, word = (100, " points") if unit == "accuracy" else (1, "")
    said = []
    for pair in found["pairs"]:
        if pair["shown"]:
            # The test is about the mean. The middle half, which outliers do not move, may say otherwise.
            sign = math.copysign(scale, pair["mean"])
            first, second = (pair["a"], pair["b"]) if sign > 0 else (pair["b"], pair["a"])
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            said.append(
                f"{first} is better than {second} by {sign * pair['mean']:.2g}{word} on average "
                f"(p = {pair['p_holm']:.2g}; interquartile mean {sign * pair['difference']:.2g}, "
                f"{low:.2g} to {high:.2g})"
            )
    hidden = [f"{pair['a']} and {pair['b']}" for pair in found["pairs"] if not pair["shown"]]
    if hidden:
        said.append(f"{'no' if said else 'No'} difference shown between {', '.join(hidden)}")
    repeats, sd = found["repeats"], found["noise_sd"]
    if sd is None:
        return "No verdict: one repeat says nothing about chance."
    if not said:
        return "No verdict: only one searcher ran; name at least two."
    bound = smallest_p(repeats) * max(1, len(found["pairs"]))
    gap = "find a gap of one noise standard deviation" + (f" ({scale * sd:.2g}{word})" if sd else "")
    many = f"{found['repeats_needed']} repeats {gap} in at least 80% of cases"
    if bound > ALPHA:
        design = f"cannot show one, since their smallest possible p is {min(1.0, bound):.2g}; {many}"
    else:
        design = f"{gap} in {found['power']:.0%} of cases"
        if found["repeats_needed"] > repeats:
            design += f", {found['repeats_needed']} in at least 80%"
    return f"{'; '.join(said)}; {repeats} repeats {design}."
