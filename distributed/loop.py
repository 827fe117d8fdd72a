"""The only training loop."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distributed.optimizers import make_optimizer
from methods.training import Batch, Player

if TYPE_CHECKING:
    from distributed.worker import LocalWorker


class Stopped(Exception):
    """A scheduler or a person asked this training to end early. Its stage has no result."""


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of what it is for; the same in every process and on every rank."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def diverged(totals: Mapping[str, tuple[float, float]], epoch: int, players: Sequence[Player]) -> str:
    """Which part of the losses was the first that was not finite, in words.

    Args:
        totals: part -> (its mean, the steps in which it was not finite).
        epoch: from 0.
    """
    # The part that was broken for longest broke first; of several, one is the cause and "loss" their sum.
    part = max(totals, key=lambda name: (totals[name][1], name != "loss"))
    rates = ", ".join(f"{player.training.learning_rate(epoch):.3g}" for player in players)
    what = "the loss" if part == "loss" else f"{part}, a part of the loss,"
    return f"{what} is {totals[part][0]} in epoch {epoch + 1} at learning rate {rates}"


def fit(
    worker: LocalWorker,
    players: Sequence[Player],
    *,
    name: str,
    validate: Callable[[], Mapping[str, float]] | None = None,
    rows: Tensor | None = None,
    targets: Tensor | None = None,
    keep: str = "last",
    patience: int | None = None,
) -> list[dict[str, Any]]:
    """Train `players` as `methods.method.Worker.fit` says; `name` tells this fit's checkpoint from others'.

    A batch is never larger than the rows there are, and the rows left over by full batches wait for another epoch.
    Everything random in an epoch follows from (seed, name, epoch), and the learning rate from the epoch, so that a
    training that goes on from its checkpoint ends exactly where an uninterrupted one does.

    Raises:
        Stopped: the worker's listener said so.
        FloatingPointError: a loss was NaN or infinite in an epoch; the message names its part, the epoch and the rate.
    """
    first = players[0].training
    rows = torch.arange(len(worker.data.train)) if rows is None else rows
    size = min(first.batch_size, len(rows))
    if size < 2 * worker.world_size:
        raise ValueError(f"a batch of {size} rows cannot be shared by {worker.world_size} workers")
    steps = len(rows) // size
    mine = slice(size * worker.rank // worker.world_size, size * (worker.rank + 1) // worker.world_size)
    share = (mine.stop - mine.start) / size
    labels = (worker.data.train.y if targets is None else targets).to(worker.device)
    parameters = [[p for p in player.net.parameters() if p.requires_grad] for player in players]
    optimizers = [make_optimizer(player.net, player.training) for player in players]

    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"val_accuracy": -math.inf, "epoch": 0, "nets": None}

    def snapshot() -> list[dict[str, Tensor]]:
        return [{k: v.detach().clone() for k, v in player.net.state_dict().items()} for player in players]

    if progress := worker.load_checkpoint(name):
        for player, weights in zip(players, progress["nets"], strict=True):
            player.net.load_state_dict(weights)
        for optimizer, moments in zip(optimizers, progress["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        history, best = progress["history"], progress["best"]
        for earlier in history:
            worker.report(earlier)

    written = time.monotonic()
    for epoch in range(len(history), first.epochs):
        started = time.monotonic()
        seed = seed_of(worker.seed, name, epoch)
        torch.manual_seed(seed)  # what a network draws itself, such as dropout
        order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].to(worker.device)
        for player in players:
            player.net.train()
        sums: dict[str, Tensor] = {}  # of each part of the losses, and of the steps in which it was not finite
        for step in range(steps):
            index = order[step * size : (step + 1) * size][mine]
            now = epoch + step / steps
            batch = Batch(
                x=worker.batch(index, first.augment, seed_of(seed, step), mine, size),
                y=labels[index],
                index=index,
                seed=seed_of(seed, step, "noise"),
                rows=mine,
                size=size,
                epoch=now,
            )
            for player, own, optimizer in zip(players, parameters, optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = player.training.learning_rate(now)
                with worker.autocast():
                    parts = player.loss(batch)
                # Only this player's parameters: an adversary in the same graph keeps its own gradients out of it.
                gradients = torch.autograd.grad(parts["loss"] * share, own, allow_unused=True)
                for parameter, gradient in zip(own, worker.summed(gradients), strict=True):
                    parameter.grad = gradient
                if player.training.clip:
                    nn.utils.clip_grad_norm_(own, player.training.clip)
                optimizer.step()
                for key, value in parts.items():
                    value = value.detach().float()
                    value = torch.stack([value * (share / steps), ~value.isfinite()])
                    sums[key] = sums[key] + value if key in sums else value
        totals = dict(zip(sums, worker.total(torch.stack(list(sums.values()))).tolist(), strict=True))
        means = {part: mean for part, (mean, _) in totals.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(diverged(totals, epoch, players))
        for player in players:
            player.net.eval()
        row: dict[str, Any] = {"epoch": epoch + 1, **means, **(validate() if validate else {})}
        row["seconds"] = time.monotonic() - started
        history.append(row)
        stop = worker.report(row)
        if row.get("val_accuracy", -math.inf) > best["val_accuracy"]:
            best = {
                "val_accuracy": row["val_accuracy"],
                "epoch": epoch,
                "nets": snapshot() if keep == "best" else None,
            }
        if stop:
            raise Stopped
        if patience is not None and epoch - best["epoch"] >= patience:
            break
        if time.monotonic() - written >= worker.checkpoint_seconds and epoch + 1 < first.epochs:
            progress = {
                "nets": snapshot(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "history": history,
                "best": best,
            }
            worker.save_checkpoint(name, progress)
            written = time.monotonic()
    if best["nets"] is not None:
        for player, weights in zip(players, best["nets"], strict=True):
            player.net.load_state_dict(weights)
    for player in players:
        player.net.eval()
    return history
