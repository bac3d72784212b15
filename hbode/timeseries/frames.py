"""Records from the columns of a table, and back: which column is the time, the run, an input, an output."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .records import LONG_GAP, Records
from .run import Array, Channel, DataError, Run, channel_of, disorder
from .stamps import could_be_times, times_of

if TYPE_CHECKING:
    import pandas as pd

RATE_NAMES = ("fs", "fs_hz")


class MissingExtra(ImportError):
    """An optional library that is not installed, with a message that names the extra."""


def optional(name: str) -> Any:
    """Import a library of the extra ``hbode[timeseries]``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"this needs {name.partition('.')[0]}: pip install 'hbode[timeseries]'") from error


def from_frame(
    frame: pd.DataFrame,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    *,
    time: str | None = None,
    run: str | None = None,
    columns: Sequence[str] | None = None,
    rate: float | None = None,
    source: str = "DataFrame",
    where: Callable[[int], str] = "row {}".format,
) -> Records:
    """Take the columns of a pandas DataFrame as runs of channels; no row is dropped.

    Times come from the column `time`; else from the only column, or index, that is called timestamp, time, t, date or
    datetime (with a unit or not: ``time_s``, ``time [ms]``) or holds dates; else from `rate`, or a column ``Fs``
    with the samples per second on its first row; else rows are counted. Dates, ISO 8601 text and epoch numbers
    become seconds since the first of them, `Records.epoch`. Booleans become 0 and 1.

    Parameters
    ----------
    frame
        The table. Columns are named as in it, or without their unit: ``Force (N)`` is also ``Force``.
    outputs, inputs
        Columns of y and u. Default: everything that is nothing else is an output.
    time, run
        The column of the times; the column that says which run a row belongs to.
    columns
        The only columns that may become channels by default; others are left out.
    rate
        Samples per second of a table without times.
    source
        Name of the table in messages and reports.
    where
        Words for the place of a row, which is counted from 0.

    Raises
    ------
    DataError
        For a column that is missing, named twice or holds text; two columns that may be the times; times that are
        missing, unreadable or do not increase within a run. The message names the column and the row.

    Warns
    -----
    UserWarning
        Of a gap of more than 100 median steps.
    """
    try:
        return _Reading(frame, where, rate).records(outputs, inputs, time, run, columns, source)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


