"""Forecasts from many rows of records whose future is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..records import Array, DataError, Records


def backtest_records(records: Records, first: Sequence[int], initial: int, horizon: int, most: int = 60) -> Records:
    """Return runs of `initial` rows, from which a forecast starts, and `horizon` ones that it is compared with.

    Parameters
    ----------
    first
        Of each run the row from which on rows are forecast.
    most
        Runs in all, about, from rows that are evenly spread.

    Raises
    ------
    DataError
        Where no run has so many rows.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records
    >>> from hbode.timeseries.forecasting import backtest_records
    >>> t = np.arange(50.0)
    >>> records = Records.from_arrays(t, np.sin(t)[:, None], outputs=["x"])
    >>> len(backtest_records(records, [20], initial=10, horizon=5)) > 0
    True
    """
    runs = []
    for run, begin in zip(records, first, strict=True):
        low, high = max(begin - initial, 0), len(run) - initial - horizon
        count = max(most * len(run) // records.total_rows, 1)
        count = max(min(count, high - low + 1), 0)
        starts = np.unique(np.linspace(low, high, count).round().astype(int))
        runs += [run.take(slice(int(start), int(start) + initial + horizon)) for start in starts]
    if not runs:
        raise DataError(f"too few rows: none of the runs has {initial} to forecast from and {horizon} to compare with")
    return replace(records, runs=tuple(runs))


def errors_by_lead(measured: Sequence[Array], forecast: Sequence[Array], initial: int) -> Array:
    """Return root mean square errors (H, Cy) over runs of as many rows, (T, Cy) each, behind the first ones.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries.forecasting import errors_by_lead
    >>> errors_by_lead([np.ones((6, 1))], [np.zeros((6, 1))], 2)
    array([[1.],
           [1.],
           [1.],
           [1.]])
    """
    errors = np.stack([y - x for y, x in zip(measured, forecast, strict=True)])[:, initial:]
    found: Array = np.sqrt(np.nanmean(errors**2, 0))
    return found
