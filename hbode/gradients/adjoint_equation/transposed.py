"""The transpose of a method's step on a linear equation: a method for the adjoint equation.

A step of any method on v' = A(t) v is a linear map of v, with products of A at the times of its stages. Its transpose
is a step of the adjoint equation z' = -Aᵀ z the other way: of the same order, since it is as close to the transposed
propagator as the step is to the propagator, and with one product of Aᵀ for each product of A. That of a Nyström step
with exact damping is the Nyström step of the reversed tableau, with the same damping, on the momentum adjoint
(docs/theory.md, 3.4 to 3.6). The transpose of the interpolant takes in cotangents of the states inside the step, any
number of them, without ending the step there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...solvers import Carry, Damping, Field, Method
from ...solvers.linear import combine
from .linearisation import Evaluation, Linearisation


class States(Protocol):
    """The solution that the adjoint is taken along."""

    def states(self, times: Sequence[float], end: float) -> Tensor:
        """Return the states at times in order, none after the end of the step at hand, shape (n, *y)."""
        ...


@dataclass(frozen=True)
class Impulses:
    """Cotangents (n, *y) of the states at times (n,), in the direction of time: where the adjoint jumps.

    `sign` is the direction, `slack` the rounding of a time.
    """

    times: list[float]
    bars: Tensor
    sign: float
    slack: float

    def within(self, start: float, end: float) -> slice:
        """Return those after `start` and up to `end`; what is at an end but for rounding counts as before it."""
        low, high = (self.sign * t + self.slack for t in (start, end))
        keys = [self.sign * t for t in self.times]
        return slice(bisect_right(keys, low), bisect_right(keys, high))


class TransposedStages(NamedTuple):
    """A step of the adjoint: what it was combined from, for its error."""

    weights: TransposedWeights
    evaluations: list[Evaluation]
    bars: Tensor


class TransposedWeights(NamedTuple):
    """A linear step as weights of the symbols (v, k_1, …, k_s), with k_j the products of A; the last axes those of γ.

    Stage inputs (s, K), the state at the end and the error (d, K) each, states inside (n, d, K), for v of d parts.
    """

    times: list[float]
    inputs: Tensor
    end: Tensor
    error: Tensor | None
    inside: Tensor


@dataclass(frozen=True, eq=False)
class Transposed(Method):
    """A one-step method on the adjoint equation, z' = -Aᵀ z with jumps, backwards along a solution.

    It runs in the loop as any other method. The carry is (z, integrals …): the integrals of the wanted tensors are
    sums over the products of the accepted steps, of the order of the method. With `full`, z and the integrals
    are one vector, whose error is measured as a whole.
    """

    method: Method
    linear: Linearisation
    along: States
    impulses: Impulses
    full: bool = False
    evaluated: dict[float, Evaluation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._declare(order=self.method.order, error_order=self.method.error_order)

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return (y,) if self.full else (y, *self.linear.zeros())

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        self.evaluated.clear()  # they were made on the other side of the discontinuity
        return carry

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, TransposedStages]:
        end, start = float(t), float(t + dt)
        met = self.impulses.within(start, end)
        inside = [(at - start) / (end - start) for at in self.impulses.times[met]]
        weights = self._weights(start, end, inside)
        evaluations = self._evaluate(field, weights.times, start, end)
        z, *sums = self._split(carry)
        bars = self.impulses.bars[met]
        sums = [x.clone() for x in sums]
        pulled = self._pull(weights, evaluations, weights.end, weights.inside, z, bars, sums)
        stages = TransposedStages(weights, evaluations, z if not len(bars) else z + bars.sum(0))
        return self.join(pulled, sums), stages

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return torch.zeros_like(carry[0])

    def error(self, stages: TransposedStages) -> Tensor:
        """Return the transpose of the error estimate: one more product of Aᵀ for each stage, no evaluation."""
        weights = stages.weights
        if weights.error is None:
            raise NotImplementedError("the method has no error estimate; it runs on a fixed grid")
        sums = self.linear.zeros() if self.full else None
        none = weights.inside[:0]
        bars = stages.bars.new_empty((0, *stages.bars.shape))
        pulled = self._pull(weights, stages.evaluations, weights.error, none, stages.bars, bars, sums)
        return self.join(pulled, sums)[0] if sums is not None else pulled

    def interpolate(self, stages: TransposedStages, theta: Tensor) -> Tensor:
        raise NotImplementedError("the adjoint is known at the ends of its steps")

    def divided(self, carry: Carry) -> tuple[Tensor, list[Tensor]]:
        """Return the adjoint and the integrals."""
        z, *sums = self._split(carry)
        return z, sums or self.linear.zeros()  # a solve of no length has none

    def join(self, z: Tensor, sums: list[Tensor]) -> Carry:
        """Return the carry with this adjoint and these integrals."""
        if not self.full:
            return (z, *sums)
        return (torch.cat([z.reshape(-1), *(x.reshape(-1).to(z.dtype) for x in sums)]),)

    def _split(self, carry: Carry) -> Carry:
        if not self.full:
            return carry
        bars = self.impulses.bars
        like = [bars.new_empty(bars.shape[1:]), *self.linear.zeros()]
        parts = carry[0].split([x.numel() for x in like])
        return tuple(part.view(x.shape).to(x.dtype) for part, x in zip(parts, like, strict=True))

    def _evaluate(self, field: Field, times: list[float], start: float, end: float) -> list[Evaluation]:
        """Return the field at the stage times; what was evaluated at an end of this step before is used again."""
        kept = {t: at for t, at in self.evaluated.items() if t in (start, end)}
        missing = sorted((t for t in set(times) if t not in kept), reverse=end < start)
        if missing:
            states = self.along.states(missing, end)
            for t, y in zip(missing, states, strict=True):
                kept[t] = self.linear.evaluate(field, torch.tensor(t, dtype=torch.float64, device=y.device), y)
        self.evaluated.clear()
        self.evaluated.update({t: at for t, at in kept.items() if t in (start, end)})
        return [kept[t] for t in times]

    def _pull(
        self,
        weights: TransposedWeights,
        evaluations: list[Evaluation],
        end: Tensor,
        inside: Tensor,
        z: Tensor,
        bars: Tensor,
        sums: list[Tensor] | None,
    ) -> Tensor:
        """Return the transpose of the rows `end` and `inside` of a step, applied to z and bars."""
        parts, stages, damped = len(end), len(evaluations), self.method.damped
        product = self.linear.force if damped else self.linear.first_order
        known = torch.cat((z, *bars)) if damped else torch.stack((z, *bars))
        exact = torch.cat((end, inside.flatten(0, 1), weights.inputs.flip(0)))  # rows: known, last stage, …, first
        columns = exact.to(known).unbind(1)
        values = torch.cat((known, known.new_zeros(stages, *known.shape[1:])))
        for n, j in enumerate(reversed(range(stages)), len(known)):
            if exact[:n, parts + j].any():
                values[n] = product(evaluations[j], combine(columns[parts + j][:n], values[:n]), sums)
        out = [combine(columns[i], values) for i in range(parts)]
        return torch.stack(out) if damped else out[0]

    def _weights(self, start: float, end: float, inside: list[float]) -> TransposedWeights:
        """Run the step on unit vectors in place of v and of the products of A: its weights are what comes out."""
        parts, own = (2, self.damping.gamma.shape[1:]) if self.method.damped else (1, ())
        size = parts + self.stage_count
        unit = torch.eye(size, dtype=torch.float64).view(size, size, *[1] * len(own)).expand(size, size, *own)
        times: list[float] = []
        inputs: list[Tensor] = []

        def product(t: Tensor, v: Tensor) -> Tensor:
            times.append(float(t))
            inputs.append(v)
            return unit[parts + len(inputs) - 1]

        linear = Field(product, torch.float64, self.damping if self.method.damped else None)
        t, dt = torch.tensor([start, end - start], dtype=torch.float64).unbind()
        first = self.method.start(linear, t, unit[:2] if self.method.damped else unit[0])
        carry, stages = self.method.step(linear, t, dt, first)
        slack = 1e-12 * abs(end - start)
        times = [start if abs(x - start) <= slack else end if abs(x - end) <= slack else x for x in times]
        theta = torch.tensor(inside, dtype=torch.float64)
        rows = self.method.interpolate(stages, theta) if inside else carry[0].unsqueeze(0)[:0]
        error = self.method.error(stages) if self.method.error_order is not None else None
        shape = (parts, size, *own)
        return TransposedWeights(
            times,
            torch.stack(inputs),
            carry[0].reshape(shape),
            None if error is None else error.reshape(shape),
            rows.reshape(len(inside), *shape),
        )

    @cached_property
    def damping(self) -> Damping:
        """The damping for unit vectors: in float64, with one more axis where it differs over channels."""
        damping = self.linear.field.damping
        gamma, kappa = (x.detach().cpu() for x in torch.broadcast_tensors(damping.gamma, damping.kappa))
        xi = 0.25 * gamma * gamma - kappa
        if gamma.ndim:
            gamma, xi = gamma.unsqueeze(0), xi.unsqueeze(0)
        return Damping.of(gamma, xi, gamma)

    @cached_property
    def stage_count(self) -> int:
        """How often a step evaluates its field, its start included."""
        probe = Field(lambda t, v: torch.zeros_like(v), torch.float64)
        t = torch.zeros((), dtype=torch.float64)
        v = torch.zeros((2, 1) if self.method.damped else (1,), dtype=torch.float64)
        self.method.step(probe, t, t + 1, self.method.start(probe, t, v))
        return probe.calls
