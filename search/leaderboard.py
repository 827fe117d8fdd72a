"""Show, compare, export, query, reproduce, compact and verify the rows that studies wrote, one for every trial.

python -m search.leaderboard show --study NAME --sort -val_accuracy
python -m search.leaderboard studies
python -m search.leaderboard export csv --out rows.csv
python -m search.leaderboard export optuna sqlite:///rows.db      # for optuna-dashboard
python -m search.leaderboard query "SELECT method, max(val_accuracy) FROM leaderboard GROUP BY method"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError, counted
from bo_distill.search.command.shell import FAILED, OK, Parser, carry_out, storage_option, trust_option
from bo_distill.search.command.terminal import print_table, write_named
from bo_distill.search.rows import compaction, sql
from bo_distill.search.rows.export import exported, flat, json_text, literal, markdown, plain, printable
from bo_distill.search.rows.row import LEADERBOARD, from_table, schema

if TYPE_CHECKING:
    import pyarrow as pa


SHOWN = (
    "study", "trial", "phase", "control", "method", "searcher", "data", "val_accuracy", "test_accuracy", "macs_forward",
    "params", "seconds", "status",
)  # fmt: skip
HEADERS = {"val_accuracy": "val %", "test_accuracy": "test %", "macs_forward": "MACs"}
FILTERS = ("method", "study", "data", "phase")
SETTINGS = 6  # columns of settings that a table has room for


def show(storage: Storage, arguments: argparse.Namespace) -> int:
    """The best trials as a table, with the settings in which they differ."""
    # One row more than is shown tells whether there are more.
    limit = arguments.top + 1 if arguments.top else 0
    columns = () if arguments.json else (*SHOWN, "config")
    table = sql.read(storage, columns=columns, sort=arguments.sort, top=limit, **_where(arguments))
    records = plain(table.slice(0, arguments.top or len(table)))
    if arguments.json:
        print(json_text(records))
    elif records:
        settings = [record.pop("config") for record in records]
        for name in _differing(settings):
            for record, values in zip(records, settings, strict=True):
                record[name] = values.get(name) if isinstance(values, dict) else None
        print_table(*_figures(records))
    if len(table) == 0:
        print("no rows match", file=sys.stderr if arguments.json else sys.stdout)
    elif len(table) > len(records):
        print(f"the first {counted(len(records), 'row')}; --top 0 shows all", file=sys.stderr)
    return OK


def _differing(settings: Sequence[Any]) -> list[str]:
    """Settings of which some rows have one value and some another; the first few of them."""
    values: dict[str, set[str]] = {}
    for config in settings:
        for name, value in (config if isinstance(config, dict) else {}).items():
            values.setdefault(name, set()).add(json.dumps(value))
    return [name for name, seen in values.items() if len(seen) > 1][:SETTINGS]


def studies(storage: Storage, arguments: argparse.Namespace) -> int:
    """Every study: what it searched, its best, when it ended."""
    where = " AND ".join(f'"{name}" = ?' for name in _where(arguments))
    table = sql.query(
        storage,
        "SELECT study, any_value(method) AS method, any_value(searcher) AS searcher, any_value(data) AS data, "
        "count(*) FILTER (phase = 'search') AS trials, count(*) FILTER (status = 'failed') AS failed, "
        "max(val_accuracy) FILTER (phase = 'search' AND status = 'done') AS val_accuracy, "
        "avg(test_accuracy) FILTER (phase = 'final') AS test_accuracy, sum(seconds) AS seconds, max(finished) AS ended "
        f"FROM leaderboard {f'WHERE {where}' if where else ''} GROUP BY study ORDER BY ended DESC",
        list(_where(arguments).values()),
    )
    records = plain(table)
    if arguments.json:
        print(json_text(records))
    elif records:
        print_table(*_figures(records))
    else:
        print("no rows match")
    return OK


def export(storage: Storage, arguments: argparse.Namespace) -> int:
    """All columns of all rows that match; Markdown has the columns that `show` has."""
    if (arguments.format == "optuna") != bool(arguments.url):
        raise UsageError(
            "export optuna URL: give the database, such as sqlite:///rows.db"
            if arguments.format == "optuna"
            else f"export {arguments.format} {arguments.url}: only optuna takes a URL; give --out FILE"
        )
    columns = SHOWN if arguments.format == "md" else ()
    table = sql.read(storage, columns=columns, sort=arguments.sort, **_where(arguments))
    if arguments.format == "optuna":
        from bo_distill.search.evidence.optuna import to_optuna

        print(f"{counted(to_optuna(table, storage, arguments.url), 'trial')} written to {arguments.url}")
        return OK
    if arguments.format == "parquet" and not arguments.out and sys.stdout.isatty():
        raise UsageError("export parquet: a terminal cannot show it; give --out FILE")
    if arguments.format == "md":
        heads, lines = _figures(plain(table))
        content = markdown([*map(literal, heads)], [[*map(literal, line)] for line in lines]).encode()
    else:
        content = exported(table, arguments.format)
    if not arguments.out:
        sys.stdout.buffer.write(content)
        return OK
    write_named("--out", arguments.out, content)
    print(f"{counted(len(table), 'row')} written to {arguments.out}")
    return OK


def diff(storage: Storage, arguments: argparse.Namespace) -> int:
    """What differs between two studies, by their best trials, or between two trials."""
    left, right = (_facts(storage, name) for name in (arguments.a, arguments.b))
    if arguments.json:
        print(json_text({arguments.a: left, arguments.b: right}))
        return OK
    names = [*left, *(name for name in right if name not in left)]
    lines = []
    for name in names:
        a, b = left.get(name), right.get(name)
        if a == b and not arguments.all:
            continue
        known = name in left and name in right
        change = "" if a == b or not known else "differs"
        if change and isinstance(a, int | float) and isinstance(b, int | float):
            change = f"{b - a:+.4g}"
        lines.append([name, _text(a), _text(b), change])
    if lines:
        print_table(["", arguments.a, arguments.b, "difference"], lines)
    if not arguments.all:
        equal = counted(len(names) - len(lines), "fact is equal", "facts are equal")
        print(f"{equal}; --all shows what is", file=sys.stderr)
    return OK


def query(storage: Storage, arguments: argparse.Namespace) -> int:
    """Any SELECT over the table `leaderboard`."""
    table = sql.query(storage, arguments.sql)
    records = plain(table)
    if arguments.json:
        print(json_text(records))
    elif records:
        print_table([*records[0]], [[_text(value) for value in record.values()] for record in records])
    else:
        print("no rows match")
    return OK


def reproduce(storage: Storage, arguments: argparse.Namespace) -> int:
    """Train a row again and say whether its accuracy comes back; 1 where it does not."""
    from bo_distill.search.execution.rerun import rerun

    found = from_table(_trial(storage, arguments.id))
    if not found:
        raise UsageError(f"{arguments.id}: no such trial (study/phase/trial); `show` lists them")
    summary = rerun(storage, found[0], arguments.data_dir)
    if arguments.json:
        print(json_text(summary))
        return OK if summary["same"] else FAILED
    for name, (then, now) in summary["differences"].items():
        print(printable(f"{name} was {then}, is {now}"))
    lines = []
    for name, value in summary["row"].items():
        again = summary["again"].get(name)
        lines.append([name, _text(value), _text(again), "" if again is None else f"{again - value:+.2g}"])
    print_table(["on validation", "row", "again", "difference"], lines)
    print(printable(f"{summary['id']}: {summary['verdict']}"))
    return OK if summary["same"] else FAILED


def compact(storage: Storage, arguments: argparse.Namespace) -> int:
    """Merge the rows' files into few large ones."""
    before, after = compaction.compact(storage)
    print(f"{counted(before, 'file')} before, {after} after")
    return OK


