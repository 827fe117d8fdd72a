"""The searchers by name. To add one: a file with a `make`, and a line in `SEARCHERS`."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    from bo_distill.methods.space import Searched
    from bo_distill.search.searchers.base import Length, Searcher, Settings, Space


@dataclass(frozen=True)
class Entry:
    """What commands ask of a searcher before there is one.

    Attributes:
        word: by which commands and studies name it.
        title: at the start of a sentence that says what was searched.
        module: of `search.searchers`; its `make(word, space, seed, trials, first)` returns a `base.Searcher`.
        pauses: its `make` takes the `base.Length` of a training too, and returns a `base.PausingSearcher`.
        sized: it has a natural number of trials, all known from the start, and cannot be extended.
        flag: whether --WORD chooses it.
        from_defaults: its first trial is that of the recipe's own values.
        weighs: it is a `base.WeighingSearcher`.
        warms: it is a `base.LearningSearcher`.
        learns: what it proposes depends on what came of the trials before.
        needs: the package that it cannot do without, and the distribution or extra that has it.
    """

    word: str
    title: str
    module: str
    sized: bool = False
    flag: bool = False
    pauses: bool = False
    from_defaults: bool = False
    weighs: bool = False
    warms: bool = False
    learns: bool = False
    needs: tuple[str, str] | None = None

    @property
    def option(self) -> list[str]:
        """How a command chooses it."""
        return [f"--{self.word}"] if self.flag else ["--searcher", self.word]

    @property
    def slug(self) -> str:
        """The word as part of a file's name."""
        return re.sub(r"[^\w-]+", "-", self.word)

    @property
    def lacking(self) -> str:
        """What must be installed before it can be used here; empty where nothing is lacking."""
        if self.needs is None or importlib.util.find_spec(self.needs[0]):
            return ""
        return self.needs[1]


DEFAULT = "bo"
CURVES = "curves"  # what --bo becomes by --curves
BAYES_OPT, OPTUNA = ("bayes_opt", "bayesian-optimization"), ("optuna", "the extra optuna")
SEARCHERS = {
    entry.word: entry
    for entry in (
        Entry(
            "bo",
            "Bayesian optimisation",
            "bayesian",
            flag=True,
            from_defaults=True,
            weighs=True,
            warms=True,
            learns=True,
            needs=BAYES_OPT,
        ),
        Entry(
            CURVES,
            "Bayesian optimisation on learning curves",
            "freeze_thaw",
            pauses=True,
            from_defaults=True,
            learns=True,
            needs=BAYES_OPT,
        ),
        Entry("grid", "A grid", "grid", sized=True, flag=True),
        Entry("random", "Independent draws", "random", flag=True),
        Entry("grid-shuffled", "A grid in random order", "grid", sized=True),
        Entry("grid-offset", "A grid of random places", "grid", sized=True),
        Entry("grid-centred", "A grid of cells' middles", "grid", sized=True),
        Entry("optuna", "Optuna's TPE", "foreign", learns=True, needs=OPTUNA),
    )
}
NONE = "none"  # in place of a searcher's word, where the ledger holds all trials from the start


def entry_of(word: str, option: str = "--searcher") -> Entry:
    """What is known of a searcher.

    Args:
        word: one of `SEARCHERS`, or package.module:Class, a Ray Tune searcher from outside the project.
        option: of the command that names it.

    Raises:
        UsageError: there is none of this name.
    """
    if word in SEARCHERS:
        return SEARCHERS[word]
    if re.fullmatch(r"[\w.]+:\w+", word):
        return Entry(word, word, "foreign", learns=True)
    raise UsageError(f"{option} {word}: there are {', '.join(SEARCHERS)}, and package.module:Class of a Tune searcher")


def pauses(word: str) -> bool:
    """Whether this searcher, or `NONE`, pauses trials and takes them up again."""
    return word in SEARCHERS and SEARCHERS[word].pauses


def make_searcher(
    word: str,
    space: Space,
    seed: int,
    trials: int | None,
    first: Sequence[Settings] = (),
    length: Length | None = None,
    metrics: int = 1,
) -> Searcher:
    """A fresh searcher.

    Args:
        trials: budget, which lays out a grid; None: its natural size.
        first: what is to be tried first, where the searcher learns from it.
        length: of a training; only a searcher that pauses asks for it.
        metrics: how many it is told of each trial, as a list where they are several.

    Raises:
        UsageError: there is none of this name, a package is not installed, the budget does not hold a grid, or a
            foreign searcher is given several metrics.
    """
    entry = entry_of(word)
    if metrics > 1 and (entry.pauses or entry.module == "foreign"):
        raise UsageError(
            f"--searcher {word}: makes one metric large; give one to --metric, or --bo, --random or --grid"
        )
    if entry.lacking:
        raise UsageError(f"--searcher {word}: not without {entry.lacking}; install it")

    def make(first: Sequence[Settings]) -> Searcher:
        """One of its kind, for one metric."""
        module = importlib.import_module(f"bo_distill.search.searchers.{entry.module}")
        made: Searcher = module.make(word, space, seed, trials, first, *([length] if entry.pauses else []))
        return made

    if metrics > 1 and entry.learns:
        from bo_distill.search.searchers.scalarised import ScalarisedSearch

        return ScalarisedSearch(make, space, seed, first)
    return make(first)


def holds(domain: Searched, value: Any) -> bool:
    """Whether a range holds a value."""
    try:
        domain.check(value)
    except ValueError:
        return False
    return True


def beginning(word: str, space: Space, defaults: Settings) -> list[Settings]:
    """What a new search tries first: the defaults, where the searcher begins with them and ranges hold them.

    Args:
        defaults: a value for each field of the space, and others. One outside its range is left out: the searcher
            fills it in.
    """
    point = {name: defaults[name] for name in space if name in defaults and holds(space[name], defaults[name])}
    return [point] if point and entry_of(word).from_defaults else []


def foreseen(word: str, space: Space, seed: int, trials: int | None) -> list[Settings]:
    """As many configurations as a search will try: those of a sized searcher, else random ones.

    Which ones a searcher will ask for is not known; in the mean they cost what others do.
    """
    if entry_of(word).sized:
        sized = make_searcher(word, space, seed, trials)
        return list(iter(lambda: sized.suggest(""), sized.FINISHED))
    from bo_distill.search.searchers.random import random_point

    return [random_point(space, seed, number) for number in range(trials or 0)]


def names_of(text: str, suffix: str = "") -> list[str]:
    """Searchers as a command names them, by commas; the suffix may follow each."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        entry_of(name.removesuffix(suffix), "--searchers")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--searchers {text}: name each searcher once, by commas")
    return names
