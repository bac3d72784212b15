"""The loop for a batch that steps as one: times and step sizes are Python floats."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..clock import Clock, Node
from ..field import Field
from ..method import Carry, Method
from ..methods.explicit.stiffness import BOUNDARY, EVERY
from ..noise import noise_state
from ..status import Status
from ..tape.jumps import Reset, Resets
from ..tape.shared_step import Found, SharedStep
from ..tape.tape import Outcome, OutputRows, Tape
from ..tape.watch import Watch
from .control import Controller, first_steps, scaled
from .control_law import Numbers
from .plan import Plan


def begin(
    method: Method, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None, estimate: bool = True
) -> tuple[Tape, int, float, Status | None]:
    """Return the tape with the first outputs and the first carry, and where the solve stands before its first step.

    That is: the first output that is not yet there, the length of the first step, and the status if it is over.
    Without `estimate`, a length that has to be estimated is NaN, and a carry that is not finite goes unnoticed then.
    """
    times, count = clock.values, len(clock.values)
    sign = clock.sign
    node = Node(times[0], 0)
    row = 1
    while row < count and times[row] == times[0]:
        row += 1
    tape = Tape(rows=OutputRows(row, ends=[y0] * row))
    if plan.updates is not None:
        tape.rows.places.append(torch.arange(row))
    carry: Carry = (y0,)
    if row < count or plan.updates is not None:
        field = field.within(plan.sides(node.value, sign))
        at: Any = node.value if method.numbers and clock.constant else clock.at(node)
        carry = start or method.start(field, at, y0)
    control, status, dt = plan.control, None, plan.step_size
    tape.carry = carry
    if plan.adaptive and row < count:
        dt = control.first_step or math.nan
    if row < count and (estimate or not math.isnan(dt)):
        if (plan.adaptive or plan.check_finite) and not all(_finite(x) for x in carry[1:]):
            status = Status.NON_FINITE
        elif math.isnan(dt):
            t, end = clock.at(node).detach(), clock.at(Node(_end(plan, times, sign), None))
            scale = torch.mul(y0.detach().abs(), control.rtol).add_(control.atol)
            dt = float(first_steps(method, field, t, end, carry, scale, control.measured, control.max_step))
    return tape, row, dt, status


def solve(method: Method, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None = None) -> Tape:
    """Integrate from the first requested time to the last one, from the first carry if it is known already.

    The number of requested times does not change the steps: they are interpolated, except that the last one
    always ends a step, and that on a fixed grid without `step_size` all of them do.
    """
    times, count = clock.values, len(clock.values)
    tape, row, dt, status = begin(method, field, y0, clock, plan, start)
    carry, sign = tape.carry, clock.sign
    at = Numbers(plan, (method.error_order or 0) + 1, sign, times[0], dt, status)
    node, stop, passed = Node(at.t, 0), 0, at.t
    sides = plan.sides(at.t, sign)
    watch = Watch(plan.crossings, clock, sign, clock.start().detach(), y0) if plan.crossings else None
    one = torch.ones(1, dtype=torch.bool, device=y0.device)
    accepted = rejected = 0
    restart = False
    due = deque(enumerate(() if plan.updates is None else plan.updates.anchors.tolist()))

    jumped = partial(plan.jumped, tape, method, field, clock)
    watched = plan.adaptive or plan.crossings or plan.keep_interpolants
    ratios: list[Tensor] = []

    while at.status is None:
        if plan.updates is not None and due and due[0][1] == node.anchor:
            which, _ = due.popleft()
            update = plan.updates.jump(carry, node, torch.tensor(which, device=y0.device), sides)
            carry = jumped(update, torch.tensor([count + which]))
            if watch is not None:
                watch.renew(update, carry[0])
        if row == count:
            break
        if accepted + rejected >= plan.max_steps:
            at.status = Status.MAX_STEPS
            break
        target = plan.stops[stop]
        if not at.propose(target.value, passed):
            break
        lands, end = at.lands, target if at.lands else Node(at.end, node.anchor)
        noise = noise_state(y0.device) if plan.noise else None
        step = SharedStep(carry, node, end, row, row, restart=restart, sides=sides, noise=noise)
        step.last_of_all = lands and end is plan.stops[-1] and not watched and plan.updates is None
        if plan.on_step is not None:
            plan.on_step(node.value, carry[0], end.value - node.value)
        carry1, stages = step.run(method, field, clock)
        if plan.adaptive:
            error = _scaled_error(method, plan.control, stages, carry[0], carry1[0])
        else:
            error = 0.0 if not plan.check_finite or _finite(carry1[0]) else math.nan
        met = method.converged(stages) if math.isfinite(error) else None
        if not at.settle(error, met is None or bool(met.all())):
            rejected += 1
            if plan.on_reject is not None:
                plan.on_reject(node.value, carry[0], end.value - node.value)
            continue

        accepted += 1
        if plan.adaptive and accepted % EVERY == EVERY // 2 and (ratio := method.stiffness(stages)) is not None:
            ratios.append(ratio)
        if plan.on_accept is not None:
            plan.on_accept(node.value, carry[0], end.value - node.value)
        reach, cut, y1 = end.value, None, carry1[0]
        if watch is not None and (sighted := watch.look(*step.stretch(method, clock, stages), y1)):
            if sighted.stuck:
                at.status = Status.ZENO
                break
            zeros, cut = watch.divided(sighted, carry[0], y1, clock.span(node, end).detach())
            step.found = tuple(sorted(map(Found.of, zeros), key=lambda f: f.theta))
            tape.events.name((f.which, 0) for f in step.found)
            at.status = Status.EVENT if watch.over.any() else Status.NON_FINITE if sighted.lost else None
            if (limit := sighted.limit.item()) < 1.0:
                reach = node.value + limit * (end.value - node.value)
        if cut is not None:
            step.cut = plan.crossings[cut.ends[0].which], Found.of(cut.ends[0])
            carry1 = step.stopped(method, clock, carry1, stages)
        while row < count and ((reach - times[row]) * sign > 0 or (reach == times[row] and cut is None)):
            row += 1
        step.last = row
        if plan.updates is not None:
            tape.rows.places.append(torch.arange(step.first, row))
        if step.at_end(clock) and not step.found:
            tape.rows.ends.append(carry1[0])
        elif row > step.first or step.found:
            tape.add(step.read(method, clock, plan.crossings, carry1, stages))
        tape.t.append(node.value)
        tape.dt.append((end.value if cut is None else reach) - node.value)
        plan.enter(tape, step, stages)
        tape.carry = carry1
        if at.status is not None and cut is None:
            node = Node(reach, None)
            break
        lands = lands and (cut is None or reach == end.value)
        restart = lands and end.value in plan.jumps
        if restart:
            sides = plan.sides(end.value, sign)
        node, carry = end if cut is None or lands else Node(reach, node.anchor), carry1
        if cut is not None and watch is not None and step.cut is not None:
            at.t, first = reach, row
            while row < count and times[row] == reach:
                row += 1
            jump = watch.jump(method, step, cut, node, carry1, stages, one.expand(row - first, 1))
            jump.sides = sides
            made = 0 if plan.updates is None else plan.updates.count - len(due)
            change, before = Resets(clock, plan.crossings, jump.fired), (first + made, len(tape.events.which))
            tape.resets.append(Reset(reach, end.value - step.start.value, step.cut[0], change, *before))
            carry = jumped(jump, None if plan.updates is None else torch.arange(first, row))
            if watch.restart(jump, cut, carry[0], method.slope(field.at(clock.at(node)), carry)):
                at.status = Status.ZENO
            elif watch.over.any():
                at.status = Status.EVENT
            if at.status is not None:
                break
        if lands:
            stop, passed = stop + 1, end.value

    status = Status.SUCCESS if at.status is None else at.status
    left = abs(plan.stops[min(stop, len(plan.stops) - 1)].value - node.value) if plan.stops else 0.0
    stiff = int((torch.stack(ratios) > BOUNDARY).sum()) if ratios else 0
    spent = accepted, rejected, field.calls, field.products, len(ratios), stiff
    tape.outcomes = [Outcome(status, node.value, min(at.dt, left), *spent)]
    return tape


def _end(plan: Plan, times: Sequence[float], sign: float) -> float:
    """Return the last time, or the next discontinuity if that comes first."""
    sides = plan.sides(times[0], sign)
    return times[-1] if sides is None else sign * min(sign * times[-1], sign * sides[1])


def _scaled_error(method: Method, control: Controller, stages: Any, y0: Tensor, y1: Tensor) -> float:
    """Return the error of a step in units of the tolerance, without a graph."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            return _scaled_error(method, control, stages, y0, y1)
    return control.measure(scaled(method.error(stages), y0, y1, control.rtol, control.atol))


def _finite(x: Tensor) -> bool:
    return x.numel() == 0 or math.isfinite(torch.linalg.vector_norm(x.detach(), math.inf).item())
