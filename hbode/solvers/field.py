"""What a step sees of the dynamics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rhs = Callable[[Tensor, Tensor], Tensor]


class Field:
    """A vector field with its time arguments prepared and its evaluations counted.

    Parameters
    ----------
    fn
        ``fn(t, y)``. For first-order methods it is the right-hand side of ``y' = fn(t, y)``; for damped
        second-order methods it is the force of
        ``h' = σ(m)``, ``m' = -γ m + fn(t, h) - ξ h``.
    dtype
        Real dtype in which ``fn`` receives the time. Steps carry the time in float64.
    gamma, xi, sigma
        For damped methods: the damping and the restoring coefficient, float64, shape () or broadcastable to h
        with as many axes as h, and the function of the momentum that drives the position (None: the identity).
    after, before
        Times within which the field may be evaluated, exclusively; a step that ends on a discontinuity
        sees the field from its own side only.
    """

    __slots__ = ("after", "before", "calls", "dtype", "fn", "gamma", "sigma", "xi")

    def __init__(
        self,
        fn: Rhs,
        dtype: torch.dtype,
        gamma: Tensor | None = None,
        xi: Tensor | None = None,
        sigma: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.fn = fn
        self.dtype = dtype
        self.gamma = gamma
        self.xi = xi
        self.sigma = sigma
        self.calls = 0
        self.after: float | None = None
        self.before: float | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if t.dtype != self.dtype:
            t = t.to(self.dtype)
        if self.after is not None:
            t = t.clamp(min=self._next(self.after, torch.inf), max=self._next(self.before, -torch.inf))
        return self.fn(t, y)

    def between(self, start: float | None, end: float | None) -> None:
        """Restrict evaluations to the open interval from `start` to `end` (either order); None lifts it."""
        if start is None or end is None:
            self.after = self.before = None
        else:
            self.after, self.before = min(start, end), max(start, end)

    def _next(self, t: float | None, towards: float) -> float:
        at = torch.tensor(t, dtype=self.dtype)
        return torch.nextafter(at, torch.tensor(towards, dtype=self.dtype)).item()


def damped_slope(field: Field, carry: tuple[Tensor, ...]) -> Tensor:
    """Return (σ(m), F - γ m - ξ h) stacked, from a carry ((h, m), F) of a damped method."""
    h, m = carry[0].unbind()
    velocity = m if field.sigma is None else field.sigma(m)
    acceleration = carry[1]
    if field.gamma is not None:
        acceleration = acceleration - field.gamma.to(h.dtype) * m
    if field.xi is not None:
        acceleration = acceleration - field.xi.to(h.dtype) * h
    return torch.stack((velocity, acceleration))
