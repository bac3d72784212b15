"""The loop for samples with times, and on request steps, of their own: times and step sizes are tensors (B,)."""

from __future__ import annotations

import math
from itertools import zip_longest

import torch
from torch import Tensor

from ..clock import Nodes, SampleClock
from ..field import Field
from ..method import Carry, Method
from ..methods.explicit.stiffness import EVERY
from ..noise import noise_state
from ..status import Status
from ..tape.block import Block
from ..tape.jumps import Jump
from ..tape.sample_step import SampleStep, batch_first
from ..tape.tape import OutputRows, Tape
from ..tape.watch import Watch
from .block_state import LoopState, Start, tolerances
from .blocks import ahead, judged, with_first_step
from .control import tie
from .plan import Plan


def begin_samples(
    method: Method, field: Field, y0: Tensor, clock: SampleClock, plan: Plan, start: Carry | None, tied: bool
) -> Start:
    """Return where samples stand before their first steps."""
    times = clock.times.detach()
    batch, count = times.shape
    sign = clock.sign
    row = ((times == times[:, :1]).long().cumprod(1)).sum(1)
    first = batch_first(y0, clock.ndim)
    lead = torch.arange(count, device=times.device).unsqueeze(1) < row
    rows = first.unsqueeze(0).expand(count, *first.shape)[lead]
    tape = Tape(carry=(y0,), rows=OutputRows(len(rows), [rows], places=[lead.nonzero()]))
    status = torch.where(row == count, float(Status.SUCCESS), -1.0).to(times)
    dt = torch.full_like(sign, (plan.control.first_step or math.nan) if plan.adaptive else plan.step_size)
    if (status < 0).any() or plan.updates is not None:
        tape.carry = start or method.start(field, clock.start(), y0)
        slope = batch_first(method.slope(field.at(clock.start()), tape.carry), clock.ndim).reshape(batch, -1)
        broken = ~torch.isfinite(slope.detach()).all(1)
        status = torch.where((status < 0) & broken, float(Status.NON_FINITE), status)
    if tied and plan.adaptive and plan.control.first_step is not None:
        dt = tie(dt, (times[:, -1] - times[:, 0]).abs(), status < 0)
    one, zero = torch.ones_like(dt), torch.zeros_like(dt)
    state = torch.stack((times[:, 0], dt, one, one, zero, zero, status, *[zero] * 6))
    nodes, last = _nodes(times, sign, plan)
    rtol, atol, own = tolerances(plan.control, y0)
    same = [torch.full_like(dt, float(x)) for x in (plan.max_steps, rtol, atol)]
    limits = torch.stack((sign, *same, times[:, -1], last))
    begun = Start(tape, state, nodes, limits, own, clock.ndim, tied)
    return begun if plan.updates is None else begun.updated(plan.updates)


