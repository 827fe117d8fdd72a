"""Learned augmentation in three stages: classifier -> augmenter -> finetune (Cho, Kim and Yoon, section 3)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cost import count
from methods.data.dataset import Info, Split
from methods.max_entropy import paper
from methods.max_entropy.nets import NOISES, Augmenter, discriminator
from methods.method import Configs, Method, Recipe, Stage, State, States, Trained, Worker
from methods.metrics import validation
from methods.nets.resnet18 import STEMS, resnet18
from methods.space import choice, integer, real
from methods.training import Batch, Player, Training

M = TypeVar("M", bound=nn.Module)

DRAWS = 4
"""Noise vectors that every image is measured with; the same ones for all images, ranks and runs."""

MEASURED = 1000
"""Images of a split, at most and evenly spaced, that an augmenter is measured on."""


@dataclass(frozen=True)
class Classify(Training):
    stem: str = choice("cifar", STEMS, help="imagenet: 7x7 stride 2 and max-pool, for images of 200 pixels")
    width: int = integer(64, 4, 128, log=True, help="channels of the first section; 64 is ResNet-18")
    blocks: int = integer(2, 1, 3, help="per section; 2 is ResNet-18")
    epochs: int = integer(30, 0, 2000)
    nesterov: bool = choice(True, (True, False))


@dataclass(frozen=True)
class Augment(Training):
    objective: str = choice("corrected", paper.OBJECTIVES, help="sign of L_ME as printed, turned, or plain -H")
    weight: float = real(2.0, 1e-1, 1e2, log=True, search=True, help="lambda")
    affine: str = choice("bounded", ("bounded", "free"), help="free: entries of theta as the regressor gives them")
    bound: float = real(0.25, 1e-2, 1.0, log=True, search=True, help="how far an entry of theta may move, if bounded")
    noise: str = choice("strength", NOISES, help="none: one map per image; input: may be ignored; strength: ranges")
    guard: str = choice(
        "teacher", ("discriminator", "teacher", "none"), help="what holds against L_ME: D, or a teacher's cross-entropy"
    )
    apply: str = choice("fixed", ("fixed", "learned"), help="the share of images that are augmented")
    probability: float = real(0.5, 0.0, 1.0, help="that share, or where it starts")
    padding: str = choice("reflection", paper.PADDINGS, help="outside of the image; zeros tell a discriminator the map")
    discriminator_lr: float = real(1e-4, 1e-6, 1.0, log=True, help="of plain sgd")
    epochs: int = integer(5, 0, 2000)
    optimizer: str = choice("adam", ("sgd", "adam", "adamw", "rmsprop"))
    lr: float = real(1e-3, 1e-5, 1e-1, log=True, search=True, help="of the augmenter")
    weight_decay: float = real(0.0, 0.0, 0.1)
    schedule: str = choice("constant", ("constant", "cosine", "step"))


@dataclass(frozen=True)
class Finetune(Training):
    learned: bool = choice(True, (True, False), help="train on the augmenter's images")
    order: str = choice(
        "sequence", ("sequence", "alternate"), help="alternate: the augmenter takes a step per batch too"
    )
    decay: float = real(0.99, 0.0, 1.0, help="of the moving average that is the teacher of the alternate order")
    epochs: int = integer(30, 0, 2000)
    lr: float = real(0.02, 1e-6, 10.0, log=True)
    nesterov: bool = choice(True, (True, False))


class Student(nn.Module):
    """A classifier and its teacher: the moving average of its weights, always in eval mode, never trained.

    One module, so that a checkpoint holds both.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.teacher = copy.deepcopy(classifier).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the teacher a step towards the classifier, batch statistics included."""
        for own, other in zip(self.teacher.state_dict().values(), self.classifier.state_dict().values(), strict=True):
            own.lerp_(other, 1 - decay) if own.is_floating_point() else own.copy_(other)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Running batch statistics inside, and no update of them: what a network sees here is not what it learns from."""
    mode = net.training
    net.eval()
    yield
    net.train(mode)


def classifier_net(spec: Mapping[str, Any], info: Info) -> nn.Module:
    return resnet18(len(info.classes), info.mean, info.std, **spec)


def augmenter_net(config: Augment, info: Info) -> Augmenter:
    return Augmenter(
        info.mean,
        info.std,
        bound=config.bound if config.affine == "bounded" else None,
        noise=config.noise,
        padding=config.padding,
        probability=config.probability,
        learn_probability=config.apply == "learned",
    )


def filled(net: M, state: State, name: str) -> M:
    """`net` with the weights that `state` holds under `name`."""
    prefix = f"{name}."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)})
    return net


