"""The winner's network in two files: `model.json`, what it is, and `model.safetensors`, its weights.

    studies/NAME/model/model.json         method, configuration, data (classes, shape, vocabulary), where it comes from
    studies/NAME/model/model.safetensors  "STAGE/tensor" of every stage that the network is built from

Nothing is unpickled, and neither the data nor the search is needed to use it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bo_distill.distributed.cache import StageCache, decode
from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data import Info
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Configs, Method, State, flatten
from bo_distill.methods.records import Malformed, decoded
from bo_distill.search.study.kept import damaged, packed, read_bytes, unpacked
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Trial


@dataclass(frozen=True)
class Part:
    """What rebuilds a stage's part of the network, and its metrics (see `methods.method.State`)."""

    spec: dict[str, Any]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Card:
    """The content of model.json.

    Attributes:
        method, paper, recipe, config: which network, as a row of the leaderboard says it.
        info: of the data that it was trained on.
        stages: those that the network is built from.
        study, trial, seed: where it comes from.
        val, test: as in `search.study.records.Outcome`.
        weights: SHA-256 of model.safetensors.
    """

    method: str
    paper: str
    recipe: str
    config: dict[str, Any]
    info: Info
    stages: dict[str, Part]
    study: str
    trial: int
    seed: int
    val: dict[str, float]
    test: dict[str, float]
    weights: str


@dataclass(frozen=True)
class Deployed:
    """A network that is ready to answer.

    Attributes:
        nets: each task that is answered, the first first -> its network: x as a `methods.training.Batch` holds it ->
            (b, classes) logits; in eval mode, on the CPU.
        info: of the data that it was trained on.
        card: what it is.
    """

    nets: Mapping[str, nn.Module]
    info: Info
    card: Card

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Each task that is answered, the first first -> the names of its classes."""
        return {name: dict(self.info.tasks).get(name, self.info.classes) for name in self.nets}


class _Asked(Mapping[str, State]):
    """States that remember which of them were asked for, so that a teacher's weights are not shipped."""

    def __init__(self, states: Mapping[str, State]) -> None:
        self.states, self.names = states, set[str]()

    def __getitem__(self, name: str) -> State:
        self.names.add(name)
        return self.states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)


def winner(study: Study) -> Trial | None:
    """The trial whose weights are the study's result: the first retraining of the winner, chosen without a look at
    any score; without retrainings, the best trial of the search."""
    done = [trial for trial in study.of_phase("final") if trial.status == "done"]
    return done[0] if done else study.best()


def stored_states(study: Study, trial: Trial) -> tuple[Configs, dict[str, State]]:
    """Configurations and stage states of a finished trial, from the cache.

    Raises:
        UsageError: a state is no longer there.
    """
    task, method, cache = study.plan.task, study.method, StageCache(study.storage)
    configs = method.configure(task.recipe, {**task.settings, **trial.job.settings})
    states = {}
    for stage, key in study.outcome(trial.job.number).stage_keys.items():
        content = cache.get(f"{method.name}.{stage}", key)
        if content is None:
            raise UsageError(
                f"study {task.study}: {cache.name(f'{method.name}.{stage}', key)} of trial {trial.job.number} "
                f"is no longer under {study.storage.uri}; restore it or search again"
            )
        states[stage] = decode(content)
    return configs, states


