"""The report's figures in ours: curves (figs. 2 and 7), Grad-CAM (fig. 6), t-SNE of four layers (figs. 5 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bo_distill.methods import features, pictures
from bo_distill.methods.center_loss.method import DENSE, activations, model
from bo_distill.methods.data.dataset import Split
from bo_distill.methods.method import Table, Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = {  # of fig. 8, shallow to deep
    "first convolution": "layers.conv1",
    "last convolution": "layers.conv5",
    "first dense layer": DENSE,
    "class layer": "head",
}
POINTS = 500  # more would only cover each other, and a first layer has 65,536 values for each


def tables(trained: Trained) -> dict[str, Table]:
    """How tight the classes lie in four layers, by name."""
    caption = "Feature space of each layer (distance ratio: within over between classes, lower is tighter)"
    train, columns = trained.worker.data.train, ("distance_ratio", "silhouette", "knn_accuracy")
    maps, y = layers(trained, trained.split)
    known, known_y = layers(trained, train)
    found = {name: features.statistics(known[name].flatten(1), known_y, f.flatten(1), y) for name, f in maps.items()}
    rows = tuple((name, *(round(values[key], 4) for key in columns)) for name, values in found.items())
    return {"feature_space": Table(caption, ("layer", "distance ratio", "silhouette", "5-NN accuracy"), rows)}


def figures(trained: Trained) -> dict[str, Figure]:
    """Training curves, confusion, Grad-CAM and t-SNE of four layers, by name."""
    info, split = trained.worker.data.info, trained.split
    net = trained.worker.place(model(trained.configs, trained.states, info)).eval()
    history = [{**row, "loss": row["cross_entropy"]} for row in trained.states["joint"].history]
    maps, y = layers(trained, trained.split)
    flat, solid = ({name: pictures.embedded(f, d) for name, f in maps.items()} for d in (2, 3))
    guess = trained.worker.predict(net, split.x).argmax(1)
    return {
        "curves": pictures.curves(history, "Cross-entropy and accuracy over training"),
        "confusion": pictures.confusion(split.y, guess, info.classes),
        "cam": pictures.cam(net, "layers.conv5", split.x, split.y, info.classes),
        "tsne_2d": pictures.spaces(flat, y, info.classes, "t-SNE of four layers, two dimensions"),
        "tsne_3d": pictures.spaces(solid, y, info.classes, "t-SNE of four layers, three dimensions"),
    }


def layers(trained: Trained, split: Split) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of the four layers for a few rows of a split, by the layer's name, and the rows' labels."""
    x, y = features.thinned(split.x, POINTS), features.thinned(split.y, POINTS)
    return {name: activations(trained, layer, x) for name, layer in LAYERS.items()}, y


def turnables(trained: Trained) -> dict[str, dict[str, Any]]:
    """Fig. 8 to be turned in a browser: layer -> what `pictures.turnable` returns."""
    maps, y = layers(trained, trained.split)
    classes = trained.worker.data.info.classes
    return {name: pictures.turnable(pictures.embedded(f, 3), y, classes) for name, f in maps.items()}


def compared(runs: Mapping[str, Trained]) -> dict[str, Figure]:
    """Fig. 9: feature spaces of several trainings, each under its name, side by side, in two and three dimensions."""
    one = next(iter(runs.values()))
    y, classes = features.thinned(one.split.y, POINTS), one.worker.data.info.classes
    maps = {name: activations(run, DENSE, features.thinned(run.split.x, POINTS)) for name, run in runs.items()}
    return {
        f"side_by_side_{d}d": pictures.spaces(
            {name: pictures.embedded(f, d) for name, f in maps.items()}, y, classes, "First dense layer, t-SNE"
        )
        for d in (2, 3)
    }
