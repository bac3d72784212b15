"""Which column of a table is the time, the run, an input, an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...lazy import optional
from ...solvers.warning import warn
from .run import Array, Channel, DataError, Run, channel_of, disorder
from .sampling import LONG_GAP, longest_gap, median_step
from .stamps import could_be_times, times_of

if TYPE_CHECKING:
    import pandas as pd

RATE_NAMES = ("fs", "fs_hz")


class Found(NamedTuple):
    """What a table holds, in the words of `Records`."""

    runs: tuple[Run, ...]
    outputs: tuple[Channel, ...]
    inputs: tuple[Channel, ...]
    time: Channel
    epoch: str | None
    notes: tuple[str, ...]


class Columns:
    """The columns of a table, which are to become times, runs and channels; `Records.from_frame` says how."""

    def __init__(self, frame: pd.DataFrame, where: Callable[[int], str], rate: float | None, source: str) -> None:
        if frame.index.names != [None] or frame.index.dtype.kind == "M":
            names = [name or "time" for name in frame.index.names]
            frame = frame.reset_index(names=names)
        self.names = [str(name).strip() for name in frame.columns]
        self.values = [frame.iloc[:, i] for i in range(len(self.names))]
        self.short = [channel_of(name).name for name in self.names]
        self.where, self.rate, self.source = where, rate, source
        self.rows, self.notes = len(frame), list[str]()
        twice = [name for name in self.names if name and self.names.count(name) > 1]
        if twice:
            raise DataError(f"two columns are called {twice[0]!r}")
        if not self.rows:
            raise DataError("no rows")

    def runs(
        self,
        outputs: Sequence[str] | None,
        inputs: Sequence[str],
        time: str | None,
        run: str | None,
        columns: Sequence[str] | None,
    ) -> Found:
        """Return the runs, what their columns are, and what is to be told of them."""
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
        self._warn_of_gaps([run.t for run in made], [rows for _, rows in runs], unit)
        return Found(made, of_y, of_u, clock, epoch, tuple(self.notes))

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
            if kind not in ("string", "mixed", "mixed-integer"):
                raise DataError(f"column {name!r} must hold numbers, got {column.dtype} ({kind})")
            number = np.isfinite(pandas.to_numeric(column, errors="coerce").to_numpy(np.float64))
            row = int(np.argmax(column.notna() & ~number))
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

    def _warn_of_gaps(self, times: list[Array], rows: list[NDArray[np.intp]], unit: str) -> None:
        step, (gap, i, row) = median_step(times), longest_gap(times)
        if gap > LONG_GAP * step:
            place = self.where(int(rows[i][row]))
            warn(
                f"{self.source}: a gap of {gap:.6g} {unit} after {place}, where rows are {step:.4g} {unit} apart; "
                "Records.cut_at_gaps() makes runs of the parts"
            )
