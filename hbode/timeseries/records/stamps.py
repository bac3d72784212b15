"""Which columns are times, and what their stamps mean: dates, epoch numbers, elapsed time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ...lazy import optional
from .run import Array, Channel, DataError, channel_of

if TYPE_CHECKING:
    import pandas as pd

NAME = re.compile(r"(t|time|timestamps?|date|datetime|date_time)(?:_(s|sec|ms|us|µs|ns|min|h))?", re.IGNORECASE)
SECONDS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of the units in which epochs are counted."""
SPELLED = {"sec": "s", "seconds": "s", "µs": "us", "μs": "us"}
EPOCH = (10**9, 4 * 10**9)
"""Seconds since 1970 from 2001 to 2096: the four units do not overlap, nor do dates written as numbers fall in."""


def could_be_times(name: str, column: pd.Series) -> bool:
    """Return whether a column is called like times, or holds dates."""
    return bool(NAME.fullmatch(channel_of(name).name)) or column.dtype.kind == "M"


def times_of(channel: Channel, column: pd.Series, where: Callable[[int], str]) -> tuple[Array, str, str | None, str]:
    """Return times in float64, their unit, the date of t = 0 if there is one, and a note on what was found.

    Raises
    ------
    DataError
        For missing stamps, text other than ISO 8601, and numbers of an unknown unit.
    """
    pandas = optional("pandas")
    name = channel.name
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise DataError(f"column {name!r}, {where(int(missing[0]))}: the time is missing")
    if column.dtype.kind not in "Mmiuf":
        column = _dates(name, column, where)
    if column.dtype.kind == "m":
        return column.dt.total_seconds().to_numpy(np.float64), "s", None, ""
    if column.dtype.kind == "M":
        first = column.min()
        ticks = (column - first).to_numpy().astype("timedelta64[ns]").astype(np.int64)
        return ticks / 1e9, "s", first.isoformat(), f"{name!r} holds dates: seconds since the first"
    match = NAME.fullmatch(name)
    named = channel.unit or (match[2] if match and match[2] else "")
    unit = SPELLED.get(named.lower(), named)
    values = column.to_numpy()
    low, high = values.min(), values.max()
    for tick in [unit] if unit else SECONDS:
        scale = SECONDS.get(tick, 0)
        if scale and EPOCH[0] * scale <= low and high < EPOCH[1] * scale:
            # The difference of whole ticks is exact.
            date = pandas.Timestamp(low, unit=tick, tz="UTC").isoformat()
            return (values - low) / scale, "s", date, f"{name!r} counts {tick} since 1970: seconds since the first"
    if unit:
        return values.astype(np.float64), unit, None, ""
    if not match or match[1].lower() in ("t", "time"):
        note = f"{name!r} names no unit: taken as s; call it {name + ' [ms]'!r} if it is another"
        return values.astype(np.float64), "s", None, note
    raise DataError(
        f"column {name!r} holds numbers that are no time stamps since 1970 (from {low:.12g}), and names no unit; "
        f"call it {name + ' [s]'!r}, for example"
    )


def _dates(name: str, column: pd.Series, where: Callable[[int], str]) -> pd.Series:
    """Return ISO 8601 text, or objects that are dates, as dates."""
    pandas = optional("pandas")
    text = column.astype(str)
    zoned = text.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).to_numpy()
    odd = np.flatnonzero(zoned != zoned[0])
    if len(odd):
        raise DataError(f"column {name!r}, {where(int(odd[0]))}: some times name their zone and others do not")
    dates = pandas.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(zoned[0]))
    bad = np.flatnonzero(dates.isna())
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"column {name!r}, {where(row)}: {text.iloc[row]!r} is no number and no date such as 2026-03-01T12:00:00.5"
        )
    return dates
