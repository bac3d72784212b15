"""The loop for samples with times, and on request steps, of their own: times and step sizes are tensors (B,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .control import first_steps
from .field import Field
from .loop import Plan
from .method import Carry, Method
from .status import Status
from .tape import Crossing, Replayed, Tape


@dataclass(frozen=True)
class Nodes:
    """A point of every sample's grid, (B,) each: ``times[b, anchor]`` plus a constant; a constant for anchor -1."""

    value: Tensor
    anchor: Tensor

    def where(self, mask: Tensor, other: Nodes) -> Nodes:
        """Return these nodes where `mask`, the others elsewhere."""
        return Nodes(torch.where(mask, self.value, other.value), torch.where(mask, self.anchor, other.anchor))


@dataclass(frozen=True)
class SampleClock:
    """The requested times, shape (B, T) in float64, and the grids as functions of them (see `Clock`).

    `ndim` is the number of axes of h: times and steps meet the state with shape (B, 1, …, 1).
    """

    times: Tensor
    ndim: int

    def start(self) -> Tensor:
        """Return the first times, shape (B, 1, …, 1)."""
        return self.wide(self.times[:, 0])

    def fold(self, rows: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the sums of the rows (n, *row) that show the initial states, shape (*y)."""
        first = rows.new_zeros((len(self.times), *rows.shape[1:])).index_add(0, places[0][:, 1], rows)
        return first.movedim(0, first.ndim - self.ndim)

    def at(self, nodes: Nodes) -> Tensor:
        """Return the times of the nodes, shape (B,)."""
        if not self.times.requires_grad:
            return nodes.value
        tied = self.times.gather(1, nodes.anchor.clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(nodes.anchor >= 0, nodes.value + (tied - tied.detach()), nodes.value)

    def wide(self, x: Tensor) -> Tensor:
        """Give (…, B) the shape (…, B, 1, …, 1) in which it meets the state."""
        return x.reshape(*x.shape, *[1] * (self.ndim - 1))


@dataclass(slots=True)
class SampleStep:
    """One step of the batch in which at least one sample was accepted; the others took a step of length zero."""

    carry: Carry
    start: Nodes
    end: Nodes
    moved: Tensor
    index: Tensor
    inside: Tensor
    found: tuple[tuple[int, Tensor, Tensor], ...] = ()
    """(crossing, samples that met it (B,), fraction of the step (B,)) of every event function met."""
    sides: tuple[float, float] | None = None

    @property
    def rows(self) -> int:
        return int(self.inside.sum())

    @property
    def events(self) -> int:
        return sum(int(met.sum()) for _, met, _ in self.found)

    def run(self, method: Method, field: Field, clock: SampleClock) -> tuple[Carry, Any]:
        """Take the step; samples that do not move keep their carry."""
        t, end = clock.at(self.start), clock.at(self.end)
        dt = torch.where(self.moved, end - t, torch.zeros_like(t))
        carry, stages = method.step(field, clock.wide(t), clock.wide(dt), self.carry)
        return carry if self.moved.all() else self.hold(clock, carry), stages

    def hold(self, clock: SampleClock, carry: Carry) -> Carry:
        """Return `carry` for the samples that moved and the carry before the step for the others."""
        mask = clock.wide(self.moved)
        return tuple(
            torch.where(mask, new, old) if new.shape == old.shape else new
            for new, old in zip(carry, self.carry, strict=True)
        )

    def read(
        self, method: Method, clock: SampleClock, crossings: Sequence[Crossing], carry: Carry, stages: Any
    ) -> Replayed:
        """Return what the step gives out: rows (K, *row) in the order of `inside`, events likewise."""
        rows = None
        start, end = clock.at(self.start), clock.at(self.end)
        span = torch.where(self.moved, end - start, torch.ones_like(start))
        axis = clock.ndim
        if self.inside.any():
            at = clock.times.gather(1, self.index.T).T  # (n, B)
            theta = torch.where(self.inside, (at - start) / span, torch.zeros_like(at))
            states = method.interpolate(stages, clock.wide(theta))
            exact = (theta == 1.0) & ((self.index == self.end.anchor) | (not clock.times.requires_grad))
            states = torch.where(clock.wide(exact).reshape(_row_mask(exact, states, axis)), carry[0], states)
            rows = batch_first(states, axis, lead=1)[self.inside]
        if not self.found:
            return Replayed(carry, rows, None, None)
        event_t, event_y = [], []
        for index, met, theta in self.found:
            where = self._locate(method, clock, crossings[index], theta, stages, start, span)
            states = method.interpolate(stages, clock.wide(where.unsqueeze(0)))
            event_t.append((start + where * span)[met])
            event_y.append(batch_first(states, axis, lead=1)[0][met])
        return Replayed(carry, rows, torch.cat(event_t), torch.cat(event_y))

    def replay(self, method: Method, field: Field, clock: SampleClock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self,
        method: Method,
        clock: SampleClock,
        crossing: Crossing,
        theta: Tensor,
        stages: Any,
        start: Tensor,
        span: Tensor,
    ) -> Tensor:
        """Return the fractions with the gradient of the implicit function (one Newton step from the zeros)."""
        if not torch.is_grad_enabled():
            return theta

        def value(at: Tensor) -> Tensor:
            return crossing.fn(start + at * span, method.interpolate(stages, clock.wide(at.unsqueeze(0)))[0])

        with torch.enable_grad():
            probe = theta.clone().requires_grad_()
            (slope,) = torch.autograd.grad(value(probe).sum(), probe, retain_graph=True)
        g = value(theta)
        return theta - (g - g.detach()).to(theta.dtype) / torch.where(slope == 0, 1.0, slope)


def batch_first(x: Tensor, ndim: int, lead: int = 0) -> Tensor:
    """Move the batch axis of states, which has `ndim` axes of h at the end, next to the `lead` leading axes."""
    return x.movedim(x.ndim - ndim, lead)


def _row_mask(mask: Tensor, states: Tensor, ndim: int) -> tuple[int, ...]:
    """The shape in which a mask (n, B) meets states (n, *y)."""
    return (mask.shape[0], *[1] * (states.ndim - 1 - ndim), mask.shape[1], *[1] * (ndim - 1))


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
    times = clock.times.detach()
    batch, count = times.shape
    device = times.device
    sign = torch.where(times[:, -1] >= times[:, 0], 1.0, -1.0).to(times)
    stops, anchors = _stops(times, sign, plan)
    zero = torch.zeros(batch, dtype=torch.long, device=device)
    node = Nodes(times[:, 0], zero)
    row = ((times == times[:, :1]).long().cumprod(1)).sum(1)
    tape = Tape((y0,))
    first = batch_first(y0, clock.ndim)
    lead = torch.arange(count, device=device).unsqueeze(1) < row
    tape.row_blocks.append(first.unsqueeze(0).expand(count, *first.shape)[lead])
    tape.row_places.append(lead.nonzero())
    status = torch.where(row == count, int(Status.SUCCESS), -1)
    accepted, rejected, evaluations = zero.clone(), zero.clone(), zero.clone()
    control, k, axis = plan.control, (method.error_order or 0) + 1, y0.ndim - clock.ndim
    dt = torch.full((batch,), plan.step_size, dtype=torch.float64, device=device)
    if (status < 0).any():
        tape.start = start or method.start(field, clock.wide(clock.at(node)), y0)
        slope = batch_first(method.slope(field, tape.start), clock.ndim).reshape(batch, -1)
        broken = ~torch.isfinite(slope.detach()).all(1)
        status = torch.where((status < 0) & broken, int(Status.NON_FINITE), status)
        if plan.adaptive and control.first_step is not None:
            dt.fill_(control.first_step)
        elif plan.adaptive:
            dt = first_steps(method, field, clock.wide(times[:, 0]), tape.start, clock.wide(sign), control)
            span = (times[:, -1] - times[:, 0]).abs()
            if tied:
                dt = span * (dt / span).where((span > 0) & (status < 0), math.inf).min()
        evaluations += field.calls
    carry = tape.start
    values = [c.fn(times[:, 0], y0).detach().double() for c in plan.crossings]
    last = before = torch.ones(batch, dtype=torch.float64, device=device)
    refused = torch.zeros(batch, dtype=torch.bool, device=device)
    blown = refused.clone()

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
        lands = dt >= remaining * (1 - 1e-9)  # the rounding of a long sum of steps leaves no sliver
        end = target.where(lands, Nodes(node.value + sign * dt, node.anchor))
        length = (end.value - node.value) * sign
        ulp = torch.nextafter(node.value.abs(), torch.full_like(node.value, math.inf)) - node.value.abs()
        stuck = active & ~((length > 0) & (lands | (length >= 10 * ulp) | (not plan.adaptive)))
        status = torch.where(stuck, torch.where(blown, int(Status.NON_FINITE), int(Status.STEP_UNDERFLOW)), status)
        active = active & ~stuck
        if not active.any():
            break
        least = torch.minimum(dt, length) <= control.min_step  # rounding may have made the length more than dt
        nothing = zero.new_zeros((0, batch))
        step = SampleStep(carry, node, end, active, nothing, nothing.bool())
        calls = field.calls
        carry1, stages = step.run(method, field, clock)
        evaluations += active * (field.calls - calls)
        with torch.no_grad():
            if not plan.adaptive:
                finite = torch.isfinite(batch_first(carry1[0], clock.ndim).reshape(batch, -1)).all(1)
                error = torch.where(finite, 0.0, math.nan).to(times)
            else:
                scaled = control.scaled(method.error(stages), carry[0], carry1[0])
                error = control.measure_samples(scaled, axis)
                if tied:
                    error = error.square().mean().sqrt().expand(batch)
        finite = torch.isfinite(error)
        accept = active & ((error <= 1.0) | (finite & least & plan.adaptive))
        refuse = active & ~accept
        blown = torch.where(refuse, ~finite, blown)
        accepted, rejected = accepted + accept, rejected + refuse
        hopeless = refuse & ~finite & least if plan.adaptive else refuse
        status = torch.where(hopeless, int(Status.NON_FINITE), status)
        if accept.any():
            step.moved = accept
            if torch.is_grad_enabled() and not finite.all():
                carry1, stages = step.run(method, field, clock)
            elif not accept.all():
                carry1 = step.hold(clock, carry1)
            reach, over = end.value, torch.zeros_like(accept)
            if plan.crossings:
                step.found, values, over, reach = _crossings(
                    method, clock, plan.crossings, values, step, carry1, stages, accept
                )
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
            for index, met, _ in step.found:
                who = met.nonzero().flatten().tolist()
                tape.event_index += [index] * len(who)
                tape.event_sample += who
            tape.t.append(torch.where(accept, node.value, math.nan))
            tape.dt.append(torch.where(accept, end.value - node.value, math.nan))
            if plan.keep_steps:
                tape.steps.append(step)
            if plan.keep_interpolants:
                tape.interpolants.append(stages)
            row = row + passed.sum(1)
            status = torch.where(accept & over, int(Status.EVENT), status)
            finished = accept & (row == count) & ~over
            status = torch.where(finished, int(Status.SUCCESS), status)
            node, carry = end.where(accept, node), carry1
        if plan.adaptive:
            factor = torch.where(finite, control.factors(error, last, before, k), control.min_factor)
            grown = length * torch.where(refused, factor.clamp(max=1.0), factor)
            grown = torch.where(lands, torch.maximum(grown, dt), grown)
            dt = torch.where(accept, grown, torch.where(refuse, length * factor.clamp(max=0.9), dt))
            before = torch.where(accept, last, before)
            last = torch.where(accept, error.clamp(min=1e-10), last)
        refused = refuse

    tape.status = [Status(s) for s in status.tolist()]
    tape.accepted, tape.rejected = accepted.tolist(), rejected.tolist()
    tape.evaluations = evaluations.tolist()
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


@torch.no_grad()
def _crossings(
    method: Method,
    clock: SampleClock,
    crossings: Sequence[Crossing],
    values: list[Tensor],
    step: SampleStep,
    carry: Carry,
    stages: Any,
    accept: Tensor,
) -> tuple[tuple[tuple[int, Tensor, Tensor], ...], list[Tensor], Tensor, Tensor]:
    """Return the events of a step, the values at its end, who stops, and the time that each sample reaches."""
    start, span = step.start.value, step.end.value - step.start.value
    ends = [c.fn(step.end.value, carry[0]).double() for c in crossings]
    met, theta = [], []
    for crossing, g0, g1 in zip(crossings, values, ends, strict=True):
        up, down = (g0 < 0) & (g1 >= 0), (g0 > 0) & (g1 <= 0)
        hit = accept & ((up & (crossing.direction >= 0)) | (down & (crossing.direction <= 0)))
        low, high = torch.zeros_like(start), torch.ones_like(start)
        if hit.any():
            for _ in range(54):
                middle = 0.5 * (low + high)
                g = crossing.fn(
                    start + middle * span, method.interpolate(stages, clock.wide(middle.unsqueeze(0)))[0]
                ).double()
                same = torch.sign(g) == torch.sign(g0)
                low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        met.append(hit)
        theta.append(high)
    never = torch.full_like(start, math.inf)
    limit = never
    for crossing, hit, at in zip(crossings, met, theta, strict=True):
        if crossing.terminal:
            limit = torch.minimum(limit, torch.where(hit, at, never))
    over = torch.isfinite(limit)
    found = []
    for index, (hit, at) in enumerate(zip(met, theta, strict=True)):
        hit = hit & (at <= limit)
        if hit.any():
            found.append((index, hit, at))
    reach = torch.where(over, start + limit * span, step.end.value)
    values = [torch.where(accept, g1, g0) for g0, g1 in zip(values, ends, strict=True)]
    return tuple(found), values, over, reach
