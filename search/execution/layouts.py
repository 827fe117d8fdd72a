"""More trials at once, or more workers for each? The layouts that a machine has room for, compared by rehearsal."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from bo_distill.distributed.ray.cluster import Layout, layout, machine, room
from bo_distill.methods.errors import UsageError
from bo_distill.search.execution.forecast import forecast
from bo_distill.search.execution.place import check_shares
from bo_distill.search.study.ledger import Study

MOST = 8  # workers of a trial: each layout takes a rehearsal


def layouts(study: Study, concurrency: int | None) -> Iterator[Layout]:
    """How trials may lie on this machine, with 1, 2, 4 or 8 workers each, where so many can share their batches.

    Args:
        concurrency: trials at once, at most.
    """
    workers, nodes = 1, machine()
    while workers <= MOST and (most := room(nodes, workers)):
        with contextlib.suppress(UsageError):
            check_shares(replace(study.plan.task, workers=workers), study.info)
            yield layout(nodes, workers=workers, concurrency=concurrency and min(concurrency, most))
        workers *= 2


def fastest(study: Study, args: argparse.Namespace, terminal: TextIO) -> Layout:
    """The layout of this machine in which all that the study has left would be done first; of equals, that with the
    fewest workers. Says how long each would take.

    Raises:
        UsageError: trials run elsewhere than on this machine.
    """
    if args.address:
        raise UsageError("--workers auto: trials are rehearsed on this machine, not at --address; give a number")
    best, least = None, float("inf")
    for place in layouts(study, args.concurrency):
        seconds = forecast(study, place).seconds
        print(f"{place}: about {seconds:.0f} s", file=terminal, flush=True)
        if seconds < least:
            best, least = place, seconds
    assert best is not None  # one worker always fits
    return best
