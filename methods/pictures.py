"""Pictures of any image classifier and its feature spaces, as matplotlib Figures.

Classes are told apart by marker and by colour together, and heat by a map that also grows lighter, so that a grey
print and a colour-blind reader lose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

MARKERS = "osD^vP*Xp<>hdH8"
NAMED = 20  # with more classes than this a legend or a tick for each would hide the picture


def literal(text: object) -> str:
    """Text of the data for matplotlib, which would take what stands between two dollars for mathematics."""
    return str(text).replace("$", "\\$")


def shortened(name: str, most: int) -> str:
    """A name of at most `most` characters: of a longer one both ends, since names of one set often begin alike."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}"


def confusion(
    y: Tensor, guess: Tensor, classes: Sequence[str], title: str = "Confusion matrix", width: float | None = None
) -> Figure:
    """Share of each true class (row) that was taken for each class (column), in percent. y, guess (n,) int64. Long
    names of classes are shortened: they would leave no room for the matrix.

    Args:
        width: in inches; below 5 the colours' scale is left out (default: follows from the number of classes).
    """
    from matplotlib.figure import Figure

    k = len(classes)
    count = torch.bincount(y * k + guess, minlength=k * k).view(k, k).double()
    share = 100 * count / count.sum(1, keepdim=True).clamp(min=1)
    width = width or 3.2 + min(0.45 * k, 8.0)
    bar = width >= 5
    figure = Figure((width, width - bar), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share.numpy(), cmap="cividis", vmin=0, vmax=100)
    if bar:
        figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    axes.grid(visible=False)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if k <= NAMED:
        names = [literal(shortened(name, 24 if bar else 14)) for name in classes]
        axes.set_xticks(range(k), names, rotation=45, ha="right")
        axes.set_yticks(range(k), names)
        for row, column in (share >= 0.5).nonzero().tolist():
            value = float(share[row, column])
            ink = "black" if value > 55 else "white"
            size = min(8.0, 22 * width / k)
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", size=size, color=ink)
    return figure


def curves(history: Sequence[Mapping[str, Any]], title: str = "Training") -> Figure:
    """Accuracy and loss over epochs, training beside validation, from the rows that `Worker.fit` returns.

    Training curves are drawn for the rows that hold "accuracy" and "loss", validation for "val_accuracy", "val_loss".
    """
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.4), layout="constrained")
    figure.suptitle(title)
    for axes, key, unit, scale in zip(
        figure.subplots(1, 2), ("accuracy", "loss"), ("accuracy (%)", "loss (nats)"), (100.0, 1.0), strict=True
    ):
        for name, column, style in (("training", key, "--"), ("validation", f"val_{key}", "-")):
            rows = [(row["epoch"], scale * row[column]) for row in history if column in row]
            if rows:
                axes.plot(*zip(*rows, strict=True), style, label=name, marker="." if len(rows) < 40 else None)
        axes.set(xlabel="epoch", ylabel=unit, title=key)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def cam(
    net: nn.Module, layer: str, x: Tensor, y: Tensor, classes: Sequence[str], kind: str = "auto", most: int = 10
) -> Figure:
    """Where the network looks: for the first image of each class, the class activation map of its true class.

    Args:
        net: images (b, c, h, w) in [0, 1] -> logits; its parameters must not be frozen.
        layer: name of the layer in `net.named_modules()` whose maps (b, channels, h', w') are weighed.
        x: images as a `Split` holds them, (n, c, h, w) uint8.
        y: labels (n,).
        kind: "gradcam", "hirescam", "layercam", or "auto": Grad-CAM, but LayerCAM where the map's side is below 7
            pixels, since Grad-CAM's one weight per channel blurs what few pixels there are.
        most: classes that are shown, from the first on.
    """
    from matplotlib.figure import Figure
    from pytorch_grad_cam import GradCAM, HiResCAM, LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from bo_distill.methods.features import Activations

    shown = [int((y == k).nonzero()[0]) for k in sorted(set(y.tolist()))[:most]]
    device = next(net.parameters()).device
    images, labels = x[shown].to(device).float() / 255, y[shown].tolist()
    net = net.eval()
    with torch.no_grad():
        guesses = net(images).softmax(1)
        side = min(Activations(net, layer)(images).shape[2:])
    if kind == "auto":
        kind = "gradcam" if side >= 7 else "layercam"
    method = {"gradcam": GradCAM, "hirescam": HiResCAM, "layercam": LayerCAM}[kind]
    with torch.enable_grad(), method(model=net, target_layers=[net.get_submodule(layer)]) as explain:
        heat = explain(input_tensor=images, targets=[ClassifierOutputTarget(label) for label in labels])
    net.zero_grad(set_to_none=True)

    figure = Figure((1.25 * len(shown) + 1.2, 3.6), layout="constrained")
    name = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM", "layercam": "LayerCAM"}[kind]
    figure.suptitle(f"{name} of {layer} ({side} pixels wide), one image of each class, for its true class", size=10)
    grid: Any = figure.subplots(2, len(shown), squeeze=False)
    for column, (picture, label, guess, map_) in enumerate(zip(images.cpu(), labels, guesses, heat, strict=True)):
        above, below = grid[:, column]
        pixels = picture.permute(1, 2, 0).numpy()
        above.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
        above.set_title(literal(classes[label]), size=9)
        below.imshow(pixels.mean(2), cmap="gray", vmin=0, vmax=1)
        drawn = below.imshow(map_, cmap="inferno", vmin=0, vmax=1, alpha=0.65)
        right = int(guess.argmax()) == label
        verdict = "right" if right else f"took it for\n{literal(classes[int(guess.argmax())])}"
        below.set_xlabel(f"{verdict}, {100 * float(guess.max()):.0f}%", size=8)
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=grid[1].tolist(), label="evidence", shrink=0.9, ticks=[0, 1])
    return figure


