"""Diagonally implicit Runge-Kutta methods."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from dataclasses import field as entry
from functools import cached_property

import torch
from torch import Tensor

from ..coefficients import check_error_weights, check_length, check_orders, check_quadrature, check_sum
from ..field import Field
from ..method import Carry
from ..methods.hermite import Hermite
from .equation import Secants
from .quartic import Quartic
from .stage import Settings, slope, solve_stage
from .step import Implicit, ImplicitStages, Interpolant


@dataclass(frozen=True)
class DirkTableau:
    """Nodes c, rows a of length 1 … s with the diagonal last, weights b; those of the error and of the quartic or none.

    A quartic is for a method of order four and more, whose first stage is explicit and whose last one ends the step.

    Raises
    ------
    ValueError
        If the shapes do not fit together or the coefficients break a condition that the orders imply.

    Examples
    --------
    >>> from hbode.solvers import DirkTableau
    >>> DirkTableau(1, (1.0,), ((1.0,),), (1.0,)).order  # implicit Euler
    1
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...] | None = None
    error_order: int | None = None
    quartic: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_orders(order=self.order, error_order=self.error_order)
        for name, values in (("a", self.a), ("b", self.b), ("b_error", self.b_error)):
            if values is not None:
                check_length(name, values, self.c)
        for i, row in enumerate(self.a):
            if len(row) != i + 1:
                raise ValueError(f"row {i} of a must have {i + 1} entries, the last on the diagonal; got {len(row)}")
            check_sum(f"row {i} of a", row, self.c[i], "c[i]")
        check_quadrature("b", self.b, self.c, self.order, velocity=True)
        check_error_weights(self.error_order, self.c, b_error=self.b_error)

    @property
    def dense_order(self) -> int:
        """Order of the interpolant."""
        return 3 if self.quartic is None else 4

    @cached_property
    def guesses(self) -> tuple[tuple[float, ...], ...]:
        """Weights of the slopes so far that extrapolate to each stage: from the three nearest nodes, at most."""
        return tuple(_extrapolation(self.c[:i], c) for i, c in enumerate(self.c))


@dataclass(frozen=True)
class Dirk(Implicit):
    """A method whose stages are solved one after the other. The carry is (y, slope at y).

    Examples
    --------
    >>> from hbode.solvers import Dirk, as_method
    >>> isinstance(as_method("esdirk4"), Dirk)
    True
    """

    settings: Settings = entry(default_factory=lambda: Settings(share=0.01))
    tableau: DirkTableau = entry(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._declare(order=self.tableau.order, error_order=self.tableau.error_order)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
        y, k = carry
        tab, size = self.tableau, dt.to(y.real.dtype)
        slopes: list[Tensor] = []
        secants: defaultdict[float, Secants] = defaultdict(Secants)
        zero = torch.zeros_like(y)
        converged = torch.ones((), dtype=torch.bool, device=y.device)
        z = y
        for c, row, guess in zip(tab.c, tab.a, tab.guesses, strict=True):
            known = weighed(y, size, row[:-1], slopes)
            if row[-1] == 0.0:
                z, k = known, carry[1] if not slopes else slope(field, t + c * dt, known, self.settings.reduced)
            else:
                near = weighed(zero, None, guess, slopes) if slopes else k
                if bool(converged.any()):
                    sigma, left = row[-1] * size, secants[row[-1]]
                    z, k, fine = solve_stage(field, t + c * dt, known, sigma, near, self.settings, left)
                    converged = converged & fine
                else:  # the step will be refused
                    z, k = known, near
            slopes.append(k)
        stiffly_accurate = tab.b == tab.a[-1] and tab.c[-1] == 1.0
        y1 = z if stiffly_accurate else weighed(y, size, tab.b, slopes)
        f1 = slopes[-1] if stiffly_accurate else slope(field, t + dt, y1, self.settings.reduced)
        error = None if tab.b_error is None else weighed(zero, size, tab.b_error, slopes)
        cubic = Hermite(y, carry[1], y1, f1, size)
        inside: Interpolant = cubic
        if tab.quartic is not None:
            inside = Quartic(cubic, weighed(zero, size, tab.quartic, slopes))
        return (y1, f1), ImplicitStages(inside, error, converged)


def weighed(y: Tensor, size: Tensor | None, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return y + size Σ weights slopes; `size` None stands for one."""
    for weight, k in zip(weights, slopes, strict=True):
        if weight:
            y = torch.add(y, k, alpha=weight) if size is None else torch.addcmul(y, size, k, value=weight)
    return y


def _extrapolation(nodes: tuple[float, ...], c: float) -> tuple[float, ...]:
    nearest: dict[float, int] = {}
    for i in sorted(range(len(nodes)), key=lambda i: (abs(nodes[i] - c), -i)):
        nearest.setdefault(nodes[i], i)
    chosen = list(nearest.items())[:3]
    weights = [0.0] * len(nodes)
    for node, i in chosen:
        weights[i] = math.prod((c - other) / (node - other) for other, _ in chosen if other != node)
    return tuple(weights)
