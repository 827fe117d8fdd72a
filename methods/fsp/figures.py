"""The paper's figure 3 and what its figures 1 and 2 are about, in our figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bo_distill.methods.cost import count
from bo_distill.methods.fsp.method import model, networks, teacher
from bo_distill.methods.fsp.nets import teacher_net
from bo_distill.methods.fsp.paper import fsp_matrix, section_losses
from bo_distill.methods.method import Table, Trained
from bo_distill.methods.metrics import accuracy
from bo_distill.methods.nets.cifar import Sectioned
from bo_distill.methods.paired import Difference, compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tables(trained: Trained) -> dict[str, Table]:
    """What the teachers reach and cost, by name."""
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
    return {"teacher": teaching(trained), "cost": Table(caption, ("network", "MACs", "parameters"), tuple(rows))}


def teaching(trained: Trained) -> Table:
    """Accuracy of teacher and student, and in words what follows from it: from validation, since it says what to do."""
    worker, split, configs = trained.worker, trained.split, trained.configs
    student = worker.place(model(configs, trained.states, worker.data.info)).eval()
    nets, val = {configs["teacher"].arch: teacher(trained), "student": student}, worker.data.val
    right = {name: worker.predict(net, val.x).argmax(1) == val.y for name, net in nets.items()}
    rows = [
        (name, round(float(right[name].double().mean()), 4), round(accuracy(worker.predict(net, split.x), split.y), 4))
        for name, net in nets.items()
    ]
    taught = configs["transfer"].epochs > 0 or configs["finetune"].distill > 0
    said = verdict(compare(*right.values())) if taught else "The student learned from labels alone."
    return Table(f"Accuracy of teacher and student. {said}", ("network", "on validation", "here"), tuple(rows))


def verdict(above: Difference) -> str:
    """What the teacher's accuracy less its student's says of a transfer."""
    if above.p > 0.05:
        return f"On validation the two are not told apart (p {above.p:.2g})."
    if above.accuracy > 0:
        return f"On validation the teacher is more accurate than its student (p {above.p:.2g})."
    return (
        f"On validation the teacher is less accurate than its student (p {above.p:.2g}), which so learned from a "
        "worse network. Train the teacher for longer (--set teacher.epochs=N) or take another (--set "
        "teacher.arch=NAME)."
    )


def figures(trained: Trained) -> dict[str, Figure]:
    """Training curves and the flow matrices, by name."""
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
    parts = {"fsp": "all three", **{f"fsp_{i}": f"section {i}" for i in (1, 2, 3)}}
    for (part, words), style in zip(parts.items(), ("o-", "--", "-.", ":"), strict=True):
        points = [(row["epoch"], row[part]) for row in rows if part in row]
        if points:
            right.plot(*zip(*points, strict=True), style, color="0.1", markersize=3, label=words)
    right.set(title="Flow loss, eq. (1) with λ = 1", xlabel="epoch of the transfer", ylabel="MSE")
    losses = [row[part] for row in rows for part in parts if part in row]
    if losses and max(losses) > 10 * min(losses) > 0:
        right.set_yscale("log")
    if losses:
        right.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@torch.no_grad()
def flow(trained: Trained) -> Figure:
    """The three mean FSP matrices of teacher and student over images of the split."""
    from matplotlib.figure import Figure

    worker, x = trained.worker, trained.split.x[:256]
    student = model(trained.configs, trained.states, worker.data.info)

    def matrices(net: Sectioned) -> list[torch.Tensor]:
        """The FSP matrices (b, m, n) of each section for the images of `x`, on the CPU."""
        maps = worker.place(net).sections((x.float() / 255).to(worker.device))[1]
        return [fsp_matrix(first, last).cpu() for first, last in maps]

    theirs, mine = matrices(teacher(trained)), matrices(student.eval())
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
    distance = f"; eq. (1) with λ = 1 is {float(section_losses(theirs, mine).sum()):.3g}" if same else ""
    figure.suptitle(f"FSP matrices after fine-tuning, mean over {len(x)} images{distance}")
    return figure
