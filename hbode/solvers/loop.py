"""The loop for a batch that steps as one: times and step sizes are Python floats."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from .control import Controller, first_step
from .field import Field
from .method import Carry, Method
from .status import Status
from .tape import Crossing, Replayed, Tape


class Node(NamedTuple):
    """A point of the time grid: ``times[anchor] + constant``, or a constant where `anchor` is None."""

    value: float
    anchor: int | None


@dataclass(frozen=True)
class Clock:
    """The requested times, shape (T,) in float64, and the nodes of the grid as functions of them.

    The controller's choices count as constants: a node keeps its distance from the requested time that it was
    measured from. That makes the gradient with respect to the times exact for the grid that was used.
    """

    times: Tensor
    values: tuple[float, ...]

    @classmethod
    def of(cls, times: Tensor) -> Clock:
        return cls(times, tuple(times.tolist()))

    def start(self) -> Tensor:
        """Return the first time, shape ()."""
        return self.times[0]

    def fold(self, rows: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the sum of the rows (n, *y) that show the initial state, shape (*y)."""
        return rows.sum(0)

    def at(self, node: Node) -> Tensor:
        """Return the time of a node, shape ()."""
        if node.anchor is None or not self.times.requires_grad:
            return torch.tensor(node.value, dtype=torch.float64, device=self.times.device)
        return self.times[node.anchor] + (node.value - self.values[node.anchor])

    def span(self, start: Node, end: Node) -> Tensor:
        """Return the length of a step, shape ()."""
        if not self.times.requires_grad:
            return torch.tensor(end.value - start.value, dtype=torch.float64, device=self.times.device)
        return self.at(end) - self.at(start)

    def fractions(self, start: Node, end: Node, first: int, last: int) -> Tensor:
        """Return where times[first:last] fall in a step, 0 at its start and 1 at its end, shape (n,)."""
        if not self.times.requires_grad:
            length = end.value - start.value
            theta = [(t - start.value) / length for t in self.values[first:last]]
            return torch.tensor(theta, dtype=torch.float64, device=self.times.device)
        return (self.times[first:last] - self.at(start)) / self.span(start, end)


class Found(NamedTuple):
    """A zero of the event function `which` at the fraction `theta` of a step."""

    which: int
    theta: float


@dataclass(slots=True)
class SharedStep:
    """One accepted step of the whole batch, with what is needed to run it again."""

    carry: Carry
    start: Node
    end: Node
    first: int
    last: int
    found: tuple[Found, ...] = ()
    restart: bool = False
    sides: tuple[float, float] | None = None

    @property
    def rows(self) -> int:
        return self.last - self.first

    @property
    def events(self) -> int:
        return len(self.found)

    def run(self, method: Method, field: Field, clock: Clock) -> tuple[Carry, Any]:
        """Take the step."""
        t, carry = clock.at(self.start), self.carry
        if self.sides is not None:
            field.between(*self.sides)
            if self.restart:
                carry = method.start(field, t, carry[0])
        return method.step(field, t, clock.span(self.start, self.end), carry)

    def read(
        self, method: Method, clock: Clock, crossings: Sequence[Crossing], carry: Carry, stages: Any
    ) -> Replayed:
        """Return what the step gives out, from its stages and the carry it ends with."""
        rows = None
        if self.last > self.first:
            at_end = self.last == self.first + 1 and clock.values[self.first] == self.end.value
            if at_end and (self.end.anchor == self.first or not clock.times.requires_grad):
                rows = carry[0].unsqueeze(0)
            else:
                rows = method.interpolate(stages, clock.fractions(self.start, self.end, self.first, self.last))
        if not self.found:
            return Replayed(carry, rows, None, None)
        events = [self._locate(method, clock, crossings[f.which], f.theta, stages) for f in self.found]
        return Replayed(carry, rows, torch.stack([t for t, _ in events]), torch.cat([y for _, y in events]))

    def replay(self, method: Method, field: Field, clock: Clock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self, method: Method, clock: Clock, crossing: Crossing, theta: float, stages: Any
    ) -> tuple[Tensor, Tensor]:
        """Return time and state of an event, with the gradient of the implicit function.

        One Newton step from the zero, which does not move it, carries the derivative of the event time.
        """
        start, span = clock.at(self.start), clock.span(self.start, self.end)
        where = torch.tensor([theta], dtype=torch.float64, device=start.device)
        if torch.is_grad_enabled():
            with torch.enable_grad():
                probe = where.clone().requires_grad_()
                g = crossing.fn(start + probe[0] * span, method.interpolate(stages, probe)[0])
                (slope,) = torch.autograd.grad(g.sum(), probe, retain_graph=True)
            g = crossing.fn(start + where[0] * span, method.interpolate(stages, where)[0]).reshape(1)
            where = where - (g - g.detach()).to(where.dtype) / slope
        return start + where[0] * span, method.interpolate(stages, where)


