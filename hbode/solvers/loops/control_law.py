"""The control law: which step is tried next, and what becomes of it.

Written for tensors, of shape () for a batch that steps as one or (B,) for samples that step by themselves, and once
more for Python floats, which a CPU is faster with. `tests/solvers/test_control_law.py` pins the two together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..status import Status
from .control import GRID_SLACK, ulp
from .plan import Plan

SLIVER = 1e-9
"""The share of what is left before a stop that an adaptive step makes longer by, rather than leave it."""
ROUNDINGS = 10
"""How many roundings of the time an adaptive step is, at least."""


CODES = {status: float(status) for status in Status}
"""What stands for a status among numbers; Dynamo does not make a float of an enumeration."""


class Control(NamedTuple):
    """Where the control of a solve stands, float64, shape () or (B,) each."""

    t: Tensor
    dt: Tensor
    """How long a step is wanted, whatever stops are ahead."""
    last: Tensor
    """The scaled error of the last accepted step, and of the one before it."""
    before: Tensor
    refused: Tensor
    """1 after an attempt that was refused."""
    failure: Tensor
    """The `Status` that the last attempt would have ended the solve with; 0: at most its error was too large."""
    status: Tensor
    """How the solve ended, or -1."""


class Attempt(NamedTuple):
    """A step that is to be tried, in the shape of the numbers of `Control`."""

    active: Tensor
    """Whose attempt it is: of samples that wait, everything is meaningless."""
    end: Tensor
    length: Tensor
    """Its length, positive in either direction of time."""
    lands: Tensor
    """Whether it ends on the stop."""
    least: Tensor
    """Whether it is not to be shorter."""


def propose(
    plan: Plan, at: Control, sign: Tensor, stop: Tensor, passed: Tensor, active: Tensor, exhausted: Tensor
) -> tuple[Control, Attempt]:
    """Return the attempt that follows, and the control with the statuses of who has none.

    Parameters
    ----------
    sign
        The direction of time, ±1.
    stop, passed
        The next time that a step must end on, and the last one, or the start.
    active, exhausted
        Who is to step, and who may not step any more.
    """
    dt, control = at.dt, plan.control
    over = active & exhausted
    if plan.adaptive:
        dt = torch.where(active & ~over, dt.clamp(control.min_step, control.max_step), dt)
    if plan.adaptive or math.isinf(plan.step_size):
        ahead, lands = at.t + sign * dt, dt >= (stop - at.t) * sign * (1 - SLIVER)
    else:  # a multiple of the step from the last stop, so that roundings do not add up
        ahead = passed + sign * (((at.t - passed) * sign / dt).round() + 1) * dt
        lands = (stop - ahead) * sign <= GRID_SLACK * dt + 2 * ulp(stop)
    end = torch.where(lands, stop, ahead)
    length = (end - at.t) * sign
    stuck = ~(length > 0)
    if plan.adaptive:
        stuck = stuck | (~lands & (length < ROUNDINGS * ulp(at.t)))
    stuck = active & stuck & ~over
    unknown = torch.where(dt.isnan(), CODES[Status.NON_FINITE], CODES[Status.STEP_UNDERFLOW])
    status = torch.where(stuck, torch.where(at.failure > 0, at.failure, unknown), at.status)
    status = torch.where(over, CODES[Status.MAX_STEPS], status)
    least = torch.minimum(dt, length) <= control.min_step  # rounding may have made the length more than dt
    return at._replace(dt=dt, status=status), Attempt(active & ~over & ~stuck, end, length, lands, least)


def settle(
    plan: Plan, k: int, at: Control, attempt: Attempt, error: Tensor, solved: Tensor | None = None
) -> tuple[Control, Tensor]:
    """Return the control after an attempt, and whose attempt is accepted.

    Parameters
    ----------
    k
        The order of the error estimate plus one.
    error
        The scaled error, zero on a fixed grid; NaN or Inf where something is not finite.
    solved
        Whether the equations of an implicit step were solved.
    """
    active, _, length, lands, least = attempt
    failure = torch.where(error.isfinite(), 0.0, CODES[Status.NON_FINITE])
    if solved is not None:
        failure = torch.where((failure == 0) & ~solved, CODES[Status.NOT_CONVERGED], failure)
    sound = failure == 0
    fine = sound & ((error <= 1) | least) if plan.adaptive else sound
    accept, refuse = active & fine, active & ~fine
    over = refuse & ~sound & least if plan.adaptive else refuse
    status = torch.where(over, failure, at.status)
    dt, last, before = at.dt, at.last, at.before
    if plan.adaptive:
        factor = torch.where(sound, plan.control.factors(error, last, before, k), plan.control.min_factor)
        grown = length * torch.where(at.refused > 0, factor.clamp(max=1.0), factor)
        grown = torch.where(lands, torch.maximum(grown, dt), grown)
        dt = torch.where(accept, grown, torch.where(refuse & ~over, length * factor.clamp(max=0.9), dt))
        before = torch.where(accept, last, before)
        last = torch.where(accept, error.clamp(min=1e-10), last)
    t = torch.where(accept, attempt.end, at.t)
    refused = torch.where(active, refuse.double(), at.refused)
    return Control(t, dt, last, before, refused, torch.where(active, failure, at.failure), status), accept


class Numbers:
    """The same law for a batch that steps as one, in Python floats: `Control` and `Attempt` in one.

    `failure` and `status` are None for 0 and -1.
    """

    def __init__(self, plan: Plan, k: int, sign: float, t: float, dt: float, status: Status | None) -> None:
        self.plan, self.k, self.sign, self.t, self.dt, self.status = plan, k, sign, t, dt, status
        self.last = self.before = 1.0
        self.refused = False
        self.failure: Status | None = None

    def propose(self, stop: float, passed: float) -> bool:
        """Find the next attempt, as `propose` does; return whether there is one."""
        plan, t, sign, dt = self.plan, self.t, self.sign, self.dt
        if plan.adaptive:
            dt = self.dt = min(max(dt, plan.control.min_step), plan.control.max_step)
        if plan.adaptive or dt == math.inf:
            ahead, lands = t + sign * dt, dt >= (stop - t) * sign * (1 - SLIVER)
        else:
            ahead = passed + sign * (round((t - passed) * sign / dt) + 1) * dt
            lands = (stop - ahead) * sign <= plan.slack(stop)
        self.end, self.lands = stop if lands else ahead, lands
        self.length = (self.end - t) * sign
        if not self.length > 0 or (plan.adaptive and not lands and self.length < ROUNDINGS * math.ulp(t)):
            self.status = self.failure or (Status.NON_FINITE if math.isnan(dt) else Status.STEP_UNDERFLOW)
            return False
        self.least = min(dt, self.length) <= plan.control.min_step
        return True

    def settle(self, error: float, solved: bool = True) -> bool:
        """Take note of how the attempt went, as `settle` does; return whether it is accepted."""
        plan, control, length = self.plan, self.plan.control, self.length
        self.failure = None if math.isfinite(error) else Status.NON_FINITE
        if not solved and self.failure is None:
            self.failure = Status.NOT_CONVERGED
        if self.failure is None and (not plan.adaptive or error <= 1.0 or self.least):
            if plan.adaptive:
                grown = length * min(
                    control.factor(error, self.last, self.before, self.k), 1.0 if self.refused else math.inf
                )
                self.dt = max(grown, self.dt) if self.lands else grown
                self.before, self.last = self.last, max(error, 1e-10)
            self.t, self.refused = self.end, False
            return True
        if not plan.adaptive or (self.failure is not None and self.least):
            self.status = self.failure
        else:
            factor = control.min_factor if self.failure else control.factor(error, self.last, self.before, self.k)
            self.dt = length * min(factor, 0.9)
        self.refused = True
        return False
