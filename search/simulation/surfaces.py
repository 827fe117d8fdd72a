"""What a simulated trial is looked up in: made-up learning curves to the height of a smooth surface."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bo_distill.methods.space import Real, Searched
from bo_distill.search.simulation.problems import Array, Recorded, Settings

EPOCHS = 18
NOISE = 0.005  # of an accuracy, constant over a training, and half as much from epoch to epoch
GUESS, PLAIN, TOP = 0.1, 0.4, 0.9  # accuracy of a guess, of most of a surface and at most of its top


@dataclass(frozen=True)
class Curves:
    """Accuracies that rise, each in its way, to the height of a smooth surface over three parameters.

    Attributes:
        family: how they rise: `alike`, all at one pace; `unlike`, at paces that x sets, so that curves cross and the
            first epochs mislead; `plateaus`, not at all before an epoch that y sets; `late`, the more slowly the
            higher they end.
        seed: of the surface.
    """

    family: str
    seed: int = 0
    space: dict[str, Searched] = field(default_factory=lambda: {n: Real(0, 1) for n in ("x", "y", "z")})
    shared: float = 0.0
    unit: str = "accuracy"
    defaults: Settings = field(default_factory=dict)

    def variant(self, study: int) -> Curves:
        """The surface of that seed."""
        return Curves(self.family, study)

    def height(self, points: Array) -> Array:
        """(n, 3) -> (n,) accuracy after the last epoch, without noise."""
        rng = np.random.default_rng(self.seed)
        top, width = rng.uniform(0.15, 0.85, 3), rng.uniform(0.25, 0.6, 3)
        bump, dent = rng.uniform(0, 1, 3), rng.uniform(0.2, 0.5)
        near = np.exp(-(((points - top) / width) ** 2).sum(axis=1) / 2)
        other = np.exp(-(((points - bump) / 0.25) ** 2).sum(axis=1) / 2)
        return np.asarray(PLAIN + (TOP - PLAIN) * (near + dent * other * (1 - near)))

    def rise(self, settings: Settings, height: float) -> Array:
        """(epochs,) from 0 towards 1, of a training that ends at this height."""
        epochs = np.arange(1, EPOCHS + 1)
        match self.family:
            case "alike":
                return np.asarray(1 - np.exp(-epochs / 5))
            case "unlike":
                return np.asarray(1 - np.exp(-epochs / (2 * 4 ** settings["x"])))
            case "plateaus":
                return np.asarray(1 / (1 + np.exp(-(epochs - 2 - 7 * settings["y"]) / 1.5)))
            case _:
                return np.asarray(1 - np.exp(-epochs / (2 + 8 * (height - PLAIN) / (TOP - PLAIN))))

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """A curve over all epochs; its truth is the height there."""
        height = float(self.height(np.array([[settings[name] for name in self.space]]))[0])
        rise = self.rise(settings, height)
        clean = GUESS + (height - GUESS) * rise / rise[-1]
        curve = clean + NOISE * (rng.standard_normal() + rng.standard_normal(EPOCHS) / 2)
        return Recorded(curve, np.ones(EPOCHS), float(EPOCHS), height)

    def best(self) -> float:
        """The greatest height, on a fine grid."""
        axis = np.linspace(0, 1, 41)
        return float(self.height(np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)).max())
