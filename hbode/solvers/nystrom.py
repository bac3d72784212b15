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
from .linear import Columns, combine_rows, powers, stage_times
from .method import Carry
from .tableau import NystromTableau


class Weights(NamedTuple):
    """A tableau as float64 tensors on one device.

    The rows are the stage positions, the velocity at the end, and the errors of both; their weights are
    ``constant + s linear + s² square``, times e^(γ s exponent / 2).
    """

    c: Tensor
    constant: Tensor
    linear: Tensor
    square: Tensor
    exponent: Tensor
    dense: Tensor
    dense_p: Tensor


class Stages(NamedTuple):
    """One step: its columns (2 + s, *h), the weights of its errors, and the numbers they were made with."""

    columns: Tensor
    error_rows: Tensor
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
        gamma = field.gamma if field.gamma is not None else torch.zeros_like(dt)
        kappa = 0.25 * gamma * gamma
        if field.xi is not None:
            kappa = kappa - field.xi
        kappa, half_gamma = kappa.to(y.dtype), (0.5 * gamma).to(y.dtype)
        matrix = _as_columns(_matrix(w, dt, gamma), y.dtype)
        times = stage_times(t, dt, w.c, field.dtype)
        rows = matrix.unbind()
        last = len(times)
        columns = Columns((h, torch.addcmul(m, h, half_gamma), torch.addcmul(force, h, kappa)), 2 + last)
        for t_i, row in zip(times[1:], rows[1:last], strict=True):
            h = columns.combine(row)
            force = field(t_i, h)
            columns.append(torch.addcmul(force, h, kappa))
        m = torch.addcmul(columns.combine(rows[last]), h, half_gamma, value=-1)
        return (torch.stack((h, m)), force), Stages(columns.stack(), matrix[last + 1 :], dt, gamma, w)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return damped_slope(field, carry)

    def error(self, stages: Stages) -> Tensor:
        return _momentum(combine_rows(stages.error_rows, stages.columns), stages.gamma)

    def interpolate(self, stages: Stages, theta: Tensor) -> Tensor:
        columns, _, dt, gamma, w = stages
        theta = theta.movedim(0, -1)
        s, g, theta_ = dt[..., None, None], gamma[..., None, None], theta[..., None]
        one = torch.ones_like(theta_)
        position = s * s * (powers(theta, 2, w.dense.shape[1] + 1) @ w.dense.T)
        velocity = s * (powers(theta, 1, w.dense_p.shape[1]) @ w.dense_p.T)
        start = torch.cat((one, theta_ * s, one - one, one), -1)
        rows = torch.cat((_join(start[..., :2], position), _join(start[..., 2:], velocity)), -2)
        exponent = torch.cat((w.exponent[0, :2], w.c)) - torch.cat((theta_, theta_), -2)
        rows = _as_columns(rows * torch.exp(0.5 * g * s * exponent), columns.dtype)
        return torch.stack(_momentum(combine_rows(rows, columns).unflatten(0, (2, -1)), gamma).unbind(), 1)

    def _weights(self, device: torch.device) -> Weights:
        if device not in self._cache:
            tab = self.tableau
            s = len(tab.c)
            none = [0.0] * s
            square = [[*row, *none[len(row) :]] for row in tab.a] + [none, tab.b_error, none]
            linear = [none] * s + [tab.bp, none, tab.bp_error]
            at = [*tab.c, 1.0, 1.0, 1.0]
            with torch.inference_mode(False), torch.no_grad():

                def put(rows: object) -> Tensor:
                    return torch.tensor(rows, dtype=torch.float64, device=device)

                self._cache[device] = Weights(
                    put(tab.c),
                    put([[1.0, 0.0, *none]] * s + [[0.0, 1.0, *none]] + [[0.0, 0.0, *none]] * 2),
                    put([[0.0, c if i < s else 0.0, *row] for i, (c, row) in enumerate(zip(at, linear, strict=True))]),
                    put([[0.0, 0.0, *row] for row in square]),
                    put([[-c, -c, *(node - c for node in tab.c)] for c in at]),
                    put(tab.dense),
                    put(tab.dense_p),
                )
        return self._cache[device]


def _matrix(w: Weights, dt: Tensor, gamma: Tensor) -> Tensor:
    """Weights of the columns in every row of a step, shape (…, s + 3, 2 + s)."""
    half = 0.5 * gamma * dt
    if dt.ndim or gamma.ndim:
        dt, half = dt[..., None, None], half[..., None, None]
    return torch.addcmul(w.constant, torch.addcmul(w.linear, w.square, dt), dt) * torch.exp(half * w.exponent)


def _as_columns(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Move (…, n, k) weights to (n, k, …), the layout in which they multiply columns."""
    return rows.movedim((-2, -1), (0, 1)).to(dtype) if rows.ndim > 2 else rows.to(dtype)


def _momentum(pair: Tensor, gamma: Tensor) -> Tensor:
    """Turn (h, v) stacked into (h, m), m = v - (γ/2) h."""
    h, v = pair.unbind()
    return torch.stack((h, torch.addcmul(v, h, (0.5 * gamma).to(h.dtype), value=-1)))


def _join(start: Tensor, forces: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(start.shape[:-2], forces.shape[:-2])
    return torch.cat((start.expand(*batch, -1, -1), forces.expand(*batch, -1, -1)), -1)
