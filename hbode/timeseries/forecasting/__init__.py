"""Forecasts of records, with bands: `HeavyBallForecaster`, `LatentSDEForecaster`."""

from .backtest import backtest_records, errors_by_lead
from .figures import forecast_figure
from .forecaster import HeavyBallForecaster
from .forecasts import Forecast, Forecaster
from .latent_sde import LatentSDEForecaster

__all__ = [
    "Forecast",
    "Forecaster",
    "HeavyBallForecaster",
    "LatentSDEForecaster",
    "backtest_records",
    "errors_by_lead",
    "forecast_figure",
]

INTERNAL = {"forecast_figure"}
"""Names that other rooms of hbode use, and that are no part of what users may rely on."""
