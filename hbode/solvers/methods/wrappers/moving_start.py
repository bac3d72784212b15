"""Steps that start at times which are functions of the state, as those of events are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...field import Field
from ...method import Carry, Invertible, Method, Wrapped


class MovingStages(NamedTuple):
    """The stages of a step, how its start has moved from its node, and its length: they move, their values do not."""

    base: Any
    moved: Tensor
    length: Tensor


@dataclass(frozen=True)
class MovingStart(Wrapped, Invertible):
    """A method for solves in which a step may start at the time of an event.

    Loops know times by their values, and their derivatives as those of requested times. The derivative of an event's
    time by the state is handed on in the carry, as its last entry: zero, with the derivative of the time at which the
    next step starts. That step goes from there to its end, which does not move with it. Stages and interpolant are
    those of this step, so that gradients are exact for what was computed, of any order. To the first order they are
    what the saltation matrix makes of those of the exact flow.
    """

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return *self.base.start(field, t, y), t - t.detach()

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return *self.base.resume(field, start_time(self, t, carry), carry[:-1]), carry[-1]

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, MovingStages]:
        start, end = start_time(self, t, carry), t + dt
        after = end - end.detach()
        length = dt.detach() + (after - carry[-1])
        carry1, stages = self.base.step(field, start, length, carry[:-1])
        return (*carry1, after), MovingStages(stages, start - t, length)

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        if not isinstance(self.base, Invertible):
            raise TypeError(f"{type(self.base).__name__} steps cannot be taken back")
        return *self.base.undo(field, t, dt, carry[:-1]), torch.zeros_like(carry[-1])

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.base.slope(field, carry[:-1])

    def error(self, stages: MovingStages) -> Tensor:
        return self.base.error(stages.base)

    def converged(self, stages: MovingStages) -> Tensor | None:
        return self.base.converged(stages.base)

    def stiffness(self, stages: MovingStages) -> Tensor | None:
        return self.base.stiffness(stages.base)

    def interpolate(self, stages: MovingStages, theta: Tensor) -> Tensor:
        """Return the states at fractions of the way from the node, (θ dt - moved) / (dt - moved) of the step."""
        length = torch.where(stages.length == 0, 1.0, stages.length)  # of samples that wait
        return self.base.interpolate(stages.base, theta - (1 - theta) * (stages.moved / length))


def start_time(method: Method, t: Tensor, carry: Carry) -> Tensor:
    """Return the time at which a step from a carry starts, given that of its node."""
    return t.detach() + carry[-1] if isinstance(method, MovingStart) else t


def stopped(carry: Carry, t: Tensor, y: Tensor) -> Carry:
    """Return the carry of a method with a moving start that stopped at a state on its way, to be started again."""
    return y, *carry[1:-1], t - t.detach()
