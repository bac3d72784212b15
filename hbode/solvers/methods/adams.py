"""Adams methods on any grid: explicit (Bashforth) and implicit (Moulton, by functional iteration)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..field import Field
from ..linear import combine, lift
from ..method import Carry, Method
from ..precision import kept_tensors
from ..warning import warn
from .explicit.butcher_tables import BUTCHER
from .explicit.short_runge_kutta import ShortRungeKutta
from .hermite import Hermite


class AdamsStages(NamedTuple):
    """A step: its field, its end, start and derivatives, newest first; the slope at the end may not be there yet.

    A copy has that slope, and no field.
    """

    field: Field | None
    t1: Tensor | float
    y0: Tensor
    history: Tensor
    y1: Tensor
    f1: Tensor | None
    dt: Tensor | float

    def slope_at_end(self) -> Tensor:
        """Return the slope at the end."""
        if self.f1 is not None or self.field is None:
            return cast(Tensor, self.f1)
        return self.field(self.t1, self.y1)

    def __reduce__(self) -> tuple[Any, ...]:
        return AdamsStages, (None, self.t1, self.y0, self.history, self.y1, self.slope_at_end(), self.dt)


_STARTER = ShortRungeKutta(BUTCHER["rk38"])


@dataclass(frozen=True)
class Adams(Method):
    """Adams method of variable order on a grid of variable steps (Hairer, Nørsett, Wanner 1993, III.1, III.5).

    The weights integrate the polynomial through the last derivatives exactly, for the times at which they were
    taken. The first steps use the 3/8 rule until the history reaches `starting_order`, or `max_order` if that is less;
    the order then grows with the history. The implicit method iterates its corrector until two iterates
    agree within the tolerances, at most `max_iters` times, and warns where they do not.

    The carry is (y, derivatives (k, *y), times (k, ...)), newest first.

    Examples
    --------
    >>> from hbode.solvers import Adams
    >>> Adams(implicit=False, max_order=3).order
    3
    """

    implicit: bool
    max_order: int = 4
    max_iters: int = 4
    rtol: float = 1e-3
    atol: float = 1e-4
    starting_order: int = 4
    explicit_one_step = False
    numbers = True

    def __post_init__(self) -> None:
        lowest = 1 + self.implicit  # the corrector takes the derivatives at both ends of the step
        if not lowest <= self.max_order <= 12:
            raise ValueError(f"options['max_order'] must be between {lowest} and 12, got {self.max_order}")
        if self.max_iters < 1:
            raise ValueError(f"options['max_iters'] must be at least 1, got {self.max_iters}")
        self._declare(order=self.max_order)

    def start(self, field: Field, t: Any, y: Tensor) -> Carry:
        at = torch.scalar_tensor(t, dtype=torch.float64, device=y.device) if isinstance(t, float) else t
        return y, field(t, y).unsqueeze(0), at.unsqueeze(0)

    def step(self, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, AdamsStages]:
        return self._step(field, t, dt, carry, last=False)

    def last_step(self, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, AdamsStages]:
        return self._step(field, t, dt, carry, last=True)

    def _step(self, field: Field, t: Any, dt: Any, carry: Carry, last: bool) -> tuple[Carry, AdamsStages]:
        y, history, times = carry
        if isinstance(dt, float) and (times.requires_grad or not times.is_cpu):
            t, dt = (torch.scalar_tensor(x, dtype=torch.float64, device=y.device) for x in (t, dt))
        numbers = isinstance(dt, float)
        past: Any = times.tolist() if numbers else times
        t1 = t + dt
        order, f1 = history.shape[0], None
        if order + self.implicit < min(self.starting_order, self.max_order):
            (y1,), _ = _STARTER.last_step(field, t, dt, (y, history[0]))
        else:
            nodes = _nodes(past, t, dt)
            change = combine(_weights(nodes, dt, y), history)
            if self.implicit:
                change, f1 = self._correct(field, t1, y, change, history, nodes, dt)
            y1 = y + change
        if last:
            return (y1,), AdamsStages(field, t1, y, history, y1, f1, dt)
        if f1 is None:
            f1 = field(t1, y1)
        keep = self.max_order - 1 - self.implicit
        history1 = torch.cat((f1.unsqueeze(0), history if order <= keep else history[:keep]))
        if numbers:
            times1 = torch.tensor([t1, *past[:keep]], dtype=torch.float64, device="cpu")
        else:
            times1 = torch.cat((t1.unsqueeze(0), times[:keep]))
        return (y1, history1, times1), AdamsStages(field, t1, y, history, y1, f1, dt)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1][0]

    def interpolate(self, stages: AdamsStages, theta: Tensor) -> Tensor:
        y0, dt = stages.y0, stages.dt
        size = dt.to(y0.dtype) if isinstance(dt, Tensor) else dt
        return Hermite(y0, stages.history[0], stages.y1, stages.slope_at_end(), size)(theta)

    def _correct(
        self, field: Field, t1: Tensor | float, y: Tensor, change: Tensor, history: Tensor, nodes: Any, dt: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the change over the step, from a guess of it, and the slope at the end.

        It is the changes of two iterates that are compared: the rounding of the state is not in the way. Samples that
        step by themselves stay as they are when they have converged, as they would alone.
        """
        ahead = torch.cat((torch.ones_like(nodes[:1]), nodes)) if isinstance(nodes, Tensor) else (1.0, *nodes)
        weights = _weights(ahead, dt, y)
        known = combine(weights[1:], history)
        by_sample = isinstance(dt, Tensor) and dt.ndim > 0
        f1, done = history[0], torch.zeros_like(dt, dtype=torch.bool) if isinstance(dt, Tensor) else None
        for _ in range(self.max_iters):
            f, previous = field(t1, y + change), change
            change = torch.addcmul(known, weights[0], f)
            if by_sample and done is not None:
                f, change = torch.where(done, f1, f), torch.where(done, previous, change)
            f1 = f
            with torch.no_grad():
                scale = torch.maximum(previous.abs(), change.abs()).mul_(self.rtol).add_(self.atol)
                settled = (change - previous).abs() <= scale
                if settled.all():
                    return change, f1
                if by_sample and done is not None:
                    samples = settled.movedim(y.ndim - done.ndim, 0)
                    done = samples.reshape(len(samples), -1).all(1).reshape(done.shape)
        warn(
            f"implicit_adams: functional iteration did not converge in {self.max_iters} iterations; "
            "the solution may be inaccurate. Take smaller steps, or raise max_iters."
        )
        return change, f1


