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
        q of each output, (Cy,): of |y - ŷ| / s on the calibration data, of order ⌈(N + 1) coverage⌉.
    floor
        The root mean square error of each output on the calibration data, (Cy,).

    Neighbouring errors of a simulation depend on each other: the coverage holds for data like those of calibration.
    """

    coverage: float
    quantile: Array
    floor: Array

    @classmethod
    def calibrated(cls, coverage: float, measured: Array, center: Array, spread: Array) -> Bands:
        """Return the bands of calibration data (N, Cy); NaN where nothing was measured."""
        error = np.abs(measured - center)
        floor = np.sqrt(np.nanmean(error**2, 0))
        scores = error / np.sqrt(spread**2 + floor**2)
        found = []
        for column in scores.T:
            column = np.sort(column[np.isfinite(column)])
            order = min(int(np.ceil((len(column) + 1) * coverage)), len(column))
            found.append(column[order - 1] if len(column) else np.nan)
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
