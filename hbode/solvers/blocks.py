"""Blocks of steps whose control is done by tensors: nobody looks before a block is over.

A block is a pure function of tensors but for what it writes down of its steps, and compiles whole. Its numbers are
those of a batch that steps as one, of shape (), or those of samples that step by themselves, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .control import Controller, first_steps, next_of_grid, norm, norm_samples, scaled, tie
from .field import Field
from .method import Carry, Uniform, stiffness
from .plan import Plan
from .status import Status
from .stiffness import BOUNDARY

STEPS = 32
"""How many accepted steps fill a block that runs as one compiled loop."""
TRIES = 8
"""How many steps are tried on an accelerator before the host looks: it waits for the device once in so many."""
_CODES = {status: float(status) for status in Status}


class March(NamedTuple):
    """What a step changes besides the carry: numbers of one tensor, float64, shape (12,) or (12, B)."""

    t: Tensor
    dt: Tensor
    last: Tensor
    before: Tensor
    stop: Tensor
    filled: Tensor
    tries: Tensor
    status: Tensor
    """A `Status`, or -1 while there is none."""
    refused: Tensor
    blown: Tensor
    looked: Tensor
    """Accepted steps that were looked at for stiffness."""
    stiff: Tensor
    """How many of them stability held back."""


class Course(NamedTuple):
    """What a block goes by.

    Of `numbers`, float64, shape (7 + K,) or (7 + K, B): the direction of time (±1), which of the next stops is the last
    of all, the most steps that may be tried, rtol, atol, the end, the stop that was passed last (or the start), and the
    next K stops, as many as a block can pass or all.
    Tolerances that are no numbers, rtol and atol, come by themselves. Where samples step by themselves, `axes` is the
    number of axes of h; if they are `tied`, the error of the batch decides for all of them.
    """

    numbers: Tensor
    tolerances: tuple[Tensor, ...]
    axes: int | None = None
    tied: bool = False

    def stop(self, which: Tensor) -> Tensor:
        """Return a stop, or the last one beyond it; -1: the one that was passed last."""
        index = (which.long() + 7).clamp(max=len(self.numbers) - 1)
        return self.numbers.gather(0, index.unsqueeze(0)).squeeze(0)

    def wide(self, x: Tensor) -> Tensor:
        """Give numbers the shape in which they meet the state."""
        return x if self.axes is None else x.reshape(*x.shape, *[1] * (self.axes - 1))

    def norm(self, x: Tensor) -> Tensor:
        """Return root-mean-square norms."""
        if self.axes is None:
            return norm(x)
        return norm_samples(x, x.ndim - self.axes)

    def bounded(self, x: Tensor) -> Tensor:
        """Return whether all entries are finite."""
        if self.axes is None:
            largest: Tensor = torch.linalg.vector_norm(x, math.inf)
        else:
            samples = x.movedim(x.ndim - self.axes, 0)
            largest = torch.linalg.vector_norm(samples.reshape(len(samples), -1), math.inf, 1)
        return largest.isfinite()


class Ledger(NamedTuple):
    """What is written down of the accepted steps of a block.

    Of step n: its start and how many stops lay behind it in ``start[n]``, (2,) or (2, B), its carry in
    ``carry[i][n]``, and its record of k columns in ``record[n k : (n + 1) k]``. Carry and record are empty where nobody
    wants them. There is a place beyond the last step for what is not to be kept.
    """

    start: Tensor
    carry: tuple[Tensor, ...]
    record: tuple[Tensor, ...]


def tolerances(control: Controller, y: Tensor) -> tuple[float, float, tuple[Tensor, ...]]:
    """Return rtol and atol as numbers, or, if one is a tensor, zeros and both as tensors like y."""
    rtol, atol = control.rtol, control.atol
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        return 0.0, 0.0, tuple(torch.as_tensor(tol, dtype=y.dtype, device=y.device) for tol in (rtol, atol))
    return rtol, atol, ()


RunBlock = Callable[[Uniform, Field, Plan, Course, Ledger, Tensor, Carry], tuple[Tensor, Carry]]


def run_block(
    method: Uniform, field: Field, plan: Plan, course: Course, ledger: Ledger, march: Tensor, carry: Carry
) -> tuple[Tensor, Carry]:
    """Step until the block is full or the solve is over: `torch.while_loop`, to be compiled."""
    size, field = len(ledger.start) - 1, field.anew()
    method.prepare(field, course.axes or 0)

    def estimate(march: Tensor, carry: Carry) -> Tensor:
        return with_first_step(method, field, plan, course, march, carry)

    def keep(march: Tensor, carry: Carry) -> Tensor:
        return march.clone()

    if plan.adaptive:
        march = torch.cond((march[1].isnan() & (march[6] == 0) & (march[7] < 0)).any(), estimate, keep, (march, carry))

    def on(march: Tensor, carry: Carry) -> Tensor:
        state = March(*march.unbind())
        return ((state.status < 0) & (state.filled < size)).any()

    def advance(march: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return step_once(method, field, plan, course, ledger, march, carry)

    done: tuple[Tensor, Carry] = torch.while_loop(on, advance, (march, carry))
    return done


def with_first_step(method: Uniform, field: Field, plan: Plan, course: Course, march: Tensor, carry: Carry) -> Tensor:
    """Estimate the lengths of the first steps."""
    t, status = march[0], march[7]
    rtol, atol = course.tolerances or tuple(course.wide(x).to(carry[0].dtype) for x in course.numbers[3:5].unbind())
    scale, end = atol + rtol * carry[0].abs(), course.numbers[5]
    dt = first_steps(
        method, field, course.wide(t), course.wide(end), carry, scale, course.norm, plan.control.max_step
    )
    if course.tied:
        dt = tie(dt, (end - t).abs(), status < 0)
    return torch.cat((march[:1], dt.unsqueeze(0), march[2:]))


def run_tries(
    method: Uniform,
    field: Field,
    plan: Plan,
    course: Course,
    ledger: Ledger,
    march: Tensor,
    carry: Carry,
    step: RunBlock | None = None,
) -> tuple[Tensor, Carry]:
    """Try as many steps as fit into the block, without a look at how they go; those after the last change nothing."""
    method.prepare(field, course.axes or 0)
    for i in range(len(ledger.start) - 1):
        if step is None:
            march, carry = step_once(method, field, plan, course, ledger, march, carry, look=not i)
        else:
            march, carry = step(method, field, plan, course, ledger, march, carry)
    return march, carry


def step_once(
    method: Uniform,
    field: Field,
    plan: Plan,
    course: Course,
    ledger: Ledger,
    march: Tensor,
    carry: Carry,
    look: bool = True,
) -> tuple[Tensor, Carry]:
    """Try one step, as `solve` does, and write it down; where the solve is over or the block full, change nothing.

    `look` says whether the step is looked at for stiffness.
    """
    control, k = plan.control, (method.error_order or 0) + 1
    t, dt, last, before, stop, filled, tries, status, refused, blown, looked, stiff = march.unbind()
    sign, final, most, rtol, atol = course.numbers[:5].unbind()
    if course.tolerances:
        rtol, atol = course.tolerances
    on = (status < 0) & (filled < len(ledger.start) - 1)
    over = on & (tries >= most)
    if plan.adaptive:
        dt = torch.where(on & ~over, dt.clamp(control.min_step, control.max_step), dt)
    target = course.stop(stop)
    if plan.adaptive or math.isinf(plan.step_size):
        ahead, lands = t + sign * dt, dt >= (target - t) * sign * (1 - 1e-9)
    else:
        ahead, lands = next_of_grid(t, course.stop(stop - 1), target, sign, dt)
    end = torch.where(lands, target, ahead)
    length = (end - t) * sign
    stuck = ~(length > 0)
    if plan.adaptive:
        ulp = torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs()
        stuck = stuck | (~lands & (length < 10 * ulp))
    stuck = on & stuck & ~over
    halted = ~on | over | stuck
    nothing = torch.where((blown > 0) | dt.isnan(), _CODES[Status.NON_FINITE], _CODES[Status.STEP_UNDERFLOW])
    status = torch.where(over, _CODES[Status.MAX_STEPS], torch.where(stuck, nothing, status))

    span = end - t if course.axes is None else torch.where(halted, 0.0, end - t)
    carry1, stages = method.step(field, course.wide(t), course.wide(span), carry)
    if plan.adaptive:
        y0, y1 = carry[0], carry1[0]
        weighed = scaled(method.error(stages), y0, y1, *(course.wide(x).to(y0.dtype) for x in (rtol, atol)))
        error = course.norm(weighed)
        if course.tied:
            error = error.square().mean().sqrt().expand(error.shape)
    else:
        error = torch.zeros_like(t)
        if plan.check_finite or course.axes is not None:
            error = torch.where(course.bounded(carry1[0]), error, math.nan)
    finite = error.isfinite()
    least = torch.minimum(dt, length) <= control.min_step
    fine = error <= 1
    if plan.adaptive:
        fine = fine | (least & finite)
    accept, refuse = fine & ~halted, ~fine & ~halted
    hopeless = refuse & ~finite & least if plan.adaptive else refuse
    status = torch.where(hopeless, _CODES[Status.NON_FINITE], status)
    status = torch.where(accept & lands & (stop == final), _CODES[Status.SUCCESS], status)

    at = filled.reshape(-1)[:1].long()
    ledger.start.index_copy_(0, at, torch.stack((t, stop)).unsqueeze(0))
    for book, x in zip(ledger.carry, carry, strict=False):
        book.index_copy_(0, at, x.unsqueeze(0))
    for book in ledger.record:
        record = method.record(stages)
        book.index_copy_(0, at * len(record) + torch.arange(len(record), device=t.device), record)

    if plan.adaptive:
        factor = torch.where(finite, control.factors(error, last, before, k), control.min_factor)
        grown = length * torch.where(refused > 0, factor.clamp(max=1.0), factor)
        grown = torch.where(lands, torch.maximum(grown, dt), grown)
        dt = torch.where(accept, grown, torch.where(refuse, length * factor.clamp(max=0.9), dt))
        before = torch.where(accept, last, before)
        last = torch.where(accept, error.clamp(min=1e-10), last)
    ratio = stiffness(method) if plan.adaptive and look else None
    if ratio is not None:
        looked, stiff = looked + accept, stiff + (accept & (ratio(stages) > BOUNDARY))

    onward = March(
        torch.where(accept, end, t),
        dt,
        last,
        before,
        stop + (accept & lands),
        filled + accept.any(),
        tries + ~halted,
        status,
        torch.where(halted, refused, refuse.double()),
        torch.where(refuse, (~finite).double(), blown),
        looked,
        stiff,
    )
    mask = course.wide(accept)
    return torch.stack(onward), tuple(torch.where(mask, new, old) for new, old in zip(carry1, carry, strict=True))
