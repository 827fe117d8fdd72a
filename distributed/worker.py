"""What a stage trains with: one process, or one rank of a data-parallel group (see `methods.method.Worker`)."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import io
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from bo_distill.distributed.loop import fit
from bo_distill.distributed.ranks import Ranks
from bo_distill.distributed.seeds import seed_of
from bo_distill.methods.data.augment import augment
from bo_distill.methods.data.dataset import Data
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import EpochRow, State
from bo_distill.methods.training import Player

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")
FORCED = "BO_DISTILL_PRECISION"
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How, not what: none of this changes a result by more than rounding.

    Attributes:
        device: "cpu" or "cuda".
        precision: "bfloat16" runs matrix products in bf16 under autocast; weights stay float32.
    """

    device: str = "cpu"
    precision: str = "float32"


class Checkpoints(Protocol):
    """Where the progress of a stage's fits is kept between epochs."""

    def load(self, name: str) -> bytes | None:
        """What was saved under the name; None if there is nothing that can be read."""
        ...

    def save(self, name: str, content: bytes) -> None:
        """Take the place of what was saved under the name."""
        ...


def prepare(threads: int) -> None:
    """Make this process one that trains: on so many threads, and, where glibc allocates its memory, without giving back
    what a step frees.

    glibc would return it to the system, which fills each page with zeros when the next step asks for it.
    """
    torch.set_num_threads(threads)
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def best_runtime(precision: str = "auto") -> Runtime:
    """The device that this process has, and the precision that "auto" means on it.

    bf16 is chosen where the device multiplies it: GPUs that do, and CPUs with AVX512-BF16 or AMX. The environment
    variable `BO_DISTILL_PRECISION` says what "auto" means in place of that.

    Raises:
        UsageError: the environment variable is neither "float32" nor "bfloat16".
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = os.environ.get(FORCED, "")
        if precision not in ("", *PRECISIONS):
            raise UsageError(f"{FORCED}={precision}: give one of {', '.join(PRECISIONS)}, or leave it unset")
    if not precision:
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else multiplies_bf16()
        precision = "bfloat16" if fast else "float32"
    return Runtime(device, precision)


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions for products of bf16: AVX512-BF16 or AMX.

    Args:
        cpuinfo: the system's list of instructions, read where torch cannot say (before 2.9).
    """
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities:
        known = capabilities()
        return any(known.get(name) for name in BF16_INSTRUCTIONS)
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not set(BF16_INSTRUCTIONS).isdisjoint(flags.split())


