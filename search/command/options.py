"""The options of commands that train, and the task that they ask for."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bo_distill.methods import METHODS
from bo_distill.methods.errors import UsageError
from bo_distill.search.command.data import add_data_options, data_of
from bo_distill.search.command.shell import Parser, positive, storage_option

if TYPE_CHECKING:
    from bo_distill.methods.method import Method
    from bo_distill.search.study.records import Task


EVERY = "all"  # in place of a method: each that takes the data
EVERY_TRIALS, EVERY_SEEDS = 8, 5  # its own defaults
AUTO = "auto"  # in place of a number of workers

SEED, PRECISION = 0, "auto"  # where a command names none


def task_options(p: Parser, every: bool = False) -> None:
    """What every command that trains takes: the method, the data, what is fixed and searched.

    Args:
        every: `EVERY` may stand in place of a method.
    """
    words = f"{', '.join(METHODS)}, or package.module:NAME of your own"
    words += f"; {EVERY}: each that takes --data, beside its first control alone" if every else ""
    p.add_argument("method", nargs="?", metavar="METHOD", help=words)
    add_data_options(p.group("data"))
    task = p.group("what is searched")
    task.add_argument(
        "--recipe",
        help="quick (a laptop's size, default), paper (the paper's networks and schedule) or another of the method's; "
        "each has data of its own, used where --data names none",
    )
    task.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="fix any hyperparameter: STAGE.FIELD, or FIELD where one stage has it",
    )
    task.add_argument("--search", metavar="FIELDS", help="fields to search, by commas (default: the method's own)")
    task.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="FIELD=RANGE",
        help="search a field in your own range: LOW:HIGH, LOW:HIGH:log, LOW:HIGH:linear, LOW:HIGH:STEP or A,B,C",
    )
    task.add_argument("--seed", type=int, default=SEED, help="seed of the search and its trials (default 0)")
    place = p.group("place")
    place.add_argument(
        "--precision",
        default=PRECISION,
        choices=("auto", "float32", "bfloat16"),
        help="auto (default) is bfloat16 where the hardware has it; decided when the study starts",
    )
    storage_option(place)


def workers_in(words: str) -> int | str:
    """What --workers says: a number or `AUTO`."""
    if words == AUTO:
        return words
    if not words.isdecimal() or not int(words):
        raise argparse.ArgumentTypeError(f"{words}: give a number of at least 1, or auto")
    return int(words)


def study_options(p: Parser, every: bool = False) -> None:
    """What every command that trains on Ray takes: a task, and where it runs.

    Args:
        every: as of `task_options`.
    """
    task_options(p, every)
    place = p.group("place")
    place.add_argument("--concurrency", type=int, metavar="N", help="trials at once (default: as many as fit)")
    place.add_argument(
        "--workers",
        type=workers_in,
        metavar="N",
        help="Ray Train workers of each trial (default 1); auto: as many as a rehearsal finds fastest, more trials at "
        "once or more workers for each",
    )
    place.add_argument("--address", help="connect to a running Ray: auto, host:port or ray://host:port")
    p.group("output").add_argument("--json", action="store_true", help="print one JSON object")


def live_option(p: Parser) -> None:
    """--live, of a command that runs or shows a study."""
    p.group("output").add_argument(
        "--live",
        nargs="?",
        type=port_in,
        const=0,
        metavar="PORT",
        help="serve the study's page on 127.0.0.1 while the search runs, at a free port or this one",
    )


def port_in(text: str) -> int:
    """A port as a person gives it; 0 is a free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: no port; give 1 to 65535, or --live as the last word")
    return int(text)


def assignments(words: Sequence[str], option: str = "--set", form: str = "FIELD=VALUE") -> dict[str, str]:
    """The values of --set as text: field -> value, or those of another option of such a form.

    Raises:
        UsageError: one of them assigns nothing.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{option} {word}: give {form}")
        settings[name.strip()] = value.strip()
    return settings


def ranges_in(args: argparse.Namespace, method: Method) -> dict[str, str]:
    """The values of --range: "stage.field" -> text.

    Raises:
        UsageError: one of them is of no field, or gives no range.
    """
    given = assignments(args.range, "--range", "FIELD=LOW:HIGH")
    return {method.named(name): text for name, text in given.items()}


def names_in(text: str) -> list[str]:
    """Names that a flag lists by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_kind(data: str, kind: str, method: Method) -> None:
    """See that a method takes data of this kind.

    Raises:
        UsageError: it does not.
    """
    if kind != method.kind:
        raise UsageError(f"--data {data}: {method.name} takes {method.kind} data; give another --data")


def make_task(args: argparse.Namespace) -> tuple[Task, tuple[str, ...], dict[str, str], Method]:
    """What `task_options` and --workers ask for, checked.

    Returns:
        the task of a study that has no name yet, the searched fields, the person's own ranges of them, the method.

    Raises:
        UsageError: any of them cannot be.
    """
    from bo_distill.methods import get
    from bo_distill.methods.data import named
    from bo_distill.search.study.records import Task

    positive("--concurrency", getattr(args, "concurrency", None))
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give at least 0")
    if args.method is None:
        raise UsageError(f"which method? give one of {', '.join(METHODS)}; see --help")
    method = get(args.method)
    recipe = args.recipe or "quick"
    settings = method.check(assignments(args.set))
    configs = method.configure(recipe, settings)  # refuses an unknown recipe
    ranges = ranges_in(args, method)
    asked = [*map(method.named, names_in(args.search or ""))]
    asked += [name for name in ranges if name not in asked]
    usual = [] if args.search else [n for n, field in method.fields().items() if field.searched and n not in settings]
    space = [n for n in usual if n in asked or not method.idle(n, configs, {*usual, *asked})]
    space += [name for name in asked if name not in space]
    for name in asked:
        option = f"--{'range' if name in ranges else 'search'} {name}"
        if name in settings:
            raise UsageError(f"{option}: --set fixes it; leave one of the two")
        if idle := method.idle(name, configs, space):
            raise UsageError(
                f"{option}: changes nothing with {idle[0]}={idle[1]}; --set another {idle[0]}, or leave it out"
            )
    method.space(space, ranges)  # refuses a field that cannot be searched, or not so
    if not space:
        raise UsageError("--set leaves no field to search; leave one free, or name others by --search")
    data = data_of(args, method.recipes[recipe].spec)
    check_kind(data.name, named(data).kind or method.kind, method)
    task = Task(
        study="",
        method=args.method,
        recipe=recipe,
        data=data,
        settings=settings,
        storage=args.storage,
        seed=args.seed,
        precision=args.precision,
        workers=1 if args.workers in (None, AUTO) else args.workers,
    )
    return task, tuple(space), ranges, method


UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Seconds of each unit that a time may be given in."""


def seconds_of(option: str, text: str | None) -> float | None:
    """A time such as 90s, 30m, 1.5 h or 2d in seconds.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(s|m|min|h|d|w)", text.strip())
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"{option} {text}: give a time such as 90s, 30m, 2h or 7d")
    return seconds