Hook = Callable[[float, Tensor, float], None]


@dataclass(frozen=True)
class Plan:
    """Where a solve goes and how: everything about the loop that is no tensor of the problem."""

    control: Controller
    adaptive: bool
    stops: tuple[Node, ...]
    """Nodes that steps must end on, in the direction of time; the last one is the end."""
    step_size: float = math.inf
    """Length of a step on a fixed grid; infinite: from stop to stop."""
    jumps: tuple[float, ...] = ()
    """Times, in increasing order, at which the field is discontinuous; those inside the span are stops too."""
    crossings: tuple[Crossing, ...] = ()
    max_steps: int = 2**31 - 1
    check_finite: bool = True
    """Whether a state that is not finite ends a solve on a fixed grid; an adaptive one it always ends."""
    keep_steps: bool = False
    keep_interpolants: bool = False
    on_step: Hook | None = None
    on_accept: Hook | None = None
    on_reject: Hook | None = None


def solve(
    method: Method, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None = None
) -> Tape:
    """Integrate from the first requested time to the last one, from the first carry if it is known already.

    The number of requested times does not change the steps: they are interpolated, except that the last one
    always ends a step, and that on a fixed grid without `step_size` all of them do.
    """
    times, count = clock.values, len(clock.values)
    sign = 1.0 if times[-1] >= times[0] else -1.0
    node = Node(times[0], 0)
    row = 1
    while row < count and times[row] == times[0]:
        row += 1
    tape = Tape((y0,))
    tape.row_blocks.append(y0.unsqueeze(0).expand(row, *y0.shape))
    sides = _sides(plan.jumps, node.value, sign)
    if row < count:
        field.between(*(sides or (None, None)))
        tape.start = start or method.start(field, clock.at(node), y0)
    carry = tape.start

    control, status, k = plan.control, None, (method.error_order or 0) + 1
    dt = plan.step_size
    if row < count and (plan.adaptive or plan.check_finite) and not _finite(carry[1]):
        status = Status.NON_FINITE
    elif plan.adaptive and row < count:
        dt = control.first_step or first_step(method, field, clock.at(node), carry, sign, control)
    values = [_number(c, clock, node.value, y0) for c in plan.crossings]
    last = before = 1.0
    accepted = rejected = stop = 0
    refused = restart = False
    blown = False

    while row < count and status is None:
        if accepted + rejected >= plan.max_steps:
            status = Status.MAX_STEPS
            break
        if plan.adaptive:
            dt = min(max(dt, control.min_step), control.max_step)
        remaining = (plan.stops[stop].value - node.value) * sign
        lands = dt >= remaining * (1 - 1e-9)  # the rounding of a long sum of steps leaves no sliver
        end = plan.stops[stop] if lands else Node(node.value + sign * dt, node.anchor)
        length = (end.value - node.value) * sign
        if not length > 0 or (plan.adaptive and not lands and length < 10 * math.ulp(node.value)):
            status = Status.NON_FINITE if blown or math.isnan(dt) else Status.STEP_UNDERFLOW
            break
        least = min(dt, length) <= control.min_step  # rounding may have made the length more than dt
        step = SharedStep(carry, node, end, row, row, restart=restart, sides=sides)
        if plan.on_step is not None:
            plan.on_step(node.value, carry[0], end.value - node.value)
        carry1, stages = step.run(method, field, clock)
        if plan.adaptive:
            error = _scaled_error(method, control, stages, carry[0], carry1[0])
        else:
            error = 0.0 if not plan.check_finite or _finite(carry1[0]) else math.nan
        if not (error <= 1.0 or (plan.adaptive and least and math.isfinite(error))):
            rejected += 1
            if plan.on_reject is not None:
                plan.on_reject(node.value, carry[0], end.value - node.value)
            blown = not math.isfinite(error)
            if not plan.adaptive or (blown and least):
                status = Status.NON_FINITE
                break
            factor = control.min_factor if blown else control.factor(error, last, before, k)
            dt, refused = length * min(factor, 0.9), True
            continue

        accepted += 1
        if plan.on_accept is not None:
            plan.on_accept(node.value, carry[0], end.value - node.value)
        over, reach = None, end.value
        if plan.crossings:
            step.found, values = _crossings(method, clock, plan.crossings, values, step, carry1, stages)
            over = next((f for f in step.found if plan.crossings[f.which].terminal), None)
            reach = end.value if over is None else node.value + over.theta * (end.value - node.value)
            tape.event_index += [f.which for f in step.found]
            tape.event_sample += [-1] * len(step.found)
        while row < count and (reach - times[row]) * sign >= 0:
            row += 1
        step.last = row
        if step.rows or step.found:
            tape.add(step.read(method, clock, plan.crossings, carry1, stages))
        tape.t.append(node.value)
        tape.dt.append(end.value - node.value)
        if plan.keep_steps:
            tape.steps.append(step)
        if plan.keep_interpolants:
            tape.interpolants.append(stages)
        if over is not None:
            status = Status.EVENT
            break
        if plan.adaptive:
            proposal = length * min(control.factor(error, last, before, k), 1.0 if refused else math.inf)
            dt = max(proposal, dt) if lands else proposal
            before, last = last, max(error, 1e-10)
        restart = lands and end.value in plan.jumps
        if restart:
            sides = _sides(plan.jumps, end.value, sign)
        stop += lands
        node, carry, refused = end, carry1, False

    tape.status = [Status.SUCCESS if status is None else status]
    tape.accepted, tape.rejected, tape.evaluations = [accepted], [rejected], [field.calls]
    if tape.status[0].failed:
        dt = min(dt, abs(plan.stops[stop].value - node.value))
    tape.failed_at = [(node.value, dt)]
    return tape


