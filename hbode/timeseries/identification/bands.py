"""Bands around simulations: the spread of an ensemble, calibrated on data that no member was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..records import Array


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
        The root mean square error of each output on the calibration data, (Cy,).

    The coverage holds for data like those of calibration.
    """

    coverage: float
    quantile: Array
    floor: Array

    @classmethod
    def calibrated(cls, coverage: float, measured: Array, center: Array, spread: Array, repeats: float = 1.0) -> Bands:
        """Return the bands of calibration data (N, Cy) in their order in time; NaN where nothing was measured.

        `repeats` is how often each measurement is among them.
        """
        error = np.abs(measured - center)
        floor = np.sqrt(np.nanmean(error**2, 0))
        scores = error / np.sqrt(spread**2 + floor**2)
        found = []
        for column in scores.T:
            column = column[np.isfinite(column)]
            size = effective_size(column) / repeats
            level = min((size + 1) * coverage / size, 1.0) if len(column) else 1.0
            found.append(np.quantile(column, level, method="higher") if len(column) else np.nan)
        return cls(coverage, np.array(found), floor)

    def half_width(self, spread: Array) -> Array:
        """Return q s(t), shape (T, Cy), for the spread of an ensemble (T, Cy)."""
        width: Array = self.quantile * np.sqrt(spread**2 + self.floor**2)
        return width

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"coverage": self.coverage, "quantile": self.quantile.tolist(), "floor": self.floor.tolist()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Bands:
        """Return the bands that `as_json` wrote."""
        return cls(float(found["coverage"]), np.array(found["quantile"]), np.array(found["floor"]))


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
