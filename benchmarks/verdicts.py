"""Is the verdict of `search.compare` honest? False verdicts where there is nothing, and a planted gap found.

    python -m benchmarks.verdicts [benchmarks/tables/center_loss_digits.parquet ...]

Results of whole searches (the best of 20 random trials, as it is seen) are drawn by the thousand from each recorded
table and from made-up noise. A/A: all searchers are the same, any difference shown is false; gate: at most 5%, less
what chance explains (binomial test at 1%). Planted: the last searcher is better by one standard deviation of its
results over repeats; gate: shown in at least 80% at the recommended number of repeats. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bo_distill.methods.paired import holm
from bo_distill.search.evidence.statistics import ALPHA, Array, paired_test, repeats_needed
from bo_distill.search.simulation.curse import winners_curse
from bo_distill.search.simulation.recorded import Table

FLIPS = 999  # of the sign-flip test, fewer than in a real verdict; the level is the same


def results(table: Table, searches: int, trials: int, rng: np.random.Generator) -> Array:
    """The best of `trials` random trials, for each of so many searches."""
    shares = rng.random((searches * trials, len(table.space)))
    settings = [
        {name: domain.from_unit(float(share)) for (name, domain), share in zip(table.space.items(), row, strict=True)}
        for row in shares
    ]
    values = table.expected(settings)[0][:, -1] + rng.choice(table.residuals[:, -1], len(settings))
    return np.asarray(values.reshape(searches, trials).max(axis=1))


def noise(kind: str, searches: int, rng: np.random.Generator) -> Array:
    """Made-up results: normal, skewed as the best of many is, or so coarse that most are equal."""
    match kind:
        case "normal":
            return rng.standard_normal(searches)
        case "skewed":
            return stats.gumbel_l.rvs(size=searches, random_state=rng)
        case _:
            return np.round(rng.standard_normal(searches))


def shown(final: Array) -> NDArray[np.bool_]:
    """Which pairs of searchers are told apart: (designs, searchers, repeats) -> (designs, pairs)."""
    pairs = itertools.combinations(range(final.shape[1]), 2)
    p = np.stack([paired_test(final[:, a] - final[:, b], FLIPS) for a, b in pairs], axis=-1)
    return holm(p) <= ALPHA


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help="default: all under benchmarks/tables")
    parser.add_argument("--designs", type=int, default=1000, help="simulated comparisons of each kind (1000)")
    parser.add_argument("--trials", type=int, default=20, help="of a search (20)")
    args = parser.parse_args()
    paths = args.tables or sorted(Path("benchmarks/tables").glob("*.parquet"))
    if not paths:
        parser.error("no recorded table under benchmarks/tables; name one")
    started, rng, missed = time.perf_counter(), np.random.default_rng(0), False
    tables = {path.stem: Table.read(path) for path in paths}
    print(f"{'results of':14} {'searchers':>9} {'repeats':>7} {'false verdicts':>15} {'gap of 1 sd found':>18}")
    for name, searchers in itertools.product([*tables, "normal", "skewed", "coarse"], (2, 3)):
        recommended = repeats_needed(searchers * (searchers - 1) // 2)
        pool = results(tables[name], 5000, args.trials, rng) if name in tables else noise(name, 5000, rng)
        for repeats in (5, 10, recommended):
            # Drawn again and again from the pool; the sd is the pool's, and so known.
            final = rng.choice(pool, (args.designs, searchers, repeats))
            false = int(shown(final).any(axis=1).sum())
            final[:, -1] += pool.std()
            # The last searcher against the first: pair number `searchers` - 2.
            found = float(shown(final)[:, searchers - 2].mean())
            bad = stats.binomtest(false, args.designs, ALPHA, alternative="greater").pvalue < 0.01
            weak = repeats == recommended and found < 0.8
            missed |= bad or weak
            print(
                f"{name:14} {searchers:9} {repeats:7} {false / args.designs:15.1%} {found:18.1%}"
                f"{'  MISSED' if bad or weak else ''}",
                flush=True,
            )
    for name, table in tables.items():
        curse = winners_curse(table, budget=args.trials, keep=3, seeds=3, studies=300)
        bad = curse["removed"] < 0.7 or curse["truth_confirmed"] < curse["truth"] - 2 * curse["truth_se"]
        missed |= bad
        print(
            f"{name}: the winner is {curse['optimism']:.4f} too high; {curse['optimism_confirmed']:.4f} when the best "
            f"3 run again over 3 seeds ({curse['removed']:.0%} removed); its true value is {curse['truth']:.4f}, then "
            f"{curse['truth_confirmed']:.4f}, standard error {curse['truth_se']:.4f}{'  MISSED' if bad else ''}"
        )
    print(f"{time.perf_counter() - started:.0f} s")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
