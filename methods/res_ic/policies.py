"""When to stop: exit policies over the answers of all exits so far.

Every policy is a score of how done a sentence is at each exit, in [0, 1], and a threshold: the sentence leaves at the
first exit whose score reaches it, or at the last exit. A score looks at no later exit, so the same function serves a
sweep over stored logits, where a new threshold costs nothing, and inference that stops.

    logits   (n, e, K) of the first e exits
    lengths  (n,) characters
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from methods.metrics import temperature
from methods.res_ic.nets import ResIC
from methods.res_ic.paper import length_bucket, length_table, sentence_lengths

GOALS = ("accurate", "cheap", "given")
NEVER = 2.0  # a threshold above every score: no sentence leaves early


@dataclass(frozen=True)
class Exits:
    """What all exits say of the sentences of a split, for one task.

    Attributes:
        logits: (n, E, K).
        y: (n,) labels.
        lengths: (n,) characters.
        longest: characters that a sentence can have at most.
        macs: multiply-adds of a sentence that leaves at each exit, E numbers.
    """

    logits: Tensor
    y: Tensor
    lengths: Tensor
    longest: int
    macs: tuple[int, ...]

    @cached_property
    def right(self) -> Tensor:
        """(n, E) bool: which exits are right."""
        return self.logits.argmax(2) == self.y[:, None]


@dataclass(frozen=True)
class Policy:
    """A rule and what was chosen for it on validation; JSON values only.

    Attributes:
        rule: a key of `RULES`.
        exits: of the network, the last one included.
        threshold: leave where the score is at least this.
        temperatures: of each exit, for "ensemble".
        table: exit of each bucket of lengths, for "length".
    """

    rule: str
    exits: int
    threshold: float = NEVER
    temperatures: tuple[float, ...] = ()
    table: tuple[int, ...] = ()

    def scores(self, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """logits (n, e, K) of the first e exits -> (scores (n, e), answers: log-probabilities or logits (n, e, K))."""
        return RULES[self.rule](self, logits, lengths)

    def decide(self, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """logits (n, exits, K) -> (exit of each sentence (n,), its answer (n, K))."""
        scores, answers = self.scores(logits, lengths)
        exit = first(scores, self.threshold)
        return exit, answers.gather(1, exit[:, None, None].expand(-1, 1, answers.shape[2])).squeeze(1)


Rule = Callable[[Policy, Tensor, Tensor], tuple[Tensor, Tensor]]


def first(scores: Tensor, threshold: float) -> Tensor:
    """The first of the exits (n, E) whose score reaches the threshold, the last where none does: (n,)."""
    done = scores >= threshold
    done = torch.cat([done[:, :-1], torch.ones_like(done[:, :1])], 1)
    return done.int().argmax(1)


def _last(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(logits[:, :, 0]), logits


def _fixed(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """How deep the exit lies, from 0 to 1: the threshold names an exit."""
    depth = torch.arange(logits.shape[1], device=logits.device) / max(policy.exits - 1, 1)
    return depth.expand(logits.shape[:2]), logits


def _length(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """1 from the exit on that the table gives for the sentence's length (section 5.2)."""
    table = torch.tensor(policy.table, device=logits.device)
    exit = table[length_bucket(lengths).clamp_max(len(policy.table) - 1)]
    return (torch.arange(logits.shape[1], device=logits.device) >= exit[:, None]).float(), logits


