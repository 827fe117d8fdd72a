"""The winner's network in two files: `model.json`, what it is, and `model.safetensors`, its weights.

    studies/NAME/model/model.json         method, configuration, data (classes, shape, vocabulary), where it comes from
    studies/NAME/model/model.safetensors  "STAGE/tensor" of every stage that the network is built from

Nothing is unpickled, and neither the data nor the search is needed to use it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from distributed.cache import StageCache, decode
from distributed.storage import Storage
from methods import get
from methods.data import Info
from methods.errors import UsageError
from methods.method import Configs, State, flatten
from search.study.ledger import Study
from search.study.records import Trial

FORMAT = 1


@dataclass(frozen=True)
class Deployed:
    """A network that is ready to answer.

    Attributes:
        net: x as a `methods.training.Batch` holds it -> (b, classes) logits; in eval mode, on the CPU.
        info: of the data that it was trained on.
        card: the content of model.json.
    """

    net: nn.Module
    info: Info
    card: Mapping[str, Any]


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


def trained(study: Study, trial: Trial) -> tuple[Configs, dict[str, State]]:
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
    configs, states = trained(study, trial)
    asked = _Asked(states)
    method.model(configs, asked, info)
    weights = save(
        {
            f"{stage}/{name}": tensor.contiguous().clone()
            for stage in sorted(asked.names)
            for name, tensor in states[stage].tensors.items()
        }
    )
    outcome = study.outcome(trial.job.number)
    card = {
        "format": FORMAT,
        "method": task.method,
        "paper": method.paper,
        "recipe": task.recipe,
        "config": flatten(configs),
        "info": dataclasses.asdict(info),
        "stages": {
            name: {"spec": dict(states[name].spec), "metrics": dict(states[name].metrics)}
            for name in sorted(asked.names)
        },
        "study": task.study,
        "trial": trial.job.number,
        "seed": trial.job.seed,
        "val": outcome.val,
        "test": outcome.test,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    folder = f"{study.folder}/model"
    study.storage.write_bytes(f"{folder}/model.safetensors", weights)
    study.storage.write_bytes(f"{folder}/model.json", json.dumps(card, indent=1).encode())
    return folder


def load_model(storage: Storage, folder: str = "") -> Deployed:
    """The network of a folder that `save_winner` wrote.

    Raises:
        UsageError: it is not such a folder, is damaged, or is of a later version.
    """
    from safetensors.torch import load as tensors_of

    where = storage.path(folder)
    try:
        card = json.loads(storage.read_bytes(f"{folder}/model.json" if folder else "model.json"))
        weights = storage.read_bytes(f"{folder}/model.safetensors" if folder else "model.safetensors")
    except FileNotFoundError as error:
        missing = "model.json" if "model.json" in str(error) else "model.safetensors"
        raise UsageError(f"{where}: there is no {missing}; give a model's folder or a study") from None
    except ValueError as error:
        raise UsageError(f"{where}/model.json cannot be read ({error}); restore it from a copy") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UsageError(f"{where}/model.json is not of format {FORMAT}; use the version that wrote it")
    if hashlib.sha256(weights).hexdigest() != card["weights"]:
        raise UsageError(f"{where}/model.safetensors is not what model.json names; restore both from a copy")
    method = get(card["method"])
    info = Info(**{name: _tuples(value) for name, value in card["info"].items()})
    every = tensors_of(weights)
    states = {
        stage: State({n.removeprefix(f"{stage}/"): t for n, t in every.items() if n.startswith(f"{stage}/")}, **words)
        for stage, words in card["stages"].items()
    }
    net = method.model(method.configure(card["recipe"], card["config"]), states, info)
    return Deployed(net.eval(), info, card)


def _tuples(value: Any) -> Any:
    """JSON has lists where `Info` has tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
