"""Smoothed derivatives of what was measured, and the unit of time in which they have unit size."""

from __future__ import annotations

import numpy as np
from scipy.signal import savgol_filter

from ..records import Array, Records, Run


def derivatives(run: Run, window: int) -> tuple[Array, Array, Array, Array]:
    """Return y, y', y'' (N, Cy) by local cubics over so many samples, and u (N, Cu), where nothing is missing.

    Savitzky and Golay, Analytical Chemistry 36, 1964. Times are taken as equally spaced.
    """
    edge = window // 2
    if len(run) <= 2 * edge + 1:
        return (np.empty((0, run.y.shape[1])),) * 3 + (np.empty((0, run.u.shape[1])),)
    step = float(np.median(np.diff(run.t)))
    parts = [savgol_filter(run.y, window, 3, deriv=k, delta=step, axis=0, mode="nearest")[edge:-edge] for k in range(3)]
    u = run.u[edge:-edge]
    whole = np.isfinite(np.concatenate([*parts, u], 1)).all(1)
    return parts[0][whole], parts[1][whole], parts[2][whole], u[whole]


def unit_of_time(records: Records, window: int = 5) -> float:
    """Return τ, in which the derivatives of the standardised outputs have unit size: the least over the outputs.

    The normalisation of Beintema, Schoukens and Tóth (2022).
    """
    found = [derivatives(run, window) for run in records]
    y, slopes = (np.concatenate([parts[k] for parts in found]) for k in (0, 1))
    if len(y) < 3:
        return float(records.median_step)
    rates = slopes.std(0) / y.std(0)
    return float(1.0 / rates[rates > 0].max()) if (rates > 0).any() else float(records.median_step)
