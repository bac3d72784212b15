"""What the tests of training learn. A module, because processes that are started import it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hbode.models import HBNODE, DenseField, ODELayer, SolverSettings
from hbode.training import TrainingSettings, solver_costs


def line(samples: int = 20) -> tuple[Tensor, Tensor]:
    """Return x (N, 2) and a linear function of it with noise, in float64."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=rng, dtype=torch.float64)
    return x, x @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + 0.1 * torch.randn(
        samples, 1, generator=rng, dtype=torch.float64
    )


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(2, 1).double()


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return mse_loss(model(x), y)


def noisy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """With random numbers while training, as dropout makes them."""
    x, y = batch
    return mse_loss(model(x + (0.1 * torch.randn_like(x) if model.training else 0.0)), y)


def layer(method: str = "rk4", gradient: str = "discrete_adjoint", tolerance: float = 1e-10) -> HBNODE:
    torch.manual_seed(2)
    solver = SolverSettings(method=method, rtol=tolerance, atol=tolerance, gradient=gradient)
    return HBNODE(DenseField(2, 8, activation=nn.Tanh), solver=solver).double()


def ode_data(samples: int = 11) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, torch.sin(x)


def ode_loss(model: ODELayer, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict]:
    x, y = batch
    value = mse_loss(model(x), y)
    return value, {"samples": float(len(x)), **solver_costs(model.stats)}


def settings(**changes) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 4, "batch": 6, "learning_rate": 1e-2, "clip": 1.0, **changes})


def failing_beside(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """With an error in one of two processes: the one that has fewer samples of five."""
    if len(batch[0]) == 2:
        raise ArithmeticError("of the second")
    return squared(model, batch)


class PartlyUsed(nn.Module):
    """With parameters that only batches with a positive first entry reach, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = linear(), linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if bool(x[0, 0] > 0) else self.second(x)
