"""The paper's Table 1 and Figures 2 and 3 in our figures, and what the learned maps do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bo_distill.methods.max_entropy import paper
from bo_distill.methods.max_entropy.method import final_augmenter, model
from bo_distill.methods.max_entropy.nets import Augmenter
from bo_distill.methods.method import Table, Trained
from bo_distill.methods.metrics import accuracy
from bo_distill.methods.pictures import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "angle": ("angle (degrees)", 0.0, 20.0),
    "scales": ("scale (1: unchanged)", 1.0, 0.5),
    "shifts": ("shift (half sides)", 0.0, 0.5),
}
"""Title -> axis, the identity's value, and how far on each side of it a histogram reaches when runs are compared."""


def tables(trained: Trained) -> dict[str, Table]:
    """Table 1 and what the learned maps do, by name; without the latter where nothing is learned."""
    worker, info, split = trained.worker, trained.worker.data.info, trained.split
    logits = worker.predict(worker.place(model(trained.configs, trained.states, info)), split.x)
    before = trained.states["classifier"].metrics["val_accuracy"]
    found = {
        "table_1": Table(
            f"Table 1: accuracy. Paper: CIFAR-10, 100 + 100 epochs; here: {info.name}. The paper's baseline is the "
            "control `none`; the classifier, measured on validation, is what both start from.",
            ("network", "paper", "here"),
            (
                ("classifier, before fine-tuning", "", round(before, 4)),
                ("baseline, fine-tuned without the method", 0.8736, "see the control none"),
                ("fine-tuned as configured", 0.8760, round(accuracy(logits, split.y), 4)),
            ),
        )
    }
    if trained.configs["finetune"].learned:
        measured = trained.states["finetune"].metrics
        found["augmentation"] = Table(
            "What the augmenter does to validation images when it is applied. distance and moved_RC: of theta from the "
            "identity; spread: of theta over the noise; entropy in bits and agreement with the labels: of the "
            "classifier before fine-tuning.",
            ("measure", "value"),
            tuple((name, round(value, 4)) for name, value in measured.items()),
        )
    return found


def figures(trained: Trained) -> dict[str, Figure]:
    """Figures 2 and 3 in ours, by name; none where nothing is learned."""
    if not trained.configs["finetune"].learned:
        return {}
    return {
        "figure_2": losses(trained),
        "figure_3": images({"": trained}),
        "transforms": transforms({"": trained}),
    }


def compared(runs: Mapping[str, Trained]) -> dict[str, Figure]:
    """Collapse against cure: figure 3 and the maps of several trainings, side by side."""
    return {"outputs_compared": images(runs), "transforms_compared": transforms(runs)}


