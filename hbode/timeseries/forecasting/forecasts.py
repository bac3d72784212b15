"""What all forecasters do: `Forecast`, and how records are asked for one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...setup.arguments import check_at_least
from ..baselines import Simulator
from ..identification import Bands
from ..records import Array, DataError, Records, Run


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is said of one run, in the units of the records, at times t (H,): y (H, Cy) ± half_width, `coverage` of it.

    Attributes
    ----------
    members
        Of each model of the ensemble, or each path that was drawn, (M, H, Cy).

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries.forecasting import Forecast
    >>> Forecast(np.arange(3.0), np.zeros((3, 1)), np.ones((3, 1)), np.zeros((2, 3, 1))).y.shape
    (3, 1)
    """

    t: Array
    y: Array
    half_width: Array
    members: Array


class Forecaster(Simulator):
    """A model that goes on from the last `initial` rows of a run.

    A subclass writes `_of_members`, and calibrates `bands_` when it is fitted.

    Examples
    --------
    >>> from hbode.timeseries.forecasting import Forecaster, HeavyBallForecaster
    >>> issubclass(HeavyBallForecaster, Forecaster)
    True
    """

    initial: int
    bands_: Bands

    def forecast(
        self,
        records: Records,
        horizon: int | None = None,
        *,
        times: Array | Sequence[float] | None = None,
        ahead: Records | None = None,
    ) -> list[Forecast]:
        """Forecast each run from its last `initial` rows.

        Parameters
        ----------
        records
            With the channels of training.
        horizon
            So many rows, the median step of the records apart.
        times
            Or these times, (H,), increasing, in the unit of the records, behind the end of all runs.
        ahead
            Or the rows of these records, as many runs, with the inputs that are known ahead; their outputs are not
            looked at. A model with inputs needs them.

        Raises
        ------
        DataError, ValueError
            Unless just one of the three is given; for times that are not behind the end; for other channels than those
            of training, and for runs that are too short.
        """
        self._check_simulation(records, min(self.initial, min(map(len, records))))
        if sum(x is not None for x in (horizon, times, ahead)) != 1:
            raise ValueError("give just one of horizon, times and ahead")
        if ahead is None and self.inputs_:
            raise ValueError(f"ahead must give the inputs {', '.join(map(str, self.inputs_))}, got None")
        if ahead is not None and (ahead.inputs != self.inputs_ or len(ahead) != len(records)):
            raise DataError(f"ahead must have the inputs of training and {len(records)} runs")
        check_at_least(horizon=horizon)
        found = []
        for number, run in enumerate(records):
            if ahead is not None:
                t, u = ahead[number].t, ahead[number].u
            else:
                t = run.t[-1] + records.median_step * np.arange(1, 1 + (horizon or 0))
                t = t if times is None else np.asarray(times, np.float64)
                u = np.empty((len(t), 0))
            if t.ndim != 1 or not len(t) or not (np.diff(t, prepend=run.t[-1]) > 0).all():
                raise ValueError(f"times must increase from behind the end of run {run.name or number}, {run.t[-1]:g}")
            last = run.take(slice(-self.initial, None))
            for channel, known in zip(self.outputs_, last.y_mask.sum(0), strict=True):
                if known < 2:
                    raise DataError(
                        f"column {channel.name!r} has {known} values in the last {len(last)} rows of run "
                        f"{run.name or number}, from which it is forecast; it needs 2 at least"
                    )
            joined = Run(
                np.append(last.t, t),
                np.pad(last.y, ((0, len(t)), (0, 0)), constant_values=np.nan),
                np.concatenate((last.u, u)),
                run.name,
            )
            (members,) = self._of_members(replace(records, runs=(joined,)), len(last))
            found.append(self._with_bands(t, members[:, len(last) :], (t - run.t[-1]) / records.median_step))
        return found

    @abstractmethod
    def _of_members(self, records: Records, initial: int) -> list[Array]:
        """Return what each member makes of all rows of each run, (M, T, Cy), from its first `initial` rows."""

    def _with_bands(self, t: Array, members: Array, lead: Array) -> Forecast:
        """Return the forecast at times (H,), so many samples ahead, of members (M, H, Cy)."""
        return Forecast(t, members.mean(0), self._half_width(members, lead), members)

    def _half_width(self, members: Array, lead: Array) -> Array:
        """Return that of the bands, (H, Cy)."""
        return self.bands_.half_width(members.std(0), lead)
