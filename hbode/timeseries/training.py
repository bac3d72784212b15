"""Training a forecaster, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .. import training
from ..models import ODERNN, Prediction
from ..training import Diverged, TrainingSettings, solver_costs
from .windows import Dataset, Part

__all__ = ["Diverged", "History", "TrainSettings", "loss_of", "predict", "train"]

PREDICTED = 128
"""Windows that are forecast at a time."""


@dataclass(frozen=True)
class TrainSettings:
    """Adam with a cosine decay of the learning rate, on 0.1 · (one-step + reconstruction) + forecast.

    Examples
    --------
    >>> from hbode.timeseries import TrainSettings
    >>> TrainSettings(epochs=3).batch
    64
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-2
    clip: float = 1.0
    side_weight: float = 0.1
    """Of the one-step and the reconstruction error in the loss."""


@dataclass
class History:
    """One entry an epoch; evaluations are means per training window, errors are mean squares in standardised units.

    Examples
    --------
    >>> from hbode.timeseries import History
    >>> History().loss
    []
    """

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

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ODERNN, hbnode
    >>> from hbode.timeseries import loss_of
    >>> model, x = ODERNN(hbnode(4, 8), size=4, channels=2), torch.randn(3, 8, 2)
    >>> loss, forecast = loss_of(model(torch.arange(8.0).expand(3, 8), x[:, :6]), x, 0.1)
    >>> loss.shape
    torch.Size([])
    """
    count = prediction.reconstruction.shape[1]
    forecast = mse_loss(prediction.forecast, x[:, count:])
    one_step = mse_loss(prediction.one_step, x[:, 1 : count + 1])
    reconstruction = mse_loss(prediction.reconstruction, x[:, :count])
    return side_weight * (one_step + reconstruction) + forecast, forecast


@dataclass(frozen=True)
class _ForecastLoss:
    """The loss of `hbode.training.train`, which measures the forecast error, the cost, and γ and ξ where constant."""

    observed: int
    side_weight: float

    def __call__(self, model: ODERNN, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, training.Number]]:
        t, x = batch
        prediction = model(t, x[:, : self.observed])
        loss, forecast = loss_of(prediction, x, self.side_weight)
        varying = any(function is not None for function in model.system.varying)
        coefficients = zip(("gamma", "xi"), (None, None) if varying else model.system.coefficients(), strict=True)
        own = {name: value for name, value in coefficients if value is not None}
        return loss, {"forecast": forecast, **own, **solver_costs(prediction.cost)}


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

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.models import ODERNN, hbnode
    >>> from hbode.timeseries import Protocol, Records, TrainSettings, make_dataset, train
    >>> t = np.arange(200.0)
    >>> records = Records.from_arrays(t, np.sin(0.3 * t)[:, None], outputs=["x"])
    >>> data = make_dataset(records, Protocol(observed=8, forecast=2, max_train=16), seed=0)
    >>> history = train(ODERNN(hbnode(4, 8), size=4, channels=1), data, TrainSettings(epochs=1), seed=0)
    >>> len(history.loss)
    1
    """
    found = training.train(
        model,
        _ForecastLoss(data.protocol.observed, settings.side_weight),
        (data.train.t, data.train.x),
        TrainingSettings(
            epochs=settings.epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            clip=settings.clip,
            monitor="forecast",
            validation_batch=PREDICTED,
        ),
        validation=(data.validation.t, data.validation.x),
        seed=seed,
        progress=None if on_epoch is None else lambda epoch, so_far: on_epoch(epoch, _history(so_far)),
    )
    return _history(found)


def _history(found: training.History) -> History:
    """Return what was measured under the names of a forecast; coefficients are those after the epoch."""
    none: list[float | None] = [None] * found.epochs
    return History(
        loss=found.train["loss"],
        train_forecast=found.train["forecast"],
        validation_forecast=found.validation["forecast"],
        nfe_forward=found.train["nfe"],
        nfe_backward=found.train["nfe_backward"],
        rejected=found.train["rejected"],
        gamma=[*found.validation.get("gamma", none)],
        xi=[*found.validation.get("xi", none)],
        seconds=found.seconds,
    )


@torch.no_grad()
def predict(model: ODERNN, part: Part, observed: int, batch: int = PREDICTED) -> Tensor:
    """Return the forecasts of all windows, shape (W, H, C), standardised.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ODERNN, hbnode
    >>> from hbode.timeseries import Part, predict
    >>> part = Part(torch.arange(6.0, dtype=torch.float64).expand(3, 6), torch.randn(3, 6, 2), torch.zeros(3, 6))
    >>> predict(ODERNN(hbnode(4, 8), size=4, channels=2), part, observed=4).shape
    torch.Size([3, 2, 2])
    """
    return torch.cat([model(t, x[:, :observed]).forecast for t, x in part.batches(batch)])
