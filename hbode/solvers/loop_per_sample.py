"""The loop for samples with times, and on request steps, of their own: times and step sizes are tensors (B,)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .blocks import BlockInputs, LoopState, ahead, judged, tolerances, with_first_step
from .clock import Nodes, SampleClock
from .control import tie
from .field import Field
from .method import Carry, Method, convergence
from .noise import noise_state
from .plan import Plan
from .sample_step import SampleStep, batch_first, find_sample_crossings, sample_values
from .status import Status
from .stiffness import EVERY
from .tape import Tape


class Samples:
    """Where samples stand before their first steps, and where they go.

    Attributes
    ----------
    tape, carry
        The first outputs, and the first carry.
    times, sign, row
        The requested times (B, T), the directions of time (B,), and the first output that is not yet there (B,).
    anchors
        Those of the nodes behind so many stops, (B, K + 1).
    inputs, state
        What steps go by, and start from: lengths are NaN where they are to be estimated.
    active
        Whether any has a step to take.
    """

    def __init__(
        self,
        method: Method,
        field: Field,
        y0: Tensor,
        clock: SampleClock,
        plan: Plan,
        start: Carry | None,
        tied: bool,
    ) -> None:
        self.times = times = clock.times.detach()
        batch, count = times.shape
        self.sign = sign = torch.where(times[:, -1] >= times[:, 0], 1.0, -1.0).to(times)
        self.row = ((times == times[:, :1]).long().cumprod(1)).sum(1)
        self.carry: Carry = (y0,)
        first = batch_first(y0, clock.ndim)
        lead = torch.arange(count, device=times.device).unsqueeze(1) < self.row
        rows = first.unsqueeze(0).expand(count, *first.shape)[lead]
        self.tape = Tape(lead=len(rows), row_blocks=[rows], row_places=[lead.nonzero()])
        status = torch.where(self.row == count, float(Status.SUCCESS), -1.0).to(times)
        size = (plan.control.first_step or math.nan) if plan.adaptive else plan.step_size
        dt = torch.full_like(sign, size)
        if (status < 0).any():
            self.carry = start or method.start(field, clock.start(), y0)
            slope = batch_first(method.slope(field, self.carry), clock.ndim).reshape(batch, -1)
            broken = ~torch.isfinite(slope.detach()).all(1)
            status = torch.where((status < 0) & broken, float(Status.NON_FINITE), status)
        self.active = bool((status < 0).any())
        if tied and plan.adaptive and plan.control.first_step is not None:
            dt = tie(dt, (times[:, -1] - times[:, 0]).abs(), status < 0)
        one, zero = torch.ones_like(dt), torch.zeros_like(dt)
        self.state = torch.stack((times[:, 0], dt, one, one, zero, zero, status, *[zero] * 6))
        stops, self.anchors, last = _stops(times, sign, plan)
        rtol, atol, own = tolerances(plan.control, y0)
        same = [torch.full_like(dt, float(x)) for x in (plan.max_steps, rtol, atol)]
        numbers = torch.cat((torch.stack((sign, last, *same, times[:, -1], times[:, 0])), stops.T))
        self.inputs = BlockInputs(numbers, own, clock.ndim, tied)


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

    With `tied`, all samples take the same fraction of their span in a step, decided by the error of the batch.
    Samples that are done, or failed, stay where they are while the others go on.
    """
    begun = Samples(method, field, y0, clock, plan, start, tied)
    tape, carry, times, sign, row, inputs = begun.tape, begun.carry, begun.times, begun.sign, begun.row, begun.inputs
    batch, count = times.shape
    device, state = times.device, begun.state
    if begun.active and plan.adaptive and plan.control.first_step is None:
        state = with_first_step(method, field, plan, inputs, state, carry)
    now = LoopState(*state.unbind())
    node = Nodes(times[:, 0], torch.zeros_like(row))
    evaluations, products = torch.full_like(row, field.calls), torch.zeros_like(row)
    values = sample_values(plan.crossings, times[:, 0], y0) if plan.crossings else None
    convergent = convergence(method)
    tries = 0

    while True:
        control, attempt = ahead(plan, inputs, now, now.status < 0)
        active = attempt.active
        if not active.any():
            break
        anchor = begun.anchors.gather(1, (now.stop + (active & attempt.lands)).long().unsqueeze(1)).squeeze(1)
        end = Nodes(attempt.end, anchor)
        nothing = row.new_zeros((0, batch))
        noise = noise_state(device) if plan.noise else None
        step = SampleStep(carry, node, end, active, nothing, nothing.bool(), noise=noise)
        calls, made = field.calls, field.products
        carry1, stages = step.run(method, field, clock)
        tries += 1
        with torch.no_grad():
            solved = None if convergent is None else convergent(stages)
            given = control, attempt, carry[0], carry1[0], stages, solved, tries % EVERY == EVERY // 2
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
        reach, over, lost = end.value, torch.zeros_like(accept), torch.zeros_like(accept)
        if values is not None:
            sighted, values = find_sample_crossings(method, clock, plan.crossings, values, step, carry1, stages, accept)
            if sighted is not None:
                step.found, limit, lost = sighted
                over = limit <= 1.0
                reach = torch.where(over, node.value + limit.clamp(max=1.0) * (reach - node.value), reach)
        window = torch.arange(count, device=device)
        passed = ((reach.unsqueeze(1) - times) * sign.unsqueeze(1) >= 0) & (window >= row.unsqueeze(1))
        passed &= accept.unsqueeze(1)
        most = int(passed.sum(1).max())
        step.index = (row + torch.arange(most, device=device).unsqueeze(1)).clamp(max=count - 1)
        step.inside = torch.arange(most, device=device).unsqueeze(1) < passed.sum(1)
        tape.add(step.read(method, clock, plan.crossings, carry1, stages))
        if most:
            samples = torch.arange(batch, device=device).expand_as(step.index)
            tape.row_places.append(torch.stack((step.index, samples), -1)[step.inside])
        for zeros in step.found:
            who = zeros.met.nonzero().flatten().tolist()
            tape.event_index += [zeros.which] * len(who)
            tape.event_sample += who
        tape.t.append(torch.where(accept, node.value, math.nan))
        tape.dt.append(torch.where(accept, end.value - node.value, math.nan))
        if plan.keep is not None:
            plan.keep(tape.steps, step)
        if plan.keep_interpolants:
            tape.interpolants.append(stages)
        row = row + passed.sum(1)
        status = torch.where(accept & over, float(Status.EVENT), now.status)
        status = torch.where(accept & (row == count) & ~over, float(Status.SUCCESS), status)
        now = now._replace(status=torch.where(lost, float(Status.NON_FINITE), status))
        node, carry = end.where(accept, node), carry1

    tape.carry = carry
    tape.end(now._replace(status=control.status, dt=control.dt), inputs.stop(now.stop))
    tape.evaluations, tape.products = evaluations.tolist(), products.tolist()
    return tape


