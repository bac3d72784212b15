"""Linear autoregression with inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..records import Array, DataError, Records, Run, Scaling
from ..scores import simulation_scores
from .linear import LinearSystem
from .simulator import Simulator, split_runs


class LinearARX(Simulator):
    """y_k = Σ_{i=1..p} A_i y_{k-i} + Σ_{i=0..p} B_i u_{k-i} + e, fitted by least squares and simulated in free run.

    Any number of inputs and outputs; rows of the regression with a missing value are left out.

    Parameters
    ----------
    orders
        Candidates for p. The one of the least free-run error on the last part of each run is fitted again to all rows.
    validation
        How large that part is, as a fraction.

    Attributes
    ----------
    order_
        What was chosen.
    system_
        The model as a state space of lagged outputs and inputs, standardised.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.signal import lfilter
    >>> from hbode.timeseries import Records
    >>> from hbode.timeseries.baselines import LinearARX
    >>> u = np.random.default_rng(0).normal(size=200)
    >>> records = Records.from_arrays(None, lfilter([0, 1], [1, -0.9], u), u)
    >>> model = LinearARX(orders=(1, 2)).fit(records)
    >>> round(model.score(records, initial=2), 6)
    100.0
    """

    needs_inputs = False

    def __init__(self, orders: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16), validation: float = 0.25) -> None:
        self.orders = orders
        self.validation = validation

    @property
    def parameters_(self) -> int:
        """The entries of A_i, B_i and e."""
        outputs, inputs = self.system_.d.shape
        return int(outputs * (self.order_ * (outputs + inputs) + inputs + 1))

    def _fit(self, records: Records) -> None:
        orders = sorted(set(self.orders))
        if not orders or orders[0] < 1:
            raise ValueError(f"orders must be positive, got {tuple(self.orders)}")
        self.scaling_ = Scaling.fit(records)
        records = self.scaling_.to_standard(records)
        self.order_ = orders[0]
        if len(orders) > 1:
            train, held_out = split_runs(records, 1 - self.validation)
            errors = [_free_run_error(_regress(train, p), held_out, p, orders[-1]) for p in orders]
            if not np.isfinite(min(errors)):
                raise DataError(
                    f"no LinearARX of the orders {tuple(orders)} has a finite simulation on the validation part; "
                    f"it needs {orders[-1]} complete rows in one piece at its start"
                )
            self.order_ = orders[int(np.argmin(errors))]
        self.system_ = _regress(records, self.order_)

    def _simulate(self, run: Run, initial: int) -> Array:
        y = self.scaling_.outputs.to_standard(run.y)
        u = self.scaling_.inputs.to_standard(run.u)
        lags = y[initial - self.order_ : initial] if initial >= self.order_ else y[:0]
        if not len(lags) or np.isnan(lags).any():
            raise DataError(
                f"LinearARX of order {self.order_} needs as many complete rows at the end of the initial ones, "
                f"got initial={initial} and {int(np.isnan(lags).sum())} missing values; limit orders="
            )
        return self.scaling_.outputs.from_standard(_continue(self.system_, y, u, self.order_, initial))


def _regress(records: Records, p: int) -> LinearSystem:
    """Fit order p by least squares and return it in the states (y_{k-1}, …, y_{k-p}, u_{k-1}, …, u_{k-p})."""
    cy, cu = len(records.outputs), len(records.inputs)
    rows, targets = [np.empty((0, (cy + cu) * p + cu + 1))], [np.empty((0, cy))]
    for run in records:
        if len(run) > p:
            lags = [sliding_window_view(x[:-1], p, 0)[:, :, ::-1].transpose(0, 2, 1) for x in (run.y, run.u)]
            now = len(run) - p
            rows.append(np.concatenate([*(x.reshape(now, -1) for x in lags), run.u[p:], np.ones((now, 1))], 1))
            targets.append(run.y[p:])
    x, y = np.concatenate(rows), np.concatenate(targets)
    whole = ~np.isnan(np.concatenate((x, y), 1)).any(1)
    if whole.sum() <= x.shape[1]:
        raise DataError(f"LinearARX of order {p} has {x.shape[1]} unknowns, and {int(whole.sum())} complete rows")
    found: Array = np.asarray(np.linalg.lstsq(x[whole], y[whole], rcond=None)[0].T, np.float64)
    n = (cy + cu) * p
    a = np.zeros((n, n))
    a[:cy] = found[:, :n]
    for start, width in ((0, cy), (cy * p, cu)):
        older = np.arange(width * (p - 1)) + start
        a[older + width, older] = 1
    b = np.zeros((n, cu))
    b[:cy] = found[:, n : n + cu]
    b[cy * p : cy * p + cu] = np.eye(cu)
    drift = np.zeros(n)
    drift[:cy] = found[:, -1]
    return LinearSystem(a, b, found[:, :n], found[:, n : n + cu], drift, found[:, -1])


def _continue(system: LinearSystem, y: Array, u: Array, p: int, start: int) -> Array:
    """Return outputs (T, Cy) that are simulated from row `start` on, from the p rows before it; before, 0, the mean."""
    lags = [x[start - p : start][::-1].ravel() for x in (y, u)]
    simulated = system.outputs(u[start:], np.concatenate(lags))
    return np.concatenate((np.zeros((start, y.shape[1])), simulated))


def _free_run_error(system: LinearSystem, records: Records, p: int, longest: int) -> float:
    """Return the root mean square error, simulated from the first rows of which the `longest` before are complete."""
    measured, simulated = [], []
    for run in records:
        whole = np.convolve(~np.isnan(run.y).any(1), np.ones(longest), "valid")[:-1] == longest
        if whole.any():
            start = int(np.argmax(whole)) + longest
            measured.append(run.y[start:])
            with np.errstate(over="ignore", invalid="ignore"):
                simulated.append(_continue(system, run.y, run.u, p, start)[start:])
    return simulation_scores(measured, simulated).joined_rmse if measured else np.inf
