"""The optimisers that a `methods.training.Training` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bo_distill.methods.training import Training

# Of the quintic iteration: steep at 0, and within 0.7 to 1.2 from five steps on (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """U V^T of the singular value decomposition U S V^T of `matrix` (m, n), by Newton-Schulz iteration.

    Singular values become about 1 (0.7 to 1.2), which is all that an optimiser's direction needs.
    """
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # products of the smaller side are cheaper
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, for convolutions; plain momentum for all else.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". A filter bank (out, in, ...) counts
    as a matrix (out, in * ...). Biases, norms and linear heads take the SGD step of the same rate. The decay of
    orthogonalised weights is decoupled, since a direction has no length that it could be weighed against.

    Args:
        groups: of parameters, each with its "weight_decay"; convolutions are told by their three or more dimensions.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float, momentum: float, nesterov: bool) -> None:
        super().__init__(list(map(dict, groups)), {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, convolution = parameter.grad, parameter.dim() > 2
                if not convolution:
                    gradient = gradient.add(parameter, alpha=decay)
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
                update = gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer
                if convolution:
                    matrix = update.flatten(1)
                    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                    update = scale * orthogonalised(matrix).view(parameter.shape)
                    parameter.mul_(1 - lr * decay)
                parameter.sub_(update, alpha=lr)


def make_optimizer(net: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser of one player's parameters that require a gradient."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": training.weight_decay}]
    if training.decayed == "matrices":
        vectors = [p for p in parameters if p.dim() < 2]
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    lr, momentum = training.lr, training.momentum
    nesterov = training.nesterov and momentum > 0
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr, momentum, nesterov=nesterov)
        case "muon":
            return Muon(groups, lr, momentum, nesterov)
        case "adam":
            return torch.optim.Adam(groups, lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, alpha=0.9, momentum=momentum)
        case other:
            raise AssertionError(other)
