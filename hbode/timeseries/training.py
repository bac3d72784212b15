"""Training a forecaster, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..analysis import CostRecorder
from ..models import ODERNN, Prediction
from .windows import Dataset, Part


@dataclass(frozen=True)
class TrainSettings:
    """Adam with a cosine decay of the learning rate, on 0.1 · (one-step + reconstruction) + forecast."""

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-2
    clip: float = 1.0
    side_weight: float = 0.1
    """Of the one-step and the reconstruction error in the loss."""


@dataclass
class History:
    """One entry an epoch; evaluations are means per training batch, errors are mean squares in standardised units."""

    loss: list[float] = field(default_factory=list)
    train_forecast: list[float] = field(default_factory=list)
    validation_forecast: list[float] = field(default_factory=list)
    nfe_forward: list[float] = field(default_factory=list)
    nfe_backward: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    gamma: list[float | None] = field(default_factory=list)
    xi: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of training alone, without the validation."""


class Diverged(RuntimeError):
    """Training that reached a loss that is not finite."""


def loss_of(prediction: Prediction, x: Tensor, side_weight: float) -> tuple[Tensor, Tensor]:
    """Return the training loss and the forecast error, shape () each.

    Parameters
    ----------
    prediction
        Of a model that saw the first K samples of x.
    x
        Whole windows, shape (B, K + H, C).
    side_weight
        Weight of the one-step and reconstruction errors.
    """
    count = prediction.reconstruction.shape[1]
    forecast = mse_loss(prediction.forecast, x[:, count:])
    one_step = mse_loss(prediction.one_step, x[:, 1 : count + 1])
    reconstruction = mse_loss(prediction.reconstruction, x[:, :count])
    return side_weight * (one_step + reconstruction) + forecast, forecast


def train(
    model: ODERNN,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train a model in place; it ends with the weights of the epoch of the lowest validation error.

    Parameters
    ----------
    model, data
        On the same device.
    settings
        Length and optimiser.
    seed
        Of the order of the batches, which is thus the same for every model.
    on_epoch
        Called after each epoch with its number, from 1, and the history so far.

    Raises
    ------
    Diverged
        If the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * -(-len(data.train) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    history = History()
    observed = data.protocol.observed
    best, weights = float("inf"), _copy(model)
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        sums, windows, costs = [0.0, 0.0], 0, CostRecorder()
        for t, x in data.train.batches(settings.batch, generator):
            prediction = model(t, x[:, :observed])
            loss, forecast = loss_of(prediction, x, settings.side_weight)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            value = float(loss.detach())
            if not value < float("inf"):
                raise Diverged(f"the loss became {value} in epoch {epoch}; try a smaller --rtol or another --seed")
            sums = [sums[0] + value * len(x), sums[1] + float(forecast.detach()) * len(x)]
            costs.record(prediction.cost)
            windows += len(x)
        history.seconds.append(time.perf_counter() - started)
        history.loss.append(sums[0] / windows)
        history.train_forecast.append(sums[1] / windows)
        mean = costs.means(len(costs))
        history.nfe_forward += mean["nfe"]
        history.nfe_backward += mean["nfe_backward"]
        history.rejected += mean["rejected"]
        varying = any(function is not None for function in model.system.varying)
        gamma, xi = (None, None) if varying else model.system.coefficients()
        history.gamma.append(None if gamma is None else float(gamma.detach()))
        history.xi.append(None if xi is None else float(xi.detach()))
        error = float((predict(model, data.validation, observed) - data.validation.x[:, observed:]).square().mean())
        history.validation_forecast.append(error)
        if error < best:
            best, weights = error, _copy(model)
        if on_epoch is not None:
            on_epoch(epoch, history)
    model.load_state_dict(weights)
    return history


@torch.no_grad()
def predict(model: ODERNN, part: Part, observed: int, batch: int = 128) -> Tensor:
    """Return the forecasts of all windows, shape (W, H, C), standardised."""
    return torch.cat([model(t, x[:, :observed]).forecast for t, x in part.batches(batch)])


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
