"""Backward differentiation formulas on variable steps, started by lower orders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field as entry
from typing import NamedTuple

import torch
from torch import Tensor

from ..field import Field
from ..linear import combine, lift
from ..method import Carry
from ..methods.hermite import Hermite
from .dirk import Dirk, DirkTableau
from .stage import slope, solve_stage
from .step import Implicit, ImplicitStages

GROWTH = {1: math.inf, 2: 2.0, 3: 1.5, 4: 1.2}
"""How many times as long as the one before it a step of each order may be, for the formula to be zero-stable.

On steps that grow by a constant factor, it is up to 1 + √2, (1 + √5) / 2 and 1.2807 (Calvo, Grande, Grigorieff, Numer.
Math. 57, 1990); these bounds are inside them, so that the parasitic modes, which are what a change of y' leaves behind,
decay at least as .88ⁿ on any steps within them (`test_the_bounds_on_growth`)."""


@dataclass(frozen=True)
class BDF(Implicit):
    """The proximal BDF schemes (Baker et al. 2022, table of schemes), with f at the end of the step.

    The derivative at the end of the step is that of the polynomial through the new state and the last q ones, at
    whatever times they belong to. q grows from one to `highest` as the history does. The local error is estimated from
    the distance between the new state and the polynomial through the last q states that has the slope at the last of
    them, which is also where the inner solver starts (as in Hairer, Nørsett, Wanner 1993, III.5, III.6, with a slope in
    the place of the oldest state). Only states are used whose steps have grown by no more than keeps the formula zero-
    stable (`GROWTH`), which is also the most that chosen steps grow by; after a longer jump, of a grid that was given,
    `starter` takes the steps until the history is there again. Orders three and four are not A-stable: their stability
    regions leave out a sector along the imaginary axis (86° and 73° are in), where the stiff modes of a weakly damped
    heavy ball lie; for these, take order two, or a one-step method. From order three on, steps of `starter` stand for
    those of lower order, whose errors would show on a fixed grid.

    The carry is (y, slope at y, states before y (highest - 1, *y), their times (highest - 1, ...) in float64). Where
    there are none yet, the time of the oldest one stands.
    """

    highest: int = entry(kw_only=True)
    starter: DirkTableau | None = entry(kw_only=True, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._declare(order=self.highest, error_order=self.highest, max_growth=GROWTH[self.highest])

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        states = torch.zeros_like(y).expand(self.highest - 1, *y.shape)
        times = t.expand(self.highest - 1, *t.shape)
        return y, slope(field, t, y, self.settings.reduced), states, times

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
        y, k, states, times = carry
        size = dt.to(y.real.dtype)
        known = torch.cat((y.unsqueeze(0), states))
        line = torch.cat((t.unsqueeze(0), times))
        exist = line[1:] != line[:-1]
        there = exist & self._grown(line, t + dt)
        older = there.sum(0)
        starting = older < (0 if self.starter is None else self.highest - 1)
        if self.highest == 2:  # whose first step may be of order one, but no other
            starting = starting & exist.any(0)
        ends: list[_End] = []  # of the samples that the starter steps, and of the others
        if self.starter is not None and bool(starting.any()):
            one_step = Dirk(self.settings, tableau=self.starter)
            (z, k1), begun = one_step.step(field, t, dt, (y, k))
            ends.append(_End(z, k1, one_step.error(begun), begun.converged))
        if not ends or not bool(starting.all()):
            formula = self._formula(_nodes(line, there, t, dt), older)
            ends.append(self._advanced(field, t, dt, known, k, formula))
        end = ends[0]
        if len(ends) == 2:
            z, k1, error = (torch.where(starting, a, b) for a, b in zip(ends[0][:3], ends[1][:3], strict=True))
            end = _End(z, k1, error, torch.where(starting.reshape(-1), ends[0].converged, ends[1].converged))
        stages = ImplicitStages(Hermite(y, k, end.z, end.k, size), end.error, end.converged)
        return (end.z, end.k, known[:-1], line[:-1]), stages

    def _grown(self, line: Tensor, end: Tensor) -> Tensor:
        """Return which of the older states (highest - 1, ...) no step since has grown beyond the bound."""
        steps = (torch.cat((end.unsqueeze(0), line[:-1])) - line).abs()
        fine = steps[:-1] <= (1 + 1e-6) * GROWTH[self.highest] * steps[1:]
        return fine.long().cumprod(0).bool()

    def _advanced(self, field: Field, t: Tensor, dt: Tensor, known: Tensor, k: Tensor, formula: Formula) -> _End:
        """Take the step by the formula, from the states `known` and the slope at the first of them."""
        size = dt.to(known.real.dtype)
        base = _combine(formula.past, known)
        sigma = size * formula.sigma.to(size.dtype)
        predicted = torch.addcmul(_combine(formula.ahead, known), size * formula.along.to(size.dtype), k)
        waits = dt == 0
        guess = torch.where(waits, k, (predicted - base) / torch.where(waits, 1.0, sigma))
        z, k1, converged = solve_stage(field, t + dt, base, sigma, guess, self.settings)
        return _End(z, k1, formula.share.to(size.dtype) * (z - predicted), converged)

    def _formula(self, nodes: Tensor, older: Tensor) -> Formula:
        """Return the formula of the order that so many older states allow."""
        chosen = _of_order(nodes, 1)
        for q in range(2, self.highest + 1):
            pairs = zip(_of_order(nodes, q), chosen, strict=True)
            chosen = Formula(*(torch.where(older >= q - 1, new, old) for new, old in pairs))
        return chosen


class _End(NamedTuple):
    """The state and the slope at the end of a step, its error, and for which samples it was solved."""

    z: Tensor
    k: Tensor
    error: Tensor
    converged: Tensor


class Formula(NamedTuple):
    """One step's share of σ; weights of y and the older states in the stage equation (highest, ...); in the predictor
    theirs and that of the slope; and the share of the distance to the predictor that is the local error."""

    sigma: Tensor
    past: Tensor
    ahead: Tensor
    along: Tensor
    share: Tensor


def _nodes(line: Tensor, there: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Return where the times lie in units of the step from its end; those not there as if steps had been equal."""
    equal = -torch.arange(1, len(line) + 1, dtype=dt.dtype, device=dt.device).view(-1, *[1] * dt.ndim)
    waits = dt == 0
    nodes = (line - t) / torch.where(waits, 1.0, dt) - 1
    missing = torch.cat((torch.zeros_like(line[:1], dtype=torch.bool), ~there)) | waits
    return torch.where(missing, equal.expand(nodes.shape), nodes)


