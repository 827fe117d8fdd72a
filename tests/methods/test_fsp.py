"""FSP transfer: the equations against slow loops, the networks against the published figures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.fsp.figures import tables, verdict
from bo_distill.methods.fsp.method import METHOD
from bo_distill.methods.fsp.nets import Projected
from bo_distill.methods.fsp.paper import (
    decoupled_loss,
    fsp_matrix,
    section_losses,
    soft_target_loss,
    standardised,
    uncertainty_weighted,
)
from bo_distill.methods.fsp.settings import Finetune, Teacher, Transfer
from bo_distill.methods.fsp.stages import finetune, train_teacher, transfer
from bo_distill.methods.method import State, Trained, flatten
from bo_distill.methods.nets.cifar import CifarNet, Vgg16
from bo_distill.methods.paired import Difference
from helpers.tiny import tiny_images

CIFAR = Info("cifar10", "image", tuple("0123456789"), (3, 32, 32), "", 45000, 5000, 10000, (0.5,) * 3, (0.25,) * 3)


def slow_fsp(first: Tensor, last: Tensor) -> Tensor:
    """Yim et al. 2017, eq. (1), written out: G_mn = sum over places of F1_m F2_n / (h w)."""
    b, m, h, w = first.shape
    n = last.shape[1]
    out = torch.zeros(b, m, n)
    for image in range(b):
        for i in range(m):
            for j in range(n):
                total = sum(float(first[image, i, s, t] * last[image, j, s, t]) for s in range(h) for t in range(w))
                out[image, i, j] = total / (h * w)
    return out


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_fsp_matrix_is_the_printed_sum(b: int, m: int, n: int, h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(b + 10 * m + 100 * n)
    first, last = torch.randn(b, m, h, w, generator=generator), torch.randn(b, n, h, w, generator=generator)
    torch.testing.assert_close(fsp_matrix(first, last), slow_fsp(first, last), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("larger", [0, 1])
def test_the_larger_map_is_max_pooled(larger: int) -> None:
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)]
    maps[larger] = torch.randn(2, (3, 5)[larger], 8, 8)
    pooled = list(maps)
    pooled[larger] = torch.nn.functional.max_pool2d(maps[larger], 2)
    torch.testing.assert_close(fsp_matrix(*maps), slow_fsp(*pooled), rtol=1e-4, atol=1e-5)


def test_fsp_loss_is_the_sum_of_three_mean_squares() -> None:
    teacher, student = ([torch.randn(2, k, k) for k in (2, 3, 4)] for _ in range(2))
    slow = 0.0
    for t, s in zip(teacher, student, strict=True):
        entries = [(float(t[b, i, j]) - float(s[b, i, j])) ** 2
                   for b in range(2) for i in range(t.shape[1]) for j in range(t.shape[2])]  # fmt: skip
        slow += sum(entries) / len(entries)
    assert float(section_losses(teacher, student).sum()) == pytest.approx(slow, rel=1e-5)
    assert float(section_losses(teacher, teacher).sum()) == 0.0


def test_soft_targets_follow_hinton() -> None:
    student, teacher, temperature = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]]), 4.0

    def softened(row: Tensor) -> list[float]:
        powers = [math.exp(float(v) / temperature) for v in row]
        return [p / sum(powers) for p in powers]

    p, q = softened(teacher[0]), softened(student[0])
    slow = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(soft_target_loss(student, teacher, temperature)) == pytest.approx(slow, rel=1e-4)


def test_the_networks_have_the_published_sizes() -> None:
    student, resnet, vgg = CifarNet(CIFAR, 14), CifarNet(CIFAR, 26), CifarNet(CIFAR, 26, shortcut=False)
    # He et al. 2016, table 6: ResNet-20 has 0.27 M parameters, 6n+2 layers with weights.
    assert count(CifarNet(CIFAR, 20), CIFAR).params == pytest.approx(0.27e6, rel=0.02)
    assert count(resnet, CIFAR).params == count(vgg, CIFAR).params
    # The convolutions of both 26-layer teachers: about 54.7 million multiply-adds, and no difference between them.
    assert count(resnet, CIFAR).macs == count(vgg, CIFAR).macs == pytest.approx(54.7e6, rel=0.01)
    for net, depth in ((student, 14), (resnet, 26), (vgg, 26)):
        layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        assert len(layers) == depth
    assert sum(isinstance(m, torch.nn.Conv2d) for m in Vgg16(CIFAR).modules()) == 13


def test_shortcuts_carry_the_input_and_plain_blocks_do_not() -> None:
    x = torch.rand(1, 16, 8, 8)
    for shortcut in (True, False):
        block = CifarNet(CIFAR, 8, shortcut).body[0][0].eval()
        for parameter in block.parameters():
            parameter.data.zero_()
        torch.testing.assert_close(block(x), x if shortcut else torch.zeros_like(x))


def softmax(z: list[float]) -> list[float]:
    powers = [math.exp(v) for v in z]
    return [p / sum(powers) for p in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_decoupled_soft_targets_follow_zhao() -> None:
    """Eqs. 2 to 7 written out: the label against the rest, and the rest among themselves."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, generator=generator) for _ in range(2))
    y, temperature, alpha, beta = torch.tensor([0, 1, 2, 3, 1]), 3.0, 1.5, 4.0
    slow = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), y.tolist(), strict=True):
        q, p = (softmax([v / temperature for v in row]) for row in (s, t))
        two = [[probs[label], 1 - probs[label]] for probs in (p, q)]
        rest = [[v / (1 - probs[label]) for k, v in enumerate(probs) if k != label] for probs in (p, q)]
        slow += temperature**2 * (alpha * divergence(*two) + beta * divergence(*rest)) / 5
    assert float(decoupled_loss(student, teacher, y, temperature, alpha, beta)) == pytest.approx(slow, rel=1e-4)


