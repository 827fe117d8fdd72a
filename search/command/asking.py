"""The study that a command asks for: a new one, one that goes on, or a new one that extends an old one."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bo_distill.methods import get
from bo_distill.methods.errors import UsageError
from bo_distill.search.command.data import resumed_data, same
from bo_distill.search.command.options import (
    AUTO,
    EVERY,
    PRECISION,
    SEED,
    assignments,
    make_task,
    names_in,
    ranges_in,
    seconds_of,
)
from bo_distill.search.command.shell import positive
from bo_distill.search.rows.export import printable
from bo_distill.search.searchers.registry import CURVES, DEFAULT, entry_of, pauses
from bo_distill.search.study.metrics import ACCURACY, METRICS, metrics_of

if TYPE_CHECKING:
    from bo_distill.distributed.storage import Storage
    from bo_distill.methods.method import Method
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.records import Plan


def budget(text: str | None, resumed: bool) -> tuple[int | None, bool]:
    """--trials as (number, is it an extension)."""
    if text is None:
        return None, False
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"--trials {text}: give a whole number") from None
    more = text.startswith("+")
    if more and not resumed:
        words = f"only --resume and --extend add to a search; give --trials {number}"
        raise UsageError(f"--trials {text}: {words}")
    positive("--trials", number)
    return number, more


def controls_of(text: str, method: Method) -> tuple[str, ...]:
    """Controls as --controls names them, by commas.

    Raises:
        UsageError: the method has one of them not.
    """
    names = tuple(names_in(text))
    for name in names:
        if name not in method.controls:
            raise UsageError(f"--controls {name}: {method.name} has {', '.join(method.controls) or 'none'}")
    return names


def make_plan(args: argparse.Namespace) -> Plan:
    """What the words of the command ask for, checked.

    Raises:
        UsageError: any of them cannot be.
    """
    from bo_distill.search.study.kept import new_name
    from bo_distill.search.study.records import Plan

    task, space, ranges, method = make_task(args)
    searcher = entry_of(named_searcher(args) or DEFAULT)
    trials, _ = budget(args.trials, False)
    seconds = seconds_of("--time", args.time)
    if trials is None and seconds is None and not searcher.sized:
        trials = 12
    metrics = metrics_of(args.metric or ACCURACY)
    measured = any(METRICS[word].after for word in metrics)
    plan = Plan(
        task=dataclasses.replace(
            task, study=new_name(method.name, searcher.slug), stoppable=args.asha, measured=measured
        ),
        searcher=searcher.word,
        space=space,
        trials=trials,
        patience=args.patience,
        seeds=3 if args.seeds is None else args.seeds,
        controls=not args.no_controls,
        tune_controls=args.tune_controls,
        against=controls_of(args.controls, method) if args.controls else (),
        asha=args.asha,
        confirm=args.confirm,
        ranges=ranges,
        seconds=seconds,
        metrics=metrics,
        warm=tuple(names_in(args.warm or "")),
    )
    plan.check_confirm()
    check_stopping(plan)
    if len(set(plan.warm)) < len(plan.warm):
        raise UsageError(f"--warm {args.warm}: name each study once")
    if plan.warm and not searcher.warms:
        raise UsageError(
            f"--warm: not with {' '.join(searcher.option)}, which learns from no other study; leave it out"
        )
    if plan.warm and len(metrics) > 1:
        raise UsageError("--warm: learns of one metric; leave it out, or give one --metric")
    if args.tune_controls and (args.no_controls or not plan.seeds):
        raise UsageError("--tune-controls: the study has no controls; leave out --no-controls and --seeds 0")
    if args.tune_controls and metrics != (ACCURACY,):
        raise UsageError("--tune-controls: judges controls by their accuracy; leave out --metric or --tune-controls")
    return plan


def check_stopping(plan: Plan) -> None:
    """See that trials which are stopped or paused before their end can be compared by their curves.

    Raises:
        UsageError: they cannot.
    """
    from bo_distill.search.study.curve import length_of

    stops = "--asha" if plan.asha else "--curves" if pauses(plan.searcher) else ""
    if not stops:
        return
    if plan.asha and pauses(plan.searcher):
        raise UsageError("--curves: not with a study whose trials --asha stops; leave it out")
    if searched := [name for name in plan.space if name.endswith(".epochs")]:
        raise UsageError(f"{stops}: all trainings are as long as each other; leave {searched[0]} out of the search")
    if plan.metrics != (ACCURACY,):
        words = f"leave out --metric {','.join(plan.metrics)} or {stops}"
        raise UsageError(f"{stops}: stops trials by their accuracy; {words}")
    method = get(plan.task.method)
    length_of(method, method.configure(plan.task.recipe, plan.task.settings))


def named_searcher(args: argparse.Namespace) -> str | None:
    """The searcher that the command names; None where it names none.

    Raises:
        UsageError: --curves beside another one, or beside a scheduler.
    """
    word: str | None = args.searcher
    if args.curves and word not in (None, DEFAULT, CURVES):
        raise UsageError(f"--curves: not with {' '.join(entry_of(word or '').option)}; leave one of the two out")
    word = CURVES if args.curves else word
    if args.asha and word == CURVES:
        raise UsageError("--asha: not with --curves, which pauses trials itself; leave one of the two out")
    return word


def check_pausing(args: argparse.Namespace, plan: Plan, word: str) -> None:
    """See that going on with a study does not change whether its trials are paused.

    Raises:
        UsageError: it does.
    """
    if pauses(word) != pauses(plan.searcher):
        raise UsageError(
            f"--resume {args.resume}: its trials are {'' if pauses(plan.searcher) else 'not '}paused; "
            f"{'give --curves' if pauses(plan.searcher) else 'leave --curves out'}, or --extend it when it is finished"
        )


def check_same(args: argparse.Namespace, plan: Plan) -> None:
    """See that the command asks for nothing that the study's trials have in common and that --resume cannot change.

    Raises:
        UsageError: it does.
    """
    task = plan.task
    for word in ("method", "recipe"):
        if given := getattr(args, word):
            same(word if word == "method" else f"--{word}", given, getattr(task, word))
    if args.set or args.search or args.range:
        check_fields(args, plan)
    if args.metric:
        same("--metric", metrics_of(args.metric), plan.metrics)
    for word, usual, kept in (("seed", SEED, task.seed), ("precision", PRECISION, task.precision)):
        if (given := getattr(args, word)) != usual:
            same(f"--{word}", given, kept)
    if args.asha and not plan.asha:
        raise UsageError("--asha: the study's trials run without a scheduler; leave it out")
    if args.no_controls and plan.controls:
        raise UsageError("--no-controls: the study has controls; leave it out")
    if args.tune_controls and not plan.tune_controls:
        raise UsageError("--tune-controls: the study's controls are not searched; leave it out, or start a new study")
    if args.warm and not (args.warm == EVERY and plan.warm):
        same("--warm", tuple(names_in(args.warm)), plan.warm)
    if args.controls:
        same("--controls", controls_of(args.controls, get(task.method)), plan.against)


def check_fields(args: argparse.Namespace, plan: Plan) -> None:
    """The part of `check_same` that is about hyperparameters.

    Raises:
        UsageError: as there.
    """
    method = get(plan.task.method)
    for name, value in method.check(assignments(args.set)).items():
        same(f"--set {name}", value, plan.task.settings.get(name, "searched or left at its default"))
    if args.search:
        same("--search", tuple(map(method.named, names_in(args.search))), plan.space)
    for name, text in ranges_in(args, method).items():
        own = plan.ranges.get(name)
        if own and method.space([name], {name: text}) == method.space([name], {name: own}):
            continue  # the same range in other words
        same(f"--range {name}", text, plan.ranges.get(name, "the method's own range, or no search of it"))


def check_open(args: argparse.Namespace, study: Study, more_search: Sequence[str]) -> None:
    """See that what is asked of a study can still change it. A look at the test split that is refused is noted.

    Args:
        more_search: options that would go on with the search.

    Raises:
        UsageError: its search is over.
    """
    asked = [*more_search, *([] if args.seeds is None else [f"--seeds {args.seeds}"])]
    if asked and study.of_phase("final"):
        over = "its test split has been read"
        if not args.dry_run:
            study.note_test("refused", " ".join(asked))
    elif more_search and study.of_phase("confirm"):
        over = "its best have been run again over fresh seeds"
    else:
        return
    raise UsageError(
        f"--resume {args.resume}: {over}, so its search is over; --extend {args.resume} "
        "begins a new study, which takes the old trials from the cache"
    )


def resumed(args: argparse.Namespace, study: Study) -> Plan:
    """The study's plan with what this command changes of it.

    Raises:
        UsageError: it changes what all trials have in common, or what was decided already.
    """
    check_same(args, study.plan)
    plan = study.plan
    searcher = entry_of(named_searcher(args) or plan.searcher)
    if not args.extend:
        check_pausing(args, plan, searcher.word)
    going_on = f"--extend {args.extend}" if args.extend else f"--resume {args.resume}"
    trials, more = budget(args.trials, True)
    seconds = seconds_of("--time", args.time)
    words = {
        "--trials": args.trials,
        "--time": args.time,
        "--confirm": args.confirm or None,
        "--patience": args.patience,
    }
    more_search = [f"{word} {value}" for word, value in words.items() if value is not None]
    more_search += [" ".join(searcher.option)] if searcher.word != plan.searcher else []
    check_open(args, study, more_search)
    if searcher.sized and (trials is not None or plan.searcher != searcher.word):
        raise UsageError(f"{going_on}: a grid has the trials that it has; start a new study")
    begun = len(study.of_phase("search"))
    if searcher.pauses:  # the budget is of epochs, and trials may be many more than it
        from bo_distill.search.study.curve import length_of, spent

        configs = study.method.configure(plan.task.recipe, plan.task.settings)
        begun = math.ceil(spent(study.of_phase("search"), length_of(study.method, configs)[1]))
    if trials is not None:
        trials = (plan.trials or begun) + trials if more else trials
        if trials < begun:
            raise UsageError(f"--trials {trials}: {begun} were asked already; give more")
    elif not searcher.sized and plan.trials is None and not (seconds or plan.seconds):
        raise UsageError(f"{going_on} {' '.join(searcher.option)}: the grid set no budget; give --trials +N")
    if args.confirm and searcher.sized:
        raise UsageError(f"{going_on} --confirm: a grid has the trials that it has; start a new study")
    if searcher.word != plan.searcher:
        study.searcher_state = None
    warm = plan.warm
    if study.searcher_state is None and (
        gone := [n for n in warm if not study.storage.exists(f"studies/{n}/study.json")]
    ):
        print(printable(f"{going_on}: goes on without what {', '.join(gone)} found, which is gone"), file=sys.stderr)
        warm = tuple(name for name in warm if name not in gone)
    workers = plan.task.workers if args.workers in (None, AUTO) else args.workers
    data = resumed_data(args, plan.task.data)
    if data.name != plan.task.data.name and not plan.fingerprint:
        raise UsageError(f"--data {data.name}: the study is of a version that did not note its data; leave it out")
    task = dataclasses.replace(plan.task, storage=args.storage, workers=workers, data=data)
    changed = dataclasses.replace(
        plan,
        task=task,
        searcher=searcher.word,
        trials=plan.trials if trials is None else trials,
        seeds=plan.seeds if args.seeds is None else args.seeds,
        patience=plan.patience if args.patience is None else args.patience,
        confirm=args.confirm or plan.confirm,
        seconds=seconds or plan.seconds,
        warm=warm,
        over=plan.over and not more_search,
    )
    if trials is not None or seconds is not None:
        changed = dataclasses.replace(changed, out_of_time=False, patient_from=len(study.of_phase("search")))
    if args.confirm:
        changed.check_confirm(begun)
    check_stopping(changed)
    return changed


def extended(args: argparse.Namespace, old: Study) -> Study:
    """A new study of the same question that begins with the trials that a search finished. They run again, over the
    same seeds, and find every stage in the cache.

    Raises:
        UsageError: it does not say how many more, or changes what all trials have in common.
    """
    from bo_distill.search.study.kept import new_name
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.records import Job, Trial

    name, plan = old.plan.task.study, old.plan
    if args.trials is None:
        raise UsageError(f"--extend {name}: say by how much; give --trials +N")
    searcher = entry_of(named_searcher(args) or plan.searcher)
    finished = [trial for trial in old.of_phase("search") if trial.status == "done"]
    jobs = [Job(number, "search", t.job.settings, t.job.seed) for number, t in enumerate(finished)]
    study = Study(
        old.storage,
        dataclasses.replace(
            plan,
            task=dataclasses.replace(plan.task, study=new_name(old.method.name, searcher.slug)),
            trials=len(jobs),
            confirm=0,
            extends=name,
        ),
        [Trial(job, time.time()) for job in jobs],
    )
    study.plan = resumed(args, study)
    return study


def asked_for(args: argparse.Namespace, storage: Storage) -> Study:
    """The study that the command begins, goes on with or extends. Nothing is written but that a second look at the test
    split was refused, and in a dry run not that either.

    Raises:
        UsageError: it cannot be.
    """
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.searches import others_of

    if args.extend:
        return extended(args, Study.open(storage, args.extend))
    if not args.resume:
        study = Study(storage, make_plan(args))
        if args.warm == EVERY:
            study.plan = dataclasses.replace(study.plan, warm=others_of(study))
        return study
    study = Study.open(storage, args.resume)
    study.plan = resumed(args, study)
    return study