def verify(storage: Storage, arguments: argparse.Namespace) -> int:
    """Say what is wrong with the stored rows; changes nothing."""
    problems = compaction.verify(storage)
    print(printable("\n".join(problems)) if problems else "nothing is wrong")
    return FAILED if problems else OK


def _where(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in FILTERS if getattr(arguments, name) is not None}


def _trial(storage: Storage, name: str) -> pa.Table:
    """The row that study/phase/trial names; empty where there is none."""
    study, phase, trial = ["", "", *name.rsplit("/", 2)][-3:]
    if not (study and trial.isdecimal() and len(trial) < 19):  # more digits than a number of the table has
        return schema().empty_table()
    return sql.read(storage, study=study, phase=phase, trial=int(trial))


def _facts(storage: Storage, name: str) -> dict[str, Any]:
    """What `diff` says of a trial (study/phase/trial), or of a study: totals and winner, else its best trial."""
    facts: dict[str, Any] = {}
    records = plain(_trial(storage, name))
    if not records:
        records = plain(sql.read(storage, sort="-val_accuracy", study=name))
        tested = [r["test_accuracy"] for r in records if r["phase"] == "final" and r["test_accuracy"] is not None]
        facts["trials of the study"] = len(records)
        facts["failed trials"] = sum(r["status"] == "failed" for r in records)
        facts["seconds of all trials"] = sum(r["seconds"] or 0 for r in records)
        facts["MACs of all trials"] = sum(r["macs_train"] or 0 for r in records)
        facts["test_accuracy, mean over seeds"] = sum(tested) / len(tested) if tested else None
        searched = [r for r in records if r["phase"] == "search"]
        won = {r["config_hash"] for r in records if r["phase"] == "final"}  # the best may be another than the winner
        chosen = [r for r in searched if r["config_hash"] in won]
        records = chosen or [r for r in searched if r["status"] == "done"] or searched or records
    if not records:
        raise UsageError(f"{name}: no such study, and no such trial (study/phase/trial); `show` lists them")
    return facts | flat(records[0])


