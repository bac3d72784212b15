"""Forecasts of records that nothing drives: irregular, with gaps, of several channels.

Two records: free vibrations of the made-up structure, of which three in ten rows, one in ten values and two pieces
are missing, with noise of 2 %; and a real pendulum (Schmidt, Lipson, Science 324, 2009). The first 70 or 75 % of each
run are fitted, the rest is forecast from up to 60 of its rows, whose future is then compared. Everything at its
defaults, the LSTM, which is fed with times and masks, of the size of the forecaster too; AR on rows that are
interpolated to equal steps.

    python benchmarks/forecasting.py
    python benchmarks/forecasting.py pendulum --seeds 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _common import header, table
from _systems import DATA
from identification import spread

from hbode.models import parameter_count
from hbode.timeseries import HeavyBallForecaster, Records, Run, Structure, read_records
from hbode.timeseries.baselines import LinearARX, LSTMSimulator, Persistence, Simulator
from hbode.timeseries.baselines.simulator import split_runs
from hbode.timeseries.forecasting import backtest_records
from hbode.timeseries.records import Array
from hbode.timeseries.scores import band_scores, simulation_scores

INITIAL, HORIZON = 50, 50


@dataclass(frozen=True)
class Task:
    """What is fitted, and runs of `INITIAL` rows and those that follow them."""

    name: str
    train: Records
    test: Records

    @classmethod
    def of(cls, name: str, records: Records, fraction: float) -> Task:
        train, rest = split_runs(records, fraction)
        first = [len(run) for run in train]
        return cls(name, train, backtest_records(records, first, INITIAL, min(HORIZON, *map(len, rest))))


def structure() -> Task:
    """Return displacements of the structure that is let go, in six runs."""
    rng, made = np.random.default_rng(0), Structure()
    t = torch.arange(640, dtype=torch.float64) / made.rate
    runs = []
    for number in range(6):
        x0 = torch.from_numpy(rng.normal(size=3) * 0.15)
        y = 1e3 * made.motion(t, torch.zeros(0, dtype=torch.float64), x0=x0)[1].numpy()
        y += 0.02 * y.std(0) * rng.normal(size=y.shape)
        kept = rng.random(len(t)) < 0.7
        for begin in rng.integers(50, 560, 2):
            kept[begin : begin + 20] = False
        y[rng.random(y.shape) < 0.1] = np.nan
        runs.append(Run(t.numpy()[kept], y[kept], np.empty((int(kept.sum()), 0)), f"{number}"))
    names = [f"x{i} (mm)" for i in (1, 2, 3)]
    blank = Records.from_arrays(runs[0].t, runs[0].y, outputs=names, source="made-up structure, let go")
    return Task.of("structure, free vibrations", replace(blank, runs=tuple(runs)), 0.7)


def pendulum(data: Path = DATA) -> Task:
    """Return the angle of the pendulum."""
    return Task.of("real pendulum", read_records(data / "schmidt_pendulum.csv", ["theta_rad"]), 0.75)


class ResampledAR(Simulator):
    """A linear autoregression on rows that are interpolated to the median step."""

    needs_inputs = needs_common_step = False

    @property
    def parameters_(self) -> int:
        return self.model_.parameters_

    def _fit(self, records: Records) -> None:
        self.grid_ = records.median_step
        even = [self._even(run) for run in records.cut_at_gaps(20 * self.grid_)]
        even = [run for run in even if len(run) > 60]
        self.model_ = LinearARX().fit(replace(records, runs=tuple(even)))

    def _even(self, run: Run) -> Run:
        t = np.arange(run.t[0], run.t[-1] + 1e-9, self.grid_)
        y = np.column_stack([np.interp(t, run.t[known], run.y[known, i]) for i, known in enumerate(run.y_mask.T)])
        return Run(t, y, np.empty((len(t), 0)), run.name)

    def _simulate(self, run: Run, initial: int) -> Array:
        seen = self._even(run.take(slice(0, initial)))
        more = int(np.ceil((run.t[-1] - seen.t[-1]) / self.grid_)) + 1
        t = np.append(seen.t, seen.t[-1] + self.grid_ * np.arange(1, more + 1))
        blank = np.full((more, seen.y.shape[1]), np.nan)
        made = self.model_._simulate(Run(t, np.concatenate((seen.y, blank)), np.empty((len(t), 0))), len(seen))
        made[: len(seen)] = seen.y
        return np.column_stack([np.interp(run.t, t, column) for column in made.T])


def rows_of(task: Task, name: str, build: Callable[[int], Simulator], seeds: int) -> list[str]:
    """Return model, parameters, seconds, error over all outputs in per cent of the standard deviation, coverage."""
    errors, seconds, covered = [], [], []
    for seed in range(seeds):
        began = time.process_time()
        model = build(seed).fit(task.train)
        seconds.append(time.process_time() - began)
        measured = [run.y for run in task.test]
        y = model.simulate(task.test, INITIAL)
        errors.append(100 * simulation_scores(measured, y, INITIAL).joined_nrmse)
        if isinstance(model, HeavyBallForecaster) and model.seeds > 1:
            made = model.simulate_with_bands(task.test, INITIAL)
            low, high = ([a + sign * b for a, b in zip(made.y, made.half_width, strict=True)] for sign in (-1, 1))
            covered.append(100 * band_scores(measured, low, high, INITIAL).joined_coverage)
        print(".", end="", file=sys.stderr, flush=True)
    return [name, str(model.parameters_), spread(seconds), spread(errors), spread(covered) if covered else ""]


def report(task: Task, seeds: int) -> str:
    """Return the table of a record."""
    ours: list[int] = []

    def forecaster(seed: int) -> Simulator:
        return HeavyBallForecaster(initial=INITIAL, random_state=3 * seed)

    def lstm(seed: int) -> Simulator:
        if not ours:
            ours.append(parameter_count(HeavyBallForecaster(initial=INITIAL, seeds=1).fit(task.train).members_[0]))
        return LSTMSimulator.of_size(ours[0], task.train, initial=INITIAL, seed=seed)

    models: dict[str, tuple[Callable[[int], Simulator], int]] = {
        "last value": (lambda seed: Persistence(), 1),
        "linear AR, resampled": (lambda seed: ResampledAR(), 1),
        "linear ODE": (lambda seed: HeavyBallForecaster("hbnode", degree=1, hidden=0, initial=INITIAL, seeds=1), 1),
        "LSTM of equal size": (lstm, seeds),
        "LSTM of 32 units": (lambda seed: LSTMSimulator(initial=INITIAL, seed=seed), seeds),
        "HeavyBallForecaster": (forecaster, seeds),
    }
    rows = [rows_of(task, name, build, number) for name, (build, number) in models.items()]
    ahead = len(task.test[0]) - INITIAL
    head = f"{task.name}: {task.train.total_rows} rows fitted; {len(task.test)} forecasts, {ahead} samples ahead"
    columns = ["model", "parameters", "training (CPU s)", "error (% of std)", "inside 90 % bands"]
    return f"{head}\n{table(columns, rows)}\n"


TASKS: dict[str, Callable[[], Task]] = {"structure": structure, "pendulum": pendulum}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", help=f"of {', '.join(TASKS)}; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    given = parser.parse_args(arguments)
    print(header("Forecasts of records that nothing drives"))
    for name in given.records or TASKS:
        try:
            task = TASKS[name]()
        except FileNotFoundError as problem:
            print(f"{name}: left out, {problem}\n")
            continue
        print(report(task, given.seeds), flush=True)


if __name__ == "__main__":
    main()
