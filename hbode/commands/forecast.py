"""`hbode forecast`."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..reporting.results_folder import results_in
from ..reporting.tables import aligned
from ..timeseries import DataError, Records, read_records
from .arguments import add_table, names, positive_int, reading
from .law import add_law, asked, fit_or_say, identifier_of
from .simulate import with_bands

if TYPE_CHECKING:
    from ..timeseries import LatentSDEForecaster

MADE_BY = "hbode forecast"
FORECAST = """\
Forecast series, irregular and with gaps: a law of their motion is identified, and simulated on from their last rows.

Writes a folder with the forecast, its bands, the model, and a report: forecasts of the last fifth of each run, which no
model saw, from many of its rows, beside simpler models.

  hbode forecast pendulum.csv --output angle --horizon 50 --out forecast

What drives the series and is known ahead goes in by --input, and by --ahead for the rows that are to be forecast."""
LATENT_SDE = {"latent-sde": "second order, shaken by noise of the process, from which its bands come"}
NOT_FOR_IT = ("optimizer", "states", "readout", "limits", "stretch", "evaluations", "seeds", "jobs", "resume")
"""What a latent SDE has not, of what `add_law` adds."""
HELD = 0.2
"""The share of each run, at its end, that is forecast for the report."""


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "forecast",
        help="forecast series that nothing, or what is known ahead, drives",
        description=FORECAST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_table(parser)
    add = parser.add_argument
    add("--output", type=names, action="extend", metavar="A,B", help="columns to forecast (default: all others)")
    add("--input", type=names, action="extend", default=[], metavar="A,B", help="columns that are known ahead")
    add("--ahead", type=Path, metavar="FILE", help="a table of the inputs, whose rows are forecast")
    add("--horizon", type=positive_int, metavar="N", help="samples to forecast (default: those of --ahead, or 50)")
    add_law(parser, LATENT_SDE)
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the forecast and its report; a former one is replaced, any other full folder is refused",
    )
    parser.set_defaults(run=run)


def run(a: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    from ..timeseries.baselines.simulator import split_runs
    from ..timeseries.forecasting import HeavyBallForecaster, backtest_records, forecast_figure
    from ..timeseries.simulation import NUMBERS, FreeRun, compare, write_report
    from ..timeseries.simulation.report import table

    if bool(a.input) != (a.ahead is not None) or (a.ahead is not None and a.horizon is not None):
        raise DataError("--input and --ahead go together, without --horizon: the rows of --ahead are forecast")
    records = read_records(a.data, a.output, a.input, **reading(a))
    ahead = None if a.ahead is None else _ahead(a, records)
    horizon = a.horizon or (50 if ahead is None else min(map(len, ahead)))
    kept = a.resume or a.out.with_name(f"{a.out.name}.unfinished")
    forecaster = _latent_sde(a) if a.model in LATENT_SDE else identifier_of(HeavyBallForecaster, a, kept)
    print(f"{records!r}\n", flush=True)
    with results_in(a.out, MADE_BY, NUMBERS) as folder:
        initial = forecaster.initial
        try:
            train, _ = split_runs(records, 1 - HELD)
            shown = min(horizon, *(max(len(run) - len(part), 1) for run, part in zip(records, train, strict=True)))
            rest = backtest_records(records, [len(run) for run in train], initial, shown)
        except (DataError, ValueError) as error:
            raise DataError(f"{records.source}: {error}") from None
        seconds = fit_or_say(forecaster, train, kept, a.out)
        try:
            free_run = FreeRun.of(forecaster, rest, initial)
            compared = compare(forecaster, train, free_run, seconds, a.baselines)
            made = forecaster.forecast(records, None if ahead else horizon, ahead=ahead)
        except (DataError, ValueError) as error:
            raise DataError(f"{records.source}: {error}") from None
        forecaster.save(folder)
        table_of_forecast = with_bands(
            records, *([getattr(one, of) for one in made] for of in ("t", "y", "half_width"))
        )
        table_of_forecast.write(folder / "forecast.csv")
        notes = (
            *records.notes,
            f"Fitted to the first {100 * (1 - HELD):.0f} % of each run; the rest is forecast from {len(rest)} of its "
            f"rows, {shown} samples ahead.",
        )
        title = f"Forecast of {records.source} by {forecaster.law_.model.upper()}"
        first = {"forecast.png": forecast_figure(records, made[-1], free_run, compared, initial)}
        files = write_report(folder, MADE_BY, title, forecaster, free_run, compared, notes, asked(a), first=first)
    if a.resume is None:
        shutil.rmtree(kept, ignore_errors=True)
    remarks = [f"{one.name}: {one.note}." for one in compared if one.note]
    print("", *aligned(table(compared, free_run)), *remarks, "", forecaster.describe(), "", *notes, sep="\n")
    print(f"Forecast and report: {a.out}/ (forecast.csv, {', '.join(files)}), after ", end="")
    print(f"{time.perf_counter() - started:.0f} s.")


def _latent_sde(a: argparse.Namespace) -> LatentSDEForecaster:
    """Return what is to be fitted; what was not asked for is left at its default."""
    from ..timeseries.forecasting import LatentSDEForecaster

    for name in NOT_FOR_IT:
        if getattr(a, name) is not None:
            raise DataError(f"--{name} is not for --model {a.model}")
    if not isinstance(a.hidden, int | None):
        raise DataError(f"--hidden must be one number for --model {a.model}, got {','.join(map(str, a.hidden))}")
    given = {name: getattr(a, name) for name in ("degree", "hidden", "initial") if getattr(a, name) is not None}
    return LatentSDEForecaster(**given, random_state=a.seed, verbose=not a.quiet)


def _ahead(a: argparse.Namespace, records: Records) -> Records:
    """Return the inputs that are known ahead, with a blank output that takes the place of what is not."""
    found = read_records(a.ahead, a.input, (), **reading(a) | {"columns": None})
    if len(found) != len(records):
        raise DataError(f"{a.ahead.name}: has {len(found)} runs, {a.data.name} has {len(records)}")
    runs = tuple(replace(run, u=run.y, y=np.full((len(run), len(records.outputs)), np.nan)) for run in found)
    return replace(records, runs=runs, source=found.source)