def _stops(times: Tensor, sign: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Return the times that steps must end on in order, (B, K), the anchors behind so many, and the last's number.

    The anchors have shape (B, K + 1), -1 for a constant. Repeated last stops make K a power of two, for fewer shapes to
    compile for.
    """
    batch, count = times.shape
    direction = sign.unsqueeze(1)
    if not plan.adaptive and math.isinf(plan.step_size):
        keys, anchors = times * direction, torch.arange(count, device=times.device).expand(batch, count)
    else:
        extra = times.new_tensor([node.value for node in plan.stops if node.anchor is None]).expand(batch, -1)
        start, end = times[:, :1] * direction, times[:, -1:] * direction
        keys = extra * direction
        keys = torch.where((keys > start) & (keys < end), keys, end)
        keys = torch.cat((keys, end), 1).sort(1).values
        anchors = torch.where(keys == end, count - 1, -1)
    ahead = keys > torch.cat((times[:, :1] * direction, keys[:, :-1]), 1)
    order = torch.where(ahead, keys, math.inf).argsort(dim=1, stable=True)  # without repetition, the rest last
    number = ahead.sum(1, keepdim=True)
    places = torch.arange(2 ** (keys.shape[1] - 1).bit_length(), device=keys.device)
    order = order.gather(1, places.minimum((number - 1).clamp(min=0)))
    anchors = torch.cat((torch.zeros_like(anchors[:, :1]), anchors.gather(1, order)), 1)
    return (keys * direction).gather(1, order), anchors, number.squeeze(1) - 1.0
