"""Every method that fits the data, searched at equal budget, each against plain training: `search.run all`.

    comparisons/NAME/all.json     the options, each method's study, which were left out and which failed
    comparisons/NAME/report.html  which of them helped

A method that cannot take the data is left out, one that fails ends no other, and --resume NAME goes on where it ended.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.locks import Taken, locked
from bo_distill.distributed.storage import Storage
from bo_distill.methods import METHODS, get
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError, counted
from bo_distill.methods.records import Malformed, decoded
from bo_distill.search.api.searching import begun, keep, search
from bo_distill.search.command.asking import budget
from bo_distill.search.command.data import data_of, settle_paths
from bo_distill.search.command.interruption import interruption
from bo_distill.search.command.options import EVERY, EVERY_SEEDS, EVERY_TRIALS, seconds_of
from bo_distill.search.command.run_options import parser
from bo_distill.search.command.shell import FAILED, OK, SOME_FAILED
from bo_distill.search.evidence.words import duration
from bo_distill.search.rows.export import json_text, printable
from bo_distill.search.searchers.registry import DEFAULT
from bo_distill.search.study.kept import check_name, damaged, new_name, packed, read
from bo_distill.search.study.ledger import Study

if TYPE_CHECKING:
    from bo_distill.search.evidence.every import Held

HERE = ("storage", "address", "concurrency", "live", "quiet", "json", "dry_run", "trust", "resume", "config")
"""Options that belong to one call of the command: --resume takes them from its own words."""


@dataclass
class Record:
    """The content of all.json.

    Attributes:
        options: of the command that began it.
        budgets: method -> what it may spend, as its options --trials and --time.
        studies: method -> its study's name, once it was begun.
        left_out: method -> why it cannot take the data.
        failed: method -> what ended its search.
    """

    options: dict[str, Any]
    budgets: dict[str, dict[str, str | None]] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def file_of(name: str) -> str:
    """Where the record of that name lies in a storage."""
    return f"comparisons/{name}/all.json"


def read_record(storage: Storage, name: str) -> Record:
    """What was noted of the searches under this name.

    Raises:
        UsageError: there is nothing of this name, or its file cannot be read.
    """
    check_name("--resume", name)
    try:
        return decoded(Record, read(storage, file_of(name))[1])
    except FileNotFoundError:
        raise UsageError(f"--resume {name}: no searches of all methods by this name under {storage.uri}") from None
    except Malformed as error:
        raise damaged(storage.path(file_of(name)), error) from None


def run_every(args: argparse.Namespace) -> int:
    """Carry out `search.run all`; returns the exit code.

    Raises:
        UsageError: no method takes the data, or an option is not for all methods.
        KeyboardInterrupt: it was interrupted and can go on.
    """
    storage = Storage(args.storage)
    args.storage = storage.uri
    settle_paths(args)
    with ExitStack() as held:
        if args.resume:
            name, record = args.resume, read_record(storage, args.resume)
            if not args.dry_run:
                held.enter_context(_alone(storage, name))
                record = read_record(storage, name)  # what another process noted before it let go
            _check_same(args, record)
            args = argparse.Namespace(**{**vars(args), **record.options})
        else:
            _check(args)
            name = new_name(EVERY, args.searcher or DEFAULT)
            record = Record({word: value for word, value in vars(args).items() if word not in HERE})
            _share(args, record)
        waiting = dict(_begun(args, storage, record))
        if not waiting and not record.studies:
            raise UsageError("; ".join(f"{method}: {why}" for method, why in record.left_out.items()))
        if args.dry_run:
            print(forecast_all(args, waiting, record))
            return OK
        if not args.resume:  # where no method takes the data, nothing is left, no lock either
            held.enter_context(_alone(storage, name))
        _carry_out(args, storage, name, record, waiting)
        return _tell(args, storage, name, record)


@contextmanager
def _alone(storage: Storage, name: str) -> Iterator[None]:
    """Only one process may carry out the searches under a name.

    Raises:
        UsageError: another one does.
    """
    try:
        with locked(storage, f"comparisons/{name}/.lock"):
            yield
    except Taken as taken:
        raise UsageError(f"all --resume {name}: another process is running it, {taken}") from None


def _carry_out(
    args: argparse.Namespace,
    storage: Storage,
    name: str,
    record: Record,
    waiting: Mapping[str, tuple[argparse.Namespace, Study]],
) -> None:
    """Search by one method after the other, and note what came of each.

    Raises:
        KeyboardInterrupt: it was interrupted and can go on.
    """

    def note() -> None:
        """Note where things stand."""
        storage.write_bytes(file_of(name), packed(asdict(record)))

    for number, (method, (own, study)) in enumerate(waiting.items(), 1):
        record.studies[method] = study.plan.task.study
        record.failed.pop(method, None)
        note()
        if not args.quiet:
            print(f"{method}, {number} of {len(waiting)}", file=sys.stderr)
        try:
            search(own, study, f"all --resume {name} --storage {shlex.quote(storage.uri)}")
        except Exception as error:  # of a method's own code, of memory or data: the others may still be searched
            record.failed[method] = " ".join(str(error).split())[:300] or type(error).__name__
        if not interruption().asked and study.complete and study.best() is None:
            record.failed[method] = next((t.reason for t in study.trials if t.reason), "no trial was finished")
        if method in record.failed:
            print(f"{method} failed: {printable(record.failed[method])}", file=sys.stderr)
        note()
        if interruption().asked or not (study.complete or method in record.failed):
            raise KeyboardInterrupt
    for method, known in record.studies.items():
        if method in waiting or method in record.failed:
            continue
        study = Study.open(storage, known)
        if not all(storage.exists(f"{study.folder}/{file}") for file in ("model/model.json", "report.html")):
            try:  # it was killed after the search's end
                keep(study, args.quiet)
            except UsageError as error:
                print(printable(f"{method}: {error}"), file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    """See that the options are for all methods."""
    if args.fields:
        raise UsageError(f"all --fields: fields are of one method; give {', '.join(METHODS)} in place of all")
    if args.data is None:
        raise UsageError("all: which data? give --data imagefolder:PATH, text:FILE, digits or another")
    for option in ("set", "search", "range", "extend", "no_controls", "controls", "metric", "warm"):
        if getattr(args, option):
            raise UsageError(f"all --{option.replace('_', '-')}: not for all methods at once; leave it out")
    if args.seeds is not None and args.seeds < 2:
        raise UsageError(f"all --seeds {args.seeds}: a difference needs several seeds; give at least 2")


def _check_same(args: argparse.Namespace, record: Record) -> None:
    """See that what is given beside --resume is as it was: all searches are of one question.

    Raises:
        UsageError: an option would change it.
    """
    usual = vars(parser().parse_args([]))
    for word, kept in record.options.items():
        given = getattr(args, word, None)
        if word != "method" and given != usual.get(word) and given != kept:
            option = f"all --resume {args.resume} --{word.replace('_', '-')}"
            raise UsageError(f"{option}: not what the searches were begun with; leave it out")


def _share(args: argparse.Namespace, record: Record) -> None:
    """Share the budget among the methods that take such data: an equal part of --time, or about as many training
    epochs each as --trials of the method with the longest trials."""
    trials, _ = budget(args.trials, False)
    data = data_of(args, DataSpec(args.data))
    kind, epochs = load(data).info.kind, {}
    for word in METHODS:
        method = get(word)
        if method.kind != kind:
            record.left_out[word] = f"takes {method.kind} data"
            continue
        configs = method.configure(args.recipe or "quick")
        counts = {stage.name: getattr(configs[stage.name], "epochs", 0) for stage in method.stages}
        shared = sum(counts[stage.name] for stage in method.stages if stage.shared)
        epochs[word] = shared, max(1, sum(counts.values()) - shared)
    seconds = seconds_of("--time", args.time)
    if seconds is not None:
        record.budgets = {word: {"trials": args.trials, "time": f"{seconds / len(epochs):.12g}s"} for word in epochs}
        return
    most = max((shared + (trials or EVERY_TRIALS) * own for shared, own in epochs.values()), default=0)
    record.budgets = {word: {"trials": str(max(1, (most - shared) // own))} for word, (shared, own) in epochs.items()}


def _begun(
    args: argparse.Namespace, storage: Storage, record: Record
) -> Iterator[tuple[str, tuple[argparse.Namespace, Study]]]:
    """Each method that is not done, with the options of its search and its study, new or to be gone on with. Notes
    those that cannot take the data."""
    here = {word: getattr(args, word) for word in HERE}
    for method, share in record.budgets.items():
        known = record.studies.get(method, "")
        if known and storage.exists(f"studies/{known}/study.json"):
            if not Study.open(storage, known).complete:
                kept = {word: getattr(args, word) for word in ("tensorboard", "mlflow")}
                own = argparse.Namespace(**{**vars(parser().parse_args([])), **here, **kept, "resume": known})
                yield method, (own, begun(own))
            continue
        if method in record.left_out:
            continue
        seeds = EVERY_SEEDS if args.seeds is None else args.seeds
        control = next(iter(get(method).controls), None)
        given = {"method": method, "seeds": seeds, "controls": control, **share, "resume": None}
        own = argparse.Namespace(**{**vars(args), **here, **given})
        try:
            study = begun(own)
        except UsageError as error:
            if args.resume:  # it took the data when it was asked first: something else is amiss
                raise
            record.left_out[method] = str(error)
        else:
            yield method, (own, study)


def forecast_all(
    args: argparse.Namespace, waiting: Mapping[str, tuple[argparse.Namespace, Study]], record: Record
) -> str:
    """What would run, and for how long, a line for each method."""
    from bo_distill.distributed.ray.cluster import connected, machine
    from bo_distill.search.execution.forecast import forecast
    from bo_distill.search.execution.place import place_of

    lines, total = [], 0.0
    with connected(args.address, sys.stderr) if args.address else nullcontext(machine()) as nodes:
        places = {method: place_of(own, study.plan.task.workers, nodes) for method, (own, study) in waiting.items()}
    for method, (_, study) in waiting.items():
        seen = forecast(study, places[method])
        total += seen.seconds
        many = counted(seen.trials, "trial") if seen.trials else f"trials for {duration(study.plan.seconds or 0)}"
        held = ", ".join(study.controls) or "no control"
        lines.append(
            f"{method}: {many} of {counted(seen.epochs, 'epoch')} over {', '.join(study.space)}, then "
            f"{counted(seen.final, 'retraining')} (winner and {held}); about {duration(seen.seconds)}"
        )
    lines += [f"{method}: left out, {why}" for method, why in record.left_out.items()]
    return "\n".join([*lines, f"all: about {duration(total)}"])


def _tell(args: argparse.Namespace, storage: Storage, name: str, record: Record) -> int:
    """Say which methods helped, and write the page; returns the exit code."""
    from bo_distill.search.evidence.every import few_seeds, verdict
    from bo_distill.search.evidence.summary import summarise
    from bo_distill.search.pages.study import attempt, keep

    every = results(storage, record)
    page = f"comparisons/{name}/report.html"
    attempt(lambda: keep(storage, page, *page_of_all(storage, name)), name, storage)
    if args.json:
        studies = {one.method: summarise(one.study, 0.0) for one in every}
        said = {"verdict": verdict(every), "sentences": [one.sentence() for one in every], "studies": studies}
        print(json_text({"all": name, **said, "left_out": record.left_out, "failed": record.failed}))
    else:
        print(printable(verdict(every)))
        for one in every:
            print(printable(f"- {one.sentence()}"))
        for method, why in {**record.left_out, **record.failed}.items():
            print(printable(f"- {method}: {'failed' if method in record.failed else 'left out'}, {why}"))
        if few := few_seeds(every):
            print(few)
        for one in every:
            print(f"{one.method:<16} {storage.uri}/{one.study.folder}/report.html")
        print(f"{EVERY:<16} {storage.uri}/comparisons/{name}/report.html")
    if not every:
        return FAILED
    failed = any(trial.status == "failed" for one in every for trial in one.study.trials)
    return SOME_FAILED if failed or record.failed else OK


def results(storage: Storage, record: Record) -> list[Held]:
    """Each method that was carried through, against plain training."""
    from bo_distill.search.evidence.every import held

    studies = [Study.open(storage, name) for method, name in record.studies.items() if method not in record.failed]
    return held([study for study in studies if study.complete])


def page_of_all(storage: Storage, name: str) -> tuple[str, dict[str, bytes]]:
    """The page of all methods, and its pictures by file name (PNG).

    Raises:
        UsageError: their record cannot be read.
    """
    from bo_distill.search.pages.every import every_page

    record = read_record(storage, name)
    every = results(storage, record)
    waiting = set(record.budgets) - {one.method for one in every}
    missing = {**dict.fromkeys(sorted(waiting), "its search is not at its end"), **record.left_out, **record.failed}
    return every_page(name, every, missing)
