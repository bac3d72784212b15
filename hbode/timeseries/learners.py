"""One model, from its name to its forecasts; several of them in processes of their own."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..models import ODERNN, SolverSettings, make_system, parameter_count
from ..solution import SolverError
from .evaluation import ForecastError, forecast_error
from .records import Array
from .stiffness import HiddenStiffness, hidden_stiffness
from .training import Diverged, History, TrainSettings, predict, train
from .windows import Dataset

Progress = Callable[[str, int, float], None]
"""Called with the model, the epoch that is done and its validation error."""


@dataclass(frozen=True)
class Task:
    """What to learn: a system by name, its state channels and field units, and how."""

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


def learn(task: Task, data: Dataset, progress: Progress | None = None) -> Learned:
    """Train one model and forecast the test windows. The result depends on the task and the data alone."""
    started = time.perf_counter()
    device = torch.device(task.device)
    data = data.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        model = build(task.name, task.size, task.hidden, data.train.x.shape[2], task.solver).to(device)
    history, count = History(), parameter_count(model)

    def on_epoch(epoch: int, so_far: History) -> None:
        if progress is not None:
            progress(task.name, epoch, so_far.validation_forecast[-1])

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


def learn_all(tasks: Sequence[Task], data: Dataset, jobs: int, progress: Progress | None = None) -> list[Learned]:
    """Learn all tasks, `jobs` at a time in processes with one thread each; one job stays in this process.

    Parameters
    ----------
    tasks
        What to learn; the order of the results.
    data
        On the CPU.
    jobs
        Processes. What is learned does not depend on it up to rounding, the seconds per epoch may.
    progress
        Called in this process.
    """
    if jobs <= 1 or len(tasks) == 1:
        return [learn(task, data, progress) for task in tasks]
    # "spawn": a forked copy of a process that has run torch may hang in its thread pool.
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    waiting = list(enumerate(tasks))
    running: dict[int, Any] = {}
    done: dict[int, Learned] = {}
    try:
        while len(done) < len(tasks):
            while waiting and len(running) < jobs:
                index, task = waiting.pop(0)
                running[index] = context.Process(target=_work, args=(index, task, data, news), daemon=True)
                running[index].start()
            try:
                index, message = news.get(timeout=0.5)
            except queue.Empty:
                for index in [i for i, process in running.items() if process.exitcode]:
                    code = running.pop(index).exitcode
                    done[index] = Learned(
                        tasks[index], 0, History(), 0.0, failure=f"its process ended with code {code}"
                    )
                continue
            if isinstance(message, Learned):
                done[index] = message
                running.pop(index).join()
            elif progress is not None:
                progress(*message)
    finally:
        for process in running.values():
            process.terminate()
    return [done[index] for index in range(len(tasks))]


def _work(index: int, task: Task, data: Dataset, news: Any) -> None:
    torch.set_num_threads(1)
    news.put((index, learn(task, data, lambda *message: news.put((index, message)))))
