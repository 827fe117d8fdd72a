"""Res-IC: the equations against slow loops, CBAM against its published definition, policies against their own laws."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distributed.worker import LocalWorker
from methods.cost import count
from methods.data.dataset import Data, Info, Split
from methods.errors import UsageError
from methods.method import State, Trained
from methods.res_ic import figures
from methods.res_ic.method import METHOD, measured
from methods.res_ic.nets import CBAM, ChannelAttention, Networks, ResIC, SpatialAttention, exit_macs
from methods.res_ic.paired import compare
from methods.res_ic.paper import (
    class_weights,
    dropout_mask,
    exit_losses,
    exit_weights,
    length_table,
    sentence_lengths,
    total_loss,
)
from methods.res_ic.policies import (
    NEVER,
    RULES,
    EarlyExit,
    Exits,
    Policy,
    choose,
    first,
    oracle,
    sweep,
    temperatures,
    thresholds,
)
from methods.training import Batch


def stacked(seed: int, n: int = 60, e: int = 5, k: int = 4) -> Exits:
    """Exits that get better with depth, on made-up sentences."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n,), generator=generator)
    noise = torch.randn(n, e, k, generator=generator)
    logits = noise + 3 * F.one_hot(y, k)[:, None] * torch.linspace(0.2, 1, e)[:, None]
    lengths = torch.randint(5, 61, (n,), generator=generator)
    return Exits(logits, y, lengths, 60, tuple(range(10, 10 + e)))


def chosen(rule: str, exits: Exits, threshold: float) -> Policy:
    return choose(rule, exits, "given", threshold)


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


