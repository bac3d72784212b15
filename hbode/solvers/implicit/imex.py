"""Additive Runge-Kutta methods: diagonally implicit in the stiff part of a field, explicit in the other one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from dataclasses import field as entry

import torch
from torch import Tensor

from ..coefficients import check_length, check_sum
from ..field import Field
from ..method import Carry
from ..methods.hermite import Hermite
from .dirk import Dirk, DirkTableau, weighed
from .equation import Secants
from .stage import Settings, slope, solve_stage
from .step import ImplicitStages


@dataclass(frozen=True)
class ImexTableau(DirkTableau):
    """A diagonally implicit method, and the rows of length 0 … s - 1 of an explicit one with its nodes and weights.

    Raises
    ------
    ValueError
        As for `DirkTableau`; also if the rows do not fit the nodes.
    """

    explicit: tuple[tuple[float, ...], ...] = entry(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length("explicit", self.explicit, self.c)
        for i, row in enumerate(self.explicit):
            if len(row) != i:
                raise ValueError(f"row {i} of explicit must have {i} entries; got {len(row)}")
            check_sum(f"row {i} of explicit", row, self.c[i], "c[i]")


@dataclass(frozen=True)
class Imex(Dirk):
    """An additive method (Kennedy, Carpenter, Appl. Numer. Math. 44, 2003) for y' = f_stiff + f_nonstiff.

    z_i = y + dt Σ_j (a_ij f_stiff(z_j) + â_ij f_nonstiff(z_j)), solved for f_stiff(z_i) one after the other, and
    y⁺ = y + dt Σ_j b_j (f_stiff + f_nonstiff)(z_j). In a damped system f_nonstiff is the force of that name; damping
    and ξ h go with the other one. A field that is not divided is stiff as a whole: the steps are those of the implicit
    method.

    The carry is (y, stiff slope at y, other slope at y), or that of `Dirk` for a field that is not divided.
    """

    settings: Settings = entry(default_factory=Settings)
    tableau: ImexTableau = entry(kw_only=True)

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        stiff, nonstiff = field.parts()
        k = slope(stiff, t, y, self.settings.reduced)
        return (y, k) if nonstiff is None else (y, k, self._other(nonstiff, t, y))

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return sum(carry[2:], carry[1])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
        stiff, nonstiff = field.parts()
        if nonstiff is None:
            return super().step(field, t, dt, carry)
        y, *firsts = carry
        tab, size = self.tableau, dt.to(y.real.dtype)
        slopes, others = ([first] for first in firsts)
        secants: defaultdict[float, Secants] = defaultdict(Secants)
        converged = torch.ones((), dtype=torch.bool, device=y.device)
        stages = zip(tab.c[1:], tab.a[1:], tab.explicit[1:], tab.guesses[1:], strict=True)
        for c, row, explicit, guess in stages:
            known = weighed(weighed(y, size, row[:-1], slopes), size, explicit, others)
            near, own = weighed(torch.zeros_like(y), None, guess, slopes), row[-1]
            z, k, fine = solve_stage(stiff, t + c * dt, known, own * size, near, self.settings, secants[own])
            converged = converged & fine
            slopes.append(k)
            others.append(self._other(nonstiff, t + c * dt, z))
        sums = [torch.add(k, n) for k, n in zip(slopes, others, strict=True)]
        y1 = weighed(y, size, tab.b, sums)
        # f(z) of the last stage is not its slope, but off by what stiffness makes of the residual there
        at_end, at_last = (slope(stiff, t + dt, x, self.settings.reduced) for x in (y1, z))
        ends = slopes[-1] + (at_end - at_last), self._other(nonstiff, t + dt, y1)
        error = None if tab.b_error is None else weighed(torch.zeros_like(y), size, tab.b_error, sums)
        return (y1, *ends), ImplicitStages(Hermite(y, sums[0], y1, ends[0] + ends[1], size), error, converged)

    def _other(self, nonstiff: Field, t: Tensor, y: Tensor) -> Tensor:
        """Return the part of the slope that the nonstiff part of the field is."""
        if not self.settings.reduced:
            return nonstiff(t, y)
        return torch.stack((torch.zeros_like(y[0]), nonstiff(t, y[0])))
