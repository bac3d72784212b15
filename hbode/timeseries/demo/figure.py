"""The figure of the demo: four systems in free run beside what was measured, and what that took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...reporting.style import SYSTEM_LINES, Picture, log_scale, say_off_scale, whole_ticks
from ...reporting.tables import median, short
from ..records import Array, Records
from ..simulation.comparison import Compared
from .systems import SystemRun

SECONDS, GREY = 3.0, "#9AA3AB"
"""Of the new record, that are shown; the colour of the identified law."""


def systems_figure(runs: Sequence[SystemRun], test: Records, initial: int, compared: Sequence[Compared]) -> Picture:
    """Draw simulations beside measurements, how the fits went, errors, evaluations and stiffness.

    Parameters
    ----------
    runs
        The systems.
    test, initial
        The new record, and its rows that starts were estimated from.
    compared
        The identified law first, and linear models among the others.
    """
    run, outputs = test[0], test.outputs
    rows = typical(runs, run.y, initial, int(SECONDS / (run.t[1] - run.t[0])))
    t = run.t[rows]
    figure = Picture(14, 1.8 + 2.1 * len(outputs))
    halves = figure.add_gridspec(1, 2, width_ratios=(1.6, 1))
    panels = halves[0].subgridspec(len(outputs), 1).subplots(sharex=True, squeeze=False)[:, 0]
    for i, (channel, panel) in enumerate(zip(outputs, panels, strict=True)):
        panel.plot(t, compared[0].y[0][rows, i], color=GREY, linewidth=5, alpha=0.55, label="identified law")
        panel.plot(
            t, run.y[rows, i], color="black", linestyle="none", marker="o", markersize=3.2, label="record (simulated)"
        )
        for one in runs:
            look = SYSTEM_LINES[one.name] | {"marker": ""}
            panel.plot(t, one.simulated[rows, i], linewidth=1.6, label=one.name.upper(), **look)
        low, high = run.y[rows, i].min(), run.y[rows, i].max()
        panel.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))  # what runs away leaves the panel
        say_off_scale(panel)
        panel.set_ylabel(str(channel))
        panel.margins(x=0)
        panel.grid(alpha=0.25)
    panels[0].set_title("A stretch of median error", loc="left", fontsize=11)
    panels[-1].set_xlabel(str(test.time))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    beside = halves[1].subgridspec(2, 1, height_ratios=(1.25, 1))
    course = figure.add_subplot(beside[0])
    for one in runs:
        best = 100 * np.minimum.accumulate(one.validation)
        steps = np.arange(1, len(best) + 1)
        look = {"markevery": max(len(best) // 8, 1), **SYSTEM_LINES[one.name]}
        course.plot(steps, best, linewidth=2, markersize=5, **look)
    log_scale(course, "y")
    whole_ticks(course)
    course.set(xlabel="evaluations of the fit")
    course.set_title("Best error so far on rows held out (% of std)", loc="left", fontsize=11)
    course.grid(alpha=0.25, which="both")
    bars = beside[1].subgridspec(1, 3).subplots(sharey=True, squeeze=False)[0]
    for panel, name, values in (
        (bars[0], "error, new force\n(% of std)", [one.error for one in runs]),
        (bars[1], "evaluations of f\n(dopri5)", [np.nan if one.nfe is None else one.nfe for one in runs]),
        (bars[2], "fastest rate\nmax $|\\lambda|$ (1/s)", [median(one.largest) for one in runs]),
    ):
        colors = [SYSTEM_LINES[one.name]["color"] for one in runs]
        drawn = panel.barh([one.name.upper() for one in runs], values, color=colors)
        panel.bar_label(drawn, [short(x) for x in values], padding=3, fontsize=10)
        panel.set_title(name, fontsize=11)
        panel.set_xlim(0, 1.45 * np.nanmax([1e-9, *(x for x in values if np.isfinite(x))]))
        panel.set_xticks([])
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    bars[0].invert_yaxis()
    law, *others = ((one.name, 100 * one.scores.joined_nrmse) for one in compared if one.scores is not None)
    linear = short(min(error for name, error in others if name.startswith("linear")))
    errors = sorted(one.error for one in runs)
    four = " to ".join(dict.fromkeys((short(errors[0]), short(errors[-1]))))
    figure.suptitle(
        f"The simulated response to a new force: identified law off by {short(law[1])} %, networks alone by {four} %, "
        f"best linear model by {linear} %",
        fontsize=14,
    )
    return figure


def typical(runs: Sequence[SystemRun], y: Array, initial: int, size: int) -> slice:
    """Return the rows of the stretch behind the first ones where the error of all systems is the median."""
    starts = np.arange(initial, max(len(y) - size, initial) + 1, max(size // 4, 1))
    squares = np.mean([((one.simulated - y) / y.std(0)) ** 2 for one in runs], 0)
    errors = [float(np.mean(squares[a : a + size])) for a in starts]
    start = int(starts[np.argsort(errors)[len(errors) // 2]])
    return slice(start, start + size)
