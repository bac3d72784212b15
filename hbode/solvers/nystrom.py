"""Runge-Kutta-Nyström methods with exact linear damping, for h'' + γ h' + ξ h = f(t, h).

Inside a step of length s from (t, h, m), u(τ) = e^(γτ/2) h(t + τ) has u(0) = h, u'(0) = v = m + (γ/2) h and obeys
u'' = e^(γτ/2) g with g = f + κ h, κ = γ²/4 - ξ: no first derivative, so a Nyström method applies to u and the
damping costs no accuracy. Written back in h, every stage and every result is a combination of the columns
(h, v, g_1, …, g_s), where g_j belongs to the stage at c_j, with weights that depend on s and γ alone:

    h(θ) = e^(-γθs/2) [h + θ s v + s² Σ_j β_j e^(γ c_j s/2) g_j],
    v(θ) = e^(-γθs/2) [    v     + s  Σ_j β'_j e^(γ c_j s/2) g_j],    m = v - (γ/2) h.

A step makes the matrix of these weights once, and then does one product for each stage.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .field import Field, damped_slope
from .linear import Sums, combine_rows, stage_times
from .method import Carry
from .tableau import NystromTableau


class Weights(NamedTuple):
    """A tableau as float64 tensors on one device.

    The rows of a step are the stage positions, the momentum at its end, and the errors of both. Their weights are
    ``constant + s linear + s² square``, times e^(γ s exponent / 2); `position` takes for each row of a velocity
    the row of the position that it belongs to. Rows of dense output are polynomials in θ: `dense` (d, 2 k) for
    k columns, times s to the power `dense_power` (2, k).
    """

    c: Tensor
    constant: Tensor
    linear: Tensor
    square: Tensor
    exponent: Tensor
    position: Tensor
    dense: Tensor
    dense_power: Tensor
    powers: Tensor
    nodes: Tensor


class Rows(NamedTuple):
    """The weights of a step for one damping: `Weights` with m = v - (γ/2) h in place of v, and (γ/2) exponent."""

    constant: Tensor
    linear: Tensor
    square: Tensor
    rate: Tensor


class Stages(NamedTuple):
    """One step: its sums, its length, and what its weights were made with."""

    sums: Sums
    dt: Tensor
    gamma: Tensor
    weights: Weights


class Nystrom:
    """A Runge-Kutta-Nyström method given by its tableau (Dormand, El-Mikkawy, Prince 1987).

    The carry is (y, f(t, h)) with y = (h, m) stacked: the tableaus end with the force at the end of the step.
    """

    damped = True
    identity_only = True

    def __init__(self, tableau: NystromTableau) -> None:
        self.tableau = tableau
        self.order = tableau.order
        self.error_order: int | None = tableau.error_order
        self._cache: dict[torch.device, Weights] = {}

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y[0])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Stages]:
        y, force = carry
        h, m = y.unbind()
        w = self._weights(y.device)
        gamma, _, half, kappa, _ = field.damping
        rows = field.prepared(self, lambda: _rows(w, gamma, dt.ndim))
        matrix = torch.addcmul(rows.constant, torch.addcmul(rows.linear, rows.square, dt), dt)
        matrix = (matrix * torch.exp(rows.rate * dt)).to(y.dtype)
        sums = Sums(matrix, (h, torch.addcmul(m, h, half), torch.addcmul(force, h, kappa)))
        times = stage_times(t, dt, w.c, field.dtype)
        for i, t_i in enumerate(times[1:]):
            h = sums.row(i)
            force = field(t_i, h)
            sums.add(torch.addcmul(force, h, kappa))
        return (torch.stack((h, sums.row(-3))), force), Stages(sums, dt, gamma, w)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return damped_slope(field, carry)

    def error(self, stages: Stages) -> Tensor:
        return torch.stack((stages.sums.row(-2), stages.sums.row(-1)))

    def interpolate(self, stages: Stages, theta: Tensor) -> Tensor:
        sums, dt, gamma, w = stages
        axes = [1] * max(dt.ndim, gamma.ndim)
        columns = sums.columns()
        rows = ((theta.unsqueeze(-1) ** w.powers) @ w.dense).unflatten(-1, w.dense_power.shape)
        if theta.ndim > 1:  # (n, B, 1, …, 2, k): the weights come first
            rows, theta = rows.movedim((-2, -1), (1, 2)), theta.unsqueeze(1)
        elif axes:
            rows, theta = rows.view(*rows.shape, *axes), theta.view(-1, 1, *axes)
        else:
            theta = theta.unsqueeze(1)
        half, power, nodes = 0.5 * gamma, w.dense_power, w.nodes
        if axes:
            power, nodes = power.view(*power.shape, *axes), nodes.view(-1, *axes)
        decay = torch.exp(half * dt * (nodes - theta))  # (n, k, …)
        h, v = (rows * dt**power * decay.unsqueeze(1)).unbind(1)
        rows = torch.stack((h, torch.addcmul(v, h, half, value=-1)), 1).flatten(0, 1)
        return combine_rows(rows.to(columns.dtype), columns).unflatten(0, (-1, 2))

    def _weights(self, device: torch.device) -> Weights:
        if device not in self._cache:
            tab = self.tableau
            s = len(tab.c)
            none = [0.0] * s
            square = [[*row, *none[len(row) :]] for row in tab.a[1:]] + [none, tab.b_error, none]
            linear = [none] * (s - 1) + [tab.bp, none, tab.bp_error]
            at = [*tab.c[1:], 1.0, 1.0, 1.0]
            degree = max(len(tab.dense[0]) + 1, len(tab.dense_p[0]))
            dense = [[0.0] * (4 + 2 * s) for _ in range(degree + 1)]
            dense[0][0] = dense[1][1] = dense[0][3 + s] = 1.0
            for j in range(s):
                for k, weight in enumerate(tab.dense[j]):
                    dense[k + 2][2 + j] = weight
                for k, weight in enumerate(tab.dense_p[j]):
                    dense[k + 1][4 + s + j] = weight
            position = [[0.0] * (s + 2) for _ in range(s + 2)]
            position[s - 1][s - 2] = position[s + 1][s] = 1.0
            with torch.inference_mode(False), torch.no_grad():

                def put(rows: object) -> Tensor:
                    return torch.tensor(rows, dtype=torch.float64, device=device)

                self._cache[device] = Weights(
                    put(tab.c),
                    put([[1.0, 0.0, *none]] * (s - 1) + [[0.0, 1.0, *none]] + [[0.0, 0.0, *none]] * 2),
                    put(
                        [
                            [0.0, c if i < s - 1 else 0.0, *row]
                            for i, (c, row) in enumerate(zip(at, linear, strict=True))
                        ]
                    ),
                    put([[0.0, 0.0, *row] for row in square]),
                    put([[-c, -c, *(node - c for node in tab.c)] for c in at]),
                    put(position),
                    put(dense),
                    put([[0.0, 1.0, *[2.0] * s], [0.0, 0.0, *[1.0] * s]]),
                    put(list(range(degree + 1))),
                    put([0.0, 0.0, *tab.c]),
                )
        return self._cache[device]


def _rows(w: Weights, gamma: Tensor, ndim: int) -> Rows:
    """Return the weights of a step for one γ, with trailing axes for a γ and a dt that have `ndim` axes."""
    axes = [1] * max(ndim, gamma.ndim)
    half = 0.5 * gamma

    def momentum(rows: Tensor) -> Tensor:
        moved = (w.position @ rows).view(*rows.shape, *axes)
        return torch.addcmul(rows.view(*rows.shape, *axes), moved, half, value=-1)

    return Rows(
        momentum(w.constant), momentum(w.linear), momentum(w.square), half * w.exponent.view(*w.exponent.shape, *axes)
    )
