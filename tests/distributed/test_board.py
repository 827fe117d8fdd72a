"""Messages by shared memory: everyone reads what was posted, and where there is no board messages go the other way."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bo_distill.distributed import board as boards
from bo_distill.distributed.board import Board, meet
from bo_distill.distributed.ranks import Ranks, board_of


def message(rank: int, turn: int) -> torch.Tensor:
    """What a rank posts in a turn: of another length each time."""
    return torch.arange(1 + 37 * turn % 501, dtype=torch.float64) * (rank + 1) + turn


def _rank(rank: int, folder: str, size: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    board = meet(rank, size, 8 * 501)
    assert board
    for turn in range(300):
        if turn % 60 == rank:
            time.sleep(0.01)  # who is late is waited for, and who is early overwrites nothing that is still read
        board.post(message(rank, turn))
        for other, read in enumerate(board.read()):
            assert torch.equal(read, message(other, turn)), (turn, other)
    ranks = Ranks(rank, size)
    words = [torch.full((3,), float(rank)), torch.arange(4) + rank, torch.full((20_000,), rank, dtype=torch.float64)]
    by_board = [ranks.spread(word).clone() for word in words]
    assert board_of(ranks)
    Board.MACHINES = ()
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    assert group() is None, "nobody holds it until the interpreter ends, where its threads would abort the process"
    dist.init_process_group("gloo", init_method=f"file://{folder}/again", rank=rank, world_size=size)
    by_messages = [ranks.spread(word) for word in words]
    assert not board_of(ranks), "another group meets anew"
    for one, other in zip(by_board, by_messages, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype and len(one) == size
    dist.destroy_process_group()


@pytest.mark.skipif(os.uname().machine not in Board.MACHINES, reason="no board on this kind of processor")
@pytest.mark.parametrize("size", [2, 3])
def test_everyone_reads_what_was_posted(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path), size), nprocs=size)
    shared = Path("/dev/shm")
    folder = shared if shared.is_dir() else tmp_path
    assert not [file for file in folder.glob("ranks-*") if file.stat().st_size == Board.room(size, 8 * 501) + 16]


def test_a_file_of_others_is_no_board(tmp_path: Path) -> None:
    """Another machine's path may exist here too."""
    file = tmp_path / "ranks-x"
    assert boards._opened(str(file), b"ours", 64) is None
    file.write_bytes(bytes(10))
    assert boards._opened(str(file), b"ours", 64) is None, "shorter: the disk was full"
    file.write_bytes(bytes(64) + b"else")
    assert boards._opened(str(file), b"ours", 64) is None
    file.write_bytes(bytes(64) + b"ours")
    assert boards._opened(str(file), b"ours", 64)


@pytest.mark.parametrize("fails", ["mkstemp", "fdopen"])
def test_where_shared_memory_cannot_be_written_there_is_no_board(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*{"mkstemp": (boards.tempfile, "mkstemp"), "fdopen": (boards.os, "fdopen")}[fails], refuse)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert meet(0, 1, 8) is None
    finally:
        dist.destroy_process_group()


def test_a_rank_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "PATIENCE", 0.2)
    board = Board(mmap.mmap(-1, Board.room(2, 64)), 0, [os.getpid()] * 2, 64)
    board.post(torch.ones(3))
    with pytest.raises(RuntimeError, match="said nothing"):
        board.read()


def test_a_rank_that_is_gone_is_not_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    board = Board(mmap.mmap(-1, Board.room(2, 64)), 0, [os.getpid(), gone.pid], 64)
    board.post(torch.ones(3))
    with pytest.raises(RuntimeError, match=f"rank 1, process {gone.pid}, is gone"):
        board.read()
