"""Studies in seconds: the searchers on a recorded table of trials or on a test function, under a virtual clock.

    python -m search.replay benchmarks/tables/center_loss_digits.parquet --searchers grid,random,bo --studies 300
    python -m search.replay hartmann6 --searchers random --workers 1000 --trials 5000 --stragglers 0.05 --asha

The searchers and the ASHA scheduler are those of a real search; only trials are looked up instead of trained, and
time is a number. A table is made by `benchmarks/table.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bo_distill.distributed.machine import cores
from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError, counted
from bo_distill.search.command.shell import FAILED, OK, Parser, carry_out, positive, storage_option
from bo_distill.search.command.terminal import print_table
from bo_distill.search.rows.export import json_text, printable
from bo_distill.search.searchers.registry import SEARCHERS, names_of
from bo_distill.search.simulation import AGAIN, ASHA, FAMILIES, FUNCTIONS, MADE_UP


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.replay", description="Simulate studies on recorded trials.", allow_abbrev=False)
    p.add_argument("problem", metavar="TABLE", nargs="?", help=f"a Parquet file, or {', '.join(MADE_UP)}")
    p.add_argument(
        "--searchers",
        default="grid,random,bo",
        help=f"by commas: {', '.join(SEARCHERS)}, or MODULE:CLASS; bo+asha: stops trials that fall behind, and has the "
        "epochs of bo's whole trainings",
    )
    p.add_argument("--trials", type=int, default=20, metavar="N", help="budget of a study (20)")
    p.add_argument("--studies", type=int, default=100, metavar="K", help="of each searcher (100)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the first study; the next has N + 1 (0)")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="trials at once (1); not workers of a trial")
    p.add_argument("--stragglers", type=float, default=0.0, metavar="P", help="share of trials, five times as slow")
    p.add_argument("--failures", type=float, default=0.0, metavar="P", help="share of attempts that die")
    p.add_argument("--overhead", type=float, default=0.0, metavar="S", help="seconds between two trials")
    p.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    p.add_argument(
        "--against-grid",
        type=int,
        metavar="N",
        help="also say how many studies reach the choice of a grid of N trainings within half a noise deviation",
    )
    p.add_argument("--noise", type=float, default=0.0, metavar="SD", help="of a test function's values")
    p.add_argument("--nearest", action="store_true", help="the nearest recorded trial, not an interpolated one")
    p.add_argument("--confirm", type=int, metavar="K", help="also measure what running the K best again would do")
    p.add_argument("--confirm-seeds", type=int, default=3, metavar="N", help="times each of them (3)")
    p.add_argument("--makespan", metavar="STUDY", help="instead: a recorded study's real and simulated makespan")
    storage_option(p)
    p.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be simulated."""
    for name in ("trials", "workers", "jobs", "confirm", "confirm_seeds", "against_grid"):
        positive("--" + name.replace("_", "-"), getattr(args, name))
    positive("--studies", args.studies, 2)
    positive("--seed", args.seed, 0)
    for name in ("stragglers", "failures"):
        if not 0 <= getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name):g}: give a share from 0 up to, not including, 1")
    for name in ("noise", "overhead"):
        if not getattr(args, name) >= 0:
            raise UsageError(f"--{name} {getattr(args, name):g}: give at least 0")
    if args.confirm and args.confirm * args.confirm_seeds >= args.trials:
        spent = args.confirm * args.confirm_seeds
        raise UsageError(f"--confirm {args.confirm}: takes {spent} of --trials {args.trials}; give more --trials")


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: a study is a process's, its matrices are small
    check(args)
    if args.makespan:
        return real(args)
    if args.problem is None:
        raise UsageError(f"which table? give a Parquet file or one of {', '.join(MADE_UP)}")
    names = names_of(args.searchers, ASHA)
    from bo_distill.search.simulation.curse import winners_curse
    from bo_distill.search.simulation.problems import function
    from bo_distill.search.simulation.recorded import Table
    from bo_distill.search.simulation.studies import simulated
    from bo_distill.search.simulation.surfaces import Curves

    problem: Any
    if args.problem in FUNCTIONS:
        problem = function(args.problem, args.noise)
    elif args.problem in FAMILIES:
        problem = Curves(args.problem)
    else:
        problem = Table.read(args.problem, args.nearest)
    words = ("trials", "workers", "stragglers", "failures", "asha", "overhead")
    options = {name: getattr(args, name) for name in words}
    started = time.perf_counter()
    seeds = range(args.seed, args.seed + args.studies)
    found = simulated(problem, names, options, seeds, args.jobs, args.against_grid)
    summary = {"problem": args.problem, **options, "studies": args.studies, "seed": args.seed, **found}
    summary["seconds"] = time.perf_counter() - started
    if args.confirm:
        summary["confirm"] = winners_curse(
            problem, budget=args.trials, keep=args.confirm, seeds=args.confirm_seeds, studies=args.studies
        )
    if args.json:
        print(json_text(summary))
    else:
        show(summary, problem.unit)
    return OK


