"""What `profile` returns: its numbers, as tables and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...reporting.report import Report, Rows
from ...reporting.style import Picture, finish, line
from ...reporting.tables import Columns, measured
from .run import Run
from .work_precision import CLEAR, WorkPrecision

_EMPTY = "no solve succeeded"


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Report):
    """The runs of `profile`, method by method in the order of the tolerances.

    Attributes
    ----------
    runs
        One `Run` for each method and tolerance.
    notes
        What could not be computed or measured, and why.
    device, dtype
        Of the state.
    system
        Name of the system's class.
    gradient
        The mode of the backward pass.
    reference
        What the errors are measured against.
    repeats
        Of the timing.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import profile
    >>> inputs = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]
    >>> found = profile(lambda t, h: -h, inputs, methods=("dopri5",), tolerances=(1e-3, 1e-5), repeats=1)
    >>> len(found.runs), found.repeats
    (2, 1)
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    device: str
    dtype: str
    system: str
    gradient: str
    reference: str
    repeats: int = 1
    unit: str = "time units"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, each once."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    def curve(self, method: str, backward: bool = False) -> WorkPrecision:
        """Return evaluations of the field, forward or with those backward, against errors of the runs that succeeded.

        Raises
        ------
        ValueError
            If the method was not profiled.
        """
        if method not in self.methods:
            raise ValueError(f"method must be one of {', '.join(self.methods)}, got {method!r}")
        good = [run for run in self.runs if run.method == method and run.nfe is not None]
        work = (float(run.nfe or 0) + (run.nfe_backward or 0 if backward else 0) for run in good)
        return WorkPrecision(tuple(work), tuple(run.error for run in good))

    def most_accurate(self) -> Run | None:
        """Return the run with the least error that is known."""
        return min((run for run in self.runs if run.error > 0), key=attrgetter("error"), default=None)

    def at_equal_error(self) -> tuple[float, dict[str, float]] | None:
        """Return an error that most methods reach, and the evaluations at it, read off their curves, fewest first.

        None where fewer than two methods reach a common error.
        """
        curves = {name: self.curve(name) for name in self.methods}
        error = _common_error(list(curves.values()))
        if error is None:
            return None
        work = {name: curve.work_at(error) for name, curve in curves.items()}
        return error, dict(sorted(((k, x) for k, x in work.items() if x > 0), key=itemgetter(1)))

    def is_clear(self, first: str, second: str, error: float) -> bool:
        """Return whether a method needs fewer evaluations than another at an error and wherever both curves reach.

        Counts repeat exactly; what varies is their ratio along the curves.
        """
        return self.curve(first).ratio_to(self.curve(second), error)[1] <= CLEAR

    def headline(self) -> str:
        about = f"{self.system} on {self.device}, {self.dtype}, gradient {self.gradient}"
        return f"Profile of a {about}; errors against {self.reference}"

    def table(self) -> Rows:
        """Return the runs, with times in milliseconds and memory in MiB."""
        head = ["method", "tolerance", "error", "nfe", "backward", "accepted", "rejected", "stiffness"]
        rows: Rows = [(*head, "forward ms", "backward ms", "peak MiB")]
        for run in self.runs:
            counts = (_number(x, "d") for x in (run.nfe, run.nfe_backward, run.accepted, run.rejected))
            times = (
                measured(1e3 * middle, [1e3 * end for end in ends])
                for middle, ends in (
                    (run.seconds_forward, run.seconds_forward_range),
                    (run.seconds_backward, run.seconds_backward_range),
                )
            )
            peak = _number(None if run.peak_bytes is None else run.peak_bytes / 2**20, ".3g")
            about = run.method, _number(run.tolerance, ".0e"), _number(run.error, ".1e")
            rows.append((*about, *counts, _number(run.stiffness, ".2f"), *times, peak))
        return rows

    def remarks(self) -> list[str]:
        failed = [
            f"{run.method} failed at {in_words(run.tolerance)}: {run.failure}" for run in self.runs if run.failure
        ]
        times = [] if self.repeats > 1 else ["note: times are those of single runs, whose spread is not known"]
        return [*failed, *times, *super().remarks()]

    def columns(self) -> Columns:
        """Return one row a run: everything but the steps, ranges as two columns each."""
        columns: dict[str, list[Any]] = {}
        for field in fields(Run):
            values = [getattr(run, field.name) for run in self.runs]
            if field.name.endswith("_range"):
                columns[field.name.removesuffix("range") + "least"] = [value[0] for value in values]
                columns[field.name.removesuffix("range") + "most"] = [value[1] for value in values]
            elif field.name not in ("t", "dt"):
                columns[field.name] = values
        return columns

    def plot(self, tolerance: float | None = None) -> Figure:
        """Draw what accuracy costs in evaluations of the field, and the accepted steps over t.

        Parameters
        ----------
        tolerance
            The runs whose steps are drawn, besides those without a tolerance. Default: the middle one of those that
            most methods succeeded at.

        Raises
        ------
        ValueError
            If nothing was run at that tolerance.
        """
        good = [run for run in self.runs if run.failure is None]
        known = sorted({run.tolerance for run in self.runs if not math.isnan(run.tolerance)})
        if tolerance is not None and tolerance not in known:
            raise ValueError(f"tolerance must be one of {', '.join(f'{x:g}' for x in known)}, got {tolerance!r}")
        if tolerance is None:
            counts = {x: sum(run.tolerance == x for run in good) for x in known}
            best = [x for x in known if counts[x] == max(counts.values())]
            tolerance = best[len(best) // 2] if best else math.nan
        figure = Picture(10.5, 4.8)
        work, steps = figure.subplots(1, 2)
        figure.suptitle(self._finding(), fontsize=13)
        _draw_work(work, {name: [run for run in self.runs if run.method == name] for name in self.methods})
        at = [run for run in good if run.tolerance == tolerance or math.isnan(run.tolerance)]
        _draw_steps(steps, {run.method: run for run in at}, self.methods, tolerance, self.unit)
        handles, labels = work.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        return figure

    def _finding(self) -> str:
        """Return what the curves say, in one sentence."""
        failed = [name for name in self.methods if not self.curve(name).work]
        curves = {name: self.curve(name) for name in self.methods if name not in failed}
        if not curves:
            return "Every solve failed"
        tail = f"; {' and '.join(failed)} failed" if failed else ""
        best = self.most_accurate()
        if best is None:
            return f"Evaluations over the tolerance: no errors are known{tail}"
        if len(curves) == 1:
            return f"{best.method} reaches an error of {_power(best.error)} with {best.nfe} evaluations{tail}"
        found = self.at_equal_error()
        if found is None:
            of = f"that of {best.method}, {_power(best.error)} at {best.nfe} evaluations"
            return f"Not comparable at equal error; the least error is {of}{tail}"
        error, work = found
        first, second, *more = work
        if not self.is_clear(first, second, error):
            return f"No clear difference between {first} and {second}, at errors around {_power(error)}{tail}"
        of = f"{second}{', the next best' if more else ''}"
        ratio = work[first] / work[second]
        return f"{first} reaches an error of {_power(error)} with {ratio:.2f} times the evaluations of {of}{tail}"


def _draw_work(panel: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """Draw errors over evaluations; over no errors, tolerances."""
    measured = any(run.error > 0 for tried in runs.values() for run in tried)
    for index, (name, tried) in enumerate(runs.items()):
        shown = [(run.nfe, run.error if measured else run.tolerance) for run in tried if run.nfe is not None]
        shown = [(nfe, y) for nfe, y in shown if y > 0]
        lost = sum(run.failure is not None for run in tried)
        label = name + (f" (failed {lost} of {len(tried)})" if lost else "")
        panel.plot([x for x, _ in shown], [y for _, y in shown], label=label, markersize=6, **line(index))
    label = "error, relative to the rms of the solution" if measured else "tolerance"
    finish(panel, "evaluations of the field, forward", label, log="xy", title="Work and precision", empty=_EMPTY)


def _draw_steps(panel: Axes, runs: Mapping[str, Run], methods: Sequence[str], tolerance: float, unit: str) -> None:
    for name, run in runs.items():
        look = {**line(methods.index(name)), "markevery": max(1, len(run.t) // 10), "markersize": 5, "linewidth": 1.4}
        panel.plot(run.t.numpy(), run.dt.abs().numpy(), **look)
    title = "Accepted steps" + ("" if math.isnan(tolerance) else f" at tolerance {_power(tolerance)}")
    finish(panel, f"t ({unit})", f"accepted step ({unit})", log="y", title=title, empty=_EMPTY)


def _common_error(curves: Sequence[WorkPrecision]) -> float | None:
    """Return an error that most curves reach, at least two, preferably a power of ten; the middle one of these."""
    errors = [math.log10(e) for curve in curves for e in curve.error if e > 0 and math.isfinite(e)]
    for parts in (1, 8) if errors else ():
        ladder = [
            math.pow(10.0, k / parts) for k in range(math.floor(parts * min(errors)), math.ceil(parts * max(errors)))
        ]
        counts = [sum(curve.work_at(error) > 0 for curve in curves) for error in ladder]
        best = [error for error, count in zip(ladder, counts, strict=True) if count == max(counts)]
        if max(counts, default=0) > 1:
            return best[len(best) // 2]
    return None


def _power(value: float) -> str:
    """Return a number in powers of ten, as matplotlib sets it."""
    digits, exponent = f"{value:.1e}".split("e")
    times = "" if digits == "1.0" else rf"{digits} \times "
    return f"${times}10^{{{int(exponent)}}}$"


def in_words(tolerance: float) -> str:
    """Return how steps were chosen; a method without an error estimate has NaN for a tolerance."""
    return "fixed steps" if math.isnan(tolerance) else f"tolerance {tolerance:.2g}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
