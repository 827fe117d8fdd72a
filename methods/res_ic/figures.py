"""Tables 1 and 3 to 5 and figures 2 and 3 in our figures, and what the paper leaves open: policies, tests, MACs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.data.dataset import Split
from methods.method import Table, Trained
from methods.metrics import macro_f1
from methods.res_ic.method import chosen, measured, model
from methods.res_ic.paired import Difference, compare
from methods.res_ic.paper import BUCKET, length_bucket
from methods.res_ic.policies import RULES, EarlyExit, Exits, Policy, choose, oracle, sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by dash and marker as well as by colour (Okabe and Ito's, safe for colour-blind readers).
STYLES = {
    "fixed": ("#000000", "-", "o"),
    "confidence": ("#0072B2", "-", ""),
    "entropy": ("#E69F00", "--", ""),
    "patience": ("#009E73", "-.", "s"),
    "ensemble": ("#D55E00", ":", ""),
}
DASHES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"), ((0, (1, 1)), "x"))


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
        return round(macro_f1(guess, self.on.y, len(self.classes)), 4)


def observed(trained: Trained) -> list[Task]:
    goals = [("last", "accurate")] + [
        (rule, goal) for rule in RULES if rule != "last" for goal in ("accurate", "cheap")
    ]
    return [
        Task(name, classes, val, on, {(rule, goal): choose(rule, val, goal) for rule, goal in goals})
        for (name, classes), (val, on) in zip(trained.worker.data.info.tasks, measured(trained), strict=False)
    ]


def tables(trained: Trained) -> dict[str, Table]:
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


def figures(trained: Trained) -> dict[str, Figure]:
    tasks = observed(trained)
    longest = tasks[0].on.longest
    # The paper's limits are 30 and 90 of 132 characters; where fewer are kept, the same shares of them.
    short, long = (max(BUCKET, round(longest * limit / 132 / BUCKET) * BUCKET) for limit in (30, 90))
    return {
        "short_sentences": length_figure(tasks[0], 0, short, f"Fig. 2: sentences of fewer than {short} characters"),
        "long_sentences": length_figure(tasks[0], long, longest + 1, f"Fig. 3: sentences from {long} characters on"),
        "accuracy_against_macs": curve_figure(tasks),
        "leaving": leaving_figure(tasks[0]),
        "overthinking": overthinking_figure(tasks),
    }


def share(rows: Tensor) -> float | None:
    """Of true values; None where there are no rows."""
    return round(float(rows.double().mean()), 4) if len(rows) else None


def bucket_name(b: int) -> str:
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
    """Every policy chosen on validation, with paired tests against the last and the best fixed exit."""

    def words(difference: Difference) -> tuple[str, float]:
        points = [100 * value for value in (difference.accuracy, difference.low, difference.high)]
        return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*points), round(difference.p, 4)

    rows: list[tuple[object, ...]] = []
    for task in tasks:
        last, fixed = (task.outcome(rule)[1] == task.on.y for rule in ("last", "fixed"))
        for rule, goal in task.policies:
            exit, guess = task.outcome(rule, goal)
            right, macs = guess == task.on.y, task.macs(exit)
            cost = (round(macs), round(macs / task.on.macs[-1], 3))
            tests = (*words(compare(right, last)), *words(compare(right, fixed)))
            rows.append((task.name, rule, goal, share(right), task.f1(guess), *cost, *tests))
        exit = oracle(task.on)
        guess, macs = task.on.logits.argmax(2).gather(1, exit[:, None]).squeeze(1), task.macs(exit)
        cost = (round(macs), round(macs / task.on.macs[-1], 3))
        rows.append(
            (task.name, "oracle", "any exit right", share(guess == task.on.y), task.f1(guess), *cost, *[""] * 4)
        )
    kept = ("task", "policy", "chosen to be", "ACC", "F1", "MACs", "share of MACs")
    return Table(
        "Exit policies chosen on validation: differences in points with 95% bootstrap intervals, p of McNemar's test",
        (*kept, "against LC", "p", "against the best fixed exit", "p"),
        tuple(rows),
    )


def leaving_table(tasks: Sequence[Task]) -> Table:
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
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def throughput_table(trained: Trained, task: Task, most: int = 1024, batch: int = 256) -> Table:
    """Sentences per second of inference that stops, beside running all exits, on this machine as busy as it is."""
    device = trained.worker.device
    chunks = trained.split.x[:most].long().to(device).split(batch)
    deployed = model(trained.configs, trained.states, trained.worker.data.info).to(device).eval()
    assert isinstance(deployed, EarlyExit)

    def speed(run: Callable[[Tensor], object]) -> float:
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
    policies |= {key: policy for key, policy in task.policies.items() if key[1] == "cheap"}
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


def exit_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, size=8)
    axes.set_xlabel("exit")
    axes.grid(alpha=0.3)


def length_figure(task: Task, low: int, high: int, title: str) -> Figure:
    """Of each exit's errors the share that lies in each bucket of lengths, as in the paper, and its error rate."""
    from matplotlib.figure import Figure

    figure = Figure((10.0, 3.8), layout="constrained")
    figure.suptitle(f"{title} ({task.name})")
    left, right = figure.subplots(1, 2)
    wrong, bucket = (~task.on.right).double(), length_bucket(task.on.lengths)
    for b, (dash, marker) in zip(range(low // BUCKET, -(-high // BUCKET)), DASHES * 3, strict=False):
        here = bucket == b
        if here.any():
            style = {"linestyle": dash, "marker": marker, "markersize": 4}
            left.plot(100 * wrong[here].sum(0) / wrong.sum(0).clamp_min(1), **style)
            right.plot(100 * wrong[here].mean(0), **style, label=f"{bucket_name(b)} ({int(here.sum())})")
    right.plot(100 * wrong.mean(0), color="black", linewidth=2, label=f"all ({len(wrong)})")
    left.set(title="Share of the exit's errors", ylabel="share of errors (%)")
    right.set(title="Error rate", ylabel="error rate (%)")
    for axes in (left, right):
        exit_axis(axes, task.exits)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside right center", title="characters\n(sentences)", fontsize=8
    )
    return figure


def curve_figure(tasks: Sequence[Task]) -> Figure:
    """Accuracy against average MACs. Thresholds come from validation, the points from the split that is reported."""
    from matplotlib.figure import Figure

    figure = Figure((6.2 * len(tasks), 4.6), layout="constrained")
    figure.suptitle("Exit policies: accuracy against cost")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        for rule, (colour, dash, marker) in STYLES.items():
            policy = task.policies[rule, "accurate"]
            curve = sweep(policy, task.on, sweep(policy, task.val).thresholds)
            where = curve.macs / 1e6, 100 * curve.accuracy
            axes.plot(*where, color=colour, linestyle=dash, marker=marker, markersize=4, label=rule)
        for goal, marker in (("accurate", "*"), ("cheap", "P")):
            exit, guess = task.outcome("length", goal)
            accuracy = 100 * float((guess == task.on.y).double().mean())
            axes.plot(
                task.macs(exit) / 1e6,
                accuracy,
                marker,
                color="#CC79A7",
                markersize=10,
                markeredgecolor="black",
                label=f"length, {goal}",
            )
        last = 100 * float(task.on.right[:, -1].double().mean())
        axes.axhline(last, color="grey", linewidth=0.8)
        axes.text(task.on.macs[0] / 1e6, last, "LC", va="bottom", size=8, color="grey")
        axes.set(title=task.name, xlabel="multiply-adds per sentence (millions)", ylabel="accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def leaving_figure(task: Task) -> Figure:
    """Share leaving at each exit, one bar for each policy; darker is deeper."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    bars = {f"{rule}, {goal}": task.outcome(rule, goal)[0] for rule, goal in task.policies} | {
        "oracle": oracle(task.on)
    }
    figure = Figure((8.0, 0.8 + 0.34 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    start = torch.zeros(len(bars), dtype=torch.float64)
    for i, name in enumerate(task.exits):
        width = 100 * torch.stack([(exit == i).double().mean() for exit in bars.values()])
        shade = colormaps["cividis_r"](i / max(len(task.exits) - 1, 1))
        axes.barh(
            list(bars), width.numpy(), left=start.numpy(), color=shade, edgecolor="black", linewidth=0.4, label=name
        )
        start = start + width
    axes.invert_yaxis()
    axes.set(
        title=f"Where sentences leave ({task.name})", xlabel="share of sentences (%)", ylabel="policy", xlim=(0, 100)
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="exit")
    return figure


def overthinking_figure(tasks: Sequence[Task]) -> Figure:
    """What the layers after each internal classifier destroy and what they gain."""
    from matplotlib.figure import Figure

    figure = Figure((5.2 * len(tasks), 3.8), layout="constrained")
    figure.suptitle("Overthinking")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        right, last = task.on.right[:, :-1], task.on.right[:, -1:]
        axes.plot(100 * (right & ~last).double().mean(0), "o-", color="#D55E00", label="right here, wrong at LC")
        axes.plot(100 * (~right & last).double().mean(0), "s--", color="#0072B2", label="wrong here, right at LC")
        axes.set(title=task.name, ylabel="share of sentences (%)", ylim=(0, None))
        exit_axis(axes, task.exits[:-1])
        axes.legend(fontsize=8)
    return figure
