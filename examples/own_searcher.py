"""A searcher of one's own: half of the trials are random, the others a step from the best so far.

    bo-distill run fsp --searcher own_searcher:Stepping --trials 12        # in this folder

Any `ray.tune.search.Searcher` will do; one that takes `seed` can also go on with a study.
"""

import random
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.sample import Domain


class Stepping(Searcher):
    def __init__(self, points_to_evaluate: list[dict[str, Any]] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.first, self.random = list(points_to_evaluate or []), random.Random(seed)
        self.space: dict[str, Domain] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.best: tuple[float, dict[str, Any]] | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self._metric, self.space = metric, config
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        drawn = {name: domain.sample(random_state=self.random.randrange(2**31)) for name, domain in self.space.items()}
        if self.first:
            drawn = self.first.pop(0)
        elif self.best and self.random.random() < 0.5:
            kept = self.random.choice(list(self.space))  # all but one as the best has them
            drawn = {**self.best[1], kept: drawn[kept]}
        self.asked[trial_id] = drawn
        return drawn

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        settings = self.asked.pop(trial_id)
        if result and (self.best is None or result[self._metric] > self.best[0]):
            self.best = result[self._metric], settings

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a study keeps what was asked and told, and tells it again."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""
