"""Exit policies against their definitions and laws, what choosing promises, and inference that stops."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bo_distill.methods.paired import compare, holm
from bo_distill.methods.res_ic import choosing
from bo_distill.methods.res_ic.choosing import GRID, choose, controlled, fitted, sweep, thresholds
from bo_distill.methods.res_ic.nets import ResIC, exit_macs
from bo_distill.methods.res_ic.paper import length_table, sentence_lengths
from bo_distill.methods.res_ic.policies import NEVER, RULES, EarlyExit, Exits, Policy, first, oracle
from bo_distill.methods.res_ic.risk import BEYOND, p_value, score
from bo_distill.methods.res_ic.tables import points


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


# Policies.


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


def test_agreement_is_the_sum_of_beem() -> None:
    exits = stacked(6)
    policy = chosen("agreement", exits, 0.5)
    accuracy = exits.right.double().mean(0)
    assert policy.weights == pytest.approx((accuracy / accuracy.sum()).tolist())
    score, answers = policy.scores(exits.logits, exits.lengths)
    for j in range(60):
        total = 0.0
        for i in range(5):
            p = exits.logits[j, i].softmax(0)
            agree = i > 0 and int(p.argmax()) == int(exits.logits[j, i - 1].argmax())
            total = policy.weights[i] * float(p.max()) + (total if agree else 0.0)
            assert float(score[j, i]) == pytest.approx(total, abs=1e-5)
    assert torch.equal(answers, exits.logits)


def test_a_higher_threshold_of_the_length_rule_leaves_no_earlier_than_at_an_exit() -> None:
    exits = stacked(3, n=200)
    policy = fitted("length", exits)
    for least in range(5):
        at = dataclasses.replace(policy, threshold=(least + 0.5) / 5)
        leaving, _ = at.decide(exits.logits, exits.lengths)
        expected = [max(policy.table[int(length) // 10], least) for length in exits.lengths]
        assert leaving.tolist() == expected


@given(seed=st.integers(0, 10_000), rule=st.sampled_from(["fixed", "confidence", "entropy", "patience", "ensemble"]))
@settings(max_examples=25, deadline=None)
def test_a_sweep_runs_from_the_first_exit_to_the_last(seed: int, rule: str) -> None:
    exits = stacked(seed)
    policy = chosen(rule, exits, 0.5)
    curve = sweep(policy, exits)
    assert curve.macs[0] == exits.macs[0] and curve.macs[-1] == exits.macs[-1]
    assert (curve.macs.diff() > -1e-9).all()  # a higher bar costs more
    for threshold, accuracy, macs, lost, won in zip(*(v.tolist() for v in vars(curve).values()), strict=True):
        exit, answer = dataclasses.replace(policy, threshold=threshold).decide(exits.logits, exits.lengths)
        assert accuracy == pytest.approx(float((answer.argmax(1) == exits.y).double().mean()))
        assert macs == pytest.approx(float(torch.tensor(exits.macs).double()[exit].mean()))
        right, last = answer.argmax(1) == exits.y, exits.right[:, -1]
        assert lost == pytest.approx(float((last & ~right).double().mean()))
        assert won == pytest.approx(float((right & ~last).double().mean()))
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


# Risk control.


def test_the_score_is_tangos_at_the_most_likely_rate() -> None:
    n, delta = 80, 0.05
    for b, c in ((3, 1), (0, 0), (7, 9), (1, 6)):
        rates = np.linspace(1e-9, (1 - delta) / 2 - 1e-9, 200_001)
        log_likelihood = b * np.log(rates + delta) + c * np.log(rates) + (n - b - c) * np.log1p(-2 * rates - delta)
        best = rates[log_likelihood.argmax()]
        expected = (b - c - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))
        assert float(score(np.array(b), np.array(c), n, delta)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 3), (2, 2), (0, 5)])
def test_the_p_value_is_the_chance_of_so_low_a_score(b: int, c: int) -> None:
    n, delta = 40, 0.1
    all_b, all_c = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    fits = all_b + all_c <= n
    all_b, all_c = all_b[fits], all_c[fits]
    low = score(all_b, all_c, n, delta) <= float(score(np.array(b), np.array(c), n, delta)) + 1e-9
    worst = 0.0
    likely = stats.beta.ppf(1 - BEYOND, c + 1, n - c)
    for rate in np.linspace(0, min(likely, (1 - delta) / 2 - 1e-9), 200):
        p = np.stack([all_b, all_c, n - all_b - all_c], 1)
        worst = max(worst, float(stats.multinomial.pmf(p[low], n, [rate + delta, rate, 1 - 2 * rate - delta]).sum()))
    assert p_value(b, c, n, delta) == pytest.approx(worst + BEYOND, rel=0.01)


def test_the_worst_rate_is_found_between_those_that_are_tried() -> None:
    assert p_value(1, 1, 60, 0.05) == pytest.approx(0.0738943, rel=1e-4)  # of 20,001 rates; the worst of 41 has 0.0738


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("level", [0.1, 0.02])
def test_the_test_holds_its_level(rate: float, level: float) -> None:
    """Its chance to say "within delta" where the risk is delta, summed over all outcomes."""
    n, delta = 100, 0.04
    chance = 0.0
    for c in range(int(stats.binom.isf(1e-7, n, rate)) + 1):
        largest = -1
        while largest < n - c and p_value(largest + 1, c, n, delta) <= level:
            largest += 1
        beside = stats.binom.cdf(largest, n - c, (rate + delta) / (1 - rate))
        chance += float(stats.binom.pmf(c, n, rate) * beside)
    assert chance <= level


def nearly_flat(rows: int = 4000, exits: int = 5) -> Exits:
    """A world in which every exit is a little less accurate than the last one, and errs on other sentences."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (rows,), generator=generator)
    noise = torch.randn(rows, exits, 4, generator=generator)
    logits = 2 * (noise + F.one_hot(y, 4)[:, None] * torch.linspace(1.88, 2.0, exits)[:, None])
    lengths = torch.randint(5, 61, (rows,), generator=generator)
    return Exits(logits, y, lengths, 60, tuple(range(10, 10 + exits)))


