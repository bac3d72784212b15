"""A recorded series: times, channels, names, units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .records import Array, DataError


@dataclass(frozen=True)
class Series:
    """A multichannel record.

    Attributes
    ----------
    t
        Times, shape (N,), strictly increasing, float64, in `time_unit`.
    values
        Shape (N, C), float64, finite, in the units of `units`.
    names, units
        One entry a channel; an empty unit is an unknown one.
    time_unit
        "s", or "sample" where the record says nothing about time.
    source
        Where the record comes from, for the reader of a report.
    """

    t: Array
    values: Array
    names: tuple[str, ...]
    units: tuple[str, ...]
    time_unit: str
    source: str

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.t.shape != self.values.shape[:1]:
            raise DataError(f"times {self.t.shape} and values {self.values.shape} do not fit together")
        if not len(self.names) == len(self.units) == self.values.shape[1]:
            raise DataError(f"{self.values.shape[1]} channels need as many names and units")
        if not np.isfinite(self.t).all() or not np.isfinite(self.values).all():
            raise DataError("times and values must be finite")
        if not (np.diff(self.t) > 0).all():
            raise DataError("times must increase from row to row")

    def label(self, channel: int) -> str:
        """Return the name of a channel with its unit."""
        unit = self.units[channel]
        return f"{self.names[channel]} ({unit})" if unit else self.names[channel]
