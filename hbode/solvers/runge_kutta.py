"""Explicit Runge-Kutta methods for y' = f(t, y)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .field import Field
from .linear import Columns, combine, combine_rows, lift, powers, stage_times
from .method import Carry
from .tableau import ButcherTableau


class Stages(NamedTuple):
    """One step: its start y, the stage derivatives k (s, *y), the step dt, the weights in the dtype of y."""

    y: Tensor
    k: Tensor
    dt: Tensor
    weights: Weights


class Weights(NamedTuple):
    """A tableau as tensors on one device: nodes in float64, the rest in the dtype of the state."""

    c: Tensor
    a: tuple[Tensor, ...]
    b_error: Tensor
    dense: Tensor


class RungeKutta:
    """An explicit Runge-Kutta method given by its tableau (Hairer, Nørsett, Wanner 1993, II.1).

    The carry is (y, f(t, y)): tableaus end with the derivative at the end of the step, which the next step
    takes as its first stage.
    """

    damped = False
    identity_only = False

    def __init__(self, tableau: ButcherTableau) -> None:
        self.tableau = tableau
        self.order = tableau.order
        self.error_order = tableau.error_order
        self._cache: dict[tuple[torch.dtype, torch.device], Weights] = {}

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Stages]:
        y, f = carry
        w = self._weights(y)
        times = stage_times(t, dt, w.c, field.dtype)
        dt = dt.to(y.dtype)
        k = Columns((f,), len(w.a))
        y_i = y
        for t_i, a_i in zip(times[1:], w.a[1:], strict=True):
            y_i = torch.addcmul(y, k.combine(a_i), dt)
            f = field(t_i, y_i)
            k.append(f)
        return (y_i, f), Stages(y, k.stack(), dt, w)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1]

    def error(self, stages: Stages) -> Tensor:
        return combine(stages.weights.b_error, stages.k) * stages.dt

    def interpolate(self, stages: Stages, theta: Tensor) -> Tensor:
        y, k, dt, w = stages
        weights = powers(theta, 1, w.dense.shape[1]).to(y.dtype) @ w.dense.T  # (n, [B, 1, …,] s)
        weights = lift(weights.movedim(-1, 1), y.ndim, keep=2)
        return torch.addcmul(y, combine_rows(weights, k), dt)

    def _weights(self, y: Tensor) -> Weights:
        key = (y.dtype, y.device)
        if key not in self._cache:
            tab = self.tableau
            with torch.inference_mode(False), torch.no_grad():

                def put(row: tuple[float, ...], dtype: torch.dtype = y.dtype) -> Tensor:
                    return torch.tensor(row, dtype=torch.float64).to(y.device, dtype)

                self._cache[key] = Weights(
                    put(tab.c, torch.float64),
                    tuple(put((*row, *[0.0] * (len(tab.c) - len(row)))) for row in tab.a),
                    put(tab.b_error or ()),
                    torch.stack([put(row) for row in tab.dense]),
                )
        return self._cache[key]
