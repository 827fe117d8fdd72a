"""FSP transfer as three stages: teacher -> transfer -> finetune (Kim & Bae 2020, fig. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from bo_distill.methods.fsp.nets import Projected, teacher_net
from bo_distill.methods.fsp.paper import decoupled_loss, fsp_matrix, section_losses, soft_target_loss, standardised
from bo_distill.methods.fsp.settings import Finetune, Teacher, Transfer
from bo_distill.methods.method import State, States, Worker
from bo_distill.methods.metrics import validation
from bo_distill.methods.nets.cifar import CifarNet, Sectioned
from bo_distill.methods.training import Batch, Player


def frozen_teacher(worker: Worker, state: State) -> Sectioned:
    """The trained teacher in eval mode, without gradients."""
    net = teacher_net(state.spec["arch"], worker.data.info)
    net.load_state_dict(dict(state.tensors))
    return worker.place(net).eval().requires_grad_(False)


def train_teacher(worker: Worker, config: Teacher, needs: States) -> State:
    """Stage 0: the teacher on labels. Trained once, shared by all trials."""
    net = worker.place(teacher_net(config.arch, worker.data.info))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    def validate() -> dict[str, float]:
        """Accuracy and cross-entropy on validation."""
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), {"arch": config.arch}, validate())


def transfer(worker: Worker, config: Transfer, needs: States) -> State:
    """Stage 1: the student learns the teacher's flow, eq. (1); in mode `joint` together with the labels."""
    student = CifarNet(worker.data.info, config.depth)
    teacher = frozen_teacher(worker, needs["teacher"])
    net = worker.place(Projected(student, teacher, config.balance))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        """Distance of the student's flow from the teacher's, section by section; in one stage also cross-entropy."""
        logits, mine = net(batch.x)
        with torch.no_grad():
            theirs = [fsp_matrix(first, last) for first, last in teacher.sections(batch.x)[1]]
        sections = section_losses(theirs, mine)
        if config.balance != "none" and batch.epoch == 0:
            net.begin(worker.total(sections.detach() * (len(batch.x) / batch.size)))
        cost = config.weight * net.balanced(sections)
        parts = {"fsp": sections.sum(), **{f"fsp_{i}": section for i, section in enumerate(sections, 1)}}
        if config.mode == "two_stage":
            return {"loss": cost, **parts}
        labels = config.cross_entropy(logits.float(), batch.y)
        return {"loss": labels + cost, **parts, "labels": labels}

    def validate() -> dict[str, float]:
        """Accuracy and cross-entropy of the student on validation."""
        return validation(worker.predict(student, val.x), val.y)

    # Until the labels are seen, accuracy is chance and must not reach a scheduler.
    history = worker.fit(Player(net, loss, config), validate=validate if config.mode == "joint" else None)
    metrics = {part: value for part, value in history[-1].items() if part.startswith("fsp")} if history else {}
    return State(student.state_dict(), {"depth": config.depth}, metrics)


def finetune(worker: Worker, config: Finetune, needs: States) -> State:
    """Stage 2: the student on labels, from where the transfer left it; optionally with the teacher's soft targets."""
    spec = needs["transfer"].spec
    net = CifarNet(worker.data.info, spec["depth"])
    net.load_state_dict(dict(needs["transfer"].tensors))
    worker.place(net)
    teacher = frozen_teacher(worker, needs["teacher"]) if config.distill else None
    val, temperature = worker.data.val, config.temperature

    def loss(batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, and where configured the distance from the teacher's soft labels."""
        logits = net(batch.x).float()
        labels = config.cross_entropy(logits, batch.y)
        if teacher is None:
            return {"loss": labels}
        with torch.no_grad():
            theirs = teacher(batch.x).float()
        if config.standardise:
            mine, theirs = standardised(logits), standardised(theirs)
        else:
            mine = logits
        if config.soft == "dkd":
            soft = decoupled_loss(mine, theirs, batch.y, temperature, 1.0, config.beta)
        else:
            soft = soft_target_loss(mine, theirs, temperature)
        return {"loss": (1 - config.distill) * labels + config.distill * soft, "labels": labels, "soft": soft}

    def validate() -> dict[str, float]:
        """Accuracy and cross-entropy on validation."""
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    # A student that learned from a worse network is a fact about the result.
    teacher_accuracy = needs["teacher"].metrics["val_accuracy"]
    return State(net.state_dict(), spec, validate() | {"teacher_accuracy": teacher_accuracy})
