"""The training options against their formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bo_distill.distributed.optimizers import make_optimizer, orthogonalised
from bo_distill.methods.training import OPTIMIZERS, Training


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_orthogonalised_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalised(matrix) @ vh.T
    values = inside.diagonal()
    assert (inside - values.diag()).abs().max() < 1e-4
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_steps_as_its_formula_says() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64, 2))
    mine = copy.deepcopy(net)
    training = Training(optimizer="muon", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, decayed="matrices")
    optimizer = make_optimizer(mine, training)
    buffers = [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(3):
        for number, (own, theirs) in enumerate(zip(net.parameters(), mine.parameters(), strict=True)):
            gradient = theirs.grad = torch.randn_like(own)
            if own.dim() == 2:
                gradient = gradient + 0.01 * own.data
            buffers[number] = 0.9 * buffers[number] + gradient
            step = gradient + 0.9 * buffers[number]
            if own.dim() == 4:
                step = math.sqrt(64 / 27) * orthogonalised(step.reshape(64, 27)).reshape(own.shape)
                own.data = own.data * (1 - 0.1 * 0.01)
            own.data = own.data - 0.1 * step
        optimizer.step()
    for own, theirs in zip(net.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_vectors_are_spared_where_only_matrices_decay(optimizer: str) -> None:
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 4))
    before = [p.detach().clone() for p in net.parameters()]
    training = Training(optimizer=optimizer, lr=0.1, weight_decay=0.1, decayed="matrices")
    optimizer_ = make_optimizer(net, training)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer_.step()
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.equal(old, new) == (old.dim() < 2)


def test_nesterov_is_the_gradient_after_the_momentum() -> None:
    weight = nn.Parameter(torch.tensor([[1.0]]))
    net = nn.Linear(1, 1, bias=False)
    net.weight = weight
    optimizer = make_optimizer(net, Training(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.0))
    value, velocity = 1.0, 0.0
    for gradient in (1.0, -2.0, 0.5):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        velocity = 0.5 * velocity + gradient
        value -= 0.1 * (gradient + 0.5 * velocity)
    assert weight.item() == pytest.approx(value)


def test_smoothed_labels_share_a_part_evenly() -> None:
    logits, y = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for row, label in zip(logits.log_softmax(1), y.tolist(), strict=True):
        for k in range(3):
            total -= ((k == label) * 0.7 + 0.3 / 3) * row[k].item()
    assert Training(smoothing=0.3).cross_entropy(logits, y).item() == pytest.approx(total / 5, rel=1e-5)


def test_a_triangular_rate_rises_and_falls_in_straight_lines() -> None:
    training = Training(epochs=10, lr=0.2, schedule="linear", warmup=4.0)
    rates = [training.learning_rate(epoch) for epoch in (1.0, 2.0, 4.0, 7.0, 10.0)]
    assert rates == pytest.approx([0.05, 0.1, 0.2, 0.1, 0.0])


def test_muon_goes_on_from_its_state() -> None:
    nets = [nn.Conv2d(2, 4, 3)]
    nets.append(copy.deepcopy(nets[0]))
    training = Training(optimizer="muon", lr=0.05)
    optimizers = [make_optimizer(net, training) for net in nets]

    def step(number: int) -> None:
        for p in nets[number].parameters():
            p.grad = torch.ones_like(p) * p.detach()
        optimizers[number].step()

    step(0)
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    step(0)
    step(1)
    assert torch.equal(nets[0].weight, nets[1].weight)
