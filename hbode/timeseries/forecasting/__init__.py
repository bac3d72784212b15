"""Forecasts of records, with bands: `HeavyBallForecaster`."""

from .forecaster import Forecast, HeavyBallForecaster

__all__ = ["Forecast", "HeavyBallForecaster"]
