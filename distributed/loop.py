"""The only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bo_distill.distributed.norm import arrange, has_batch_norm, running_statistics
from bo_distill.distributed.optimizers import make_optimizer
from bo_distill.distributed.ranks import Ranks, Reducer, Share, dropping_together, share_of
from bo_distill.distributed.seeds import seed_of
from bo_distill.methods.data.dataset import Data
from bo_distill.methods.method import EpochRow
from bo_distill.methods.training import Batch, Player


class Stopped(Exception):
    """A scheduler or a person asked this training to end early. Its stage has no result, and can go on from here."""


class Host(Protocol):
    """What the loop asks of the process that it runs in (`distributed.worker.LocalWorker`).

    Attributes:
        checkpoint_seconds: at least so much time lies between two checkpoints.
    """

    data: Data
    device: torch.device
    seed: int
    ranks: Ranks
    checkpoint_seconds: float

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks run."""
        ...

    def batch(self, index: Tensor, kind: str, seed: int, rows: slice, size: int) -> Tensor:
        """The rows `index` of the training split on the device, augmented as `kind` says."""
        ...

    def report(self, row: EpochRow) -> bool:
        """Hand on an epoch's row; whether the training is to stop."""
        ...

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The progress that was saved under the name; None if there is none."""
        ...

    def save_checkpoint(self, name: str, progress: Mapping[str, Any]) -> None:
        """Keep a fit's progress under the name."""
        ...


def fit(
    host: Host,
    players: Sequence[Player],
    *,
    name: str,
    validate: Callable[[], Mapping[str, float]] | None = None,
    rows: Tensor | None = None,
    targets: Tensor | None = None,
    keep: str = "last",
    patience: int | None = None,
) -> list[EpochRow]:
    """Train `players` as `methods.method.Worker.fit` says; `name` tells this fit's checkpoint from others'.

    A batch is never larger than the rows there are, and the rows left over by full batches wait for another epoch.
    Everything random in an epoch follows from (seed, name, epoch), and the learning rate from the epoch, so that a
    training that goes on from its checkpoint ends exactly where an uninterrupted one does; on a GPU, whose kernels add
    in no fixed order, two trainings draw apart by rounding, interrupted or not.

    Raises:
        Stopped: the worker's listener said so.
        FloatingPointError: a loss was NaN or infinite in an epoch; the message names its part, the epoch and the rate.
        UsageError: the workers are too many for a batch.
    """
    training = players[0].training
    feed = Feed.of(host, players, name, rows, targets)
    for player in players:
        arrange(player.net, training.norm, feed.share.groups, host.ranks)
    with ExitStack() as stack:
        for player in players:
            stack.enter_context(dropping_together(player.net, feed.share))
        movers = [stack.enter_context(closing(Mover(player, host.ranks, feed.share))) for player in players]
        course = Course(movers, keep)
        if progress := host.load_checkpoint(name):
            course.restore(progress)
            answers = [host.report(earlier) for earlier in course.history]
            if answers and answers[-1]:  # it was to stop there, and was interrupted before that was noted
                raise Stopped
        written = time.monotonic()
        while not course.over(training.epochs, patience):
            epoch, started, spent = len(course.history), time.monotonic(), time.process_time()
            means = train_epoch(host, movers, feed, epoch)
            row = {"epoch": epoch + 1, **means, **(validate() if validate else {})}
            row |= {
                "seconds": time.monotonic() - started,
                "cpu_seconds": sum(host.ranks.gathered(time.process_time() - spent)),
            }
            stop = host.report(row)
            course.note(row)
            due = time.monotonic() - written >= host.checkpoint_seconds
            if stop or (due and not course.over(training.epochs, patience)):
                host.save_checkpoint(name, course.progress())
                written = time.monotonic()
            if stop:
                raise Stopped
        course.settle()
    # What the stage draws now does not tell whether all epochs were trained here or some found in a checkpoint.
    torch.manual_seed(seed_of(host.seed, name, "after"))
    return course.history


@dataclass(frozen=True)
class Feed:
    """The batches of this rank, epoch by epoch.

    Attributes:
        rows: of the training split, that an epoch goes through.
        labels: of all of the split's rows.
        share: this rank's part of every batch.
        augment: kind of augmentation.
    """

    host: Host
    name: str
    rows: Tensor
    labels: Tensor
    share: Share
    augment: str

    @classmethod
    def of(cls, host: Host, players: Sequence[Player], name: str, rows: Tensor | None, targets: Tensor | None) -> Feed:
        """As the first player's training says, for `rows` and `targets` of `methods.method.Worker.fit`."""
        training, train = players[0].training, host.data.train
        rows = torch.arange(len(train)) if rows is None else rows
        grouped = training.norm == "group" and any(has_batch_norm(player.net) for player in players)
        share = share_of(host.ranks, training, min(training.batch_size, len(rows)), grouped)
        labels = (train.y if targets is None else targets).to(host.device)
        return cls(host, name, rows, labels, share, training.augment)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.rows) // self.share.size

    def seed(self, epoch: int) -> int:
        """What everything random in an epoch follows from."""
        return seed_of(self.host.seed, self.name, epoch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's part of each batch of an epoch, from 0."""
        seed, size, steps = self.seed(epoch), self.share.size, self.steps
        order = self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))]
        order = order.to(self.host.device)
        for step in range(steps):
            index = order[step * size : (step + 1) * size][self.share.rows]
            yield Batch(
                x=self.host.batch(index, self.augment, seed_of(seed, step), self.share.rows, size),
                y=self.labels[index],
                index=index,
                seed=seed_of(seed, step, "noise"),
                rows=self.share.rows,
                size=size,
                epoch=epoch + step / steps,
            )


