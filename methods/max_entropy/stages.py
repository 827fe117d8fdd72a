"""Learned augmentation in three stages: classifier -> augmenter -> finetune (Cho, Kim and Yoon, section 3)."""

from __future__ import annotations

import copy
import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Split
from bo_distill.methods.max_entropy import paper
from bo_distill.methods.max_entropy.nets import (
    Augmenter,
    Student,
    augmenter_net,
    classifier_net,
    discriminator,
    evaluating,
    filled,
)
from bo_distill.methods.max_entropy.settings import Augment, Classify, Finetune
from bo_distill.methods.method import State, States, Worker
from bo_distill.methods.metrics import validation
from bo_distill.methods.training import Batch, Player

DRAWS = 4
"""Noise vectors that every image is measured with; the same ones for all images, ranks and runs."""


MEASURED = 1000
"""Images of a split, at most and evenly spaced, that an augmenter is measured on."""


def frozen_classifier(worker: Worker, needs: States) -> nn.Module:
    """The trained classifier in eval mode, without gradients."""
    net = filled(classifier_net(needs["classifier"].spec, worker.data.info), needs["classifier"], "classifier")
    return worker.place(net).eval().requires_grad_(False)


def train_classifier(worker: Worker, config: Classify, needs: States) -> State:
    """Stage 0: the classifier on labels. Trained once, shared by all trials."""
    spec = {"stem": config.stem, "width": config.width, "blocks": config.blocks}
    net = worker.place(classifier_net(spec, worker.data.info))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    def validate() -> dict[str, float]:
        """Accuracy and cross-entropy on validation."""
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(nn.ModuleDict({"classifier": net}).state_dict(), spec, validate())