class _Reading:
    """The columns of a table while they are given their roles."""

    def __init__(self, frame: pd.DataFrame, where: Callable[[int], str], rate: float | None) -> None:
        if frame.index.names != [None] or frame.index.dtype.kind == "M":
            names = [name or "time" for name in frame.index.names]
            frame = frame.reset_index(names=names)
        self.names = [str(name).strip() for name in frame.columns]
        self.values = [frame.iloc[:, i] for i in range(len(self.names))]
        self.short = [channel_of(name).name for name in self.names]
        self.where, self.rate, self.rows, self.notes = where, rate, len(frame), list[str]()
        twice = [name for name in self.names if name and self.names.count(name) > 1]
        if twice:
            raise DataError(f"two columns are called {twice[0]!r}")
        if not self.rows:
            raise DataError("no rows")

    def records(
        self,
        outputs: Sequence[str] | None,
        inputs: Sequence[str],
        time: str | None,
        run: str | None,
        columns: Sequence[str] | None,
        source: str,
    ) -> Records:
        u, y = ([self.find(name) for name in names] for names in (inputs, outputs or ()))
        run_at = None if run is None else self.find(run)
        taken = {*u, *y} | ({run_at} if run_at is not None else set())
        time_at = self._time(time, taken)
        rate_at = next((i for i, n in enumerate(self.names) if n.lower() in RATE_NAMES and i not in taken), None)
        taken |= {i for i in (time_at, rate_at) if i is not None}
        if outputs is None:
            rest = range(len(self.names)) if columns is None else [self.find(name) for name in columns]
            y = [i for i in rest if i not in taken and not self._empty(i)]
        if not y:
            raise DataError("no column is left for an output")
        tables = [np.stack([self.numbers(i) for i in side], 1) if side else np.empty((self.rows, 0)) for side in (y, u)]
        runs = [("", np.arange(self.rows))] if run_at is None else self._runs(run_at)
        t, unit, epoch = self._times(time_at, rate_at, [rows for _, rows in runs])
        for _, rows in runs:
            late = disorder(t[rows])
            if late is not None:
                hint = "" if run is not None else "; if rows are of several runs, name the column that tells them apart"
                raise DataError(f"{self.where(int(rows[late[0]]))}: {late[1]}{hint}")
        made = tuple(Run(t[rows], tables[0][rows], tables[1][rows], name) for name, rows in runs)
        of_y, of_u = (tuple(channel_of(self.names[i]) for i in side) for side in (y, u))
        clock = Channel("time" if time_at is None else self.short[time_at], unit)
        records = Records(made, of_y, of_u, clock, epoch, source, tuple(self.notes))
        self._warn_of_gaps(records, runs)
        return records

    def find(self, name: str) -> int:
        """Return the column of that name, with its unit or without."""
        found = [i for i, n in enumerate(self.names) if n == name] or [i for i, n in enumerate(self.short) if n == name]
        if len(found) != 1:
            which = "several columns" if found else "no column"
            raise DataError(f"{which} {name!r}; there are {', '.join(n for n in self.names if n)}")
        return found[0]

    def numbers(self, i: int) -> Array:
        """Return a column in float64, NaN where missing."""
        column, name = self.values[i], self.names[i]
        pandas = optional("pandas")
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "boolean":
            self.notes.append(f"{name!r} is true or false: 1 or 0")
        elif kind not in ("floating", "integer", "mixed-integer-float", "decimal", "empty"):
            if kind != "string":
                raise DataError(f"column {name!r} must hold numbers, got {column.dtype} ({kind})")
            number = np.isfinite(pandas.to_numeric(column, errors="coerce").to_numpy(np.float64))
            row = int(np.flatnonzero(column.notna() & ~number)[0])
            raise DataError(
                f"column {name!r} holds text, {self.where(row)}: {column.iloc[row]!r}; to leave it out name the columns"
            )
        x: Array = column.to_numpy(np.float64, na_value=np.nan)
        wild = np.flatnonzero(np.isinf(x))
        if len(wild):
            raise DataError(f"column {name!r}, {self.where(int(wild[0]))}: {x[wild[0]]} is not a finite number")
        return x

    def _empty(self, i: int) -> bool:
        """Whether a column without a name is to be left out, which is said."""
        if self.names[i]:
            return False
        if self.values[i].notna().any():
            raise DataError(f"column {i + 1} has no name; give it one, or name the columns to be read")
        self.notes.append(f"column {i + 1} has no name and no value: left out")
        return True

    def _time(self, time: str | None, taken: set[int]) -> int | None:
        if time is not None:
            return self.find(time)
        free = [i for i in range(len(self.names)) if i not in taken and could_be_times(self.names[i], self.values[i])]
        if len(free) > 1:
            raise DataError(f"{' and '.join(repr(self.names[i]) for i in free)} may be the times: say which by time=")
        return free[0] if free else None

    def _runs(self, i: int) -> list[tuple[str, NDArray[np.intp]]]:
        column = self.values[i]
        missing = np.flatnonzero(column.isna())
        if len(missing):
            raise DataError(f"column {self.names[i]!r}, {self.where(int(missing[0]))}: the run is missing")
        return [(str(name), np.sort(rows)) for name, rows in column.groupby(column, sort=False).indices.items()]

    def _times(
        self, at: int | None, rate_at: int | None, runs: list[NDArray[np.intp]]
    ) -> tuple[Array, str, str | None]:
        if at is not None and self.rate is not None:
            raise DataError(f"rate= must not be given beside times in {self.names[at]!r}")
        if at is not None:
            t, unit, epoch, note = times_of(channel_of(self.names[at]), self.values[at], self.where)
            self.notes += [note] if note else []
            return t, unit, epoch
        t = np.empty(self.rows)
        for rows in runs:
            t[rows] = np.arange(len(rows))
        rate = self.rate
        if rate is None and rate_at is not None:
            given = self.numbers(rate_at)
            rate = float(given[0])
            if (given[~np.isnan(given)] != rate).any():
                raise DataError(
                    f"column {self.names[rate_at]!r} must hold one sampling rate, got several or none first"
                )
        if rate is None:
            self.notes.append("no times and no rate: rows are counted")
            return t, "sample", None
        if not (np.isfinite(rate) and rate > 0):
            raise DataError(f"the sampling rate must be positive, got {rate:g}")
        return t / rate, "s", None

    def _warn_of_gaps(self, records: Records, runs: list[tuple[str, NDArray[np.intp]]]) -> None:
        gap, i, row = records.longest_gap
        if gap > LONG_GAP * records.median_step:
            place = self.where(int(runs[i][1][row]))
            warnings.warn(
                f"{records.source}: a gap of {gap:.6g} {records.time.unit} after {place}, where rows are "
                f"{records.median_step:.4g} {records.time.unit} apart; Records.cut_at_gaps() makes runs of the parts",
                stacklevel=4,
            )


def to_frame(records: Records) -> pd.DataFrame:
    """Return times, the run if there are several, inputs and outputs; dates where the records have an epoch."""
    pandas = optional("pandas")
    t = np.concatenate([run.t for run in records])
    if records.epoch is None:
        columns: dict[str, Any] = {str(records.time): t}
    else:
        since = pandas.to_timedelta(np.round(t * 1e9).astype(np.int64), unit="ns")
        columns = {records.time.name: pandas.Timestamp(records.epoch).as_unit("ns") + since}
    if len(records) > 1:
        columns["run"] = np.repeat([run.name or str(i) for i, run in enumerate(records)], [len(run) for run in records])
    values = np.concatenate([np.concatenate((run.u, run.y), 1) for run in records])
    return pandas.DataFrame(columns | {str(c): x for c, x in zip(records.channels, values.T, strict=True)})


def write(records: Records, path: Path) -> None:
    """Write what `to_frame` returns as CSV, ``.csv`` or ``.csv.gz``, or as Parquet; all of it or nothing."""
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".parquet")):
        raise DataError(f"{path}: must end in .csv, .csv.gz or .parquet")
    part = path.with_name(f".{path.name}.part")
    frame = to_frame(records)
    try:
        if name.endswith(".parquet"):
            optional("pyarrow")
            frame.to_parquet(part, index=False)
        else:
            frame.to_csv(part, index=False, compression="gzip" if name.endswith(".gz") else None)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
