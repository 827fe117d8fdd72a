"""Pictures are drawn for any image network, and the numbers beside them are what they say."""

from __future__ import annotations

import io
import json
import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bo_distill.methods import features, pictures


def drawn(figure: Figure) -> bytes:
    """The PNG; a figure that cannot be laid out or saved fails here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def clusters(n: int = 60, classes: int = 3, apart: float = 10.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return torch.eye(classes, 6)[y] * apart + torch.randn(n, 6, generator=generator), y


class Tiny(nn.Module):
    """A network of another shape than any method's: what the pictures need is a layer with maps, and logits."""

    def __init__(self, channels: int, classes: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3, stride, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


def test_confusion_shows_shares_of_the_true_class() -> None:
    y, guess = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 0])
    figure = pictures.confusion(y, guess, ("a", "b", "c"))
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(image, [[75, 25, 0], [0, 100, 0], [100, 0, 0]])
    assert {text.get_text() for text in figure.axes[0].texts} == {"75", "25", "100"}
    assert drawn(figure)


def test_confusion_shortens_names_that_would_leave_the_matrix_no_room() -> None:
    y = torch.arange(2)
    names = [f"class {k} with a very long name indeed, such as users like to give, {k}" for k in range(2)]
    for width, most in ((6.4, 24), (3.9, 14)):
        figure = pictures.confusion(y, y, names, width=width)
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert [len(name) for name in shown] == [most] * 2 and [name[-1] for name in shown] == ["0", "1"]
        assert all(name.startswith(f"class {k}") for k, name in enumerate(shown))
    assert pictures.shortened("a" * 14, 14) == "a" * 14


def test_confusion_of_a_hundred_classes_names_none() -> None:
    y = torch.arange(100)
    figure = pictures.confusion(y, y, [f"class {k}" for k in range(100)])
    assert "class 5" not in [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert drawn(figure)


def test_what_looks_like_mathematics_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names, seen = ("$$", r"US$ 5 to $\nothing{", "a"), io.StringIO()
    y = torch.arange(3)
    for figure in (
        pictures.confusion(y, y.flip(0), names),
        pictures.spaces({"all": np.eye(3, 2)}, y, names),
        pictures.cam(Tiny(3, 3, 1), "body", torch.zeros(3, 3, 9, 9, dtype=torch.uint8), y, names),
    ):
        monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
        figure.savefig(seen, format="svg")
    assert seen.getvalue().count(">$$<") == 2 + 1 + 1  # ticks, legend, head of a column
    assert r">US$ 5 to $\nothing{<" in seen.getvalue()


def test_curves_draw_what_the_rows_hold() -> None:
    rows = [{"epoch": e, "loss": 1 / e, "accuracy": 0.5, "val_accuracy": 0.4, "val_loss": 2.0} for e in (1, 2, 3)]
    accuracy, loss = pictures.curves(rows).axes
    assert [line.get_label() for line in accuracy.lines] == ["training", "validation"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), 50.0)
    assert drawn(pictures.curves([{"epoch": 1, "val_accuracy": 0.5}])) and drawn(pictures.curves([]))
    assert len(loss.lines) == 2


@pytest.mark.parametrize("channels, stride, name", ((3, 1, "Grad-CAM"), (3, 4, "LayerCAM"), (1, 1, "Grad-CAM")))
def test_cam_takes_any_network_and_turns_to_layercam_where_the_map_is_coarse(
    channels: int, stride: int, name: str
) -> None:
    torch.manual_seed(0)
    net = Tiny(channels, 3, stride)
    x = torch.randint(0, 256, (6, channels, 16, 16), dtype=torch.uint8)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    figure = pictures.cam(net, "body", x, torch.tensor([2, 1, 1, 2, 1, 1]), ("a", "b", "c"))
    assert name in figure.get_suptitle()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["b", "c"]  # of each class that occurs, the first image
    assert drawn(figure)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("kind", ("gradcam", "hirescam", "layercam"))
def test_each_kind_of_cam_by_name(kind: str) -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert drawn(pictures.cam(Tiny(3, 2, 1), "body", x, torch.tensor([0, 1]), ("a", "b"), kind))


