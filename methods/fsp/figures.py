"""The paper's figure 3 and what its figures 1 and 2 are about, in our figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from methods.cost import count
from methods.fsp.method import networks
from methods.fsp.nets import teacher_net
from methods.fsp.paper import fsp_loss, fsp_matrix
from methods.method import Table, Trained
from methods.nets.cifar import CifarNet, Sectioned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tables(trained: Trained) -> dict[str, Table]:
    info = trained.worker.data.info
    rows = []
    for name, net in (
        ("student", networks(trained.configs, info)["model"]),
        *((arch, teacher_net(arch, info)) for arch in ("resnet26", "vgg26", "vgg16_bn")),
    ):
        cost = count(net, info)
        rows.append((name, cost.macs, cost.params))
    caption = (
        f"Fig. 3: cost of one image of {info.name}. The paper prints a gap of about 2000 FLOP between "
        "its two teachers without a unit; ResNet-26 and VGG-26 have the same convolutions."
    )
    return {"cost": Table(caption, ("network", "MACs", "parameters"), tuple(rows))}


def figures(trained: Trained) -> dict[str, Figure]:
    return {"training": training(trained), "flow": flow(trained)}


def training(trained: Trained) -> Figure:
    """Validation accuracy of teacher and student, and the flow loss, over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for stage, style in (("teacher", "--"), ("transfer", ":"), ("finetune", "-")):
        rows = [r for r in trained.states[stage].history if "val_accuracy" in r]
        if rows:
            label = {"finetune": "student, fine-tuning", "transfer": "student, transfer"}.get(stage, stage)
            left.plot(
                [r["epoch"] for r in rows], [100 * r["val_accuracy"] for r in rows], style, color="0.1", label=label
            )
    left.set(title="Accuracy on validation", xlabel="epoch of the stage", ylabel="%")
    left.legend(frameon=False)
    rows = list(trained.states["transfer"].history)
    losses = [row["fsp"] for row in rows]
    right.plot([r["epoch"] for r in rows], losses, "o-", color="0.1", markersize=3)
    right.set(title="Flow loss, eq. (1) with λ = 1", xlabel="epoch of the transfer", ylabel="sum of three MSE")
    if losses and max(losses) > 10 * min(losses):
        right.set_yscale("log")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@torch.no_grad()
def flow(trained: Trained) -> Figure:
    """The three mean FSP matrices of teacher and student over images of the split."""
    from matplotlib.figure import Figure

    worker, x = trained.worker, trained.split.x[:256]
    teacher = teacher_net(trained.states["teacher"].spec["arch"], worker.data.info)
    teacher.load_state_dict(dict(trained.states["teacher"].tensors))
    student = CifarNet(worker.data.info, trained.states["finetune"].spec["depth"])
    student.load_state_dict(dict(trained.states["finetune"].tensors))

    def matrices(net: Sectioned) -> list[torch.Tensor]:
        maps = worker.place(net).sections((x.float() / 255).to(worker.device))[1]
        return [fsp_matrix(first, last).cpu() for first, last in maps]

    theirs, mine = matrices(teacher.eval()), matrices(student.eval())
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, (t, s) in enumerate(zip(theirs, mine, strict=True)):
        top = max(float(t.mean(0).max()), float(s.mean(0).max()))
        for row, (name, matrix) in enumerate((("teacher", t), ("student", s))):
            axis = axes[row][column]
            image = axis.imshow(matrix.mean(0), cmap="cividis", vmin=0, vmax=top, aspect="auto")
            axis.set(title=f"{name}, section {column + 1}", xlabel="channel of the last map", ylabel="of the first map")
            for ticks in (axis.xaxis, axis.yaxis):
                ticks.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=[axes[0][column], axes[1][column]], shrink=0.6)
    same = all(t.shape == s.shape for t, s in zip(theirs, mine, strict=True))
    distance = f"; eq. (1) with λ = 1 is {float(fsp_loss(theirs, mine)):.3g}" if same else ""
    figure.suptitle(f"FSP matrices after fine-tuning, mean over {len(x)} images{distance}")
    return figure
