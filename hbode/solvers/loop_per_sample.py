"""The loop for samples with times, and on request steps, of their own: times and step sizes are tensors (B,)."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .clock import Nodes, SampleClock
from .control import first_steps, norm_samples, tie
from .control_law import Control, propose, settle
from .field import Field
from .method import Carry, Method, convergence, stiffness
from .noise import noise_state
from .plan import Plan
from .sample_step import SampleStep, batch_first, find_sample_crossings, sample_values
from .status import Status
from .stiffness import BOUNDARY, EVERY
from .tape import Tape


class SampleBeginning(NamedTuple):
    """Where samples stand before their first steps: times (B, T), signs, statuses and step sizes (B,).

    `row` is the first output that is not yet there, `stops` are the times that steps must end on, (B, K), with their
    `anchors`.
    """

    tape: Tape
    carry: Carry
    times: Tensor
    sign: Tensor
    row: Tensor
    stops: Tensor
    anchors: Tensor
    status: Tensor
    dt: Tensor

    def remaining(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stops ahead in order, (B, K), the anchors behind so many, (B, K + 1), and the number of the last.

        Repeated last stops make K a power of two, for fewer shapes to compile for.
        """
        keys = self.stops * self.sign.unsqueeze(1)
        ahead = keys > torch.cat((self.times[:, :1] * self.sign.unsqueeze(1), keys[:, :-1]), 1)
        order = torch.where(ahead, keys, math.inf).argsort(dim=1, stable=True)  # without repetition, the rest last
        count = ahead.sum(1, keepdim=True)
        places = torch.arange(2 ** (keys.shape[1] - 1).bit_length(), device=keys.device)
        order = order.gather(1, places.minimum((count - 1).clamp(min=0)))
        stops, anchors = self.stops.gather(1, order), self.anchors.gather(1, order)
        return stops, torch.cat((torch.zeros_like(anchors[:, :1]), anchors), 1), count.squeeze(1) - 1.0