def test_hintons_loss_is_the_decoupled_one_with_the_teachers_doubt_as_beta() -> None:
    student, teacher, y = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([1])
    doubt = 1 - softmax([v / 4.0 for v in teacher[0].tolist()])[1]
    assert float(decoupled_loss(student, teacher, y, 4.0, 1.0, doubt)) == pytest.approx(
        float(soft_target_loss(student, teacher, 4.0)), rel=1e-4
    )


def test_standardised_logits_follow_sun() -> None:
    """Eq. 8; so a student whose logits are the teacher's, shifted and scaled, has nothing to learn."""
    rows = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.5, -1.0]])
    for row, found in zip(rows.tolist(), standardised(rows).tolist(), strict=True):
        mean = sum(row) / 3
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / 2)
        assert found == pytest.approx([(v - mean) / deviation for v in row], rel=1e-4)
    assert float(soft_target_loss(standardised(3 * rows + 5), standardised(rows), 2.0)) == pytest.approx(0, abs=1e-6)


def test_learned_weights_follow_kendall_and_are_even_at_their_optimum() -> None:
    losses, s = torch.tensor([0.5, 30.0, 600.0]), torch.tensor([0.1, -0.2, 2.0])
    slow = sum(math.exp(-b) * a / 2 + b / 2 for a, b in zip(losses.tolist(), s.tolist(), strict=True))
    assert float(uncertainty_weighted(losses, s)) == pytest.approx(slow, rel=1e-5)
    best = losses.log().requires_grad_()
    (slope,) = torch.autograd.grad(uncertainty_weighted(losses, best), best)
    torch.testing.assert_close(slope, torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("balance", ["start", "learned"])
def test_balanced_sections_weigh_the_same_at_the_start(balance: str) -> None:
    """Whatever the scale of their losses, the gradient of each section's share is that of log L_i."""
    net = Projected(CifarNet(CIFAR, 14), CifarNet(CIFAR, 26), balance)
    losses = torch.tensor([0.95, 37.0, 568.0], requires_grad=True)
    net.begin(losses)
    (slope,) = torch.autograd.grad(net.balanced(losses), losses)
    shares = slope * losses.detach()
    torch.testing.assert_close(shares, shares[:1].expand(3))
    plain = Projected(CifarNet(CIFAR, 14), CifarNet(CIFAR, 26))
    assert float(plain.balanced(losses).detach()) == pytest.approx(605.95)


@pytest.mark.parametrize("depth", [8, 14, 26])
def test_every_section_has_two_maps(depth: int) -> None:
    for first, last in CifarNet(CIFAR, depth).sections(torch.rand(2, 3, 32, 32))[1]:
        assert first.shape == last.shape and not torch.equal(first, last)


@pytest.mark.parametrize("teacher", [CifarNet(CIFAR, 26), CifarNet(CIFAR, 26, shortcut=False), Vgg16(CIFAR)])
def test_student_flows_have_the_teachers_shapes(teacher: torch.nn.Module) -> None:
    x = torch.rand(2, 3, 32, 32)
    theirs = [fsp_matrix(first, last) for first, last in teacher.sections(x)[1]]
    net = Projected(CifarNet(CIFAR, 14), teacher)
    assert [t.shape for t in theirs] == [s.shape for s in net(x)[1]]
    learned = [m for m in net.project.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(learned) == (6 if isinstance(teacher, Vgg16) else 0)


def test_transfer_brings_the_student_nearer_to_the_teacher_and_leaves_the_head_alone() -> None:
    torch.manual_seed(0)
    worker = LocalWorker(tiny_images(), seed=0)
    teacher = train_teacher(worker, Teacher(epochs=3, batch_size=32, lr=0.01, augment="none"), {})
    torch.manual_seed(0)
    config = Transfer(epochs=6, batch_size=32, lr=0.05, depth=8, augment="none", weight_decay=0.0)
    state = transfer(worker, config, {"teacher": teacher})
    rows = [row for row in worker.history if "fsp" in row]
    losses = [row["fsp"] for row in rows]
    for row in rows:
        assert sum(row[f"fsp_{section}"] for section in (1, 2, 3)) == pytest.approx(row["fsp"], rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]
    torch.manual_seed(0)
    untouched = CifarNet(worker.data.info, 8)
    torch.testing.assert_close(state.tensors["fc.weight"], untouched.fc.weight.detach())
    assert not torch.equal(state.tensors["conv.weight"], untouched.conv.weight)
    assert "val_accuracy" not in worker.history[-1], "chance must not reach a scheduler"


def test_lambda_and_learning_rate_are_one_parameter_under_plain_sgd() -> None:
    """With the flow loss alone, momentum-free SGD without decay knows only their product."""
    torch.manual_seed(0)
    worker = LocalWorker(tiny_images(), seed=0)
    teacher = train_teacher(worker, Teacher(epochs=3, batch_size=32, lr=0.01, augment="none"), {})
    states = []
    for weight, lr in ((1.0, 0.02), (10.0, 0.002)):
        torch.manual_seed(0)
        config = Transfer(
            epochs=1, batch_size=32, depth=8, weight=weight, lr=lr, momentum=0.0, weight_decay=0.0, clip=0.0,
            augment="none",
        )  # fmt: skip
        states.append(transfer(worker.for_stage(0, None, None), config, {"teacher": teacher}))
    for name, value in states[0].tensors.items():
        torch.testing.assert_close(value, states[1].tensors[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("soft", "standardise"), [("kd", False), ("kd", True), ("dkd", False), ("dkd", True)])
def test_joint_mode_and_soft_targets_train_on_labels(soft: str, standardise: bool) -> None:
    torch.manual_seed(0)
    worker = LocalWorker(tiny_images(), seed=0)
    teacher = train_teacher(worker, Teacher(epochs=3, batch_size=32, lr=0.01, augment="none"), {})
    joint = transfer(worker, Transfer(epochs=1, batch_size=32, depth=8, mode="joint", lr=0.05), {"teacher": teacher})
    assert {"labels", "fsp", "val_accuracy"} <= worker.history[-1].keys()
    needs = {"teacher": teacher, "transfer": joint}
    config = Finetune(epochs=1, batch_size=32, distill=0.5, soft=soft, standardise=standardise)
    state = finetune(worker, config, needs)
    assert state.metrics["teacher_accuracy"] == teacher.metrics["val_accuracy"]
    row = worker.history[-1]
    assert row["loss"] == pytest.approx(0.5 * row["labels"] + 0.5 * row["soft"], rel=1e-3)


@pytest.mark.parametrize(
    ("above", "p", "words"),
    [(-0.04, 0.001, "less accurate than"), (0.1, 0.001, "more accurate than"), (-0.01, 0.5, "not told apart (p 0.5)")],
)
def test_a_teacher_below_its_student_is_said(above: float, p: float, words: str) -> None:
    assert words in verdict(Difference(above, above - 0.01, above + 0.01, p))


def test_the_teachers_accuracy_stands_in_the_result_and_in_a_table() -> None:
    common = {f"{stage}.{field}": v for stage in ("teacher", "transfer", "finetune")
              for field, v in {"epochs": 1, "batch_size": 32, "augment": "none"}.items()}  # fmt: skip
    configs = METHOD.configure("quick", {**common, "transfer.depth": 8})
    worker, states = LocalWorker(tiny_images(), seed=0), dict[str, State]()
    for stage in METHOD.stages:
        states[stage.name] = stage.run(worker, configs[stage.name], states)
    trained = Trained(worker, configs, states, worker.data.val)
    found = METHOD.metrics(trained)["teacher_accuracy"]
    assert found == states["finetune"].metrics["teacher_accuracy"] == states["teacher"].metrics["val_accuracy"]
    assert tables(trained)["teacher"].rows[0] == ("resnet26", round(found, 4), round(found, 4))


def test_the_fair_control_trains_as_many_epochs_at_each_rate() -> None:
    """At the paper's size: 182 epochs of fine-tuning, 242 of the control."""

    def at_each_rate(config: Finetune) -> list[int]:
        rates = [config.learning_rate(epoch) / config.lr for epoch in range(config.epochs)]
        return [sum(rate == pytest.approx(factor) for rate in rates) for factor in (1, 0.1, 0.01)]

    plain = METHOD.configure("paper")
    control = METHOD.configure("paper", METHOD.controls["equal_epochs"](flatten(plain)))
    assert control["transfer"].epochs == 0
    assert at_each_rate(plain["finetune"]) == [91, 46, 45]
    assert at_each_rate(control["finetune"]) == [121, 62, 59]
