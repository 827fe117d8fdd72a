"""One contract that every method meets. A method joins by its line in `TINY_SETTINGS`."""

from __future__ import annotations

import dataclasses
import importlib
import io
import itertools
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import Run, run_stages
from bo_distill.distributed.ray.cluster import Layout, connected
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker, Runtime, best_runtime
from bo_distill.methods import METHODS, get
from bo_distill.methods.cost import count, example
from bo_distill.methods.data import DataSpec, load_test
from bo_distill.methods.errors import TestSplitLocked
from bo_distill.methods.method import Stage, State, Trained, flatten
from bo_distill.methods.space import Choice
from bo_distill.methods.training import Training
from bo_distill.search.execution.tune import run_study
from bo_distill.search.rows.row import from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.searchers.grid import axis
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Plan, Task, Trial
from helpers.ranks import on_ranks
from helpers.tiny import TINY, TINY_SETTINGS

pytestmark = pytest.mark.parametrize("name", list(METHODS))


def worker_for(name: str, **options: Any) -> LocalWorker:
    return LocalWorker(TINY[get(name).kind](), seed=1, runtime=best_runtime(), **options)


def run(name: str, storage: Storage, worker: LocalWorker | None = None, on_epoch: Any = None, **changed: Any) -> Run:
    method = get(name)
    trained = [stage.name for stage in method.stages if issubclass(stage.config, Training)]
    changes = {f"{stage}.{field}": value for field, value in changed.items() for stage in trained}
    configs = method.configure("quick", {**TINY_SETTINGS[name], **changes})
    return run_stages(
        worker or worker_for(name), method, configs, StageCache(storage), shared_seed=0, on_epoch=on_epoch
    )


def assert_same(a: Run, b: Run, tolerance: float = 0.0) -> None:
    assert a.states.keys() == b.states.keys()
    for stage in a.states:
        left, right = a.states[stage], b.states[stage]
        assert left.tensors.keys() == right.tensors.keys()
        for tensor in left.tensors:
            x, y = left.tensors[tensor].double(), right.tensors[tensor].double()
            torch.testing.assert_close(
                x, y, rtol=tolerance, atol=tolerance, msg=lambda m, t=f"{stage} {tensor}": f"{t}: {m}"
            )
        assert left.spec == right.spec
        for metric, value in left.metrics.items():
            assert right.metrics[metric] == pytest.approx(value, rel=max(tolerance, 1e-12), abs=tolerance, nan_ok=True)


_finished: dict[str, Run] = {}