def _of_order(nodes: Tensor, q: int) -> Formula:
    """Return BDF q on the nodes x_0 = -1, x_1, … (highest, ...): Lagrange's polynomials l_j of the first q at 0."""
    x, blank = nodes[:q], torch.zeros_like(nodes[q:])
    one = torch.eye(q, dtype=torch.bool, device=x.device).view(q, q, *[1] * (x.ndim - 1))
    gaps = torch.where(one, 1.0, x.unsqueeze(1) - x.unsqueeze(0))
    values = torch.where(one, 1.0, -x.unsqueeze(0) / gaps).prod(1)
    rate = -(1 / x).sum(0)  # of the polynomial that is one at 0 and zero at the nodes

    spread = gaps.prod(1)  # ω'(x_j) of ω = Π (x - x_j)
    slopes = spread[:1] / (spread * torch.where(one[:, 0], 1.0, x[:1] - x))  # l_j'(x_0), j > 0
    own = (1 / (x[:1] - x[1:])).sum(0, keepdim=True)  # l_0'(x_0)
    bend = (-x).prod(0) / spread[0]
    return Formula(
        1 / rate,
        torch.cat((-values / (x * rate), blank)),
        torch.cat((values - bend * torch.cat((own, slopes[1:])), blank)),
        bend,
        1 / (1 + rate),
    )


def _combine(weights: Tensor, stack: Tensor) -> Tensor:
    return combine(lift(weights.to(stack.dtype), stack.ndim - 1, keep=1), stack)
