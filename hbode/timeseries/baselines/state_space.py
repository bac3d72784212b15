"""Linear state space: a subspace method, then least squares on the simulation error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import cdf2rdf
from scipy.optimize import least_squares

from ..records import Array, DataError, Records, Run, Scaling
from ..scores import simulation_scores
from .linear import LinearSystem, linear_states
from .simulator import Simulator, split_runs

ROUNDING = 1e-9
"""By which the spectral radius of a marginally stable system may exceed 1."""


class LinearStateSpace(Simulator):
    """x⁺ = A x + B u, y = C x + D u + e: the linear model of least simulation error.

    The start is the subspace method PO-MOESP (Verhaegen, Dewilde, Int. J. Control 56, 1992) with B, D and e from a
    linear regression on the simulated output. All matrices are then refined together by Gauss–Newton with a trust
    region on the simulation error; A is kept tridiagonal, which every system without repeated eigenvalues can be made
    (McKelvey, Helmersson, Automatica 1997), and the initial states of the runs are eliminated by projection (Kaufman,
    BIT 15, 1975). Any number of inputs, outputs and runs; missing outputs are left out. On new data the initial state
    is the most likely one: it fits the initial rows within the error of the simulation of the training data, and is
    Gaussian with the covariance of the states there.

    Parameters
    ----------
    orders
        Candidates for the number of states. The one of the least free-run error on the last part of each run is fitted
        again to all rows.
    horizon
        Rows before and after each sample that the subspace method looks at.
    refinements
        Evaluations of the refinement at most; 0 leaves the subspace estimate.
    validation
        How large the last part is, as a fraction.
    initial
        Rows of that part whose outputs are seen.

    Attributes
    ----------
    order_
        What was chosen.
    system_
        The model, standardised.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.signal import lfilter
    >>> from hbode.timeseries import Records
    >>> from hbode.timeseries.baselines import LinearStateSpace
    >>> u = np.random.default_rng(0).normal(size=400)
    >>> records = Records.from_arrays(None, lfilter([0, 1, 0.5], [1, -1.5, 0.7], u), u)
    >>> model = LinearStateSpace(orders=(2,)).fit(records)
    >>> round(model.score(records, initial=10), 6)
    100.0
    """

    def __init__(
        self,
        orders: Sequence[int] = (1, 2, 3, 4, 6, 8),
        horizon: int = 20,
        refinements: int = 30,
        validation: float = 0.25,
        initial: int = 50,
    ) -> None:
        self.orders = orders
        self.horizon = horizon
        self.refinements = refinements
        self.validation = validation
        self.initial = initial

    @property
    def parameters_(self) -> int:
        """The entries of B, C, D and e: a choice of the states' coordinates fixes as many numbers as A has."""
        s = self.system_
        return s.b.size + s.c.size + s.d.size + s.offset.size

    def _fit(self, records: Records) -> None:
        orders = sorted(set(self.orders))
        most = self.horizon * len(records.outputs) - len(records.outputs)
        if not orders or orders[0] < 1 or orders[-1] > most:
            raise ValueError(f"orders must be from 1 to {most} (with horizon={self.horizon}), got {tuple(self.orders)}")
        self.scaling_ = Scaling.fit(records)
        records = self.scaling_.to_standard(records)
        self.order_ = orders[0]
        if len(orders) > 1:
            train, held_out = split_runs(records, 1 - self.validation)
            measured, errors = [run.y for run in held_out], []
            skip = min(self.initial, min(map(len, held_out)) // 2)
            for system in self._systems(train, orders):
                prior = _prior(system, train)
                simulated = [_fitted(system, run.u, run.y[:skip], prior) for run in held_out]
                errors.append(simulation_scores(measured, simulated, skip).joined_rmse)
            self.order_ = orders[int(np.argmin(errors))]
        (self.system_,) = self._systems(records, [self.order_])
        self.prior_ = _prior(self.system_, records)

    def _simulate(self, run: Run, initial: int) -> Array:
        u, y = self.scaling_.inputs.to_standard(run.u), self.scaling_.outputs.to_standard(run.y[:initial])
        return self.scaling_.outputs.from_standard(_fitted(self.system_, u, y, self.prior_))

    def _systems(self, records: Records, orders: Sequence[int]) -> list[LinearSystem]:
        basis = _observability(records, self.horizon)
        starts = [_from_observability(records, basis[:, :n], len(records.outputs)) for n in orders]
        return [_refine(system, records, self.refinements) for system in starts]


def _fitted(system: LinearSystem, u: Array, y: Array, prior: Array) -> Array:
    """Return the simulation from the initial state that suits the first rows, y."""
    return system.outputs(u, system.initial_state(u[: len(y)], y, prior))


def _prior(system: LinearSystem, records: Records) -> Array:
    """Return σ P^{-1/2}, with the simulation error σ of the records and the mean P of x xᵀ over their states."""
    starts = [system.initial_state(run.u, run.y) for run in records]
    states = np.concatenate([system.states(run.u, x0) for run, x0 in zip(records, starts, strict=True)])
    simulated = [system.outputs(run.u, x0) for run, x0 in zip(records, starts, strict=True)]
    sigma = simulation_scores([run.y for run in records], simulated).joined_rmse
    _, values, vectors = np.linalg.svd(states / np.sqrt(len(states)), full_matrices=False)
    return np.asarray(sigma * vectors / np.maximum(values, 1e-12 * values[0])[:, None])


def _observability(records: Records, horizon: int) -> Array:
    """Return a weighted basis of the column space of (C; C A; …; C A^{horizon-1}), the strongest directions first."""
    columns = []
    for run in records:
        if len(run) >= 2 * horizon:
            u, y = (sliding_window_view(x, 2 * horizon, 0).transpose(0, 2, 1) for x in (run.u, run.y))
            parts = np.ones(len(u)), u[:, horizon:], u[:, :horizon], y[:, :horizon], y[:, horizon:]
            columns.append(np.concatenate([x.reshape(len(x), -1) for x in parts], 1))
    data = np.concatenate(columns) if columns else np.empty((0, 1))
    data = data[~np.isnan(data).any(1)]
    if len(data) < data.shape[1] or not columns:
        need = 2 * horizon * (len(records.inputs) + len(records.outputs)) + 1
        raise DataError(
            f"LinearStateSpace with horizon={horizon} needs {need} stretches of {2 * horizon} complete rows, "
            f"got {len(data)}"
        )
    future_u, future_y = horizon * len(records.inputs) + 1, horizon * len(records.outputs)
    # Rows and columns of the lower triangle after a constant and the future inputs: what the past says of the future
    # beyond them.
    lower = np.linalg.qr(data)[1].T
    vectors, values, _ = np.linalg.svd(lower[-future_y:, future_u:-future_y])
    return np.asarray(vectors * np.sqrt(values))


def _from_observability(records: Records, gamma: Array, outputs: int) -> LinearSystem:
    """Return A and C from the shift of the extended observability matrix, the rest by regression."""
    n, inputs = gamma.shape[1], len(records.inputs)
    c = gamma[:outputs]
    a = np.linalg.lstsq(gamma[:-outputs], gamma[outputs:], rcond=None)[0]
    values, vectors = np.linalg.eig(a)
    # Modal coordinates, in which A is tridiagonal; what is unstable is mirrored at the unit circle.
    modulus = np.abs(values)
    real, to_real = cdf2rdf(np.where(modulus > 1, values / np.maximum(modulus, 1) ** 2, values), vectors)
    system = LinearSystem(
        real, np.zeros((n, inputs)), c @ to_real, np.zeros((outputs, inputs)), np.zeros(n), np.zeros(outputs)
    )
    rows, targets = [], []
    for run in records:
        project = _Projection(system, run.y)
        rows.append(project(_by_b(system, run.u), _by_d(run.u, outputs)))
        targets.append(project(run.y[..., None])[:, 0])
    found = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
    b, d, offset = np.split(found, [n * inputs, (n + outputs) * inputs])
    return LinearSystem(real, b.reshape(n, inputs), system.c, d.reshape(outputs, inputs), system.drift, offset)


def _refine(start: LinearSystem, records: Records, evaluations: int) -> LinearSystem:
    """Return the system of least simulation error near `start`, or `start` if there is none."""
    n, (outputs, inputs) = len(start.a), start.d.shape
    band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1
    cuts = np.cumsum([band.sum(), n * inputs, outputs * n, outputs * inputs])

    def system_of(x: Array) -> LinearSystem:
        entries, b, c, d, offset = np.split(x, cuts)
        a = np.zeros((n, n))
        a[band] = entries
        return LinearSystem(
            a, b.reshape(n, inputs), c.reshape(outputs, n), d.reshape(outputs, inputs), start.drift, offset
        )

    def residual(x: Array) -> Array:
        system = system_of(x)
        if system.radius > 1 + ROUNDING:
            return np.full(sum(int((~np.isnan(run.y)).sum()) for run in records), np.inf)  # the step is refused
        errors = []
        for run in records:
            errors.append(_Projection(system, run.y)((system.outputs(run.u, np.zeros(n)) - run.y)[..., None])[:, 0])
        return np.concatenate(errors)

    def jacobian(x: Array) -> Array:
        system, rows = system_of(x), []
        for run in records:
            states = system.states(run.u, system.initial_state(run.u, run.y))
            by_a = _through(system, states)[..., band]
            by_c = np.einsum("jl,ti->tjli", np.eye(outputs), states).reshape(len(run), outputs, -1)
            rows.append(_Projection(system, run.y)(by_a, _by_b(system, run.u), by_c, _by_d(run.u, outputs)))
        return np.concatenate(rows)

    x0 = np.concatenate([start.a[band], start.b.ravel(), start.c.ravel(), start.d.ravel(), start.offset])
    if evaluations < 1 or len(residual(x0)) < len(x0):
        return start
    return system_of(least_squares(residual, x0, jacobian, x_scale="jac", max_nfev=evaluations).x)


class _Projection:
    """Keeps of columns (T, Cy, P) what no initial state can make, at the values that were measured: (known, P)."""

    def __init__(self, system: LinearSystem, y: Array) -> None:
        self.known = ~np.isnan(y)
        self.q = np.linalg.qr(system.free(len(y))[self.known])[0]

    def __call__(self, *columns: Array) -> Array:
        x = np.concatenate([part[self.known] for part in columns], 1)
        return np.asarray(x - self.q @ (self.q.T @ x))


def _through(system: LinearSystem, w: Array) -> Array:
    """Return C (q - A)⁻¹ e_k w_l for each output, state k and column l of w (T, L): shape (T, Cy, n, L).

    One row of C, all k at once: these are the states of the transposed system that w_l drives.
    """
    drive = np.einsum("jk,tl->jltk", system.c, w)
    states = linear_states(system.a.T, drive, np.zeros((*drive.shape[:2], len(system.a))))
    return states.transpose(2, 0, 3, 1)


def _by_b(system: LinearSystem, u: Array) -> Array:
    return _through(system, u).reshape(len(u), len(system.c), -1)


def _by_d(u: Array, outputs: int) -> Array:
    """Return the derivatives of the outputs by D and e."""
    by_d = np.einsum("jl,ti->tjli", np.eye(outputs), u).reshape(len(u), outputs, -1)
    return np.concatenate((by_d, np.broadcast_to(np.eye(outputs), (len(u), outputs, outputs))), 2)
