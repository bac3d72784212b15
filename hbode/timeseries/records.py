"""Measured data: one or many recorded runs of outputs y(t) and, for driven systems, of inputs u(t)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Numbers = ArrayLike | Tensor

LONG_GAP = 100.0
"""A gap between two rows is long from so many median steps on."""


class DataError(ValueError):
    """Data that cannot be used, with a message of one line that says why and where."""


@dataclass(frozen=True)
class Channel:
    """A measured quantity; an empty unit is an unknown one."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One uninterrupted recording.

    Attributes
    ----------
    t
        Times, shape (T,), T at least 1, finite and strictly increasing, float64.
    y, u
        Outputs (T, Cy) and inputs (T, Cu), float64, NaN where missing; Cu may be 0.
    name
        Which run it is.

    Raises
    ------
    DataError
        For shapes that do not fit, times that do not increase and values of ±Inf; rows are counted from 0.
    """

    t: Array
    y: Array
    u: Array
    name: str = ""

    def __post_init__(self) -> None:
        where = f"run {self.name!r}: " if self.name else ""
        rows = len(self.t)
        if self.t.ndim != 1 or any(x.ndim != 2 or len(x) != rows for x in (self.y, self.u)):
            shapes = ", ".join(str(x.shape) for x in (self.t, self.y, self.u))
            raise DataError(f"{where}t, y and u must have shapes (T,), (T, Cy) and (T, Cu), got {shapes}")
        if not rows:
            raise DataError(f"{where}no rows")
        if not np.isfinite(self.t).all():
            raise DataError(f"{where}row {np.flatnonzero(~np.isfinite(self.t))[0]}: the time is missing or not finite")
        late = disorder(self.t)
        if late is not None:
            raise DataError(f"{where}row {late[0]}: {late[1]}")
        for name, values in (("y", self.y), ("u", self.u)):
            if np.isinf(values).any():
                row, column = np.argwhere(np.isinf(values))[0]
                raise DataError(
                    f"{where}row {row}: {name}[{row}, {column}] must be finite or NaN, got {values[row, column]}"
                )

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        span = f"t from {self.t[0]:g} to {self.t[-1]:g}"
        return f"Run({self.name!r}, {len(self)} rows, {span}, y {self.y.shape}, u {self.u.shape})"

    @property
    def y_mask(self) -> Mask:
        """True where an output was measured, (T, Cy)."""
        return ~np.isnan(self.y)

    @property
    def u_mask(self) -> Mask:
        """True where an input was measured, (T, Cu)."""
        return ~np.isnan(self.u)

    def take(self, rows: slice | NDArray[np.intp], name: str | None = None) -> Run:
        """Return some of the rows, in their order."""
        return Run(self.t[rows], self.y[rows], self.u[rows], self.name if name is None else name)


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
    time: Channel = Channel("time", "s")
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
        t: Numbers | Sequence[Numbers] | None,
        y: Numbers | Sequence[Numbers],
        u: Numbers | Sequence[Numbers] | None = None,
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
        many = _is_list(y)
        ys = [_table(v, "y") for v in (y if many else [y])]  # type: ignore[union-attr]
        if u is not None and _is_list(u) != many:
            raise DataError("y and u must both be lists of arrays, one for each run, or both be arrays")
        us = [np.empty((len(v), 0)) for v in ys] if u is None else [_table(v, "u") for v in (u if many else [u])]  # type: ignore[union-attr]
        if t is None:
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                raise DataError(f"rate must be positive, got {rate}")
            ts = [np.arange(len(v)) / (rate or 1.0) for v in ys]
            unit = "sample" if rate is None else unit
        elif rate is not None:
            raise DataError("rate must not be given beside times")
        else:
            ts = [_floats(v, "t") for v in (t if _is_list(t) else [t] * len(ys))]  # type: ignore[union-attr]
        if not len(ts) == len(ys) == len(us):
            raise DataError(f"t, y and u must have as many runs, got {len(ts)}, {len(ys)} and {len(us)}")
        runs = tuple(Run(*arrays, str(i) if many else "") for i, arrays in enumerate(zip(ts, ys, us, strict=True)))
        named = (_named(outputs, "y", runs[0].y), _named(inputs, "u", runs[0].u)) if runs else ((), ())
        return cls(runs, *named, Channel("time", unit), None, source)

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, outputs: Sequence[str] | None = None, inputs: Sequence[str] = (), **options: Any
    ) -> Records:
        """Take the columns of a pandas DataFrame; options are those of `hbode.timeseries.from_frame`."""
        from .frames import from_frame

        return from_frame(frame, outputs, inputs, **options)

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
        """Return the rows of a slice, counted from 0 through all runs.

        Raises
        ------
        DataError
            If there are none.
        """
        chosen = np.arange(self.total_rows)[start:stop]
        if not len(chosen):
            raise DataError(f"rows {start}:{stop} are none of the {self.total_rows} rows")
        return self.take(chosen)

    def split(self, fraction: float) -> tuple[Records, Records]:
        """Split the rows in their order; `fraction` of them go into the first part.

        Raises
        ------
        DataError
            If a part would be empty.
        """
        at = round(fraction * self.total_rows)
        if not 0 < at < self.total_rows:
            raise DataError(f"fraction must leave rows in both parts, got {fraction} of {self.total_rows} rows")
        return self.rows(None, at), self.rows(at, None)

    def select(self, outputs: Sequence[str], inputs: Sequence[str] = ()) -> Records:
        """Return some channels, by name, in the roles named; an input may become an output.

        Raises
        ------
        DataError
            For a name that is none of the channels.
        """
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
        taken = sum(len(run) - 1 for run in self.runs)
        if not taken:
            return None
        step = float(sum(run.t[-1] - run.t[0] for run in self.runs)) / taken
        # Rounding to r shifts a stamp by r/2, and the end of the line through the first and the last one by r.
        off = (np.ptp(run.t - step * np.arange(len(run))) for run in self.runs)
        return step if max(off) <= 2 * _rounding(np.concatenate([run.t for run in self.runs]), step) else None

    @property
    def median_step(self) -> float:
        """The median time between rows of a run, NaN where every run has but one."""
        steps = np.concatenate([np.diff(run.t) for run in self.runs])
        return float(np.median(steps)) if len(steps) else math.nan

    @property
    def longest_gap(self) -> tuple[float, int, int]:
        """The longest time between two rows of a run, the run and the row after which it comes."""
        found = [(float(np.diff(run.t).max(initial=0.0)), i) for i, run in enumerate(self.runs)]
        gap, i = max(found, key=lambda pair: pair[0])
        return gap, i, int(np.diff(self.runs[i].t).argmax()) if len(self.runs[i]) > 1 else 0

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

    def missing(self) -> dict[str, int]:
        """Return how many values are missing of each channel that misses any."""
        lost = sum(np.isnan(np.concatenate((run.u, run.y), 1)).sum(0) for run in self.runs)
        return {c.name: int(n) for c, n in zip(self.channels, np.atleast_1d(lost), strict=True) if n}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame: times, the run if there are several, inputs, outputs."""
        from .frames import to_frame

        return to_frame(self)

    def write(self, path: str | Path) -> None:
        """Write CSV (also ``.csv.gz``) or Parquet, by the suffix; `read_records` gives the same numbers again."""
        from .frames import write

        write(self, Path(path))

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


