"""Dense output: a solution at any time inside the solve, read off the interpolants of its steps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..gradients import Problem, Solved
from ..solvers import Autocast, Clock, SampleClock, Status


class Span(NamedTuple):
    """Where a step goes from and to, and which samples it moves, how far: what its interpolant is read by."""

    start: Any
    end: Any
    moved: Any = None
    reach: Any = None


class DenseOutput:
    """States at any times within a solve.

    Without gradients the interpolants of the solve are read. With gradients by the discrete adjoint, the steps that
    are asked for are run again with a graph, from carries whose cotangents the adjoint receives.
    A copy from a file or another process is read without gradients: it has left the field behind.
    """

    def __init__(self, problem: Problem, solved: Solved) -> None:
        self._solve: tuple[Problem, Solved] | None = (problem, solved)
        self.method, self.clock, self.y0 = problem.method, problem.clock, problem.y0
        self._spans: list[Any] = []
        self.interpolants, self.outcomes = solved.tape.interpolants, solved.tape.outcomes

    @property
    def problem(self) -> Problem:
        """What was solved."""
        return self._whole[0]

    @property
    def solved(self) -> Solved:
        """What the solve left behind."""
        return self._whole[1]

    @property
    def _whole(self) -> tuple[Problem, Solved]:
        if self._solve is None:
            raise ValueError("a solution that was loaded can be called, but has left its field behind: solve again")
        return self._solve

    @property
    def steps(self) -> list[Any]:
        """The accepted steps; of a copy, their spans."""
        return self._spans if self._solve is None else self.solved.tape.steps

    def __getstate__(self) -> dict[str, Any]:
        samples = isinstance(self.clock, SampleClock)
        spans = [Span(step.start, step.end, *((step.moved, step.reach) if samples else ())) for step in self.steps]
        return self.__dict__ | {"_solve": None, "_spans": spans}

    def __call__(self, t: Tensor) -> Tensor:
        """Return the states, shape (n, *y), at times (n,), or (B, n) for samples with times of their own."""
        clock = self.clock
        with Autocast.now(t.device.type).off():
            return self._per_sample(clock, t) if isinstance(clock, SampleClock) else self._shared(clock, t)

    def _stages(self, index: int) -> Any:
        if not torch.is_grad_enabled() or self._solve is None or self.solved.carry is None:
            return self.interpolants[index]
        step, problem = self.steps[index], self.problem
        field, _ = problem.bind(problem.explicit)
        return replace(step, carry=self.solved.carry(index)).run(self.method, field, self.clock)[1]

    def _stopped(self) -> dict[int, float]:
        """Return where events ended the solve, by sample (0: the batch)."""
        ended = enumerate(self.outcomes)
        return {sample: own.t for sample, own in ended if own.status is Status.EVENT}

    def _shared(self, clock: Clock, t: Tensor) -> Tensor:
        if t.ndim != 1:
            raise ValueError(f"t must be a number or have shape (n,), got shape {tuple(t.shape)}")
        steps = self.steps
        start = clock.values[0]
        end = self._stopped().get(0, steps[-1].end.value) if steps else start
        sign = 1.0 if end >= start else -1.0
        values = t.tolist()
        _check_inside(min(values, default=start), max(values, default=start), start, end)
        moving = [index for index, step in enumerate(steps) if step.start != step.end]  # jumps have no length
        if not moving or not values:
            return self.y0.expand(len(values), *self.y0.shape).clone()
        starts = [sign * steps[index].start.value for index in moving]
        owners = [moving[max(bisect_right(starts, sign * value) - 1, 0)] for value in values]
        blocks, places = [], []
        for index in sorted(set(owners)):
            mine = [i for i, owner in enumerate(owners) if owner == index]
            step = steps[index]
            theta = (t[mine] - clock.at(step.start)) / clock.span(step.start, step.end)
            blocks.append(self.method.interpolate(self._stages(index), theta))
            places += mine
        order = torch.tensor(places, device=t.device).argsort()
        return torch.cat(blocks)[order]

    def _per_sample(self, clock: SampleClock, t: Tensor) -> Tensor:
        batch = len(clock.times)
        if t.ndim == 1:
            t = t.expand(batch, -1)
        if t.ndim != 2 or len(t) != batch:
            raise ValueError(f"t must be a number or have shape (n,) or ({batch}, n), got shape {tuple(t.shape)}")
        y0 = self.y0
        at = t.T
        first, last = clock.times[:, 0].detach(), clock.times[:, -1].detach().clone()
        for sample, time in self._stopped().items():
            last[sample] = time
        _check_spans(at.detach(), torch.minimum(first, last), torch.maximum(first, last))
        out = y0.expand(len(at), *y0.shape).clone()
        done = at == clock.times[:, 0]
        for index, step in enumerate(self.steps):
            start, end = clock.at(step.start), clock.at(step.end)
            span = torch.where(step.moved, end - start, torch.ones_like(start))
            theta = (at - start) / span
            inside = (
                step.moved & (theta >= 0) & (theta <= step.reach) & (~done | (theta == 0))
            )  # after a jump at its time
            if inside.any():
                stages = self._stages(index)
                states = self.method.interpolate(
                    stages, clock.wide(torch.where(inside, theta, torch.zeros_like(theta)))
                )
                mask = inside.reshape(len(at), *[1] * (y0.ndim - clock.ndim), batch, *[1] * (clock.ndim - 1))
                out = torch.where(mask, states, out)
                done = done | inside
        if not done.all():  # a sample whose solve failed did not reach its last time
            raise ValueError(_OUTSIDE)
        return out


_OUTSIDE = "t must lie within the span that each sample was solved over"


def _check_spans(t: Tensor, first: Tensor, last: Tensor) -> None:
    if ((t < first) | (t > last)).any():
        raise ValueError(_OUTSIDE)


def _check_inside(low: float, high: float, start: float, end: float) -> None:
    first, last = min(start, end), max(start, end)
    if low < first or high > last:
        raise ValueError(f"t must lie within the solve, from {first:g} to {last:g}, got {low:g} to {high:g}")
