"""Blocks of steps whose control is done by tensors: nobody looks before a block is over.

A block is a pure function of tensors but for what it writes down of its steps, and compiles whole. Its numbers are
those of a batch that steps as one, of shape (), or those of samples that step by themselves, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..field import Field
from ..linear import norms
from ..method import Carry, Method, Uniform
from ..methods.explicit.stiffness import BOUNDARY
from ..status import Status
from ..tape.jumps import Updates
from .block_state import BlockBuffers, BlockInputs, LoopState
from .control import first_steps, scaled, tie, ulp
from .control_law import CODES, ROUNDINGS, Attempt, Control, propose, settle
from .plan import Plan

STEPS = 32
"""How many accepted steps fill a block that runs as one compiled loop."""
TRIES = 8
"""How many steps are tried on an accelerator before the host looks: it waits for the device once in so many."""


REFUSED = 1e300
"""The error of samples whose step is refused for another's."""
RunBlock = Callable[[Uniform, Field, Plan, BlockInputs, BlockBuffers, Tensor, Carry], tuple[Tensor, Carry]]


def run_block(
    method: Uniform, field: Field, plan: Plan, inputs: BlockInputs, buffers: BlockBuffers, state: Tensor, carry: Carry
) -> tuple[Tensor, Carry]:
    """Step until the block is full or the solve is over: `torch.while_loop`, to be compiled."""
    size, field = len(buffers.start) - 1, field.anew()
    method.prepare(field, inputs.axes)
    state = begun(state)

    def estimate(state: Tensor, carry: Carry) -> Tensor:
        return torch.stack(with_first_step(method, field, plan, inputs, LoopState(*state.unbind()), carry))

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

    state, carry = torch.while_loop(on, advance, (state, carry))
    write_down(buffers, LoopState(*state.unbind()), carry)
    return state, carry


def begun(state: Tensor) -> Tensor:
    """Return the numbers of the loop at the start of a block: no stop passed, no step written down."""
    now = LoopState(*state.unbind())
    none = torch.zeros_like(now.t)
    return torch.stack(now._replace(stop=none, filled=none))


def write_down(buffers: BlockBuffers, now: LoopState, carry: Carry) -> Tensor:
    """Write down what the next step of a block starts from, and return its place."""
    at: Tensor = now.filled.reshape(-1)[:1].long()
    buffers.start.index_copy_(0, at, torch.stack((now.t, now.stop)).unsqueeze(0))
    for buffer, x in zip(buffers.carry, carry, strict=False):
        buffer.index_copy_(0, at, x.unsqueeze(0))
    return at


def with_first_step(
    method: Method, field: Field, plan: Plan, inputs: BlockInputs, now: LoopState, carry: Carry
) -> LoopState:
    """Estimate the lengths of the first steps."""
    rtol, atol = inputs.relative_and_absolute(carry[0])
    scale, end = atol + rtol * carry[0].abs(), inputs.end
    measure = partial(norms, axes=inputs.axes)
    dt = first_steps(method, field, inputs.wide(now.t), inputs.wide(end), carry, scale, measure, plan.control.max_step)
    if inputs.tied:  # all the same fraction of their spans, the least that a sample asks for
        span = (end - now.t).abs()
        dt = span * (dt / span).where((span > 0) & (now.status < 0), math.inf).min()
    return now._replace(dt=dt)


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
    method.prepare(field, inputs.axes)
    state = begun(state)
    for i in range(len(buffers.start) - 1):
        if step is None:
            state, carry = step_once(method, field, plan, inputs, buffers, state, carry, look=not i)
        else:
            state, carry = step(method, field, plan, inputs, buffers, state, carry)
    write_down(buffers, LoopState(*state.unbind()), carry)
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
    """Make the updates that are due, try one step as `solve` does, and write both down.

    Where the solve is over or the block full, nothing changes. `look` says whether the step is looked at for stiffness.
    """
    now = LoopState(*state.unbind())
    active = (now.status < 0) & (now.filled < len(buffers.start) - 1)
    at = write_down(buffers, now, carry)
    wrote = torch.zeros((), dtype=torch.bool, device=active.device)
    if plan.updates is not None:  # also where none is due, so that nobody waits to know
        due = active & inputs.due(now.stop)
        wrote, over = due.any(), due & (now.stop == inputs.last)
        data = inputs.data(now.stop)
        carry = jump(method, field, plan.updates, inputs.wide(now.t), inputs.wide(due), data, carry)
        for buffer, x in zip(buffers.fresh, carry, strict=False):
            buffer.index_copy_(0, at, x.unsqueeze(0))
        status = torch.where(over, CODES[Status.SUCCESS], now.status)
        now, active = now._replace(stop=now.stop + due, status=status), active & ~over
    control, attempt = ahead(plan, inputs, now, active)
    span = attempt.end - now.t
    if inputs.axes:
        span = torch.where(attempt.active, span, 0.0)
    carry1, stages = method.step(field, inputs.wide(now.t), inputs.wide(span), carry)
    onward, accept = judged(method, plan, inputs, now, control, attempt, carry[0], carry1[0], stages, look)
    done = accept & attempt.lands & (now.stop == inputs.last)
    status = torch.where(done, CODES[Status.SUCCESS], onward.status)
    onward = onward._replace(status=status, filled=now.filled + (wrote | accept.any()))
    for buffer in buffers.record:
        record = method.record(stages)
        buffer.index_copy_(0, at * len(record) + torch.arange(len(record), device=at.device), record)
    mask = inputs.wide(accept)
    return torch.stack(onward), tuple(torch.where(mask, new, old) for new, old in zip(carry1, carry, strict=True))


