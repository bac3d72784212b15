"""The loop for samples with times, and on request steps, of their own: times and step sizes are tensors (B,)."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .clock import Nodes, SampleClock
from .control import first_steps, next_of_grid, norm_samples, tie
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
    last = before = torch.ones(batch, dtype=torch.float64, device=device)
    refused = torch.zeros(batch, dtype=torch.bool, device=device)
    broken = zero
    look = stiffness(method) if plan.adaptive else None
    convergent = convergence(method)
    looked = stiff = zero
    tries = 0

    while True:
        active = status < 0
        status = torch.where(active & (accepted + rejected >= plan.max_steps), int(Status.MAX_STEPS), status)
        active = status < 0
        if plan.adaptive:
            dt = dt.clamp(control.min_step, control.max_step)
        behind = (stops - node.value.unsqueeze(1)) * sign.unsqueeze(1) <= 0
        at_stop = behind.sum(1, keepdim=True).clamp(max=stops.shape[1] - 1)
        target = Nodes(stops.gather(1, at_stop).squeeze(1), anchors.gather(1, at_stop).squeeze(1))
        remaining = (target.value - node.value) * sign
        if plan.adaptive or math.isinf(plan.step_size):
            ahead, lands = node.value + sign * dt, dt >= remaining * (1 - 1e-9)  # no sliver is left
        else:
            passed = torch.where(at_stop > 0, stops.gather(1, (at_stop - 1).clamp(min=0)), times[:, :1]).squeeze(1)
            ahead, lands = next_of_grid(node.value, passed, target.value, sign, dt)
        end = target.where(lands, Nodes(ahead, node.anchor))
        length = (end.value - node.value) * sign
        ulp = torch.nextafter(node.value.abs(), torch.full_like(node.value, math.inf)) - node.value.abs()
        stuck = active & ~((length > 0) & (lands | (length >= 10 * ulp) | (not plan.adaptive)))
        status = torch.where(stuck, torch.where(broken > 0, broken, int(Status.STEP_UNDERFLOW)), status)
        active = active & ~stuck
        if not active.any():
            break
        least = torch.minimum(dt, length) <= control.min_step  # rounding may have made the length more than dt
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
        kind = torch.where(torch.isfinite(error), 0, int(Status.NON_FINITE))
        solved = None if convergent is None else convergent(stages)
        if solved is not None:
            kind = torch.where((kind == 0) & ~solved, int(Status.NOT_CONVERGED), kind)
            error = torch.where(solved, error, math.nan)
        finite = kind == 0
        accept = active & ((error <= 1.0) | (finite & least & plan.adaptive))
        refuse = active & ~accept
        broken = torch.where(refuse, kind, broken)
        accepted, rejected = accepted + accept, rejected + refuse
        hopeless = refuse & ~finite & least if plan.adaptive else refuse
        status = torch.where(hopeless, broken, status)
        tries += 1
        if look is not None and tries % EVERY == EVERY // 2:
            looked, stiff = looked + accept, stiff + (accept & (look(stages) > BOUNDARY))
        if accept.any():
            step.moved = accept
            if torch.is_grad_enabled() and not finite.all():
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
            status = torch.where(accept & over, int(Status.EVENT), status)
            finished = accept & (row == count) & ~over
            status = torch.where(finished, int(Status.SUCCESS), status)
            status = torch.where(lost, int(Status.NON_FINITE), status)
            node, carry = end.where(accept, node), carry1
        if plan.adaptive:
            factor = torch.where(finite, control.factors(error, last, before, k), control.min_factor)
            grown = length * torch.where(refused, factor.clamp(max=1.0), factor)
            grown = torch.where(lands, torch.maximum(grown, dt), grown)
            dt = torch.where(accept, grown, torch.where(refuse, length * factor.clamp(max=0.9), dt))
            before = torch.where(accept, last, before)
            last = torch.where(accept, error.clamp(min=1e-10), last)
        refused = refuse

    tape.carry = carry
    tape.status = [Status(s) for s in status.tolist()]
    tape.accepted, tape.rejected = accepted.tolist(), rejected.tolist()
    tape.looked, tape.stiff = looked.tolist(), stiff.tolist()
    tape.evaluations, tape.products = evaluations.tolist(), products.tolist()
    tried = torch.minimum(dt, remaining)
    tape.failed_at = list(zip(node.value.tolist(), tried.tolist(), strict=True))
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