def save_winner(study: Study) -> str:
    """Write the winner's network; returns its folder in the storage. Written again, it is the same to the byte.

    Raises:
        UsageError: no trial was finished, or a stage's state is no longer in the cache.
    """
    from safetensors.torch import save

    task, trial = study.plan.task, winner(study)
    if trial is None:
        raise UsageError(f"study {task.study}: no trial was finished, so there is no model; go on with --resume")
    method, info = study.method, study.info
    configs, states = stored_states(study, trial)
    asked = _Asked(states)
    _networks(method, configs, asked, info)
    weights = save(
        {
            f"{stage}/{name}": tensor.contiguous().clone()
            for stage in sorted(asked.names)
            for name, tensor in states[stage].tensors.items()
        }
    )
    outcome = study.outcome(trial.job.number)
    card = Card(
        method=task.method,
        paper=method.paper,
        recipe=task.recipe,
        config=flatten(configs),
        info=info,
        stages={name: Part(dict(states[name].spec), dict(states[name].metrics)) for name in sorted(asked.names)},
        study=task.study,
        trial=trial.job.number,
        seed=trial.job.seed,
        val=outcome.val,
        test=outcome.test,
        weights=hashlib.sha256(weights).hexdigest(),
    )
    folder = f"{study.folder}/model"
    study.storage.write_bytes(f"{folder}/model.safetensors", weights)
    study.storage.write_bytes(f"{folder}/model.json", packed(dataclasses.asdict(card)))
    return folder


def winners_model(study: Study) -> Deployed:
    """The network of a study's winner, written first where the kept one is missing, is another trial's since the search
    went on, or was cut short.

    Raises:
        UsageError: as `save_winner`, or it is of a later version.
    """
    folder, trial = f"{study.folder}/model", winner(study)
    try:
        kept = load_model(study.storage, folder)
    except UsageError:
        pass  # what stands in the way of writing it again is said below
    else:
        if trial is None or (kept.card.trial, kept.card.seed) == (trial.job.number, trial.job.seed):
            return kept
    return load_model(study.storage, save_winner(study))


def _networks(method: Method, configs: Configs, states: Mapping[str, State], info: Info) -> dict[str, nn.Module]:
    """Each task -> its network; images have one task, without a name of its own."""
    first = info.tasks[0][0] if info.tasks else "class"
    return {first: method.model(configs, states, info), **method.others(configs, states, info)}


def load_model(storage: Storage, folder: str = "") -> Deployed:
    """The network of a folder that `save_winner` wrote.

    Raises:
        UsageError: it is not such a folder, is damaged, or is of a later version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    where = storage.path(folder)
    try:
        content = read_bytes(storage, f"{folder}/model.json" if folder else "model.json")
        weights = read_bytes(storage, f"{folder}/model.safetensors" if folder else "model.safetensors")
    except FileNotFoundError as error:
        missing = "model.json" if "model.json" in str(error) else "model.safetensors"
        raise UsageError(f"{where}: there is no {missing}; give a model's folder or a study") from None
    try:
        version, fields = unpacked(f"{where}/model.json", content)
        if version == 1 and isinstance(info := fields.get("info"), dict):
            info.pop("notes", None)  # of version 0.1; what it said of the data nobody needs to use the network
        card = decoded(Card, fields)
    except Malformed as error:
        raise damaged(f"{where}/model.json", error) from None
    if hashlib.sha256(weights).hexdigest() != card.weights:
        raise UsageError(f"{where}/model.safetensors is not what model.json names; restore both from a copy")
    method = get(card.method)
    try:
        every = tensors_of(weights)
    except SafetensorError as error:
        raise damaged(f"{where}/model.safetensors", error) from None
    states = {
        stage: State(
            {name.removeprefix(f"{stage}/"): tensor for name, tensor in every.items() if name.startswith(f"{stage}/")},
            part.spec,
            part.metrics,
        )
        for stage, part in card.stages.items()
    }
    if not all(tensor.isfinite().all() for tensor in every.values() if tensor.is_floating_point()):
        raise UsageError(f"{where}/model.safetensors holds numbers that are not finite; its answers would mean nothing")
    try:
        nets = _networks(method, method.configure(card.recipe, card.config), states, card.info)
    except UsageError:
        raise
    except Exception as error:  # a method's own code met a card or tensors that no training of it wrote
        raise damaged(where, f"no network of {card.method} can be made of it: {error}") from None
    return Deployed({name: net.eval() for name, net in nets.items()}, card.info, card)
