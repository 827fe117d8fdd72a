"""Tables 2 to 5 and figures 1 to 4 of Park (2021) in our figures, and what the paper leaves out: ceiling and cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from bo_distill.methods.label_embedding.method import answers, base_macs, routing
from bo_distill.methods.label_embedding.paper import (
    CLUSTERINGS,
    average_macs,
    cluster,
    confusion,
    cosine_similarity,
    entropy,
    members,
    own_cluster,
)
from bo_distill.methods.label_embedding.settings import RULES
from bo_distill.methods.label_embedding.stages import Answers
from bo_distill.methods.method import Table, Trained
from bo_distill.methods.metrics import accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {"hard": ("#0072B2", "-"), "soft": ("#D55E00", "--"), "top": ("#009E73", ":"), "average": ("#CC79A7", "-.")}


def tables(trained: Trained) -> dict[str, Table]:
    """Tables 2 to 5 in our figures, the ceiling and the cost, by name."""
    own, names = answers(trained), trained.worker.data.info.classes
    return {
        "clusters": Table(
            "Clusters of label embeddings (the paper's Table 2)",
            ("cluster", "size", "classes"),
            tuple(
                (j, len(classes), ", ".join(names[k] for k in classes.tolist()))
                for j, classes in enumerate(members(own.assignment))
            ),
        ),
        "inside": inside(own),
        "ensemble": ensemble(own, routing(trained.configs, trained.states).threshold),
        "clusterings": clusterings(trained),
    }


def percent(right: Tensor) -> float | str:
    """Mean of a bool tensor in percent; a dash for none."""
    return round(100 * float(right.double().mean()), 2) if len(right) else "-"


def in_top(logits: Tensor, y: Tensor, k: int) -> Tensor:
    """Is the label among the k largest of its row? (n, C), (n,) -> (n,). Classes at -inf are no competitors."""
    return (logits.topk(min(k, logits.shape[1]), dim=1).indices == y.unsqueeze(1)).any(1)


def inside(own: Answers) -> Table:
    """Tables 3 to 5. The paper's top-1 of the base is 100-way and its top-3 within the cluster; here both are both."""
    alone = own_cluster(own.base, own.y, own.assignment)
    expert = own_cluster(own.experts, own.y, own.assignment)
    rows = []
    for j, classes in enumerate(members(own.assignment)):
        mine = own.assignment[own.y] == j
        cells = [percent(in_top(z[mine], own.y[mine], k)) for k in (1, 3) for z in (own.base, alone, expert)]
        rows.append((j, len(classes), int(mine.sum()), *cells))
    everything = [percent(in_top(z, own.y, k)) for k in (1, 3) for z in (own.base, alone, expert)]
    columns = tuple(f"top-{k} {who}" for k in (1, 3) for who in ("base, all compete", "base inside", "expert inside"))
    return Table(
        "Accuracy (%) on the rows of each cluster (Tables 3 to 5); 'inside' means that its own classes compete only",
        ("cluster", "classes", "rows", *columns),
        (*rows, ("all", len(own.assignment), len(own.y), *everything)),
    )


def ensemble(own: Answers, threshold: float) -> Table:
    """Every way to use the same experts, at one threshold."""
    base, oracle = accuracy(own.base, own.y), own.perfect(own.experts)

    def row(name: str, value: float, rerouted: float, macs: float) -> tuple[str | float, ...]:
        """One line of the table; `value` and `rerouted` are shares, `macs` relative to the base's."""
        share = round(100 * (value - base) / (oracle - base), 1) if oracle > base else "-"
        return (
            name,
            round(100 * value, 2),
            round(100 * (value - base), 2),
            share,
            round(100 * rerouted, 1),
            round(macs, 3),
        )

    rows = [row("base", base, 0.0, 1.0)]
    for rule in RULES:
        asked = own.asked(threshold, rule)
        rows.append(
            row(
                f"top {own.top}" if rule == "top" else rule,
                accuracy(own.ensemble(threshold, rule), own.y),
                float(asked.any(1).double().mean()),
                average_macs(asked, own.assignment, 1.0, 1.0),
            )
        )
    every = own.asked(0.0, "hard")
    rows.append(row("base, cluster known", own.perfect(own.base), 0.0, 1.0))
    rows.append(row("experts, cluster known", oracle, 1.0, average_macs(every, own.assignment, 1.0, 1.0)))
    return Table(
        f"The ensemble at e = {threshold:.3g} log C; all classes compete but in the last two rows",
        ("routing", "accuracy (%)", "over base", "of headroom (%)", "rerouted (%)", "average MACs / base"),
        tuple(rows),
    )


