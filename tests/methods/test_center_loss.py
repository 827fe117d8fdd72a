"""The equations against slow loops, the network against Fig. 1, two ranks against one, large w and many features."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.center_loss import paper
from bo_distill.methods.center_loss.method import METHOD, VARIANTS
from bo_distill.methods.center_loss.nets import Network
from bo_distill.methods.center_loss.settings import Joint
from bo_distill.methods.center_loss.stages import train
from bo_distill.methods.data.dataset import Data, Info, Split
from bo_distill.methods.errors import UsageError
from helpers.ranks import on_ranks

CIFAR = Info("cifar10", "image", tuple("0123456789"), (3, 32, 32), "", 45000, 5000, 10000)


def toy(rows: int = 64, classes: int = 3, side: int = 8) -> Data:
    """Each class has its own grey, under noise."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        y = torch.arange(n) % classes
        x = y.view(-1, 1, 1, 1) * 60 + torch.randint(0, 60, (n, 3, side, side), generator=generator)
        return Split(x.to(torch.uint8), y)

    names = tuple(map(str, range(classes)))
    return Data(Info("toy", "image", names, (3, side, side), "toy", rows, 12, 0), split(rows), split(12))


SMALL = Joint(width=4, features=8, epochs=2, batch_size=16, schedule="constant")


# The network of Fig. 1.


def test_network_has_the_layers_and_parameters_of_figure_1() -> None:
    net = Network(CIFAR)
    printed = {
        "layers.conv1.0": 1792,
        "layers.norm1": 256,
        "layers.conv2.0": 36928,
        "layers.conv3.0": 73856,
        "layers.norm2": 512,
        "layers.conv4.0": 147584,
        "layers.conv5.0": 295168,
        "layers.norm3": 1024,
        "layers.dense.0": 131584,
        "head": 5130,
    }
    counted = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            counted[name] = sum(p.numel() for p in module.parameters())
            if isinstance(module, nn.BatchNorm2d):  # Keras counts the running statistics too
                assert module.running_mean is not None and module.running_var is not None
                counted[name] += module.running_mean.numel() + module.running_var.numel()
    assert counted == printed
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert (trainable, sum(counted.values()), sum(counted.values()) - trainable) == (692_938, 693_834, 896)


def test_network_has_the_output_shapes_of_figure_1() -> None:
    net, shapes = Network(CIFAR).eval(), {}
    for name, layer in net.layers.named_children():
        layer.register_forward_hook(lambda module, inputs, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert shapes["conv1"] == shapes["norm1"] == shapes["conv2"] == (64, 32, 32)
    assert shapes["pool1"] == (64, 16, 16)
    assert shapes["conv3"] == shapes["conv4"] == (128, 16, 16)
    assert shapes["conv5"] == (256, 8, 8)
    assert shapes["pool3"] == (256, 4, 4)
    assert shapes["average"] == (256,) and shapes["dense"] == (512,)


def test_variant_a_has_no_batch_norm_and_b_has() -> None:
    for name, norms in (("a", 0), ("b", 3)):
        config = METHOD.configure("paper", VARIANTS[name])["joint"]
        net = METHOD.costs({"joint": config}, CIFAR)["model"]
        assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == norms


def test_every_variant_is_a_configuration_of_thirty_epochs() -> None:
    configs = {name: METHOD.configure("paper", changes)["joint"] for name, changes in VARIANTS.items()}
    assert list(configs) == list("abcdef")
    assert {config.epochs for config in configs.values()} == {30}
    assert len(set(configs.values())) == 6


def test_the_printed_schedule() -> None:
    rates = [METHOD.configure("paper")["joint"].learning_rate(epoch) for epoch in (0, 9.9, 10, 20, 30, 149)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1e-4, 5e-5, 5e-5])


def test_images_too_small_for_three_poolings_are_refused() -> None:
    with pytest.raises(UsageError, match="4x4"):
        Network(replace(CIFAR, shape=(3, 4, 4)))