def _confidence(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability (Shallow-Deep Networks)."""
    return logits.softmax(2).amax(2), logits


def _entropy(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """1 - H / log K (BranchyNet leaves where the entropy H is small)."""
    log_p = logits.log_softmax(2)
    return 1 + (log_p.exp() * log_p).sum(2) / math.log(logits.shape[2]), logits


def _patience(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """How often in a row the answer stayed the same, over the most that is possible (PABEE)."""
    guess = logits.argmax(2)
    counts = [torch.zeros_like(guess[:, 0])]
    for i in range(1, guess.shape[1]):
        counts.append((counts[-1] + 1) * (guess[:, i] == guess[:, i - 1]))
    return torch.stack(counts, 1) / max(policy.exits - 1, 1), logits


def _ensemble(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the calibrated probabilities of all exits so far answers; its largest entry is the score."""
    e = logits.shape[1]
    temperatures = torch.tensor(policy.temperatures[:e], device=logits.device)
    total = (logits / temperatures[:, None]).softmax(2).cumsum(1)
    mean = total / torch.arange(1, e + 1, device=logits.device)[:, None]
    return mean.amax(2), mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


RULES: dict[str, Rule] = {
    "last": _last,
    "fixed": _fixed,
    "length": _length,
    "confidence": _confidence,
    "entropy": _entropy,
    "patience": _patience,
    "ensemble": _ensemble,
}


def temperatures(logits: Tensor, y: Tensor) -> tuple[float, ...]:
    """The temperature of each exit (`methods.metrics.temperature`); logits (n, E, K), y (n,)."""
    return tuple(temperature(own, y) for own in logits.unbind(1))


@dataclass(frozen=True)
class Curve:
    """What a rule gives at T increasing thresholds, each (T,) float64.

    Attributes:
        thresholds: the higher, the later sentences leave.
        accuracy: share of right answers.
        macs: multiply-adds per sentence, on average; never falls with the threshold.
    """

    thresholds: Tensor
    accuracy: Tensor
    macs: Tensor


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
        steps = torch.zeros(len(at) + 1, dtype=torch.float64)
        steps.index_add_(0, starts.flatten(), value.flatten()).index_add_(0, ends.flatten(), -value.flatten())
        return steps.cumsum(0)[:-1] / len(value)

    right = (answers.argmax(2) == exits.y[:, None]).double()
    return Curve(at, mean(right), mean(torch.tensor(exits.macs, dtype=torch.float64).expand_as(right)))


def choose(rule: str, exits: Exits, goal: str = "accurate", threshold: float = NEVER) -> Policy:
    """The policy that validation prefers.

    Args:
        rule: a key of `RULES`.
        exits: of the validation split.
        goal: "accurate" takes the best accuracy, between equal ones the cheaper. "cheap" takes the fewest MACs among
            those that are not less accurate than the last classifier, or the best where all are. "given" keeps
            `threshold`. The length table has no threshold: "given" is "accurate" there.
    """
    policy = Policy(rule, exits.logits.shape[1], threshold)
    match rule:
        case "last":
            return dataclasses.replace(policy, threshold=NEVER)
        case "length":
            table = length_table(exits.right, exits.lengths, exits.longest, cheapest=goal == "cheap")
            return dataclasses.replace(policy, threshold=0.5, table=table)
        case "ensemble":
            policy = dataclasses.replace(policy, temperatures=temperatures(exits.logits, exits.y))
    if goal == "given":
        return policy
    curve = sweep(policy, exits)
    enough = curve.accuracy >= exits.right[:, -1].double().mean() - 1e-9
    # The first of equal thresholds is the cheapest.
    index = (enough.int() if goal == "cheap" and enough.any() else curve.accuracy.round(decimals=9)).argmax()
    return dataclasses.replace(policy, threshold=float(curve.thresholds[index]))


def oracle(exits: Exits) -> Tensor:
    """The first exit that is right, the last where none is: (n,). No policy that picks an exit can answer better."""
    return first(exits.right.float(), 1.0)


class EarlyExit(nn.Module):
    """The deployed model: a network, one of its tasks and the policy that was chosen for it.

    `forward` runs all exits and then picks: no shape and no branch depends on the data. `infer` gives the same answers
    and stops computing for the sentences that have left.

    Args:
        net: its exits give the logits of its tasks side by side.
        policy: when to stop.
        columns: which of those logits are this task's.
    """

    def __init__(self, net: ResIC, policy: Policy, columns: slice) -> None:
        super().__init__()
        self.net, self.policy, self.columns = net, policy, columns

    def forward(self, x: Tensor) -> Tensor:
        """x (b, length) int64 -> logits (b, K)."""
        return self.policy.decide(self.net(x)[:, :, self.columns], sentence_lengths(x))[1]

    @torch.inference_mode()
    def infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, length) int64 -> (logits (b, K), exit of each sentence (b,)). In eval mode only: rows must not mix."""
        answer = torch.empty(len(x), self.columns.stop - self.columns.start, device=x.device)
        exit = torch.empty(len(x), dtype=torch.long, device=x.device)
        rows, lengths, h = torch.arange(len(x), device=x.device), sentence_lengths(x), self.net.start(x)
        seen = h.new_empty(len(x), 0, answer.shape[1])
        for i in range(self.policy.exits):
            h, logits = self.net.leave(i, h)
            seen = torch.cat([seen, logits[:, None, self.columns]], 1)
            scores, answers = self.policy.scores(seen, lengths)
            done = scores[:, -1] >= self.policy.threshold
            if i == self.policy.exits - 1:
                done = torch.ones_like(done)
            answer[rows[done]], exit[rows[done]] = answers[done, -1].float(), i
            stay = ~done
            rows, lengths, h, seen = rows[stay], lengths[stay], h[stay], seen[stay]
            if not len(rows):
                break
        return answer, exit
