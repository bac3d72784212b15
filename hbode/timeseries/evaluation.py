"""Errors of forecasts, beside that of the simplest one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .records import Array
from .windows import Part


@dataclass(frozen=True)
class ForecastError:
    """Errors over windows, samples ahead and channels, in standardised units.

    Attributes
    ----------
    mse
        Mean square error.
    relative
        √(mse / mean square of the truth): 1 is what forecasting the mean of the training part would give.
    by_step
        Mean square error of each sample ahead.
    by_channel
        Mean square error of each channel.

    Examples
    --------
    >>> import torch
    >>> from hbode.timeseries import forecast_error
    >>> len(forecast_error(torch.zeros(4, 3, 1), torch.ones(4, 3, 1)).by_step)
    3
    """

    mse: float
    relative: float
    by_step: list[float]
    by_channel: list[float]


def forecast_error(forecast: Tensor, truth: Tensor) -> ForecastError:
    """Compare forecasts with the truth, both (W, H, C).

    Examples
    --------
    >>> import torch
    >>> from hbode.timeseries import forecast_error
    >>> forecast_error(torch.zeros(4, 3, 1), torch.ones(4, 3, 1)).mse
    1.0
    """
    square = (forecast - truth).double().square()
    mse = float(square.mean())
    return ForecastError(
        mse,
        (mse / float(truth.double().square().mean())) ** 0.5,
        square.mean((0, 2)).tolist(),
        square.mean((0, 1)).tolist(),
    )


def persistence(part: Part, observed: int) -> Tensor:
    """Forecast that everything stays at its last observed value, shape (W, H, C).

    Examples
    --------
    >>> import torch
    >>> from hbode.timeseries import Part, persistence
    >>> persistence(Part(torch.zeros(5, 3), torch.ones(5, 3, 1), torch.zeros(5, 3)), 2).shape
    torch.Size([5, 1, 1])
    """
    return part.x[:, observed - 1 : observed].expand(-1, part.x.shape[1] - observed, -1)


def typical_window(forecasts: list[Array], truth: Array) -> int:
    """Return the window whose error, averaged over the models, is the median: no showcase, no failure."""
    errors = np.mean([np.square(f - truth).mean((1, 2)) for f in forecasts], 0)
    return int(np.argsort(errors)[len(errors) // 2])
