"""Ranks that train together, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing

# Ranks are forked from one process that has imported what they need: each alone would take seconds for it. That process
# has the environment of the first test that wants ranks.
NEEDED = ["pytest", "torch", "bo_distill.distributed.pipeline", "bo_distill.search.execution.tune"]
multiprocessing.set_forkserver_preload(NEEDED)


def on_ranks(function: Callable[..., None], *args: Any, size: int = 2) -> None:
    """Call `function(rank, *args)` in `size` processes at once; an error in one of them is raised here."""
    torch.multiprocessing.start_processes(function, args, nprocs=size, start_method="forkserver")