def _figures(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of a table, figures as people read them: per cent, thousands, seconds."""

    def cell(name: str, value: Any) -> str:
        """A value as the table shows it, by its column."""
        if value is None:
            return ""
        if name.endswith("accuracy"):
            return f"{100 * value:.2f}"
        if name in ("macs_forward", "params"):
            power = next((power for power in (12, 9, 6, 3) if value >= 10**power), 0)
            return f"{value / 10**power:.{1 if power else 0}f}{'TGMk'[(12 - power) // 3] if power else ''}"
        if name == "ended":
            return f"{value[:16].replace('T', ' ')} UTC"
        return f"{value:.1f}" if name == "seconds" else _text(value)

    names = list(records[0]) if records else list(SHOWN)
    return [HEADERS.get(n, n) for n in names], [[cell(n, v) for n, v in record.items()] for record in records]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of rows; give 20, or 0 for all")
    return int(text)


def parser() -> Parser:
    whole = Parser(prog="python -m search.leaderboard", description="What the studies found: one row for every trial.")
    # Words that may stand before the verb too; after it they have no default of their own, which would win.
    storage_option(whole)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    place = Parser(add_help=False)
    storage_option(place, argparse.SUPPRESS)
    chosen = Parser(add_help=False)
    for name in FILTERS:
        chosen.add_argument(f"--{name}", metavar="NAME", help=f"only rows of this {name}")
    order = Parser(add_help=False)
    order.add_argument(
        "--sort", default="-val_accuracy", metavar="COLUMN", help="- before it for descending order (-val_accuracy)"
    )
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    command = commands.add_parser("show", parents=[place, chosen, order, as_json], help="the best trials")
    command.add_argument("--top", type=_natural, default=20, metavar="N", help="so many rows; 0 for all (20)")
    command.set_defaults(run=show)

    command = commands.add_parser("studies", parents=[place, chosen, as_json], help="every study and its best")
    command.set_defaults(run=studies)

    command = commands.add_parser("export", parents=[place, chosen, order], help="all rows that match, in a file")
    command.add_argument("format", choices=("csv", "md", "json", "parquet", "optuna"))
    command.add_argument("url", nargs="?", metavar="URL", help="of optuna's storage: sqlite:///rows.db")
    command.add_argument("--out", metavar="FILE", help="write there and not to standard output")
    command.set_defaults(run=export)

    command = commands.add_parser("diff", parents=[place, as_json], help="what differs between two studies or trials")
    command.add_argument("a", metavar="A", help="a study, or a trial as study/phase/trial")
    command.add_argument("b", metavar="B")
    command.add_argument("--all", action="store_true", help="what is equal, too")
    command.set_defaults(run=diff)

    command = commands.add_parser(
        "query",
        parents=[place, as_json],
        help="SQL over the table `leaderboard`",
        epilog="""for example: "SELECT study, config->>'$.\\"joint.lr\\"' AS lr, val_accuracy FROM leaderboard" """,
    )
    command.add_argument("sql", metavar="SQL", help="one SELECT, in DuckDB's dialect")
    command.set_defaults(run=query)

    command = commands.add_parser(
        "reproduce", parents=[place, as_json], help="train a row again and say whether its accuracy comes back"
    )
    command.add_argument("id", metavar="ID", help="a trial, as study/phase/trial")
    command.add_argument("--data-dir", metavar="DIR", help="where the data lies now (default: where the row says)")
    trust_option(command)
    command.set_defaults(run=reproduce)

    command = commands.add_parser("compact", parents=[place], help="merge the rows' files; safe while studies run")
    command.set_defaults(run=compact)

    command = commands.add_parser("verify", parents=[place], help="look for broken files, wrong hashes, duplicates")
    command.set_defaults(run=verify)
    return whole


def run(arguments: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    try:
        storage = Storage(arguments.storage)
        if not storage.exists(LEADERBOARD):
            raise UsageError(f"--storage {arguments.storage} has no leaderboard; run a study there or name another")
        return int(arguments.run(storage, arguments))
    except OSError as error:
        print(printable(f"--storage {arguments.storage} cannot be read: {error}"), file=sys.stderr)
        return FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where the leaderboard or a row does not hold; 2 where it is the command that is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--sort" in words[:-1]:  # argparse would take "-val_accuracy" for an option
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    return carry_out(parser(), run, words)


if __name__ == "__main__":
    sys.exit(main())
