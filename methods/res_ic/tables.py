"""Tables 1, 3, 4 and 5 in our figures, and what the paper leaves open: policies, tests, overthinking, speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bo_distill.methods.data.dataset import Split
from bo_distill.methods.method import Table, Trained
from bo_distill.methods.metrics import macro_f1
from bo_distill.methods.paired import Difference, compare, holm
from bo_distill.methods.res_ic.choosing import choose, controlled
from bo_distill.methods.res_ic.method import chosen, measured, model
from bo_distill.methods.res_ic.paper import BUCKET, length_bucket
from bo_distill.methods.res_ic.policies import RULES, EarlyExit, Exits, Policy, oracle
from bo_distill.methods.res_ic.settings import Stopping


@dataclass(frozen=True)
class Task:
    """One task of a finished run.

    Attributes:
        name, classes: of the task.
        val, on: all exits on validation, where everything is chosen, and on the split that is reported.
        policies: (rule, goal) -> the policy chosen on `val`.
    """

    name: str
    classes: tuple[str, ...]
    val: Exits
    on: Exits
    policies: Mapping[tuple[str, str], Policy]

    @property
    def exits(self) -> list[str]:
        """Names of the exits, as the paper writes them."""
        return [f"IC {i}" for i in range(1, len(self.on.macs))] + ["LC"]

    def outcome(self, rule: str, goal: str = "accurate") -> tuple[Tensor, Tensor]:
        """(exit, answered class) of each sentence."""
        exit, answer = self.policies[rule, goal].decide(self.on.logits, self.on.lengths)
        return exit, answer.argmax(1)

    def macs(self, exit: Tensor) -> float:
        """Multiply-adds per sentence, on average, of leaving at these exits."""
        return float(torch.tensor(self.on.macs, dtype=torch.float64)[exit].mean())

    def f1(self, guess: Tensor) -> float:
        """Macro F1 of the answers (n,), four digits."""
        return round(macro_f1(guess, self.on.y, len(self.classes)), 4)


def observed(trained: Trained) -> list[Task]:
    """Each task with every policy: of least risk, best and cheapest on validation."""
    config: Stopping = trained.configs["policy"]

    def policies(val: Exits) -> dict[tuple[str, str], Policy]:
        """Policies by (rule, goal), all chosen on validation."""
        safe = controlled(val, config.delta, config.alpha)
        found = {("last", "accurate"): choose("last", val)}
        for rule in RULES:
            if rule != "last":
                found[rule, "controlled"] = safe[rule]
                found |= {(rule, goal): choose(rule, val, goal) for goal in ("accurate", "cheap")}
        return found

    return [
        Task(name, classes, val, on, policies(val))
        for (name, classes), (val, on) in zip(trained.worker.data.info.tasks, measured(trained), strict=False)
    ]


def tables(trained: Trained) -> dict[str, Table]:
    """Tables 1, 3, 4 and 5 in our figures, and what the paper leaves open, by name."""
    tasks = observed(trained)
    return {
        "exits": exits_table(tasks),
        "variable_depth": variable_table(tasks),
        "length_table": length_choice_table(tasks),
        "policies": policy_table(tasks),
        "leaving": leaving_table(tasks),
        "error_by_length": error_table(tasks),
        "overthinking": overthinking_table(tasks),
        "overthinking_examples": examples_table(tasks, trained.split),
        "throughput": throughput_table(trained, tasks[0]),
    }


def share(rows: Tensor) -> float | None:
    """Of true values; None where there are no rows."""
    return round(float(rows.double().mean()), 4) if len(rows) else None


def bucket_name(b: int) -> str:
    """The lengths of bucket `b`, in characters."""
    return f"{b * BUCKET}-{b * BUCKET + BUCKET - 1}"


def exits_table(tasks: Sequence[Task]) -> Table:
    """Tables 1 and 4: accuracy and macro F1 of every exit, and what leaving there costs."""
    columns = ["exit"]
    rows: list[list[object]] = [[name] for name in tasks[0].exits]
    for task in tasks:
        columns += [f"{task.name} ACC", f"{task.name} F1"]
        for i, row in enumerate(rows):
            row += [share(task.on.right[:, i]), task.f1(task.on.logits[:, i].argmax(1))]
    for row, macs in zip(rows, tasks[0].on.macs, strict=True):
        row.append(macs)
    return Table(
        f"Tables 1 and 4: every exit of Res-IC{2 * len(rows) + 2}" if len(rows) > 1 else "No internal classifier",
        (*columns, "MACs"),
        tuple(tuple(row) for row in rows),
    )


def variable_table(tasks: Sequence[Task]) -> Table:
    """Table 5. The paper's Max is the best exit on the split that is scored; what validation would choose is added."""
    rows = []
    for task in tasks:
        best = int(task.on.right.sum(0).argmax())
        answers = {f"Max, {task.exits[best]} on this split": task.on.logits[:, best].argmax(1)}
        for words, rule in (("LC", "last"), ("Max on validation", "fixed"), ("variable by length", "length")):
            answers[words] = task.outcome(rule)[1]
        rows += [(task.name, words, share(guess == task.on.y), task.f1(guess)) for words, guess in answers.items()]
    return Table("Table 5: variable depth", ("task", "answer of", "ACC", "F1"), tuple(rows))