def begin_per_sample(
    method: Method, field: Field, y0: Tensor, clock: SampleClock, plan: Plan, start: Carry | None, tied: bool
) -> SampleBeginning:
    """Return the first outputs, the first carry, and lengths of the first steps, NaN where they are to be estimated."""
    times = clock.times.detach()
    batch, count = times.shape
    sign = torch.where(times[:, -1] >= times[:, 0], 1.0, -1.0).to(times)
    stops, anchors = _stops(times, sign, plan)
    row = ((times == times[:, :1]).long().cumprod(1)).sum(1)
    carry: Carry = (y0,)
    first = batch_first(y0, clock.ndim)
    lead = torch.arange(count, device=times.device).unsqueeze(1) < row
    rows = first.unsqueeze(0).expand(count, *first.shape)[lead]
    tape = Tape(lead=len(rows), row_blocks=[rows], row_places=[lead.nonzero()])
    status = torch.where(row == count, int(Status.SUCCESS), -1)
    size = (plan.control.first_step or math.nan) if plan.adaptive else plan.step_size
    dt = torch.full((batch,), size, dtype=torch.float64, device=times.device)
    if (status < 0).any():
        carry = start or method.start(field, clock.start(), y0)
        slope = batch_first(method.slope(field, carry), clock.ndim).reshape(batch, -1)
        broken = ~torch.isfinite(slope.detach()).all(1)
        status = torch.where((status < 0) & broken, int(Status.NON_FINITE), status)
    if tied and plan.adaptive and plan.control.first_step is not None:
        dt = tie(dt, (times[:, -1] - times[:, 0]).abs(), status < 0)
    return SampleBeginning(tape, carry, times, sign, row, stops, anchors, status, dt)


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
    tape, carry, times, sign, row, stops, anchors, status, dt = begin_per_sample(
        method, field, y0, clock, plan, start, tied
    )
    batch, count = times.shape
    device = times.device
    zero = torch.zeros(batch, dtype=torch.long, device=device)
    node = Nodes(times[:, 0], zero)
    accepted, rejected, evaluations, products = zero.clone(), zero.clone(), zero.clone(), zero.clone()
    control, k, axis = plan.control, (method.error_order or 0) + 1, y0.ndim - clock.ndim
    if (status < 0).any() and plan.adaptive and control.first_step is None:
        scale = torch.mul(y0.abs(), control.rtol).add_(control.atol)
        measure = partial(norm_samples, batch_axis=axis)
        span = clock.wide(times[:, 0]), clock.wide(times[:, -1])
        dt = first_steps(method, field, *span, carry, scale, measure, control.max_step)
        if tied:
            dt = tie(dt, (times[:, -1] - times[:, 0]).abs(), status < 0)
    evaluations += field.calls
    values = sample_values(plan.crossings, times[:, 0], y0) if plan.crossings else None
    one = torch.ones_like(dt)
    at = Control(times[:, 0], dt, one, one, torch.zeros_like(dt), torch.zeros_like(dt), status.to(dt))
    look = stiffness(method) if plan.adaptive else None
    convergent = convergence(method)
    looked = stiff = zero
    tries = 0

    while True:
        behind = (stops - at.t.unsqueeze(1)) * sign.unsqueeze(1) <= 0
        at_stop = behind.sum(1, keepdim=True).clamp(max=stops.shape[1] - 1)
        target = Nodes(stops.gather(1, at_stop).squeeze(1), anchors.gather(1, at_stop).squeeze(1))
        passed = torch.where(at_stop > 0, stops.gather(1, (at_stop - 1).clamp(min=0)), times[:, :1]).squeeze(1)
        exhausted = accepted + rejected >= plan.max_steps
        at, attempt = propose(plan, at, sign, target.value, passed, at.status < 0, exhausted)
        active = attempt.active
        if not active.any():
            break
        end = target.where(attempt.lands, Nodes(attempt.end, node.anchor))
        nothing = zero.new_zeros((0, batch))
        noise = noise_state(device) if plan.noise else None
        step = SampleStep(carry, node, end, active, nothing, nothing.bool(), noise=noise)
        calls, made = field.calls, field.products
        carry1, stages = step.run(method, field, clock)
        with torch.no_grad():
            if not plan.adaptive:
                finite = torch.isfinite(batch_first(carry1[0], clock.ndim).reshape(batch, -1)).all(1)
                error = torch.where(finite, 0.0, math.nan).to(times)
            else:
                scaled = control.scaled(method.error(stages), carry[0], carry1[0])
                error = norm_samples(scaled, axis)
                if tied:
                    error = error.square().mean().sqrt().expand(batch)
        evaluations += active * (field.calls - calls)
        products += active * (field.products - made)
        at, accept = settle(plan, k, at, attempt, error, None if convergent is None else convergent(stages))
        accepted, rejected = accepted + accept, rejected + (active & ~accept)
        tries += 1
        if look is not None and tries % EVERY == EVERY // 2:
            looked, stiff = looked + accept, stiff + (accept & (look(stages) > BOUNDARY))
        if accept.any():
            step.moved = accept
            if torch.is_grad_enabled() and (active & (at.failure > 0)).any():
                carry1, stages = step.run(method, field, clock)
            else:
                carry1 = step.hold(clock, carry1, carry)
            reach, over, lost = end.value, torch.zeros_like(accept), torch.zeros_like(accept)
            if values is not None:
                sighted, values = find_sample_crossings(
                    method, clock, plan.crossings, values, step, carry1, stages, accept
                )
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
            status = torch.where(accept & over, float(Status.EVENT), at.status)
            status = torch.where(accept & (row == count) & ~over, float(Status.SUCCESS), status)
            at = at._replace(status=torch.where(lost, float(Status.NON_FINITE), status))
            node, carry = end.where(accept, node), carry1

    tape.carry = carry
    tape.status = [Status(int(s)) for s in at.status.tolist()]
    tape.accepted, tape.rejected = accepted.tolist(), rejected.tolist()
    tape.looked, tape.stiff = looked.tolist(), stiff.tolist()
    tape.evaluations, tape.products = evaluations.tolist(), products.tolist()
    tried = torch.minimum(at.dt, (target.value - at.t).abs())
    tape.failed_at = list(zip(at.t.tolist(), tried.tolist(), strict=True))
    return tape


def place_per_sample(tape: Tape, rows: Tensor, clock: SampleClock) -> Tensor:
    """Return the rows at all requested times, shape (T, *y), NaN where they were not reached."""
    batch, count = clock.times.shape
    at = torch.cat(tape.row_places)
    blank = rows.new_full((count, batch, *rows.shape[1:]), math.nan)
    full = blank.index_put((at[:, 0], at[:, 1]), rows)
    return full.movedim(1, full.ndim - clock.ndim)


def _stops(times: Tensor, sign: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return the times that steps must end on, (B, K) in the direction of time, and their anchors (-1: none)."""
    batch, count = times.shape
    if not plan.adaptive and math.isinf(plan.step_size):
        return times, torch.arange(count, device=times.device).expand(batch, count)
    extra = times.new_tensor([node.value for node in plan.stops if node.anchor is None]).expand(batch, -1)
    start, end = times[:, :1] * sign[:, None], times[:, -1:] * sign[:, None]
    keys = extra * sign[:, None]
    keys = torch.where((keys > start) & (keys < end), keys, end)
    keys = torch.cat((keys, end), 1).sort(1).values
    anchors = torch.where(keys == end, count - 1, -1)
    return keys * sign[:, None], anchors
