"""`bo_distill.run` and `bo_distill.open`.

study = bo_distill.run("fsp", data=(images, labels), searcher="bo", trials=12)
study.best.settings, study.test, study.predict(more_images)
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import trust as let_run
from bo_distill.search.api.searching import begun, search
from bo_distill.search.command.config import FileParser
from bo_distill.search.command.interruption import Interruption
from bo_distill.search.command.options import EVERY
from bo_distill.search.command.run_options import parser
from bo_distill.search.searchers.registry import SEARCHERS

if TYPE_CHECKING:
    import argparse

    from bo_distill.search.api.view import Result, StudyView
    from bo_distill.search.study.ledger import Study

COMMAND_ONLY = {
    "help": "this text is it",
    "fields": "call bo_distill.fields(METHOD)",
    "dry-run": "use the command, bo-distill run METHOD --dry-run",
    "json": "look at what run returns",
    **{word: f'give searcher="{word}"' for word, entry in SEARCHERS.items() if entry.flag},
}
"""Options that a Python call says in another way."""

READ_ON = "see help(bo_distill.run)"


def in_arguments(text: str) -> str:
    """What names options as a command line has them, with the arguments of `run` instead; not in the words of a command
    that it quotes."""

    def argument(option: re.Match[str]) -> str:
        word = option[1]
        if word in SEARCHERS and SEARCHERS[word].flag:
            return f'searcher="{word}"'
        return word.replace("-", "_") if word in options else option[0]

    options = parser().options.keys() - {"help"}
    said, command, rest = text.partition("bo-distill run")
    said = said.replace("see --help", READ_ON)
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)", argument, said) + command + rest


@contextmanager
def as_arguments() -> Iterator[None]:
    """Errors of usage name arguments. All others pass as they are: they may be a callback's."""
    try:
        yield
    except UsageError as error:
        error.args = (in_arguments(str(error)),)
        raise


@as_arguments()
def run(
    method: str | None = None,
    *,
    data: Any = None,
    callbacks: Sequence[Callable[[Result], None]] = (),
    trust: Sequence[str] = (),
    **options: Any,
) -> StudyView:
    """Search a method's hyperparameters, retrain the winner, score it on test once.

    Trials run on a Ray of this process, or on the one at `address`, which ends with the call. It works in a script, a
    notebook and a prompt, off the main thread too, one call after another; progress is written to standard error.
    Ctrl-C (the notebook's stop button) ends the search within seconds and raises KeyboardInterrupt; what is finished is
    kept, and `bo_distill.run(resume=NAME)` goes on.

    Args:
        method: "fsp", "max_entropy", "label_embedding", "center_loss", "res_ic", or "package.module:NAME" of your own;
            none with `resume` and `extend`.
        data: a word, as --data takes it: "digits", "imagefolder:PATH", "text:PATH", ... Or rows of your own: a pair
            (x, y), or {"train": (x, y), "val": (x, y), "test": (x, y)}, where val and test may be left out; they are
            drawn from train then. x are images as an array or a tensor (n, channels, height, width), (n, height, width,
            channels) or (n, height, width), uint8 or floats from 0 to 1, with 1 or 3 channels; or a list of sentences.
            y are n labels, text or whole numbers; for sentences maybe {task: labels} for several tasks, of which the
            first is the one that accuracy is of. They are kept in the storage by content, where workers on other
            machines and `resume` find them. None: the data of the method's recipe.
        callbacks: each is called with a `Result` when a trial has ended, and is kept. What one raises ends the search
            and is raised here; the search can be resumed.
        trust: modules outside this project whose code a study named by `resume` or `extend` may run.
        options: every other option of the command `bo-distill run`, with underscores: searcher="bo", trials=12,
            time="30m", seeds=3, storage="results", workers=2, resume=NAME ... What a command line repeats is a mapping
            or a list here: set={"transfer.depth": 8}, search=["transfer.lr"], range={"transfer.lr": "1e-5:1:log"}, or
            range={"transfer.lr": (1e-5, 1, "log")}. True gives an option without a value, None and False leave it out.

    Returns:
        The study.

    Raises:
        UsageError: something that was asked for cannot be. The message is one line that names it and the remedy.
        RuntimeError: Ray did not start, or the node that the search ran on was lost.
    """
    from bo_distill.methods.data import forget
    from bo_distill.search.api.view import StudyView
    from bo_distill.search.evidence.advice import in_python, resuming

    forget()  # an earlier call of this process may have read the same folder
    callbacks = [callbacks] if callable(callbacks) else callbacks
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise UsageError(f"callbacks: {callbacks!r}: give a function, or a list of them")
    if method == EVERY:
        raise UsageError(f"method {EVERY}: of the command alone; bo-distill run {EVERY} --data NAME")
    for word in [*([trust] if isinstance(trust, str) else trust), options.get("searcher"), method]:
        if word and (word in trust or ":" in word):
            let_run(word)
    args = _parsed(method, data, options)
    interruption = Interruption()
    try:
        with interruption.noticed():
            study = begun(args)
            study.listeners += [_telling(study, callback) for callback in callbacks]
            seconds = search(args, study)
    except SystemExit as end:  # Ray is gone, or never came
        raise RuntimeError(in_arguments(str(end).removeprefix("error: "))) from None
    if interruption.asked:
        raise KeyboardInterrupt(f"go on with {in_python(resuming(study))}")
    return StudyView(study, seconds)


