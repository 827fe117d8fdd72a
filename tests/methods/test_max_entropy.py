"""max_entropy: the equations against slow loops and torchvision, the networks, and what each objective does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.data.dataset import Data, Info, Split
from bo_distill.methods.max_entropy import paper
from bo_distill.methods.max_entropy.method import METHOD
from bo_distill.methods.max_entropy.nets import Augmenter, Student, discriminator, evaluating
from bo_distill.methods.max_entropy.published import SCALES, tables
from bo_distill.methods.max_entropy.settings import NOISES
from bo_distill.methods.max_entropy.stages import adversaries
from bo_distill.methods.method import State, Trained, flatten
from bo_distill.methods.nets.resnet18 import resnet18
from bo_distill.methods.training import Batch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.25)


def slow_entropy(logits: list[float]) -> float:
    weights = [math.exp(value - max(logits)) for value in logits]
    shares = [weight / sum(weights) for weight in weights]
    return -sum(p * math.log2(p) for p in shares if p > 0)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_entropy_is_the_sum_as_printed_and_stays_under_its_bound(logits: list[float]) -> None:
    found = float(paper.entropy(torch.tensor([logits], dtype=torch.float64)))
    assert found == pytest.approx(slow_entropy(logits), abs=1e-9)
    assert -1e-12 <= found <= math.log2(len(logits)) + 1e-12


@pytest.mark.parametrize("objective", paper.OBJECTIVES)
def test_loss_as_printed_corrected_and_plain(objective: str) -> None:
    logits = [1.0, -0.5, 0.25, 3.0]
    bits, gap = slow_entropy(logits), math.log(2 - slow_entropy(logits) + paper.EPS)
    expected = {"printed": -gap, "corrected": gap, "entropy": -bits}[objective]
    found = paper.max_entropy_loss(torch.tensor([logits], dtype=torch.float64), objective)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objective", paper.OBJECTIVES)
def test_gradients_of_the_loss(objective: str) -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: paper.max_entropy_loss(value, objective), logits)


@pytest.mark.parametrize("padding", paper.PADDINGS)
def test_gradients_through_the_map_to_the_loss(padding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(36, 4, dtype=torch.float64, generator=generator)
    # Random entries: where a point falls on a pixel's centre, bilinear sampling has no derivative.
    theta = paper.identity(image) + 0.2 * torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)

    def loss(theta: Tensor) -> Tensor:
        return paper.max_entropy_loss(paper.transform(image, theta, padding).flatten(1) @ weight)

    assert torch.autograd.gradcheck(loss, theta.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(("objective", "rises"), [("printed", False), ("corrected", True), ("entropy", True)])
def test_descending_the_loss_moves_the_entropy(objective: str, rises: bool) -> None:
    """The printed loss rewards a sure classifier: it is minimised where the entropy is smallest."""
    generator = torch.Generator().manual_seed(1)
    image, weight = torch.rand(16, 1, 8, 8, generator=generator), torch.randn(64, 4, generator=generator)
    theta = paper.identity(image).repeat(16, 1, 1).requires_grad_()

    def logits() -> Tensor:
        return paper.transform(image, theta).flatten(1) @ weight

    before = float(paper.entropy(logits()).mean().detach())
    optimizer = torch.optim.Adam([theta], 0.02)
    for _ in range(15):
        optimizer.zero_grad()
        paper.max_entropy_loss(logits(), objective).mean().backward()
        optimizer.step()
    after = float(paper.entropy(logits()).mean().detach())
    assert after > before + 0.1 if rises else after < before - 0.1


@pytest.mark.parametrize("objective", paper.OBJECTIVES)
@pytest.mark.parametrize(
    "logits",
    [torch.zeros(4, 8), torch.full((4, 8), 1e-7).cumsum(1), torch.eye(8)[:4] * 1e4, torch.zeros(4, 1)],
    ids=["largest entropy", "almost largest", "one class certain", "one class in all"],
)
def test_loss_and_gradient_stay_finite(objective: str, logits: Tensor) -> None:
    logits = logits.clone().requires_grad_()
    loss = paper.max_entropy_loss(logits, objective).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()


def test_adversarial_losses_are_the_value_function() -> None:
    real, augmented = torch.tensor([0.3, -1.2]), torch.tensor([2.0, 0.1])
    d_real, d_augmented = real.sigmoid(), augmented.sigmoid()
    value = (d_real.log() + (1 - d_augmented).log()).mean()
    assert torch.allclose(paper.discriminator_loss(real, augmented), -value, atol=1e-6)
    assert torch.allclose(paper.generator_loss(augmented), (1 - d_augmented).log(), atol=1e-6)
    extreme = torch.tensor([1e4, -1e4])
    assert paper.discriminator_loss(extreme, extreme).isfinite() and paper.generator_loss(extreme).isfinite().all()


@pytest.mark.parametrize("padding", paper.PADDINGS)
def test_identity_map_returns_the_image(padding: str) -> None:
    image = torch.rand(2, 3, 16, 16)
    theta = paper.identity(image).repeat(2, 1, 1)
    assert torch.allclose(paper.transform(image, theta, padding), image, atol=1e-5)
    assert float(paper.distance(theta).max()) == 0


def test_map_keeps_its_precision_under_autocast() -> None:
    image, theta = torch.rand(2, 3, 32, 32), paper.identity(torch.zeros(1)) + 0.1 * torch.randn(2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = paper.transform(image, theta)
    assert torch.equal(found, paper.transform(image, theta))


def test_map_reads_output_points_from_the_input() -> None:
    """A quarter turn is exact on a square grid, and a shift of one pixel is 2 / width."""
    image = torch.arange(16.0).view(1, 1, 4, 4)
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    assert torch.allclose(paper.transform(image, quarter), image.rot90(1, (2, 3)), atol=1e-5)
    shifted = paper.transform(image, torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]), "zeros")
    assert torch.allclose(shifted[..., :3], image[..., 1:], atol=1e-5) and float(shifted[..., 3].abs().max()) < 1e-5


@given(st.floats(-170, 170), st.floats(0.6, 1.5), st.floats(0.2, 0.55), st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
@settings(max_examples=40, deadline=None)
def test_decomposition_finds_what_a_map_was_made_of(
    degrees: float, large: float, small: float, shift: tuple[float, float]
) -> None:
    turn = torch.tensor(math.radians(degrees), dtype=torch.float64)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
    stretch = torch.diag(torch.tensor([large, small], dtype=torch.float64))
    theta = torch.cat([rotation @ stretch, torch.tensor(shift, dtype=torch.float64)[:, None]], dim=1)[None]
    angle, scale, moved = paper.angle_scale_shift(theta)
    assert float(angle) == pytest.approx(degrees, abs=1e-6)
    assert scale[0].tolist() == pytest.approx([large, small], abs=1e-6)
    assert moved[0].tolist() == pytest.approx(list(shift))


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_scales_are_singular_values_and_mirroring_shows(entries: list[float]) -> None:
    theta = torch.tensor(entries, dtype=torch.float64).view(1, 2, 3)
    scale = paper.angle_scale_shift(theta)[1][0]
    assert torch.allclose(scale.abs(), torch.linalg.svdvals(theta[0, :, :2]), atol=1e-6)
    assert float(scale.prod()) == pytest.approx(float(torch.linalg.det(theta[0, :, :2])), abs=1e-6)


def random_augmenter(**options: object) -> Augmenter:
    torch.manual_seed(0)
    net = Augmenter(MEAN, STD, **options)  # type: ignore[arg-type]
    nn.init.normal_(net.regress.weight, std=5.0)
    return net


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("bound", [None, 0.3])
def test_augmenter_starts_as_the_identity_and_can_leave_it(bound: float | None, noise: str) -> None:
    net = Augmenter(MEAN, STD, bound=bound, noise=noise)
    image, z = torch.rand(4, 3, 16, 16), torch.randn(4, net.noise)
    assert torch.allclose(net(image, z), image, atol=1e-5)
    net(image, z).square().mean().backward()
    assert net.regress.weight.grad is not None and float(net.regress.weight.grad.abs().max()) > 0


def test_bound_holds_and_a_free_map_stays_finite() -> None:
    image, z = torch.rand(64, 3, 16, 16), torch.randn(64, 6)
    moved = random_augmenter(bound=0.3).theta(image, z) - paper.identity(image)
    assert 0.2 < float(moved.detach().abs().max()) <= 0.3 + 1e-6
    free = random_augmenter(bound=None)
    nn.init.constant_(free.regress.bias, 1e30)
    for padding in paper.PADDINGS:
        free.padding = padding
        assert free(image, z).isfinite().all()


@pytest.mark.parametrize("far", [1.0, 200.0, 1000.0])
def test_a_free_map_can_always_come_back(far: float) -> None:
    net = Augmenter(MEAN, STD, bound=None, noise="none")
    nn.init.constant_(net.regress.bias, far)
    theta = net.theta(torch.rand(4, 3, 16, 16), torch.zeros(4, 0))
    assert float(theta.detach().abs().max()) <= 101
    (slope,) = torch.autograd.grad(theta.sum(), net.regress.bias)
    assert float(slope.min()) > 1e-4
    assert float(slope.min()) == pytest.approx(4 * (1 + (far / 100) ** 2) ** -1.5, rel=1e-3)


def test_recolour_is_the_triangle_wave_and_can_be_the_identity() -> None:
    image, scale, shift = torch.rand(2, 3, 4, 4), 1 + torch.randn(2, 3), 2 * torch.randn(2, 3)
    found = paper.recolour(image, scale, shift)
    for b in range(2):
        for c in range(3):
            v = scale[b, c] * image[b, c] + shift[b, c]
            torch.testing.assert_close(found[b, c], torch.arccos(torch.cos(math.pi * v)) / math.pi, atol=2e-4, rtol=0)
    same = paper.recolour(image, torch.ones(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(same, image)


@pytest.mark.parametrize("noise", NOISES)
def test_colours_start_as_they_are_stay_within_the_bound_and_learn(noise: str) -> None:
    net = Augmenter(MEAN, STD, bound=0.3, noise=noise, colour=True)
    image, z = torch.rand(8, 3, 16, 16), torch.randn(8, net.noise)
    torch.testing.assert_close(net(image, z), image, atol=1e-5, rtol=0)
    net(image, z).square().mean().backward()
    assert net.regress.weight.grad is not None and float(net.regress.weight.grad[6:].abs().max(1).values.min()) > 0
    nn.init.normal_(net.regress.weight, std=5.0)
    colour = net.changes(image, z)[1].detach()
    neutral = torch.tensor([[1.0], [0.0]])
    assert colour.shape == (8, 2, 3) and 0.1 < float((colour - neutral).abs().max()) <= 0.3 + 1e-6
    assert float(net(image, z).detach().min()) >= 0 and float(net(image, z).detach().max()) <= 1


def test_a_learned_share_moves_from_wherever_it_starts() -> None:
    for start in (0.0, 1.0):
        net = Augmenter(MEAN, STD, probability=start, learn_probability=True)
        (slope,) = torch.autograd.grad(net.probability, net.logit)
        assert float(slope) > 0.005


def test_the_suspects_have_the_papers_schedule() -> None:
    """0.1 for 100 epochs, then 0.01 for 100 (section 4), and the figure stands beside Adam without augmentation."""
    scale = SCALES["paper"]
    (table,) = (table for table in tables(scale) if table.title.startswith("Why the base"))
    assert len(table.cells) == 8
    for cell in table.cells:
        config = METHOD.configure("paper", cell.settings)["finetune"]
        rates = [config.learning_rate(epoch) for epoch in range(config.epochs)]
        assert rates == pytest.approx([0.1] * 100 + [0.01] * 100)
        assert (cell.printed == 87.36) == (config.optimizer == "adam" and config.augment == "none")


def test_noise_moves_the_map_and_its_absence_does_not() -> None:
    image = torch.rand(1, 3, 16, 16).repeat(64, 1, 1, 1)
    spread = {}
    for noise in NOISES:
        net = random_augmenter(noise=noise)
        spread[noise] = float(net.theta(image, torch.randn(64, net.noise)).detach().std(0).max())
    assert spread["none"] < 1e-6 and spread["input"] > 1e-3 and spread["strength"] > 1e-3


def test_strength_draws_each_entry_from_a_symmetric_range() -> None:
    net, image = random_augmenter(noise="strength", bound=0.3), torch.rand(1, 3, 16, 16)
    z = torch.randn(1, 6)
    there, back = net.theta(image, z), net.theta(image, -z)
    assert torch.allclose(there + back, 2 * paper.identity(there).expand(1, 2, 3), atol=1e-6)
    assert torch.allclose(net.theta(image, torch.zeros(1, 6)), paper.identity(there), atol=1e-6)
    largest = net.theta(image, torch.full((1, 6), 10.0)) - paper.identity(there)
    assert ((there - paper.identity(there)).abs() <= largest.abs() + 1e-6).all()


@pytest.mark.parametrize(
    ("probability", "learn"), [(0.0, False), (0.3, False), (1.0, False), (0.0, True), (0.3, True), (1.0, True)]
)
def test_share_of_augmented_images(probability: float, learn: bool) -> None:
    net = random_augmenter(probability=probability, learn_probability=learn)
    image, z = torch.rand(2000, 3, 8, 8), torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        changed = (net.sometimes(image, z) != image).flatten(1).any(1)
    expected = min(max(probability, 0.01), 0.99) if learn else probability
    assert float(changed.double().mean()) == pytest.approx(expected, abs=0.03)
    assert net.logit.requires_grad == learn


def test_discriminator_gives_one_logit_for_each_image() -> None:
    assert discriminator(MEAN, STD, 8)(torch.rand(5, 3, 16, 16)).shape == (5,)


def test_resnet18_is_torchvisions() -> None:
    from torchvision.models import resnet18 as reference

    theirs = reference(num_classes=10).eval()
    ours = resnet18(10, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), stem="imagenet").eval()
    weights = [value for name, value in ours.state_dict().items() if name not in ("0.mean", "0.std")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(image), theirs(image), atol=1e-5)


@pytest.mark.parametrize(("stem", "parameters"), [("cifar", 11_173_962), ("imagenet", 11_181_642)])
def test_resnet18_has_the_published_size(stem: str, parameters: int) -> None:
    net = resnet18(10, MEAN, STD, stem=stem)
    assert sum(p.numel() for p in net.parameters()) == parameters
    small = resnet18(10, MEAN, STD, stem=stem, width=8, blocks=1)
    assert small(torch.rand(2, 3, 16, 16)).shape == (2, 10)


# The stages, on a made-up set: the class is the brightest quarter of the picture.

SMALL = {"classifier.width": 4, "classifier.blocks": 1, "classifier.epochs": 3, "classifier.lr": 0.05}
SMALL |= {f"{stage}.batch_size": 32 for stage in ("classifier", "augmenter", "finetune")}
SMALL |= {"augmenter.epochs": 6, "augmenter.lr": 1e-2, "augmenter.bound": 0.6, "finetune.epochs": 1}


def quarters(rows: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % 4
    x = torch.randint(0, 120, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(y.tolist()):
        top, left = 8 * (label // 2), 8 * (label % 2)
        x[row, :, top : top + 8, left : left + 8] += 90
    return Split(x, y)


@pytest.fixture(scope="module")
def data() -> Data:
    train, val = quarters(256, 0), quarters(64, 1)
    info = Info("quarters", "image", ("a", "b", "c", "d"), (3, 16, 16), "none", 256, 64, 64, (0.3,) * 3, (0.2,) * 3)
    return Data(info, train, val)


def train(data: Data, settings: dict[str, object], known: dict[str, State] | None = None) -> Trained:
    configs = METHOD.configure("quick", {**SMALL, **settings})
    states = dict(known or {})
    for stage in METHOD.stages:
        if stage.name not in states:
            torch.manual_seed(0)
            worker = LocalWorker(data)
            state = stage.run(worker, configs[stage.name], {need: states[need] for need in stage.needs})
            states[stage.name] = dataclasses.replace(state, history=tuple(worker.history))
    return Trained(LocalWorker(data), configs, states, data.val)


@pytest.fixture(scope="module")
def classifier(data: Data) -> dict[str, State]:
    state = train(data, {"augmenter.epochs": 0, "finetune.epochs": 0}).states["classifier"]
    assert state.metrics["val_accuracy"] > 0.9
    return {"classifier": state}


@pytest.mark.parametrize(("objective", "rises"), [("printed", False), ("corrected", True), ("entropy", True)])
def test_what_the_augmenter_learns_without_a_guard(
    data: Data, classifier: dict[str, State], objective: str, rises: bool
) -> None:
    settings = {"augmenter.objective": objective, "augmenter.guard": "none", "augmenter.noise": "none"}
    metrics = train(data, {**settings, "finetune.epochs": 0}, classifier).states["augmenter"].metrics
    assert (metrics["entropy_after"] > metrics["entropy_before"] + 0.3) == rises
    assert rises or metrics["entropy_after"] < metrics["entropy_before"]


def test_label_term_keeps_labels(data: Data, classifier: dict[str, State]) -> None:
    kept = {}
    for guard in ("none", "teacher"):
        settings = {"augmenter.guard": guard, "augmenter.objective": "entropy", "augmenter.noise": "none"}
        metrics = train(data, {**settings, "finetune.epochs": 0}, classifier).states["augmenter"].metrics
        assert metrics["entropy_after"] > metrics["entropy_before"] + 0.3
        kept[guard] = metrics["agreement"]
    assert kept["teacher"] > kept["none"] + 0.1


@pytest.mark.parametrize("order", ["sequence", "alternate"])
@pytest.mark.parametrize("guard", ["discriminator", "teacher", "none"])
def test_both_orders_under_every_guard(data: Data, classifier: dict[str, State], order: str, guard: str) -> None:
    settings = {"augmenter.guard": guard, "finetune.order": order, "augmenter.epochs": 1, "augmenter.apply": "learned"}
    trained = train(data, settings, classifier)
    first, last = trained.states["augmenter"], trained.states["finetune"]
    moved = any(not torch.equal(first.tensors[k], last.tensors[k]) for k in first.tensors if k.startswith("augmenter."))
    assert moved == (order == "alternate")
    critic = "critic.9.weight"
    assert torch.equal(first.tensors[critic], last.tensors[critic]) == (order == "sequence" or guard != "discriminator")
    logged = {"discriminator": {"adversarial", "discriminator"}, "teacher": {"labels"}, "none": set()}[guard]
    row = (last if order == "alternate" else first).history[-1]
    assert logged | {"generator", "max_entropy", "entropy", "distance", "probability"} <= row.keys()
    assert {f"val_{name}" for name in logged} <= first.history[-1].keys()
    assert all(math.isfinite(value) for state in (first, last) for value in state.metrics.values())
    net = METHOD.model(trained.configs, trained.states, data.info).eval()
    logits = trained.worker.predict(net, data.val.x)
    assert float((logits.argmax(1) == data.val.y).double().mean()) == pytest.approx(last.metrics["val_accuracy"])
    assert METHOD.metrics(trained)["distance"] == pytest.approx(last.metrics["distance"])


def batch_of(data: Data, y: Tensor) -> Batch:
    rows = torch.arange(len(y))
    return Batch(data.train.x[rows].float() / 255, y, rows, seed=0, rows=slice(0, len(y)), size=len(y), epoch=0.0)


def players(settings: dict[str, object], data: Data) -> tuple[list[nn.Module], list[Tensor], Augmenter]:
    """Networks that a step of G must leave alone, the losses of all players, and G."""
    torch.manual_seed(0)
    config = METHOD.configure("quick", {**SMALL, **settings})["augmenter"]
    attacked = resnet18(4, MEAN, STD, width=4, blocks=1).train()
    teacher = resnet18(4, MEAN, STD, width=4, blocks=1).eval()
    net = Augmenter(MEAN, STD, probability=config.probability, learn_probability=config.apply == "learned")
    nn.init.normal_(net.regress.weight, std=0.1)
    losses = []
    for player in adversaries(config, net, discriminator(MEAN, STD, 8), attacked, teacher):
        losses.append(player.loss(batch_of(data, data.train.y[:16]))["loss"])
    return [attacked, teacher], losses, net


@pytest.mark.parametrize("guard", ["discriminator", "teacher", "none"])
def test_one_class_batches_stay_finite(data: Data, guard: str) -> None:
    config = METHOD.configure("quick", {**SMALL, "augmenter.guard": guard, "augmenter.affine": "free"})["augmenter"]
    net, judge = Augmenter(MEAN, STD, bound=None), resnet18(4, MEAN, STD, width=4, blocks=1).eval()
    for player in adversaries(config, net, discriminator(MEAN, STD, 8), judge, judge):
        loss = player.loss(batch_of(data, torch.zeros(8, dtype=torch.long)))["loss"]
        gradients = torch.autograd.grad(
            loss, [p for p in player.net.parameters() if p.requires_grad], allow_unused=True
        )
        assert loss.isfinite() and all(g.isfinite().all() for g in gradients if g is not None)


def test_a_step_of_the_augmenter_leaves_the_classifiers_statistics_alone(data: Data) -> None:
    torch.manual_seed(0)
    expected = {k: v.clone() for k, v in resnet18(4, MEAN, STD, width=4, blocks=1).state_dict().items()}
    (attacked, _), _, _ = players({"augmenter.guard": "teacher"}, data)
    assert attacked.training
    assert all(torch.equal(value, expected[name]) for name, value in attacked.state_dict().items())


def test_learned_probability_follows_the_exact_expectation(data: Data) -> None:
    """d/dp of p L(I') + (1 - p) L(I) is L(I') - L(I)."""
    settings = {
        "augmenter.guard": "none",
        "augmenter.weight": 1.0,
        "augmenter.apply": "learned",
        "augmenter.probability": 0.3,
    }
    (attacked, _), (loss,), net = players(settings, data)
    x = batch_of(data, data.train.y[:16])
    with torch.no_grad(), evaluating(attacked):
        augmented, plain = (
            paper.max_entropy_loss(attacked(image)).mean() for image in (net(x.x, x.randn(7)[:, :-1]), x.x)
        )
    (slope,) = torch.autograd.grad(loss, net.logit)
    assert torch.allclose(loss, 0.3 * augmented + 0.7 * plain, atol=1e-5)
    assert torch.allclose(slope, (augmented - plain) * 0.3 * 0.7, atol=1e-5)


def test_teacher_is_the_moving_average() -> None:
    student = Student(resnet18(4, MEAN, STD, width=4, blocks=1)).train()
    assert student.classifier.training and not student.teacher.training
    start = student.teacher[1].weight.clone()  # type: ignore[index]
    nn.init.ones_(student.classifier[1].weight)  # type: ignore[index]
    for _ in range(3):
        student.follow(0.9)
    expected = 1 + (start - 1) * 0.9**3
    assert torch.allclose(student.teacher[1].weight, expected, atol=1e-6)  # type: ignore[index]
    assert not any(p.requires_grad for p in student.teacher.parameters())


@pytest.mark.parametrize(("guard", "apply"), [("discriminator", "fixed"), ("teacher", "learned")])
def test_alternate_control_costs_what_the_sequence_does(data: Data, guard: str, apply: str) -> None:
    settings = {"augmenter.guard": guard, "augmenter.apply": apply, "augmenter.epochs": 50, "finetune.epochs": 100}
    wide = {**SMALL, **settings, "classifier.width": 64, "classifier.blocks": 2}
    sequence = METHOD.configure("quick", wide)
    change = METHOD.controls["alternate"](flatten(sequence))
    turns = METHOD.configure("quick", {**wide, **change})
    first, second = (
        sum(stage.macs(configs, data.info) for stage in METHOD.stages if stage.name != "classifier")
        for configs in (sequence, turns)
    )
    assert second == pytest.approx(first, rel=0.02)


@pytest.mark.parametrize("recipe", METHOD.recipes)
def test_controls_are_settings(recipe: str) -> None:
    full = flatten(METHOD.configure(recipe))
    for name, control in METHOD.controls.items():
        changed = flatten(METHOD.configure(recipe, control(full)))
        assert changed != full or name.endswith("printed")
        assert {k: v for k, v in changed.items() if k.startswith("classifier.")} == {
            k: v for k, v in full.items() if k.startswith("classifier.")
        }
