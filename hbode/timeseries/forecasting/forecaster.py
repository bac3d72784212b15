"""`HeavyBallForecaster`: from records, irregular and with gaps, to forecasts and interpolations with bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..identification import SystemIdentifier
from ..identification.held_out import Cut, from_many_rows
from ..identification.runs.simulation import smoothed
from ..identification.runs.stretches import stretches
from ..records import Array, Records, Run
from .forecasts import Forecast, Forecaster


class HeavyBallForecaster(SystemIdentifier, Forecaster):
    """Forecast records that nothing is known to drive, or that are driven by inputs which are known ahead.

    A state-space model, h'' = f(h, h') or with inputs f(h, h', u), is identified as `SystemIdentifier` does it, with
    the same parameters and attributes. A forecast estimates the state from the last `initial` rows of a run and
    simulates on from there; an interpolation estimates it from the rows on both sides. Rows may be at any times, and
    values may be missing. The bands grow with the lead, as errors of forecasts did in rows that were held out.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import HeavyBallForecaster, Records
    >>> t = np.arange(300) / 10
    >>> records = Records.from_arrays(t, np.exp(-t / 20) * np.sin(2 * t))
    >>> model = HeavyBallForecaster("hbnode", degree=1, hidden=0, initial=20, seeds=1).fit(records)
    >>> (forecast,) = model.forecast(records, horizon=30)
    >>> forecast.y.shape, bool(abs(forecast.y[:, 0] - np.exp(-forecast.t / 20) * np.sin(2 * forecast.t)).max() < 1e-3)
    ((30, 1), True)
    """

    needs_inputs = False
    _by_lead = True

    def interpolate(self, records: Records, times: Array | Sequence[float] | None = None) -> list[Forecast]:
        """Fill in what was not measured, from the rows on both sides.

        Parameters
        ----------
        records
            With the channels of training.
        times
            (H,), increasing, in the unit of the records, within all runs. Default: those of all rows, measured or not.
        """
        self._check_simulation(records, min(self.initial, min(map(len, records))))
        found = []
        for run in records:
            t = run.t if times is None else np.asarray(times, np.float64)
            row = np.searchsorted(run.t, t - 1e-6 * records.median_step).clip(max=len(run) - 1)
            t = np.where(np.abs(run.t[row] - t) <= 1e-6 * records.median_step, run.t[row], t)  # a row, but for rounding
            if t.ndim != 1 or not (np.diff(t) > 0).all() or not run.t[0] <= t[0] <= t[-1] <= run.t[-1]:
                raise ValueError(f"times must increase within {run.t[0]:g} and {run.t[-1]:g}, those of the run")
            every = np.union1d(run.t, t)
            blank = Run(every, np.empty((len(every), 0)), np.empty((len(every), 0)), run.name)
            every = blank.filled(self.longest_ * self.scaling_.time_unit)[0].t
            at, asked = np.searchsorted(every, run.t), np.searchsorted(every, t)
            y, u = (np.full((len(every), x.shape[1]), np.nan) for x in (run.y, run.u))
            y[at], u[at] = run.y, run.u
            whole = self.scaling_.to_standard(replace(records, runs=(Run(every, y, u, run.name),)))
            made = np.empty((len(self.members_), *y.shape))
            # windows of 2 initial rows that were measured, the middle half of each counts
            for first in range(0, len(at), self.initial):
                window = slice(
                    at[max(first - self.initial // 2, 0)], at[min(first + 3 * self.initial // 2, len(at) - 1)] + 1
                )
                rows = slice(at[first], at[first + self.initial] if first + self.initial < len(at) else len(every))
                given = stretches(replace(whole, runs=(whole[0].take(window),)), None, self.law_.between)
                inner = slice(rows.start - window.start, rows.stop - window.start)
                for member, model in enumerate(self.members_):
                    made[member, rows] = smoothed(model, given, [given.y.shape[1]])[0][inner]
            known = run.t[~np.isnan(run.y).all(1)]
            after = np.searchsorted(known, t).clip(1, len(known) - 1)
            lead = np.minimum(np.abs(t - known[after - 1]), np.abs(known[after] - t)) / records.median_step
            found.append(self._with_bands(t, self.scaling_.outputs.from_standard(made[:, asked]), lead))
        return found

    def _cut(self, in_blocks: bool) -> Cut:
        """Return how validation runs are cut: forecasts from many rows."""
        return from_many_rows(self.stretch)