@pytest.mark.parametrize("dimensions", (2, 3))
def test_embedding_keeps_classes_together_and_repeats_itself(dimensions: int) -> None:
    f, y = clusters()
    points = pictures.embedded(f, dimensions)
    assert points.shape == (60, dimensions) and np.isfinite(points).all()
    np.testing.assert_array_equal(points, pictures.embedded(f, dimensions))
    where = torch.from_numpy(points)
    assert features.knn_accuracy(where[:30], y[:30], where[30:], y[30:]) == 1.0


def test_embedding_of_maps_and_of_few_features() -> None:
    assert pictures.embedded(torch.randn(12, 2, 3, 3), 3).shape == (12, 3)
    assert pictures.embedded(torch.randn(12, 2), 3).shape == (12, 3)


@pytest.mark.parametrize("dimensions", (2, 3))
def test_a_feature_space_of_one_row_is_drawn(dimensions: int) -> None:
    points = pictures.embedded(torch.randn(1, 20), dimensions)
    assert points.tolist() == [[0.0] * dimensions]
    assert drawn(pictures.spaces({"layer": points}, torch.tensor([1]), ("a", "b")))


def test_spaces_side_by_side_in_two_and_three_dimensions() -> None:
    _, y = clusters()
    points = {f"layer {i}": np.random.default_rng(i).normal(size=(60, 2)) for i in range(4)}
    figure = pictures.spaces(points, y, ("a", "_b", "c"))
    assert [axes.get_title() for axes in figure.axes] == list(points)
    assert len({tuple(c.get_paths()[0].vertices.ravel()) for c in figure.axes[0].collections}) == 3  # three markers
    assert drawn(figure)
    figure = pictures.spaces({"one": np.random.default_rng(0).normal(size=(60, 3))}, y, ("a", "_b", "c"))
    assert drawn(figure) and [name.get_text() for name in figure.legends[0].texts] == ["a", "_b", "c"]


def test_turnable_points_are_json_in_a_unit_cube() -> None:
    points = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 30
    value = json.loads(json.dumps(pictures.turnable(points, torch.arange(5) % 2, ("a", "b"))))
    assert value["labels"] == [0, 1, 0, 1, 0] and value["classes"] == ["a", "b"]
    assert np.abs(value["points"]).max() == 1.0
    with pytest.raises(ValueError, match="three columns"):
        pictures.turnable(points[:, :2], torch.arange(5), ("a",))


def test_activations_are_those_of_the_named_layer() -> None:
    net, x = Tiny(3, 2, 1).eval(), torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(features.Activations(net, "body.0")(x), net.body[0](x))
    torch.testing.assert_close(features.Activations(net, "")(x), net(x))
    assert not net.body[0]._forward_hooks


def test_distance_ratio_equals_a_slow_loop_and_ignores_scale_and_place() -> None:
    f, y = clusters()
    means = [f[y == k].mean(0) for k in range(3)]
    within = sum(float((f[y == k] - means[k]).norm(dim=1).mean()) for k in range(3)) / 3
    between = sum(float((means[a] - means[b]).norm()) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    assert features.distance_ratio(f, y) == pytest.approx(within / between, rel=1e-5)
    assert features.distance_ratio(7 * f + 3, y) == pytest.approx(within / between, rel=1e-5)
    assert features.distance_ratio(*clusters(apart=30.0)) < features.distance_ratio(*clusters(apart=3.0))


def test_statistics_of_separate_and_of_collapsed_classes() -> None:
    f, y = clusters()
    good = features.statistics(f[:30], y[:30], f[30:], y[30:])
    assert good["knn_accuracy"] == 1.0 and good["silhouette"] > 0.5 and good["distance_ratio"] < 0.5
    flat = features.statistics(torch.zeros(9, 2), torch.arange(9) % 3, torch.zeros(9, 2), torch.arange(9) % 3)
    assert math.isnan(flat["distance_ratio"]) and flat["silhouette"] <= 0.0


def test_thinned_rows_are_evenly_spaced_and_no_more_than_asked() -> None:
    assert features.thinned(torch.arange(100), 5).tolist() == [0, 24, 49, 74, 99]
    assert features.thinned(torch.arange(3), 5).tolist() == [0, 1, 2]
