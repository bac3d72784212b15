"""Fully implicit Runge-Kutta methods: all stages in one equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as entry

import torch
from torch import Tensor

from ..field import Field
from ..hermite import Hermite
from ..method import Carry
from .quartic import Quartic
from .stage import acceleration, fixed_point, slope, tolerance
from .step import Implicit, Interpolant, Stages


@dataclass(frozen=True)
class CollocationTableau:
    """Nodes c, matrix a and weights b; those of the quartic or none: of the slopes at the start, inside, at the end."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    quartic: tuple[float, ...] | None = None

    @property
    def dense_order(self) -> int:
        """Order of the interpolant."""
        return 3 if self.quartic is None else 4


@dataclass(frozen=True)
class Collocation(Implicit):
    """A method whose s stages are solved together, for their slopes (s, *y). The carry is (y, slope at y)."""

    tableau: CollocationTableau = entry(kw_only=True)

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int | None:
        return None

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Stages]:
        y, k = carry
        tab, settings, size = self.tableau, self.settings, dt.to(y.real.dtype)
        times = [t + c * dt for c in tab.c]
        allowed = tolerance(settings, y, size, k)
        a = torch.tensor(tab.a, dtype=y.dtype, device=y.device)

        def along(slopes: Tensor) -> Tensor:
            """Return dt a K, for every stage."""
            moved: Tensor = size * torch.tensordot(a, slopes, 1)
            return moved

        def fields(states: Tensor) -> Tensor:
            return torch.stack([field(s, x) for s, x in zip(times, states, strict=True)])

        def rates(h: Tensor, speeds: Tensor) -> Tensor:
            """Return the accelerations where these speeds lead."""
            states = zip(times, h + along(speeds), speeds, strict=True)
            return torch.stack([acceleration(field, field(s, x), x, v) for s, x, v in states])

        def solved(r: Callable[[Tensor], Tensor], guess: Tensor) -> tuple[Tensor, Tensor]:
            every = guess.unsqueeze(0).expand(len(times), *guess.shape)
            axis = None if not dt.ndim else every.ndim - dt.ndim
            return fixed_point(r, every, allowed, axis, settings, field)

        if settings.reduced:
            h, m = y.unbind()
            q, converged = solved(lambda q: rates(h, m + along(q)), k[1])
            slopes = torch.stack((m + along(q), q), 1)
        else:
            slopes, converged = solved(lambda k: fields(y + along(k)), k)

        def weighed(weights: tuple[float, ...], slopes: Tensor) -> Tensor:
            moved: Tensor = size * torch.tensordot(torch.tensor(weights, dtype=y.dtype, device=y.device), slopes, 1)
            return moved

        y1 = y + weighed(tab.b, slopes)
        f1 = slopes[-1] if tab.c[-1] == 1.0 else slope(field, t + dt, y1, settings.reduced)
        cubic = Hermite(y, k, y1, f1, size)
        inside: Interpolant = cubic
        if tab.quartic is not None:
            ends = k.unsqueeze(0), slopes, f1.unsqueeze(0)
            inside = Quartic(cubic, weighed(tab.quartic, torch.cat(ends)))
        return (y1, f1), Stages(inside, None, converged)
