"""What `compare` returns: one row a system, as a table and as a figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ...reporting.report import Report, Rows
from ...reporting.style import BAND_LABEL, LINES, SYSTEM_LINES, Picture, draw_band, finish, shown
from ...reporting.tables import Columns, median, plain, short
from ...systems import System
from ..cost.run import Run
from ..cost.work_precision import CLEAR
from ..gradients.decay import GradientDecay
from ..gradients.flow_result import GradientFlow
from ..stiffness.result import Stiffness

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

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import compare
    >>> found = compare(lambda t, h: -h, (torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]), tolerance=1e-4)
    >>> found.rows[0].run.nfe > 0
    True
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
            "stiffness ratio": math.nan if rates is None else median(rates.ratio),
            "max |λ|": math.nan if rates is None else median(rates.largest),
            "stiffness index": math.nan if rates is None else median(rates.index),
            "nfe": math.nan if self.run.nfe is None else self.run.nfe,
            "nfe backward": math.nan if self.run.nfe_backward is None else self.run.nfe_backward,
            "error": self.run.error,
            "gradient decay": math.nan if gradient is None else median(gradient.decay),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Report):
    """Systems side by side.

    Attributes
    ----------
    rows
        One `Compared` a system.
    tolerance
        rtol = atol of the solves.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import compare
    >>> found = compare(lambda t, h: -h, (torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]), tolerance=1e-4)
    >>> len(found.rows), found.tolerance
    (4, 0.0001)
    """

    rows: tuple[Compared, ...]
    tolerance: float
    unit: str

    def __getitem__(self, name: str) -> Compared:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"name must be one of {', '.join(row.name for row in self.rows)}, got {name!r}")

    def headline(self) -> str:
        return f"Comparison at rtol = atol = {self.tolerance:.2g}; rates in 1 / {self.unit}"

    def table(self) -> Rows:
        """Return one row a system, its head first; medians over times and samples."""
        return [HEADER, *(self._cells(row) for row in self.rows)]

    def remarks(self) -> list[str]:
        """Return failures, and what could not be computed."""
        failed = [f"{row.name} failed: {row.run.failure}" for row in self.rows if row.run.failure]
        return [*failed, *(f"note: {row.name}: {note}" for row in self.rows for note in row.notes)]

    def columns(self) -> Columns:
        """Return one row a system."""
        numbers = [row.numbers() for row in self.rows]
        about = {"system": [row.name for row in self.rows], "method": [row.run.method for row in self.rows]}
        return about | {name: [x[name] for x in numbers] for name in numbers[0]}

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in JSON types, None for what is unknown."""
        rows = {
            row.name: {
                "system": type(row.system).__name__,
                "method": row.run.method,
                **row.numbers(),
                "accepted": row.run.accepted,
                "rejected": row.run.rejected,
                "seconds forward": row.run.seconds_forward,
                "seconds backward": row.run.seconds_backward,
                "certificate": None if row.certificate is None else row.certificate.holds,
                "failure": row.run.failure,
                "notes": row.notes,
            }
            for row in self.rows
        }
        return {"tolerance": self.tolerance, "unit": self.unit, "systems": plain(rows)}

    def plot(self) -> Figure:
        """Draw the fastest rates over time, evaluations, gradients on their way back, and errors."""
        figure = Picture(11, 8)
        rates, cost, gradients, errors = figure.subplots(2, 2).flat
        looks = self._looks()
        for row, look in zip(self.rows, looks, strict=True):
            if row.stiffness is not None:
                draw_band(rates, row.stiffness.t, row.stiffness.largest, look)
            if row.gradient is not None:
                draw_band(gradients, row.gradient.t, row.gradient.norm / row.gradient.norm[-1:], look)
        time, rate = f"t ({self.unit})", rf"max $|\lambda|$ (1 / {self.unit})"
        size = r"$\|\partial L / \partial y(t)\|\ /\ \|\partial L / \partial y(T)\|$"
        finish(rates, time, rate, log="y", title="Fastest mode")
        finish(gradients, time, size, log="y", title="Gradient on its way back from T")
        if gradients.lines:
            gradients.axhline(1.0, color="#555555", linewidth=1.0)
        self._bars(cost, looks)
        self._errors(errors, looks)
        self._legend(figure, looks)
        figure.suptitle(_lines(_finding(self.rows, self.unit)), fontsize=13)
        return figure

    def _looks(self) -> list[dict[str, Any]]:
        """Return how each row is drawn: the systems of `same_field` always alike, others as none of these."""
        taken = [SYSTEM_LINES[row.name] for row in self.rows if row.name in SYSTEM_LINES]
        free = cycle([look for look in LINES if look not in taken])
        return [SYSTEM_LINES.get(row.name) or next(free) for row in self.rows]

    def _cells(self, row: Compared) -> tuple[str, ...]:
        if row.run.failure is not None:
            return (row.name, row.run.method, "failed", *["–"] * (len(HEADER) - 3))
        x = row.numbers()
        holds = "–" if row.certificate is None else "holds" if row.certificate.holds else "does not hold"
        measured = (short(x[key]) for key in ("stiffness ratio", "max |λ|", "stiffness index"))
        nfe = f"{row.run.nfe} / {_count(row.run.nfe_backward)}"
        error = "–" if math.isnan(x["error"]) else f"{x['error']:.1e}"
        return (row.name, row.run.method, *measured, nfe, error, short(x["gradient decay"]), holds)

    def _bars(self, panel: Axes, looks: list[dict[str, Any]]) -> None:
        for i, (row, look) in enumerate(zip(self.rows, looks, strict=True)):
            if row.run.nfe is None:
                panel.annotate("failed", (i, 0), (0, 3), textcoords="offset points", ha="center", fontsize=9)
                continue
            for j, (count, hatch) in enumerate(((row.run.nfe, None), (row.run.nfe_backward, "//"))):
                x = i + 0.38 * (j - 0.5)
                bar = panel.bar(x, count or 0, 0.36, color=look["color"], hatch=hatch, edgecolor="white")
                panel.bar_label(bar, [_count(count)], fontsize=9 if len(self.rows) < 5 else 7, padding=2)
        names = [shown(row.name) for row in self.rows]
        turned: dict[str, Any] = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"}
        panel.set_xticks(range(len(names)), names, **(turned if max(map(len, names)) * len(names) > 45 else {}))
        panel.set_xlim(min(-0.5, 0.5 * len(names) - 1.5), max(len(names) - 0.5, 0.5 * len(names) + 0.5))
        panel.set_ylabel("evaluations (hatched: backward)")
        panel.set_title("Evaluations of the field", loc="left", fontsize=11)
        panel.margins(y=0.12)
        panel.grid(alpha=0.25, axis="y")
        if not panel.patches:
            panel.set_yticks([])

    def _errors(self, panel: Axes, looks: list[dict[str, Any]]) -> None:
        for row, look in zip(self.rows, looks, strict=True):
            if row.run.nfe is not None and row.run.error > 0:
                panel.plot(row.run.nfe, row.run.error, color=look["color"], marker=look["marker"], markersize=10)
        if panel.lines:
            panel.axhline(self.tolerance, color="#555555", linewidth=1.0, linestyle=(0, (4, 2)))
            panel.annotate(
                "tolerance", (1, self.tolerance), (4, 0), xycoords=panel.get_yaxis_transform(), ha="left", va="center",
                textcoords="offset points", color="#555555", fontsize=10,
            )  # fmt: skip
            panel.margins(x=0.25, y=0.4)
        finish(panel, "evaluations, forward", "error / rms of the solution", log="xy", title="Error against cost")

    def _legend(self, figure: Figure, looks: list[dict[str, Any]]) -> None:
        drawn = [(row, look) for row, look in zip(self.rows, looks, strict=True) if row.run.nfe is not None]
        handles: list[Line2D | Patch] = [Line2D([], [], label=shown(row.name), **look) for row, look in drawn]
        if any(row.gradient is not None and _samples(row.gradient.norm) > 1 for row, _ in drawn):
            handles.append(Patch(color="#888888", alpha=0.3, label=BAND_LABEL))
        if handles:
            longest = max(len(str(handle.get_label())) for handle in handles[: len(drawn)])
            columns = max(1, min(len(handles), 5, 90 // (longest + 6)))
            figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _samples(values: Tensor) -> int:
    return values.shape[1] if values.ndim == 2 else 1


def _lines(text: str, width: int = 100) -> str:
    """Return a sentence in lines that fit a figure, the first one broken after its first part."""
    if len(text) <= width:
        return text
    return "\n".join(textwrap.fill(part, width) for part in text.replace("; ", ";\n", 1).split("\n"))


def _count(count: int | None) -> str:
    return "–" if count is None else str(count)


def _finding(rows: tuple[Compared, ...], unit: str) -> str:
    """Return what the numbers say, in one sentence."""
    failed = [shown(row.name) for row in rows if row.run.nfe is None]
    cost = {shown(row.name): row.run.nfe for row in rows if row.run.nfe is not None}
    if not cost:
        return "No system could be solved"
    found = {shown(row.name): row.numbers()["max |λ|"] for row in rows}
    rates = {name: rate for name, rate in found.items() if not math.isnan(rate)}
    top = max(rates.values(), default=math.nan)
    fast = [name for name, rate in rates.items() if 1.02 * rate >= top]
    modes = f"({short(top)} / {unit})"
    if not fast:
        text = "No mode is known"
    elif len(cost) == 1:
        text = rf"{next(iter(cost))}: max $|\lambda|$ = {short(top)} / {unit}"
    elif len(fast) == len(cost):
        text = f"All have modes as fast {modes}"
    else:
        text = f"{' and '.join(fast)} {'has' if len(fast) == 1 else 'have'} the fastest modes {modes}"
    text += f"; {_cheapest([row for row in rows if row.run.nfe is not None])}"
    return text + (f"; {' and '.join(failed)} failed" if failed else "")


def _cheapest(rows: Sequence[Compared]) -> str:
    """Say which system needs the fewest evaluations, if it is at least as accurate: less work at a larger error may
    not be less at an equal one."""
    if len(rows) == 1:
        return f"{rows[0].run.nfe} evaluations"
    first, second, *_ = ranked = sorted(rows, key=_evaluations)
    counts = f"{_evaluations(first)} to {_evaluations(ranked[-1])}"
    if _evaluations(first) > CLEAR * _evaluations(second):
        return f"no clear difference in the fewest evaluations ({counts})"
    if not all(first.run.error <= row.run.error for row in ranked[1:]):
        return f"{counts} evaluations, at errors that differ: no clear winner"
    return f"{shown(first.name)} needs the fewest evaluations, {counts}, at no larger error than any other"


def _evaluations(row: Compared) -> int:
    return row.run.nfe or 0