def test_length_table_against_a_loop() -> None:
    exits = stacked(3, n=200)
    table = length_table(exits.right, exits.lengths, 70)
    cheap = length_table(exits.right, exits.lengths, 70, cheapest=True)
    assert len(table) == 8 and table[7] == 4  # no sentence has 70 characters: the last exit
    for b in range(7):
        rows = [j for j in range(200) if exits.lengths[j] // 10 == b]
        if rows:
            hits = [sum(bool(exits.right[j, i]) for j in rows) for i in range(5)]
            assert table[b] == hits.index(max(hits))
            assert cheap[b] == next(i for i in range(5) if hits[i] >= hits[-1])


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


# Policies.


@given(seed=st.integers(0, 10_000), rule=st.sampled_from(sorted(RULES)))
@settings(max_examples=40, deadline=None)
def test_no_score_looks_ahead(seed: int, rule: str) -> None:
    exits = stacked(seed, n=12)
    policy = chosen(rule, exits, 0.5)
    whole, answers = policy.scores(exits.logits, exits.lengths)
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1 + 1e-6
    for e in range(1, 6):
        part, heads = policy.scores(exits.logits[:, :e], exits.lengths)
        assert torch.allclose(part, whole[:, :e], atol=1e-6)
        assert torch.allclose(heads, answers[:, :e], atol=1e-6)


def test_patience_against_its_algorithm() -> None:
    exits = stacked(1)
    for patience in range(1, 5):
        exit, _ = chosen("patience", exits, (patience - 0.5) / 4).decide(exits.logits, exits.lengths)
        for j in range(60):
            guesses, same, left = exits.logits[j].argmax(1).tolist(), 0, 4
            for i in range(1, 5):
                same = same + 1 if guesses[i] == guesses[i - 1] else 0
                if same == patience:
                    left = i
                    break
            assert int(exit[j]) == left


def test_entropy_and_confidence_against_their_definitions() -> None:
    exits = stacked(2, n=5)
    p = exits.logits.double().softmax(2)
    confidence, _ = chosen("confidence", exits, 0.9).scores(exits.logits, exits.lengths)
    entropy, _ = chosen("entropy", exits, 0.9).scores(exits.logits, exits.lengths)
    for j in range(5):
        for i in range(5):
            h = -sum(float(q) * math.log(float(q)) for q in p[j, i])
            assert float(confidence[j, i]) == pytest.approx(float(p[j, i].max()), abs=1e-5)
            assert float(entropy[j, i]) == pytest.approx(1 - h / math.log(4), abs=1e-5)


def test_ensemble_is_the_mean_of_calibrated_probabilities() -> None:
    exits = stacked(4)
    policy = chosen("ensemble", exits, 0.8)
    score, answers = policy.scores(exits.logits, exits.lengths)
    p = (exits.logits / torch.tensor(policy.temperatures)[:, None]).softmax(2)
    for i in range(5):
        mean = p[:, : i + 1].mean(1)
        assert torch.allclose(answers[:, i].exp(), mean, atol=1e-5)
        assert torch.allclose(score[:, i], mean.amax(1), atol=1e-5)


def test_temperature_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(20_000, 1, 5, generator=generator)
    y = torch.multinomial(z[:, 0].softmax(1), 1, generator=generator).squeeze(1)
    stretched = torch.cat([z * 3, z * 0.5], 1)
    assert temperatures(stretched, y) == pytest.approx((3.0, 0.5), rel=0.05)


def test_temperature_of_a_perfect_exit_is_bounded() -> None:
    z = 50 * F.one_hot(torch.arange(4), 4)[:, None].float()
    assert temperatures(z, torch.arange(4))[0] >= 0.05 - 1e-9


@given(seed=st.integers(0, 10_000), rule=st.sampled_from(["fixed", "confidence", "entropy", "patience", "ensemble"]))
@settings(max_examples=25, deadline=None)
def test_a_sweep_runs_from_the_first_exit_to_the_last(seed: int, rule: str) -> None:
    exits = stacked(seed)
    policy = chosen(rule, exits, 0.5)
    curve = sweep(policy, exits)
    assert curve.macs[0] == exits.macs[0] and curve.macs[-1] == exits.macs[-1]
    assert (curve.macs.diff() > -1e-9).all()  # a higher bar costs more
    for threshold, accuracy, macs in zip(*(v.tolist() for v in vars(curve).values()), strict=True):
        exit, answer = dataclasses.replace(policy, threshold=threshold).decide(exits.logits, exits.lengths)
        assert accuracy == pytest.approx(float((answer.argmax(1) == exits.y).double().mean()))
        assert macs == pytest.approx(float(torch.tensor(exits.macs).double()[exit].mean()))
    exit, answer = choose(rule, exits).decide(exits.logits, exits.lengths)
    assert float((answer.argmax(1) == exits.y).double().mean()) == pytest.approx(float(curve.accuracy.max()))
    cheap, answer = choose(rule, exits, "cheap").decide(exits.logits, exits.lengths)
    if rule != "ensemble":  # whose answer at the last exit is not the last exit's
        assert float((answer.argmax(1) == exits.y).double().mean()) >= float(exits.right[:, -1].double().mean())
        assert int(cheap.sum()) <= int(exit.sum())


def test_thresholds_lie_between_scores() -> None:
    scores = torch.rand(50, 3)
    at = thresholds(scores)
    assert at[0] == 0 and at[-1] == NEVER and (at.diff() > 0).all()
    assert float((at[1:-1, None] - scores[:, :-1].flatten()).abs().min()) > 4e-7
    assert len(thresholds(torch.rand(5000, 3))) == 202


def test_best_fixed_exit_is_the_best_exit() -> None:
    exits = stacked(7)
    exit, _ = choose("fixed", exits).decide(exits.logits, exits.lengths)
    accuracy = exits.right.double().mean(0)
    assert exit.unique().tolist() == [int(accuracy.argmax())]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_nothing_that_picks_an_exit_beats_the_oracle(seed: int) -> None:
    exits = stacked(seed)
    ceiling = float(exits.right.any(1).double().mean())
    assert float(exits.right.gather(1, oracle(exits)[:, None]).double().mean()) == ceiling
    for rule in set(RULES) - {"ensemble"}:
        _, answer = choose(rule, exits).decide(exits.logits, exits.lengths)
        assert float((answer.argmax(1) == exits.y).double().mean()) <= ceiling


def test_one_exit_leaves_nothing_to_choose() -> None:
    exits = dataclasses.replace(stacked(5, e=1), macs=(10,))
    for rule in RULES:
        exit, answer = choose(rule, exits).decide(exits.logits, exits.lengths)
        assert exit.tolist() == [0] * 60 and torch.equal(answer.argmax(1), exits.logits[:, 0].argmax(1))


# Inference that stops.


@pytest.mark.parametrize("rule", sorted(RULES))
def test_inference_that_stops_answers_as_the_whole_network_does(rule: str) -> None:
    torch.manual_seed(0)
    net = ResIC(30, 5, 18, width=8)
    x = torch.randint(1, 32, (40, 30))
    x[torch.arange(30) >= torch.randint(5, 30, (40, 1))] = 0
    net(x)
    net.eval()
    with torch.no_grad():  # answers that differ, from a network that nobody trained
        for head in net.heads:
            head.weight.normal_(std=3.0)
        for head, mean in zip(net.heads, net(x).mean(0), strict=True):
            head.bias -= mean
    lengths = sentence_lengths(x)
    with torch.no_grad():
        logits = net(x)[:, :, 1:4]
    exits = Exits(logits, torch.randint(3, (40,)), lengths, 30, tuple(exit_macs(net, 30)))
    score, _ = chosen(rule, exits, 0.5).scores(logits, lengths)
    # The threshold that spreads the sentences over the most exits.
    policy = chosen(rule, exits, max(thresholds(score).tolist(), key=lambda at: len(first(score, at).unique())))
    early = EarlyExit(net, policy, slice(1, 4)).eval()

    worked: list[int] = []
    for part in net.parts:
        part.register_forward_hook(lambda module, inputs, out: worked.append(len(out)))
    answer, exit = early.infer(x)
    still_in = [int((exit >= i).sum()) for i in range(8)]
    assert worked == [n for n in still_in if n]  # blocks work for the sentences that are still in, and no others
    expected, _ = policy.decide(logits, lengths)
    assert torch.equal(exit, expected)
    with torch.no_grad():
        assert torch.allclose(early(x), answer, atol=1e-5)
    if rule not in ("last", "fixed", "length"):
        assert len(exit.unique()) > 2


# Paired tests.


def test_mcnemar_and_bootstrap() -> None:
    first = torch.tensor([True] * 80 + [False] * 20)
    second = first.clone()
    second[:12] = False  # twelve that only the first has right
    second[80:83] = True  # three that only the second has
    result = compare(first, second)
    tail = sum(math.comb(15, i) for i in range(4)) / 2**15
    assert result.p == pytest.approx(2 * tail)
    assert result.accuracy == pytest.approx(0.09)
    # Normal approximation: var = (b + c - (b - c)^2 / n) / n^2.
    half = 1.96 * math.sqrt((15 - 81 / 100) / 100**2)
    assert result.low == pytest.approx(0.09 - half, abs=0.011) and result.high == pytest.approx(0.09 + half, abs=0.011)
    same = compare(first, first)
    assert (same.accuracy, same.low, same.high, same.p) == (0, 0, 0, 1)


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
    assert {"short_sentences", "long_sentences", "accuracy_against_macs"} <= set(drawn)
    exits = tables["exits"]
    assert [row[0] for row in exits.rows] == ["IC 1", "IC 2", "IC 3", "LC"]