def frozen_classifier(worker: Worker, needs: States) -> nn.Module:
    net = filled(classifier_net(needs["classifier"].spec, worker.data.info), needs["classifier"], "classifier")
    return worker.place(net).eval().requires_grad_(False)


def train_classifier(worker: Worker, config: Classify, needs: States) -> State:
    """Stage 0: the classifier on labels. Trained once, shared by all trials."""
    spec = {"stem": config.stem, "width": config.width, "blocks": config.blocks}
    net = worker.place(classifier_net(spec, worker.data.info))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    def validate() -> dict[str, float]:
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
        theta = augmenter.theta(batch.x, batch.randn(augmenter.noise + 1)[:, :-1])
        parts = each(paper.transform(batch.x, theta, augmenter.padding), batch.y)
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
        # Each entry of the noise takes the quantiles of equal shares once, in an order of its own: few draws, no bias.
        order = torch.rand(DRAWS, self.augmenter.noise, generator=torch.Generator().manual_seed(0)).argsort(0)
        noise = torch.special.ndtri((order + 0.5) / DRAWS).to(image)
        before = [self.judge(image), self.critic(image)[:, None]]
        draws = []
        for z in noise:
            theta = self.augmenter.theta(image, z.expand(len(image), -1))
            augmented = paper.transform(image, theta, self.augmenter.padding)
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
        return measure(worker, config, augmenter, critic, classifier, val)

    def validate() -> dict[str, float]:
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
        x = batch.x
        if config.learned:
            with torch.no_grad():
                x = augmenter.sometimes(x, batch.randn(augmenter.noise + 1))
        if alternate:
            student.follow(config.decay)
        return {"loss": config.cross_entropy(student.classifier(x).float(), batch.y)}

    def validate() -> dict[str, float]:
        return validation(worker.predict(student.classifier, val.x), val.y)

    others = adversaries(settings, augmenter, critic, student.classifier, student.teacher) if alternate else []
    worker.fit(Player(student, loss, config), *others, validate=validate)
    metrics = validate()
    if config.learned:
        metrics |= measure(worker, settings, augmenter, critic, judge, val)
    nets = nn.ModuleDict({"classifier": student.classifier, "augmenter": augmenter, "critic": critic})
    return State(nets.state_dict(), needs["augmenter"].spec, metrics)


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    """The fine-tuned classifier; nothing is augmented when it answers."""
    return filled(classifier_net(states["classifier"].spec, info), states["finetune"], "classifier")


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    config: Classify = configs["classifier"]
    return {
        "model": classifier_net({"stem": config.stem, "width": config.width, "blocks": config.blocks}, info),
        "augmenter": augmenter_net(configs["augmenter"], info),
        "discriminator": discriminator(info.mean, info.std),
    }


def passes(config: Augment, alternate: bool) -> int:
    """Forward passes of the classifier that one image costs in a step of G; a gradient by the image is one more."""
    teacher = 2 if alternate and config.guard == "teacher" else 0  # in sequence the teacher is the classifier
    plain = (2 if teacher else 1) if config.apply == "learned" else 0
    return 2 + teacher + plain


def classifier_macs(configs: Configs, info: Info) -> int:
    config: Classify = configs["classifier"]
    return 3 * count(networks(configs, info)["model"], info).macs * info.train_size * config.epochs


def step_macs(configs: Configs, info: Info, alternate: bool) -> int:
    """Multiply-adds of one image in one step of G and D."""
    one = {name: count(net, info).macs for name, net in networks(configs, info).items()}
    config: Augment = configs["augmenter"]
    # D: forward and by the image in G's step, then twice with weights in its own, on an image that G makes again.
    guard = 8 * one["discriminator"] + one["augmenter"] if config.guard == "discriminator" else 0
    return 3 * one["augmenter"] + passes(config, alternate) * one["model"] + guard


def augmenter_macs(configs: Configs, info: Info) -> int:
    config: Augment = configs["augmenter"]
    return step_macs(configs, info, alternate=False) * info.train_size * config.epochs


def finetune_macs(configs: Configs, info: Info) -> int:
    config: Finetune = configs["finetune"]
    nets = networks(configs, info)
    one = 3 * count(nets["model"], info).macs
    if config.learned:
        one += count(nets["augmenter"], info).macs
        one += step_macs(configs, info, alternate=True) if config.order == "alternate" else 0
    return one * info.train_size * config.epochs


def without(augment: str) -> Any:
    """A control: the same classifier, fine-tuned for as many epochs on images that are augmented as named instead."""

    def control(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"augmenter.epochs": 0, "finetune.learned": False, "finetune.augment": augment}

    return control


