"""What `compare` returns: one row a system, as a table and as a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..systems import System
from .cost_result import Run
from .gradient_decay import GradientDecay
from .gradient_flow_result import GradientFlow
from .looks import SYSTEM_LINES, line, log_axis
from .stiffness_result import Stiffness
from .tables import aligned, markdown_table, plain, short

HEADER = (
    "system",
    "method",
    "stiffness ratio",
    "max |λ|",
    "index",
    "NFE f/b",
    "error",
    "gradient decay",
    "certificate",
)


@dataclass(frozen=True, eq=False)
class Compared:
    """One system of a comparison. What could not be computed is None, with a note or the failure of the run.

    Attributes
    ----------
    name, system
        As given.
    run
        Evaluations forward and backward, steps, error and time of the solve.
    stiffness
        At the requested times.
    gradient
        Sizes of the gradient of the loss on its way back.
    certificate
        That gradients do not vanish, for heavy balls.
    notes
        What could not be computed, and why.
    """

    name: str
    system: System
    run: Run
    stiffness: Stiffness | None
    gradient: GradientDecay | None
    certificate: GradientFlow | None
    notes: tuple[str, ...]

    def numbers(self) -> dict[str, float]:
        """Return medians over times and samples of the stiffness, and the cost; NaN where unknown."""
        rates, gradient = self.stiffness, self.gradient
        return {
            "stiffness ratio": math.nan if rates is None else _median(rates.ratio),
            "max |λ|": math.nan if rates is None else _median(rates.largest),
            "stiffness index": math.nan if rates is None else _median(rates.index),
            "nfe": math.nan if self.run.nfe is None else self.run.nfe,
            "nfe backward": math.nan if self.run.nfe_backward is None else self.run.nfe_backward,
            "error": self.run.error,
            "gradient decay": math.nan if gradient is None else _median(gradient.decay),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Systems side by side.

    Attributes
    ----------
    rows
        One `Compared` a system.
    tolerance
        rtol = atol of the solves.
    unit
        Of time, in labels.
    """

    rows: tuple[Compared, ...]
    tolerance: float
    unit: str

    def __getitem__(self, name: str) -> Compared:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"name must be one of {', '.join(row.name for row in self.rows)}, got {name!r}")

    def table(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, its head first; medians over times and samples."""
        return [HEADER, *(self._cells(row) for row in self.rows)]

    def summary(self) -> str:
        """Return the table for a terminal."""
        lines = [f"Comparison at rtol = atol = {self.tolerance:g}; rates in 1 / {self.unit}", *aligned(self.table())]
        lines += [f"{row.name} failed: {row.run.failure}" for row in self.rows if row.run.failure]
        return "\n".join([*lines, *(f"note: {row.name}: {note}" for row in self.rows for note in row.notes)])

    __repr__ = summary

    def markdown(self) -> str:
        """Return the table in Markdown."""
        return markdown_table(self.table())

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in JSON types, None for what is unknown."""
        rows = {}
        for row in self.rows:
            rows[row.name] = {
                "system": type(row.system).__name__,
                "method": row.run.method,
                **{key: plain(value) for key, value in row.numbers().items()},
                "accepted": row.run.accepted,
                "rejected": row.run.rejected,
                "seconds forward": plain(row.run.seconds_forward),
                "seconds backward": plain(row.run.seconds_backward),
                "certificate": None if row.certificate is None else row.certificate.holds,
                "failure": row.run.failure,
                "notes": list(row.notes),
            }
        return {"tolerance": self.tolerance, "unit": self.unit, "systems": rows}

    def plot(self) -> Figure:
        """Draw the fastest rates over time, evaluations, gradients on their way back, and errors."""
        good = [row for row in self.rows if row.stiffness is not None]
        figure = Figure(figsize=(11, 8), layout="constrained")
        rates, cost, gradients, errors = figure.subplots(2, 2).flat
        for i, row in enumerate(self.rows):
            look = _look(row.name, i)
            if row.stiffness is not None:
                t = row.stiffness.t.cpu().numpy()
                _curve(rates, np.median(t, 1) if t.ndim == 2 else t, row.stiffness.largest, row.name.upper(), look)
            if row.gradient is not None:
                _curve(gradients, row.gradient.t.numpy(), row.gradient.norm / row.gradient.norm[-1:], "", look)
        _log(rates, f"t ({self.unit})", rf"max $|\lambda|$ (1 / {self.unit})")
        _log(gradients, f"t ({self.unit})", r"$\|\partial L / \partial y(t)\|\ /\ \|\partial L / \partial y(T)\|$")
        gradients.axhline(1.0, color="#555555", linewidth=1.0)
        self._bars(cost)
        self._errors(errors)
        titles = ("Fastest mode", "Evaluations of the field", "Gradient on its way back from T", "Error against cost")
        for panel, title in zip((rates, cost, gradients, errors), titles, strict=True):
            panel.set_title(title, loc="left", fontsize=11)
        handles, labels = rates.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(_finding(good), fontsize=13)
        return figure

    def _cells(self, row: Compared) -> tuple[str, ...]:
        if row.run.failure is not None:
            return (row.name, row.run.method, "failed", *["–"] * (len(HEADER) - 3))
        x = row.numbers()
        holds = "–" if row.certificate is None else "holds" if row.certificate.holds else "does not hold"
        measured = (short(x[key]) for key in ("stiffness ratio", "max |λ|", "stiffness index"))
        nfe = f"{short(x['nfe'])} / {short(x['nfe backward'])}"
        return (row.name, row.run.method, *measured, nfe, f"{x['error']:.1e}", short(x["gradient decay"]), holds)

    def _bars(self, panel: Axes) -> None:
        for i, row in enumerate(self.rows):
            color = _look(row.name, i)["color"]
            for j, (count, hatch) in enumerate(((row.run.nfe, None), (row.run.nfe_backward, "//"))):
                bar = panel.bar(i + 0.38 * (j - 0.5), count or 0, 0.36, color=color, hatch=hatch, edgecolor="white")
                panel.bar_label(bar, [short(count)], fontsize=9, padding=2)
        panel.set_xticks(range(len(self.rows)), [row.name.upper() for row in self.rows])
        panel.set_ylabel("evaluations: forward, backward (hatched)")
        panel.margins(y=0.12)
        panel.grid(alpha=0.25, axis="y")

    def _errors(self, panel: Axes) -> None:
        for i, row in enumerate(self.rows):
            if row.run.nfe is not None and row.run.error > 0:
                look = _look(row.name, i)
                panel.plot(row.run.nfe, row.run.error, color=look["color"], marker=look["marker"], markersize=10)
        panel.axhline(self.tolerance, color="#555555", linewidth=1.0, linestyle=(0, (4, 2)))
        panel.annotate(
            "tolerance", (1, self.tolerance), (-4, 3), xycoords=panel.get_yaxis_transform(), ha="right", va="bottom",
            textcoords="offset points", color="#555555", fontsize=10,
        )  # fmt: skip
        panel.margins(x=0.25, y=0.4)
        _log(panel, "evaluations, forward", "error, relative to the rms of the solution")
        panel.set_xscale("log")
        log_axis(panel.xaxis, *panel.get_xlim())


def _median(values: Tensor) -> float:
    flat = values.double().cpu().flatten()
    flat = flat[flat.isfinite()]
    return float(flat.quantile(0.5)) if len(flat) else math.nan


def _look(name: str, i: int) -> dict[str, Any]:
    return SYSTEM_LINES.get(name, line(i))


def _curve(panel: Axes, t: Any, values: Tensor, label: str, look: dict[str, Any]) -> None:
    """Draw the median over samples, and the range from 5 to 95 %."""
    rows = values.double().cpu().numpy().reshape(len(t), -1)
    rows = np.where(np.isfinite(rows) & (rows > 0), rows, math.nan)
    known = ~np.isnan(rows).all(1)
    every = max(int(known.sum()) // 8, 1)
    panel.plot(
        t[known], np.nanmedian(rows[known], 1), label=label, linewidth=1.9, markersize=5, markevery=every, **look
    )
    if rows.shape[1] > 1 and known.any():
        low, high = np.nanquantile(rows[known], (0.05, 0.95), axis=1)
        panel.fill_between(t[known], low, high, color=look["color"], alpha=0.13, linewidth=0)


def _log(panel: Axes, x: str, y: str) -> None:
    panel.set_yscale("log")
    log_axis(panel.yaxis, *panel.get_ylim())
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(alpha=0.25)


def _finding(rows: list[Compared]) -> str:
    if not rows:
        return "No system could be solved"
    rates = {row.name: row.numbers()["max |λ|"] for row in rows}
    cost = {row.name: row.run.nfe or 0 for row in rows}
    fast = max(rates, key=lambda k: rates[k])
    cheap, dear = min(cost, key=lambda k: cost[k]), max(cost, key=lambda k: cost[k])
    text = f"{fast.upper()} has the fastest modes ({short(rates[fast])})"
    if cost[dear] > 1.02 * cost[cheap]:
        most = f"{dear.upper()} the most ({cost[dear]})"
        return f"{text}; {cheap.upper()} needs the fewest evaluations ({cost[cheap]}), {most}"
    return f"{text}; all need about as many evaluations ({cost[cheap]})"
