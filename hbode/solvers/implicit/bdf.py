"""Backward differentiation formulas on variable steps, started by lower orders."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as entry

import torch
from torch import Tensor

from ..field import Field
from ..hermite import Hermite
from ..linear import combine, lift
from ..method import Carry
from .dirk import Dirk, DirkTableau
from .stage import slope, solve_stage
from .step import Implicit, Stages


@dataclass(frozen=True)
class BDF(Implicit):
    """The proximal BDF schemes (Baker et al. 2022, table of schemes), with f at the end of the step.

    The derivative at the end of the step is that of the polynomial through the new state and the last q ones, at
    whatever times they belong to. q grows from one to `highest` as the history does. The local error is estimated from
    the distance between the new state and the polynomial through the last q + 1 states (Hairer, Nørsett, Wanner
    1993, III.5, III.6); in the first step, the tangent takes its place. From order three on, steps of `starter` stand
    for those of lower order, whose errors would show on a fixed grid.

    The carry is (y, slope at y, states before y (q, *y), their times (q, ...) in float64). Where there are none yet,
    the time of the oldest one stands.
    """

    highest: int = entry(kw_only=True)
    starter: DirkTableau | None = entry(kw_only=True, default=None)

    @property
    def order(self) -> int:
        return self.highest

    @property
    def error_order(self) -> int | None:
        return self.highest

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        states = torch.zeros_like(y).expand(self.highest, *y.shape)
        times = t.expand(self.highest, *t.shape)
        return y, slope(field, t, y, self.settings.reduced), states, times

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Stages]:
        y, k, states, times = carry
        size = dt.to(y.real.dtype)
        known = torch.cat((y.unsqueeze(0), states))
        line = torch.cat((t.unsqueeze(0), times))
        there = line[1:] != line[:-1]
        count = there.sum(0)
        first, past, ahead, share = self._weights(_nodes(line, there, t, dt), count)
        base = _combine(past, known)
        sigma = size * first.to(size.dtype)
        predicted = torch.where(there[0], _combine(ahead, known), torch.addcmul(y, size, k))
        guess = torch.where(there[0] & (dt != 0), (predicted - base) / sigma, k)
        z, k1, converged = solve_stage(field, t + dt, base, sigma, guess, self.settings)
        error = share.to(size.dtype) * (z - predicted)
        starting = count < self.highest - 1
        if self.starter is not None and bool(starting.any()):
            one_step = Dirk(self.settings, tableau=self.starter)
            (z0, k0), begun = one_step.step(field, t, dt, (y, k))
            pairs = ((z0, z), (k0, k1), (one_step.error(begun), error))
            z, k1, error = (torch.where(starting, new, old) for new, old in pairs)
            converged = torch.where(starting.reshape(-1), begun.converged, converged)
        return (z, k1, known[:-1], line[:-1]), Stages(Hermite(y, k, z, k1, size), error, converged)

    def _weights(self, nodes: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """Return what the order that `count` older states allow makes of the nodes (q + 1, ...).

        The step's share of σ; the weights of y and the older states in the stage equation and in the predictor; and the
        share of the distance to the predictor that is the local error.
        """
        chosen = _of_order(nodes, 1)
        for q in range(2, self.highest + 1):
            pairs = zip(_of_order(nodes, q), chosen, strict=True)
            chosen = tuple(torch.where(count >= q, new, old) for new, old in pairs)
        return chosen


def _nodes(line: Tensor, there: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Return where the times lie in units of the step from its end; those not there as if steps had been equal."""
    equal = -torch.arange(1, len(line) + 1, dtype=dt.dtype, device=dt.device).view(-1, *[1] * dt.ndim)
    waits = dt == 0
    nodes = (line - t) / torch.where(waits, 1.0, dt) - 1
    missing = torch.cat((torch.zeros_like(there[:1]), ~there)) | waits
    return torch.where(missing, equal.expand(nodes.shape), nodes)


def _of_order(nodes: Tensor, q: int) -> tuple[Tensor, ...]:
    """Return the weights of BDF q: Lagrange's polynomials of the nodes give value and derivative at the end, 0."""
    slope0 = -(1 / nodes[:q]).sum(0)
    past = -_lagrange(nodes[:q]) / nodes[:q] / slope0
    ahead = _lagrange(nodes[: q + 1])
    blank = torch.zeros_like(nodes)
    return (
        1 / slope0,
        torch.cat((past, blank[q:])),
        torch.cat((ahead, blank[q + 1 :])),
        -1 / (slope0 * nodes[q]),
    )


def _lagrange(nodes: Tensor) -> Tensor:
    """Return the values at 0 of Lagrange's polynomials of the nodes (k, ...)."""
    one = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
    one = one.view(*one.shape, *[1] * (nodes.ndim - 1))
    gaps = torch.where(one, 1.0, nodes.unsqueeze(1) - nodes.unsqueeze(0))
    return torch.where(one, 1.0, -nodes.unsqueeze(0) / gaps).prod(1)


def _combine(weights: Tensor, stack: Tensor) -> Tensor:
    return combine(lift(weights.to(stack.dtype), stack.ndim - 1, keep=1), stack)