def clusterings(trained: Trained) -> Table:
    """Each way to cluster this base's classes into as many clusters."""

    base, y = trained.states["base"].tensors, trained.worker.data.val.y
    used = trained.states["cluster"].tensors["assignment"]
    count = int(used.max()) + 1
    confused = confusion(base["val_logits"], y)
    rows = []
    for method, kind in CLUSTERINGS:
        found = [cluster(base["net.head.weight"], confused, count, method, kind, seed) for seed in range(5)]
        stable = [adjusted_rand_score(a, b) for a, b in combinations(found, 2)]
        sizes = sorted(torch.bincount(found[0]).tolist(), reverse=True)
        inside = confused[found[0].unsqueeze(0) == found[0].unsqueeze(1)].sum() / len(confused)
        rows.append(
            (
                f"{method} {kind}".strip(),
                " ".join(map(str, sizes)),
                round(100 * float(inside), 2),
                round(adjusted_rand_score(used, found[0]), 3),
                round(sum(stable) / len(stable), 3),
            )
        )
    return Table(
        f"Clusterings of the same base into {count}; adjusted Rand index (ARI): 1 the same, 0 chance",
        ("clustering", "sizes", "predicted mass inside (%)", "ARI with the one used", "ARI over 5 seeds"),
        tuple(rows),
    )


def figures(trained: Trained) -> dict[str, Figure]:
    """Figures 1 to 4 in ours, and accuracy by threshold and by cost, by name."""
    own, names = answers(trained), trained.worker.data.info.classes
    route = routing(trained.configs, trained.states)
    threshold, rule = route.threshold, route.rule
    return {
        "fig1_cluster_sizes": cluster_sizes(own.assignment),
        "fig2_3_4_example": example(trained, own),
        "similarity": similarity(trained.states["base"].tensors["net.head.weight"], own.assignment, names),
        "accuracy_by_threshold": by_threshold({f"S = {int(own.assignment.max()) + 1}": own}, threshold),
        "accuracy_by_macs": by_macs(own, threshold, rule, base_macs(trained)),
    }


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of that size in inches, and its axes, row by row."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, list(made.subplots(rows, columns, squeeze=False).flat)


def cluster_sizes(assignment: Tensor) -> Figure:
    """Figure 1: how many classes each cluster has."""
    from matplotlib.ticker import MaxNLocator

    made, (ax,) = figure(5, 3)
    sizes = torch.bincount(assignment).tolist()
    bars = ax.bar(range(len(sizes)), sizes, color="#0072B2")
    if len(sizes) <= 30:
        ax.bar_label(bars)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="cluster", ylabel="classes", title="Classes in each cluster (Fig. 1)")
    return made


def example(trained: Trained, own: Answers) -> Figure:
    """Figs. 2 to 4: the most uncertain row that the base gets wrong and its expert right, if there is one."""
    names = trained.worker.data.info.classes
    chosen = own.ensemble(0.0, "hard").argmax(1)
    mended = (own.base.argmax(1) != own.y) & (chosen == own.y)
    uncertain = entropy(own.base)
    row = int((uncertain + mended * 100).argmax())
    classes = (own.assignment == own.assignment[chosen[row]]).nonzero().squeeze(1)

    made, (picture, left, right) = figure(13, 3.6, 1, 3)
    image = trained.split.x[row].permute(1, 2, 0).numpy()
    picture.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray")
    picture.set_axis_off()
    picture.set_title(f"true class: {names[own.y[row]]} (Fig. 2)", parse_math=False)
    for ax, logits, competing, who in (
        (left, own.base[row], torch.arange(len(names)), "base (Fig. 3)"),
        (right, own.experts[row], classes, "expert (Fig. 4)"),
    ):
        values = logits[competing]
        best = competing[values.argsort(descending=True)[:5]].tolist()
        colors = ["#D55E00" if k == own.y[row] else "#56B4E9" for k in competing.tolist()]
        ax.bar(
            range(len(competing)),
            values.tolist(),
            color=colors,
            edgecolor=["black" if c == "#D55E00" else c for c in colors],
        )
        if len(competing) <= 30:
            ax.set_xticks(range(len(competing)), [names[k] for k in competing.tolist()], rotation=90, parse_math=False)
        ax.set_xlabel("class" + ("" if len(competing) <= 30 else " number"))
        ax.set_ylabel("calibrated logit")
        ax.set_title(f"{who}: " + ", ".join(names[k] for k in best), fontsize=9, parse_math=False)
    what = " whose answer the expert mends" if mended[row] else ""
    made.suptitle(f"The most uncertain image{what}: entropy {uncertain[row]:.2f} nats; the true class is outlined")
    return made


