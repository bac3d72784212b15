"""Runge-Kutta-Chebyshev steps: explicit, with as many stages as stability along the negative real axis asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...field import Field
from ...linear import norms
from ...method import Carry, Method
from ..hermite import Hermite

DAMPING = 2 / 13
"""ε: inside the interval of stability, a step multiplies by 1 - ε/3 at most."""
SHARE = 0.65
"""Steps of s stages are stable for dt |λ| up to this times s² - 1, and a little more."""
MARGIN = 1.1
"""How much larger the spectral radius may be than the power iteration has found."""
FADING = 0.9
"""What is left after a step of an estimate that the next one does not confirm: complex eigenvalues let it vary."""
ITERATIONS = 30
"""The most products with the Jacobian for the first estimate."""
SETTLED = 0.02
"""By which share two successive estimates differ where the first is good enough."""
GOLDEN = 0.5 * (1 + 5**0.5) * torch.pi
ROUNDINGS = 1e-2
"""What s² roundings, which s stages may leave of a state, may be of it at most."""
MOST = 1000
"""The most stages where rounding allows more."""


class Weights(NamedTuple):
    """The formula of s stages: c_1, …, c_s, rows (μ_j, ν_j, μ̃_j, γ̃_j), the interval of stability (1 + w_0) / w_1."""

    c: npt.NDArray[np.float64]
    rows: npt.NDArray[np.float64]
    interval: float


class ChebyshevStages(NamedTuple):
    """A step: both ends and the slopes there, and for which samples it was within the most stages."""

    inside: Hermite
    converged: Tensor


@dataclass(frozen=True)
class Chebyshev(Method):
    """The second-order method of Sommeijer, Shampine, Verwer (J. Comput. Appl. Math. 88, 1998), RKC.

    For fields with a Jacobian whose eigenvalues are near the negative real axis, as those of diffusion. A step of s
    stages is stable for dt |λ| up to .65 (s² - 1), so that the work per time falls with the square root of the step. s
    is the least that is enough for each step, and for each sample that steps by itself.

    The spectral radius is what a power iteration on differences of the field finds, from a start in which all modes are
    present; one iteration with each step, an evaluation, follows it. The number of stages of a step depends on its
    length and its carry alone, so that a replay takes the same.

    The carry is (y, f(t, y), direction of the power iteration, spectral radius). The radius is zero until the first
    step estimates it.

    Examples
    --------
    >>> from hbode.solvers import Chebyshev, as_method
    >>> isinstance(as_method("rkc"), Chebyshev)
    True
    """

    order = 2
    error_order = 2
    explicit_one_step = False

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y), torch.zeros_like(y), torch.zeros_like(t)

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return carry[0], field(t, carry[0]), *carry[2:]

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1]

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ChebyshevStages]:
        y, f, v, radius = carry
        if bool((radius == 0).any()):
            v1, first = _estimated(field, t, y, f, dt.ndim)
            v, radius = torch.where(radius == 0, v1, v), torch.where(radius == 0, first, radius)
        count = _stages(dt.detach().abs() * radius * MARGIN)
        within = (count <= most(y.dtype)).reshape(-1)
        size = dt.to(y.real.dtype)
        if not bool(within.any()):
            return (y, f, v, radius), ChebyshevStages(Hermite(y, f, y, f, size), within)
        y1 = y + _moved(field, t, dt, y, f, count.clamp(max=most(y.dtype)))
        f1 = field(t + dt, y1)
        v1, found = _followed(field, t + dt, y1, f1, v, dt.ndim)
        return (y1, f1, v1, torch.maximum(found, FADING * radius)), ChebyshevStages(Hermite(y, f, y1, f1, size), within)

    def error(self, stages: ChebyshevStages) -> Tensor:
        y, f, y1, f1, size = stages.inside
        return 0.8 * (y - y1) + 0.4 * size * (f + f1)

    def converged(self, stages: ChebyshevStages) -> Tensor:
        return stages.converged

    def interpolate(self, stages: ChebyshevStages, theta: Tensor) -> Tensor:
        return stages.inside(theta)


def _moved(field: Field, t: Tensor, dt: Tensor, y: Tensor, f: Tensor, count: Tensor) -> Tensor:
    """Return Y_s - y of a step of `count` stages, in the shape of dt.

    With d_j = Y_j - y: d_j = μ_j d_{j-1} + ν_j d_{j-2} + μ̃_j dt f(Y_{j-1}) + γ̃_j dt f(y).
    """
    c, rows = _table(count, y)
    size = dt.to(y.dtype)
    times = (t + c * dt).to(field.dtype).unbind()
    push = size * f
    before, d = torch.zeros_like(y), rows[0][2] * push
    for j, (mu, nu, own, first) in enumerate(rows[1:], 2):
        slope = field(times[j - 2], y + d)
        ahead = torch.addcmul(mu * d, nu, before)
        ahead = torch.addcmul(torch.addcmul(ahead, own * size, slope), first, push)
        if count.ndim and bool((count < j).any()):
            ahead = torch.where(count < j, d, ahead)
        before, d = d, ahead
    return d


def _table(count: Tensor, y: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Return c, (s, *count), and the weights of the stages in the dtype of y; who has fewer stages stays at the end."""
    numbers = [int(s) for s in count.reshape(-1).tolist()]
    longest, shape = max(numbers), (-1, *count.shape)
    c, rows = np.ones((longest, len(numbers))), np.zeros((longest, 4, len(numbers)))
    for i, s in enumerate(numbers):
        c[:s, i], rows[:s, :, i] = weights(s)[:2]
    made = torch.from_numpy(rows).to(y.device, y.dtype).reshape(longest, 4, *count.shape)
    return torch.from_numpy(c).to(y.device).reshape(shape), [stage.unbind() for stage in made.unbind()]


