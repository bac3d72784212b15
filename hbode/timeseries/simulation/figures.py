"""Figures of a simulation: beside what was measured, what is left over, what was learned, and other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.signal import welch

from ...models.continuous import EnergyBalance
from ...reporting.style import Picture, say_off_scale
from ...reporting.tables import short
from ..identification import Description
from ..records import Array, Channel
from .comparison import Compared
from .free_run import FreeRun

OURS, OTHER, NETWORK, GREY, SEEN = "#D55E00", "#0072B2", "#009E73", "#9AA3AB", "#E4E8EC"
PANELS = 4
"""Outputs that are drawn at most."""
STRETCH = 200
"""Samples of the stretch that is shown enlarged."""


def with_unit(number: float, channel: Channel) -> str:
    """Return a number with the unit of a channel."""
    return f"{short(number)} {channel.unit}".rstrip()


def simulation_figure(free_run: FreeRun, compared: Sequence[Compared]) -> Picture:
    """Draw the stretch of median error enlarged, with bands and the best linear model, and the whole of the run."""
    number, initial = free_run.longest, free_run.initial
    run, made = free_run.records[number], free_run.simulated
    y, half = made.y[number], made.half_width[number]
    rows = _median_stretch(run.y - y, initial)
    linear = [one for one in compared if one.name.startswith("linear") and one.scores is not None]
    best = min(linear, key=_error, default=None)
    outputs = free_run.records.outputs[:PANELS]
    figure = Picture(13, 1.9 + 2.5 * len(outputs))
    axes = figure.subplots(len(outputs), 2, squeeze=False, sharex="col", width_ratios=(1.7, 1))
    for i, channel in enumerate(outputs):
        near, whole = axes[i]
        t = run.t[rows]
        if best is not None:
            near.plot(t, best.y[number][rows, i], color=OTHER, linestyle=(0, (4, 1.5)), linewidth=1.3, label=best.name)
        near.fill_between(
            t, (y - half)[rows, i], (y + half)[rows, i], color=OURS, alpha=0.25, linewidth=0,
            label=f"{100 * free_run.nominal:.0f} % band",
        )  # fmt: skip
        near.plot(t, y[rows, i], color=OURS, linewidth=1.8, label="simulated")
        near.plot(t, run.y[rows, i], color="black", linestyle="none", marker=".", markersize=4, label="measured")
        near.set_ylabel(str(channel))
        low, high = _limits(run.y[rows, i], y[rows, i])
        near.set_ylim(low, high)  # a linear model that runs away leaves the panel
        say_off_scale(near)
        whole.plot(run.t, run.y[:, i], color=GREY, linewidth=0.7, label="measured")
        whole.plot(run.t[initial:], (run.y - y)[initial:, i], color=OURS, linewidth=0.7, label="measured − simulated")
        whole.axvspan(run.t[0], run.t[initial], color=SEEN, zorder=0)
        whole.axvspan(t[0], t[-1], facecolor="none", edgecolor="black", linewidth=0.8)
        for panel in (near, whole):
            panel.margins(x=0)
            panel.grid(alpha=0.25)
    axes[0, 0].set_title(f"{len(t)} samples of median error", loc="left", fontsize=11)
    axes[0, 1].set_title("all of it: shaded what was seen, framed what is on the left", fontsize=10)
    for panel in axes[-1]:
        panel.set_xlabel(str(free_run.records.time))
    axes[0, 0].legend(loc="upper right", ncols=4, fontsize=9, framealpha=0.9)
    axes[0, 1].legend(loc="upper right", fontsize=9, framealpha=0.9)
    figure.suptitle(headline(free_run, best), fontsize=14)
    return figure


def residual_figure(free_run: FreeRun) -> Picture:
    """Draw what is left over in time, with the bands, and its amplitude spectrum beside that of the output."""
    number, initial = free_run.longest, free_run.initial
    run = free_run.records[number]
    t, left = free_run.residual()
    half = free_run.simulated.half_width[number][initial:]
    outputs = free_run.records.outputs[:PANELS]
    figure = Picture(13, 1.7 + 2.5 * len(outputs))
    axes = figure.subplots(len(outputs), 2, squeeze=False, sharex="col", width_ratios=(1.7, 1))
    for i, channel in enumerate(outputs):
        time, spectrum = axes[i]
        time.plot(t, left[:, i], color="black", linewidth=0.6, label="measured − simulated")
        for side in (-half, half):
            time.plot(t, side[:, i], color=OURS, linewidth=1.4, label="_" if side is half else "band")
        time.set_ylabel(str(channel))
        time.margins(x=0)
        covered = 100 * free_run.bands.coverage[i]
        time.set_title(f"{covered:.0f} % inside the band of {100 * free_run.nominal:.0f} %", loc="left", fontsize=11)
        for values, color, label in ((run.y[initial:, i], GREY, "measured"), (left[:, i], "black", "left over")):
            spectrum.loglog(*_spectrum(t, values), color=color, linewidth=1.2, label=label)
        unit = free_run.records.time.unit or "unit of time"
        spectrum.set_ylabel(f"{channel.unit or '1'} / √{'Hz' if unit == 's' else f'(1/{unit})'}")
        for panel in (time, spectrum):
            panel.grid(alpha=0.25)
    axes[-1, 0].set_xlabel(str(free_run.records.time))
    axes[-1, 1].set_xlabel("frequency (Hz)" if unit == "s" else f"frequency (1/{unit})")
    axes[0, 0].legend(loc="upper right", ncols=2, fontsize=9)
    axes[0, 1].legend(loc="best", fontsize=9)
    names = ", ".join(
        f"{with_unit(x, c)} of {c.name}" for c, x in zip(outputs, free_run.scores.rmse[:PANELS], strict=True)
    )
    figure.suptitle(f"Left over: {names} (root mean square)", fontsize=14)
    return figure


def curves_figure(found: Description, stiffness: Mapping[str, Callable[[Array], Array]] | None = None) -> Picture:
    """Draw the static force and the stiffness along each output, shaded where training data were.

    `stiffness` gives curves that are known, by the name of the output.
    """
    curves = found.curves[:PANELS]
    figure = Picture(11, 1.6 + 2.6 * len(curves))
    axes = figure.subplots(len(curves), 2, squeeze=False)
    unit = found.time.unit or "unit of time"
    power = "²" if found.momentum else ""
    names = ("force / mass", "stiffness / mass") if found.momentum else ("rate", "slope")
    for curve, (force, slope) in zip(curves, axes, strict=True):
        x = curve.position
        for panel, values, label in (
            (force, curve.force, f"{names[0]} ({curve.output.unit or '1'}/{unit}{power})"),
            (slope, curve.stiffness, f"{names[1]} (1/{unit}{power})"),
        ):
            panel.axvspan(*x[curve.inside][[0, -1]], color=SEEN, zorder=0)
            # the slope at either end is one-sided
            panel.plot(x[1:-1], values[1:-1], color=OURS, linewidth=2.2, label="learned")
            panel.set(xlabel=str(curve.output), ylabel=label)
            panel.margins(x=0)
            panel.grid(alpha=0.25)
        known = (stiffness or {}).get(curve.output.name)
        if known is not None:
            slope.plot(x, known(x), color="black", linestyle=(0, (2, 2)), linewidth=1.4, label="true")
            slope.legend(fontsize=10)
        # a straight law is to look straight, not like the rounding of its slope
        low, high = slope.get_ylim()
        middle, reach = (low + high) / 2, max(high - low, 0.2 * abs(low + high) / 2)
        slope.set_ylim(middle - 0.6 * reach, middle + 0.6 * reach)
    figure.suptitle("What was learned, others at rest; shaded: where training data were", fontsize=14)
    return figure


def energy_figure(found: Description, balance: EnergyBalance, time: Channel) -> Picture:
    """Draw the learned potential along each output, shaded where training data were, and an energy balance."""
    curves = found.curves[:PANELS]
    potentials = () if found.energy is None else found.energy.potentials
    figure = Picture(13, max(4.6, 1.2 + 2.4 * len(curves)))
    grid = figure.add_gridspec(len(curves), 2, width_ratios=(1, 1.5))
    first, unit = curves[0].output, found.time.unit or "unit of time"
    for i, (curve, potential) in enumerate(zip(curves, potentials, strict=False)):
        panel = figure.add_subplot(grid[i, 0])
        panel.axvspan(*curve.position[curve.inside][[0, -1]], color=SEEN, zorder=0)
        panel.plot(curve.position, potential, color=OURS, linewidth=2.2)
        panel.set(xlabel=str(curve.output), ylabel=f"potential ({first.unit or '1'}²/{unit}²)")
        panel.margins(x=0)
        panel.grid(alpha=0.25)
    beside = figure.add_subplot(grid[:, 1])
    balance.plot(beside)
    worst = float(balance.residual.abs().max() / balance.work.abs().max())
    beside.set(xlabel=str(time), ylabel=f"energy ({first.unit or '1'}²/{unit}²)")
    beside.set_title(f"Energy of the simulation, balanced to {worst:.0e} of the work", fontsize=11)
    beside.margins(x=0)
    beside.grid(alpha=0.25)
    mass = "mass" if len(found.curves) == 1 else f"mass of {first.name}"
    figure.suptitle(f"Energy for a unit {mass}; shaded: where training data were", fontsize=14)
    return figure


def comparison_figure(compared: Sequence[Compared], channels: Sequence[Channel]) -> Picture:
    """Draw the errors of all models as shares of the standard deviation of what was measured."""
    good = sorted((one for one in compared if np.isfinite(_error(one))), key=_error, reverse=True)
    figure = Picture(9, 1.3 + 0.55 * len(good))
    panel = figure.subplots()
    errors = [100 * _error(one) for one in good]
    bars = panel.barh([one.name for one in good], errors, color=[_color(one, compared[0]) for one in good], log=True)
    texts = [
        f"{short(x)} %" + (f"  ({with_unit(s.rmse[0], channels[0])})" if s and len(channels) == 1 else "")
        for x, s in zip(errors, (one.scores for one in good), strict=True)
    ]
    panel.bar_label(bars, texts, padding=5)
    panel.set_xlim(min(errors) / 3, max(errors) * 8)
    panel.set_xlabel("error of the simulation, % of the standard deviation of the outputs")
    panel.spines[["top", "right"]].set_visible(False)
    others = [_error(one) for one in good if one is not compared[0]]
    if others:
        times = min(others) / _error(compared[0])
        figure.suptitle(
            f"{compared[0].name} misses {times:.2g} times less than the next"
            if times > 1.02
            else f"{compared[0].name} is not the best here",
            fontsize=14,
        )
    return figure


def headline(free_run: FreeRun, linear: Compared | None = None) -> str:
    """Return what a simulation reached, in a line."""
    error = 100 * free_run.scores.joined_nrmse
    outputs = free_run.records.outputs
    absolute = f"{with_unit(free_run.scores.rmse[0], outputs[0])}, " if len(outputs) == 1 else ""
    how = "Simulated from the input alone" if free_run.records.inputs else "Forecast from what was before"
    text = f"{how}: off by {absolute}{short(error)} % of the standard deviation"
    return text + ("" if linear is None else f" ({linear.name}: {short(100 * _error(linear))} %)")


def _error(one: Compared) -> float:
    return float("inf") if one.scores is None else one.scores.joined_nrmse


def _color(one: Compared, ours: Compared) -> str:
    return (
        OURS if one is ours else {"linear ARX": OTHER, "linear state space": OTHER, "LSTM": NETWORK}.get(one.name, GREY)
    )


def _limits(*values: Array) -> tuple[float, float]:
    low, high = min(np.nanmin(x) for x in values), max(np.nanmax(x) for x in values)
    room = 0.08 * (high - low)
    return float(low - room), float(high + 4 * room)


def _median_stretch(left: Array, initial: int) -> slice:
    """Return the rows of a stretch whose error is the median: no showcase, no failure."""
    size = min(STRETCH, len(left) - initial)
    starts = np.arange(initial, len(left) - size + 1, max(size // 2, 1))
    scale = np.nanstd(left[initial:], 0) + 1e-300
    errors = [np.nan_to_num(np.nanmean(np.nan_to_num(left[a : a + size] / scale) ** 2)) for a in starts]
    start = int(starts[np.argsort(errors)[len(errors) // 2]])
    return slice(start, start + size)


def _spectrum(t: Array, values: Array) -> tuple[Any, Any]:
    """Return frequencies and the amplitude spectral density; on other grids than equal steps, of the interpolation."""
    known = np.isfinite(values)
    grid = np.linspace(t[0], t[-1], len(t))
    even = np.interp(grid, t[known], values[known])
    frequency, power = welch(even, 1.0 / (grid[1] - grid[0]), nperseg=min(len(even), max(64, len(even) // 8)))
    return frequency[1:], np.sqrt(power[1:])
