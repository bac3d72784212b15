"""How large states are before any training: linear fields driven by the Silverbox's input (figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..inputs import LinearInput
from ..integrate import hbodeint
from ..models import SolverSettings
from ..reporting.style import Picture
from ..solution import Stats
from ..timeseries import DataError, read_records
from ..training import solver_costs
from .experiment import LOOKS, Experiment, Measured, Part, Settings, Splits, Trial
from .networks import Dense, is_second_order, make

SPAN, SCALE = 64, 100.0


class Driven(nn.Module):
    """h of one channel (an ANODE has two), the field linear in the state and the input u(t) between its samples."""

    stats: Stats

    def __init__(self, name: str, code: str | None, solver: SolverSettings | None) -> None:
        super().__init__()
        second, self.size = is_second_order(name), (2 if name == "anode" else 1)
        self.solver = solver or SolverSettings()
        field = Dense([self.size + 1 + (name == "sonode"), self.size])
        self.system = make(name, field, code, sigma="hardtanh")
        self.velocity = nn.Linear(1, 1, bias=False) if second else None

    def forward(self, u: Tensor, start: Tensor) -> Tensor:
        """Return ‖(h, m)‖ at t = 0, 1, …, shape (T,), for an input (T, 1) and the first output, shape (1, 1)."""
        t = torch.arange(float(len(u)))
        h = torch.cat((start, start.new_zeros(1, self.size - 1)), 1)
        m = None if self.velocity is None else self.velocity(torch.ones_like(start))
        solution = hbodeint(self.system, h, t, m0=m, inputs=LinearInput(t, u), **self.solver.arguments)
        self.stats = solution.stats
        found: Any = solution
        whole = torch.cat((found.h,) if m is None else (found.h, found.m), -1)
        return torch.as_tensor(whole.norm(dim=(1, 2)))


class Initialisation(Experiment):
    """No training: each seed is a draw of weights."""

    name, title = "initialisation", "States at initialisation, Silverbox"
    needed, takes = True, "silverbox.csv, with columns V1 and V2"
    label = f"log10 of the norm at t = {SPAN - 1}"
    settings = dict.fromkeys(("full", "short"), Settings(None, SolverSettings("dopri5", 1e-7, 1e-7), 10))
    code = {"hbnode": "hbnode", "ghbnode": "ghbnode-hardtanh"}
    notes = (
        "No model is trained. The norm is that of the whole state: h, with m in the second-order models and both "
        "channels in the ANODE. The paper shows it as a figure, without numbers.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        records = read_records(cast(Path, data), ["V2"], ["V1"], rate=610.35)
        if records.total_rows < SPAN:
            raise DataError(f"{data}: has {records.total_rows} rows, needs {SPAN}")
        u, y = (torch.from_numpy(SCALE * (x - x.mean(0))).float()[:SPAN] for x in (records[0].u, records[0].y))
        part = u, y
        return Splits(part, part, part)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        return Driven(name, self.code.get(name) if code else None, settings.solver)

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        """Return what is measured; there is nothing to be trained."""
        u, y = batch
        return model(u, y[:1])[-1].log10(), solver_costs(cast(Driven, model).stats)

    def baselines(self, data: Splits) -> dict[str, float]:
        return {"measured output": math.log10(abs(float(data.test[1][-1])))}

    def show(self, model: nn.Module, data: Splits) -> Tensor:
        u, y = data.test
        with torch.no_grad():
            return torch.as_tensor(model(u, y[:1]))

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw the mean norms over the draws, as published, and the least and the largest."""
        figure = Picture(8, 5)
        panel = figure.subplots()
        for name, look in LOOKS.items():
            norms = [cast(Tensor, one.shown) for one in trials if one.model == name]
            if norms:
                rows = torch.stack(norms)
                panel.plot(rows.mean(0), **look, markevery=8, label=f"{name.upper()}, mean of {len(rows)} draws")
                panel.fill_between(range(SPAN), rows.amin(0), rows.amax(0), color=look["color"], alpha=0.1, linewidth=0)
        panel.plot(data.test[1][:, 0].abs(), color="black", linewidth=1, label="measured output")
        panel.set(yscale="log", xlabel="t (samples)", ylabel="norm of the state")
        panel.grid(alpha=0.25)
        panel.legend(fontsize=9)
        return figure