@as_arguments()
def open(name: str, storage: str = "results", *, trust: Sequence[str] = ()) -> StudyView:
    """A study that was run before, or that runs elsewhere.

    Args:
        name: of the study, or its folder.
        storage: where it is kept: a folder, or s3://bucket/prefix.
        trust: the module of a method outside this project, which then may run.

    Raises:
        UsageError: there is no such study, or its files cannot be read.
    """
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.api.view import StudyView, open_study

    for word in [trust] if isinstance(trust, str) else trust:
        let_run(word)
    return StudyView(open_study(name, Storage(storage)))


def _telling(study: Study, callback: Callable[[Result], None]) -> Callable[[Any, Any], None]:
    """A callback as a listener of the study."""
    from bo_distill.search.api.view import Result

    return lambda trial, outcome: callback(Result.of(study, trial, outcome))


def _parsed(method: str | None, data: Any, options: Mapping[str, Any]) -> argparse.Namespace:
    """Keyword arguments as the command line would have them.

    Raises:
        UsageError: there is no such option, or no such value.
    """
    words = parser()
    words.more = READ_ON
    given = {"method": method, "data": data} | {name.replace("_", "-"): value for name, value in options.items()}
    _check_names(words, given)
    if data is not None and not isinstance(data, str):
        from bo_distill.distributed.storage import Storage
        from bo_distill.methods import get
        from bo_distill.search.api.own_data import kept

        words.parse(list(_words(words, {**given, "data": None})))  # what is wrong is said before anything is kept
        storage = Storage(given.get("storage") or words.get_default("storage"))
        given["data"], given["data-dir"] = kept(data, storage, get(method) if method else None)
    return words.parse(list(_words(words, given)))


def _words(words: FileParser, given: Mapping[str, Any]) -> Iterator[str]:
    """Words of a command line."""
    if config := given.get("config"):
        yield f"--config={config}"
    plain = {name: value for name, value in given.items() if value is not None and name != "config"}
    if isinstance(ranges := plain.get("range"), Mapping):
        plain["range"] = {field: _range(value) for field, value in ranges.items()}
    yield from words.words_for(plain)


def _range(value: Any) -> str:
    """A range as --range takes it: (low, high, ...) is one, a list are choices."""
    if isinstance(value, tuple | list):
        return (":" if isinstance(value, tuple) else ",").join(map(str, value))
    return str(value)


def _check_names(words: FileParser, given: Mapping[str, Any]) -> None:
    known = words.options.keys() - COMMAND_ONLY.keys()
    for name in given.keys() - {"method"} - known:
        python = name.replace("-", "_")
        if name in COMMAND_ONLY:
            raise UsageError(f"{python}: an option of the command alone; {COMMAND_ONLY[name]}")
        like = difflib.get_close_matches(name, known, 3) or sorted(known)
        candidates = ", ".join(one.replace("-", "_") for one in like)
        raise UsageError(f"{python}: run has no such argument; did you mean one of {candidates}?")


def _signature() -> inspect.Signature:
    """That of `run` with every option by its name, for help and completion."""
    own = inspect.signature(run)
    fixed = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = parser().options
    names = [name for name in options if name not in COMMAND_ONLY and name.replace("-", "_") not in own.parameters]
    more = [inspect.Parameter(name.replace("-", "_"), inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    return own.replace(parameters=[*fixed, *more])


run.__signature__ = _signature()  # type: ignore[attr-defined]
