"""The options of commands that train, and the task that they ask for."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from methods import METHODS
from methods.errors import UsageError

if TYPE_CHECKING:
    from methods.method import Method
    from search.study.records import Task
from search.command.shell import Parser, positive


def task_options(p: argparse.ArgumentParser) -> None:
    """What every command that trains takes: the method, the data, what is fixed and searched."""
    p.add_argument("method", nargs="?", metavar="METHOD", help=", ".join(METHODS))
    p.add_argument("--data", help="digits, glyphs, docstrings, cifar10, cifar100, imagefolder:PATH or text:PATH")
    p.add_argument("--data-dir", metavar="DIR", help="where the CIFAR sets lie or are downloaded to")
    p.add_argument("--train-size", type=int, metavar="N", help="a stratified subset of the training rows")
    p.add_argument("--val-size", type=int, metavar="N", help="a stratified subset of the validation rows")
    p.add_argument("--image-size", type=int, default=32, metavar="PX", help="side of an image folder's images")
    p.add_argument("--text-column", default="text", metavar="NAME", help="of a text file")
    p.add_argument("--max-length", type=int, default=132, metavar="N", help="characters of a sentence that are kept")
    p.add_argument(
        "--label-column",
        action="append",
        metavar="NAME",
        help="of a text file; repeat for several tasks; rating:bad=1-4,good=9-10 makes classes of numbers",
    )
    p.add_argument("--split-column", metavar="NAME", help="of a text file: train, val or test")
    p.add_argument("--recipe", help="quick (a laptop's size, default) or paper (the paper's networks and schedule)")
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="fix any hyperparameter")
    p.add_argument("--search", metavar="FIELDS", help="fields to search, by commas (default: the method's own)")
    p.add_argument("--seed", type=int, default=0, help="of the search and its trials")
    p.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    p.add_argument(
        "--storage", default="results", metavar="DIR", help="folder, or s3://bucket/prefix (default results)"
    )


def study_options(p: Parser) -> None:
    """What every command that trains on Ray takes: a task, and where it runs."""
    task_options(p)
    p.add_argument("--concurrency", type=int, metavar="N", help="trials at once (default: as many as fit)")
    p.add_argument("--workers", type=int, metavar="N", help="Ray Train workers of each trial (default 1)")
    p.add_argument("--address", help="of a running Ray: auto, host:port or ray://host:port")
    p.add_argument("--json", action="store_true", help="print one JSON object")


def make_task(args: argparse.Namespace) -> tuple[Task, tuple[str, ...], Method]:
    """What `task_options` and --workers ask for, checked.

    Returns:
        the task of a study that has no name yet, the searched fields, the method.

    Raises:
        UsageError: any of them cannot be.
    """
    from methods import get
    from methods.data.dataset import DataSpec
    from search.study.records import Task

    for name in ("workers", "concurrency", "train_size", "val_size", "image_size", "max_length"):
        positive("--" + name.replace("_", "-"), getattr(args, name))
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give at least 0")
    if args.method is None:
        raise UsageError(f"which method? give one of {', '.join(METHODS)}; see --help")
    method = get(args.method)
    recipe = args.recipe or "quick"
    settings: dict[str, Any] = {}
    for word in args.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: give STAGE.FIELD=VALUE")
        settings[name.strip()] = value.strip()
    settings = method.check(settings)
    method.configure(recipe, settings)  # refuses an unknown recipe
    fields = method.fields()
    if args.search:
        space = [name.strip() for name in args.search.split(",") if name.strip()]
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
    chosen = method.recipes[recipe]
    word, colon, path = (args.data or chosen.data).partition(":")
    data = DataSpec(
        # Ray's workers have folders of their own: a path must mean the same there.
        name=word + colon + (os.path.abspath(os.path.expanduser(path)) if path else ""),
        directory=args.data_dir and os.path.abspath(os.path.expanduser(args.data_dir)),
        train_size=args.train_size if args.train_size is not None or args.data else chosen.train_size,
        val_size=args.val_size if args.val_size is not None or args.data else chosen.val_size,
        image_size=args.image_size,
        text_column=args.text_column,
        max_length=args.max_length,
        label_columns=tuple(args.label_column or ("label",)),
        split_column=args.split_column,
    )
    task = Task(
        study="",
        method=args.method,
        recipe=recipe,
        data=data,
        settings=settings,
        storage=args.storage,
        seed=args.seed,
        precision=args.precision,
        workers=args.workers or 1,
    )
    return task, tuple(space), method
