"""Fully implicit Runge-Kutta methods: all stages in one equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as entry
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from ..coefficients import check_length, check_orders, check_quadrature, check_sum
from ..field import Field, acceleration
from ..method import Carry
from ..methods.hermite import Hermite
from .inner import NewtonKrylov
from .quartic import Quartic
from .stage import Settings, fixed_point, slope, solve_stage, tolerance
from .step import Implicit, ImplicitStages, Interpolant


@dataclass(frozen=True)
class CollocationTableau:
    """Nodes c, matrix a and weights b; those of the quartic or none: of the slopes at the start, inside, at the end.

    `filter` is a real eigenvalue of a, if there is one and errors are to be estimated with it.

    Raises
    ------
    ValueError
        If the shapes do not fit together or the coefficients break a condition that the order implies.

    Examples
    --------
    >>> from hbode.solvers import CollocationTableau
    >>> CollocationTableau(1, (1.0,), ((1.0,),), (1.0,)).order  # implicit Euler
    1
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    quartic: tuple[float, ...] | None = None
    filter: float | None = None

    def __post_init__(self) -> None:
        check_orders(order=self.order)
        check_length("a", self.a, self.c)
        check_length("b", self.b, self.c)
        for i, row in enumerate(self.a):
            check_length(f"row {i} of a", row, self.c)
            check_sum(f"row {i} of a", row, self.c[i], "c[i]")
        check_quadrature("b", self.b, self.c, self.order, velocity=True)
        eigenvalues = np.linalg.eigvals(np.array(self.a))
        if self.filter is not None and not (np.abs(eigenvalues - self.filter) <= 1e-12).any():
            raise ValueError(f"filter must be a real eigenvalue of a, one of {eigenvalues}; got {self.filter}")

    @property
    def dense_order(self) -> int:
        """Order of the interpolant."""
        return 3 if self.quartic is None else 4

    @cached_property
    def b_error(self) -> tuple[float, ...]:
        """Weights of the slopes at the start and of the stages: a quadrature of order s, less b.

        Its weight at the start is the filter's.
        """
        first = self.filter or 0.0
        moments = 1 / np.arange(1, len(self.c) + 1)
        moments[0] -= first
        embedded = np.linalg.solve(np.vander(self.c, increasing=True).T, moments)
        return (first, *(embedded - self.b).tolist())


@dataclass(frozen=True)
class Collocation(Implicit):
    """A method whose s stages are solved together, for their slopes (s, *y). The carry is (y, slope at y).

    By Newton's method where no other is asked for: what couples the stages has complex eigenvalues of any angle, which
    Anderson's acceleration, from as few differences as it keeps, often does not get across.

    Examples
    --------
    >>> from hbode.solvers import Collocation, as_method
    >>> isinstance(as_method("radauIIA5"), Collocation)
    True
    """

    settings: Settings = entry(default_factory=lambda: Settings(NewtonKrylov(), share=0.01))
    tableau: CollocationTableau = entry(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        error_order = None if self.tableau.filter is None else len(self.tableau.c)
        self._declare(order=self.tableau.order, error_order=error_order)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
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
            states = zip(dampings, times, h + along(speeds), speeds, strict=True)
            return torch.stack([acceleration(damping, field(s, x), x, v) for damping, s, x, v in states])

        def solved(r: Callable[[Tensor], Tensor], guess: Tensor) -> tuple[Tensor, Tensor]:
            every = guess.unsqueeze(0).expand(len(times), *guess.shape)
            axis = None if not dt.ndim else every.ndim - dt.ndim
            return fixed_point(r, every, allowed, axis, settings, field)

        if settings.reduced:
            h, m = y.unbind()
            dampings = [field.damping_at(s) for s in times]
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
        if tab.filter is None:
            return (y1, f1), ImplicitStages(inside, None, converged)

        def short() -> Tensor:
            return weighed(tab.b_error, torch.cat((k.unsqueeze(0), slopes)))

        error = partial(self._filtered, field, t + dt, tab.filter * size, y1, f1, short)
        return (y1, f1), ImplicitStages(inside, error, converged)

    @torch.no_grad()
    def _filtered(
        self, field: Field, t: Tensor, sigma: Tensor, y: Tensor, k: Tensor, short: Callable[[], Tensor]
    ) -> Tensor:
        """Return the error e of e - σ (f(t, y + e) - f(t, y)) = short() (Hairer, Wanner 1996, IV.8).

        By itself, what the embedded quadrature is short of is as large as dt f in a stiff component at rest.
        """
        stage = solve_stage(field, t, y + short() - sigma * k, sigma, k, self.settings)
        return torch.where(stage.converged.reshape(sigma.shape), stage.z - y, math.nan)
