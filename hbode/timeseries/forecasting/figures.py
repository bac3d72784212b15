"""The figure of a forecast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...reporting.style import Picture
from ...reporting.tables import short
from ..records import Records
from ..simulation import Compared, FreeRun
from ..simulation.figures import GREY, NETWORK, OTHER, OURS, PANELS, SEEN
from .backtest import errors_by_lead
from .forecasts import Forecast

COLORS = {"last value": GREY, "linear ARX": OTHER, "linear ODE": OTHER, "LSTM": NETWORK}


def forecast_figure(
    records: Records, forecast: Forecast, free_run: FreeRun, compared: Sequence[Compared], seen: int
) -> Picture:
    """Draw the end of the last run with its forecast, and the errors of forecasts from earlier rows by their lead."""
    run, initial, outputs = records[-1], free_run.initial, records.outputs[:PANELS]
    tail = slice(-min(len(run), max(seen, 2 * len(forecast.t))), None)
    figure = Picture(13, 1.9 + 2.5 * len(outputs))
    axes = figure.subplots(len(outputs), 2, squeeze=False, sharex="col", width_ratios=(1.9, 1))
    measured = [one.y for one in free_run.records]
    std = np.nanstd(np.concatenate([y[initial:] for y in measured]), 0)
    lead = np.arange(1, len(measured[0]) - initial + 1)
    for i, channel in enumerate(outputs):
        ahead, errors = axes[i]
        y, half = forecast.y[:, i], forecast.half_width[:, i]
        ahead.axvspan(run.t[-seen:][0], run.t[-1], color=SEEN, zorder=0)
        ahead.plot(run.t[tail], run.y[tail, i], color="black", linewidth=1, marker=".", markersize=5, label="measured")
        label = f"{100 * free_run.nominal:.0f} % band"
        ahead.fill_between(forecast.t, y - half, y + half, color=OURS, alpha=0.25, linewidth=0, label=label)
        ahead.plot(forecast.t, y, color=OURS, linewidth=1.8, label="forecast")
        ahead.set_ylabel(str(channel))
        low, high = ahead.get_ylim()
        ahead.set_ylim(low, high + 0.2 * (high - low))  # room for the legend
        for one in compared:
            if one.y and (one is compared[0] or one.name in COLORS):
                color = COLORS.get(one.name, OURS)
                share = 100 * errors_by_lead(measured, one.y, initial)[:, i] / std[i]
                errors.plot(lead, share, color=color, linewidth=1.8, label=one.name)
        errors.set_yscale("log")
        errors.yaxis.set_major_formatter("{x:g}")
        errors.set_ylabel(f"error of {channel.name} (% of std)")
        for panel in (ahead, errors):
            panel.grid(alpha=0.25)
            panel.margins(x=0.01)
    axes[0, 0].set_title("shaded: what the forecast starts from", loc="left", fontsize=11)
    axes[0, 1].set_title(f"{len(measured)} forecasts of rows that no model saw", loc="left", fontsize=11)
    axes[-1, 0].set_xlabel(str(records.time))
    axes[-1, 1].set_xlabel("samples ahead")
    axes[0, 0].legend(loc="upper left", ncols=3, fontsize=9, framealpha=0.9)
    axes[0, 1].legend(loc="best", fontsize=9, framealpha=0.9)
    error = short(100 * free_run.scores.joined_nrmse)
    figure.suptitle(f"Forecasts are off by {error} % of the standard deviation, {lead[-1]} samples ahead and less")
    return figure
