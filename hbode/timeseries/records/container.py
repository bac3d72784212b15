"""Measured data: one or many recorded runs of outputs y(t) and, for driven systems, of inputs u(t)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ...lazy import optional
from .arrays import Runs, channels_of, runs_of
from .columns import Columns
from .run import Channel, DataError, Run
from .sampling import LONG_GAP, common_step, longest_gap, median_step
from .writing import write_frame

if TYPE_CHECKING:
    import pandas as pd


IN_SECONDS = Channel("time", "s")


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """Recorded runs of the same channels: a sequence of `Run`.

    ``records[0]`` is a run, ``records[:2]`` the first two as records, ``records.rows(a, b)`` some of the rows.

    Attributes
    ----------
    runs
        At least one.
    outputs, inputs
        The columns of y and u; no name occurs twice.
    time
        Name and unit of the times; the unit is "sample" where rows were only counted.
    epoch
        The date that t = 0 stands for, ISO 8601, where times were time stamps.
    source
        Where the records come from, for the reader of a report.
    notes
        What was found out, assumed or left out when they were read.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records
    >>> t = np.arange(200) / 50
    >>> Records.from_arrays(t, np.sin(t), u=np.cos(t), outputs=["x (mm)"], inputs=["F (N)"])
    Records: arrays
      runs     1, 200 rows, t from 0 to 3.98 s, step 0.02 s
      inputs   F (N)
      outputs  x (mm)
    """

    runs: tuple[Run, ...]
    outputs: tuple[Channel, ...]
    inputs: tuple[Channel, ...] = ()
    time: Channel = IN_SECONDS
    epoch: str | None = None
    source: str = "arrays"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.runs:
            raise DataError("records need at least one run")
        if not self.outputs:
            raise DataError("records need at least one output")
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"channel {twice[0]!r} occurs twice")
        for run in self.runs:
            got, need = (run.y.shape[1], run.u.shape[1]), (len(self.outputs), len(self.inputs))
            if got != need:
                raise DataError(f"run {run.name!r} has {got} outputs and inputs, the names are of {need}")

    @classmethod
    def from_arrays(
        cls,
        t: Runs | None,
        y: Runs,
        u: Runs | None = None,
        *,
        outputs: Sequence[str | Channel] | None = None,
        inputs: Sequence[str | Channel] | None = None,
        rate: float | None = None,
        unit: str = "s",
        source: str = "arrays",
    ) -> Records:
        """Take numpy arrays or tensors: those of one run, or lists of arrays, one for each run.

        Parameters
        ----------
        t
            Times (T,); one array serves all runs. None: rows are counted, or timed by `rate`.
        y, u
            Outputs (T, Cy) or (T,), inputs (T, Cu) or (T,); NaN and masked entries are missing. They are copied.
        outputs, inputs
            Channels, or names such as ``"Force (N)"``. Default: y or y1, y2, …, and u or u1, u2, ….
        rate
            Samples in a unit of time, where t is None.
        unit
            Of the times.

        Raises
        ------
        DataError, TypeError
            As `Run` and `Records` do; for other things than real numbers; for t and rate together.
        """
        runs = runs_of(t, y, u, rate)
        of_y = channels_of(outputs, "y", runs[0].y.shape[1])
        of_u = channels_of(inputs, "u", runs[0].u.shape[1])
        clock = Channel("time", "sample" if t is None and rate is None else unit)
        return cls(runs, of_y, of_u, clock, source=source)

    @classmethod
    def from_frame(
        cls,
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

        Times come from the column `time`; else from the only column or index that is called timestamp, time, t, date
        or datetime (``time_s`` and ``time [ms]`` too) or holds dates; else from `rate`, or a column ``Fs`` with the
        samples per second on its first row; else rows are counted. Dates, ISO 8601 text and epoch numbers become
        seconds since the first of them, `epoch`. Booleans become 0 and 1.

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
            found = Columns(frame, where, rate, source).runs(outputs, inputs, time, run, columns)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
        return cls(source=source, **found._asdict())

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, item: int) -> Run: ...
    @overload
    def __getitem__(self, item: slice) -> Records: ...
    def __getitem__(self, item: int | slice) -> Run | Records:
        return replace(self, runs=self.runs[item]) if isinstance(item, slice) else self.runs[item]

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def total_rows(self) -> int:
        """The rows of all runs."""
        return sum(map(len, self.runs))

    def take(self, rows: NDArray[np.intp]) -> Records:
        """Return chosen rows, increasing, counted from 0 through all runs; runs without any are left out."""
        ends = np.cumsum([0, *map(len, self.runs)])
        cuts = np.searchsorted(rows, ends)
        chosen = zip(self.runs, ends, pairwise(cuts), strict=False)
        return replace(self, runs=tuple(run.take(rows[a:b] - start) for run, start, (a, b) in chosen if b > a))

    def rows(self, start: int | None = None, stop: int | None = None) -> Records:
        """Return the rows of a slice, counted from 0 through all runs; a DataError if there are none."""
        chosen = np.arange(self.total_rows)[start:stop]
        if not len(chosen):
            raise DataError(f"rows {start}:{stop} are none of the {self.total_rows} rows")
        return self.take(chosen)

    def split(self, fraction: float) -> tuple[Records, Records]:
        """Split the rows in their order, `fraction` of them first; a DataError if a part would be empty."""
        at = round(fraction * self.total_rows)
        if not 0 < at < self.total_rows:
            raise DataError(f"fraction must leave rows in both parts, got {fraction} of {self.total_rows} rows")
        return self.rows(None, at), self.rows(at, None)

    def select(self, outputs: Sequence[str], inputs: Sequence[str] = ()) -> Records:
        """Return some channels, by name, in the roles named; a DataError for a name that none of them has."""
        at = {channel.name: i for i, channel in enumerate(self.channels)}
        unknown = [name for name in (*outputs, *inputs) if name not in at]
        if unknown:
            raise DataError(f"no channel {unknown[0]!r}; there are {', '.join(at)}")
        y, u = ([at[name] for name in names] for names in (outputs, inputs))
        both = [np.concatenate((run.u, run.y), 1) for run in self.runs]
        runs = tuple(replace(run, y=x[:, y], u=x[:, u]) for run, x in zip(self.runs, both, strict=True))
        channels = self.channels
        return replace(self, runs=runs, outputs=tuple(channels[i] for i in y), inputs=tuple(channels[i] for i in u))

    @property
    def step(self) -> float | None:
        """The sampling step, None where the times are not equidistant up to the rounding of the time stamps."""
        return common_step([run.t for run in self.runs])

    @property
    def median_step(self) -> float:
        """The median time between rows of a run, NaN where every run has but one."""
        return median_step([run.t for run in self.runs])

    @property
    def longest_gap(self) -> tuple[float, int, int]:
        """The longest time between two rows of a run, the run and the row after which it comes."""
        return longest_gap([run.t for run in self.runs])

    def cut_at_gaps(self, longest: float | None = None) -> Records:
        """Cut runs into several where more time than `longest` passes between rows; no row is dropped.

        The default is 100 times the median step.
        """
        longest = LONG_GAP * self.median_step if longest is None else longest
        runs: list[Run] = []
        for run in self.runs:
            cuts = [0, *(np.flatnonzero(np.diff(run.t) > longest) + 1), len(run)]
            parts = [slice(a, b) for a, b in pairwise(cuts)]
            runs += [run] if len(parts) == 1 else [run.take(p, f"{run.name}/{i}") for i, p in enumerate(parts)]
        return replace(self, runs=tuple(runs))

    def filled(self, longest: float) -> Records:
        """Return records with rows without values where more time than `longest` passes between rows."""
        return replace(self, runs=tuple(run.filled(longest)[0] for run in self.runs))

    def missing(self) -> dict[str, int]:
        """Return how many values are missing of each channel that misses any."""
        lost = sum(np.isnan(np.concatenate((run.u, run.y), 1)).sum(0) for run in self.runs)
        return {c.name: int(n) for c, n in zip(self.channels, np.atleast_1d(lost), strict=True) if n}

    def to_frame(self) -> pd.DataFrame:
        """Return times or dates, the run if there are several, inputs and outputs as a pandas DataFrame."""
        pandas = optional("pandas")
        t = np.concatenate([run.t for run in self])
        if self.epoch is None:
            columns: dict[str, Any] = {str(self.time): t}
        else:
            since = pandas.to_timedelta(np.round(t * 1e9).astype(np.int64), unit="ns")
            columns = {self.time.name: pandas.Timestamp(self.epoch).as_unit("ns") + since}
        if len(self) > 1:
            columns["run"] = np.repeat([run.name or str(i) for i, run in enumerate(self)], [len(run) for run in self])
        values = np.concatenate([np.concatenate((run.u, run.y), 1) for run in self])
        return pandas.DataFrame(columns | {str(c): x for c, x in zip(self.channels, values.T, strict=True)})

    def write(self, path: str | Path) -> None:
        """Write CSV (also ``.csv.gz``) or Parquet, by the suffix; `read_records` gives the same numbers again."""
        write_frame(self.to_frame(), Path(path))

    def __repr__(self) -> str:
        unit, gap = self.time.unit, self.longest_gap
        step, median = self.step, self.median_step
        last = [f"t from {min(r.t[0] for r in self.runs):.6g} to {max(r.t[-1] for r in self.runs):.6g} {unit}".rstrip()]
        last += [f"step {step:.6g} {unit}" if step else f"irregular, median step {median:.6g} {unit}"]
        lines = [
            f"Records: {self.source}",
            f"runs     {len(self)}, {self.total_rows:,} rows, {', '.join(last).rstrip()}",
        ]
        lines += [f"epoch    t = 0 is {self.epoch}"] if self.epoch else []
        for title, channels in (("inputs", self.inputs), ("outputs", self.outputs)):
            more = [f"… ({len(channels)} in all)"] if len(channels) > 12 else []
            lines += [f"{title:8s} " + ", ".join([*map(str, channels[: 8 if more else 12]), *more])] if channels else []
        lost = self.missing()
        lines += [f"missing  {', '.join(f'{n} of {name}' for name, n in lost.items())}"] if lost else []
        if step is None and gap[0] > 2 * median:
            lines += [f"gap      {gap[0]:.6g} {unit} after row {gap[2]} of run {self.runs[gap[1]].name or gap[1]}"]
        return "\n  ".join(lines + [f"note     {note}" for note in self.notes])
