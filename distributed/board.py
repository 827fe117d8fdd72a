"""Messages among the ranks of one machine, by memory that they share.

Batch norm over all ranks says two words in every layer of every step, and gradients travel once a step. A message of
`torch.distributed` is long on its way between two processes of one machine, whatever it holds; a look into memory takes
a few millionths of a second.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

LINE = 64
"""Bytes of a cache line, which a rank's count has for itself."""

PATIENCE = 1800.0
"""Seconds until a rank that says nothing is given up, as `torch.distributed` does."""

SPIN = 200
"""Looks before a rank lets others have the core: for longer than ranks in step are apart."""


class Board:
    """Memory that all ranks of a machine read, where each has two slots and a count of what it posted.

    A rank posts a message by writing it into the slot whose turn it is, and then its count; it reads when all counts
    are there. It writes in that slot again only once all have posted the message in between, and so have read this one.
    That a count is seen no sooner than the message before it is the memory order of x86, hence `MACHINES`.

    Args:
        memory: `room(len(processes), slot)` bytes, the same for all ranks, zero at first.
        rank: this one.
        processes: ids of the ranks' processes.
        slot: bytes of a message at most.
    """

    MACHINES = ("x86_64",)  # as Linux and macOS call it

    def __init__(self, memory: mmap.mmap, rank: int, processes: Sequence[int], slot: int) -> None:
        self.rank, self.processes, self.turn, size = rank, processes, 0, len(processes)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        self._counts = memoryview(memory)[: size * LINE].cast("Q")[:: LINE // 8]
        self._slots = whole[size * LINE : self.room(size, slot)].view(2, size, -1)
        self._posted = self._slots[0]

    @staticmethod
    def room(size: int, slot: int) -> int:
        """Bytes that a board of so many ranks takes. Slots begin where any type may."""
        return size * (LINE + 2 * (-slot % LINE + slot))

    def post(self, value: Tensor) -> None:
        """Let all ranks see `value` (n,). Between two posts there is one `read`."""
        self.turn += 1
        self._posted = self._slots[self.turn % 2, :, : value.nbytes].view(value.dtype)
        self._posted[self.rank] = value
        self._counts[self.rank] = self.turn

    def read(self) -> Tensor:
        """What each rank posted: (ranks, n), to be used before the next `post`.

        Raises:
            RuntimeError: another rank is gone, or has said nothing for `PATIENCE`.
        """
        looks, since, seen = 0, 0.0, 0.0
        while any(count < self.turn for count in self._counts):
            looks += 1
            if looks > SPIN:
                since = since or time.monotonic()
                waited = time.monotonic() - since
                if waited > PATIENCE:
                    raise RuntimeError(f"another rank has said nothing for {PATIENCE:.0f} s")
                if waited > seen + 1.0:
                    seen = waited
                    if gone := [number for number, process in enumerate(self.processes) if not lives(process)]:
                        raise RuntimeError(f"rank {gone[0]}, process {self.processes[gone[0]]}, is gone")
                time.sleep(0 if waited < 0.02 else 1e-3)
        return self._posted


def meet(rank: int, size: int, slot: int) -> Board | None:
    """A board for all ranks of the default group; None where they are on several machines or there is no room.

    Collective. Leaves nothing behind when its ranks are gone, however they ended.
    """
    path, secret = "", secrets.token_bytes(16)
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    if rank == 0 and platform.machine() in Board.MACHINES:
        with contextlib.suppress(OSError):  # full, or not ours to write in: nobody finds the secret
            handle, path = tempfile.mkstemp(prefix="ranks-", dir=folder)
            with os.fdopen(handle, "wb") as file:
                file.write(bytes(Board.room(size, slot)) + secret)
    box = [(path, secret)]
    dist.broadcast_object_list(box, 0)
    memory = _opened(*box[0], Board.room(size, slot))
    processes = [0] * size
    dist.all_gather_object(processes, os.getpid())
    everyone = [False] * size
    dist.all_gather_object(everyone, memory is not None and all(map(lives, processes)))
    if path:
        os.unlink(path)
    return Board(memory, rank, processes, slot) if memory is not None and all(everyone) else None


def lives(process: int) -> bool:
    """Whether there is a process of this id, as far as this one can see."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _opened(path: str, secret: bytes, room: int) -> mmap.mmap | None:
    """The memory behind a file of `room` bytes and then `secret`; None where this machine has no such file."""
    try:
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), room + len(secret))
    except (OSError, ValueError):
        return None
    return memory if memory[room:] == secret else None
