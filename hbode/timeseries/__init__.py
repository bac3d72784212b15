"""Irregular time series in, forecasts out."""

from .csv_reader import read_csv
from .demo import DemoSettings, run_demo
from .evaluation import ForecastError, forecast_error, persistence
from .learners import Learned, Task, learn
from .records import Channel, DataError, Records, Run
from .scaling import Affine, Scaling, check_for_training
from .series import Series
from .structure import Structure, structure_series
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
    "History",
    "Learned",
    "Part",
    "Protocol",
    "Records",
    "Run",
    "Scaling",
    "Series",
    "Structure",
    "Task",
    "TrainSettings",
    "check_for_training",
    "forecast_error",
    "learn",
    "loss_of",
    "make_dataset",
    "persistence",
    "predict",
    "read_csv",
    "run_demo",
    "structure_series",
    "train",
]