def test_the_promised_risk_is_kept_where_the_best_seen_is_not() -> None:
    """500 repetitions with 500 validation rows: is any of the policies, picked at will, over the bound?"""
    world, delta, alpha = nearly_flat(), 0.02, 0.1
    generator = torch.Generator().manual_seed(1)

    @cache
    def truth(policy: Policy) -> tuple[float, float]:
        """Risk, and exits passed on average."""
        exit, answer = policy.decide(world.logits, world.lengths)
        risk = world.right[:, -1].double() - (answer.argmax(1) == world.y).double()
        return float(risk.mean()), float(exit.double().mean())

    broken, passed, believed, true = 0, 0.0, [], []
    for repetition in range(500):
        rows = torch.randint(len(world.y), (500,), generator=generator)
        seen = Exits(world.logits[rows], world.y[rows], world.lengths[rows], 60, world.macs)
        policies = controlled(seen, delta, alpha, ("fixed", "length", "confidence"))
        broken += any(truth(policy)[0] > delta for policy in policies.values())
        passed += truth(policies["confidence"])[1] / 500
        if repetition < 50:
            cheap = choose("length", seen, "cheap")
            _, answer = cheap.decide(seen.logits, seen.lengths)
            believed.append(float(((answer.argmax(1) == seen.y).double() - seen.right[:, -1].double()).mean()))
            true.append(-truth(cheap)[0])
    assert broken <= alpha * 500
    assert passed < 0.9 * 4  # the bound is of use
    assert sum(believed) / 50 > 0 and sum(true) / 50 < -0.01  # what was seen was not so


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_nothing_can_be_shown_with_few_rows(rule: str, rows: int) -> None:
    exits = stacked(8, n=rows)
    assert choose(rule, exits, "controlled", delta=0.01, alpha=0.1) == Policy("last", 5)


def test_exits_that_agree_with_the_last_are_left_at_once() -> None:
    exits = stacked(9, n=2000)
    same = dataclasses.replace(exits, logits=exits.logits[:, -1:].expand(-1, 5, -1))
    for rule, policy in controlled(same, 0.01, 0.1).items():
        if rule not in ("last", "ensemble"):
            assert policy.threshold == float(GRID[0]), rule


def test_a_rule_that_is_done_hands_its_share_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.03 is not below 0.05 / 2; it is below 0.05, which is left for one rule once the other has been all the way."""
    p_values = {"fixed": [0.01, 0.02], "length": [0.02, 0.03, 0.06]}
    monkeypatch.setattr(choosing, "p_value", lambda b, c, n, delta: b)

    def steps(rule: str, exits: Exits) -> list[tuple[Policy, float, int, int]]:
        return [(Policy(rule, 5, threshold=1.0 - i), p, 0, 0) for i, p in enumerate(p_values[rule])]

    monkeypatch.setattr(choosing, "_steps", steps)
    found = controlled(stacked(0), 0.01, 0.05, ("fixed", "length"))
    assert (found["fixed"].threshold, found["length"].threshold) == (0.0, 0.0)
    p_values["fixed"][1] = 0.026
    found = controlled(stacked(0), 0.01, 0.05, ("fixed", "length"))
    assert (found["fixed"].threshold, found["length"].threshold) == (1.0, 1.0)


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


def test_a_network_in_bf16_stops_where_its_stored_logits_say() -> None:
    torch.manual_seed(0)
    net, x = ResIC(30, 5, 18, width=8), torch.randint(1, 32, (400, 30))
    net(x)
    net.eval()
    with torch.no_grad():
        for head, logits in zip(net.heads, net(x).unbind(1), strict=True):
            head.bias -= logits.mean(0)
            best = (logits - logits.mean(0)).topk(2, 1).values
            for own in (head.weight, head.bias):  # half of all are so sure: bf16 has no number between 0.996 and 1
                own *= math.log(4000) / (best[:, 0] - best[:, 1]).median()
    policy = Policy("confidence", 8, threshold=0.9995)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, answer = net(x), EarlyExit(net, policy, slice(0, 5))(x)
    assert logits.dtype is torch.float32, "and so have its losses and gradients"
    exit, expected = policy.decide(logits.float(), sentence_lengths(x))
    assert 0.1 < float((exit == 0).double().mean()) < 0.9
    assert torch.equal(answer, expected)


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
    assert holm(np.array([0.03, 0.01, 0.04])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    same = compare(first, first)
    assert (same.accuracy, same.p) == (0, 1) and math.isnan(same.low) and points(same) == "+0.00"


def test_a_score_on_a_threshold_of_the_risk_control_leaves_as_it_did_when_it_was_tested() -> None:
    for threshold in GRID.tolist():
        scores = torch.tensor([[threshold, 0.0]], dtype=torch.float32)
        assert bool(scores[0, 0].double() >= threshold) == bool(first(scores, threshold)[0] == 0)
        below = torch.nextafter(scores, torch.tensor(-torch.inf))
        assert first(below, threshold)[0] == 1 and below[0, 0].double() < threshold
