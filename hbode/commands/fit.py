"""`hbode fit`."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..reporting.results_folder import results_in
from ..reporting.tables import aligned
from ..timeseries import DataError, Records, read_records
from .arguments import add_table, names, reading, row_range
from .law import add_law, asked, fit_or_say, identifier_of

if TYPE_CHECKING:
    from ..timeseries import SystemIdentifier

MADE_BY = "hbode fit"
FIT = """\
Identify a driven system: from measured inputs and outputs to a model that simulates the outputs for new inputs.

Writes a folder with the model, for `hbode simulate`, and a report: its simulation beside rows that it was not fitted
to, with bands and simpler models, what is left over, and what was learned in physical units.

  hbode fit record.csv --input force --output x --train :8000 --out model
  hbode simulate model new.csv --out simulated.csv

A fit that was interrupted goes on when the same command is given again."""
HELD = 0.2
"""Share of the rows of each run, at its end, that are reported on where no rows were named for that."""


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "fit",
        help="identify a driven system from measured inputs and outputs",
        description=FIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_table(parser)
    add = parser.add_argument
    add("--input", type=names, action="extend", required=True, metavar="A,B", help="columns of the inputs")
    add("--output", type=names, action="extend", metavar="A,B", help="columns of the outputs (default: all others)")
    add(
        "--train",
        type=row_range,
        metavar="A:B",
        help="rows to fit to, counted from 0, B not among them; some of them choose between models (default: all, but "
        "for those of the report)",
    )
    add(
        "--test",
        type=row_range,
        metavar="A:B",
        help="rows of the report (default: those after --train, or the last fifth of each run)",
    )
    add_law(parser)
    add(
        "--out",
        type=Path,
        required=True,
        metavar="MODEL",
        help="folder of the model and its report; a former one is replaced, any other full folder is refused",
    )
    parser.set_defaults(run=run)


def run(a: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    from ..timeseries.identification import Structure, SystemIdentifier
    from ..timeseries.simulation import NUMBERS, FreeRun, compare, write_report
    from ..timeseries.simulation.report import table

    records = read_records(a.data, a.output, a.input, **reading(a))
    kept = a.resume or a.out.with_name(f"{a.out.name}.unfinished")
    identifier = identifier_of(SystemIdentifier, a, kept)
    try:
        law = "hbnode" if a.model == "auto" else a.model
        Structure(len(records.outputs), len(records.inputs), law, a.states, readout=identifier.readout)
        parts = _parts(records, a, identifier)
    except ValueError as error:
        raise DataError(f"{records.source}: {error}") from None
    print(f"{records!r}\n", flush=True)
    with results_in(a.out, MADE_BY, NUMBERS) as folder:
        seconds = fit_or_say(identifier, parts.train, kept, a.out)
        identifier.save(folder)
        free_run = FreeRun.of(identifier, parts.test, parts.initial)
        compared = compare(identifier, parts.train, free_run, seconds, a.baselines)
        title = f"{identifier.law_.model.upper()} of {records.source}"
        files = write_report(folder, MADE_BY, title, identifier, free_run, compared, parts.notes, asked(a))
    if a.resume is None:
        shutil.rmtree(kept, ignore_errors=True)
    notes = [f"{one.name}: {one.note}." for one in compared if one.note]
    print("", *aligned(table(compared, free_run)), *notes, "", identifier.describe(), "", *parts.notes, sep="\n")
    print(f"Model and report: {a.out}/ ({', '.join(files)}), after {time.perf_counter() - started:.0f} s.")


class _Parts(NamedTuple):
    """Rows to fit to, rows of the report, and how they were taken."""

    train: Records
    test: Records
    initial: int
    notes: tuple[str, ...]


def _parts(records: Records, a: argparse.Namespace, identifier: SystemIdentifier) -> _Parts:
    from ..timeseries.baselines.simulator import split_runs

    total = records.total_rows
    for option, rows in (("--train", a.train), ("--test", a.test)):
        if rows is not None and rows.stop is not None and rows.stop > total:
            raise DataError(f"{option} {rows.start or 0}:{rows.stop}: there are {total} rows")
    first, last, _ = (a.train or slice(None)).indices(total)
    train = records.rows(first, last)
    rows = a.test or (slice(last, None) if last < total else None)
    if rows is None:
        train, test = split_runs(train, 1 - HELD)
        note = f"The report is of the last {100 * HELD:.0f} % of each run, which the models did not see; --train A:B"
        note += " and --test A:B take other rows."
    else:
        begin, end, _ = rows.indices(total)
        if begin < last and end > first:
            raise DataError(f"--test {begin}:{end} shares rows with --train {first}:{last}")
        test = records.rows(begin, end)
        note = f"Fitted to the rows {first} to {last - 1}; the report is of the rows {begin} to {end - 1}."
    shortest = min(map(len, test))
    initial = min(identifier.initial, shortest // 2)
    if initial < 2:
        raise DataError(f"too few rows: a run of the report has {shortest}")
    notes = (*records.notes, note)
    if initial < identifier.initial:
        notes = (*notes, f"A run of the report has {shortest} rows: initial states are found from {initial}.")
    return _Parts(train, test, initial, notes)
