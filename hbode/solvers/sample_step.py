"""One step of samples that step by themselves, and the events inside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .clock import Nodes, SampleClock
from .field import Field
from .method import Carry, Invertible, Method
from .noise import Noise, restore_noise
from .shared_step import differentiable_slope
from .tape import Crossing, Replayed


@dataclass(slots=True)
class SampleStep:
    """One step of the batch in which at least one sample was accepted; the others took a step of length zero."""

    carry: Carry
    start: Nodes
    end: Nodes
    moved: Tensor
    index: Tensor
    inside: Tensor
    found: tuple[tuple[int, Tensor, Tensor], ...] = ()
    """(crossing, samples that met it (B,), fraction of the step (B,)) of every event function met."""
    sides: tuple[float, float] | None = None
    noise: Noise | None = None

    @property
    def rows(self) -> int:
        return int(self.inside.sum())

    @property
    def events(self) -> int:
        return sum(int(met.sum()) for _, met, _ in self.found)

    def run(self, method: Method, field: Field, clock: SampleClock) -> tuple[Carry, Any]:
        """Take the step; samples that do not move keep their carry."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        carry, stages = method.step(field, *self._span(clock), self.carry)
        return self.hold(clock, carry, self.carry), stages

    def undo(self, method: Invertible, field: Field, clock: SampleClock, carry: Carry) -> Carry:
        return self.hold(clock, method.undo(field, *self._span(clock), carry), carry)

    def hold(self, clock: SampleClock, carry: Carry, held: Carry) -> Carry:
        """Return `carry` for the samples that move in the step and `held` for the others."""
        if self.moved.all():
            return carry
        mask = clock.wide(self.moved)
        return tuple(
            torch.where(mask, new, old) if new.shape == old.shape else new
            for new, old in zip(carry, held, strict=True)
        )

    def _span(self, clock: SampleClock) -> tuple[Tensor, Tensor]:
        """Return start and length of the step, in the shape in which they meet the state."""
        start = clock.at(self.start)
        dt = torch.where(self.moved, clock.at(self.end) - start, torch.zeros_like(start))
        return clock.wide(start), clock.wide(dt)

    def read(
        self, method: Method, clock: SampleClock, crossings: Sequence[Crossing], carry: Carry, stages: Any
    ) -> Replayed:
        """Return what the step gives out: rows (K, *row) in the order of `inside`, events likewise."""
        rows = None
        start, end = clock.at(self.start), clock.at(self.end)
        span = torch.where(self.moved, end - start, torch.ones_like(start))
        axis = clock.ndim
        if self.inside.any():
            at = clock.times.gather(1, self.index.T).T  # (n, B)
            theta = torch.where(self.inside, (at - start) / span, torch.zeros_like(at))
            states = method.interpolate(stages, clock.wide(theta))
            exact = (theta == 1.0) & ((self.index == self.end.anchor) | (not clock.times.requires_grad))
            states = torch.where(clock.wide(exact).reshape(_row_mask(exact, states, axis)), carry[0], states)
            rows = batch_first(states, axis, lead=1)[self.inside]
        if not self.found:
            return Replayed(carry, rows, None, None)
        event_t, event_y = [], []
        for index, met, theta in self.found:
            where = self._locate(method, clock, crossings[index], theta, stages, start, span)
            states = method.interpolate(stages, clock.wide(where.unsqueeze(0)))
            event_t.append((start + where * span)[met])
            event_y.append(batch_first(states, axis, lead=1)[0][met])
        return Replayed(carry, rows, torch.cat(event_t), torch.cat(event_y))

    def replay(self, method: Method, field: Field, clock: SampleClock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self,
        method: Method,
        clock: SampleClock,
        crossing: Crossing,
        theta: Tensor,
        stages: Any,
        start: Tensor,
        span: Tensor,
    ) -> Tensor:
        """Return the fractions with the derivatives of the implicit function, as `SharedStep` does."""

        def value(at: Tensor) -> Tensor:
            return crossing.fn(start + at * span, method.interpolate(stages, clock.wide(at.unsqueeze(0)))[0])

        where = theta
        for _ in range(2):
            g = value(where)
            if g.requires_grad:
                slope = differentiable_slope(value, where, g)
                where = where - (g - g.detach()).to(theta.dtype) / torch.where(slope == 0, 1.0, slope)
        return where


def batch_first(x: Tensor, ndim: int, lead: int = 0) -> Tensor:
    """Move the batch axis of states, which has `ndim` axes of h at the end, next to the `lead` leading axes."""
    return x.movedim(x.ndim - ndim, lead)


def _row_mask(mask: Tensor, states: Tensor, ndim: int) -> tuple[int, ...]:
    """The shape in which a mask (n, B) meets states (n, *y)."""
    return (mask.shape[0], *[1] * (states.ndim - 1 - ndim), mask.shape[1], *[1] * (ndim - 1))


@torch.no_grad()
def find_sample_crossings(
    method: Method,
    clock: SampleClock,
    crossings: Sequence[Crossing],
    values: list[Tensor],
    step: SampleStep,
    carry: Carry,
    stages: Any,
    accept: Tensor,
) -> tuple[tuple[tuple[int, Tensor, Tensor], ...], list[Tensor], Tensor, Tensor]:
    """Return the events of a step, the values at its end, who stops, and the time that each sample reaches."""
    start, span = step.start.value, step.end.value - step.start.value
    ends = [c.fn(step.end.value, carry[0]).double() for c in crossings]
    met, theta = [], []
    for crossing, g0, g1 in zip(crossings, values, ends, strict=True):
        up, down = (g0 < 0) & (g1 >= 0), (g0 > 0) & (g1 <= 0)
        hit = accept & ((up & (crossing.direction >= 0)) | (down & (crossing.direction <= 0)))
        low, high = torch.zeros_like(start), torch.ones_like(start)
        if hit.any():
            for _ in range(54):
                middle = 0.5 * (low + high)
                g = crossing.fn(
                    start + middle * span, method.interpolate(stages, clock.wide(middle.unsqueeze(0)))[0]
                ).double()
                same = torch.sign(g) == torch.sign(g0)
                low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        met.append(hit)
        theta.append(high)
    never = torch.full_like(start, math.inf)
    limit = never
    for crossing, hit, at in zip(crossings, met, theta, strict=True):
        if crossing.terminal:
            limit = torch.minimum(limit, torch.where(hit, at, never))
    over = torch.isfinite(limit)
    found = []
    for index, (hit, at) in enumerate(zip(met, theta, strict=True)):
        hit = hit & (at <= limit)
        if hit.any():
            found.append((index, hit, at))
    reach = torch.where(over, start + limit * span, step.end.value)
    values = [torch.where(accept, g1, g0) for g0, g1 in zip(values, ends, strict=True)]
    return tuple(found), values, over, reach
