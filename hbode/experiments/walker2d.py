"""The next state of a walking robot, a tenth of the samples missing, by ODE-RNNs (section 5.4)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..models import ODERNN, SolverSettings
from ..timeseries import DataError
from ..timeseries.records import Array
from ..training import TrainingSettings, solver_costs
from .baselines import linear, mean_square_error
from .experiment import Experiment, Measured, Part, Settings, Splits
from .networks import Dense, Padded, ResidualDense, is_second_order, make

CHANNELS, SEEN, STRIDE, KEPT = 17, 64, 16, 0.9
FILES, PUBLISHED_FILES = ("walker2d_train.npz", "walker2d_valid.npz", "walker2d_test.npz"), 300


class First(nn.Module):
    """The first observation (B, C) of a window (B, K, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class Walker2D(Experiment):
    """Windows of 64 samples of 17 channels as recorded; the mean square error of all predictions of the next row."""

    name, title = "walker2d", "Walker2D kinematics"
    needed, takes = True, "the folder with " + ", ".join(FILES)
    settings = {
        "full": Settings(
            TrainingSettings(500, 256, 1e-3, ((50, 3e-3),), 1.0), SolverSettings("dopri5", 1e-7, 1e-7, compile=True), 3
        ),
        "short": Settings(TrainingSettings(3, 256, 1e-2, "constant", 1.0), SolverSettings("dopri5", 1e-3, 1e-3), 1),
    }
    published = {"published": {"node": "2.470", "anode": "2.344", "hbnode": "1.168", "ghbnode": "1.181"}}
    code = {"hbnode": "hbnode-frozen-xi", "ghbnode": "ghbnode"}
    notes = (
        "Published: 1 run. A field without a momentum trains at 0.003 all along there, one with it at 0.001 for 50 "
        "epochs before; here all do the latter.",
        "As published, the unit of time is 64 rows, the field is linear, and between two observations passes the time "
        "that lay before the first of them.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        found = [rollouts(cast(Path, data) / name) for name in FILES]
        rng = np.random.default_rng(0)
        parts = [windows(part, rng) for part in found]
        note = f"Trained on {len(found[0])} of the {PUBLISHED_FILES} training files of the paper."
        return Splits(*parts, notes=(note,) if len(found[0]) < PUBLISHED_FILES else ())

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        size, second = (23 if name == "sonode" else 24), is_second_order(name)
        state = size * (1 + second)
        field = Dense([size * (1 + (name == "sonode")), size])
        system = make(name, field, self.code.get(name) if code else None, xi=1.3133)  # softplus(1), as published
        cell = ResidualDense(state, CHANNELS, [state, state] if second else [3 * size, 2 * size])
        start = Padded(nn.Sequential(First(), nn.Linear(CHANNELS, 5)), size - 5) if name == "anode" else None
        return ODERNN(system, size, CHANNELS, settings.solver, cell, start=start)

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        t, x, after = batch
        said = model(t, x)
        return mse_loss(said.one_step, after), solver_costs(said.cost)

    def baselines(self, data: Splits) -> dict[str, float]:
        _, x, after = data.test
        last = mean_square_error(x, after)
        return {"last value": last, "linear autoregression": linear(data, lagged, (1, 2, 4, 8))}


def rollouts(path: Path) -> list[Array]:
    """Return the runs (T, 17) of a file with rows `x` and the `lengths` of runs."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x, lengths = file["x"], file["lengths"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: must be an .npz file with x and lengths ({error})") from None
    if x.ndim != 2 or x.shape[1] != CHANNELS or lengths.sum() != len(x):
        raise DataError(f"{path}: x must have {CHANNELS} columns and as many rows as lengths tell, got {x.shape}")
    return np.split(x, lengths.cumsum()[:-1])


def windows(runs: list[Array], rng: np.random.Generator) -> Part:
    """Return times (W, 65), observations (W, 64, C) and the rows after them (W, 64, C); a tenth of rows dropped."""
    times, seen, after = [], [], []
    for run in runs:
        kept = np.flatnonzero(rng.random(len(run) - 1) < KEPT)
        gap = np.diff(kept, prepend=-1)
        for a in range(0, len(kept) - SEEN, STRIDE):
            rows = kept[a : a + SEEN]
            times.append(np.concatenate(([0.0], gap[a : a + SEEN].cumsum() / SEEN)))
            seen.append(run[rows])
            after.append(run[rows + 1])
    if not times:
        raise DataError(f"no run has more than the {SEEN} rows of a window, a tenth dropped")
    t, x, y = (torch.from_numpy(np.stack(rows)) for rows in (times, seen, after))
    return t.double(), x.float(), y.float()


def lagged(part: Part, order: int) -> Tensor:
    """Return each observation and those before it, (W, K, order · C); before the first is what the first was."""
    x = part[1]
    padded = torch.cat((x[:, :1].expand(-1, order - 1, -1), x), 1)
    return torch.cat([padded[:, order - 1 - i : order - 1 - i + x.shape[1]] for i in range(order)], -1)