class LocalWorker:
    """The worker of this process; `rank` of `world_size` when `torch.distributed` is up.

    Args:
        data: train and validation. There is no test split here.
        seed: everything random follows from it.
        runtime: device and precision.
        rank, world_size: of the process group. 1 means that no collective is called.
        on_epoch: called on every rank after each epoch with its row; a true answer on rank 0 stops all ranks.
        checkpoints: where `fit` keeps its progress.
    """

    checkpoint_seconds = 2.0  # at least, from one to the next: at the end of an epoch, so up to a whole one may be lost

    def __init__(
        self,
        data: Data,
        *,
        seed: int = 0,
        runtime: Runtime | None = None,
        rank: int = 0,
        world_size: int = 1,
        on_epoch: Callable[[EpochRow], bool] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.data, self.seed, self.ranks = data, seed, Ranks(rank, world_size)
        self.runtime = runtime or Runtime()
        self.device = torch.device(self.runtime.device)
        self._on_epoch, self._checkpoints = on_epoch, checkpoints
        self._x = data.train.x.to(self.device)
        self._fits = self._items = 0
        self._prefix = ""
        self._judged = True
        self.history: list[EpochRow] = []

    def for_stage(
        self,
        seed: int,
        on_epoch: Callable[[EpochRow], bool] | None,
        checkpoints: Checkpoints | None,
        judged: bool = True,
    ) -> LocalWorker:
        """The same rank and resident data for another stage.

        Args:
            judged: whether validation of the stage's first fit says how good the trial is, and not what all trials
                share. No later fit's does: it may be of another task.
        """
        other = copy.copy(self)
        other.seed, other._on_epoch, other._checkpoints, other._judged = seed, on_epoch, checkpoints, judged
        other._fits = other._items = 0
        other._prefix, other.history = "", []
        return other

    # What a stage calls.

    @property
    def rank(self) -> int:
        """This process's number among those that share the training, from 0."""
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        """How many processes share the training."""
        return self.ranks.size

    def place(self, net: M) -> M:
        """The network on this worker's device, for images with channels last."""
        net = net.to(self.device)
        if self.data.info.kind == "image":
            net = net.to(memory_format=torch.channels_last)
        return net

    def fit(
        self,
        *players: Player,
        validate: Callable[[], Mapping[str, float]] | None = None,
        rows: Tensor | None = None,
        targets: Tensor | None = None,
        keep: str = "last",
        patience: int | None = None,
    ) -> list[EpochRow]:
        """See `distributed.loop.fit`; checkpoints are named by the fit's number within the stage."""
        name = f"{self._prefix}{self._fits}"
        self._fits += 1
        return fit(
            self, players, name=name, validate=validate, rows=rows, targets=targets, keep=keep, patience=patience
        )

    @torch.no_grad()
    def predict(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What `net` makes of each row of `x`, float32 on the CPU; all ranks share the work and get all rows."""
        modes = [(m, m.training) for m in net.modules()] if isinstance(net, nn.Module) else []
        for module, _ in modes:
            module.training = False
        share = -(-len(x) // self.world_size)
        mine = x[self.rank * share : (self.rank + 1) * share]
        parts = []
        for chunk in mine.split(512):
            with self.autocast():
                parts.append(net(self._ready(chunk.to(self.device))).float())
        for module, mode in modes:
            module.training = mode
        everyone = self.ranks.gathered(torch.cat(parts).cpu() if parts else None)
        return torch.cat([part for part in everyone if part is not None])

    def each(self, items: Iterable[T], run: Callable[[LocalWorker, T], State]) -> list[State]:
        """The state that `run` makes of each item, in their order; ranks divide the items and get all states."""
        # Numbered on from an earlier call of the stage, whose seeds and checkpoints are not these items'.
        numbered = dict(enumerate(items, self._items))
        self._items += len(numbered)
        mine: dict[int, State | FloatingPointError] = {}
        for number, item in numbered.items():
            if number % self.world_size == self.rank:
                # Ranks advance apart here, and a report is a meeting of all ranks: none is made.
                listener = self._on_epoch if self.world_size == 1 else None
                seed = seed_of(self.seed, "each", number)
                alone = self.for_stage(seed, listener, self._checkpoints, self._judged)
                alone.ranks, alone._prefix = Ranks(), f"{self._prefix}{number}."
                torch.manual_seed(alone.seed)
                try:
                    mine[number] = dataclasses.replace(run(alone, item), history=tuple(alone.history))
                except FloatingPointError as error:  # this rank's alone, until the others are told
                    mine[number] = error
                    break
        mine = {number: made for part in self.ranks.gathered(mine) for number, made in part.items()}
        for made in mine.values():
            if isinstance(made, FloatingPointError):
                raise made
        # Ranks drew apart; what the stage draws now is alike.
        torch.manual_seed(seed_of(self.seed, "after", self._items))
        states: dict[int, Any] = {number: mine[number] for number in numbered}
        self.history += [{**row, "item": number} for number, state in states.items() for row in state.history]
        return list(states.values())

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        return self.ranks.total(value)

    # What the loop calls.

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks run at this worker's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.runtime.precision == "bfloat16")

    def batch(self, index: Tensor, kind: str, seed: int, rows: slice, size: int) -> Tensor:
        """Rows `index` of the training split as a network takes them, augmented."""
        x = self._ready(self._x[index])
        if kind == "none":
            return x
        return augment(x, kind, seed, rows, size).contiguous(memory_format=torch.channels_last)

    def _ready(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return (x.float() / 255).contiguous(memory_format=torch.channels_last)
        return x.long() if x.dtype == torch.int32 else x

    def report(self, row: EpochRow) -> bool:
        """Note an epoch; true when the training is to stop. All ranks answer alike."""
        self.history.append(row)
        judged = self._judged and self._fits == 1
        heard = row if judged else {name: value for name, value in row.items() if not name.startswith("val_")}
        stop = bool(self._on_epoch(heard)) if self._on_epoch else False
        return self.ranks.from_first(stop)

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The progress of a fit that was cut short, the same on all ranks."""
        saved = None
        if self._checkpoints and self.rank == 0 and (content := self._checkpoints.load(name)):
            try:
                saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds; a broken file only costs the epochs it held
                log.warning("checkpoint %s cannot be read (%s): training starts over", name, type(error).__name__)
        return self.ranks.from_first(saved)

    def save_checkpoint(self, name: str, progress: Mapping[str, Any]) -> None:
        """Keep a fit's progress, from rank 0 alone."""
        if self._checkpoints and self.rank == 0:
            buffer = io.BytesIO()
            torch.save(dict(progress), buffer)
            self._checkpoints.save(name, buffer.getvalue())