def length_choice_table(tasks: Sequence[Task]) -> Table:
    """The table behind the variable-depth model, and whether its choice held."""
    rows = []
    for task in tasks:
        val, on = task.val, task.on
        for b, exit in enumerate(task.policies["length", "accurate"].table):
            then, here = length_bucket(val.lengths) == b, length_bucket(on.lengths) == b
            chosen_on = (int(then.sum()), task.exits[exit], share(val.right[then, exit]), share(val.right[then, -1]))
            rows.append(
                (
                    task.name,
                    bucket_name(b),
                    *chosen_on,
                    int(here.sum()),
                    share(on.right[here, exit]),
                    share(on.right[here, -1]),
                )
            )
    columns = (
        "task",
        "characters",
        "validation rows",
        "exit",
        "its ACC",
        "LC's ACC",
        "rows here",
        "its ACC",
        "LC's ACC",
    )
    return Table("The exit that was best on validation for each length, there and on this split", columns, tuple(rows))


def policy_table(tasks: Sequence[Task]) -> Table:
    """Every policy chosen on validation, with paired tests against the last and the best fixed exit.

    Holm's correction is over all tests of a task.
    """
    rows: list[tuple[object, ...]] = []
    references = [("last", "accurate"), ("fixed", "accurate")]
    for task in tasks:
        outcomes = {key: task.outcome(*key) for key in task.policies}
        right = {key: guess == task.on.y for key, (_, guess) in outcomes.items()}
        tests = {
            (key, other): compare(right[key], right[other]) for key in right for other in references if key != other
        }
        adjusted = holm(np.array([test.p for test in tests.values()])).round(4).tolist()
        cells = {pair: (points(test), p) for (pair, test), p in zip(tests.items(), adjusted, strict=True)}
        for key, (exit, guess) in outcomes.items():
            kept = (share(right[key]), task.f1(guess), *cost(task.macs(exit), task))
            rows.append(
                (task.name, *key, *kept, *(c for other in references for c in cells.get((key, other), ("", ""))))
            )
        exit = oracle(task.on)
        guess = task.on.logits.argmax(2).gather(1, exit[:, None]).squeeze(1)
        kept = (share(guess == task.on.y), task.f1(guess), *cost(task.macs(exit), task))
        rows.append((task.name, "oracle", "any exit right", *kept, *[""] * 4))
    columns = ("task", "policy", "chosen to be", "ACC", "F1", "MACs", "share of MACs")
    return Table(
        "Exit policies chosen on validation, of this one training: differences in points, each with its own 95% "
        "bootstrap interval; p of McNemar's test after Holm's correction over the task's tests",
        (*columns, "against LC", "p (Holm)", "against the best fixed exit", "p (Holm)"),
        tuple(rows),
    )


def points(difference: Difference) -> str:
    """A difference with its interval, in percentage points; without one where the two never differ."""
    if math.isnan(difference.low):
        return f"{100 * difference.accuracy:+.2f}"
    values = [100 * value for value in (difference.accuracy, difference.low, difference.high)]
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*values)


def cost(macs: float, task: Task) -> tuple[int, float]:
    """Multiply-adds of a sentence, and as a share of all."""
    return round(macs), round(macs / task.on.macs[-1], 3)


def leaving_table(tasks: Sequence[Task]) -> Table:
    """Share of sentences that leave at each exit, by policy; the oracle leaves at the first exit that is right."""
    rows: list[tuple[object, ...]] = []
    for task in tasks:
        leaving = {key: task.outcome(*key)[0] for key in task.policies} | {
            ("oracle", "any exit right"): oracle(task.on)
        }
        rows += [
            (task.name, *key, *(share(exit == i) for i in range(len(task.exits)))) for key, exit in leaving.items()
        ]
    return Table(
        "Share of sentences that leave at each exit", ("task", "policy", "chosen to be", *tasks[0].exits), tuple(rows)
    )


