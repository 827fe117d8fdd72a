"""FSP transfer as three stages: teacher -> transfer -> finetune (Kim & Bae 2020, fig. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.fsp.nets import Projected, teacher_net
from methods.fsp.paper import fsp_loss, fsp_matrix, soft_target_loss
from methods.fsp.settings import Finetune, Teacher, Transfer
from methods.method import State, States, Worker
from methods.metrics import validation
from methods.nets.cifar import CifarNet, Sectioned
from methods.training import Batch, Player


def frozen_teacher(worker: Worker, state: State) -> Sectioned:
    net = teacher_net(state.spec["arch"], worker.data.info)
    net.load_state_dict(dict(state.tensors))
    return worker.place(net).eval().requires_grad_(False)


def train_teacher(worker: Worker, config: Teacher, needs: States) -> State:
    """Stage 0: the teacher on labels. Trained once, shared by all trials."""
    net = worker.place(teacher_net(config.arch, worker.data.info))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), {"arch": config.arch}, validate())


def transfer(worker: Worker, config: Transfer, needs: States) -> State:
    """Stage 1: the student learns the teacher's flow, eq. (1); in mode `joint` together with the labels."""
    student = CifarNet(worker.data.info, config.depth)
    teacher = frozen_teacher(worker, needs["teacher"])
    net = worker.place(Projected(student, teacher))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        logits, mine = net(batch.x)
        with torch.no_grad():
            theirs = [fsp_matrix(first, last) for first, last in teacher.sections(batch.x)[1]]
        flow = fsp_loss(theirs, mine)
        if config.mode == "two_stage":
            return {"loss": config.weight * flow, "fsp": flow}
        labels = config.cross_entropy(logits.float(), batch.y)
        return {"loss": labels + config.weight * flow, "fsp": flow, "labels": labels}

    def validate() -> dict[str, float]:
        return validation(worker.predict(student, val.x), val.y)

    # Until the labels are seen, accuracy is chance and must not reach a scheduler.
    history = worker.fit(Player(net, loss, config), validate=validate if config.mode == "joint" else None)
    metrics = {"fsp": history[-1]["fsp"]} if history else {}
    return State(student.state_dict(), {"depth": config.depth}, metrics)


def finetune(worker: Worker, config: Finetune, needs: States) -> State:
    """Stage 2: the student on labels, from where the transfer left it; optionally with the teacher's soft targets."""
    spec = needs["transfer"].spec
    net = CifarNet(worker.data.info, spec["depth"])
    net.load_state_dict(dict(needs["transfer"].tensors))
    worker.place(net)
    teacher = frozen_teacher(worker, needs["teacher"]) if config.distill else None
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        logits = net(batch.x).float()
        labels = config.cross_entropy(logits, batch.y)
        if teacher is None:
            return {"loss": labels}
        with torch.no_grad():
            theirs = teacher(batch.x)
        soft = soft_target_loss(logits, theirs, config.temperature)
        return {"loss": (1 - config.distill) * labels + config.distill * soft, "labels": labels, "soft": soft}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), spec, validate())
