"""Runs, windows and channels of records as vectors whose distances are those of paths or of spectra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..timeseries.records import DataError, Records, Run
from .rotations import Array

OF = ("runs", "channels")
BY = ("path", "spectrum")


def windows(records: Records, rows: int, step: int | None = None) -> Records:
    """Cut runs into windows of so many rows, one every `step` rows (default: `rows`); rows left at an end are dropped.

    Raises
    ------
    ValueError
        For less than two rows, a step of less than one, and runs that are all shorter than a window.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import windows
    >>> from hbode.timeseries import Records
    >>> [run.t.tolist() for run in windows(Records.from_arrays(None, np.zeros(7)), rows=3, step=2)]
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]
    """
    every = rows if step is None else step
    if rows < 2:
        raise ValueError(f"rows must be at least 2, got {rows}")
    if every < 1:
        raise ValueError(f"step must be at least 1, got {every}")
    cut = tuple(
        run.take(slice(start, start + rows), f"{run.name}/{i}" if run.name else str(i))
        for run in records
        for i, start in enumerate(range(0, len(run) - rows + 1, every))
    )
    if not cut:
        raise ValueError(f"rows must be at most those of the longest run, {max(map(len, records))}, got {rows}")
    return replace(records, runs=cut)


def trajectory_features(records: Records, of: str = "runs", by: str = "path") -> Array:
    """Return runs or channels as vectors, shape (n, m), for `KernelTreelets` and whatever takes points.

    All channels are standardised by mean and deviation over all runs, and interpolated to equidistant times from the
    start of each run on: as long as the shortest run, and as many as the fewest rows of a run. The Euclidean distance
    of two vectors is then the root mean square difference of the paths over time and channels, or over time and runs.

    Parameters
    ----------
    records
        `records.select` chooses channels; `windows` cuts a long run into windows.
    of
        "runs"; "channels", inputs and then outputs. With ``kernel="linear"`` these are compared by their correlation,
        of either sign.
    by
        "path"; "spectrum": amplitudes of frequencies, of each run without its mean under a Hann window, so that phases
        and the time at which something happens do not matter. By Parseval's theorem they have the mean square of the
        path.

    Raises
    ------
    ValueError
        For other words than these, and as a `DataError` for runs of one row and channels that are measured at less than
        two times of a run.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import KernelTreelets, trajectory_features
    >>> from hbode.timeseries import Records
    >>> t = np.linspace(0, 10, 100)
    >>> runs = [np.sin(rate * t + phase) for rate in (2, 5) for phase in range(4)]
    >>> x = trajectory_features(Records.from_arrays([t] * 8, runs), by="spectrum")
    >>> KernelTreelets(n_clusters=2).fit_predict(x).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    for name, value, allowed in (("of", of, OF), ("by", by, BY)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if min(map(len, records)) < 2:
        raise DataError("trajectories need runs of at least two rows")
    duration = min(float(run.t[-1] - run.t[0]) for run in records)
    grid = np.linspace(0.0, duration, min(map(len, records)))
    values = [np.concatenate((run.u, run.y), 1) for run in records]
    together = np.concatenate(values)
    mean, deviation = np.nanmean(together, 0), np.nanstd(together, 0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    paths = np.stack(
        [_path(records, run, (x - mean) / deviation, grid) for run, x in zip(records, values, strict=True)]
    )  # (runs, channels, times)
    found = _amplitudes(paths) if by == "spectrum" else paths
    found = found if of == "runs" else found.swapaxes(0, 1)
    return np.asarray(found.reshape(len(found), -1) / np.sqrt(len(grid) * found.shape[1]))


def _path(records: Records, run: Run, x: Array, grid: Array) -> Array:
    """Return channels (C, times) at the times of `grid` after the start of a run, through the values that are there."""
    rows = np.empty((x.shape[1], len(grid)))
    for i, channel in enumerate(records.channels):
        there = ~np.isnan(x[:, i])
        if there.sum() < 2:
            raise DataError(f"run {run.name!r}: {channel.name!r} is measured at less than two times")
        rows[i] = np.interp(run.t[0] + grid, run.t[there], x[there, i])
    return rows


def _amplitudes(paths: Array) -> Array:
    """Return amplitudes over frequencies, whose sum of squares is that of the path in the mean over phases."""
    length = paths.shape[-1]
    window = np.hanning(length + 2)[1:-1]  # two rows are not all zero under it
    window *= np.sqrt(length / np.square(window).sum())
    spectrum = np.abs(np.fft.rfft((paths - paths.mean(-1, keepdims=True)) * window))
    twice = np.full(spectrum.shape[-1], 2.0)  # frequencies stand for their negatives too
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    return np.asarray(spectrum * np.sqrt(twice / length))