class Mover:
    """Moves one player: its optimiser, and its gradients over all ranks."""

    def __init__(self, player: Player, ranks: Ranks, share: Share) -> None:
        self.player, self.net, self.training = player, player.net, player.training
        self.parameters = [p for p in player.net.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(player.net, player.training)
        self.reducer = Reducer(self.parameters, running_statistics(player.net), ranks, share.weight)

    def step(self, host: Host, batch: Batch) -> Mapping[str, Tensor]:
        """One step against the loss of a batch. Returns the loss's parts, means over this rank's rows."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate(batch.epoch)
        with host.autocast():
            parts = self.player.loss(batch)
        self.reducer.backward(parts["loss"])
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        self.optimizer.step()
        return parts

    def close(self) -> None:
        """Take the hooks off the network's parameters."""
        self.reducer.close()


def train_epoch(host: Host, movers: Sequence[Mover], feed: Feed, epoch: int) -> dict[str, float]:
    """Train for one epoch, from 0. Leaves the networks in eval mode.

    Returns:
        The mean of each part of the losses, over all ranks; parts of one name are added up over players.

    Raises:
        FloatingPointError: a loss was NaN or infinite.
    """
    torch.manual_seed(feed.seed(epoch))  # what a network draws itself, such as dropout
    for mover in movers:
        mover.net.train()
    sums: dict[str, Tensor] = {}  # of each part of the losses, and of the steps in which it was not finite
    for batch in feed.batches(epoch):
        for mover in movers:
            for part, value in mover.step(host, batch).items():
                value = value.detach().float()
                value = torch.stack([value * (feed.share.weight / feed.steps), ~value.isfinite()])
                sums[part] = sums[part] + value if part in sums else value
    for mover in movers:
        mover.net.eval()
    totals = dict(zip(sums, host.ranks.total(torch.stack(list(sums.values()))).tolist(), strict=True))
    if not math.isfinite(totals["loss"][0]):
        raise FloatingPointError(diverged(totals, epoch, movers))
    return {part: mean for part, (mean, _) in totals.items()}


def diverged(totals: Mapping[str, tuple[float, float]], epoch: int, movers: Sequence[Mover]) -> str:
    """Which part of the losses was the first that was not finite, in words.

    Args:
        totals: part -> (its mean, the steps in which it was not finite).
        epoch: from 0.
    """
    # The part that was broken for longest broke first; of several, one is the cause and "loss" their sum.
    part = max(totals, key=lambda name: (totals[name][1], name != "loss"))
    rates = ", ".join(f"{mover.training.learning_rate(epoch):.3g}" for mover in movers)
    what = "the loss" if part == "loss" else f"{part}, a part of the loss,"
    return f"{what} is {totals[part][0]} in epoch {epoch + 1} at learning rate {rates}"


class Course:
    """The epochs of a fit so far, and the best of them; what a checkpoint holds.

    Args:
        movers: whose weights are kept.
        keep: "last", or "best" to end with the weights of the epoch with the highest `val_accuracy`.
    """

    def __init__(self, movers: Sequence[Mover], keep: str) -> None:
        self.movers, self.keep = movers, keep
        self.history: list[EpochRow] = []
        self.best_accuracy, self.best_epoch = -math.inf, 0
        self.best_nets: list[dict[str, Tensor]] | None = None

    def note(self, row: EpochRow) -> None:
        """Take an epoch that has just ended."""
        self.history.append(row)
        if row.get("val_accuracy", -math.inf) > self.best_accuracy:
            self.best_accuracy, self.best_epoch = row["val_accuracy"], row["epoch"] - 1
            self.best_nets = self.weights() if self.keep == "best" else None

    def over(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are done, or too many brought nothing better."""
        done = len(self.history)
        return done >= epochs or (patience is not None and done - 1 - self.best_epoch >= patience)

    def weights(self) -> list[dict[str, Tensor]]:
        """A copy of every player's weights and buffers."""
        return [{k: v.detach().clone() for k, v in mover.net.state_dict().items()} for mover in self.movers]

    def progress(self) -> dict[str, Any]:
        """Everything that the epochs to come follow from."""
        return {
            "nets": self.weights(),
            "optimizers": [mover.optimizer.state_dict() for mover in self.movers],
            "history": self.history,
            "best": (self.best_accuracy, self.best_epoch, self.best_nets),
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Go on from what `progress` returned."""
        self._fill(progress["nets"])
        for mover, moments in zip(self.movers, progress["optimizers"], strict=True):
            mover.optimizer.load_state_dict(moments)
        self.history = progress["history"]
        self.best_accuracy, self.best_epoch, self.best_nets = progress["best"]

    def settle(self) -> None:
        """Leave each network in eval mode, with the weights that were asked for."""
        if self.best_nets is not None:
            self._fill(self.best_nets)
        for mover in self.movers:
            mover.net.eval()

    def _fill(self, nets: Sequence[Mapping[str, Tensor]]) -> None:
        for mover, weights in zip(self.movers, nets, strict=True):
            mover.net.load_state_dict(weights)
