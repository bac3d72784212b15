"""Forecasts of an aircraft's vibration, a tenth of the samples missing, by ODE-RNNs (section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models import ODERNN, SolverSettings, scale_parameters
from ..reporting.style import Picture
from ..timeseries import DataError, loss_of, read_records
from ..timeseries.records import Array
from ..training import TrainingSettings, solver_costs
from .baselines import linear, mean_square_error
from .experiment import LOOKS, Experiment, Measured, Part, Settings, Splits, Trial, first_of_each
from .networks import Dense, Padded, ResidualDense, is_second_order, make

CHANNELS = ("Force", "Voltage", "Acceleration1", "Acceleration2", "Acceleration3")
SEEN, AHEAD, DROPPED, RESERVE = 64, 8, 0.1, 100
SIZES = {"node": 21, "anode": 27, "sonode": 19, "hbnode": 20, "ghbnode": 20}


class PlaneVibration(Experiment):
    """Windows of 64 samples at irregular times, the 8 rows that follow forecast; five standardised channels."""

    name, title = "plane-vibration", "Plane vibration"
    needed, takes = True, "plane_vibration.csv, with the columns " + ", ".join(CHANNELS)
    metric, label = "forecast", "forecast MSE"
    settings = {
        "full": Settings(
            TrainingSettings(500, SEEN, 1e-3, ((50, 1e-4),), 1.0, monitor="forecast", validation_batch=512),
            SolverSettings("dopri5", 1e-7, 1e-7, compile=True),
            3,
        ),
        "short": Settings(
            TrainingSettings(8, SEEN, 1e-2, "constant", 1.0, monitor="forecast", validation_batch=512),
            SolverSettings("dopri5", 1e-3, 1e-3),
            1,
        ),
    }
    published = {
        "published, epoch 199 / 499": {"node": ".0571 / –", "hbnode": ".0348 / .0252"},
        "NFE forward, epoch 199": {"node": "1458", "hbnode": "2573"},
    }
    code = {"hbnode": "hbnode-trained-xi", "ghbnode": "ghbnode"}
    notes = (
        "The record is nine repeats of one period of the input: the test waveform was seen in training (published "
        "protocol, a reproduction only). A linear model beside it says how much of the forecast that explains.",
        "Published: 1 run, the error at that epoch; dopri5, tolerance 1e-7. The published code restarts its solver at "
        "each of the observations; here a window is one solve.",
        "As published, the whole record standardises the channels, every initial parameter is multiplied by 0.01, and "
        "the initial state is a linear function of the window that is seen.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        records = read_records(cast(Path, data), CHANNELS)
        values = np.concatenate([run.y for run in records])
        if np.isnan(values).any():
            raise DataError(f"{data}: has missing values")
        standard = (values - values.mean(0)) / values.std(0)
        rng = np.random.RandomState(1)  # the samples that the published code dropped
        rng.standard_normal(values.shape)
        rows = max(len(values) - RESERVE, 0)
        kept = np.sort(rng.choice(rows, int(rows * (1 - DROPPED)), replace=False))
        bounds = (0, len(kept) // 2, len(kept) // 2 + len(kept) // 4, len(kept))
        if bounds[1] // 2 < SEEN + 1:
            raise DataError(f"{data}: has {len(values)} rows, too few for a window of {SEEN + 1} in each part")
        return Splits(*(windows(kept[a:b], standard) for a, b in pairwise(bounds)))

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        size, channels = SIZES[name], len(CHANNELS)
        state = size * (1 + is_second_order(name))
        layers = [size, 3 * size, 4 * size, size] if state == size else [size] * 4
        field = Dense([2 * size, 2 * size, size, size] if name == "sonode" else layers)
        own = channels if name == "anode" else state
        start = Padded(nn.Sequential(nn.Flatten(), nn.Linear(SEEN * channels, own)), state - own)
        system = make(name, field, self.code.get(name) if code else None)
        cell = ResidualDense(state, channels)
        return scale_parameters(ODERNN(system, size, channels, settings.solver, cell, start=start))

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        t, x, ahead = batch
        said = model(t, x)
        loss, forecast = loss_of(said, torch.cat((x, ahead), 1), side_weight=0.1)
        return loss, {"forecast": forecast, **solver_costs(said.cost)}

    def baselines(self, data: Splits) -> dict[str, float]:
        _, x, ahead = data.test
        last = mean_square_error(x[:, -1:].expand_as(ahead), ahead)
        return {"last value": last, "linear autoregression": linear(data, equidistant, (2, 4, 8, 16, 32))}

    def show(self, model: nn.Module, data: Splits) -> Tensor:
        t, x, _ = data.test
        with torch.no_grad():
            return torch.as_tensor(model(t, x).forecast)

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw the test window whose error, averaged over the models, is the median."""
        t, x, ahead = data.test
        found = {name: cast(Tensor, one.shown) for name, one in first_of_each(trials).items()}
        errors = torch.stack([(y - ahead).square().mean((1, 2)) for y in found.values()]).mean(0)
        window = int(errors.argsort()[len(errors) // 2])
        figure = Picture(9, 1.7 * len(CHANNELS))
        for i, panel in enumerate(figure.subplots(len(CHANNELS), 1, sharex=True)):
            true = {"color": "black", "marker": "."}
            panel.plot(t[window, SEEN - 24 : SEEN], x[window, -24:, i], **true)
            panel.plot(t[window, SEEN:], ahead[window, :, i], **true, fillstyle="none", label="measured")
            for name, y in found.items():
                panel.plot(t[window, SEEN:], y[window, :, i], **LOOKS[name] | {"marker": None}, label=name.upper())
            panel.set_ylabel(CHANNELS[i])
            panel.grid(alpha=0.25)
        panel.set_xlabel("rows since the start of the window")
        figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=6)
        return figure


def windows(kept: NDArray[np.int_], values: Array) -> Part:
    """Return times (W, 72) in rows, what is seen (W, 64, C) and the rows that are to be forecast (W, 8, C)."""
    rows = kept[: len(kept) // (SEEN + 1) * (SEEN + 1)].reshape(-1, SEEN + 1).astype(int)
    ahead = rows[:, -1:] + np.arange(AHEAD)
    t = np.concatenate((rows[:, :-1], ahead), 1) - rows[:, :1]
    seen, future = (torch.from_numpy(values[at]).float() for at in (rows[:, :-1], ahead))
    return torch.from_numpy(t).double(), seen, future


def equidistant(part: Part, order: int) -> Tensor:
    """Return the last rows of what is seen, (W, order · C), those that were dropped filled in by cubic splines."""
    from scipy.interpolate import CubicSpline  # loads where it is used: every command names the experiments

    t, x = part[0].numpy(), part[1].numpy()
    filled = [CubicSpline(at[:SEEN], y)(at[SEEN - 1] - np.arange(order)) for at, y in zip(t, x, strict=True)]
    return torch.from_numpy(np.stack(filled)).flatten(1)
