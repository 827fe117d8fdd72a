"""The options of commands that train, and the task that they ask for."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from methods import METHODS
from methods.errors import UsageError
from search.command.data import add_data_options, data_of, data_words
from search.command.shell import Parser, positive
from search.searchers.registry import entry_of

if TYPE_CHECKING:
    from methods.method import Method
    from search.study.records import Plan, Task


def task_options(p: argparse.ArgumentParser) -> None:
    """What every command that trains takes: the method, the data, what is fixed and searched."""
    p.add_argument("method", nargs="?", metavar="METHOD", help=", ".join(METHODS))
    add_data_options(p)
    p.add_argument("--recipe", help="quick (a laptop's size, default) or paper (the paper's networks and schedule)")
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="fix any hyperparameter")
    p.add_argument("--search", metavar="FIELDS", help="fields to search, by commas (default: the method's own)")
    p.add_argument("--seed", type=int, default=0, help="seed of the search and its trials (default 0)")
    p.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="auto (default) is bfloat16 where the hardware has it; decided when the study starts",
    )
    p.add_argument(
        "--storage", default="results", metavar="DIR", help="folder, or s3://bucket/prefix (default results)"
    )


def study_options(p: Parser) -> None:
    """What every command that trains on Ray takes: a task, and where it runs."""
    task_options(p)
    p.add_argument("--concurrency", type=int, metavar="N", help="trials at once (default: as many as fit)")
    p.add_argument("--workers", type=int, metavar="N", help="Ray Train workers of each trial (default 1)")
    p.add_argument("--address", help="connect to a running Ray: auto, host:port or ray://host:port")
    p.add_argument("--json", action="store_true", help="print one JSON object")


def assignments(words: Sequence[str]) -> dict[str, str]:
    """The values of --set as text: "stage.field" -> value.

    Raises:
        UsageError: one of them assigns nothing.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: give STAGE.FIELD=VALUE")
        settings[name.strip()] = value.strip()
    return settings


def names_in(text: str) -> list[str]:
    """Names that a flag lists by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def make_task(args: argparse.Namespace) -> tuple[Task, tuple[str, ...], Method]:
    """What `task_options` and --workers ask for, checked.

    Returns:
        the task of a study that has no name yet, the searched fields, the method.

    Raises:
        UsageError: any of them cannot be.
    """
    from methods import get
    from search.study.records import Task

    for name in ("workers", "concurrency"):
        positive(f"--{name}", getattr(args, name, None))
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give at least 0")
    if args.method is None:
        raise UsageError(f"which method? give one of {', '.join(METHODS)}; see --help")
    method = get(args.method)
    recipe = args.recipe or "quick"
    settings = method.check(assignments(args.set))
    method.configure(recipe, settings)  # refuses an unknown recipe
    fields = method.fields()
    if args.search:
        space = names_in(args.search)
        for name in space:
            if name not in fields:
                method.check({name: 0})  # refuses it, and says which name is near
            if name in settings:
                raise UsageError(f"--search {name}: --set fixes it; leave one of the two")
        method.space(space)  # refuses a field that cannot be searched
    else:
        space = [name for name, (_, searched) in fields.items() if searched and name not in settings]
    if not space:
        raise UsageError("--set fixes every searched field; leave one, or name others by --search")
    task = Task(
        study="",
        method=args.method,
        recipe=recipe,
        data=data_of(args, method.recipes[recipe].spec),
        settings=settings,
        storage=args.storage,
        seed=args.seed,
        precision=args.precision,
        workers=args.workers or 1,
    )
    return task, tuple(space), method


def command(plan: Plan) -> str:
    """The command that asks for the same search."""
    task = plan.task
    words = ["python", "-m", "search.run", task.method, *entry_of(plan.searcher).option, *data_words(task.data)]
    words += ["--recipe", task.recipe]
    for name, value in task.settings.items():
        words += ["--set", f"{name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"]
    words += ["--search", ",".join(plan.space)]
    for word, number in (("trials", plan.trials), ("patience", plan.patience), ("confirm", plan.confirm or None)):
        words += [f"--{word}", str(number)] if number is not None else []
    words += ["--asha"] if plan.asha else []
    words += [] if plan.controls else ["--no-controls"]
    words += ["--seed", str(task.seed), "--seeds", str(plan.seeds), "--precision", task.precision]
    words += ["--workers", str(task.workers)] if task.workers != 1 else []
    return shlex.join(words)