def jump(
    method: Method, field: Field, updates: Updates, t: Tensor, due: Tensor, data: tuple[Tensor, ...], carry: Carry
) -> Carry:
    """Return the carry after updates of those that are due; times and mask have the shape that meets the state."""
    y = carry[0]
    y = torch.where(due, updates.fn(t.reshape(-1) if t.ndim else t, y, data), y)
    return tuple(torch.where(due, new, old) for new, old in zip(method.start(field, t, y), carry, strict=True))


def ahead(plan: Plan, inputs: BlockInputs, now: LoopState, active: Tensor) -> tuple[Control, Attempt]:
    """Return the control, and the next attempts of those who are active."""
    stop, passed = inputs.stop(now.stop), inputs.stop(now.stop - 1)
    exhausted = now.accepted + now.rejected >= inputs.max_steps
    if inputs.tied and plan.adaptive:  # all arrive at their next stops together
        span, least = (stop - now.t).abs(), ROUNDINGS * ulp(now.t)
        dt = tie(now.dt, span, active)
        # where steps become too short, who made them so ends, and the others go on
        ended = active & ~exhausted & (now.failure > 0) & (active & (dt < least)).any()
        active = active & ~ended
        dt = torch.where(ended.any(), torch.maximum(dt, 100 * least), dt)
        now = now._replace(dt=tie(dt, span, active), status=torch.where(ended, now.failure, now.status))
    return propose(plan, now.control, inputs.sign, stop, passed, active, exhausted)


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
    look: bool,
) -> tuple[LoopState, Tensor]:
    """Return the state after attempts that led from y0 to y1, and which are accepted."""
    if plan.adaptive:
        rtol, atol = inputs.relative_and_absolute(y0)
        error = norms(scaled(method.error(stages), y0, y1, rtol, atol), inputs.axes)
        if inputs.tied:  # whose own is not finite is to blame
            whole = error.square().mean().sqrt()
            error = torch.where(error.isfinite(), whole.where(whole.isfinite(), REFUSED), error)
    else:
        error = torch.zeros_like(now.t)
        if plan.check_finite or inputs.axes:
            error = torch.where(inputs.bounded(y1), error, math.nan)
    control, accept = settle(plan, (method.error_order or 0) + 1, control, attempt, error, method.converged(stages))
    looked, stiff = now.looked, now.stiff
    ratio = method.stiffness(stages) if plan.adaptive and look else None
    if ratio is not None:
        looked, stiff = looked + accept, stiff + (accept & (ratio > BOUNDARY))
    stop = now.stop + (accept & attempt.lands)
    accepted, rejected = now.accepted + accept, now.rejected + (attempt.active & ~accept)
    return LoopState(*control, stop, now.filled, accepted, rejected, looked, stiff), accept
