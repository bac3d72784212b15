"""Forecasts of records, with bands: `HeavyBallForecaster`."""

from .backtest import backtest_records, errors_by_lead
from .figures import forecast_figure
from .forecaster import Forecast, HeavyBallForecaster

__all__ = ["Forecast", "HeavyBallForecaster", "backtest_records", "errors_by_lead", "forecast_figure"]

INTERNAL = {"forecast_figure"}
"""Names that other rooms of hbode use, and that are no part of what users may rely on."""
