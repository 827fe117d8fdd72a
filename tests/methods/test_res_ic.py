"""Res-IC: the equations against slow loops, CBAM against its published definition, policies against their own laws."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Data, Info, Split
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State, Trained
from bo_distill.methods.res_ic import figures
from bo_distill.methods.res_ic.method import METHOD, measured
from bo_distill.methods.res_ic.nets import CBAM, ChannelAttention, Networks, ResIC, SpatialAttention, exit_macs
from bo_distill.methods.res_ic.paper import (
    class_weights,
    dropout_mask,
    exit_losses,
    exit_weights,
    sentence_lengths,
    total_loss,
)
from bo_distill.methods.training import Batch

# The paper's equations.


def test_loss_is_eq_1_with_eq_2() -> None:
    logits, y = torch.randn(6, 4, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = 0.0
    for i in range(4):
        loss = -sum(math.log(float(logits[j, i].exp()[y[j]] / logits[j, i].exp().sum())) for j in range(6)) / 6
        expected += loss * ((i + 1) / 3 if i < 3 else 1.0)
    total = total_loss(exit_losses(logits, y), exit_weights("paper", [1, 2, 3, 4], 0.5))
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_weightings() -> None:
    assert exit_weights("paper", [1, 2, 3, 4], 0.3) == [1 / 3, 2 / 3, 1.0]
    assert exit_weights("uniform", [1, 2, 3, 4], 0.3) == [1.0, 1.0, 1.0]
    assert exit_weights("ramp", [1, 2, 4], 0.0) == [0.01, 0.01]
    assert exit_weights("ramp", [1, 2, 4], 0.5) == pytest.approx([0.135, 0.26])
    assert exit_weights("ramp", [1, 2, 4], 1.0) == [0.25, 0.5]  # up to the share of the cost, and no further


def test_class_weights_are_one_on_average_and_even_out_the_classes() -> None:
    y = torch.tensor([0] * 90 + [1] * 9 + [2])
    for balance in ("root", "inverse"):
        weights = class_weights(y, 4, balance)
        assert weights is not None and float(weights[y].mean()) == pytest.approx(1)
        assert float(weights[3]) == 0
        power = {"root": 0.5, "inverse": 1.0}[balance]
        assert float(weights[2] / weights[0]) == pytest.approx(90**power)
    assert class_weights(y, 4, "none") is None


def test_class_weights_of_parts_add_up_to_the_whole_batch() -> None:
    logits, y = torch.randn(8, 2, 3), torch.randint(3, (8,))
    weights = torch.tensor([0.5, 1.0, 4.0])
    whole = exit_losses(logits, y, weights)
    parts = (exit_losses(logits[:4], y[:4], weights) + exit_losses(logits[4:], y[4:], weights)) / 2
    assert torch.allclose(whole, parts)


def test_dropout_keeps_the_mean_and_zeroes_its_share() -> None:
    mask = dropout_mask(torch.randn(200_000), 0.3)
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}
    assert float(mask.mean()) == pytest.approx(1, abs=0.01)


# Networks.


def test_channel_attention_is_woo_eq_2() -> None:
    net, x = ChannelAttention(64), torch.randn(2, 64, 1, 9)
    w0, w1 = net.mlp[0].weight, net.mlp[2].weight
    assert w0.shape == (4, 64) and w1.shape == (64, 4)  # r = 16
    for b in range(2):
        average = torch.stack([x[b, c, 0].sum() / 9 for c in range(64)])
        largest = torch.stack([max(x[b, c, 0]) for c in range(64)])
        expected = torch.sigmoid(w1 @ (w0 @ average).relu() + w1 @ (w0 @ largest).relu())
        assert torch.allclose(net(x)[b, :, 0, 0], expected, atol=1e-6)


def test_spatial_attention_is_woo_eq_3() -> None:
    net, x = SpatialAttention().requires_grad_(False), torch.randn(1, 5, 1, 12)
    kernel = net.conv.weight[0, :, 0]
    assert kernel.shape == (2, 7)
    maps = torch.stack([x[0, :, 0].mean(0), x[0, :, 0].amax(0)])
    for i in range(12):
        total = sum(float(kernel[c, j] * maps[c, i + j - 3]) for c in range(2) for j in range(7) if 0 <= i + j - 3 < 12)
        assert float(net(x)[0, 0, 0, i]) == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)


def test_cbam_applies_channels_first_then_positions() -> None:
    net, x = CBAM(16), torch.randn(3, 16, 1, 7)
    refined = net.channel(x) * x
    assert torch.allclose(net(x), net.spatial(refined) * refined)


@pytest.mark.parametrize(("depth", "exits", "blocks"), [(18, 8, (2, 2, 2, 2)), (34, 16, (3, 4, 6, 3))])
def test_networks_are_those_of_table_2(depth: int, exits: int, blocks: tuple[int, ...]) -> None:
    net = ResIC(30, 20, depth, width=64)
    convolutions = [m for part in net.parts for m in part.residual if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 2 * exits and all(m.kernel_size == (1, 3) for m in convolutions)
    assert len(net.heads) == exits == sum(isinstance(m, CBAM) for m in net.modules())
    assert net.widths == [64 * 2**i for i, repeats in enumerate(blocks) for _ in range(repeats)]
    h, sizes = net.eval().start(torch.ones(1, 132, dtype=torch.long)), []
    for i in range(exits):
        h, logits = net.leave(i, h)
        sizes.append(h.shape[3])
        assert logits.shape == (1, 20)
    assert sizes == [size for size, repeats in zip((128, 64, 32, 16), blocks, strict=True) for _ in range(repeats)]


def test_any_sentence_is_read() -> None:
    net = ResIC(40, 3, 10, width=4).eval()
    x = torch.randint(0, 42, (5, 9))
    x[0] = 0  # nothing but padding
    x[1] = 1  # nothing but unknown characters
    assert net(x).shape == (5, 4, 3) and net(x).isfinite().all()
    assert sentence_lengths(torch.tensor([[5, 1, 0], [0, 0, 0]])).tolist() == [2, 0]


def test_macs_agree_with_the_project_count() -> None:
    net = ResIC(10, 7, 18, width=8)
    macs = exit_macs(net, 40)
    assert len(macs) == 8 and sorted(macs) == macs
    assert macs[-1] == count(net, made_up().info).macs
    plain = exit_macs(ResIC(10, 7, 18, width=8, internal=False), 40)
    heads = 7 * sum(net.widths[:-1])
    assert plain == [macs[-1] - heads]


# The stages, on sentences whose characters tell both tasks.


def made_up(tasks: int = 2, n: int = 192) -> Data:
    generator = torch.Generator().manual_seed(0)

    def split(rows: int) -> Split:
        y = torch.stack([torch.randint(k, (rows,), generator=generator) for k in (3, 2)], 1)
        x = torch.randint(2, 12, (rows, 40), generator=generator, dtype=torch.int32)
        draw = torch.rand(rows, 40, generator=generator)
        x = torch.where(draw < 0.3, 2 + y[:, :1], torch.where(draw < 0.5, 8 + y[:, 1:], x)).int()
        x[torch.arange(40) >= torch.randint(8, 41, (rows, 1), generator=generator)] = 0
        return Split(x, y[:, 0] if tasks == 1 else y, tuple(f"sentence {i}" for i in range(rows)))

    names = (("kind", ("a", "b", "c")), ("mood", ("good", "bad")))[:tasks]
    train, val = split(n), split(96)
    info = Info("made-up", "text", names[0][1], (40,), "0", n, 96, 96, vocabulary=tuple("abcdefghij"), tasks=names)
    return Data(info, train, val)


def run(data: Data, **changes: object) -> Trained:
    small = {"backbone.width": 4, "backbone.epochs": 2, "backbone.batch_size": 32, "backbone.lr": 1e-2}
    configs = METHOD.configure("quick", {**small, **changes})
    worker, states = LocalWorker(data), dict[str, State]()
    for stage in METHOD.stages:
        torch.manual_seed(0)
        states[stage.name] = stage.run(worker, configs[stage.name], states)
    return Trained(worker, configs, states, data.val)


@pytest.mark.parametrize("tasks", ["first", "separate", "joint"])
def test_stages_train_and_deploy(tasks: str) -> None:
    trained = run(made_up(), **{"backbone.tasks": tasks, "backbone.epochs": 8, "backbone.width": 8})
    info, val = trained.worker.data.info, trained.split
    last = trained.states["policy"].metrics
    assert last["val_accuracy"] > 0.6  # chance is 1/3
    model = METHOD.model(trained.configs, trained.states, info)
    logits = trained.worker.predict(model, val.x)
    assert logits.shape == (96, 3)
    assert float((logits.argmax(1) == val.y[:, 0]).double().mean()) == pytest.approx(last["val_accuracy"])
    others = METHOD.others(trained.configs, trained.states, info)
    assert list(others) == ([] if tasks == "first" else ["mood"])
    for net in others.values():
        answer = trained.worker.predict(net, val.x).argmax(1)
        accuracy = float((answer == val.y[:, 1]).double().mean())
        assert accuracy == pytest.approx(METHOD.metrics(trained)["accuracy_mood"])
    metrics = METHOD.metrics(trained)
    assert metrics["accuracy_last"] <= metrics["accuracy_oracle"] and 0 < metrics["macs_share"] <= 1
    assert metrics["overthinking"] == pytest.approx(metrics["accuracy_oracle"] - metrics["accuracy_last"])
    assert ("accuracy_mood" in metrics) == (tasks != "first")
    assert len(measured(trained)) == (1 if tasks == "first" else 2)


def test_control_has_no_internal_classifier() -> None:
    trained = run(made_up(tasks=1), **{"backbone.weighting": "none", "backbone.epochs": 1})
    (val, _), *rest = measured(trained)
    assert not rest and val.logits.shape[1] == 1
    assert METHOD.metrics(trained)["macs_share"] == 1


@pytest.mark.parametrize("weighting", ["ramp", "uniform"])
def test_other_weightings_and_balance_train(weighting: str) -> None:
    trained = run(made_up(), **{"backbone.weighting": weighting, "backbone.balance": "inverse", "backbone.epochs": 1})
    assert all(tensor.isfinite().all() for tensor in trained.states["backbone"].tensors.values())


def test_dropout_does_not_depend_on_how_a_batch_is_shared() -> None:
    def batch(rows: slice) -> Batch:
        x = torch.zeros(rows.stop - rows.start, 1)
        return Batch(x, x, torch.arange(len(x)), seed=7, rows=rows, size=8, epoch=0.0)

    whole = dropout_mask(batch(slice(0, 8)).randn(5), 0.5)
    parts: list[Tensor] = [dropout_mask(batch(rows).randn(5), 0.5) for rows in (slice(0, 3), slice(3, 8))]
    assert torch.equal(whole, torch.cat(parts))


def test_sentences_too_short_for_the_stem_are_refused() -> None:
    data = made_up()
    info = dataclasses.replace(data.info, shape=(4,))
    with pytest.raises(UsageError, match="max_length 4"):
        Networks(METHOD.configure("quick")["backbone"], info)


def test_tables_and_figures() -> None:
    trained = run(made_up())
    tables, drawn = figures.tables(trained), figures.figures(trained)
    assert {"exits", "policies", "variable_depth", "overthinking", "overthinking_examples"} <= set(tables)
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    policies = tables["policies"]
    assert {row[2] for row in policies.rows if row[1] == "agreement"} == {"controlled", "accurate", "cheap"}
    last = next(row for row in policies.rows if row[:2] == ("kind", "last"))
    assert last[7:9] == ("", "") and 0 <= last[10] <= 1  # not held against itself; against the best fixed exit
    assert {"short_sentences", "long_sentences", "accuracy_against_macs"} <= set(drawn)
    exits = tables["exits"]
    assert [row[0] for row in exits.rows] == ["IC 1", "IC 2", "IC 3", "LC"]
