"""A search of several metrics at once by a searcher of one: ParEGO.

Knowles 2006, "ParEGO: a hybrid algorithm with on-line landscape approximation for expensive multiobjective optimization
problems", IEEE Transactions on Evolutionary Computation 10 (1). For each proposal weights are drawn anew, every trial's
metrics become one number under them, and a searcher of one number proposes as if it had seen nothing else. With other
weights each time, the proposals spread over the whole Pareto front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_distill.search.searchers.base import METRIC, Estimate, Searcher, Settings, Space, check_same, describe

Array = NDArray[np.floating[Any]]

RHO = 0.05  # of the sum beside the maximum, as in the paper: no point that another dominates is best under any weights


def tchebycheff(costs: Array, weights: Array) -> Array:
    """The augmented Tchebycheff function of the paper, max_j(w_j f_j) + rho sum_j(w_j f_j).

    Args:
        costs: f, to be made small, each from 0 to 1 over the trials; (trials, metrics).
        weights: w, not negative, of sum 1; (metrics,).

    Returns:
        (trials,)
    """
    weighted = weights * costs
    return np.asarray(weighted.max(axis=1) + RHO * weighted.sum(axis=1))


def normalised(scores: Array) -> Array:
    """Scores, to be made large, as costs from 0, the best that was seen, to 1, the worst; (trials, metrics)."""
    best, worst = scores.max(axis=0), scores.min(axis=0)
    return np.asarray((best - scores) / np.where(best > worst, best - worst, 1.0))


class ScalarisedSearch:
    """Asks a fresh searcher of one number each time, after it has been asked for and told all trials so far.

    A trial's result is a list of scores in place of a number, all to be made large.

    Args:
        make: what to try first -> a fresh searcher, which proposes just that first, in this order.
        space: what is searched.
        seed: of the weights.
        first: to be tried first.
    """

    FINISHED = "FINISHED"

    def __init__(
        self, make: Callable[[Sequence[Settings]], Searcher], space: Space, seed: int, first: Sequence[Settings]
    ) -> None:
        self.make, self.space, self.seed, self.reason = make, space, seed, ""
        self.first = [dict(point) for point in first]
        self.asked: dict[str, Settings] = {}
        self.ended: dict[str, list[float] | str | None] = {}  # scores, "failed", None: it ended without a value

    def suggest(self, trial_id: str) -> Any:
        """The configuration to try next, under weights that follow from the seed and its number alone."""
        if trial_id in self.asked:
            return self.asked[trial_id]
        inner = self.make([*self.asked.values(), *self.first[len(self.asked) :]])
        for known in self.asked:
            inner.suggest(known)
        values = self._values()
        for known, end in self.ended.items():
            result = {METRIC: values[known]} if known in values else None
            inner.on_trial_complete(known, result, error=end == "failed")
        found = inner.suggest(trial_id)
        self.reason = inner.reason
        if found is not None and found != inner.FINISHED:
            self.asked[trial_id] = found
        return found

    def _values(self) -> dict[str, float]:
        """Each trial's scores as one number, to be made large, under the weights of the next proposal."""
        known = {trial: end for trial, end in self.ended.items() if isinstance(end, list)}
        if not known:
            return {}
        scores = np.array(list(known.values()))
        weights = np.random.default_rng([self.seed, len(self.asked)]).dirichlet(np.ones(scores.shape[1]))
        return dict(zip(known, (-tchebycheff(normalised(scores), weights)).tolist(), strict=True))

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """Hear what came of a trial: `result[METRIC]`, its scores."""
        if trial_id in self.asked:
            self.ended[trial_id] = "failed" if error else [*map(float, result[METRIC])] if result else None

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """A trial that was stopped early has no scores to compare."""
        self.on_trial_complete(trial_id)

    def add_evaluated_point(self, parameters: Settings, value: Any, error: bool = False) -> None:
        """Take a trial that another searcher asked for; `value` is its scores."""
        name = f"before {len(self.asked)}"
        self.asked[name] = {field: parameters[field] for field in self.space}
        self.on_trial_complete(name, None if value is None else {METRIC: value}, error)

    def save_state(self) -> Settings:
        """All that later proposals follow from, as JSON."""
        return {
            "space": describe(self.space),
            "first": self.first,
            "asked": dict(self.asked),
            "ended": dict(self.ended),
            "reason": self.reason,
        }

    def restore_state(self, state: Settings) -> None:
        """Go on from a saved state; ValueError if it is of another space, or of a search of one metric."""
        check_same(state.get("space"), describe(self.space))
        if not isinstance(state.get("asked"), dict):
            raise ValueError("the saved search is of one metric")
        self.first, self.asked, self.ended = list(state["first"]), dict(state["asked"]), dict(state["ended"])
        self.reason = state["reason"]
