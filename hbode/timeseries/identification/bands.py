"""Bands around simulations: the spread of an ensemble, calibrated on data that no member was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Array

WIDTH = 1.25
"""Errors of leads that differ by less than this factor count together."""


@dataclass(frozen=True, eq=False)
class Bands:
    """Conformal bands, ŷ ± q s(t) with s² = spread² + floor² (Lei et al., JASA 113, 2018, locally weighted).

    Attributes
    ----------
    coverage
        The share of measurements that should lie inside.
    quantile
        q of each output, (Cy,): of |y - ŷ| / s on the calibration data, of order (N + 1) coverage of N. Neighbouring
        errors of a simulation depend on each other: N is how many independent ones say as much (`effective_size`).
    floor
        The root mean square error of each output on the calibration data, (Cy,); or by lead, (L, Cy), where errors grow
        with the number of samples since the last that was seen.
    independent
        The share of the errors that are as good as independent, (Cy,): 1 where they are noise.

    The coverage holds for data like those of calibration.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries.identification import Bands
    >>> Bands(0.9, np.ones(1), np.ones(1), np.ones(1)).coverage
    0.9
    """

    coverage: float
    quantile: Array
    floor: Array
    independent: Array

    @classmethod
    def calibrated(
        cls,
        coverage: float,
        measured: Array,
        center: Array,
        spread: Array,
        repeats: float = 1.0,
        lead: NDArray[np.intp] | None = None,
    ) -> Bands:
        """Return the bands of calibration data (N, Cy) in their order in time; NaN where nothing was measured.

        `repeats` is how often each measurement is among them; with `lead` (N,), from 1 on, the floor grows by lead.
        """
        error = np.abs(measured - center)
        if lead is None:
            floor = of_rows = np.sqrt(np.nanmean(error**2, 0))
        else:
            floor = growing(error, lead)
            of_rows = floor[lead - 1]
        scores = error / np.sqrt(spread**2 + of_rows**2)
        found, independent = [], []
        for column, signed in zip(scores.T, (measured - center).T, strict=True):
            column, signed = (x[np.isfinite(x)] for x in (column, signed))
            independent.append(effective_size(signed) / max(len(signed), 1))
            size = effective_size(column) / repeats
            level = min((size + 1) * coverage / size, 1.0) if len(column) else 1.0
            found.append(np.quantile(column, level, method="higher") if len(column) else np.nan)
        return cls(coverage, np.array(found), floor, np.array(independent))

    def half_width(self, spread: Array, lead: NDArray[Any]) -> Array:
        """Return q s(t), shape (T, Cy), for the spread of an ensemble (T, Cy), so many samples after the last seen."""
        floor = self.floor
        if floor.ndim == 2:
            floor = np.column_stack([np.interp(lead, np.arange(1, len(floor) + 1), column) for column in floor.T])
        width: Array = self.quantile * np.sqrt(spread**2 + floor**2)
        return width

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        arrays = {name: getattr(self, name).tolist() for name in ("quantile", "floor", "independent")}
        return {"coverage": self.coverage, **arrays}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Bands:
        """Return the bands that `as_json` wrote."""
        return cls(float(found["coverage"]), *(np.array(found[name]) for name in ("quantile", "floor", "independent")))


@dataclass(frozen=True, eq=False)
class Simulated:
    """Free runs in physical units, one array an entry of each list: centre, and half the width of the bands (T, Cy).

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries.identification import Simulated
    >>> len(Simulated([np.zeros((3, 1))], [np.ones((3, 1))], [np.zeros((2, 3, 1))]).y)
    1
    """

    y: list[Array]
    half_width: list[Array]
    members: list[Array]
    """Each (M, T, Cy)."""


def growing(error: Array, lead: NDArray[np.intp]) -> Array:
    """Return root mean square errors by lead, (L, Cy), of errors (N, Cy): over leads of like length, not decreasing."""
    known = ~np.isnan(error)
    sums = np.zeros((2, int(lead.max()) + 1, error.shape[1]))
    np.add.at(sums[0], lead, np.where(known, error**2, 0.0))
    np.add.at(sums[1], lead, known)
    squares, count = sums.cumsum(1)
    at = np.arange(1, len(count))
    low, high = np.maximum(at / WIDTH, 1).astype(int), np.minimum(np.ceil(at * WIDTH).astype(int), at[-1])
    mean = (squares[high] - squares[low - 1]) / np.maximum(count[high] - count[low - 1], 1)
    grown: Array = np.sqrt(np.maximum.accumulate(mean, 0))
    return grown


def effective_size(x: Array) -> float:
    """Return how many independent values have a mean as sure as that of a series (N,): N / (1 + 2 Σ ρ_k).

    The sum ends where two neighbouring autocorrelations ρ are not positive together (Geyer, Statistical Science 7,
    1992, the initial positive sequence).
    """
    n = len(x)
    power = np.abs(np.fft.rfft(x - x.mean(), 2 * n)) ** 2 if n else np.zeros(1)
    covariance = np.fft.irfft(power)[:n]
    if n < 2 or covariance[0] <= 0:
        return float(max(n, 1))
    pairs = (covariance[: n // 2 * 2].reshape(-1, 2) / covariance[0]).sum(1)
    last = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    return float(n / max(2 * pairs[:last].sum() - 1, 1.0))
