"""`hbode simulate`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..reporting.results_folder import results_in
from ..reporting.tables import aligned
from ..timeseries import Channel, DataError, Records, read_records
from .arguments import add_table, at_least, names, reading, row_range

if TYPE_CHECKING:
    from ..timeseries import SystemIdentifier
    from ..timeseries.records import Array

MADE_BY = "hbode simulate"
SIMULATE = """\
Simulate the outputs of a model of `hbode fit` for measured inputs, from the outputs of the first samples on.

Writes the simulated outputs with their bands, as columns y, y_low and y_high for an output y, with its unit; and,
if DATA goes on with measured outputs, a report beside them: errors, figures, the coverage of the bands."""


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "simulate",
        help="simulate the outputs of a fitted model for new inputs",
        description=SIMULATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder that `hbode fit` wrote")
    add_table(parser)
    same = "in the order in which they were fitted (default: the same names)"
    add("--input", type=names, action="extend", metavar="A,B", help=f"columns of the inputs, {same}")
    add("--output", type=names, action="extend", metavar="A,B", help=f"columns of the outputs, {same}")
    add("--rows", type=row_range, metavar="A:B", help="which rows, counted from 0, B not among them (default: all)")
    add("--initial", type=at_least(2), metavar="N", help="samples that the initial state is found from")
    add("--out", type=Path, required=True, metavar="FILE", help="CSV (also .gz) or Parquet file to write")
    parser.set_defaults(run=run)


def run(a: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    from ..timeseries.identification import SystemIdentifier
    from ..timeseries.simulation import NUMBERS, FreeRun, write_report

    identifier = SystemIdentifier.load(a.model)
    if a.out.exists() and a.data.exists() and a.out.samefile(a.data):
        raise DataError(f"--out {a.out}: is DATA itself")
    initial = a.initial or identifier.initial
    records = _records(a, identifier)
    try:
        _check(records, identifier, initial)
        simulated = identifier.simulate_with_bands(records, initial)
    except DataError as error:
        raise DataError(f"{a.data.name}: {error}") from None
    table = with_bands(records, [run.t for run in records], simulated.y, simulated.half_width)
    if not all(any(run.y_mask[initial:, i].any() for run in records) for i in range(len(records.outputs))):
        table.write(a.out)
        print(f"Simulated outputs: {a.out}, after {time.perf_counter() - started:.0f} s.")
        return
    free_run = FreeRun.of(identifier, records, initial, simulated)
    folder = a.out.with_name(f"{a.out.name.partition('.')[0]}-report")
    with results_in(folder, MADE_BY, NUMBERS) as part:
        title = f"{identifier.law_.model.upper()} of {a.model.name} on {records.source}"
        files = write_report(part, MADE_BY, title, identifier, free_run, notes=records.notes)
        table.write(a.out)
    shown = zip(records.outputs, free_run.scores.rmse, free_run.scores.nrmse, free_run.bands.coverage, strict=True)
    head = ("output", "RMSE", "% of std", f"% in the {100 * free_run.nominal:.0f} % band")
    rows = [(str(c), f"{rmse:.4g}", f"{100 * share:.3g}", f"{100 * held:.1f}") for c, rmse, share, held in shown]
    print("\n".join(aligned([head, *rows])))
    print(f"\nSimulated outputs: {a.out}; report: {folder}/ ({', '.join(files)}), after ", end="")
    print(f"{time.perf_counter() - started:.0f} s.")


def _records(a: argparse.Namespace, identifier: SystemIdentifier) -> Records:
    """Return the records with the channels of the model."""
    for option, given, fitted in (
        ("--input", a.input, identifier.inputs_),
        ("--output", a.output, identifier.outputs_),
    ):
        if given is not None and len(given) != len(fitted):
            raise DataError(f"{option} {','.join(given)}: the model has {len(fitted)}, {', '.join(map(str, fitted))}")
    inputs, outputs = a.input or _names(identifier.inputs_), a.output or _names(identifier.outputs_)
    records = read_records(a.data, outputs, inputs, **reading(a))
    for got, fitted in zip(records.channels, identifier.inputs_ + identifier.outputs_, strict=True):
        if got.unit and fitted.unit and got.unit != fitted.unit:
            raise DataError(f"{a.data.name}: column {got.name!r} is in {got.unit}, the model was fitted to {fitted}")
    if records.time.unit != identifier.time_.unit:
        units = (
            f"times are in {records.time.unit or 'no unit'}, those of the model in {identifier.time_.unit or 'none'}"
        )
        raise DataError(f"{a.data.name}: {units}; --time or --rate decide")
    if a.rows is not None:
        if a.rows.stop is not None and a.rows.stop > records.total_rows:
            raise DataError(f"--rows: {a.data.name} has {records.total_rows} rows, got {a.rows.stop}")
        records = records.rows(a.rows.start, a.rows.stop)
    return replace(records, outputs=identifier.outputs_, inputs=identifier.inputs_)


def _names(channels: tuple[Channel, ...]) -> list[str]:
    return [channel.name for channel in channels]


def _check(records: Records, identifier: SystemIdentifier, initial: int) -> None:
    """Refuse runs whose initial state cannot be found."""
    for run in records:
        where = f"run {run.name!r}: " if run.name else ""
        if len(run) < initial:
            raise DataError(
                f"{where}too few rows, {len(run)}: the initial state is found from {initial}; --initial sets how many"
            )
        for channel, known in zip(records.outputs, run.y_mask[:initial].sum(0), strict=True):
            if known < 2:
                raise DataError(
                    f"{where}column {channel.name!r} has {known} values in the first {initial} rows, from which the "
                    "initial state is found; it needs 2 at least"
                )


def with_bands(records: Records, t: Sequence[Array], y: Sequence[Array], half_width: Sequence[Array]) -> Records:
    """Return outputs (T, Cy) of each run at times (T,), and their bands, as records without inputs."""
    channels = tuple(Channel(c.name + suffix, c.unit) for c in records.outputs for suffix in ("", "_low", "_high"))
    runs = []
    for run, at, center, half in zip(records, t, y, half_width, strict=True):
        columns = np.stack((center, center - half, center + half), -1).reshape(len(at), -1)
        runs.append(replace(run, t=at, y=columns, u=np.empty((len(at), 0))))
    return replace(records, runs=tuple(runs), outputs=channels, inputs=())