def printed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All as it is but the sign of the loss."""
    return {"augmenter.objective": "printed"}


def as_printed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's augmenter, with all that its remedies change turned off."""
    return {f"augmenter.{name}": value for name, value in PAPER.items()}


def sign_turned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's augmenter with the sign of its loss turned and nothing else: collapse against cure."""
    return {**as_printed(settings), "augmenter.objective": "corrected"}


def alternate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """G and the classifier in turn, for as many epochs as cost what the sequence does.

    The classifier's passes are counted; those of G and D are few beside them, and all are in the stages' MACs.
    """
    config = Augment(**{k.removeprefix("augmenter."): v for k, v in settings.items() if k.startswith("augmenter.")})
    spent = passes(config, alternate=False) * config.epochs + 3 * settings["finetune.epochs"]
    epochs = round(spent / (passes(config, alternate=True) + 3))
    return {"augmenter.epochs": 0, "finetune.order": "alternate", "finetune.epochs": epochs}


def final_augmenter(trained: Trained) -> tuple[Augmenter, nn.Module]:
    """G and D as the last stage left them."""
    info, state = trained.worker.data.info, trained.states["finetune"]
    augmenter = filled(augmenter_net(trained.configs["augmenter"], info), state, "augmenter")
    critic = filled(discriminator(info.mean, info.std), state, "critic")
    return trained.worker.place(augmenter), trained.worker.place(critic)


def metrics(trained: Trained) -> dict[str, float]:
    """What `measure` finds on the split with the final augmenter, judged by the classifier before fine-tuning."""
    if not trained.configs["finetune"].learned:
        return {}
    augmenter, critic = final_augmenter(trained)
    judge = frozen_classifier(trained.worker, trained.states)
    return measure(trained.worker, trained.configs["augmenter"], augmenter, critic, judge, trained.split)


PAPER = {
    "objective": "printed",
    "weight": 2.0,
    "affine": "free",
    "noise": "none",
    "guard": "discriminator",
    "apply": "fixed",
    "probability": 1.0,
    "padding": "zeros",
}

METHOD = Method(
    name="max_entropy",
    paper="Cho, Kim & Yoon, automatic data augmentation from the viewpoint of active learning (KAIST, in Korean)",
    kind="image",
    stages=(
        Stage("classifier", Classify, train_classifier, macs=classifier_macs, shared=True),
        Stage("augmenter", Augment, train_augmenter, needs=("classifier",), macs=augmenter_macs),
        Stage("finetune", Finetune, finetune, needs=("classifier", "augmenter"), macs=finetune_macs),
    ),
    recipes={
        "quick": Recipe(
            data="digits",
            settings={
                "classifier.width": 8,
                "classifier.blocks": 1,
                "classifier.epochs": 6,
                "classifier.batch_size": 64,
                "augmenter.epochs": 2,
                "augmenter.batch_size": 64,
                "finetune.epochs": 4,
                "finetune.batch_size": 64,
            },
        ),
        # What the text does not give (batch size, momentum, decay, padding, the STN) is as in the README's table.
        "paper": Recipe(
            data="cifar10",
            settings={
                "classifier.optimizer": "adam",
                "classifier.lr": 0.1,
                "classifier.epochs": 100,
                "classifier.schedule": "constant",
                "classifier.weight_decay": 0.0,
                **{f"augmenter.{name}": value for name, value in PAPER.items()},
                "augmenter.lr": 1e-4,
                "augmenter.epochs": 50,
                "finetune.optimizer": "adam",
                "finetune.lr": 0.01,
                "finetune.epochs": 100,
                "finetune.schedule": "constant",
                "finetune.weight_decay": 0.0,
            },
        ),
        # What a laptop can say about collapse and about the controls within minutes.
        "subset": Recipe(
            data="cifar10",
            train_size=3000,
            settings={
                "classifier.width": 8,
                "classifier.blocks": 1,
                "classifier.epochs": 12,
                "classifier.batch_size": 64,
                "augmenter.epochs": 4,
                "augmenter.batch_size": 64,
                "finetune.epochs": 5,
                "finetune.batch_size": 64,
            },
        ),
        "modern": Recipe(data="cifar10", settings={"classifier.augment": "crop_flip", "finetune.augment": "crop_flip"}),
    },
    model=model,
    costs=networks,
    controls={
        "none": without("none"),
        "crop": without("crop"),
        "crop_flip": without("crop_flip"),
        "randaugment": without("randaugment"),
        "trivialaugment": without("trivialaugment"),
        "printed": printed,
        "as_printed": as_printed,
        "sign_turned": sign_turned,
        "alternate": alternate,
    },
    metrics=metrics,
    figures="methods.max_entropy.figures",
    published="methods.max_entropy.published",
)