def similarity(embeddings: Tensor, assignment: Tensor, names: Sequence[str]) -> Figure:
    """Cosines with the classes in the order of their clusters."""
    order = assignment.argsort(stable=True)
    cosine = cosine_similarity(embeddings)[order][:, order]
    largest = float((cosine - torch.eye(len(cosine))).abs().max())
    made, (ax,) = figure(9, 8)
    image = ax.imshow(cosine.numpy(), cmap="cividis", vmin=-largest, vmax=largest, interpolation="nearest")
    for edge in torch.bincount(assignment).cumsum(0)[:-1].tolist():
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
        ax.axvline(edge - 0.5, color="white", linewidth=0.8)
    labels, size = [names[k] for k in order.tolist()], max(3.5, min(9.0, 500 / len(names)))
    ax.set_xticks(range(len(names)), labels, rotation=90, fontsize=size, parse_math=False)
    ax.set_yticks(range(len(names)), labels, fontsize=size, parse_math=False)
    ax.set_title("Cosine similarity of label embeddings; white lines part the clusters")
    made.colorbar(image, ax=ax, label="cosine (the diagonal is 1)", shrink=0.8)
    return made


def by_threshold(all_answers: dict[str, Answers], chosen: float | None = None) -> Figure:
    """Accuracy against e, one panel for each S."""
    thresholds = torch.linspace(0, 1, 101)
    made, panels = figure(1 + 4 * len(all_answers), 3.8, 1, len(all_answers))
    for ax, (name, own) in zip(panels, all_answers.items(), strict=True):
        for rule in RULES:
            color, line = STYLES[rule]
            label = f"top {own.top}" if rule == "top" else rule
            ax.plot(
                thresholds.tolist(), (100 * own.curve(rule, thresholds)[0]).tolist(), line, color=color, label=label
            )
        ax.axhline(100 * accuracy(own.base, own.y), color="black", linewidth=0.8, label="base")
        if chosen is not None:
            ax.axvline(chosen, color="grey", linestyle="-.", linewidth=0.8, label="chosen e")
        ax.set(xlabel="threshold e / log C", ylabel="accuracy (%)")
        ax.set_title(f"{name}; perfect routing {100 * own.perfect(own.experts):.1f} %", fontsize=10)
        ax.legend(fontsize=8)
    return made


def by_macs(own: Answers, threshold: float, rule: str, base: float) -> Figure:
    """Accuracy against average multiply-adds as e moves from 1 to 0."""
    thresholds = torch.linspace(0, 1, 101)
    made, (ax,) = figure(5.5, 4)
    for name in RULES:
        color, line = STYLES[name]
        right, experts = own.curve(name, thresholds)
        label = f"top {own.top}" if name == "top" else name
        ax.plot((base * (1 + experts) / 1e6).tolist(), (100 * right).tolist(), line, color=color, label=label)
    right, experts = own.curve(rule, torch.tensor([threshold]))
    ax.plot(
        (base * (1 + experts) / 1e6).tolist(), (100 * right).tolist(), "o", color="black", label="chosen e and rule"
    )
    ax.plot([base / 1e6], [100 * accuracy(own.base, own.y)], "s", color="black", fillstyle="none", label="base")
    ax.axvline(2 * base / 1e6, color="grey", linestyle="-.", linewidth=0.8, label="cost of two networks")
    ax.set(xlabel="average multiply-adds per image (millions)", ylabel="accuracy (%)", title="Accuracy against cost")
    ax.legend(fontsize=8)
    return made
