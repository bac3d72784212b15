"""A recurrent network that simulates in free run."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ...models import parameter_count
from ..records import Array, DataError, Records, Run, Scaling
from ..scores import simulation_scores
from ..training import Diverged
from .simulator import Simulator, split_runs


class LSTMSimulator(Simulator):
    """An LSTM from inputs to outputs; it reads the initial outputs too, and is told when they end.

    It is fed (u, Δt, y · seen, seen), standardised; Δt is the time since the row before, in median steps less 1, so
    that irregular rows are welcome. Trained on random stretches with Adam and a cosine decay; the weights of the least
    free-run error on the last part of each run are kept, and training stops when that has not fallen for `patience`
    checks.

    Parameters
    ----------
    hidden
        Units; `of_size` finds them for a number of parameters.
    initial, stretch
        Rows of a stretch in which outputs are seen, and rows after them, which are scored; fewer where runs
        are shorter.
    steps, batch, learning_rate
        Of the training at most; stretches a step.
    checks, patience
        How often in all steps the validation part is simulated.
    validation
        How large that part is, as a fraction.
    seed
        Of weights and stretches.

    Attributes
    ----------
    net_
        The network, float32.
    steps_
        The steps taken to the weights that were kept.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records
    >>> from hbode.timeseries.baselines import LSTMSimulator
    >>> u = np.sin(np.arange(300) / 5)
    >>> model = LSTMSimulator(hidden=4, steps=2).fit(Records.from_arrays(None, np.cumsum(u), u))
    >>> model.parameters_
    165
    """

    needs_inputs = False
    needs_common_step = False

    def __init__(
        self,
        hidden: int = 32,
        initial: int = 50,
        stretch: int = 200,
        steps: int = 1500,
        batch: int = 16,
        learning_rate: float = 5e-3,
        checks: int = 30,
        patience: int = 10,
        validation: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.initial = initial
        self.stretch = stretch
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.checks = checks
        self.patience = patience
        self.validation = validation
        self.seed = seed

    @classmethod
    def of_size(cls, parameters: int, records: Records, **settings: Any) -> Self:
        """Return an unfitted simulator of these channels with about so many parameters, and other `settings`."""
        cy = len(records.outputs)
        # 4 h (h + features + 2) of the cell and cy (h + 1) of the read-out.
        linear = 4 * (_features(records) + 2) + cy
        hidden = round((isqrt(linear**2 + 16 * max(parameters - cy, 0)) - linear) / 8)
        return cls(hidden=max(hidden, 1), **settings)

    @property
    def parameters_(self) -> int:
        return parameter_count(self.net_)

    def _fit(self, records: Records) -> None:
        for name in ("hidden", "stretch", "steps", "batch", "checks", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        self.scaling_ = Scaling.fit(records)
        self.median_step_ = records.median_step
        train, held_out = split_runs(records, 1 - self.validation)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.seed)
            self.net_ = _Network(_features(records), self.hidden, len(records.outputs))
        self._train(_Stretches([self._tensors(run) for run in train], self.initial, self.stretch), held_out)

    def _train(self, data: _Stretches, held_out: Records) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.net_.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, weights, since = np.inf, {}, 0
        every = -(-self.steps // self.checks)
        for step in range(1, self.steps + 1):
            x, y = data.draw(self.batch, generator)
            known = ~y.isnan()
            known[:, : data.initial] = False
            error = (self.net_(x) - torch.where(known, y, 0.0))[known]
            optimizer.zero_grad()
            (error.square().sum() / max(len(error), 1)).backward()
            nn.utils.clip_grad_norm_(self.net_.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == self.steps:
                now = self._free_run_error(held_out)
                if now < best:
                    best, since, self.steps_ = now, 0, step
                    weights = {key: value.clone() for key, value in self.net_.state_dict().items()}
                else:
                    since += 1
                if since == self.patience:
                    break
        if not weights:
            raise Diverged("LSTMSimulator: the simulation of the validation part became infinite; lower learning_rate")
        self.net_.load_state_dict(weights)

    def _free_run_error(self, records: Records) -> float:
        skip = min(self.initial, min(map(len, records)) // 2)
        seen = [Run(run.t, np.where(np.arange(len(run))[:, None] < skip, run.y, np.nan), run.u) for run in records]
        simulated = [self._simulate(run, skip) for run in seen]
        return simulation_scores([run.y for run in records], simulated, skip).joined_nrmse

    @torch.no_grad()
    def _simulate(self, run: Run, initial: int) -> Array:
        x, y = self._tensors(run)
        out = self.net_(torch.cat((x, _seen(y)), 1)[None])[0]
        return self.scaling_.outputs.from_standard(out.double().numpy())

    def _tensors(self, run: Run) -> tuple[Tensor, Tensor]:
        """Return what is known of all rows, (T, Cu + 1), and outputs with NaN, both standardised."""
        u, y = self.scaling_.inputs.to_standard(run.u), self.scaling_.outputs.to_standard(run.y)
        late = np.diff(run.t, prepend=run.t[0] - self.median_step_) / self.median_step_ - 1
        return torch.from_numpy(np.column_stack((u, late))).float(), torch.from_numpy(y).float()


class _Network(nn.Module):
    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cell = nn.LSTM(features, hidden, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.cell(x)[0])
        return out


class _Stretches:
    """Random stretches of equal length out of all runs that are long enough."""

    def __init__(self, runs: list[tuple[Tensor, Tensor]], initial: int, stretch: int) -> None:
        rows = min(initial + stretch, max(len(x) for x, _ in runs))
        if rows <= initial:
            raise DataError(f"LSTMSimulator with initial={initial} needs longer runs, training on {rows} rows at most")
        self.initial = initial
        self.x, self.y = (torch.cat(parts) for parts in zip(*runs, strict=True))
        ends = np.cumsum([0, *(len(x) for x, _ in runs)])
        starts = [np.arange(a, b - rows + 1) for a, b in pairwise(ends)]
        self.starts, self.rows = torch.from_numpy(np.concatenate(starts)), torch.arange(rows)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return what the network is fed, (B, rows, features), and the outputs with NaN, (B, rows, Cy)."""
        chosen = torch.randint(len(self.starts), (batch,), generator=generator)
        at = self.starts[chosen, None] + self.rows
        y = self.y[at]
        seen = torch.where(self.rows[:, None] < self.initial, y, torch.nan)
        return torch.cat((self.x[at], _seen(seen)), -1), y


def _seen(y: Tensor) -> Tensor:
    """Return outputs, 0 where they are NaN, beside 1 where they are not."""
    return torch.cat((y.nan_to_num(), (~y.isnan()).to(y.dtype)), -1)


def _features(records: Records) -> int:
    return len(records.inputs) + 1 + 2 * len(records.outputs)
