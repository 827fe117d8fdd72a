"""Which policy: thresholds chosen on validation, by what was seen there or by what it bounds.

The best of many thresholds looks better on the rows that chose it than it is. Where a loss of accuracy must not exceed
a bound, `controlled` takes only thresholds for which validation refutes that it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bo_distill.methods.metrics import temperature
from bo_distill.methods.res_ic.paper import length_table
from bo_distill.methods.res_ic.policies import NEVER, RULES, Exits, Policy
from bo_distill.methods.res_ic.risk import p_value

GOALS = ("controlled", "accurate", "cheap", "given")
FITTED = ("length", "ensemble", "agreement")
"""Rules with something to fit beside the threshold; the rows that fit it cannot bound its risk."""


@dataclass(frozen=True)
class Curve:
    """What a rule gives at T increasing thresholds, each (T,) float64.

    Attributes:
        thresholds: the higher, the later sentences leave.
        accuracy: share of right answers.
        macs: multiply-adds per sentence, on average; never falls with the threshold.
        lost, won: share of sentences that the last classifier alone has right, and that it alone has wrong.
    """

    thresholds: Tensor
    accuracy: Tensor
    macs: Tensor
    lost: Tensor
    won: Tensor


def thresholds(scores: Tensor, most: int = 200) -> Tensor:
    """Thresholds worth trying for scores (n, E), increasing, (T,): between values, where rounding moves none."""
    values = scores[:, :-1].double().unique()
    apart = values.diff() > 1e-6
    middles = ((values[1:] + values[:-1]) / 2)[apart]
    if len(middles) > most:
        middles = middles[torch.linspace(0, len(middles) - 1, most).round().long()]
    return torch.cat([middles.new_zeros(1), middles, middles.new_full((1,), NEVER)])


def sweep(policy: Policy, exits: Exits, at: Tensor | None = None) -> Curve:
    """The rule at many thresholds (default: `thresholds` of these rows), from stored logits alone.

    A sentence leaves at exit i for every threshold above the scores of the exits before and up to its own. So each
    sentence adds to one stretch of thresholds per exit, and no threshold is looked at by itself.
    """
    scores, answers = policy.scores(exits.logits, exits.lengths)
    at = thresholds(scores) if at is None else at
    reached = scores.double().cummax(1).values
    reached = torch.cat([reached[:, :-1], torch.full_like(reached[:, :1], torch.inf)], 1)
    ends = torch.searchsorted(at, reached.contiguous(), right=True)
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)

    def mean(value: Tensor) -> Tensor:
        """The mean over rows (n,) of steps that start and end at the sorted thresholds."""
        steps = torch.zeros(len(at) + 1, dtype=torch.float64)
        steps.index_add_(0, starts.flatten(), value.flatten()).index_add_(0, ends.flatten(), -value.flatten())
        return steps.cumsum(0)[:-1] / len(value)

    right, last = answers.argmax(2) == exits.y[:, None], exits.right[:, -1:]
    macs = torch.tensor(exits.macs, dtype=torch.float64).expand(right.shape)
    return Curve(at, *map(mean, (right.double(), macs, (last & ~right).double(), (right & ~last).double())))


def fitted(rule: str, exits: Exits, *, cheapest: bool = False) -> Policy:
    """A rule with what it reads of validation beside the threshold, which stays `NEVER`.

    "length" gets its table (`cheapest` as in `length_table`), "ensemble" a temperature for each exit, "agreement" the
    accuracy of each exit as its weight (BEEM-A), over the sum of all.
    """
    policy = Policy(rule, exits.logits.shape[1])
    match rule:
        case "length":
            table = length_table(exits.right, exits.lengths, exits.longest, cheapest=cheapest)
            return dataclasses.replace(policy, table=table)
        case "ensemble":
            return dataclasses.replace(
                policy, temperatures=tuple(temperature(own, exits.y) for own in exits.logits.unbind(1))
            )
        case "agreement":
            accuracy = exits.right.double().mean(0).clamp_min(1e-6)  # no exit is never right, for sure
            return dataclasses.replace(policy, weights=tuple((accuracy / accuracy.sum()).tolist()))
    return policy


def choose(
    rule: str,
    exits: Exits,
    goal: str = "accurate",
    threshold: float = NEVER,
    *,
    delta: float = 0.01,
    alpha: float = 0.1,
) -> Policy:
    """The policy that validation prefers.

    Args:
        rule: a key of `RULES`.
        exits: of the validation split.
        goal: "controlled" is `controlled`. "accurate" takes the best accuracy, between equal ones the cheaper. "cheap"
            takes the fewest MACs among those that are not less accurate on these rows than the last classifier, or the
            best where all are. "given" keeps `threshold`, but for "length", where it is "accurate".
        delta, alpha: of `controlled`.
    """
    if rule == "last":
        return Policy(rule, exits.logits.shape[1])
    if goal == "controlled":
        return controlled(exits, delta, alpha)[rule]
    policy = fitted(rule, exits, cheapest=goal == "cheap")
    if rule == "length":
        return dataclasses.replace(policy, threshold=0.5 / policy.exits)
    if goal == "given":
        return dataclasses.replace(policy, threshold=threshold)
    curve = sweep(policy, exits)
    enough = curve.accuracy >= exits.right[:, -1].double().mean() - 1e-9
    # The first of equal thresholds is the cheapest.
    index = (enough.int() if goal == "cheap" and enough.any() else curve.accuracy.round(decimals=9)).argmax()
    return dataclasses.replace(policy, threshold=float(curve.thresholds[index]))


GRID = torch.tensor(
    [*((2 * k + 1) / 64 for k in range(29)), *(1 - 10 ** -(1 + k / 5) for k in range(21)), NEVER], dtype=torch.float32
).double()
"""Thresholds that `controlled` may take: set before any row is seen, between the scores of rules that count exits,
and close to 1, where confident networks differ. Each is a float32, as scores are: what is tested is deployed."""


def controlled(exits: Exits, delta: float, alpha: float, rules: Sequence[str] = tuple(RULES)) -> dict[str, Policy]:
    """For each rule the lowest threshold whose risk is under control, by Learn then Test (Angelopoulos et al. 2021).

    With probability 1 - alpha over the validation rows, no policy of them all is less accurate than the last classifier
    by more than delta. Each rule tests its thresholds from the highest down and stops at the first that is not shown
    to be within delta (fixed-sequence testing); a rule that may go all the way down hands its share of alpha on to the
    others (Holm 1979). So whoever picks a rule after having seen them all has the promise too. The networks are taken
    as given: an epoch or a trial that was chosen on the same rows is not paid for.

    A rule for which nothing can be shown is "last". Rules in `FITTED` are fitted on every other row and tested on the
    rest.

    Args:
        exits: of the validation split.
        delta: accuracy that may be lost, above 0.
        alpha: chance that any policy loses more.
        rules: among which somebody may pick.
    """
    found = {rule: Policy("last", exits.logits.shape[1]) for rule in rules}
    left = {rule: _steps(rule, exits) for rule in rules if rule != "last"}
    level = 0.0
    while left and level < alpha / len(left):
        level = alpha / len(left)
        for rule, steps in left.items():
            while steps and p_value(*steps[0][1:], delta) <= level:
                found[rule] = steps.pop(0)[0]
        left = {rule: steps for rule, steps in left.items() if steps}
    return found


def _steps(rule: str, exits: Exits) -> list[tuple[Policy, int, int, int]]:
    """A rule's policies, highest threshold first; sentences that only the last one has right, only it, all tested."""
    fit, test = (exits.every(2, 0), exits.every(2, 1)) if rule in FITTED else (exits, exits)
    policy, rows = fitted(rule, fit, cheapest=True), len(test.y)
    if not rows:  # a validation split of one row
        return []
    curve = sweep(policy, test, GRID)
    return [
        (dataclasses.replace(policy, threshold=threshold), round(rows * lost), round(rows * won), rows)
        for threshold, lost, won in torch.stack([GRID, curve.lost, curve.won], 1).flip(0).tolist()
    ]