def solve_per_sample(
    method: Method,
    field: Field,
    y0: Tensor,
    clock: SampleClock,
    plan: Plan,
    start: Carry | None = None,
    tied: bool = False,
) -> Tape:
    """Integrate every sample over its own times, shape (B, T).

    With `tied`, all samples take the same fraction of the way to their next stop in a step, by the error of the batch.
    Samples that are done, or failed, stay where they are while the others go on.
    """
    begun = begin_samples(method, field, y0, clock, plan, start, tied)
    tape, nodes, now = begun.tape, begun.nodes, LoopState(*begun.state.unbind())
    carry, sign, times, device = tape.carry, clock.sign, clock.times.detach(), y0.device
    inputs = begun.inputs(torch.zeros_like(sign).long(), len(nodes.value) - 1)
    if plan.adaptive and plan.control.first_step is None and (now.status < 0).any():
        now = with_first_step(method, field, plan, inputs, now, carry)
    node = Nodes(times[:, 0], nodes.anchor[0])
    evaluations, products = torch.full_like(node.anchor, field.calls), torch.zeros_like(node.anchor)
    watch = Watch(plan.crossings, clock, sign, times[:, 0], y0) if plan.crossings else None
    tries = 0

    def jumped(jump: Jump, place: Tensor | None) -> Carry:
        """Return the carry after a jump."""
        calls = field.calls
        carry = plan.jumped(tape, method, field, clock, jump, place)
        evaluations.add_(jump.moved * (field.calls - calls))
        return carry

    while True:
        if plan.updates is not None and (due := (which := begun.due(now)) >= 0).any():
            place = torch.stack((times.shape[1] + which[due], due.nonzero().flatten()), -1)
            update = plan.updates.jump(carry, node, which)
            carry = jumped(update, place)
            if watch is not None:
                watch.renew(update, carry[0])
            status = now.status.where(~(due & (now.stop == inputs.last)), float(Status.SUCCESS))
            now = now._replace(stop=now.stop + due, status=status)
        control, attempt = ahead(plan, inputs, now, now.status < 0)
        active = attempt.active
        if not active.any():
            break
        anchor = nodes.anchor.gather(0, (now.stop + (active & attempt.lands)).long().unsqueeze(0)).squeeze(0)
        end = Nodes(attempt.end, anchor)
        nothing = node.anchor.new_zeros((0, len(sign)))
        noise = noise_state(device) if plan.noise else None
        step = SampleStep(carry, node, end, active, nothing, nothing.bool(), noise=noise)
        calls, made = field.calls, field.products
        carry1, stages = step.run(method, field, clock)
        tries += 1
        with torch.no_grad():
            given = control, attempt, carry[0], carry1[0], stages, tries % EVERY == EVERY // 2
            stop = now.stop
            now, accept = judged(method, plan, inputs, now, *given)
        evaluations += active * (field.calls - calls)
        products += active * (field.products - made)
        if not accept.any():
            continue
        step.moved = accept
        if torch.is_grad_enabled() and (active & (now.failure > 0)).any():
            carry1, stages = step.run(method, field, clock)
        else:
            carry1 = step.hold(clock, carry1, carry)
        reach, cut, status, y1 = torch.where(accept, end.value, node.value), None, now.status, carry1[0]
        if watch is not None and (sighted := watch.look(*step.stretch(method, clock, stages), y1, accept)):
            step.found, cut = watch.divided(sighted, carry[0], y1, clock.wide(end.value - node.value))
            early = sighted.limit < 1.0
            reach = torch.where(early, node.value + sighted.limit.where(early, 1.0) * (reach - node.value), reach)
            reach = torch.where(sighted.stuck, node.value, reach)
            status = status.where(~sighted.lost, float(Status.NON_FINITE)).where(~sighted.stuck, float(Status.ZENO))
        last, who = reach, torch.zeros_like(accept) if cut is None else cut.who
        if cut is not None:
            step.cut = tuple((plan.crossings[zeros.which], zeros) for zeros in cut.ends)
            carry1 = step.stopped(method, clock, carry1, stages)
            last = torch.where(who, torch.nextafter(reach, node.value), reach)  # what is at the event is after it
        block = _between(clock, node.value, last)
        step.index, step.inside = block.lines[:2]
        tape.add(step.read(method, clock, plan.crossings, carry1, stages))
        tape.rows.places += block.places
        tape.events.name(
            (zeros.which, sample) for zeros in step.found for sample in zeros.met.nonzero().flatten().tolist()
        )
        tape.t.append(torch.where(accept, node.value, math.nan))
        tape.dt.append(torch.where(accept, torch.where(who, reach, end.value) - node.value, math.nan))
        plan.enter(tape, step, stages)
        arrived = accept & attempt.lands & (~who | (reach == end.value))
        now = now._replace(
            t=torch.where(accept, reach, now.t), stop=now.stop - (accept & attempt.lands & ~arrived).double()
        )
        node, carry = Nodes(reach, node.anchor).where(who & ~arrived, end).where(accept, node), carry1
        if cut is not None and watch is not None:
            block = _between(clock, last, reach)
            jump = watch.jump(method, step, cut, node, carry1, stages, block.lines.inside)
            carry = jumped(jump, torch.cat([*block.places, times.new_zeros(0, 2).long()]))
            stuck = watch.restart(jump, cut, carry[0], method.slope(field.at(clock.wide(reach)), carry))
            status = status.where(~torch.from_numpy(stuck).to(device), float(Status.ZENO))
        done = arrived & (stop == inputs.last) & (status < 0)
        status = torch.where(done, float(Status.SUCCESS), status)
        if watch is not None:
            over = accept & torch.from_numpy(watch.over).to(device) & (status <= 0)
            status = torch.where(over, float(Status.EVENT), status)
        now = now._replace(status=status)

    tape.carry = carry
    now = now._replace(status=control.status, dt=control.dt)
    tape.outcomes = now.outcomes(inputs.stop(now.stop), evaluations, products)
    return tape


def _between(clock: SampleClock, start: Tensor, end: Tensor) -> Block:
    """Return the block of one step, (B,), from the first of two times to the other."""
    return Block(clock, Nodes(torch.stack((start, end)), torch.zeros_like(start).long().expand(2, -1)))


def _nodes(times: Tensor, sign: Tensor, plan: Plan) -> tuple[Nodes, Tensor]:
    """Return the first times and those that steps must end on in order, (1 + K, B), and the number of the last (B,).

    Who has fewer repeats the last one.
    """
    keys = (times * sign.unsqueeze(1)).T
    anchors = torch.arange(len(keys), device=times.device).unsqueeze(1).expand_as(keys)
    if plan.adaptive or math.isfinite(plan.step_size):
        common = times.new_tensor([node.value for node in plan.stops if node.anchor is None]).unsqueeze(1)
        rows = list(zip_longest(*plan.sample_stops, fillvalue=math.nan))
        own = times.new_tensor(rows).reshape(len(rows), len(times))
        extra = torch.cat((common.expand(-1, len(times)), own)) * sign
        extra = torch.where((extra > keys[0]) & (extra < keys[-1]), extra, keys[-1])
        tied = torch.full_like(extra, -1).long()
        if plan.updates is not None:
            tied = torch.cat((plan.updates.anchors.T, tied))
            own = plan.updates.anchors.T
            extra = torch.cat((keys.gather(0, torch.where(own < 0, len(keys) - 1, own)), extra))
        extra, tied = torch.cat((extra, keys[-1:])), torch.cat((tied, anchors[-1:]))
        order = extra.argsort(dim=0, stable=True)
        keys = torch.cat((keys[:1], extra.gather(0, order)))
        anchors = torch.cat((anchors[:1], torch.where(keys[1:] == keys[-1], times.shape[1] - 1, tied.gather(0, order))))
    ahead = keys.diff(dim=0) > 0
    order = torch.where(ahead, keys[1:], math.inf).argsort(dim=0, stable=True)  # without repetition, the rest last
    number = ahead.sum(0)
    places = torch.arange(len(order), device=keys.device).unsqueeze(1).minimum((number - 1).clamp(min=0))
    order = torch.cat((torch.zeros_like(number).unsqueeze(0), order.gather(0, places) + 1))
    return Nodes((keys * sign).gather(0, order), anchors.gather(0, order)), number - 1.0
