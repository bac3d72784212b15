"""One model, from its name to its forecasts; several of them in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models import ODERNN, SolverSettings, make_system, parameter_count
from ..progress.jobs import Board, Reporter, run_all
from ..solution import SolverError
from .evaluation import ForecastError, forecast_error
from .records import Array
from .stiffness import HiddenStiffness, hidden_stiffness
from .training import Diverged, History, TrainSettings, predict, train
from .windows import Dataset


@dataclass(frozen=True)
class Task:
    """What to learn: a system by name, its state channels and field units, and how.

    Examples
    --------
    >>> from hbode.models import SolverSettings
    >>> from hbode.timeseries import Task, TrainSettings
    >>> Task("hbnode", 4, 8, SolverSettings(), TrainSettings(epochs=1), seed=0, device="cpu").name
    'hbnode'
    """

    name: str
    size: int
    hidden: int
    solver: SolverSettings
    training: TrainSettings
    seed: int
    device: str


@dataclass(frozen=True)
class Learned:
    """What came out. A model that failed has a `failure`, and no errors and forecasts.

    Attributes
    ----------
    gamma, xi
        Of the weights that were kept; None where the system has none.
    stiffness
        Along the forecasts of some test windows.
    forecast
        Of the test windows, (W, H, C), standardised.

    Examples
    --------
    >>> from hbode.models import SolverSettings
    >>> from hbode.timeseries import History, Learned, Task, TrainSettings
    >>> task = Task("node", 4, 8, SolverSettings(), TrainSettings(epochs=1), 0, "cpu")
    >>> Learned(task, 100, History(), 1.5, failure="diverged").error is None
    True
    """

    task: Task
    parameters: int
    history: History
    seconds: float
    gamma: float | None = None
    xi: float | None = None
    error: ForecastError | None = None
    stiffness: HiddenStiffness | None = None
    forecast: Array | None = None
    failure: str | None = None


def build(name: str, size: int, hidden: int, channels: int, solver: SolverSettings) -> ODERNN:
    """Return an untrained ODE-RNN with the dynamics of that name."""
    return ODERNN(make_system(name, size, hidden), size, channels, solver)


def learn(task: Task, data: Dataset, report: Reporter | None = None) -> Learned:
    """Train one model and forecast the test windows. The result depends on the task and the data alone.

    `report` is told the epochs.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.models import SolverSettings
    >>> from hbode.timeseries import Protocol, Records, Task, TrainSettings, learn, make_dataset
    >>> t = np.arange(200.0)
    >>> records = Records.from_arrays(t, np.sin(0.3 * t)[:, None], outputs=["x"])
    >>> data = make_dataset(records, Protocol(observed=8, forecast=2, max_train=16), seed=0)
    >>> learned = learn(Task("node", 4, 8, SolverSettings(), TrainSettings(epochs=1), 0, "cpu"), data)
    >>> learned.failure is None
    True
    """
    started = time.perf_counter()
    device = torch.device(task.device)
    data = data.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        model = build(task.name, task.size, task.hidden, data.train.x.shape[2], task.solver).to(device)
    history, count = History(), parameter_count(model)

    def on_epoch(epoch: int, so_far: History) -> None:
        if report is not None:
            report(epoch, f"validation error {so_far.validation_forecast[-1]:.3f}")

    try:
        history = train(model, data, task.training, task.seed, on_epoch)
        observed = data.protocol.observed
        forecast = predict(model, data.test, observed)
        rates = hidden_stiffness(model, data.test, observed)
    except (Diverged, SolverError) as error:
        return Learned(task, count, history, time.perf_counter() - started, failure=str(error))
    gamma, xi = (None if c is None else float(c.detach()) for c in model.system.coefficients())
    score = forecast_error(forecast, data.test.x[:, observed:])
    return Learned(
        task, count, history, time.perf_counter() - started, gamma, xi, score, rates, forecast.double().cpu().numpy()
    )


def learn_all(tasks: Sequence[Task], data: Dataset, jobs: int) -> list[Learned]:
    """Learn all tasks, `jobs` at a time in processes with one thread each; one job stays in this process.

    Parameters
    ----------
    tasks
        What to learn; the order of the results.
    data
        On the CPU.
    jobs
        Processes. What is learned does not depend on it up to rounding, the seconds per epoch may.
    """
    epochs = max(task.training.epochs for task in tasks)
    with Board([task.name.upper() for task in tasks], epochs, "epochs") as board:
        calls = [(task, data, board.reporter(n)) for n, task in enumerate(tasks)]
        return run_all(learn, calls, jobs)
