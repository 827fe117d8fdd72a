"""What a storage holds and who needs it: sizes, and the removal of what nobody does.

Needed are the stage results of every trial that is done (of a study whose winner has been retrained: those of the
retrainings and the controls), and those that a trial under way, or a study that is not complete, will look for. Of the
rest nothing is removed that another process holds the lock of, and no checkpoint or half-written file that was written
within `FRESH` seconds. Rows that a program handed over go with the last study of them. What told a trial to stop goes
once nobody runs its study.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from bo_distill.distributed.locks import Taken, locked
from bo_distill.distributed.pipeline import stage_keys
from bo_distill.distributed.storage import Entry, Storage
from bo_distill.distributed.worker import PRECISIONS, Runtime
from bo_distill.methods.errors import UsageError
from bo_distill.search.study.kept import ARRAYS
from bo_distill.search.study.ledger import Study

FRESH = 3600.0  # seconds within which whoever writes a checkpoint or a file aside may be at work on it
AT_ONCE = 64  # stages that are locked together: what is needed is asked once for them all
KINDS = (("result", ".pt"), ("progress", ".progress"), ("locks", ".lock"), ("locks", ".lock.owner"))


@dataclass(frozen=True)
class Stage:
    """What lies under `stages/` of one configuration of a stage.

    Attributes:
        result: `torch.save`'s file; none where the stage is not finished.
        progress: checkpoints, and the folder that holds them.
        locks: the lock and who held it last.
    """

    result: tuple[Entry, ...] = ()
    progress: tuple[Entry, ...] = ()
    locks: tuple[Entry, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return sum(entry.size for entry in (*self.result, *self.progress, *self.locks))


@dataclass(frozen=True)
class Removal:
    """Something that was removed, or would be.

    Attributes:
        what: in words.
    """

    name: str
    what: str
    size: int


def studies(storage: Storage) -> dict[str, int]:
    """Bytes in each study's folder, by name."""
    sizes: dict[str, int] = {}
    for entry in storage.entries("studies"):
        parts = entry.name.split("/")
        if len(parts) > 2:
            sizes[parts[1]] = sizes.get(parts[1], 0) + entry.size
    return dict(sorted(sizes.items()))


def stages(storage: Storage) -> dict[str, Stage]:
    """What lies under `stages/`, by "METHOD.STAGE-KEY"."""
    found: dict[str, dict[str, list[Entry]]] = {}
    for entry in storage.entries("stages"):
        first = entry.name.split("/")[1]
        for kind, ending in KINDS:
            if first.endswith(ending) and first.startswith(".") == (kind == "locks"):
                stem = first.removeprefix(".").removesuffix(ending)
                found.setdefault(stem, {}).setdefault(kind, []).append(entry)
    return {stem: Stage(**{kind: tuple(entries) for kind, entries in parts.items()}) for stem, parts in found.items()}


def needed(storage: Storage) -> dict[str, set[str]]:
    """The stages that each kept study needs, by its name.

    Raises:
        UsageError: of a study it cannot be known.
    """
    found = {}
    for name in _kept(storage):
        try:
            found[name] = needed_by(Study.open(storage, name))
        except UsageError as error:
            raise UsageError(
                f"{error}; until then it is not known what study {name} needs, and clean removes nothing; a study that "
                f"is past mending can be deleted: {storage.path('studies', name)}"
            ) from None
    return found


def _kept(storage: Storage) -> list[str]:
    return sorted({file.split("/")[1] for file in storage.list("studies") if file.endswith("/study.json")})


def needed_by(study: Study) -> set[str]:
    """The stages of one study that it, its page or its model is made from, and those that it will look for.

    Once the retrainings of a winner have ended, page and model are made from these alone: of the search's own trials
    only what all trials share is kept.
    """
    task, method = study.plan.task, study.method
    over = study.complete and any(trial.status == "done" for trial in study.of_phase("final"))
    kept = {stage.name for stage in method.stages if stage.shared}
    keys: list[Mapping[str, str]] = []
    for trial in study.trials:
        if trial.status == "done":
            own = study.outcome(trial.job.number).stage_keys
            retrained = trial.job.phase in ("final", "control")
            keys.append({name: key for name, key in own.items() if retrained or not over or name in kept})
    if not study.complete:
        # A study of version 0.1, or one that has not begun, does not know its data's fingerprint yet.
        fingerprint = study.plan.fingerprint or study.info.fingerprint
        jobs = [(trial.job.settings, trial.job.seed) for trial in study.trials if not trial.finished]
        precisions = PRECISIONS if task.precision == "auto" else (task.precision,)
        for settings, seed in [*jobs, ({}, task.seed)]:  # the last for what all trials share
            configs = method.configure(task.recipe, {**task.settings, **settings})
            keys += [
                stage_keys(method, configs, fingerprint, seed, task.seed, Runtime(device, precision), task.workers)
                for device in ("cpu", "cuda")  # the machine that goes on with it may have another
                for precision in precisions
            ]
    return {f"{method.name}.{stage}-{key}" for by_stage in keys for stage, key in by_stage.items()}


