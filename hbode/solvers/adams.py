"""Adams methods on any grid: explicit (Bashforth) and implicit (Moulton, by functional iteration)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .butcher_tables import BUTCHER
from .field import Field
from .hermite import Hermite
from .linear import combine, lift
from .method import Carry
from .short_runge_kutta import ShortRungeKutta

_STARTER = ShortRungeKutta(BUTCHER["rk38"])


@dataclass(frozen=True)
class Adams:
    """Adams method of variable order on a grid of variable steps (Hairer, Nørsett, Wanner 1993, III.1, III.5).

    The weights integrate the polynomial through the last derivatives exactly, for the times at which they were
    taken. The first steps use the 3/8 rule until the history reaches `starting_order`, or `max_order` if that is less;
    the order then grows with the history. The implicit method iterates its corrector until two iterates
    agree within the tolerances, at most `max_iters` times, and warns where they do not.

    The carry is (y, derivatives (k, *y), times (k, ...)), newest first.
    """

    implicit: bool
    max_order: int = 4
    max_iters: int = 4
    rtol: float = 1e-3
    atol: float = 1e-4
    starting_order: int = 4
    damped = False
    identity_only = False
    error_order: int | None = None

    def __post_init__(self) -> None:
        lowest = 1 + self.implicit  # the corrector takes the derivatives at both ends of the step
        if not lowest <= self.max_order <= 12:
            raise ValueError(f"options['max_order'] must be between {lowest} and 12, got {self.max_order}")
        if self.max_iters < 1:
            raise ValueError(f"options['max_iters'] must be at least 1, got {self.max_iters}")

    @property
    def order(self) -> int:
        return self.max_order

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y).unsqueeze(0), t.unsqueeze(0)

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return self.start(field, t, carry[0])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Hermite]:
        y, history, times = carry
        size = dt.to(y.dtype)
        if len(history) + self.implicit < min(self.starting_order, self.max_order):
            (y1, f1), _ = _STARTER.step(field, t, dt, (y, history[0]))
        else:
            nodes = _nodes(times, t, dt)
            y1 = torch.addcmul(y, combine(self._weights(nodes, y), history), size)
            if self.implicit:
                y1, f1 = self._correct(field, t + dt, y, y1, history, nodes, size)
            else:
                f1 = field(t + dt, y1)
        keep = self.max_order - 1 - self.implicit
        history1 = torch.cat((f1.unsqueeze(0), history[:keep]))
        times1 = torch.cat(((t + dt).unsqueeze(0), times[:keep]))
        return (y1, history1, times1), Hermite(y, history[0], y1, f1, size)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1][0]

    def error(self, stages: Hermite) -> Tensor:
        raise NotImplementedError("Adams methods have no error estimate here; they run on a fixed grid")

    def interpolate(self, stages: Hermite, theta: Tensor) -> Tensor:
        return stages(theta)

    def _weights(self, nodes: Tensor, y: Tensor) -> Tensor:
        return lift(_integration_weights(nodes).to(y.dtype), y.ndim, keep=1)

    def _correct(
        self, field: Field, t1: Tensor, y: Tensor, y1: Tensor, history: Tensor, nodes: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights = self._weights(torch.cat((torch.ones_like(nodes[:1]), nodes)), y)
        known = torch.addcmul(y, combine(weights[1:], history), dt)
        for _ in range(self.max_iters):
            f1 = field(t1, y1)
            previous, y1 = y1, known + dt * weights[0] * f1
            with torch.no_grad():
                scale = self.atol + self.rtol * torch.maximum((previous - y).abs(), (y1 - y).abs())
                if ((y1 - previous).abs() <= scale).all():
                    return y1, f1
        warnings.warn(
            f"implicit_adams: functional iteration did not converge in {self.max_iters} iterations; "
            "the solution may be inaccurate. Take smaller steps, or raise max_iters.",
            stacklevel=2,
        )
        return y1, f1


def _nodes(times: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Return where the history lies in units of the step, 0 at its start, shape (k, ...).

    A sample that waits for the others has dt = 0. What its step gives is dropped, but its weights must be finite
    for the gradient: it gets the nodes of equal steps.
    """
    if not dt.ndim:
        return (times - t) / dt
    waits = dt == 0
    equal = -torch.arange(len(times), dtype=dt.dtype, device=dt.device).view(-1, *[1] * dt.ndim)
    return torch.where(waits, equal, (times - t) / torch.where(waits, 1.0, dt))


def _integration_weights(nodes: Tensor) -> Tensor:
    """Return β with ∫₀¹ p = Σ β_j p(x_j) for every polynomial p of degree < k, for nodes x of shape (k, ...).

    Lagrange's basis integrated by Gauss-Legendre quadrature, which is exact here and, unlike the solution of a
    Vandermonde system, loses no digits at order twelve.
    """
    k = len(nodes)
    points, masses = np.polynomial.legendre.leggauss(k // 2 + 1)
    x = nodes.movedim(0, -1)
    q = torch.as_tensor(0.5 * (points + 1), dtype=x.dtype, device=x.device)
    eye = torch.eye(k, dtype=x.dtype, device=x.device)
    gaps = x.unsqueeze(-1) - x.unsqueeze(-2) + eye  # (…, j, m)
    ratios = (q[:, None, None] - x[..., None, None, :]) / gaps.unsqueeze(-3)  # (…, q, j, m)
    basis = torch.where(eye.bool(), torch.ones_like(ratios), ratios).prod(-1)
    half = torch.as_tensor(0.5 * masses, dtype=x.dtype, device=x.device)
    return (half @ basis).movedim(-1, 0)