def _weights(nodes: Any, dt: Any, y: Tensor) -> Tensor:
    """Return dt times the weights of the derivatives at the nodes, shape (k, ...), in the dtype of y."""
    if isinstance(nodes, Tensor):
        return lift((integration_weights(nodes) * dt).to(y.dtype), y.ndim, keep=1)
    return _constant_weights(nodes, dt, y.dtype)


@lru_cache(maxsize=4096)
def _constant_weights(nodes: tuple[float, ...], dt: float, dtype: torch.dtype) -> Tensor:
    """Return the same for numbers, remembered: equal steps share them, and so do solves over the same times."""
    with kept_tensors():
        return torch.tensor([dt * w for w in number_weights(nodes)], dtype=dtype, device="cpu")


def _nodes(times: Any, t: Any, dt: Any) -> Any:
    """Return where the history lies in units of the step, 0 at its start, (k, ...): a tuple where dt is a number.

    A sample that waits for the others has dt = 0. What its step gives is dropped, but its weights must be finite
    for the gradient: it gets the nodes of equal steps.
    """
    if isinstance(dt, float):
        return tuple([(time - t) / dt for time in times])
    if not dt.ndim:
        return (times - t) / dt
    waits = dt == 0
    equal = -torch.arange(len(times), dtype=dt.dtype, device=dt.device).view(-1, *[1] * dt.ndim)
    return torch.where(waits, equal, (times - t) / torch.where(waits, 1.0, dt))


def integration_weights(nodes: Tensor) -> Tensor:
    """Return β with ∫₀¹ p = Σ β_j p(x_j) for every polynomial p of degree < k, for nodes x of shape (k, ...).

    Lagrange's basis integrated by Gauss-Legendre quadrature, which is exact here and, unlike the solution of a
    Vandermonde system, loses no digits at order twelve.
    """
    x = nodes.movedim(0, -1)
    points, masses = (torch.tensor(a, dtype=x.dtype, device=x.device) for a in _quadrature(len(nodes)))
    gaps = (x.unsqueeze(-1) - x.unsqueeze(-2) + torch.eye(len(nodes), dtype=x.dtype, device=x.device)).prod(-1)
    away = points.unsqueeze(-1) - x.unsqueeze(-2)  # (…, q, k), never zero: the points are inside the step
    whole = (masses * away.prod(-1)).unsqueeze(-1)
    return ((whole / away).sum(-2) / gaps).movedim(-1, 0)


def number_weights(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """Return `integration_weights` of numbers."""
    points, masses = _quadrature(len(nodes))
    whole = [mass * math.prod(q - x for x in nodes) for q, mass in zip(points, masses, strict=True)]
    parts = list(zip(points, whole, strict=True))
    return tuple(sum(w / (q - x) for q, w in parts) / math.prod(x - o for o in nodes if o != x) for x in nodes)


@cache
def _quadrature(k: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the points and weights of Gauss and Legendre on [0, 1] that are exact for polynomials of degree < k."""
    points, masses = np.polynomial.legendre.leggauss(k // 2 + 1)
    return tuple((0.5 * (points + 1)).tolist()), tuple((0.5 * masses).tolist())
