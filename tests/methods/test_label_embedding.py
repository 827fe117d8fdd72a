"""The cluster ensemble: equations against slow loops, identities, degenerate cases, and that a new e never trains."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import Run, run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Data, Info, Split
from bo_distill.methods.errors import UsageError
from bo_distill.methods.label_embedding import figures as drawing
from bo_distill.methods.label_embedding import paper
from bo_distill.methods.label_embedding.method import METHOD, answers, base_longer, model, networks, two_networks
from bo_distill.methods.label_embedding.nets import sub_classifier
from bo_distill.methods.label_embedding.stages import Answers
from bo_distill.methods.method import Trained, flatten
from bo_distill.methods.metrics import accuracy, temperature
from bo_distill.methods.nets.wrn import WideResNet

CLASSES = 12


def made_up(seed: int = 0, rows: int = 240, missing: int | None = None) -> Data:
    """Twelve classes in four families: a class is its family's picture with a small mark of its own."""
    generator = torch.Generator().manual_seed(7)
    families = torch.rand(4, 3, 8, 8, generator=generator)
    marks = torch.rand(CLASSES, 3, 8, 8, generator=generator)
    pictures = 0.6 * families.repeat_interleave(3, 0) + 0.25 * marks

    def split(seed: int, rows: int, without: int | None = None) -> Split:
        y = torch.arange(rows) % CLASSES
        y = y[y != without] if without is not None else y
        noise = torch.rand(len(y), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        return Split(((0.7 * pictures[y] + 0.3 * noise) * 255).to(torch.uint8), y)

    train, val = split(seed + 1, rows), split(seed + 2, rows // 2, missing)
    names = tuple(f"class {k}" for k in range(CLASSES))
    mean = tuple((train.x.float() / 255).mean((0, 2, 3)).tolist())
    std = tuple((train.x.float() / 255).std((0, 2, 3)).tolist())
    info = Info(
        "made up", "image", names, (3, 8, 8), f"made-up-{seed}-{rows}-{missing}", len(train), len(val), 0, mean, std
    )
    return Data(info, train, val)


SMALL = {
    "base.depth": 10,
    "base.width": 1,
    "base.epochs": 2,
    "base.batch_size": 32,
    "base.augment": "none",
    "experts.epochs": 1,
    "experts.batch_size": 32,
    "experts.augment": "none",
    "cluster.count": 4,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> StageCache:
    return StageCache(Storage(tmp_path_factory.mktemp("stages")))


def trained(cache: StageCache, data: Data | None = None, **changes: object) -> tuple[Trained, Run]:
    """A run of all stages; keyword `cluster_count=3` sets "cluster.count"."""
    data = data or made_up()
    configs = METHOD.configure("quick", SMALL | {name.replace("_", ".", 1): value for name, value in changes.items()})
    worker = LocalWorker(data)
    run = run_stages(worker, METHOD, configs, cache, shared_seed=0)
    return Trained(worker, configs, run.states, data.val), run


def problem(seed: int, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Base logits, expert logits (rows, C) and an assignment in which every cluster has a class."""
    generator = torch.Generator().manual_seed(seed)
    clusters = int(torch.randint(1, 6, (), generator=generator))
    classes = clusters + int(torch.randint(1, 6, (), generator=generator))
    assignment = torch.cat(
        [torch.arange(clusters), torch.randint(clusters, (classes - clusters,), generator=generator)]
    )
    base, experts = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64).mul(3).unbind()
    return base, experts, assignment[torch.randperm(classes, generator=generator)]


seeds = st.integers(0, 10_000)
shares = st.floats(0, 1)
rules = st.sampled_from(["hard", "soft", "top", "average"])


# The network


@pytest.mark.parametrize(
    ("depth", "width", "classes", "parameters"),
    [(28, 10, 10, 36_479_194), (28, 10, 100, 36_536_884), (16, 2, 100, 703_284), (40, 2, 100, 2_255_156)],
)
def test_published_parameter_counts(depth: int, width: int, classes: int, parameters: int) -> None:
    net = WideResNet(depth, width, classes, (0.5,) * 3, (0.2,) * 3)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_wide_network_costs_what_is_published() -> None:
    info = dataclasses.replace(made_up().info, shape=(3, 32, 32), classes=tuple(map(str, range(100))))
    assert count(WideResNet(16, 2, 100, info.mean, info.std), info).macs == pytest.approx(101.3e6, rel=0.01)


def test_depth_must_be_6n_plus_4() -> None:
    with pytest.raises(UsageError, match="depth=17"):
        WideResNet(17, 1, 10, (0.5,), (0.2,))


def test_dropout_draws_in_training_only() -> None:
    net = WideResNet(10, 1, 5, (0.5,) * 3, (0.2,) * 3, dropout=0.3)
    x = torch.rand(4, 3, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x)) and net.features(x).shape == (4, 64)


# The equations


@settings(deadline=None)
@given(seeds)
def test_cluster_probability_and_conditional_are_sums_over_classes(seed: int) -> None:
    base, _, assignment = problem(seed)
    mass = paper.log_cluster_probability(base, assignment).exp()
    inner = paper.log_conditional(base, assignment).exp()
    p = base.softmax(1)
    for i in range(len(base)):
        for j, classes in enumerate(paper.members(assignment)):
            total = sum(float(p[i, k]) for k in classes.tolist())
            assert float(mass[i, j]) == pytest.approx(total)
            for k in classes.tolist():
                assert float(inner[i, k]) == pytest.approx(float(p[i, k]) / total)


@settings(deadline=None)
@given(seeds)
def test_entropy_is_the_sum_and_bounded_by_log_c(seed: int) -> None:
    base, _, _ = problem(seed)
    p = base.softmax(1)
    slow = torch.tensor([-sum(float(q) * math.log(float(q)) for q in row) for row in p], dtype=torch.float64)
    assert torch.allclose(paper.entropy(base), slow)
    assert (paper.entropy(base) <= math.log(base.shape[1]) + 1e-12).all()
    certain = torch.nn.functional.one_hot(base.argmax(1), base.shape[1]).double() * 1e6
    assert paper.entropy(certain).abs().max() == 0  # no NaN from 0 log 0


@settings(deadline=None)
@given(seeds, shares)
def test_hard_routing_follows_the_paper_step_by_step(seed: int, threshold: float) -> None:
    base, experts, assignment = problem(seed)
    asked = paper.dispatch(base, assignment, threshold, "hard")
    answer = paper.combine(base, experts, assignment, asked, "hard").argmax(1)
    for i, (f, sub) in enumerate(zip(base, experts, strict=True)):
        p = f.softmax(0)
        uncertainty = -float((p * p.log()).sum())
        if uncertainty < threshold * math.log(len(f)):
            assert not asked[i].any()
            assert int(answer[i]) == int(f.argmax())
        else:
            groups = paper.members(assignment)
            j = max(range(len(groups)), key=lambda t: float(p[groups[t]].sum()))
            assert asked[i].nonzero().flatten().tolist() == [j]
            assert int(answer[i]) == max(groups[j].tolist(), key=lambda k: float(sub[k]))


@settings(deadline=None)
@given(seeds, shares, rules, st.integers(1, 6))
def test_every_rule_gives_a_distribution(seed: int, threshold: float, rule: str, top: int) -> None:
    base, experts, assignment = problem(seed)
    asked = paper.dispatch(base, assignment, threshold, rule, top)
    log_p = paper.combine(base, experts, assignment, asked, rule)
    assert torch.isfinite(log_p).all()
    assert torch.allclose(log_p.exp().sum(1), torch.ones(len(base), dtype=torch.float64))


@settings(deadline=None)
@given(seeds, shares, st.sampled_from(["soft", "top", "average"]), st.integers(1, 6))
def test_experts_equal_to_the_base_give_the_base(seed: int, threshold: float, rule: str, top: int) -> None:
    """The mixture's identity; experts may differ by a constant per cluster, which no softmax sees."""
    base, _, assignment = problem(seed)
    experts = base + torch.randn(int(assignment.max()) + 1, dtype=torch.float64)[assignment]
    asked = paper.dispatch(base, assignment, threshold, rule, top)
    assert torch.allclose(paper.combine(base, experts, assignment, asked, rule), base.log_softmax(1))


@settings(deadline=None)
@given(seeds)
def test_soft_is_top_of_all_and_the_formula(seed: int) -> None:
    base, experts, assignment = problem(seed)
    clusters = int(assignment.max()) + 1
    soft = paper.combine(base, experts, assignment, paper.dispatch(base, assignment, 0, "soft"), "soft")
    top = paper.combine(base, experts, assignment, paper.dispatch(base, assignment, 0, "top", clusters), "top")
    assert torch.equal(soft, top)
    for classes in paper.members(assignment):
        expected = base.softmax(1)[:, classes].sum(1, keepdim=True) * experts[:, classes].softmax(1)
        assert torch.allclose(soft[:, classes].exp(), expected)


@settings(deadline=None)
@given(seeds, shares)
def test_average_is_the_mean_of_the_base_and_the_mixture(seed: int, threshold: float) -> None:
    base, experts, assignment = problem(seed)
    asked = paper.dispatch(base, assignment, threshold, "average")
    assert torch.equal(asked, paper.dispatch(base, assignment, threshold, "soft"))
    soft = paper.combine(base, experts, assignment, asked, "soft").exp()
    average = paper.combine(base, experts, assignment, asked, "average").exp()
    assert torch.allclose(average, (base.softmax(1) + soft) / 2)


@settings(deadline=None)
@given(seeds, rules)
def test_threshold_0_asks_about_all_and_1_about_none(seed: int, rule: str) -> None:
    base, experts, assignment = problem(seed)
    assert paper.dispatch(base, assignment, 0.0, rule).any(1).all()
    asked = paper.dispatch(base, assignment, 1.0, rule)
    assert not asked.any()
    assert torch.allclose(paper.combine(base, experts, assignment, asked, rule), base.log_softmax(1))


@settings(deadline=None)
@given(seeds)
def test_one_cluster_answers_with_its_expert_alone(seed: int) -> None:
    base, experts, _ = problem(seed)
    one = torch.zeros(base.shape[1], dtype=torch.int64)
    for rule in ("hard", "soft", "top"):
        asked = paper.dispatch(base, one, 0.0, rule)
        assert torch.allclose(paper.combine(base, experts, one, asked, rule), experts.log_softmax(1))


@settings(deadline=None)
@given(seeds, rules)
def test_clusters_of_one_class_are_the_base_and_cost_nothing(seed: int, rule: str) -> None:
    base, experts, _ = problem(seed)
    single = torch.arange(base.shape[1])
    asked = paper.dispatch(base, single, 0.0, rule)
    answer = paper.combine(base, experts, single, asked, rule)
    assert torch.equal(answer.argmax(1), base.argmax(1))
    assert paper.average_macs(asked, single, 5.0, 5.0) == 5.0


def test_average_macs_counts_experts_asked() -> None:
    assignment = torch.tensor([0, 0, 1, 1, 2])
    asked = torch.tensor([[True, False, True], [False, False, False], [True, True, False], [False, False, True]])
    assert paper.average_macs(asked, assignment, 10.0, 8.0) == 10 + 8 * 3 / 4  # cluster 2 has one class: no expert


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.2, 5.0))
def test_temperature_undoes_a_scale(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2000, 5, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    fitted = temperature(logits * scale, y)
    assert fitted / scale == pytest.approx(temperature(logits, y), rel=1e-3)
    assert fitted / scale == pytest.approx(1, abs=0.25)
    loss = [float(F.cross_entropy(logits * scale / t, y)) for t in (fitted, fitted * 1.1, fitted / 1.1)]
    assert loss[0] == min(loss)


def test_temperature_at_the_edges() -> None:
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [-torch.inf, 0.0, 3.0]])
    assert temperature(logits[:0], torch.zeros(0, dtype=torch.int64)) == 1.0
    assert temperature(logits, torch.tensor([0, 2])) == pytest.approx(0.05)  # all right: as sharp as allowed
    assert temperature(logits, torch.tensor([1, 1])) == pytest.approx(20.0)  # all wrong: as flat as allowed
    assert temperature(logits, torch.tensor([0, 1])) > 1


# Clusterings

METHODS = ("spectral", "agglomerative", "kmeans", "confusion")


def families(noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings and a confusion of twelve classes in four families, and the families."""
    generator = torch.Generator().manual_seed(3)
    family = torch.tensor([0, 1, 2, 3] * 3)
    embeddings = torch.eye(4, 8)[family] + noise * torch.randn(12, 8, generator=generator)
    confused = torch.where(family[:, None] == family, 0.3, 0.1 / 9)
    return embeddings * torch.rand(12, 1, generator=generator).add(0.5), confused, family


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["shifted", "clipped", "angular"])
def test_each_method_finds_the_families(method: str, kind: str) -> None:
    embeddings, confused, family = families()
    assert torch.equal(paper.cluster(embeddings, confused, 4, method, kind, 0), family)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", range(1, 13))
def test_every_count_from_one_to_all_classes(method: str, count: int) -> None:
    embeddings, confused, _ = families()
    assignment = paper.cluster(embeddings, confused, count, method, "shifted", 0)
    assert set(assignment.tolist()) == set(range(count))
    assert torch.equal(paper.relabel(assignment), assignment)


def test_more_clusters_than_classes_or_distinct_embeddings_are_refused() -> None:
    embeddings, confused, _ = families()
    with pytest.raises(UsageError, match=r"cluster\.count=13: the data have 12 classes"):
        paper.cluster(embeddings, confused, 13, "spectral", "shifted", 0)
    with pytest.raises(UsageError, match="only 4 of 12 label embeddings differ; give at most 4"):
        paper.cluster(families(noise=0.0)[0], confused, 5, "kmeans", "shifted", 0)


@pytest.mark.parametrize("method", METHODS)
def test_equal_embeddings_share_a_cluster(method: str) -> None:
    embeddings, confused, family = families(noise=0.0)
    assert torch.equal(paper.cluster(embeddings, confused, 4, method, "shifted", 0), family)


def test_affinities_are_weights() -> None:
    cosine = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    assert paper.affinity(cosine, "shifted").tolist() == [0.0, 0.5, 0.75, 1.0]
    assert paper.affinity(cosine, "clipped").tolist() == [0.0, 0.0, 0.5, 1.0]
    assert torch.allclose(paper.affinity(cosine, "angular"), torch.tensor([0.0, 0.5, 2 / 3, 1.0]))


def test_confusion_averages_each_class_and_a_missing_one_is_uniform() -> None:
    logits, y = torch.randn(50, 4), torch.arange(50) % 3
    confused = paper.confusion(logits, y)
    for k in range(3):
        assert torch.allclose(confused[k], logits.softmax(1)[y == k].mean(0))
    assert torch.allclose(confused[3], torch.full((4,), 0.25))


# The stages


def test_a_sub_classifier_starts_as_the_base_asked_about_its_classes(cache: StageCache) -> None:
    run, _ = trained(cache)
    classes = torch.tensor([1, 4, 7])
    net = run.worker.place(sub_classifier(run.states["base"], classes))
    base = run.states["base"].tensors["val_logits"]
    assert torch.allclose(run.worker.predict(net, run.split.x), base[:, classes], atol=1e-5)


@pytest.mark.parametrize("rule", ["soft", "top"])
def test_untrained_experts_change_nothing(cache: StageCache, rule: str) -> None:
    """The mixture's identity through all stages: experts that were not trained are the base."""
    run, _ = trained(cache, experts_epochs=0, route_rule=rule, route_threshold=0.0, route_calibrate=False)
    ensemble = run.worker.place(model(run.configs, run.states, run.worker.data.info))
    given = run.worker.predict(ensemble, run.split.x)
    expected = run.states["base"].tensors["val_logits"].log_softmax(1)
    assert torch.allclose(given, expected, atol=1e-4)
    assert run.states["route"].metrics["val_accuracy"] == run.states["base"].metrics["val_accuracy"]


@pytest.mark.parametrize("rule", ["hard", "soft", "top"])
def test_the_deployed_ensemble_runs_only_experts_that_are_asked(cache: StageCache, rule: str) -> None:
    run, _ = trained(cache, route_rule=rule, route_top=2, route_threshold=0.6)
    own = answers(run)  # the stored logits
    anew = answers(dataclasses.replace(run, split=Split(run.split.x.clone(), run.split.y)))
    torch.testing.assert_close(anew.base, own.base, rtol=1e-4, atol=1e-4)
    assert torch.allclose(anew.ensemble(0.0, "soft"), own.ensemble(0.0, "soft"), atol=1e-4)
    info = run.worker.data.info
    ensemble = run.worker.place(model(run.configs, run.states, info))
    assert torch.allclose(run.worker.predict(ensemble, run.split.x), own.ensemble(0.6, rule), atol=1e-4)
    seen: list[int] = []
    for expert in ensemble.get_submodule("experts").children():
        expert.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    run.worker.predict(ensemble, run.split.x)
    asked = own.asked(0.6, rule)
    assert sum(seen) == int((asked & (torch.bincount(own.assignment) > 1)).sum())
    assert METHOD.metrics(run)["macs_ratio"] == pytest.approx(1 + sum(seen) / len(run.split))
    assert METHOD.metrics(run)["base_accuracy"] == run.states["base"].metrics["val_accuracy"]
    assert run.states["route"].metrics["val_accuracy"] == METHOD.metrics(run)[f"{rule}_accuracy"]


@pytest.mark.parametrize("rule", ["hard", "soft", "top"])
def test_an_exported_ensemble_answers_as_the_routed_one(cache: StageCache, rule: str) -> None:
    run, _ = trained(cache, route_rule=rule, route_top=2)
    ensemble, own = model(run.configs, run.states, run.worker.data.info).eval(), answers(run)
    half = float((paper.entropy(own.base) / math.log(CLASSES)).median())
    ensemble.route = dataclasses.replace(ensemble.route, threshold=half)
    asked = own.asked(half, rule).any(1)
    assert 0.3 < asked.float().mean() < 0.7
    x = run.split.x.float() / 255
    rows = ({0: torch.export.Dim("rows", min=1)},)
    with torch.no_grad():
        graph = torch.export.export(ensemble, (x[:3],), dynamic_shapes=rows).module()
        for count in (1, 2, len(x)):
            assert torch.allclose(graph(x[:count]), ensemble(x[:count]), atol=1e-5)


def test_a_search_over_s_and_e_trains_each_s_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Thirty trials over five S: one base, five trainings of experts, thirty routes."""
    cache = StageCache(Storage(tmp_path_factory.mktemp("search")))
    computed: dict[str, int] = {}
    for s, e in itertools.product((1, 2, 3, 4, 12), (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)):
        _, run = trained(cache, cluster_count=s, route_threshold=e)
        for name in run.states:
            computed[name] = computed.get(name, 0) + (name not in run.cached)
    assert computed == {"base": 1, "cluster": 5, "experts": 5, "route": 30}


def test_one_cluster_is_the_base_trained_on(cache: StageCache) -> None:
    run, _ = trained(cache, cluster_count=1, route_threshold=0.0)
    assert [name for name in run.states["experts"].tensors if name.endswith("head.weight")] == ["0.head.weight"]
    own = answers(run)
    assert torch.equal(own.ensemble(0.0, "hard").argmax(1), own.experts.argmax(1))
    assert own.perfect(own.experts) == METHOD.metrics(run)["hard_accuracy"]  # knowing the only cluster helps nobody


def test_as_many_clusters_as_classes_need_no_expert(cache: StageCache) -> None:
    run, _ = trained(cache, cluster_count=CLASSES, route_threshold=0.0)
    assert list(run.states["experts"].tensors) == ["val_logits"]
    assert run.states["route"].metrics["val_accuracy"] == run.states["base"].metrics["val_accuracy"]
    assert METHOD.metrics(run)["macs_ratio"] == 1.0
    costs = {stage.name: stage.macs(run.configs, run.worker.data.info) for stage in METHOD.stages}
    assert costs["base"] > 0 and costs["experts"] == 0
    drawing.tables(run)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_missing_from_validation(cache: StageCache, method: str) -> None:
    run, _ = trained(cache, made_up(missing=5), cluster_method=method)
    assert 0 <= run.states["route"].metrics["val_accuracy"] <= 1


def test_a_cluster_without_validation_rows(cache: StageCache) -> None:
    data = made_up()
    few = Split(data.val.x[data.val.y < 2], data.val.y[data.val.y < 2])
    info = dataclasses.replace(data.info, fingerprint="two classes in validation")
    run, _ = trained(cache, Data(info, data.train, few))
    assert 0 <= run.states["route"].metrics["val_accuracy"] <= 1
    drawing.tables(run)


def test_shuffled_clusters_keep_their_sizes(cache: StageCache) -> None:
    found = trained(cache)[0].states["cluster"].tensors["assignment"]
    dealt = trained(cache, cluster_shuffle=True)[0].states["cluster"].tensors["assignment"]
    assert torch.equal(torch.bincount(found), torch.bincount(dealt)) and not torch.equal(found, dealt)


def test_beyond_the_classes_each_is_a_cluster_of_its_own(cache: StageCache) -> None:
    run, _ = trained(cache, cluster_count=30)
    assert run.states["cluster"].metrics["clusters"] == CLASSES
    drawing.tables(run)


def test_two_networks_are_a_plain_ensemble_that_costs_as_much_to_train(cache: StageCache) -> None:
    step = {"base.schedule": "step", "base.milestones": (1.0,), "base.factors": (0.1,)}
    whole = flatten(METHOD.configure("quick", SMALL | step))
    changes = two_networks(whole)
    configs = METHOD.configure("quick", whole | changes)
    first, second = configs["base"], configs["experts"]
    assert first.epochs + second.epochs == whole["base.epochs"] + whole["experts.epochs"] == 3
    assert [first.learning_rate(epoch) for epoch in (0, 0.99, 1.0)] == [0.1, 0.1, pytest.approx(0.01)]
    assert [second.learning_rate(epoch) for epoch in (0, 0.49, 0.5)] == [0.1, 0.1, pytest.approx(0.01)]
    run, _ = trained(cache, **{name.replace(".", "_", 1): value for name, value in changes.items()})
    own = answers(run)
    base, other = own.base, own.experts
    assert not torch.allclose(base, other, atol=0.1)
    net = run.worker.place(model(run.configs, run.states, run.worker.data.info))
    expected = ((base.softmax(1) + other.softmax(1)) / 2).log()
    assert torch.allclose(run.worker.predict(net, run.split.x), expected, atol=1e-4)
    assert METHOD.metrics(run)["macs_ratio"] == 2


def test_controls_say_what_they_change() -> None:
    winner = flatten(METHOD.configure("quick", {"cluster.count": 9, "route.threshold": 0.3}))
    for control in METHOD.controls.values():
        METHOD.configure("quick", winner | dict(control(winner)))
    scratch = winner | {"experts.start": "scratch"}
    assert (scratch | dict(base_longer(scratch)))["experts.start"] == "base", "the base goes on, not another network"


def test_the_papers_recipe() -> None:
    base, experts = (METHOD.configure("paper")[name] for name in ("base", "experts"))
    rates = [base.learning_rate(epoch) for epoch in (0, 59, 60, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008])
    assert (base.epochs, base.batch_size, base.weight_decay, base.nesterov) == (200, 128, 5e-4, True)
    assert (base.depth, base.width, base.augment, experts.epochs) == (28, 10, "crop_flip", 15)


def test_cost_of_a_rerouted_image(cache: StageCache) -> None:
    info = made_up().info
    for changes, nets in (
        ({"route.rule": "hard"}, 2),
        ({"route.rule": "soft"}, 5),
        ({"route.rule": "top", "route.top": 2}, 3),
        ({"route.threshold": 1.0}, 1),
        ({"cluster.count": 12}, 1),
    ):
        counted = {
            name: count(net, info).macs
            for name, net in networks(METHOD.configure("quick", SMALL | changes), info).items()
        }
        assert counted["model"] / counted["base"] == pytest.approx(nets, rel=0.01)


@settings(deadline=None)
@given(seeds, rules)
def test_the_curve_is_the_ensemble_at_each_threshold(seed: int, rule: str) -> None:
    base, experts, assignment = problem(seed, rows=20)
    own = Answers(base, experts, torch.randint(base.shape[1], (20,)), assignment, 2)
    thresholds = torch.tensor([0.0, 0.3, 0.6, 1.0])
    right, asked = own.curve(rule, thresholds)
    for e, a, n in zip(thresholds.tolist(), right.tolist(), asked.tolist(), strict=True):
        assert a == pytest.approx(float((own.ensemble(e, rule).argmax(1) == own.y).double().mean()))
        assert 1 + n == pytest.approx(paper.average_macs(own.asked(e, rule), assignment, 1.0, 1.0))


@settings(deadline=None)
@given(seeds, rules)
def test_no_threshold_is_better_than_the_best(seed: int, rule: str) -> None:
    base, experts, assignment = problem(seed, rows=20)
    own = Answers(base, experts, torch.randint(base.shape[1], (20,)), assignment, 2)
    thresholds = torch.linspace(0, 1, 101)
    right, _ = own.curve(rule, thresholds)
    found = thresholds.tolist().index(own.best_threshold(rule))
    assert right[found] == right.max()
    assert bool((right[found + 1 :] < right[found]).all()), "of equals the largest"


def test_a_tuned_threshold_is_deployed(cache: StageCache) -> None:
    run, _ = trained(cache, route_tuned=True)
    chosen = run.states["route"].spec["threshold"]
    assert chosen == answers(run).best_threshold(run.configs["route"].rule)
    net = run.worker.place(model(run.configs, run.states, run.worker.data.info))
    assert net.route.threshold == chosen
    right = accuracy(run.worker.predict(net, run.split.x), run.split.y)
    assert right == pytest.approx(METHOD.metrics(run)[f"{net.route.rule}_accuracy"])


def test_tables_and_figures(cache: StageCache) -> None:
    run, _ = trained(cache)
    tables, figures = drawing.tables(run), drawing.figures(run)
    for table in tables.values():
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
    inside = {row[0]: row for row in tables["inside"].rows}
    assert inside["all"][2] == len(run.split)
    assert sum(row[1] for row in tables["clusters"].rows) == CLASSES
    for name in ("fig1_cluster_sizes", "fig2_3_4_example", "similarity", "accuracy_by_threshold", "accuracy_by_macs"):
        figures[name].canvas.draw()


# Of each cluster, in percent: top-1 of the base and of the sub-classifier, then top-3 of both.
PAPER_TABLES = {
    3: (
        (56.86, 62.77, 83.05, 92.78),
        (86.91, 90.12, 96.26, 99.48),
        (75.28, 88.95, 85.31, 96.23),
        (77.67, 88.15, 91.53, 97.88),
        (74.29, 80.60, 93.25, 97.67),
        (75.48, 79.27, 88.15, 92.86),
        (85.58, 89.64, 94.64, 98.49),
        (72.41, 87.21, 82.31, 95.37),
        (81.75, 89.13, 90.41, 96.09),
    ),
    4: (
        (68.00, 72.67, 87.17, 94.50),
        (78.67, 83.78, 95.56, 98.00),
        (75.32, 79.95, 87.22, 91.68),
        (84.36, 89.36, 94.63, 98.18),
        (79.21, 85.43, 90.07, 94.71),
        (83.27, 88.82, 93.63, 98.18),
        (76.67, 85.40, 89.53, 95.67),
        (74.75, 86.83, 87.58, 96.50),
    ),
    5: ((77.43, 80.13, 90.41, 94.05), (74.00, 77.58, 86.71, 89.45), (80.82, 83.87, 95.00, 97.04)),
}


@pytest.mark.parametrize(("table", "pairs"), [(3, set()), (4, {(7773, 8428)}), (5, {(7691, 8002), (7739, 8038)})])
def test_what_the_papers_tables_allow_of_base_and_perfect_routing(table: int, pairs: set[tuple[int, int]]) -> None:
    """Each figure is a count over 100 test images of each class, rounded or cut to two decimals; 100 classes in all."""
    totals = {(0, 0, 0)}  # classes so far; images right by the base, and by each cluster's sub-classifier
    for printed in PAPER_TABLES[table]:
        fits = []
        for classes in range(1, 101):
            counts = [round(percent * classes) for percent in printed]
            if all(-0.005 - 1e-9 <= n / classes - p < 0.01 - 1e-9 for n, p in zip(counts, printed, strict=True)):
                fits.append((classes, counts[0], counts[1]))
        totals = {(n + s, a + x, b + y) for n, a, b in totals for s, x, y in fits if n + s <= 100}
    assert {(base, perfect) for classes, base, perfect in totals if classes == 100} == pairs
