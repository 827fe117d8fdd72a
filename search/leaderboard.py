"""python -m search.leaderboard: show, export, compare, query, reproduce, compact and verify what the studies found."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from distributed.storage import Storage

SHOWN = (
    "study",
    "trial",
    "phase",
    "control",
    "method",
    "searcher",
    "data",
    "val_accuracy",
    "test_accuracy",
    "macs_forward",
    "params",
    "seconds",
    "status",
)
HEADERS = {"val_accuracy": "val %", "test_accuracy": "test %", "macs_forward": "MACs"}
FILTERS = ("method", "study", "data", "phase")


def show(storage: Storage, arguments: argparse.Namespace) -> int:
    """The best trials as a table."""
    from search.rows.sql import read

    # One row more than is shown tells whether there are more.
    limit = arguments.top + 1 if arguments.top else 0
    columns = () if arguments.json else SHOWN
    table = read(storage, columns=columns, sort=arguments.sort, top=limit, **_where(arguments))
    shown = table.slice(0, arguments.top or len(table))
    if arguments.json:
        print(json.dumps(_plain(shown), indent=2))
    elif len(shown):
        _print_table(_headers(shown), _cells(shown))
    if len(table) == 0:
        print("no rows match", file=sys.stderr if arguments.json else sys.stdout)
    elif len(table) > len(shown):
        print(f"the first {len(shown)} rows; --top 0 shows all", file=sys.stderr)
    return 0


def export(storage: Storage, arguments: argparse.Namespace) -> int:
    """All columns of all rows that match; Markdown has the columns that `show` has."""
    from methods.errors import UsageError
    from search.rows.sql import read

    columns = SHOWN if arguments.format == "md" else ()
    table = read(storage, columns=columns, sort=arguments.sort, **_where(arguments))
    if arguments.out:
        try:
            with open(arguments.out, "wb") as file:
                file.write(_exported(table, arguments.format))
        except OSError as error:
            raise UsageError(f"--out {arguments.out} cannot be written: {error.strerror}; give another file") from None
        print(f"{len(table)} rows written to {arguments.out}")
    elif arguments.format == "parquet" and sys.stdout.isatty():
        raise UsageError("export parquet: a terminal cannot show it; give --out FILE")
    else:
        sys.stdout.buffer.write(_exported(table, arguments.format))
    return 0


def diff(storage: Storage, arguments: argparse.Namespace) -> int:
    """Two studies, by their best trials, or two trials side by side."""
    left, right = (_facts(storage, name) for name in (arguments.a, arguments.b))
    if arguments.json:
        print(json.dumps({arguments.a: left, arguments.b: right}, indent=2))
        return 0
    names = [*left, *(name for name in right if name not in left)]
    lines = []
    for name in names:
        a, b = left.get(name), right.get(name)
        change = "" if a == b or name not in left or name not in right else "differs"
        if change and isinstance(a, int | float) and isinstance(b, int | float):
            change = f"{b - a:+.4g}"
        lines.append([name, _text(a), _text(b), change])
    _print_table(["", arguments.a, arguments.b, "difference"], lines)
    return 0


def query(storage: Storage, arguments: argparse.Namespace) -> int:
    """Any SELECT over the table `leaderboard`."""
    from search.rows.sql import query

    table = query(storage, arguments.sql)
    if arguments.json:
        print(json.dumps(_plain(table), indent=2))
    elif len(table):
        _print_table(table.column_names, [[_text(value) for value in row.values()] for row in _plain(table)])
    else:
        print("no rows match")
    return 0


def reproduce(storage: Storage, arguments: argparse.Namespace) -> int:
    """Train a row again and say whether its accuracy comes back; 1 where it does not."""
    from methods.errors import UsageError
    from search.execution.rerun import rerun
    from search.rows.row import from_table

    found = from_table(_trial(storage, arguments.id))
    if not found:
        raise UsageError(f"{arguments.id}: no such trial (study/phase/trial); `show` lists them")
    summary = rerun(storage, found[0], arguments.data_dir)
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return 0 if summary["same"] else 1
    for name, (then, now) in summary["differences"].items():
        print(f"{name} was {then}, is {now}")
    lines = []
    for name, value in summary["row"].items():
        again = summary["again"].get(name)
        lines.append([name, _text(value), _text(again), "" if again is None else f"{again - value:+.2g}"])
    _print_table(["on validation", "row", "again", "difference"], lines)
    print(f"{summary['id']}: {summary['verdict']}")
    return 0 if summary["same"] else 1


def compact(storage: Storage, arguments: argparse.Namespace) -> int:
    """Merge the rows' files into few large ones."""
    from search.rows.compaction import compact

    before, after = compact(storage)
    print(f"{before} files before, {after} after")
    return 0