def disorder(t: Array) -> tuple[int, str] | None:
    """Return the first row whose time does not come after that of the row before, and what is wrong with it."""
    late = np.flatnonzero(np.diff(t) <= 0)
    if not len(late):
        return None
    before, now = t[late[0]], t[late[0] + 1]
    kind = "repeated" if now == before else "out of order"
    return int(late[0]) + 1, f"times must increase, {now:.12g} follows {before:.12g} ({kind})"


def channel_of(name: str) -> Channel:
    """Return a channel from a name such as ``Force (N)`` or ``x [mm]``."""
    name = name.strip()
    for opening, closing in ("()", "[]"):
        head, bracket, unit = name[:-1].rpartition(opening)
        if bracket and name.endswith(closing) and head.strip() and not unit.isdigit():  # x[0] is no unit
            return Channel(head.strip(), unit.strip())
    return Channel(name)


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple) and any(hasattr(v, "ndim") and v.ndim > 0 for v in values)


def _floats(values: Any, name: str) -> Array:
    """Return a copy in float64, NaN where masked."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy() if not values.is_complex() else values.numpy()
    kind = np.ma.asarray(values).dtype.kind
    if kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {np.ma.asarray(values).dtype}")
    return np.array(np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan))


def _table(values: Any, name: str) -> Array:
    array = _floats(values, name)
    if array.ndim not in (1, 2):
        raise DataError(f"{name} must have shape (T,) or (T, C), or be a list of such arrays, got {array.shape}")
    return array[:, None] if array.ndim == 1 else array


def _named(given: Iterable[str | Channel] | None, letter: str, values: Array) -> tuple[Channel, ...]:
    count = values.shape[1]
    if given is None:
        return tuple(Channel(letter if count == 1 else f"{letter}{i + 1}") for i in range(count))
    return tuple(c if isinstance(c, Channel) else channel_of(c) for c in given)


def _rounding(t: Array, step: float) -> float:
    """Return to what the times are rounded: to a decimal place, if that is fine beside the step, or to their dtype."""
    single = bool((t.astype(np.float32) == t).all())
    finest = 4 * float(np.finfo(np.float32 if single else np.float64).eps) * float(np.abs(t).max())
    places = range(max(math.ceil(-math.log10(step / 10)), -15), 13)
    for r in (10.0**-k for k in places):
        if r <= finest:
            break
        if (np.abs(t / r - np.round(t / r)) * r <= finest).all():
            return r
    return finest
