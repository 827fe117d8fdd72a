"""The options of a search: what `search.run` takes as words and `bo_distill.run` as keyword arguments."""

from __future__ import annotations

from bo_distill.search.command.config import FileParser
from bo_distill.search.command.options import EVERY, EVERY_SEEDS, EVERY_TRIALS, live_option, study_options
from bo_distill.search.command.shell import trust_option
from bo_distill.search.searchers.registry import DEFAULT, SEARCHERS
from bo_distill.search.study.metrics import ACCURACY, METRICS


def parser() -> FileParser:
    """Every option, under headings."""
    p = FileParser(
        prog="python -m search.run",
        usage="%(prog)s METHOD [options]",
        description="Search a method's hyperparameters on Ray, retrain the winner, score it on test once.",
        allow_abbrev=False,
    )
    for title in ("data", "what is searched", "searcher", "budget", "going on", "place", "output"):
        p.group(title)
    study_options(p, every=True)
    p.group("what is searched").add_argument(
        "--metric",
        metavar="WORDS",
        help=f"what makes a configuration better, one or two by a comma: {', '.join(METRICS)} (default {ACCURACY}); of "
        "two, the search finds the Pareto front, and the first one chooses the winner",
    )
    how = p.group("searcher").add_mutually_exclusive_group()
    for entry in SEARCHERS.values():
        if entry.flag:
            words = entry.title + " (default)" * (entry.word == DEFAULT)
            how.add_argument(f"--{entry.word}", dest="searcher", action="store_const", const=entry.word, help=words)
    how.add_argument("--searcher", metavar="WORD", help=f"{', '.join(SEARCHERS)}, or MODULE:CLASS, a Tune searcher")
    p.group("searcher").add_argument(
        "--warm",
        metavar="STUDIES",
        help="with --bo: begin with what other studies of the method found, by commas, also on other data or in other "
        f"ranges; what misleads is forgotten; {EVERY}: the newest ten in the storage",
    )
    spent = p.group("budget")
    spent.add_argument(
        "--trials",
        metavar="N",
        help="how many trials (default 12; for a grid all its points; with --time no limit); +N with --resume or "
        f"--extend; with {EVERY} in place of METHOD, of the method with the longest search (default {EVERY_TRIALS}), "
        "and as many epochs for each of the others",
    )
    spent.add_argument(
        "--time",
        metavar="T",
        help="propose no trial after 90s, 30m or 2h; those under way end, and winner and controls are retrained as "
        "usual, which takes longer than T; --resume begins T anew",
    )
    spent.add_argument("--patience", type=int, metavar="N", help="stop after N trials that were no better")
    spent.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    spent.add_argument(
        "--curves",
        action="store_true",
        help="with --bo: pause trials after some epochs and take up again what promises most by all learning curves; "
        "--trials counts the epochs of whole trainings",
    )
    spent.add_argument("--confirm", type=int, default=0, metavar="K", help="run the K best again over 3 fresh seeds")
    spent.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=f"retrainings of the winner, scored on test (default 3; {EVERY_SEEDS} with {EVERY} in place of METHOD); "
        "0 leaves the test split unread, so that --resume STUDY can extend the search, and give --seeds at its end",
    )
    held = spent.add_mutually_exclusive_group()
    held.add_argument("--no-controls", action="store_true", help="do not run the method's controls beside the winner")
    held.add_argument("--controls", metavar="WORDS", help="run only these of them, by commas")
    spent.add_argument(
        "--tune-controls",
        action="store_true",
        help="search each control's own hyperparameters too, in at most as many trials as the search had, before it "
        "is retrained",
    )
    going_on = p.group("going on").add_mutually_exclusive_group()
    going_on.add_argument(
        "--resume", metavar="STUDY", help="go on with a study, maybe by another searcher; --trials +N extends it"
    )
    going_on.add_argument(
        "--extend",
        metavar="STUDY",
        help="begin a new study that inherits the trials of a finished one, for --trials +N more; the test split is "
        "read again, which the new study notes",
    )
    told = p.group("output")
    told.add_argument("--quiet", action="store_true", help="say nothing while the search runs")
    told.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    told.add_argument("--fields", action="store_true", help="list the method's hyperparameters, and run nothing")
    told.add_argument("--tensorboard", action="store_true", help="also write each trial for TensorBoard")
    told.add_argument("--mlflow", action="store_true", help="also write each trial to a file store of MLflow")
    live_option(p)
    trust_option(p)
    return p
