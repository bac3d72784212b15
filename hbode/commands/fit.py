"""`hbode fit`."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..analysis.tables import aligned
from ..results_folder import ResultsFolder
from ..timeseries import DataError, Records, read_records
from .arguments import add_table, at_least, cores, names, positive_int, reading, row_range, seed

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
MODELS = ("auto", "hbnode", "node", "port")
OPTIMIZERS = ("auto", "least_squares", "adam")
READOUTS = ("position", "absolute", "linear", "square")
HELD = 0.2
"""Share of the rows of each run, at its end, that are reported on where no rows were named for that."""
BASELINES = ("none", "linear", "auto", "all")


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
    add(
        "--model",
        choices=MODELS,
        default="auto",
        help="hbnode: second order in time, for what moves or swings; node: first order, levels, temperatures; port: "
        "second order with a potential and damping, no energy from nowhere; auto: of the first two, the one that "
        "simulates best the rows that choose, hidden states included (default: auto)",
    )
    add(
        "--hidden",
        type=_layers,
        metavar="N[,N]",
        help="units of the network that corrects the law, of each of its layers; 0 for none",
    )
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        help="least_squares, or adam, for large networks (default: auto, by the number of parameters)",
    )
    add("--degree", type=positive_int, metavar="N", help="of the polynomial stiffness, 1 for a linear one")
    add("--states", type=positive_int, metavar="N", help="channels of the state (default: one an output)")
    add(
        "--readout",
        choices=READOUTS,
        help="outputs are positions (default), their absolute values, or combinations of states, linear or squared",
    )
    add(
        "--limits",
        type=_limits,
        metavar="LOW:HIGH",
        help="what outputs can show, such as :10 for a level that overflows",
    )
    add("--initial", type=at_least(2), metavar="N", help="samples that the initial state is found from")
    add("--stretch", type=at_least(2), metavar="N", help="samples of a stretch that is simulated in training")
    add("--evaluations", type=positive_int, metavar="N", help="of the least-squares problem, at most, in each stage")
    add("--seeds", type=positive_int, metavar="N", help="models of the ensemble")
    add("--seed", type=seed, default=0, metavar="N", help="the first of them (default: %(default)s)")
    add("--jobs", type=positive_int, metavar="N", help="models fitted at a time, in processes (default: one a core)")
    add(
        "--baselines",
        choices=BASELINES,
        default="auto",
        help="simpler models to stand beside; auto: an LSTM only if it takes less than a minute (default: auto)",
    )
    add("--quiet", action="store_true", help="show no progress")
    add(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="where models that are done are kept until all are (default: OUT.unfinished, removed at the end)",
    )
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
    from ..timeseries.identification import Structure
    from ..timeseries.simulation import NUMBERS, FreeRun, compare, write_report
    from ..timeseries.simulation.report import table

    records = read_records(a.data, a.output, a.input, **reading(a))
    kept = a.resume or a.out.with_name(f"{a.out.name}.unfinished")
    identifier = _identifier(a, kept)
    try:
        law = "hbnode" if a.model == "auto" else a.model
        Structure(len(records.outputs), len(records.inputs), law, a.states, readout=identifier.readout)
        parts = _parts(records, a, identifier)
    except ValueError as error:
        raise DataError(f"{records.source}: {error}") from None
    print(f"{records!r}\n", flush=True)
    with ResultsFolder(a.out, MADE_BY, NUMBERS) as folder:
        began = time.perf_counter()
        try:
            identifier.fit(parts.train)
        except DataError as error:
            raise DataError(f"{records.source}: {error}") from None
        except KeyboardInterrupt:
            more = f"; models that are done are kept in {kept}, the same command goes on from them"
            raise KeyboardInterrupt(f"interrupted{more if kept.exists() else ''}; {a.out} was not written") from None
        seconds = time.perf_counter() - began
        identifier.save(folder)
        free_run = FreeRun.of(identifier, parts.test, parts.initial)
        compared = compare(identifier, parts.train, free_run, seconds, a.baselines)
        title = f"{identifier.law_.model.upper()} of {records.source}"
        files = write_report(folder, MADE_BY, title, identifier, free_run, compared, parts.notes, _asked(a))
    if a.resume is None:
        shutil.rmtree(kept, ignore_errors=True)
    notes = [f"{one.name}: {one.note}." for one in compared if one.note]
    print("", *aligned(table(compared, free_run)), *notes, "", identifier.describe(), "", *parts.notes, sep="\n")
    print(f"Model and report: {a.out}/ ({', '.join(files)}), after {time.perf_counter() - started:.0f} s.")


def _identifier(a: argparse.Namespace, kept: Path) -> SystemIdentifier:
    """Return what is to be fitted; what was not asked for is left at its default."""
    from ..timeseries.identification import SystemIdentifier

    asked = (
        "hidden",
        "optimizer",
        "degree",
        "states",
        "readout",
        "limits",
        "initial",
        "stretch",
        "evaluations",
        "seeds",
    )
    given = {name: getattr(a, name) for name in asked if getattr(a, name) is not None}
    identifier = SystemIdentifier(a.model, **given, random_state=a.seed, checkpoint=kept, verbose=not a.quiet)
    return identifier.set_params(jobs=a.jobs or min(cores(), identifier.seeds))


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


def _layers(text: str) -> int | tuple[int, ...]:
    layers = tuple(map(at_least(0), text.split(",")))
    if len(layers) > 1 and 0 in layers:
        raise argparse.ArgumentTypeError(f"must be 0, or units of each layer, got {text!r}")
    return layers[0] if len(layers) == 1 else layers


def _limits(text: str) -> tuple[float | None, float | None]:
    low: float | None
    high: float | None
    try:
        low, high = (float(part) if part.strip() else None for part in text.split(":"))
    except ValueError:
        low = high = None
    if (low is None and high is None) or (low is not None and high is not None and not low < high):
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, either may be left out, got {text!r}")
    return low, high


def _asked(a: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, in types of JSON."""
    found = {name: x for name, x in vars(a).items() if name not in ("command", "run", "out") and x is not None}
    found |= {name: f"{x.start or 0}:{x.stop or ''}" for name, x in found.items() if isinstance(x, slice)}
    return {
        name: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x for name, x in found.items()
    }