def clean(storage: Storage, older: float = 0.0, dry_run: bool = False) -> Iterator[Removal]:
    """Remove what nobody needs; each thing is told of once it is gone.

    Args:
        older: only what was last written so many seconds ago.
        dry_run: remove nothing.

    Raises:
        UsageError: of a study it cannot be known what it needs, or the storage cannot be written.
    """
    now = time.time()
    needs = set().union(*needed(storage).values())
    waiting = iter([(stem, parts) for stem, parts in stages(storage).items() if _idle(stem, parts, needs, now, older)])
    while some := list(islice(waiting, AT_ONCE)):
        with contextlib.ExitStack() as held:
            # A dry run makes no lock, it only tries those that are there.
            free = [
                (stem, parts) for stem, parts in some if (dry_run and not parts.locks) or _take(storage, stem, held)
            ]
            # A trial is in the ledger before it looks for a stage: asked under the locks, none is missed.
            if not dry_run:
                needs = set().union(*needed(storage).values())
            for stem, parts in free:
                yield from _remove_stage(storage, stem, parts, stem in needs, dry_run)
    yield from _remove_rows(storage, now, older, dry_run)
    signs: dict[str, list[Entry]] = {}
    for entry in storage.entries():
        folders, _, name = entry.name.rpartition("/")
        if folders.startswith("studies/") and folders.endswith("/stop") and now - entry.changed >= older:
            signs.setdefault(folders.removesuffix("/stop"), []).append(entry)
        aside = name.startswith(".probe-") or (name.startswith(".") and name.endswith(".aside"))
        if aside and now - entry.changed > max(older, FRESH):
            yield _removed(storage, entry, "file that was never finished", dry_run)
    for folder, entries in signs.items():
        with contextlib.suppress(Taken), locked(storage, f"{folder}/.lock"):  # a trial looks for its sign as it runs
            for entry in entries:
                yield _removed(storage, entry, "sign that stopped a trial", dry_run)


def _removed(storage: Storage, entry: Entry, what: str, dry_run: bool) -> Removal:
    """A file that is now removed, or would be."""
    if not dry_run:
        storage.delete(entry.name)
    return Removal(entry.name, what, entry.size)


def _remove_rows(storage: Storage, now: float, older: float, dry_run: bool) -> Iterator[Removal]:
    """Remove rows that a program handed over and that no study is of; their study is written soon after them."""
    old = [e for e in storage.entries(ARRAYS) if not e.is_folder and now - e.changed > max(older, FRESH)]
    own = {Study.open(storage, name).plan.task.data.name for name in _kept(storage)} if old else set()
    for entry in old:
        digest = entry.name.rpartition("/")[2].partition(".")[0]
        if f"{ARRAYS}:{digest}" not in own:
            yield _removed(storage, entry, "rows that no study is of", dry_run)


def _idle(stem: str, parts: Stage, needs: set[str], now: float, older: float) -> bool:
    """Whether something of a stage may go."""
    files = [entry for entry in (*parts.result, *parts.progress) if not entry.is_folder]
    last = max(entry.changed for entry in files or (*parts.progress, *parts.locks))
    if now - last < older or any(now - entry.changed < FRESH for entry in files if entry in parts.progress):
        return False
    return stem not in needs or bool(parts.result and (parts.progress or parts.locks))


def _take(storage: Storage, stem: str, held: contextlib.ExitStack) -> bool:
    try:
        held.enter_context(locked(storage, f"stages/.{stem}.lock"))
    except Taken:
        return False
    return True


def _remove_stage(storage: Storage, stem: str, parts: Stage, is_needed: bool, dry_run: bool) -> Iterator[Removal]:
    """Remove a stage whose lock is held: all of it, or of one that is needed what led to its result."""
    words = [(parts.result, "result that no study needs"), (parts.progress, "checkpoints"), (parts.locks, "lock")]
    if is_needed:
        words = words[1:] if parts.result else []
    for entries, what in words:
        if not entries:
            continue
        name = f"stages/{stem}.progress" if entries is parts.progress else entries[0].name
        if not dry_run and entries is parts.progress:
            storage.delete_folder(name)
        elif not dry_run:
            for entry in entries:
                storage.delete(entry.name)
        yield Removal(name, what, sum(entry.size for entry in entries))
    if not dry_run:
        storage.delete(f"stages/.{stem}.lock")  # that this process took; whoever waits for it takes a new one