def real(args: argparse.Namespace) -> int:
    """Compare a study's real duration with a simulated one; FAILED if they differ by more than 15 %."""
    from bo_distill.search.simulation.clock import makespans
    from bo_distill.search.study.ledger import Study

    simulated, measured = makespans(Study.open(Storage(args.storage), args.makespan), args.overhead)
    summary = {"study": args.makespan, "simulated": simulated, "real": measured, "error": simulated / measured - 1}
    if args.json:
        print(json_text(summary))
    else:
        print(f"{args.makespan}: simulated {simulated:.1f} s, real {measured:.1f} s, {summary['error']:+.1%}")
    return OK if abs(summary["error"]) <= 0.15 else FAILED


def show(summary: Mapping[str, Any], unit: str) -> None:
    """The same for a person, on stdout."""
    scale = 100 if unit == "accuracy" else 1
    count = summary["studies"] * len(summary["searchers"])
    title = (
        f"{summary['problem']}: {count} studies of {counted(summary['trials'], 'trial')}, {summary['workers']} at once"
    )
    shares = summary["reached"].get(summary["reference"], {}).copy()
    again = shares.pop(AGAIN, None)
    rows = []
    for name, found in summary["searchers"].items():
        reached = [trials for trials in found["to_reference"]["trials"] if trials is not None]
        rows.append(
            (
                name,
                f"{scale * found['mean']:.4g}",
                f"{scale * summary['truth']['mean'][name]:.4g}",
                f"{scale * statistics.fmean(found['regret']):.3g}",
                f"{statistics.median(reached):g}" if reached else "-",
                f"{len(reached) / summary['studies']:.0%}",
                f"{summary['trained'][name]:.3g}",
                f"{summary['makespan'][name]:.4g}",
                *(f"{summary['reached'][name][share]:.1%}" for share in shares),
            )
        )
    columns = (
        "best seen",
        "its true value",
        "regret",
        f"as good as {summary['reference']} after trials",
        "reached",
        "trainings",
        "makespan s",
    )
    print(printable(title))
    print_table(("searcher", *columns, *(f"grid's best by {share}" for share in shares)), rows)
    print(printable(summary["verdict"]))
    if again is not None:
        print(f"grid's best by the same grid under other seeds: {again:.1%}")
    true = summary["truth"]
    for name, above in true["above"].items():
        between = true["interval"][name]
        p = true["p_no_worse"][name]
        said = (
            f", 95% interval {scale * between[0]:+.3g} to {scale * between[1]:+.3g}; that it is no worse has "
            f"p = {p:.2g} (one-sided; a small one refutes it)"
            if between
            else ", the same in all studies"
        )
        print(f"true value of the choice: {name} less {summary['reference']} {scale * above:+.3g}{said}")
    if "confirm" in summary:
        found = summary["confirm"]
        print(
            f"winner's curse: {scale * found['optimism']:.3g} too high, {scale * found['optimism_confirmed']:.3g} when "
            f"confirmed ({found['removed']:.0%} removed); true value {scale * found['truth']:.4g}, confirmed "
            f"{scale * found['truth_confirmed']:.4g} (standard error {scale * found['truth_se']:.2g})"
        )
    print(f"{summary['seconds']:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
