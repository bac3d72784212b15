"""Smoothed derivatives of what was measured, and the unit of time in which they have unit size."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import savgol_filter

from ...records import Array, Records, Run
from ...records.sampling import common_step


def derivatives(run: Run, window: int) -> tuple[Array, Array, Array, Array]:
    """Return y, y', y'' (N, Cy) by local cubics over so many samples, and u (N, Cu), where nothing is missing.

    Savitzky and Golay, Analytical Chemistry 36, 1964, whose weights are of equal steps; other steps have their own.
    """
    edge = window // 2
    if len(run) <= 2 * edge + 1:
        return (np.empty((0, run.y.shape[1])),) * 3 + (np.empty((0, run.u.shape[1])),)
    step = common_step([run.t])
    if step is None:
        parts = list(_local_cubics(run, window))
    else:
        parts = [
            savgol_filter(run.y, window, 3, deriv=k, delta=step, axis=0, mode="nearest")[edge:-edge] for k in range(3)
        ]
    u = run.u[edge:-edge]
    whole = np.isfinite(np.concatenate([*parts, u], 1)).all(1)
    return parts[0][whole], parts[1][whole], parts[2][whole], u[whole]


def _local_cubics(run: Run, window: int) -> Array:
    """Return y, y', y'' (3, N, Cy) in the middle of each window of the rows, by least squares at their times."""
    t = sliding_window_view(run.t, window) - run.t[window // 2 : len(run) - window // 2, None]
    reach = np.abs(t).max(1, keepdims=True)
    powers = (t / reach)[..., None] ** np.arange(4)
    y = sliding_window_view(run.y, window, 0).transpose(0, 2, 1)
    # Unit reach: the matrices have a condition of at most some hundreds unless nearly all times coincide.
    found = np.linalg.solve(powers.mT @ powers + 1e-12 * np.eye(4), powers.mT @ y)
    scales = np.stack((np.ones_like(reach), 1 / reach, 2 / reach**2))
    made: Array = found[:, :3].transpose(1, 0, 2) * scales
    return made


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