def error_table(tasks: Sequence[Task]) -> Table:
    """Error rate of every exit for each length, beside the share of the last exit's errors that figs. 2 and 3 show."""
    rows: list[tuple[object, ...]] = []
    for task in tasks:
        wrong, bucket = ~task.on.right, length_bucket(task.on.lengths)
        for b in bucket.unique().tolist():
            here = bucket == b
            rates = [share(wrong[here, i]) for i in range(len(task.exits))]
            of_errors = share(here[wrong[:, -1]])
            rows.append((task.name, bucket_name(b), int(here.sum()), *rates, of_errors))
    columns = ("task", "characters", "rows", *(f"{name} error" for name in tasks[0].exits), "share of LC's errors")
    return Table("Error rate by length", columns, tuple(rows))


def overthinking_table(tasks: Sequence[Task]) -> Table:
    """Right at an early exit and wrong at the last, by exit, by length and by class; and the other way round."""
    rows: list[tuple[object, ...]] = []
    for task in tasks:
        right, last, bucket = task.on.right[:, :-1], task.on.right[:, -1:], length_bucket(task.on.lengths)
        lost, won = right & ~last, ~right & last
        for i, name in enumerate(task.exits[:-1]):
            rows.append((task.name, name, len(bucket), share(lost[:, i]), share(won[:, i])))
        places = {"any IC": torch.ones_like(bucket, dtype=torch.bool)}
        places |= {f"any IC, {bucket_name(b)} characters": bucket == b for b in bucket.unique().tolist()}
        places |= {f"any IC, class {task.classes[k]}": task.on.y == k for k in task.on.y.unique().tolist()}
        for words, here in places.items():
            rows.append((task.name, words, int(here.sum()), share(lost.any(1)[here]), share(won.all(1)[here])))
    return Table(
        "Overthinking: right at the exit and wrong at LC; beside it, wrong at the exit (or all ICs) and right at LC",
        ("task", "where", "rows", "overthinking", "gained by depth"),
        tuple(rows),
    )


def examples_table(tasks: Sequence[Task], split: Split, most: int = 10) -> Table:
    """Sentences that most internal classifiers have right and the last classifier has wrong."""
    rows: list[tuple[object, ...]] = []
    for task in tasks:
        right = task.on.right
        votes = right.sum(1) * ~right[:, -1]
        for j in votes.argsort(descending=True, stable=True)[: min(most, int((votes > 0).sum()))].tolist():
            at = ", ".join(task.exits[i] for i in right[j].nonzero().flatten().tolist())
            p, guess = task.on.logits[j, -1].softmax(0).max(0)
            answer = f"{task.classes[int(guess)]} ({100 * float(p):.0f}%)"
            rows.append((task.name, shortened(split.texts[j]), task.classes[int(task.on.y[j])], at, answer))
    columns = ("task", "sentence", "class", "right at", "LC's answer")
    return Table("Sentences that were right early and wrong at the end", columns, tuple(rows))


def shortened(text: str, most: int = 80) -> str:
    """The text on one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def throughput_table(trained: Trained, task: Task, most: int = 1024, batch: int = 256) -> Table:
    """Sentences per second of inference that stops, beside running all exits, on this machine as busy as it is."""
    device = trained.worker.device
    chunks = trained.split.x[:most].long().to(device).split(batch)
    deployed = model(trained.configs, trained.states, trained.worker.data.info).to(device).eval()
    assert isinstance(deployed, EarlyExit)

    def speed(run: Callable[[Tensor], object]) -> float:
        """Sentences per second, the faster of two passes after one to warm up."""
        run(chunks[0])
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            for chunk in chunks:
                run(chunk)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return sum(map(len, chunks)) / min(seconds)

    with torch.inference_mode():
        whole = speed(deployed)
    rows: list[tuple[object, ...]] = [("all exits", "", round(whole), 1.0, 1.0)]
    policies = {("as deployed", ""): chosen(trained.states)[0]}
    policies |= {key: policy for key, policy in task.policies.items() if key[1] == "controlled"}
    for (rule, goal), policy in policies.items():
        stopping = EarlyExit(deployed.net, policy, deployed.columns).eval()
        rate = speed(stopping.infer)
        exit = torch.cat([stopping.infer(chunk)[1] for chunk in chunks]).cpu()
        rows.append((rule, goal, round(rate), round(rate / whole, 2), round(task.macs(exit) / task.on.macs[-1], 3)))
    return Table(
        f"Batched inference that stops: batches of {batch}, {device.type}, {torch.get_num_threads()} threads",
        ("policy", "chosen to be", "sentences/s", "times all exits", "share of MACs"),
        tuple(rows),
    )