def losses(trained: Trained) -> Figure:
    """Figure 2: the losses of both players over the epochs in which G learned.

    Without a discriminator its place is taken by the label term, or by the entropy where nothing guards.
    """
    from matplotlib.figure import Figure

    alternate = trained.configs["finetune"].order == "alternate"
    state = trained.states["finetune" if alternate else "augmenter"]
    panels = {"max_entropy": "$L_{ME}$ (nats)", "entropy": "entropy on augmented images (bits)"}
    match trained.configs["augmenter"].guard:
        case "discriminator":
            panels = {
                "discriminator": "loss of the discriminator (nats)",
                "adversarial": "loss of the augmenter (nats)",
            }
        case "teacher":
            panels = {"labels": "label term (nats)", "max_entropy": "$L_{ME}$ (nats)"}
    figure = Figure((9.0, 3.4), layout="constrained")
    figure.suptitle("Figure 2: losses while the augmenter learns")
    for axes, (name, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for legend, key, style in (("training", name, "--o"), ("validation", f"val_{name}", "-s")):
            rows = [(row["epoch"], row[key]) for row in state.history if key in row]
            if rows:
                axes.plot(*zip(*rows, strict=True), style, markersize=3, label=legend)
        axes.set(xlabel="epoch", ylabel=label, title=label.split(" (")[0])
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def images(runs: Mapping[str, Trained], most: int = 10) -> Figure:
    """Figure 3: inputs over outputs, the first image of each class. With several runs, one row of outputs for each."""
    from matplotlib.figure import Figure

    first = next(iter(runs.values()))
    y, classes = first.split.y, first.worker.data.info.classes
    shown = [int((y == k).nonzero()[0]) for k in torch.unique(y).tolist()[:most]]
    x = first.split.x[shown]
    rows: list[tuple[str, Tensor]] = [("input", x.float() / 255)]
    for name, trained in runs.items():
        augmenter = final_augmenter(trained)[0]
        rows.append((fill(name, 24) if name else "output", trained.worker.predict(partial(output, augmenter), x)))
    figure = Figure((0.95 * len(shown) + 1.0, 1.05 * len(rows) + 0.6), layout="constrained")
    figure.suptitle("Figure 3: inputs and outputs of the augmenter", size=10)
    grid: Any = figure.subplots(len(rows), len(shown), squeeze=False)
    for line, (name, pictures) in zip(grid, rows, strict=True):
        for axes, picture, label in zip(line, pictures.clamp(0, 1), y[shown].tolist(), strict=True):
            pixels = picture.permute(1, 2, 0).numpy()
            axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if name == "input":
                axes.set_title(literal(classes[label]), size=8)
        line[0].set_ylabel(name, size=8, rotation=0, ha="right", va="center")
    return figure


def thetas(trained: Trained) -> Tensor:
    """The maps of the images of the split, (n, 2, 3), each under its own noise."""
    augmenter = final_augmenter(trained)[0]
    return trained.worker.predict(lambda x: augmenter.theta(x, drawn(augmenter, x)), trained.split.x)


def drawn(augmenter: Augmenter, x: Tensor) -> Tensor:
    """Noise for the images of one batch, (b, noise), the same whenever it is asked for."""
    return torch.randn(len(x), augmenter.noise, generator=torch.Generator().manual_seed(0)).to(x)


def output(augmenter: Augmenter, x: Tensor) -> Tensor:
    return augmenter(x, drawn(augmenter, x))


def transforms(runs: Mapping[str, Trained]) -> Figure:
    """Histograms of what the maps do: angle, the two scales, the two shifts. With several runs, one row for each."""
    from matplotlib.figure import Figure

    figure = Figure((10.0, 2.4 * len(runs) + 0.8), layout="constrained")
    several = len(runs) > 1
    words = "dotted: the identity" + ("; the outermost bins hold what lies beyond" if several else "")
    figure.suptitle(f"What the learned maps do, from output to input ({words})", size=11)
    grid: Any = figure.subplots(len(runs), 3, squeeze=False)
    for line, (name, trained) in zip(grid, runs.items(), strict=True):
        theta = thetas(trained)
        angle, scale, shift = paper.angle_scale_shift(theta)
        parts = (
            [("angle", angle)],
            [("larger", scale[:, 0]), ("smaller", scale[:, 1])],
            [("across", shift[:, 0]), ("down", shift[:, 1])],
        )
        for axes, (title, (label, neutral, reach)), values in zip(line, PANELS.items(), parts, strict=True):
            histogram(axes, values, (neutral - reach, neutral + reach) if several else None)
            axes.axvline(neutral, color="black", linestyle=":", linewidth=1)
            axes.set(title=title, xlabel=label)
        line[0].set_ylabel(fill(name, 24) if name else "maps")
        line[1].set_title(f"scales (mean distance {float(paper.distance(theta).mean()):.3g})")
    return figure


def histogram(axes: Axes, values: Sequence[tuple[str, Tensor]], span: tuple[float, float] | None) -> None:
    """Outlines, told apart by line style; one set of bins for all, over `span` or, without one, over all values."""
    if span is None:
        everything = torch.cat([value for _, value in values])
        low, high = float(everything.min()), float(everything.max())
        margin = max(0.05 * (high - low), 1e-3)  # never narrower than rounding
        span = low - margin, high + margin
    for (name, value), style in zip(values, ("-", "--"), strict=False):
        axes.hist(
            value.clamp(*span).numpy(), bins=41, range=span, histtype="step", linestyle=style, linewidth=1.5, label=name
        )
    if len(values) > 1:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