def verify(storage: Storage, arguments: argparse.Namespace) -> int:
    """Say what is wrong with the stored rows; changes nothing."""
    from search.rows.compaction import verify

    problems = verify(storage)
    print("\n".join(problems) if problems else "nothing is wrong")
    return 1 if problems else 0


def _where(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in FILTERS if getattr(arguments, name) is not None}


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    """Records as JSON can hold them: our mappings as objects, times as text."""
    from search.rows.row import schema

    mappings = {f.name for f in schema() if b"json" in f.metadata}
    records: list[dict[str, Any]] = table.to_pylist()
    for record in records:
        for name, value in record.items():
            if name in mappings and isinstance(value, str):
                record[name] = json.loads(value)
            elif value is not None and not isinstance(value, str | int | float | list | dict):
                record[name] = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return records


def _trial(storage: Storage, name: str) -> pa.Table:
    """The row that study/phase/trial names; empty where there is none."""
    from search.rows.row import schema
    from search.rows.sql import read

    study, phase, trial = ["", "", *name.rsplit("/", 2)][-3:]
    if not (study and trial.isdecimal()):
        return schema().empty_table()
    return read(storage, study=study, phase=phase, trial=int(trial))


def _facts(storage: Storage, name: str) -> dict[str, Any]:
    """What `diff` says of a trial (study/phase/trial), or of a study: its totals and its best trial."""
    from methods.errors import UsageError
    from search.rows.sql import read

    facts: dict[str, Any] = {}
    records = _plain(_trial(storage, name))
    if not records:
        records = _plain(read(storage, sort="-val_accuracy", study=name))
        tested = [r["test_accuracy"] for r in records if r["phase"] == "final" and r["test_accuracy"] is not None]
        facts["trials of the study"] = len(records)
        facts["failed trials"] = sum(r["status"] == "failed" for r in records)
        facts["seconds of all trials"] = sum(r["seconds"] or 0 for r in records)
        facts["MACs of all trials"] = sum(r["macs_train"] or 0 for r in records)
        facts["test_accuracy, mean over seeds"] = sum(tested) / len(tested) if tested else None
        records = [r for r in records if r["phase"] == "search"] or records
    if not records:
        raise UsageError(f"{name}: no such study, and no such trial (study/phase/trial); `show` lists them")
    for column, value in records[0].items():
        if isinstance(value, dict):
            facts |= {f"{column}.{key}": part for key, part in value.items()}
        else:
            facts[column] = value
    return facts


def _exported(table: pa.Table, form: str) -> bytes:
    import pyarrow as pa

    if form == "json":
        return json.dumps(_plain(table), indent=2).encode() + b"\n"
    if form == "md":
        lines = [_headers(table), ["---"] * table.num_columns, *_cells(table)]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines).encode()
    buffer = pa.BufferOutputStream()
    if form == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, buffer, compression="zstd")
    else:
        from pyarrow import csv

        hosts = pa.array([" ".join(nodes or ()) for nodes in table["nodes"].to_pylist()], pa.string())
        csv.write_csv(table.set_column(table.column_names.index("nodes"), "nodes", hosts), buffer)
    return bytes(buffer.getvalue())


def _headers(table: pa.Table) -> list[str]:
    return [HEADERS.get(name, name) for name in table.column_names]


