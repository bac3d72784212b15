"""One recorded run, the channels it is made of, and what is wrong with data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 20_000_000
"""Rows of a run whose gaps are filled."""
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class DataError(ValueError):
    """Data that cannot be used, with a message of one line that says why and where.

    Examples
    --------
    >>> from hbode.timeseries import DataError, read_records
    >>> try:
    ...     read_records("nothing.csv")
    ... except DataError as error:
    ...     print(error)
    nothing.csv: no such file
    """


@dataclass(frozen=True)
class Channel:
    """A measured quantity; an empty unit is an unknown one.

    Examples
    --------
    >>> from hbode.timeseries import Channel
    >>> Channel("x", "mm").unit
    'mm'
    """

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

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Run
    >>> len(Run(np.arange(3.0), np.zeros((3, 1)), np.zeros((3, 0))))
    3
    """

    t: Array
    y: Array
    u: Array
    name: str = ""

    def __post_init__(self) -> None:
        where = f"run {self.name!r}: " if self.name else ""
        if self.t.ndim != 1 or any(x.ndim != 2 or len(x) != len(self.t) for x in (self.y, self.u)):
            shapes = ", ".join(str(x.shape) for x in (self.t, self.y, self.u))
            raise DataError(f"{where}t, y and u must have shapes (T,), (T, Cy) and (T, Cu), got {shapes}")
        if not len(self.t):
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

    def filled(self, longest: float) -> tuple[Run, NDArray[np.intp]]:
        """Return the run with blank rows where more time than `longest` passes, and the places of its own rows.

        Raises
        ------
        DataError
            For more than `MOST` rows.
        """
        parts = np.maximum(np.ceil(np.diff(self.t) / longest * (1 - 1e-9)), 1)
        if parts.sum() >= MOST:
            raise DataError(
                f"run {self.name!r}: {self.t[-1] - self.t[0]:.6g} is too long, {parts.sum():.3g} steps of {longest:.3g}"
            )
        rows = np.append(0, parts.astype(np.intp).cumsum())
        y, u = (np.full((rows[-1] + 1, x.shape[1]), np.nan) for x in (self.y, self.u))
        t = np.interp(np.arange(rows[-1] + 1), rows, self.t)
        t[rows], y[rows], u[rows] = self.t, self.y, self.u
        return Run(t, y, u, self.name), rows

    def take(self, rows: slice | NDArray[np.intp], name: str | None = None) -> Run:
        """Return some of the rows, in their order."""
        return Run(self.t[rows], self.y[rows], self.u[rows], self.name if name is None else name)


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