def adversaries(
    config: Augment, augmenter: Augmenter, critic: nn.Module, attacked: nn.Module, teacher: nn.Module
) -> list[Player]:
    """G, and D where it is the guard: min_G max_D V(D, G).

    Args:
        config: of the augmenter; its epochs are those of the training that the players take part in.
        augmenter, critic: G and D.
        attacked: the classifier whose entropy G changes. It gets no gradient, whatever its mode.
        teacher: whose cross-entropy on G's images is the label term.
    """

    def each(image: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What G pays for each image, (b,)."""
        with evaluating(attacked):
            logits = attacked(image).float()
        parts = {"max_entropy": paper.max_entropy_loss(logits, config.objective), "entropy": paper.entropy(logits)}
        cost = config.weight * parts["max_entropy"]
        if config.guard == "discriminator":
            parts["adversarial"] = paper.generator_loss(critic(image).float())
            cost = cost + parts["adversarial"]
        elif config.guard == "teacher":
            taught = logits if teacher is attacked else teacher(image).float()
            parts["labels"] = F.cross_entropy(taught, y, reduction="none")
            cost = cost + parts["labels"]
        return {"generator": cost, **parts}

    def augmenter_loss(batch: Batch) -> dict[str, Tensor]:
        """G's terms, means over the batch; `loss` is what G descends."""
        theta, colour = augmenter.changes(batch.x, batch.randn(augmenter.noise + 1)[:, :-1])
        parts = each(augmenter.changed(batch.x, theta, colour), batch.y)
        means = {name: value.mean() for name, value in parts.items()}
        means["loss"] = means["generator"]
        means["distance"] = paper.distance(theta).mean()
        if config.apply == "learned":
            # The expectation over which images are augmented, exactly: no draw to differentiate through.
            with torch.no_grad():
                plain = each(batch.x, batch.y)["generator"].mean()
            means["probability"] = augmenter.probability
            means["loss"] = plain + augmenter.probability * (means["generator"] - plain)
        return means

    def critic_loss(batch: Batch) -> dict[str, Tensor]:
        """D's loss on the batch and its augmented copy; no gradient reaches G."""
        with torch.no_grad():
            augmented = augmenter(batch.x, batch.randn(augmenter.noise + 1)[:, :-1])
        loss = paper.discriminator_loss(critic(batch.x).float(), critic(augmented).float())
        return {"loss": loss, "discriminator": loss}

    plain_sgd = dataclasses.replace(
        config, optimizer="sgd", lr=config.discriminator_lr, momentum=0.0, nesterov=False, weight_decay=0.0
    )
    players = [Player(augmenter, augmenter_loss, config)]
    return [*players, Player(critic, critic_loss, plain_sgd)] if config.guard == "discriminator" else players


class Probe(nn.Module):
    """Images (b, c, h, w) -> (b, DRAWS, 6 + 2 m + 2): theta, logits on I and on I', and D's logits on I and on I'."""

    def __init__(self, augmenter: Augmenter, critic: nn.Module, judge: nn.Module) -> None:
        super().__init__()
        self.augmenter, self.critic, self.judge = augmenter, critic, judge

    def forward(self, image: Tensor) -> Tensor:
        """See the class; the same noise for every batch."""
        # Each entry of the noise takes the quantiles of equal shares once, in an order of its own: few draws, no bias.
        order = torch.rand(DRAWS, self.augmenter.noise, generator=torch.Generator().manual_seed(0)).argsort(0)
        noise = torch.special.ndtri((order + 0.5) / DRAWS).to(image)
        before = [self.judge(image), self.critic(image)[:, None]]
        draws = []
        for z in noise:
            theta, colour = self.augmenter.changes(image, z.expand(len(image), -1))
            augmented = self.augmenter.changed(image, theta, colour)
            draws.append(
                torch.cat(
                    [theta.flatten(1), before[0], self.judge(augmented), before[1], self.critic(augmented)[:, None]],
                    dim=1,
                )
            )
        return torch.stack(draws, dim=1)


def measure(
    worker: Worker, config: Augment, augmenter: Augmenter, critic: nn.Module, judge: nn.Module, split: Split
) -> dict[str, float]:
    """What the augmenter does to at most MEASURED images of `split` when it is applied, as `judge` sees it.

    Returns:
        distance: mean of |theta - identity|, Frobenius; moved_RC: mean of |theta_RC - identity_RC|, by entry.
        spread: standard deviation of theta over the noise, Frobenius, mean over images; 0 is a deterministic map.
        entropy_before, entropy_after: of the judge, bits.
        agreement_before, agreement: share of images whose label the judge gives, as they are and augmented.
        probability: share of images that are augmented when the classifier trains.
        max_entropy: L_ME; adversarial, discriminator, labels: the losses of whatever is the guard.
    """
    m, every = len(worker.data.info.classes), -(-len(split) // MEASURED)
    seen = worker.predict(Probe(augmenter, critic, judge), split.x[::every])
    flat, plain, augmented, real, fake = torch.split(seen, [6, m, m, 1, 1], dim=2)
    theta = flat.view(*flat.shape[:2], 2, 3)
    moved = (theta - paper.identity(theta)).abs().mean((0, 1))
    y = split.y[::every, None]
    result = {
        "distance": paper.distance(theta).mean(),
        **{f"moved_{row + 1}{column + 1}": moved[row, column] for row in range(2) for column in range(3)},
        "spread": torch.linalg.vector_norm(theta.std(1), dim=(1, 2)).mean(),
        "entropy_before": paper.entropy(plain).mean(),
        "entropy_after": paper.entropy(augmented).mean(),
        "agreement_before": (plain.argmax(2) == y).float().mean(),
        "agreement": (augmented.argmax(2) == y).float().mean(),
        "probability": augmenter.probability,
        "max_entropy": paper.max_entropy_loss(augmented, config.objective).mean(),
    }
    if config.guard == "discriminator":
        result["adversarial"] = paper.generator_loss(fake).mean()
        result["discriminator"] = paper.discriminator_loss(real, fake)
    elif config.guard == "teacher":
        result["labels"] = F.cross_entropy(augmented.flatten(0, 1), y.expand(-1, DRAWS).flatten())
    return {name: float(value.detach()) for name, value in result.items()}


def train_augmenter(worker: Worker, config: Augment, needs: States) -> State:
    """Stage 1: G and its guard, against the frozen classifier, which is also the teacher: it does not move."""
    info, val = worker.data.info, worker.data.val
    classifier = frozen_classifier(worker, needs)
    augmenter = worker.place(augmenter_net(config, info))
    critic = worker.place(discriminator(info.mean, info.std))

    def measured() -> dict[str, float]:
        """What the augmenter does to validation images now."""
        return measure(worker, config, augmenter, critic, classifier, val)

    def validate() -> dict[str, float]:
        """The same, for the epoch's row."""
        return {f"val_{name}": value for name, value in measured().items()}

    worker.fit(*adversaries(config, augmenter, critic, classifier, classifier), validate=validate)
    nets = nn.ModuleDict({"augmenter": augmenter, "critic": critic})
    return State(nets.state_dict(), dataclasses.asdict(config), measured())


def finetune(worker: Worker, config: Finetune, needs: States) -> State:
    """Stage 2: the classifier on G's images; in the alternate order G goes on learning, a step of each per batch."""
    info, val = worker.data.info, worker.data.val
    judge = frozen_classifier(worker, needs)
    settings = dataclasses.replace(Augment(**needs["augmenter"].spec), epochs=config.epochs)
    augmenter = worker.place(filled(augmenter_net(settings, info), needs["augmenter"], "augmenter"))
    critic = worker.place(filled(discriminator(info.mean, info.std), needs["augmenter"], "critic"))
    student = Student(copy.deepcopy(judge).requires_grad_(True))
    alternate = config.learned and config.order == "alternate"

    def loss(batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on images that are augmented as configured; where in turn, the teacher follows."""
        x = batch.x
        if config.learned:
            with torch.no_grad():
                x = augmenter.sometimes(x, batch.randn(augmenter.noise + 1))
        if alternate:
            student.follow(config.decay)
        return {"loss": config.cross_entropy(student.classifier(x).float(), batch.y)}

    def validate() -> dict[str, float]:
        """Accuracy and cross-entropy on validation."""
        return validation(worker.predict(student.classifier, val.x), val.y)

    others = adversaries(settings, augmenter, critic, student.classifier, student.teacher) if alternate else []
    worker.fit(Player(student, loss, config), *others, validate=validate)
    metrics = validate()
    if config.learned:
        metrics |= measure(worker, settings, augmenter, critic, judge, val)
    nets = nn.ModuleDict({"classifier": student.classifier, "augmenter": augmenter, "critic": critic})
    return State(nets.state_dict(), needs["augmenter"].spec, metrics)
