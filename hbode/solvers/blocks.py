"""Blocks of steps whose control is done by tensors: nobody looks before a block is over.

A block is a pure function of tensors but for what it writes down of its steps, and compiles whole. Its numbers are
those of a batch that steps as one, of shape (), or those of samples that step by themselves, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .control import Controller, first_steps, norm, norm_samples, scaled, tie
from .control_law import CODES, Attempt, Control, propose, settle
from .field import Field
from .method import Carry, Method, Uniform, stiffness
from .plan import Plan
from .precision import real_dtype
from .status import Status
from .stiffness import BOUNDARY

STEPS = 32
"""How many accepted steps fill a block that runs as one compiled loop."""
TRIES = 8
"""How many steps are tried on an accelerator before the host looks: it waits for the device once in so many."""


class LoopState(NamedTuple):
    """What a step changes besides the carry: numbers of one tensor, float64, shape (13,) or (13, B), or of Python.

    The first are those of `Control`; then how many stops have been passed and how many steps were accepted in the
    block, how many attempts were accepted and refused in all, how many accepted steps were looked at for stiffness, and
    how many of these stability held back.
    """

    t: Any
    dt: Any
    last: Any
    before: Any
    refused: Any
    failure: Any
    status: Any
    stop: Any
    filled: Any
    accepted: Any
    rejected: Any
    looked: Any
    stiff: Any


class BlockInputs(NamedTuple):
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

    def relative_and_absolute(self, y: Tensor) -> tuple[Tensor, ...]:
        """Return rtol and atol in the shape and dtype in which they meet the sizes of a state."""
        return self.tolerances or tuple(self.wide(x).to(real_dtype(y)) for x in self.numbers[3:5].unbind())

    def norm(self, x: Tensor) -> Tensor:
        """Return root-mean-square norms."""
        if self.axes is None:
            return norm(x)
        return norm_samples(x, x.ndim - self.axes)

    def bounded(self, x: Tensor) -> Tensor:
        """Return whether all entries are finite."""
        if self.axes is not None:
            return x.movedim(x.ndim - self.axes, 0).reshape(x.shape[-self.axes], -1).isfinite().all(1)
        largest: Tensor = torch.linalg.vector_norm(x, math.inf)
        return largest.isfinite()


class BlockBuffers(NamedTuple):
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


RunBlock = Callable[[Uniform, Field, Plan, BlockInputs, BlockBuffers, Tensor, Carry], tuple[Tensor, Carry]]


def run_block(
    method: Uniform, field: Field, plan: Plan, inputs: BlockInputs, buffers: BlockBuffers, state: Tensor, carry: Carry
) -> tuple[Tensor, Carry]:
    """Step until the block is full or the solve is over: `torch.while_loop`, to be compiled."""
    size, field = len(buffers.start) - 1, field.anew()
    method.prepare(field, inputs.axes or 0)

    def estimate(state: Tensor, carry: Carry) -> Tensor:
        return with_first_step(method, field, plan, inputs, state, carry)

    def keep(state: Tensor, carry: Carry) -> Tensor:
        return state.clone()

    if plan.adaptive:
        now = LoopState(*state.unbind())
        fresh = now.dt.isnan() & (now.accepted + now.rejected == 0) & (now.status < 0)
        state = torch.cond(fresh.any(), estimate, keep, (state, carry))

    def on(state: Tensor, carry: Carry) -> Tensor:
        now = LoopState(*state.unbind())
        going: Tensor = (now.status < 0) & (now.filled < size)
        return going.any()

    def advance(state: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return step_once(method, field, plan, inputs, buffers, state, carry)

    done: tuple[Tensor, Carry] = torch.while_loop(on, advance, (state, carry))
    return done


def with_first_step(
    method: Method, field: Field, plan: Plan, inputs: BlockInputs, state: Tensor, carry: Carry
) -> Tensor:
    """Estimate the lengths of the first steps."""
    now = LoopState(*state.unbind())
    rtol, atol = inputs.relative_and_absolute(carry[0])
    scale, end = atol + rtol * carry[0].abs(), inputs.numbers[5]
    dt = first_steps(
        method, field, inputs.wide(now.t), inputs.wide(end), carry, scale, inputs.norm, plan.control.max_step
    )
    if inputs.tied:
        dt = tie(dt, (end - now.t).abs(), now.status < 0)
    return torch.cat((state[:1], dt.unsqueeze(0), state[2:]))


def run_tries(
    method: Uniform,
    field: Field,
    plan: Plan,
    inputs: BlockInputs,
    buffers: BlockBuffers,
    state: Tensor,
    carry: Carry,
    step: RunBlock | None = None,
) -> tuple[Tensor, Carry]:
    """Try as many steps as fit into the block, without a look at how they go; those after the last change nothing."""
    method.prepare(field, inputs.axes or 0)
    for i in range(len(buffers.start) - 1):
        if step is None:
            state, carry = step_once(method, field, plan, inputs, buffers, state, carry, look=not i)
        else:
            state, carry = step(method, field, plan, inputs, buffers, state, carry)
    return state, carry


def step_once(
    method: Uniform,
    field: Field,
    plan: Plan,
    inputs: BlockInputs,
    buffers: BlockBuffers,
    state: Tensor,
    carry: Carry,
    look: bool = True,
) -> tuple[Tensor, Carry]:
    """Try one step, as `solve` does, and write it down; where the solve is over or the block full, change nothing.

    `look` says whether the step is looked at for stiffness.
    """
    now = LoopState(*state.unbind())
    control, attempt = ahead(plan, inputs, now, (now.status < 0) & (now.filled < len(buffers.start) - 1))
    span = attempt.end - now.t
    if inputs.axes is not None:
        span = torch.where(attempt.active, span, 0.0)
    carry1, stages = method.step(field, inputs.wide(now.t), inputs.wide(span), carry)
    onward, accept = judged(method, plan, inputs, now, control, attempt, carry[0], carry1[0], stages, None, look)
    done = accept & attempt.lands & (now.stop == inputs.numbers[1])
    onward = onward._replace(status=torch.where(done, CODES[Status.SUCCESS], onward.status))

    at = now.filled.reshape(-1)[:1].long()
    buffers.start.index_copy_(0, at, torch.stack((now.t, now.stop)).unsqueeze(0))
    for buffer, x in zip(buffers.carry, carry, strict=False):
        buffer.index_copy_(0, at, x.unsqueeze(0))
    for buffer in buffers.record:
        record = method.record(stages)
        buffer.index_copy_(0, at * len(record) + torch.arange(len(record), device=at.device), record)
    mask = inputs.wide(accept)
    return torch.stack(onward), tuple(torch.where(mask, new, old) for new, old in zip(carry1, carry, strict=True))


def ahead(plan: Plan, inputs: BlockInputs, now: LoopState, active: Tensor) -> tuple[Control, Attempt]:
    """Return the control, and the next attempts of those who are active."""
    sign, _, most = inputs.numbers[:3].unbind()
    stop, passed = inputs.stop(now.stop), inputs.stop(now.stop - 1)
    return propose(plan, Control(*now[:7]), sign, stop, passed, active, now.accepted + now.rejected >= most)


def judged(
    method: Method,
    plan: Plan,
    inputs: BlockInputs,
    now: LoopState,
    control: Control,
    attempt: Attempt,
    y0: Tensor,
    y1: Tensor,
    stages: Any,
    solved: Tensor | None,
    look: bool,
) -> tuple[LoopState, Tensor]:
    """Return the state after attempts that led from y0 to y1, and which are accepted."""
    if plan.adaptive:
        rtol, atol = inputs.relative_and_absolute(y0)
        error = inputs.norm(scaled(method.error(stages), y0, y1, rtol, atol))
        if inputs.tied:
            error = error.square().mean().sqrt().expand(error.shape)
    else:
        error = torch.zeros_like(now.t)
        if plan.check_finite or inputs.axes is not None:
            error = torch.where(inputs.bounded(y1), error, math.nan)
    control, accept = settle(plan, (method.error_order or 0) + 1, control, attempt, error, solved)
    looked, stiff = now.looked, now.stiff
    ratio = stiffness(method) if plan.adaptive and look else None
    if ratio is not None:
        looked, stiff = looked + accept, stiff + (accept & (ratio(stages) > BOUNDARY))
    stop, filled = now.stop + (accept & attempt.lands), now.filled + accept.any()
    accepted, rejected = now.accepted + accept, now.rejected + (attempt.active & ~accept)
    return LoopState(*control, stop, filled, accepted, rejected, looked, stiff), accept
