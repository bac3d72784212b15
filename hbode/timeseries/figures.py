"""The figures of a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..reporting.style import SYSTEM_LINES, Picture, draw_band, log_scale, say_off_scale, whole_ticks
from ..reporting.tables import median, short
from .evaluation import typical_window
from .learners import Learned
from .report import label
from .stiffness import Momentum
from .windows import Dataset


def save_figures(
    folder: Path, data: Dataset, learned: Sequence[Learned], baseline: float, theory: Momentum
) -> list[str]:
    """Write forecast.png, nfe.png, loss.png, stiffness.png, comparison.png and scaling.png; return their names.

    Parameters
    ----------
    folder
        Where to write.
    data, learned
        What was learned on what; at least one model without failure.
    baseline
        Mean square error of the persistence forecast on the test part.
    theory
        The systems on a stiff valley.
    """
    figures = {
        "forecast.png": forecast_figure(data, learned),
        "nfe.png": nfe_figure(learned),
        "loss.png": loss_figure(learned, baseline),
        "stiffness.png": stiffness_figure(learned),
        "comparison.png": theory.comparison.plot(),
        "scaling.png": theory.scaling.plot(),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    return list(figures)


def forecast_figure(data: Dataset, learned: Sequence[Learned]) -> Figure:
    """Draw truth and forecasts of the typical test window, in the units of the record, one panel a channel."""
    records, protocol = data.records, data.protocol
    good = [one for one in learned if one.forecast is not None]
    forecasts = [one.forecast for one in good if one.forecast is not None]
    truth = data.test.x[:, protocol.observed :].double().numpy()
    window = typical_window(forecasts, truth)
    seen = slice(max(protocol.observed - 3 * protocol.forecast, 0), None)
    rows = data.test.rows[window].numpy()
    unit, scale = records.time.unit, 1.0
    if unit == "s" and data.scaling.time_unit < 0.1:
        unit, scale = "ms", 1e3
    t = (data.times[rows] - data.times[rows[protocol.observed - 1]]) * scale
    values = data.values[rows]
    channels = range(min(values.shape[1], 6))
    columns = 1 if len(channels) == 1 else 2
    height = -(-len(channels) // columns)
    figure = Picture(11, 1.6 + 2.4 * height)
    axes = figure.subplots(height, columns, sharex=True, squeeze=False)
    for panel in axes.flat[len(channels) :]:
        panel.set_axis_off()
    for c, panel in zip(channels, axes.flat, strict=False):
        panel.axvspan(t[seen][0], 0, color="#E4E8EC", zorder=0)
        panel.axvline(0, color="#555555", linewidth=1, zorder=1)
        (line,) = panel.plot(t[seen], values[seen, c], color="black", linewidth=1.4, marker=".", markersize=7, zorder=3)
        line.set_label("measured")
        for one, physical in zip(good, map(data.scaling.outputs.from_standard, forecasts), strict=True):
            y = physical[window, :, c]
            style = SYSTEM_LINES[one.task.name]
            panel.plot(
                t[protocol.observed :],
                y,
                linewidth=1.9,
                markersize=4.5,
                alpha=0.95,
                label=label(one),
                zorder=4,
                **style,
            )
        panel.set_ylabel(str(records.outputs[c]))
        panel.set_xlim(t[seen][0], t[-1] * 1.08)
        panel.grid(alpha=0.25)
    # Room above the curves for the two words, so that they cover none of them.
    for panel, c in zip(axes.flat, channels, strict=False):
        # A forecast that runs away leaves the panel rather than flattening the others.
        least, most = values[seen, c].min(), values[seen, c].max()
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, 2 * least - most), min(high, 2 * most - least))
    for panel in axes[0]:
        low, high = panel.get_ylim()
        panel.set_ylim(low, high + 0.16 * (high - low))
        panel.text(0, 0.97, "observed  ", ha="right", va="top", transform=panel.get_xaxis_transform(), color="#333333")
        panel.text(0, 0.97, "  forecast", ha="left", va="top", transform=panel.get_xaxis_transform(), color="#333333")
    for panel, _ in zip(axes.flat, channels, strict=False):
        say_off_scale(panel)
    for panel in axes.T.flat:
        panel.tick_params(labelbottom=False)
    for column in range(columns):
        shown = [axes[row, column] for row in range(height) if row * columns + column < len(channels)]
        shown[-1].set_xlabel(f"time after the last observation ({unit})")
        shown[-1].tick_params(labelbottom=True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(_forecast_title(good), fontsize=14)
    hidden = values.shape[1] - len(channels)
    more = f"; {hidden} more channels not shown" if hidden else ""
    axes[0, 0].set_title(_subtitle(data) + more, loc="left", fontsize=11)
    return figure


def nfe_figure(learned: Sequence[Learned]) -> Figure:
    """Draw the evaluations per batch over the epochs, forward and backward."""
    good = [one for one in learned if one.history.nfe_forward]
    figure = Picture(11, 4.8)
    forward, backward = figure.subplots(1, 2, sharey=True)
    for panel, title, key in (
        (forward, "forward pass", "nfe_forward"),
        (backward, "backward pass", "nfe_backward"),
    ):
        for one in good:
            _over_epochs(panel, one, getattr(one.history, key))
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
    forward.set_ylabel("evaluations of f per batch")
    _legend(figure, forward)
    last = {label(one): one.history.nfe_forward[-1] for one in good}
    title = f"Evaluations per batch at the end, forward: {_in_order(last)}; a single run of each"
    figure.suptitle(title, fontsize=14)
    return figure


def loss_figure(learned: Sequence[Learned], baseline: float) -> Figure:
    """Draw the training loss and the validation error of the forecast over the epochs."""
    good = [one for one in learned if one.history.loss]
    figure = Picture(11, 4.8)
    loss, validation = figure.subplots(1, 2)
    for panel, title, key in (
        (loss, "training loss", "loss"),
        (validation, "validation, forecast alone", "validation_forecast"),
    ):
        for one in good:
            _over_epochs(panel, one, getattr(one.history, key))
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        # A model may start out unstable, many decades up; those epochs must not flatten all others.
        values = [getattr(one.history, key) for one in good]
        highest = max(2 * max(baseline, 1.0), *(1.5 * line[-1] for line in values))
        reached = max(max(line) for line in values)
        if reached > highest:
            panel.set_title(f"{title} (first epochs up to {reached:.1g} not shown)")
        panel.set_ylim(top=min(panel.get_ylim()[1], highest), bottom=0.8 * min(min(line) for line in values))
        panel.grid(alpha=0.25, which="both")
    loss.set_ylabel("loss (standardised units)")
    validation.set_ylabel("mean square error (standardised)")
    low, high = validation.get_ylim()
    validation.set_ylim(min(low, 0.8), max(high, 1.6))
    validation.axhline(1.0, color="#555555", linewidth=1.2)
    validation.annotate(
        "always forecasting the mean", (1, 1.0), (-4, 3), textcoords="offset points", ha="right", va="bottom",
        xycoords=validation.get_yaxis_transform(), color="#555555", fontsize=10,
    )  # fmt: skip
    _legend(figure, loss)
    best = {label(one): min(one.history.validation_forecast) for one in good}
    title = f"Lowest validation errors: {_in_order(best)}; a single run of each"
    figure.suptitle(f"{title} (last value kept: {short(baseline)})", fontsize=14)
    return figure


def stiffness_figure(learned: Sequence[Learned]) -> Figure:
    """Draw the fastest rate and the stiffness ratio of the hidden dynamics while the models forecast."""
    figure = Picture(11, 4.8)
    rate, ratio = figure.subplots(1, 2)
    good = [(one, one.stiffness) for one in learned if one.stiffness is not None]
    for one, found in good:
        look = SYSTEM_LINES[one.task.name]
        for panel, values in ((rate, found.largest), (ratio, found.ratio)):
            draw_band(panel, found.t, values, {**look, "label": label(one)})
    for panel, title, text in (
        (rate, "fastest mode", r"max $|\lambda|$ (1 / τ)"),
        (ratio, "stiffness ratio", r"max $|$Re $\lambda|$ / min $|$Re $\lambda|$"),
    ):
        panel.set_title(title)
        log_scale(panel, "y")
        panel.set_xlabel("time after the last observation (τ)")
        panel.set_ylabel(text)
        panel.grid(alpha=0.25)
    _legend(figure, rate)
    fastest = {label(one): median(found.largest) for one, found in good}
    title = f"Fastest hidden modes per τ, medians: {_in_order(fastest)}; a single run of each"
    figure.suptitle(title, fontsize=14)
    return figure


def _over_epochs(panel: Any, one: Learned, values: Sequence[float]) -> None:
    epochs = np.arange(1, len(values) + 1)
    every = max(len(values) // 8, 1)
    look = SYSTEM_LINES[one.task.name]
    whole_ticks(panel)
    panel.plot(epochs, values, linewidth=2, markersize=6, markevery=every, label=label(one), **look)


def _legend(figure: Figure, panel: Any) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _forecast_title(good: Sequence[Learned]) -> str:
    """Return the errors; a single run of each model, whose spread is not known, makes no ranking."""
    errors = {label(one): one.error.mse for one in good if one.error is not None}
    return f"Mean square errors of the forecast: {_in_order(errors)}; a single run of each"


def _in_order(values: dict[str, float]) -> str:
    """Return names with their values, the least first."""
    return ", ".join(f"{name} {short(values[name])}" for name in sorted(values, key=lambda k: values[k]))


def _subtitle(data: Dataset) -> str:
    return f"Test window of median error, {data.records.source}"
