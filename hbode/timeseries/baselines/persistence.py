"""The simplest simulators: nothing changes."""

from __future__ import annotations

import numpy as np

from ..records import Array, DataError, Records, Run
from .simulator import Simulator


class Persistence(Simulator):
    """Outputs stay as they were last seen, or at their mean in the training data; inputs are not looked at.

    Parameters
    ----------
    hold
        ``"last"``: each output at its last known value of the initial rows. ``"mean"``: at the mean, which is the
        naive guess for a driven system. An output that was not seen is at its mean.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records
    >>> from hbode.timeseries.baselines import Persistence
    >>> records = Records.from_arrays(None, np.array([1.0, 2.0, 6.0]))
    >>> Persistence().fit(records).simulate(records, initial=2)[0].ravel()
    array([1., 2., 2.])
    """

    needs_inputs = False
    takes_missing_inputs = True
    needs_common_step = False

    def __init__(self, hold: str = "last") -> None:
        self.hold = hold

    @property
    def parameters_(self) -> int:
        return len(self.mean_)

    def _fit(self, records: Records) -> None:
        if self.hold not in ("last", "mean"):
            raise ValueError(f"hold must be 'last' or 'mean', got {self.hold!r}")
        y = np.concatenate([run.y for run in records])
        empty = np.flatnonzero(np.isnan(y).all(0))
        if len(empty):
            raise DataError(f"column {records.outputs[empty[0]].name!r} has no value in the training rows")
        self.mean_: Array = np.nanmean(y, 0)

    def _simulate(self, run: Run, initial: int) -> Array:
        held = self.mean_.copy()
        if self.hold == "last":
            for j, known in enumerate(run.y_mask.T):
                held[j] = run.y[np.flatnonzero(known)[-1], j] if known.any() else held[j]
        return np.tile(held, (len(run), 1))