def place(rows: Tensor, clock: Clock) -> Tensor:
    """Return the rows at all requested times, shape (T, *y), NaN where they were not reached."""
    missing = len(clock.values) - len(rows)
    return rows if not missing else torch.cat((rows, rows.new_full((missing, *rows.shape[1:]), math.nan)))


def _sides(jumps: tuple[float, ...], t: float, sign: float) -> tuple[float, float] | None:
    """Return the discontinuities around the interval that starts at t."""
    if not jumps:
        return None
    i = bisect_right(jumps, t) if sign > 0 else bisect_right([-j for j in reversed(jumps)], -t)
    line = jumps if sign > 0 else jumps[::-1]
    return (line[i - 1] if i else -sign * math.inf, line[i] if i < len(line) else sign * math.inf)


def _scaled_error(method: Method, control: Controller, stages: Any, y0: Tensor, y1: Tensor) -> float:
    """Return the error of a step in units of the tolerance, without a graph."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            return _scaled_error(method, control, stages, y0, y1)
    return control.measure(control.scaled(method.error(stages), y0, y1))


def _finite(x: Tensor) -> bool:
    return x.numel() == 0 or math.isfinite(torch.linalg.vector_norm(x.detach(), math.inf).item())


@torch.no_grad()
def _number(crossing: Crossing, clock: Clock, t: float, y: Tensor) -> float:
    return float(crossing.fn(torch.tensor(t, dtype=torch.float64, device=clock.times.device), y))


@torch.no_grad()
def _crossings(
    method: Method,
    clock: Clock,
    crossings: Sequence[Crossing],
    values: list[float],
    step: SharedStep,
    carry: Carry,
    stages: Any,
) -> tuple[tuple[Found, ...], list[float]]:
    """Return the zeros inside a step up to the first terminal one, in order, and the values at its end."""
    if not crossings:
        return (), values
    ends = [_number(c, clock, step.end.value, carry[0]) for c in crossings]
    found = []
    for index, (crossing, g0, g1) in enumerate(zip(crossings, values, ends, strict=True)):
        up, down = g0 < 0 <= g1, g0 > 0 >= g1
        if not ((up and crossing.direction >= 0) or (down and crossing.direction <= 0)):
            continue

        def value(theta: float, crossing: Crossing = crossing, g0: float = g0, g1: float = g1) -> float:
            if theta in (0.0, 1.0):
                return g0 if theta == 0.0 else g1
            at = torch.tensor([theta], dtype=torch.float64, device=clock.times.device)
            t = step.start.value + theta * (step.end.value - step.start.value)
            return _number(crossing, clock, t, method.interpolate(stages, at)[0])

        found.append(Found(index, float(brentq(value, 0.0, 1.0, xtol=1e-15))))
    found.sort(key=lambda f: f.theta)
    first = next((i for i, f in enumerate(found) if crossings[f.which].terminal), len(found) - 1)
    return tuple(found[: first + 1]), ends