def test_the_class_layer_sees_features_with_dropout_and_the_term_sees_them_whole() -> None:
    net = Network(toy().info, 4, 4096, dropout=0.25)
    net.head, net.layers = nn.Identity(), net.layers.eval()  # type: ignore[assignment]
    x = torch.rand(16, 3, 8, 8)
    with torch.no_grad():
        f, dropped = net.features_and_logits(x)
        torch.testing.assert_close(f, net.layers(x))
    assert float((dropped[f > 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(dropped.mean() / f.mean()) == pytest.approx(1.0, abs=0.05)


# The equations.


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels, centres."""
    b, d, k = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(2, 4))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    return torch.randn(b, d), torch.randint(0, k, (b,)), torch.randn(k, d)


@given(spaces())
@settings(max_examples=40, deadline=None)
def test_terms_equal_slow_loops(space: tuple[Tensor, Tensor, Tensor]) -> None:
    f, y, c = space
    (b, d), k, m = f.shape, len(c), 1.3
    near, far, share = 0.0, 0.0, 0.0
    for i in range(b):
        squared = [sum(float(f[i, a] - c[j, a]) ** 2 for a in range(d)) / d for j in range(k)]
        others = [squared[j] for j in range(k) if j != y[i]]
        near += squared[y[i]] / b
        far += sum(max(0.0, m - distance**0.5) ** 2 for distance in others) / (k - 1) / b
        share += squared[y[i]] / (sum(others) / (k - 1) + 1e-3) / b
    assert float(paper.centre_aligned(f, y, c, m, "pull")) == pytest.approx(near, rel=1e-4, abs=1e-6)
    assert float(paper.centre_aligned(f, y, c, m, "push")) == pytest.approx(far, rel=1e-4, abs=1e-6)
    assert float(paper.centre_aligned(f, y, c, m, "hinge")) == pytest.approx(near + far, rel=1e-4, abs=1e-6)
    assert float(paper.centre_aligned(f, y, c, m, "ratio")) == pytest.approx(share, rel=1e-4, abs=1e-6)


@given(spaces())
@settings(max_examples=40, deadline=None)
def test_the_ratio_is_a_multiple_of_qi_and_su(space: tuple[Tensor, Tensor, Tensor]) -> None:
    f, y, c = space
    (b, d), k = f.shape, len(c)
    printed = 0.0
    for i in range(b):
        squared = [sum(float(f[i, a] - c[j, a]) ** 2 for a in range(d)) for j in range(k)]
        printed += 0.5 * squared[y[i]] / (sum(squared[j] for j in range(k) if j != y[i]) + (k - 1) * d * 1e-3) / b
    assert float(paper.ratio(f, y, c)) == pytest.approx(2 * (k - 1) * printed, rel=1e-4, abs=1e-6)


@given(spaces())
@settings(max_examples=40, deadline=None)
def test_the_cosine_margin_is_cosface(space: tuple[Tensor, Tensor, Tensor]) -> None:
    f, y, w = space
    s, m, loss = 8.0, 0.3, 0.0
    for i in range(len(f)):
        cosines = [float(f[i] @ w[j] / (f[i].norm() * w[j].norm())) for j in range(len(w))]
        own = math.exp(s * (cosines[y[i]] - m))
        others = sum(math.exp(s * cosine) for j, cosine in enumerate(cosines) if j != y[i])
        loss -= math.log(own / (own + others)) / len(f)
    logits = paper.with_margin(paper.cosine_logits(f, w, s), y, s, m)
    assert float(nn.functional.cross_entropy(logits, y)) == pytest.approx(loss, rel=1e-3, abs=1e-5)


@given(spaces(), st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_averaged_centres_stay_between_old_centre_and_class_mean(
    space: tuple[Tensor, Tensor, Tensor], rate: float
) -> None:
    f, y, c = space
    sums, counts = paper.class_sums(f, y, len(c))
    new = paper.moved(c, sums, counts, rate)
    means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], c)
    low, high = torch.minimum(c, means) - 1e-5, torch.maximum(c, means) + 1e-5
    assert bool(((low <= new) & (new <= high)).all())
    assert torch.equal(new[counts == 0], c[counts == 0])


def test_a_sample_on_its_centre_has_a_finite_gradient() -> None:
    for term in paper.TERMS:
        f = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
        c = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
        paper.centre_aligned(f, torch.tensor([0, 1]), c, 1.0, term).backward()
        assert f.grad is not None and c.grad is not None
        assert bool(torch.isfinite(f.grad).all() and torch.isfinite(c.grad).all())


def test_pull_draws_nearer_and_push_draws_apart() -> None:
    y, c = torch.tensor([0]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    for term, nearer, farther in (("pull", True, False), ("push", False, True)):
        f = torch.tensor([[0.6, 0.3]], requires_grad=True)
        before = paper.distances(f, c)[0]
        paper.centre_aligned(f, y, c, 2.0, term).backward()
        assert f.grad is not None
        after = paper.distances(f - 0.05 * f.grad, c)[0]
        if nearer:
            assert after[0] < before[0]
        if farther:
            assert after[1] > before[1]


def test_push_stops_at_the_margin() -> None:
    f, c = torch.zeros(1, 4), torch.stack([torch.zeros(4), torch.full((4,), 2.0)])
    assert float(paper.push(f, torch.tensor([0]), c, 2.0)) == 0.0
    assert float(paper.push(f, torch.tensor([0]), c, 3.0)) == pytest.approx(1.0)


def test_kmeans_centres_come_in_the_order_of_the_classes() -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (200,))
    places = 10 * torch.randn(4, 6)
    f = places[y] + 0.1 * torch.randn(200, 6)
    torch.testing.assert_close(paper.kmeans_centres(f, y, 4, seed=0), paper.class_means(f, y, 4), rtol=1e-4, atol=1e-4)


def test_matching_maximises_the_rows_in_common_where_a_greedy_choice_does_not() -> None:
    # rows of class 0: 5 in cluster 0, 4 in cluster 1; class 1: 4 in cluster 0, none in 1.
    y = torch.tensor([0] * 9 + [1] * 4)
    cluster = torch.tensor([0] * 5 + [1] * 4 + [0] * 4)
    assert paper.matched(cluster, y, 2).tolist() == [1, 0]


# The stage.


@pytest.mark.parametrize("term", (*paper.TERMS, "none"))
def test_each_term_trains(term: str) -> None:
    torch.manual_seed(0)
    state = train(LocalWorker(toy()), replace(SMALL, term=term, begin=1), {})
    assert 0.0 <= state.metrics["val_accuracy"] <= 1.0
    assert bool(state.tensors["centres"].any()) == (term != "none")


def test_the_cosine_head_trains_with_the_margin_and_is_deployed_without() -> None:
    config = replace(SMALL, term="none", head="cosine", scale=10.0, cosine_margin=0.4, epochs=25, lr=1e-2)
    torch.manual_seed(0)
    state = train(LocalWorker(toy()), config, {})
    assert "network.head.bias" not in state.tensors and state.metrics["val_accuracy"] > 0.5
    net = METHOD.model({"joint": config}, {"joint": state}, toy().info).eval()
    with torch.no_grad():
        logits = net(toy().val.x.float() / 255)
    assert float(logits.abs().max()) <= 10.0 + 1e-4
    assert float((logits.argmax(1) == toy().val.y).float().mean()) == pytest.approx(state.metrics["val_accuracy"])
    assert torch.isfinite(net.head(torch.zeros(1, 8))).all()  # a feature without direction


def test_a_term_that_would_never_begin_is_refused() -> None:
    for changes in ({"joint.begin": 8}, {"joint.begin": 3, "joint.epochs": 2}):
        with pytest.raises(UsageError, match=r"begin=\d: the term hinge would never begin in \d epochs"):
            METHOD.configure("quick", changes)
    METHOD.configure("quick", {"joint.begin": 7})
    METHOD.configure("quick", {"joint.begin": 8, "joint.term": "none"})
    with pytest.raises(
        UsageError, match="patience=4: the training may end before the term hinge begins, after 5 epochs"
    ):
        METHOD.configure("quick", {"joint.begin": 5, "joint.patience": 4})
    METHOD.configure("quick", {"joint.begin": 5, "joint.patience": 5})
    METHOD.configure("quick", {"joint.begin": 5, "joint.patience": 4, "joint.term": "none"})


@pytest.mark.parametrize("start", ("kmeans", "means", "random"))
@pytest.mark.parametrize("centres", ("averaged", "learned"))
def test_centres_start_and_move(start: str, centres: str) -> None:
    config = replace(SMALL, start=start, centres=centres)
    torch.manual_seed(0)
    one = train(LocalWorker(toy()), replace(config, epochs=1, rate=0.0, lr=1e-6), {}).tensors["centres"]
    torch.manual_seed(0)
    many = train(LocalWorker(toy()), replace(config, lr=1e-2), {}).tensors["centres"]
    assert float((one - many).abs().max()) > 1e-3


@pytest.mark.parametrize("optimizer, lr", (("adam", 1e-3), ("sgd", 0.01), ("sgd", 0.1)))
@pytest.mark.parametrize("centres", ("averaged", "learned"))
def test_a_large_weight_and_many_features_stay_finite(optimizer: str, lr: float, centres: str) -> None:
    for term in ("hinge", "ratio"):
        torch.manual_seed(0)
        config = replace(
            SMALL, optimizer=optimizer, lr=lr, centres=centres, term=term, weight=100.0, features=2048, epochs=3
        )
        state = train(LocalWorker(toy()), config, {})
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.tensors.values())


CASES = (
    replace(SMALL, centres="averaged", weight=1.0, start="means"),
    replace(SMALL, centres="learned", weight=1.0, start="random", begin=1, term="ratio"),
)


def train_on_rank(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    for number, config in enumerate(CASES):
        torch.manual_seed(0)
        state = train(LocalWorker(toy(), rank=rank, world_size=size), replace(config, batch_size=15), {})
        torch.save(dict(state.tensors), f"{folder}/{number}-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_move_weights_and_centres_as_one_does() -> None:
    with tempfile.TemporaryDirectory() as folder:
        on_ranks(train_on_rank, 2, folder)
        for number, config in enumerate(CASES):
            torch.manual_seed(0)
            alone = train(LocalWorker(toy()), replace(config, batch_size=15), {}).tensors
            first, second = (torch.load(f"{folder}/{number}-{rank}.pt", weights_only=True) for rank in (0, 1))
            for name, tensor in alone.items():
                assert torch.equal(first[name], second[name]), name
                torch.testing.assert_close(first[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR does not name a folder with the CIFAR sets")
def test_the_network_learns_real_images() -> None:
    from bo_distill.methods.data import load
    from bo_distill.methods.data.dataset import DataSpec

    data = load(DataSpec("cifar10", directory=os.environ["DATA_DIR"], train_size=500))
    torch.manual_seed(0)
    state = train(LocalWorker(data), replace(SMALL, width=16, epochs=5, batch_size=50), {})
    assert state.metrics["val_accuracy"] > 0.2
