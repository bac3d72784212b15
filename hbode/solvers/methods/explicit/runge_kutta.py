"""Explicit Runge-Kutta methods for y' = f(t, y)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...field import Field
from ...linear import Sums, along, combine_rows, expand, lift, powers, stage_times
from ...method import Carry, Uniform
from ...precision import kept_tensors
from .stiffness import probe
from .tableau import ButcherTableau


class RungeKuttaWeights(NamedTuple):
    """A tableau as float64 tensors on one device.

    The rows of a step are the stages and the error; the weights of their columns (y, k_1, …, k_s) are
    ``constant + dt linear``.
    """

    c: Tensor
    constant: Tensor
    linear: Tensor
    dense: Tensor
    powers: Tensor


class RungeKuttaStages(NamedTuple):
    """One step: its start, its sums, its length in the dtype of y, its weights, and the axes of a dt of samples."""

    y: Tensor
    sums: Sums
    dt: Tensor
    weights: RungeKuttaWeights
    axes: int


class RungeKutta(Uniform):
    """An explicit Runge-Kutta method given by its tableau (Hairer, Nørsett, Wanner 1993, II.1).

    The carry is (y, f(t, y)): tableaus end with the derivative at the end of the step, which the next step
    takes as its first stage.

    Examples
    --------
    >>> from hbode.solvers import ButcherTableau, RungeKutta
    >>> RungeKutta(ButcherTableau.from_butcher(2, (0, 1), ((), (1,)), (0.5, 0.5)))
    RungeKutta(order=2, stages=2)
    """

    def __init__(self, tableau: ButcherTableau) -> None:
        self.tableau = tableau
        self.order = tableau.order
        self.error_order = tableau.error_order
        self.evaluations = tableau.stages - 1
        if tableau.error_order is not None:
            self.probe = probe(tableau)
        self._cache: dict[torch.device, RungeKuttaWeights] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(order={self.order}, stages={self.tableau.stages - 1})"

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, RungeKuttaStages]:
        y, f = carry
        w = self._weights(y.device)
        size = dt if dt.ndim == 0 else lift(dt, y.ndim, keep=0)
        rows = torch.addcmul(expand(w.constant, size), expand(w.linear, size), size).to(y.dtype)
        sums = Sums(rows, (y, f))
        for i, t_i in enumerate(stage_times(t, dt, w.c, field.dtype)[1:]):
            y = sums.row(i)
            f = field(t_i, y)
            sums.add(f)
        return (y.clone(), f), RungeKuttaStages(carry[0], sums, size, w, dt.ndim)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1]

    def error(self, stages: RungeKuttaStages) -> Tensor:
        return stages.sums.row(-1)

    def stiffness(self, stages: RungeKuttaStages) -> Tensor:
        """Return dt |λ| in units of the boundary of stability, shape () or (B,) (see `Probe`)."""
        sums = stages.sums
        return self.probe.ratio(lambda i: sums.row(i - 1), lambda i: sums.column(i + 1), stages.dt, stages.axes)

    def interpolate(self, stages: RungeKuttaStages, theta: Tensor) -> Tensor:
        return self._between(stages.y, stages.sums.columns()[1:], stages.dt, theta)

    def _between(self, y: Tensor, slopes: Tensor, dt: Tensor | float, theta: Tensor) -> Tensor:
        """Return the states at fractions θ of a step, from its start, all slopes and the length."""
        w = self._weights(y.device)
        weights = powers(theta.unsqueeze(-1), w.powers, len(w.dense)) @ w.dense  # (n, [B, 1, …,] s)
        weights = lift(weights.movedim(-1, 1), y.ndim, keep=2).to(y.dtype)
        size = dt.to(y.dtype) if isinstance(dt, Tensor) else dt
        return along(y, size, (1.0,), (combine_rows(weights, slopes),))

    def lay_out(self, device: torch.device) -> None:
        self._weights(device)

    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        return len(self.tableau.c) + 1, *y.shape

    def record(self, stages: RungeKuttaStages) -> Tensor:
        return stages.sums.columns()

    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        w = self._weights(y.device)
        weights = powers(theta.unsqueeze(-1), w.powers, len(w.dense)) @ w.dense  # (n, [B, 1, …,] s)
        moved = weights.movedim(-1, 1) * dt.unsqueeze(1)
        return lift(torch.cat((torch.ones_like(moved[:, :1]), moved), 1), y.ndim, keep=2).to(y.dtype)

    def _weights(self, device: torch.device) -> RungeKuttaWeights:
        if device not in self._cache:
            tab = self.tableau
            size = len(tab.c)
            rows = [*tab.a[1:], tab.b_error or (0.0,) * size]
            degree = len(tab.dense[0])
            with kept_tensors():

                def put(values: object) -> Tensor:
                    return torch.tensor(values, dtype=torch.float64, device=device)

                self._cache[device] = RungeKuttaWeights(
                    put(tab.c),
                    put([[1.0, *[0.0] * size]] * (size - 1) + [[0.0] * (size + 1)]),
                    put([[0.0, *row, *[0.0] * (size - len(row))] for row in rows]),
                    put([[row[k] for row in tab.dense] for k in range(degree)]),
                    put(list(range(1, degree + 1))),
                )
        return self._cache[device]
