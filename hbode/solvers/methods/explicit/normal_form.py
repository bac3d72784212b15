"""Runge-Kutta-Nyström methods under damping that depends on the time, h'' + γ(t) h' = f(t, h).

Inside a step of length s from (t, h, m), with Γ(τ) the integral of γ from t to t + τ, u(τ) = e^(Γ/2) h(t + τ) obeys

    u'' = e^(Γ/2) [f + q h],    q = γ²/4 + γ'/2,    u(0) = h,    u'(0) = m + (γ/2) h:

Liouville's normal form, without a first derivative, to which a Nyström method applies (`Nystrom` is this for a constant
γ). Γ and γ' are those of the polynomial p that interpolates γ at K Gauss-Lobatto points of the step, so that γ may be
any function, and no integral or derivative of it is asked for. By variation of constants, p in the place of γ moves a
solution by the integral of a smooth function times p - γ, which is s^K ω(τ/s) times another, ω being orthogonal to the
polynomials of degree K - 3: by O(s^(2 K - 1)) at the end of a step, by O(s^(K + 1)) inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...field import Damping, Field, acceleration
from ...linear import Sums, combine_rows, stage_times
from ...method import Carry, Uniform
from ...precision import kept_tensors
from .nystrom import Damped, Nystrom, NystromStages, NystromWeights, damped_weights, dense_rows


class Interpolation(NamedTuple):
    """The polynomial through values at Gauss-Lobatto points x of [0, 1], float64.

    The matrix takes these values to the polynomial's own at the nodes of a method, its derivatives and its integrals
    from zero there, and its coefficients, of rising powers of 2 θ - 1: so many of each as `sizes` has.
    """

    x: Tensor
    matrix: Tensor
    sizes: list[int]


class Laid(NamedTuple):
    """What a method is made of on one device: how γ is interpolated, and the weights of u, without damping."""

    along: Interpolation
    weights: NystromWeights
    plain: Damped


class NormalFormStages(NamedTuple):
    """One step: that of u, the coefficients of γ in 2 θ - 1, shape (K, ...), float64, and γ and e^(-Γ/2) at its end."""

    of_u: NystromStages
    gamma: Tensor
    gamma1: Tensor
    decay1: Tensor


class NormalForm(Uniform):
    """A Runge-Kutta-Nyström method for u, where γ depends on the time.

    The carry is (y, m') with y = (h, m) stacked. Records are those of u: how states are read off them depends on γ.

    Examples
    --------
    >>> from hbode.solvers import NormalForm, as_method
    >>> NormalForm(as_method("dprkn6")).order
    6
    """

    damped = True
    identity_only = True

    def __init__(self, base: Nystrom) -> None:
        self.base = base
        self.order = base.order
        self.error_order = base.error_order
        self.evaluations = base.evaluations
        self._cache: dict[torch.device, Laid] = {}
        tableau = base.tableau
        self.points = max(tableau.dense_order, tableau.order // 2 + 2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})"

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        h, m = y.unbind()
        return y, acceleration(field.damping_at(t), field(t, h), h, m)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, NormalFormStages]:
        y, a = carry
        h, m = y.unbind()
        along, w, plain = self._laid(y.device, dt.ndim)
        known = torch.stack([field.gamma_at(at) for at in stage_times(t, dt, along.x, field.dtype)])
        known = known.reshape(len(known), *(known.shape[1:] or [1] * dt.ndim))
        gamma, rate, integral, coefficients = combine_rows(along.matrix, known).split(along.sizes)
        half = 0.5 * dt * integral
        q = 0.25 * gamma * gamma + 0.5 * rate / torch.where(dt == 0, 1.0, dt)  # while samples wait, γ does not change
        gamma, q, grow, decay = (x.to(y.dtype).unbind() for x in (gamma, q, half.exp(), (-half).exp()))

        constant, linear, square = plain.step.unbind()
        rows = torch.addcmul(constant, torch.addcmul(linear, square, dt), dt)
        first = torch.addcmul(torch.addcmul(a, gamma[0], m), q[0], h)
        sums = Sums(rows.to(y.dtype), (h, torch.addcmul(m, gamma[0], h, value=0.5), first))
        for i, t_i in enumerate(stage_times(t, dt, w.c, field.dtype)[1:]):
            h = sums.row(i) * decay[i + 1]
            force = field(t_i, h)
            sums.add(torch.addcmul(force, q[i + 1], h) * grow[i + 1])
        m = torch.addcmul(sums.row(-3) * decay[-1], gamma[-1], h, value=-0.5)
        stages = NormalFormStages(NystromStages(sums, dt, w, plain), coefficients, gamma[-1], decay[-1])
        return (torch.stack((h, m)), torch.addcmul(force, gamma[-1], m, value=-1)), stages

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return torch.stack((carry[0][1], carry[1]))

    def error(self, stages: NormalFormStages) -> Tensor:
        return _in_h(self.base.error(stages.of_u), stages.gamma1, stages.decay1)

    def stiffness(self, stages: NormalFormStages) -> Tensor:
        return self.base.stiffness(stages.of_u)

    def interpolate(self, stages: NormalFormStages, theta: Tensor) -> Tensor:
        states = self.base.interpolate(stages.of_u, theta)
        theta = theta.reshape(len(theta), *(theta.shape[1:] or [1] * (stages.gamma.ndim - 1)))
        gamma, decay = _inside(stages.gamma, theta, stages.of_u.dt)
        axes = [1] * (states.ndim - 1 - gamma.ndim)
        gamma, decay = (x.reshape(len(x), *axes, *x.shape[1:]).to(states.dtype) for x in (gamma, decay))
        return _in_h(states.movedim(1, 0), gamma, decay).movedim(0, 1)

    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        return self.base.record_shape(y)

    def record(self, stages: NormalFormStages) -> Tensor:
        return self.base.record(stages.of_u)

    def lay_out(self, device: torch.device) -> None:
        self._laid(device)

    def prepare(self, field: Field, axes: int) -> None:
        """Do nothing: the weights are those without damping."""

    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        axes = theta.ndim - 1
        along, w, plain = self._laid(y.device, axes)
        times = torch.stack(stage_times(t, dt, along.x, field.dtype))
        known = _at_each(field.gamma_at, times.flatten(0, 1)).unflatten(0, times.shape[:2])
        own = [*known.shape[2:]] or [1] * axes
        coefficients = combine_rows(along.matrix[-self.points :], known.reshape(*times.shape[:2], *own))
        rows = dense_rows(w, plain, theta, dt.unsqueeze(1)).unflatten(0, (-1, 2))
        ones = [1] * (len(own) - axes)
        gamma, decay = _inside(coefficients, *(x.view(*x.shape, *ones) for x in (theta, dt)))
        h, m = (rows.view(*rows.shape, *ones) * decay[:, None, None]).unbind(1)
        return torch.stack((h, m - 0.5 * gamma.unsqueeze(1) * h), 1).flatten(0, 1).to(y.dtype)

    def _laid(self, device: torch.device, axes: int = 0) -> Laid:
        """Return the constants on a device, for steps of as many axes."""
        if device not in self._cache:
            w = self.base.weights(device)
            with kept_tensors():
                parts = damped_weights(w, Damping.of(None, None, w.c), 0)
                plain = Damped(*(x.clone() for x in parts))  # a compiler wants memory of their own
            self._cache[device] = Laid(_interpolation(self.points, self.base.tableau.c, device), w, plain)
        along, w, plain = self._cache[device]
        return Laid(along, w, Damped(*(x.view(*x.shape, *[1] * axes) for x in plain)) if axes else plain)


@cache
def normal_form(base: Nystrom) -> NormalForm:
    """Return the method of a base, the same for the same one: compiled code belongs to a method."""
    return NormalForm(base)


def _at_each(fn: Callable[[Tensor], Tensor], times: Tensor) -> Tensor:
    """Return a function at many times, stacked: at once, unless it looks at their values."""
    try:
        values: Tensor = torch.vmap(fn)(times)
    except RuntimeError:
        return torch.stack([fn(t) for t in times.unbind()])
    return values


def _inside(coefficients: Tensor, theta: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Return γ and e^(-Γ/2) at fractions θ of a step dt, from the coefficients of γ in 2 θ - 1, (K, ...)."""
    x = 2 * theta - 1
    gamma, integral, start = (torch.zeros_like(x) for _ in range(3))
    for k, coefficient in reversed(list(enumerate(coefficients.unbind()))):
        gamma = gamma * x + coefficient
        integral = integral * x + coefficient / (k + 1)
        start = coefficient / (k + 1) - start
    return gamma, torch.exp(-0.25 * dt * (integral * x + start))


def _in_h(u: Tensor, gamma: Tensor, decay: Tensor) -> Tensor:
    """Return (h, m) stacked, or a difference of such, from (u, u')."""
    h, m = (u * decay).unbind()
    return torch.stack((h, torch.addcmul(m, gamma, h, value=-0.5)))


@cache
def _interpolation(points: int, nodes: tuple[float, ...], device: torch.device) -> Interpolation:
    """Return the matrices for so many Gauss-Lobatto points."""
    # Within, they are the zeros of the Jacobi polynomial P^(1,1): eigenvalues of its recurrence (Golub, Welsch 1969).
    j = np.arange(1.0, points - 2)
    recurrence = np.sqrt(j * (j + 2) / ((2 * j + 1) * (2 * j + 3)))
    x = np.array([-1.0, *np.linalg.eigvalsh(np.diag(recurrence, 1) + np.diag(recurrence, -1)), 1.0])
    k, c = np.arange(points), 2 * np.array(nodes)[:, None] - 1
    integrals = (c ** (k + 1) - (-1.0) ** (k + 1)) / (2 * k + 2)
    of_powers = c**k, 2 * k * c ** np.maximum(k - 1, 0), integrals, np.eye(points)
    matrix = np.concatenate(of_powers) @ np.linalg.inv(np.vander(x, increasing=True))
    with kept_tensors():
        points_of, matrix_of = (torch.from_numpy(a).to(device) for a in ((x + 1) / 2, matrix))
        return Interpolation(points_of, matrix_of, [len(rows) for rows in of_powers])
