"""How the carries of a tape come back in a backward pass: kept, computed again, or recovered by taking steps back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..solvers import KEEP_ALL, Carry, Clock, Field, Invertible, Keep, Method, Plan, SampleClock, Tape
from ..solvers.warning import warn
from .schedule import first_sweep, least_useful, split


@dataclass(frozen=True)
class Rerun:
    """What steps are run again, or taken back, with when no graph is wanted."""

    method: Method
    field: Field
    clock: Clock | SampleClock
    y0: Tensor

    @torch.no_grad()
    def advance(self, step: Any, carry: Carry) -> Carry:
        """Return what the step ends with."""
        ended: Carry = replace(step, carry=carry).run(self.method, self.field, self.clock)[0]
        return ended

    @torch.no_grad()
    def undo(self, step: Any, carry: Carry) -> Carry:
        """Return what the step started from."""
        started: Carry = step.undo(self.method, self.field, self.clock, carry)
        return started


class Walk(Protocol):
    """A way to keep accepted steps in a solve, and to get them all back, with their carries, last one first."""

    def keep(self, plan: Plan, clock: Clock | SampleClock) -> Keep:
        """Return how one solve keeps its steps."""
        ...

    def backwards(self, tape: Tape, rerun: Rerun) -> Iterator[Any]:
        """Yield the steps of a tape, last one first, each with the carry it started from."""
        ...


class Stored:
    """Every carry is kept."""

    def keep(self, plan: Plan, clock: Clock | SampleClock) -> Keep:
        return KEEP_ALL

    def backwards(self, tape: Tape, rerun: Rerun) -> Iterator[Any]:
        yield from reversed(tape.steps)


@dataclass(frozen=True)
class Checkpointed:
    """A given number of carries is kept, beside that of the newest step; the others are computed again.

    Where the number of steps is known before, on a fixed grid, the carries kept are those of the binomial schedule
    (Griewank and Walther, ACM TOMS 26, 2000). Otherwise the one is dropped without which walking back over the steps
    so far would cost least, which keeps the cost at the optimum as long as any schedule that does not know the number
    can, for at most (k + 1)(k + 2) / 2 + 1 steps and k carries, and close to it from there on. The steps between
    two kept carries are walked back by the binomial schedule, in which the slots of carries used up are used again.
    """

    slots: int

    def keep(self, plan: Plan, clock: Clock | SampleClock) -> Keep:
        count = plan.step_count(clock.origin)
        planned = None if count is None else set(first_sweep(count, self.slots))
        kept: list[int] = []

        def keep(steps: list[Any], step: Any) -> None:
            newest = len(steps) - 1
            steps.append(step)
            if newest < 0:
                return
            kept.append(newest)
            if planned is not None and newest not in planned:
                drop = kept.pop()
            elif len(kept) > self.slots:
                drop = kept.pop(least_useful(kept, newest + 1, self.slots))
            else:
                return
            steps[drop].carry = ()

        return Keep(keep)

    def backwards(self, tape: Tape, rerun: Rerun) -> Iterator[Any]:
        steps = tape.steps
        kept = [i for i, step in enumerate(steps) if step.carry]
        end = len(steps)
        for n in range(len(kept) - 1, -1, -1):
            first, carry = kept[n], steps[kept[n]].carry
            yield from self._segment(steps, rerun, first, end - first, max(self.slots - n, 1), carry)
            end = first
            if first:
                steps[first].carry = ()  # its slot serves the steps before it; a second pass starts further back

    def _segment(
        self, steps: list[Any], rerun: Rerun, first: int, count: int, slots: int, carry: Carry
    ) -> Iterator[Any]:
        """Yield `count` steps from the first on, whose carry is given and takes one of the slots, last one first."""
        while count:
            ahead, middle = carry, split(count, slots)
            for step in steps[first : first + middle]:
                ahead = rerun.advance(step, ahead)
            if middle == count - 1:
                yield replace(steps[first + middle], carry=ahead)
            else:
                yield from self._segment(steps, rerun, first + middle, count - middle, slots - 1, ahead)
            count = middle


class Inverted:
    """No carry is kept but the last one, and those of steps that cannot be taken back: jumps, and those beside them."""

    def keep(self, plan: Plan, clock: Clock | SampleClock) -> Keep:
        def keep(steps: list[Any], step: Any) -> None:
            if not step.one_way:
                step.carry = ()
            steps.append(step)

        return Keep(keep)

    def backwards(self, tape: Tape, rerun: Rerun) -> Iterator[Any]:
        if not isinstance(rerun.method, Invertible):
            raise TypeError(f"{type(rerun.method).__name__} steps cannot be taken back")
        carry = tape.carry
        for step in reversed(tape.steps):
            carry = step.carry or rerun.undo(step, carry)
            yield replace(step, carry=carry)
        if tape.steps:
            _warn_of_drift(carry[0], rerun.y0)


def _warn_of_drift(back: Tensor, start: Tensor) -> None:
    """Warn where the steps taken back did not lead to the state that the solve started from."""
    scale = float(torch.linalg.vector_norm(start)) + torch.finfo(start.dtype).tiny
    drift = float(torch.linalg.vector_norm(back - start)) / scale
    if not drift <= torch.finfo(start.dtype).eps ** 0.5:
        warn(
            f"gradient='reversible' came back to the first state with a relative error of {drift:.1e}, and gradients "
            "may be as wrong: taking damped steps back amplifies rounding by exp(γT). Use float64, a shorter span, or "
            "gradient='discrete_adjoint' with options={'checkpoints': k}",
            RuntimeWarning,
        )