@pytest.fixture
def finished(name: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished tiny run of each method, made once; tests only read it."""
    if name not in _finished:
        _finished[name] = run(name, Storage(tmp_path_factory.mktemp(name)))
    return _finished[name]


def test_corners_and_centre_of_the_space_build(name: str) -> None:
    method, info = get(name), TINY[get(name).kind]().info
    searched = {name: field.domain for name, field in method.fields().items() if field.searched}
    assert searched, "a method names the fields that a search moves"
    ends = [axis(d, 2) if not isinstance(d, Choice) else list(d.options) for d in searched.values()]
    middles = [axis(d, 1)[:1] for d in searched.values()]
    for values in (*itertools.product(*ends), *itertools.product(*middles)):
        configs = method.configure("quick", dict(zip(searched, values, strict=True)))
        assert method.costs(configs, info)["model"]
        assert all(stage.macs(configs, info) >= 0 for stage in method.stages)


def test_every_recipe_and_control_is_a_valid_configuration(name: str) -> None:
    method = get(name)
    assert {"quick", "paper"} <= set(method.recipes)
    for recipe in method.recipes:
        settings = flatten(method.configure(recipe))
        for control, change in method.controls.items():
            changed = change(settings)
            assert changed, control
            method.configure(recipe, changed)


@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_a_control_spends_the_same_share_of_its_epochs_at_each_rate(name: str, recipe: str) -> None:
    """Also with a step schedule and a warm-up, whatever the recipe has."""
    method = get(name)
    stepped = {
        f"{stage.name}.{field}": value
        for stage in method.stages
        if issubclass(stage.config, Training)
        for field, value in {
            "schedule": "step",
            "milestones": (1.0, 2.0),
            "factors": (0.1, 0.01),
            "warmup": 0.5,
        }.items()
    }
    for settings in ({}, stepped):
        configs = method.configure(recipe, settings)
        for control, change in method.controls.items():
            changed = method.configure(recipe, {**settings, **change(flatten(configs))})
            for stage, own in configs.items():
                other = changed[stage]
                if getattr(other, "start", "") == "scratch":  # a second network is trained as the first one is
                    own = configs[method.stages[0].name]
                if not isinstance(own, Training) or not own.epochs * other.epochs:
                    continue
                for share in ((n + 0.37) / 100 for n in range(100)):  # beside the milestones: they round
                    rates = [c.learning_rate(share * c.epochs) / c.lr for c in (own, other)]
                    assert rates[0] == pytest.approx(rates[1], abs=1e-6), (control, stage, share)


def test_a_method_says_whether_its_epochs_tell_a_trial_s_accuracy(name: str, finished: Run) -> None:
    """Of the last stage of a trial's own that trains, by which --asha and --curves compare trials."""
    own = [stage for stage in get(name).stages if not stage.shared and finished.states[stage.name].history]
    history = finished.states[own[-1].name].history
    assert own[-1].judged == all("val_accuracy" in row for row in history)


def test_a_control_tunes_what_it_has_and_nothing_that_it_fixes(name: str) -> None:
    method = get(name)
    complete = flatten(method.configure("quick"))
    for control, change in method.controls.items():
        fixed = change(complete)
        assert set(change.tunes) <= set(method.fields()) - set(fixed), control
        for field in change.tunes:
            stage = field.partition(".")[0]
            assert fixed.get(f"{stage}.epochs", 1) or stage not in complete, f"{control}: {stage} does not train"


def test_what_is_said_to_change_nothing_changes_nothing(name: str, tmp_path: Path) -> None:
    """All idle fields at once, each with the first setting that makes it so."""
    method, states = get(name), []
    idle = {name: field for name, field in method.fields().items() if field.idle}
    settings = dict(TINY_SETTINGS[name])
    for field, known in idle.items():
        other = next(iter(known.idle))
        settings[f"{field.partition('.')[0]}.{other}"] = known.idle[other][0]
    for unit in (0.3, 0.9):
        changed = {field: known.domain.from_unit(unit) for field, known in idle.items() if field not in settings}
        assert len(changed) > 2
        configs = method.configure("quick", {**settings, **changed})
        assert all(method.idle(field, configs) for field in changed)
        folder = StageCache(Storage(tmp_path / str(unit)))
        states.append(run_stages(worker_for(name), method, configs, folder, shared_seed=0).states)
    for stage, state in states[0].items():
        for tensor, value in state.tensors.items():
            assert torch.equal(value, states[1][stage].tensors[tensor]), (stage, tensor)
        assert state.metrics == pytest.approx(states[1][stage].metrics, abs=0, nan_ok=True), stage


def test_tiny_data_trains(name: str, finished: Run) -> None:
    last = finished.states[get(name).stages[-1].name]
    assert 0.0 <= last.metrics["val_accuracy"] <= 1.0
    losses = [row["loss"] for state in finished.states.values() for row in state.history if "loss" in row]
    assert losses and all(map(math.isfinite, losses))


def test_the_same_seed_gives_the_same_state(name: str, finished: Run, tmp_path: Path) -> None:
    assert_same(run(name, Storage(tmp_path)), finished)


def test_a_cache_hit_equals_a_recomputation(name: str, finished: Run, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = run(name, storage)
    again = run(name, storage)
    assert first.cached == [] and again.cached == [stage.name for stage in get(name).stages]
    assert again.epochs == first.epochs
    assert_same(again, first)


class Double(LocalWorker):
    """Trains in float64: what is left of a difference between one rank and two is then no rounding."""

    def place(self, net: Any) -> Any:
        return super().place(net).double()

    def _ready(self, x: torch.Tensor) -> torch.Tensor:
        x = super()._ready(x)
        return x.double() if x.is_floating_point() else x


# Of two ranks one holds more rows: of three groups of 10 or 11 for batch norm, or of a batch of an odd number.
UNEQUAL: dict[str, dict[str, Any]] = {
    "group": {"norm": "group", "group": 10},
    "global": {"norm": "global", "batch_size": 31},
}


def _rank(rank: int, name: str, norm: str, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker = Double(TINY[get(name).kind](), seed=1, rank=rank, world_size=2)
    result = run(name, Storage(f"{folder}/two"), worker, **UNEQUAL[norm])
    torch.save({s: dict(state.tensors) for s, state in result.states.items()}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("norm", list(UNEQUAL))
def test_two_ranks_equal_one(name: str, norm: str, tmp_path: Path) -> None:
    on_ranks(_rank, name, norm, str(tmp_path))
    two = run(name, Storage(tmp_path / "two"), Double(TINY[get(name).kind](), seed=1), **UNEQUAL[norm])
    assert len(two.cached) == len(get(name).stages), "rank 0 keeps what the two ranks computed"
    one = run(name, Storage(tmp_path / "one"), Double(TINY[get(name).kind](), seed=1), **UNEQUAL[norm])
    assert_same(two, one, tolerance=1e-5)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for stage, tensors in ranks[0].items():
        for tensor, value in tensors.items():
            torch.testing.assert_close(value, ranks[1][stage][tensor], rtol=1e-5, atol=1e-5)


def test_a_killed_trial_goes_on_from_its_last_checkpoint(
    name: str, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorker, "checkpoint_seconds", 0.0)
    batches = []
    real = LocalWorker.batch
    monkeypatch.setattr(LocalWorker, "batch", lambda self, *a, **k: (batches.append(1), real(self, *a, **k))[1])
    trained = [s for s in finished.states if finished.states[s].history]
    storage, stage = Storage(tmp_path), trained[-1]
    seen = []

    def die(row: Any) -> bool:
        seen.append(row)
        if row["stage"] == stage and sum(r["stage"] == stage for r in seen) == 2:
            raise ConnectionAbortedError("killed")
        return False

    with pytest.raises(ConnectionAbortedError):
        run(name, storage, on_epoch=die)
    before, rows = len(batches), []
    again = run(name, storage, on_epoch=lambda row: bool(rows.append(row)))
    assert again.cached == [s.name for s in get(name).stages[: [s.name for s in get(name).stages].index(stage)]]
    assert len(batches) - before < before, "the first epoch is not trained again"
    assert_same(again, finished)
    assert not [file for file in storage.list("stages") if ".progress/" in file], "finished stages keep no checkpoint"


def test_a_scheduler_hears_of_the_network_that_is_judged_and_of_no_other(name: str, tmp_path: Path) -> None:
    settings = TINY_SETTINGS[name] | ({"backbone.tasks": "separate"} if name == "res_ic" else {})
    heard: list[Any] = []
    run_stages(
        worker_for(name), get(name), get(name).configure("quick", settings), StageCache(Storage(tmp_path)),
        shared_seed=0, on_epoch=lambda row: bool(heard.append(row)),
    )  # fmt: skip
    judged = [row for row in heard if "val_accuracy" in row]
    assert judged and not {row["stage"] for row in judged} & {stage.name for stage in get(name).stages if stage.shared}
    epochs = [row["epoch"] for row in judged]
    assert epochs == sorted(set(epochs)), "one network, epoch by epoch"


def test_no_corner_of_the_search_space_diverges(name: str, storage: Storage) -> None:
    """Ends of the searched ranges, two epochs each, in float32 and bf16 (benchmarks.corners draws hundreds)."""
    method = get(name)
    searched = {name: field.domain for name, field in method.fields().items() if field.searched}
    ends = [list(d.options) if isinstance(d, Choice) else axis(d, 2) for d in searched.values()]
    corners = list(itertools.product(*ends))
    for number, corner in enumerate(corners[:: -(-len(corners) // 8)]):
        settings = {**TINY_SETTINGS[name], **dict(zip(searched, corner, strict=True))}
        runtime = Runtime("cpu", ("float32", "bfloat16")[number % 2])
        worker = LocalWorker(TINY[method.kind](), seed=1, runtime=runtime)
        result = run_stages(worker, method, method.configure("quick", settings), StageCache(storage), shared_seed=0)
        for stage, state in result.states.items():
            for tensor, value in state.tensors.items():
                assert not value.is_floating_point() or value.isfinite().all(), (settings, stage, tensor)


def test_cost_equals_an_independent_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, info = get(name), TINY[get(name).kind]().info
    configs = method.configure("quick", TINY_SETTINGS[name])
    for net in method.costs(configs, info).values():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net.eval()(example(info))
        cost = count(net, info)
        assert cost.macs == counter.get_total_flops() / 2
        assert cost.params == sum(p.numel() for p in net.parameters())
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "fvcore.nn", None)
            assert dataclasses.replace(count(net, info), uncounted=cost.uncounted) == cost


def test_the_deployed_model_gives_logits(name: str, finished: Run) -> None:
    method, worker = get(name), worker_for(name)
    configs = method.configure("quick", TINY_SETTINGS[name])
    net = worker.place(method.model(configs, finished.states, worker.data.info))
    val = worker.data.val
    logits = worker.predict(net, val.x)
    labels = val.y if val.y.dim() == 1 else val.y[:, 0]
    assert logits.shape == (len(val), len(worker.data.info.classes)) and logits.isfinite().all()
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(finished.states[method.stages[-1].name].metrics["val_accuracy"], abs=0.051)


def test_metrics_tables_and_figures_render(name: str, finished: Run, tmp_path: Path) -> None:
    method, worker = get(name), worker_for(name)
    trained = Trained(worker, method.configure("quick", TINY_SETTINGS[name]), finished.states, worker.data.val)
    assert all(isinstance(value, float) for value in method.metrics(trained).values())
    evidence = importlib.import_module(method.figures)
    tables, figures = evidence.tables(trained), evidence.figures(trained)
    assert tables and figures
    for table in tables.values():
        assert table.caption and all(len(row) == len(table.columns) for row in table.rows)
    for title, figure in figures.items():
        figure.savefig(tmp_path / f"{title}.png")
        assert (tmp_path / f"{title}.png").stat().st_size > 2000


def test_a_stage_that_reads_test_fails(name: str, storage: Storage) -> None:
    def peeks(worker: Any, config: Any, needs: Any) -> State:
        load_test(DataSpec("digits"))
        return State({})

    method = get(name)
    last = method.stages[-1]
    spying = dataclasses.replace(method, stages=(Stage(last.name, last.config, peeks),))
    with pytest.raises(TestSplitLocked):
        run_stages(worker_for(name), spying, method.configure("quick"), StageCache(storage), shared_seed=0)
    assert not storage.list("stages")
    assert not hasattr(worker_for(name).data, "test")


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    with connected(None, sys.stderr):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_two_workers_of_ray_train_end_with_the_same_kind_of_row(name: str, tmp_path: Path) -> None:
    spec = DataSpec("digits", train_size=96)
    if get(name).kind == "text":
        lines = [f"{'abcd'[i % 4]} sentence, number {i * i}\t{'wxyz'[i % 4]}" for i in range(160)]
        (tmp_path / "few.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
        spec = DataSpec(f"text:{tmp_path / 'few.tsv'}", train_size=96)
    storage = Storage(tmp_path / "results")
    task = Task("s", name, "quick", spec, TINY_SETTINGS[name], storage.uri, seed=0, workers=2)
    study = Study(storage, Plan(task, "none", (), 0, controls=False))
    study.trials.append(Trial(Job(0, "control", TINY_SETTINGS[name], 1, "alone"), time.time()))
    study.save_plan()
    run_study(study, Layout(workers=2, cpus=1, gpus=0, concurrency=1), io.StringIO())
    (row,) = from_table(read(storage))
    assert (row.status, row.workers, len(row.nodes)) == ("done", 2, 2), row.reason
    assert row.epochs > 0 and row.macs_train and row.val_accuracy is not None and row.test_accuracy is not None
