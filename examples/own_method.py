"""A method of one's own: a small network whose certainty costs (Pereyra et al. 2017), and the same without that.

bo-distill run own_method:METHOD --bo --trials 8        # in this folder
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bo_distill.methods.data import Info
from bo_distill.methods.method import Control, Method, Recipe, Stage, State, States, Worker
from bo_distill.methods.metrics import validation
from bo_distill.methods.space import integer, real
from bo_distill.methods.training import Batch, Player, Training


@dataclass(frozen=True)
class Settings(Training):  # epochs, batch size, optimizer, schedule and more come with Training
    penalty: float = real(0.1, 0.0, 2.0, search=True, help="of the answers' certainty")
    lr: float = real(0.05, 1e-3, 1.0, log=True, search=True, help="first learning rate")
    epochs: int = integer(5, 0, 200, help="passes over the training rows")


def network(info: Info) -> nn.Module:
    head = nn.Linear(16 * 4 * 4, len(info.classes))
    return nn.Sequential(nn.Conv2d(info.shape[0], 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)


def train(worker: Worker, config: Settings, needs: States) -> State:
    net, val = worker.place(network(worker.data.info)), worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        chances = net(batch.x).float().log_softmax(1)  # the network may answer in bf16
        entropy = -(chances.exp() * chances).sum(1).mean()
        labels = config.cross_entropy(chances, batch.y)
        return {"loss": labels - config.penalty * entropy, "cross_entropy": labels, "entropy": entropy}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), {}, validate())


def model(configs: dict[str, Settings], states: States, info: Info) -> nn.Module:
    net = network(info)
    net.load_state_dict(dict(states["train"].tensors))
    return net


METHOD = Method(
    name="penalty",
    paper="Pereyra et al. 2017",
    kind="image",
    stages=(Stage("train", Settings, train),),
    recipes={"quick": Recipe("digits")},
    controls={"no_penalty": Control(lambda settings: {"train.penalty": 0.0})},
    model=model,
    costs=lambda configs, info: {"model": network(info)},
)
