"""Measured records in, forecasts and simulations out."""

from typing import Any

from ..lazy import submodule
from .demo import DemoSettings, run_demo
from .evaluation import ForecastError, forecast_error, persistence
from .forecast import ForecastSettings, run_forecast
from .learners import Learned, Task, learn
from .records import Affine, Channel, DataError, MissingExtra, Records, Run, Scaling, check_for_training, read_records
from .structure import Structure, structure_records
from .training import Diverged, History, TrainSettings, loss_of, predict, train
from .windows import Dataset, Part, Protocol, make_dataset

__all__ = [
    "Affine",
    "Channel",
    "DataError",
    "Dataset",
    "DemoSettings",
    "Diverged",
    "ForecastError",
    "ForecastSettings",
    "HeavyBallForecaster",
    "History",
    "LatentSDEForecaster",
    "Learned",
    "MissingExtra",
    "Part",
    "Protocol",
    "Records",
    "Run",
    "Scaling",
    "Structure",
    "SystemIdentifier",
    "Task",
    "TrainSettings",
    "check_for_training",
    "forecast_error",
    "learn",
    "loss_of",
    "make_dataset",
    "persistence",
    "predict",
    "read_records",
    "run_demo",
    "run_forecast",
    "structure_records",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in ("HeavyBallForecaster", "LatentSDEForecaster", "SystemIdentifier"):  # which need scikit-learn
        return submodule(__name__, name)
    from . import forecasting, identification

    return getattr(identification if name == "SystemIdentifier" else forecasting, name)
