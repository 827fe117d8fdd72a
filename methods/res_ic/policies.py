"""When to stop: exit policies over the answers of all exits so far.

Every policy is a score of how done a sentence is at each exit, in [0, 1], and a threshold: the sentence leaves at the
first exit whose score reaches it, or at the last exit. A score looks at no later exit, so the same function serves a
sweep over stored logits, where a new threshold costs nothing, and inference that stops.

    logits   (n, e, K) of the first e exits
    lengths  (n,) characters
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bo_distill.methods.res_ic.nets import ResIC
from bo_distill.methods.res_ic.paper import length_bucket, sentence_lengths

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

    def every(self, step: int, start: int) -> Exits:
        """Every `step`-th sentence from `start` on."""
        rows = slice(start, None, step)
        return Exits(self.logits[rows], self.y[rows], self.lengths[rows], self.longest, self.macs)


@dataclass(frozen=True)
class Policy:
    """A rule and what was chosen for it on validation; JSON values only.

    Attributes:
        rule: a key of `RULES`.
        exits: of the network, the last one included.
        threshold: leave where the score is at least this.
        temperatures: of each exit, for "ensemble".
        weights: of each exit, for "agreement"; their sum is 1.
        table: exit of each bucket of lengths, for "length".
    """

    rule: str
    exits: int
    threshold: float = NEVER
    temperatures: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
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
    """0 before the exit that the table gives for the sentence's length (section 5.2), from there on its depth.

    So the lowest threshold follows the table, and a higher one leaves no earlier than at some exit.
    """
    table = torch.tensor(policy.table, device=logits.device)
    exit = table[length_bucket(lengths).clamp_max(len(policy.table) - 1)]
    number = torch.arange(logits.shape[1], device=logits.device)
    return (number + 1) / policy.exits * (number >= exit[:, None]), logits


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


def _agreement(policy: Policy, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted confidence of the exits that agree with this one in a row (BEEM, Bajpai & Hanawal 2025).

    S_i = S_{i-1} + w_i C_i where exit i answers as exit i - 1 did, w_i C_i where it does not; C_i is the largest
    probability. Each exit gives its own answer.
    """
    confidence, guess = logits.softmax(2).max(2)
    weighted = confidence * torch.tensor(policy.weights[: logits.shape[1]], device=logits.device)
    sums = [weighted[:, 0]]
    for i in range(1, logits.shape[1]):
        sums.append(weighted[:, i] + sums[-1] * (guess[:, i] == guess[:, i - 1]))
    return torch.stack(sums, 1), logits


RULES: dict[str, Rule] = {
    "last": _last,
    "fixed": _fixed,
    "length": _length,
    "confidence": _confidence,
    "entropy": _entropy,
    "patience": _patience,
    "ensemble": _ensemble,
    "agreement": _agreement,
}


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