def _cells(table: pa.Table) -> list[list[str]]:
    """Figures as people read them: per cent, thousands, seconds."""

    def cell(name: str, value: Any) -> str:
        if value is None:
            return ""
        if name.endswith("accuracy"):
            return f"{100 * value:.2f}"
        if name in ("macs_forward", "params"):
            power = next((power for power in (12, 9, 6, 3) if value >= 10**power), 0)
            return f"{value / 10**power:.{1 if power else 0}f}{'TGMk'[(12 - power) // 3] if power else ''}"
        return f"{value:.1f}" if name == "seconds" else _text(value)

    return [[cell(name, value) for name, value in record.items()] for record in table.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for header, column in zip(headers, zip(*lines, strict=True), strict=True):
        figures = all(cell[:1] in "+-0123456789" for cell in column)
        table.add_column(header, justify="right" if figures else "left")
    for line in lines:
        table.add_row(*line)
    # In a pipe nothing is cut off or wrapped. Names are text, also where they look like markup.
    Console(width=None if sys.stdout.isatty() else 10_000, markup=False, highlight=False, emoji=False).print(table)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of rows; give 20, or 0 for all")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m search.leaderboard", description="What the studies found: one row for every trial."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--storage", default="results", metavar="URI", help="folder or s3://bucket/prefix (results)")
    chosen = argparse.ArgumentParser(add_help=False)
    for name in FILTERS:
        chosen.add_argument(f"--{name}", metavar="NAME", help=f"only rows of this {name}")
    chosen.add_argument(
        "--sort", default="-val_accuracy", metavar="COLUMN", help="- before it for descending order (-val_accuracy)"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    command = commands.add_parser("show", parents=[place, chosen, as_json], help="the best trials")
    command.add_argument("--top", type=_natural, default=20, metavar="N", help="so many rows; 0 for all (20)")
    command.set_defaults(run=show)

    command = commands.add_parser("export", parents=[place, chosen], help="all rows that match, in another format")
    command.add_argument("format", choices=("csv", "md", "json", "parquet"))
    command.add_argument("--out", metavar="FILE", help="write there and not to standard output")
    command.set_defaults(run=export)

    command = commands.add_parser("diff", parents=[place, as_json], help="two studies or two trials side by side")
    command.add_argument("a", metavar="A", help="a study, or a trial as study/phase/trial")
    command.add_argument("b", metavar="B")
    command.set_defaults(run=diff)

    command = commands.add_parser(
        "query",
        parents=[place, as_json],
        help="SQL over the table `leaderboard`",
        epilog="""for example: "SELECT study, config->>'$.\"joint.lr\"' AS lr, val_accuracy FROM leaderboard" """,
    )
    command.add_argument("sql", metavar="SQL", help="one SELECT, in DuckDB's dialect")
    command.set_defaults(run=query)

    command = commands.add_parser(
        "reproduce", parents=[place, as_json], help="train a row again and say whether its accuracy comes back"
    )
    command.add_argument("id", metavar="ID", help="a trial, as study/phase/trial")
    command.add_argument("--data-dir", metavar="DIR", help="where the data lies now (default: where the row says)")
    command.set_defaults(run=reproduce)

    command = commands.add_parser("compact", parents=[place], help="merge the rows' files; safe while studies run")
    command.set_defaults(run=compact)

    command = commands.add_parser("verify", parents=[place], help="look for broken files, wrong hashes, duplicates")
    command.set_defaults(run=verify)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where the leaderboard or a row does not hold; 2 where it is the command that is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--sort" in words[:-1]:  # argparse would take "-val_accuracy" for an option
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    arguments = _parser().parse_args(words)

    from distributed.storage import Storage
    from methods.errors import UsageError
    from search.rows.row import LEADERBOARD

    try:
        storage = Storage(arguments.storage)
        if not storage.exists(LEADERBOARD):
            raise UsageError(f"--storage {arguments.storage} has no leaderboard; run a study there or name another")
        return int(arguments.run(storage, arguments))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"--storage {arguments.storage} cannot be read: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