@cache
def weights(s: int) -> Weights:
    """Return the formula of s stages, s at least two."""
    w0 = 1 + DAMPING / s**2
    t, d, dd = np.zeros((3, s + 1))
    t[:2], d[1] = (1.0, w0), 1.0
    for j in range(2, s + 1):  # Chebyshev's polynomials and their derivatives at w0
        t[j] = 2 * w0 * t[j - 1] - t[j - 2]
        d[j] = 2 * t[j - 1] + 2 * w0 * d[j - 1] - d[j - 2]
        dd[j] = 4 * d[j - 1] + 2 * w0 * dd[j - 1] - dd[j - 2]
    w1 = d[s] / dd[s]
    b = np.empty(s + 1)
    b[2:] = dd[2:] / d[2:] ** 2
    b[:2] = b[2]
    c = np.empty(s)
    c[1:] = w1 * dd[2:] / d[2:]
    c[0] = c[1] / d[2]
    rows = np.zeros((s, 4))
    rows[0] = 0.0, 0.0, b[1] * w1, 0.0
    rows[1:, 0] = 2 * w0 * b[2:] / b[1:-1]
    rows[1:, 1] = -b[2:] / b[:-2]
    rows[1:, 2] = 2 * w1 * b[2:] / b[1:-1]
    rows[1:, 3] = -(1 - b[1:-1] * t[1:-1]) * rows[1:, 2]
    return Weights(c, rows, (1 + w0) / w1)


def _stages(z: Tensor) -> Tensor:
    """Return how many stages are stable up to dt |λ| = z, in its shape; NaN asks for no more than two."""
    return (1 + z / SHARE).sqrt().ceil().nan_to_num(2.0).clamp(min=2)


def most(dtype: torch.dtype) -> int:
    """Return the most stages in a dtype."""
    return min(MOST, int((ROUNDINGS / torch.finfo(dtype).eps) ** 0.5))


@torch.no_grad()
def _estimated(field: Field, t: Tensor, y: Tensor, f: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Return the direction in which the power iteration settles, and the spectral radius, in the shape of t."""
    number = torch.arange(y.numel(), dtype=torch.float64, device=y.device).reshape(y.shape)
    v = torch.cos(GOLDEN * number.square()).to(y.dtype)  # has as much of each frequency as of any other
    radius = torch.zeros_like(t)
    for _ in range(ITERATIONS):
        last = radius
        v, radius = _followed(field, t, y, f, v, axes)
        if bool(((radius - last).abs() <= SETTLED * radius).all()):
            break
    return v, radius.clamp(min=torch.finfo(torch.float64).tiny)


@torch.no_grad()
def _followed(field: Field, t: Tensor, y: Tensor, f: Tensor, v: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Return J v, up to its length, of the Jacobian J at (t, y), and the ratio of their lengths, in the shape of t."""

    def lengths(x: Tensor) -> Tensor:
        size = norms(x, axes)
        return size.reshape(-1, *[1] * (axes - 1)) if axes else size

    length, size = lengths(v), lengths(y)
    reach = torch.finfo(y.dtype).eps ** 0.5 * torch.where(size > 0, size, 1.0)
    shift = (reach / length.clamp(min=torch.finfo(torch.float64).tiny)).to(y.dtype) * v
    image = field(t, y + shift) - f
    return image, lengths(image) / torch.where(length > 0, reach, 1.0)