def embedded(f: Tensor, dimensions: int, seed: int = 0) -> np.ndarray:
    """t-SNE of features (n, ...) in 2 or 3 dimensions, after PCA to at most 50, (n, dimensions).

    By Barnes-Hut: the interpolation that is faster for many points knows no third dimension. One row lies at the
    origin.
    """
    import numpy as np
    from openTSNE import TSNE
    from sklearn.decomposition import PCA

    rows = f.flatten(1).float().numpy()
    if len(rows) == 1:  # it has no neighbours to be placed by
        return np.zeros((1, dimensions), dtype=np.float32)
    short = PCA(min(50, *rows.shape), random_state=seed).fit_transform(rows)
    tsne = TSNE(
        dimensions,
        perplexity=min(30.0, (len(rows) - 1) / 3),
        initialization="pca" if short.shape[1] >= dimensions else "random",
        negative_gradient_method="bh",
        random_state=seed,
    )
    return np.asarray(tsne.fit(short), dtype=np.float32)


def spaces(points: Mapping[str, np.ndarray], y: Tensor, classes: Sequence[str], title: str = "Feature space") -> Figure:
    """Feature spaces side by side: name -> (n, 2) or (n, 3) points of the same rows, whose labels are y (n,)."""
    from matplotlib.figure import Figure

    columns = min(len(points), 4 if len(points) == 4 else 3)
    lines = -(-len(points) // columns)
    figure = Figure((3.4 * columns + 1.3, 3.4 * lines + 0.4), layout="constrained")
    figure.suptitle(title)
    for place, (name, where) in enumerate(points.items(), 1):
        flat = where.shape[1] == 2
        axes: Any = figure.add_subplot(lines, columns, place, **({} if flat else {"projection": "3d"}))
        _scatter(axes, where, y, classes)
        axes.set_title(name, size=10)
        axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", **({} if flat else {"zlabel": "t-SNE 3"}))
        axes.tick_params(labelsize=6)
        if not flat:  # the numbers of t-SNE mean little, and in three dimensions they hide the names of the axes
            axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
            for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
                axis.labelpad = -12
            axes.set_box_aspect((1, 1, 1), zoom=0.95)
            axes.set_in_layout(False)  # matplotlib before 3.11.2 takes its axes for larger than the figure
    if len(classes) <= NAMED:
        marks = figure.axes[0].collections  # their axes would keep a label with "_" before it to themselves
        names = [str(mark.get_label()) for mark in marks]
        figure.legend(marks, names, loc="outside right center", fontsize=8, markerscale=2)
    return figure


def _scatter(axes: Any, points: np.ndarray, y: Tensor, classes: Sequence[str]) -> None:
    import matplotlib

    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "nipy_spectral"]
    for k in sorted(set(y.tolist())):
        rows = (y == k).numpy()
        colour = colours(k) if len(classes) <= 10 else colours(k / len(classes))
        look = {"marker": MARKERS[k % len(MARKERS)], "color": colour, "alpha": 0.8, "linewidths": 0, "s": 9}
        axes.scatter(*points[rows].T, label=literal(classes[k]), **look)


def turnable(points: np.ndarray, y: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """3-D points as JSON values, for a picture that a reader can turn.

    Returns:
        {"points": [[x, y, z], ...] in [-1, 1], "labels": [class number, ...], "classes": [name, ...]}
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points of shape {points.shape}: three columns are needed")
    centred = points - (points.max(0) + points.min(0)) / 2
    scaled = centred / max(float(abs(centred).max()), 1e-12)
    return {
        "points": [[round(float(v), 3) for v in row] for row in scaled],
        "labels": [int(k) for k in y],
        "classes": [str(name) for name in classes],
    }
