"""The loop for a batch that steps as one: times and step sizes are Python floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import Clock, Node
from ..field import Field
from ..method import Carry, Method, convergence, stiffness, takes_numbers
from ..noise import noise_state
from ..status import Status
from ..tape.jumps import Jump, Reset, Resets
from ..tape.shared_step import Found, SharedStep
from ..tape.tape import Tape
from ..tape.watch import Watch
from .control import Controller, first_steps
from .control_law import Numbers
from .plan import Plan
from .stiffness import BOUNDARY, EVERY


class Beginning(NamedTuple):
    """Where a solve stands before its first step."""

    tape: Tape
    carry: Carry
    row: int
    """The first output that is not yet there."""
    sign: float
    dt: float
    status: Status | None


def begin(
    method: Method, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None, estimate: bool = True
) -> Beginning:
    """Return the first outputs, the first carry and the length of the first step.

    Without `estimate`, a length that has to be estimated is NaN, and a carry that is not finite goes unnoticed then.
    """
    times, count = clock.values, len(clock.values)
    sign = clock.sign
    node = Node(times[0], 0)
    row = 1
    while row < count and times[row] == times[0]:
        row += 1
    tape = Tape(lead=row, ends=[y0] * row)
    if plan.updates is not None:
        tape.row_places.append(torch.arange(row))
    carry: Carry = (y0,)
    if row < count or plan.updates is not None:
        field = field.within(plan.sides(node.value, sign))
        at: Any = node.value if takes_numbers(method) and clock.constant else clock.at(node)
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
    return Beginning(tape, carry, row, sign, dt, status)


def solve(method: Method, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None = None) -> Tape:
    """Integrate from the first requested time to the last one, from the first carry if it is known already.

    The number of requested times does not change the steps: they are interpolated, except that the last one
    always ends a step, and that on a fixed grid without `step_size` all of them do.
    """
    times, count = clock.values, len(clock.values)
    tape, carry, row, sign, dt, status = begin(method, field, y0, clock, plan, start)
    at = Numbers(plan, (method.error_order or 0) + 1, sign, times[0], dt, status)
    node, stop, passed = Node(at.t, 0), 0, at.t
    sides = plan.sides(at.t, sign)
    watch = Watch(plan.crossings, clock, sign, clock.start().detach(), y0) if plan.crossings else None
    one = torch.ones(1, dtype=torch.bool, device=y0.device)
    accepted = rejected = 0
    restart = False
    due = [] if plan.updates is None else plan.updates.anchors.tolist()

    def updated(node: Node, carry: Carry) -> Carry:
        """Return the carry after the update at a node, if there is one."""
        which = tape.updates
        if which == len(due) or due[which] != node.anchor or plan.updates is None:
            return carry
        tape.updates += 1
        jump = plan.updates.jump(carry, node, torch.tensor(which, device=y0.device), sides)
        carry = jumped(jump, torch.tensor([count + which]))
        if watch is not None:
            watch.renew(jump, carry[0])
        return carry

    def jumped(jump: Jump, places: Tensor) -> Carry:
        """Return the carry after a jump."""
        jump.noise = noise_state(y0.device) if plan.noise else None
        tape.name(jump.named(len(plan.crossings)))
        tape.jump(jump.replay(method, field, clock, ()), None if plan.updates is None else places)
        plan.enter(tape, jump, None)
        return tape.carry

    carry = updated(node, carry)
    look = stiffness(method) if plan.adaptive else None
    solved = convergence(method)
    watched = plan.adaptive or plan.crossings or plan.keep_interpolants
    ratios: list[Tensor] = []

    while row < count and at.status is None:
        if accepted + rejected >= plan.max_steps:
            at.status = Status.MAX_STEPS
            break
        target = plan.stops[stop]
        if not at.propose(target.value, passed):
            break
        lands, end = at.lands, target if at.lands else Node(at.end, node.anchor)
        noise = noise_state(y0.device) if plan.noise else None
        step = SharedStep(carry, node, end, row, row, restart=restart, sides=sides, noise=noise)
        step.last_of_all = lands and end is plan.stops[-1] and not watched and not due
        if plan.on_step is not None:
            plan.on_step(node.value, carry[0], end.value - node.value)
        carry1, stages = step.run(method, field, clock)
        if plan.adaptive:
            error = _scaled_error(method, plan.control, stages, carry[0], carry1[0])
        else:
            error = 0.0 if not plan.check_finite or _finite(carry1[0]) else math.nan
        met = None if solved is None or not math.isfinite(error) else solved(stages)
        if not at.settle(error, met is None or bool(met.all())):
            rejected += 1
            if plan.on_reject is not None:
                plan.on_reject(node.value, carry[0], end.value - node.value)
            continue

        accepted += 1
        if look is not None and accepted % EVERY == EVERY // 2:
            ratios.append(look(stages))
        if plan.on_accept is not None:
            plan.on_accept(node.value, carry[0], end.value - node.value)
        reach, cut, y1 = end.value, None, carry1[0]
        if watch is not None and (sighted := watch.look(*step.stretch(method, clock, stages), y1)):
            if sighted.stuck:
                at.status = Status.ZENO
                break
            zeros, cut = watch.divided(sighted, carry[0], y1, clock.span(node, end).detach())
            step.found = tuple(sorted(map(Found.of, zeros), key=lambda f: f.theta))
            tape.name((f.which, 0) for f in step.found)
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
            tape.row_places.append(torch.arange(step.first, row))
        if step.at_end(clock) and not step.found:
            tape.ends.append(carry1[0])
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
            change, before = Resets(clock, plan.crossings, jump.fired), (first + tape.updates, len(tape.event_index))
            tape.resets.append(Reset(reach, end.value - step.start.value, step.cut[0], change, *before))
            carry = jumped(jump, torch.arange(first, row))
            if watch.restart(jump, cut, carry[0], method.slope(field.at(clock.at(node)), carry)):
                at.status = Status.ZENO
            elif watch.over.any():
                at.status = Status.EVENT
            if at.status is not None:
                break
        carry = updated(node, carry) if due else carry
        if lands:
            stop, passed = stop + 1, end.value

    tape.status = [Status.SUCCESS if at.status is None else at.status]
    tape.accepted, tape.rejected, tape.evaluations = [accepted], [rejected], [field.calls]
    tape.products = [field.products]
    tape.looked, tape.stiff = [len(ratios)], [int((torch.stack(ratios) > BOUNDARY).sum()) if ratios else 0]
    left = abs(plan.stops[min(stop, len(plan.stops) - 1)].value - node.value) if plan.stops else 0.0
    tape.failed_at = [(node.value, min(at.dt, left))]
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
    return control.measure(control.scaled(method.error(stages), y0, y1))


def _finite(x: Tensor) -> bool:
    return x.numel() == 0 or math.isfinite(torch.linalg.vector_norm(x.detach(), math.inf).item())
