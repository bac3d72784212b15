"""The loop in blocks of steps whose control is done by tensors: the host looks once a block.

A block is a pure function of tensors but for what it writes down of its steps, and compiles whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .clock import Clock, Node
from .control import scaled
from .field import Field
from .loop import begin
from .method import Carry, Uniform
from .outputs import Outputs
from .plan import Plan
from .shared_step import SharedStep
from .status import Status
from .tape import Block, Tape

STEPS = 16
"""How many accepted steps fill a block."""


class March(NamedTuple):
    """What a step changes besides the carry: tensors of shape (), in float64 where they are real."""

    t: Tensor
    dt: Tensor
    last: Tensor
    before: Tensor
    stop: Tensor
    filled: Tensor
    tries: Tensor
    status: Tensor
    """A `Status`, or -1 while there is none."""
    refused: Tensor
    blown: Tensor


class Course(NamedTuple):
    """What a block goes by: as many of the next stops as it can pass, which of them is the last of all, the direction
    of time (±1), the tolerances, the most steps that may be tried."""

    stops: Tensor
    final: Tensor
    sign: Tensor
    rtol: Tensor
    atol: Tensor
    most: Tensor


class Ledger(NamedTuple):
    """What is written down of the accepted steps of a block.

    Of step n: its start and how many stops lay behind it in ``start[n]``, its carry in ``carry[i][n]``, and its record
    of k columns in ``record[n k : (n + 1) k]``. Carry and record are empty where nobody wants them.
    """

    start: Tensor
    carry: tuple[Tensor, ...]
    record: tuple[Tensor, ...]


RunBlock = Callable[[Uniform, Field, Plan, Course, Ledger, March, Carry], tuple[March, Carry]]


def run_block(
    method: Uniform, field: Field, plan: Plan, course: Course, ledger: Ledger, march: March, carry: Carry
) -> tuple[March, Carry]:
    """Step until the block is full or the solve is over: `torch.while_loop`, to be compiled."""
    size = len(ledger.start)

    def on(march: March, carry: Carry) -> Tensor:
        return (march.status < 0) & (march.filled < size)

    def advance(march: March, carry: Carry) -> tuple[March, Carry]:
        return step_once(method, field, plan, course, ledger, march, carry)

    done: tuple[March, Carry] = torch.while_loop(on, advance, (march, carry))
    return done


def step_once(
    method: Uniform, field: Field, plan: Plan, course: Course, ledger: Ledger, march: March, carry: Carry
) -> tuple[March, Carry]:
    """Try one step, as `solve` does, and write it down."""
    control, k = plan.control, (method.error_order or 0) + 1
    t, dt, stop = march.t, march.dt, march.stop
    over = march.tries >= course.most
    if plan.adaptive:
        dt = dt.clamp(control.min_step, control.max_step)
    target = course.stops.index_select(0, stop.clamp(max=len(course.stops) - 1).view(1)).view(())
    remaining = (target - t) * course.sign
    lands = dt >= remaining * (1 - 1e-9)
    end = torch.where(lands, target, t + course.sign * dt)
    length = (end - t) * course.sign
    stuck = ~(length > 0)
    if plan.adaptive:
        stuck = stuck | (~lands & (length < 10 * torch.finfo(torch.float64).eps * t.abs()))
    halted = over | stuck
    nothing = torch.full_like(march.status, int(Status.STEP_UNDERFLOW))
    nothing = torch.where(march.blown | dt.isnan(), int(Status.NON_FINITE), nothing)
    status = torch.where(over, int(Status.MAX_STEPS), torch.where(stuck, nothing, march.status))

    carry1, stages = method.step(field, t, end - t, carry)
    if plan.adaptive:
        weighed = scaled(method.error(stages), carry[0], carry1[0], course.rtol, course.atol)
        error = torch.linalg.vector_norm(weighed).double() / math.sqrt(max(weighed.numel(), 1))
    else:
        error = torch.zeros_like(t)
        if plan.check_finite:
            error = torch.where(torch.linalg.vector_norm(carry1[0], math.inf).isfinite(), error, math.nan)
    finite = error.isfinite()
    least = torch.minimum(dt, length) <= control.min_step
    fine = error <= 1
    if plan.adaptive:
        fine = fine | (least & finite)
    accept, refuse = fine & ~halted, ~fine & ~halted
    hopeless = refuse & ~finite & least if plan.adaptive else refuse
    status = torch.where(hopeless, int(Status.NON_FINITE), status)
    arrives = accept & lands & (stop == course.final)
    status = torch.where(arrives, int(Status.SUCCESS), status)

    at = march.filled.view(1)
    ledger.start.index_copy_(0, at, torch.stack((t, stop.double())).unsqueeze(0))
    for book, x in zip(ledger.carry, carry, strict=False):
        book.index_copy_(0, at, x.unsqueeze(0))
    for book in ledger.record:
        record = method.record(stages)
        book.index_copy_(0, at * len(record) + torch.arange(len(record), device=t.device), record)

    next_dt, last, before = march.dt.clone(), march.last.clone(), march.before.clone()  # a loop returns no argument
    if plan.adaptive:
        factor = torch.where(finite, control.factors(error, last, before, k), control.min_factor)
        grown = length * torch.where(march.refused, factor.clamp(max=1.0), factor)
        grown = torch.where(lands, torch.maximum(grown, dt), grown)
        next_dt = torch.where(accept, grown, torch.where(refuse, length * factor.clamp(max=0.9), dt))
        before = torch.where(accept, last, before)
        last = torch.where(accept, error.clamp(min=1e-10), last)
    onward = March(
        torch.where(accept, end, t),
        next_dt,
        last,
        before,
        stop + (accept & lands),
        march.filled + accept,
        march.tries + ~halted,
        status,
        refuse,
        torch.where(refuse, ~finite, march.blown),
    )
    return onward, tuple(torch.where(accept, new, old) for new, old in zip(carry1, carry, strict=True))


def solve_in_blocks(
    method: Uniform,
    field: Field,
    y0: Tensor,
    clock: Clock,
    plan: Plan,
    start: Carry | None = None,
    run: RunBlock = run_block,
    keep_records: bool = False,
) -> Tape:
    """Integrate as `solve` does, for plans without crossings, discontinuities, hooks and norms of their own.

    With `keep_records` the blocks of the tape have the records that outputs were read off.
    """
    tape, carry, row, sign, dt, status = begin(method, field, y0, clock, plan, start)
    node, stop, tries, calls = Node(clock.values[0], 0), 0, 0, field.calls
    if status is None and row < len(clock.values):
        method.prepare(field, y0)
        writer = _Writer(method, field, y0, clock, plan, row, keep_records)
        march, course = _march(y0.device, node.value, dt), _course(y0, plan, sign)
        while status is None:
            ledger, course = writer.ledger(carry), _ahead(course, plan, stop)
            march, carry = run(method, field, plan, course, ledger, march, carry)
            numbers = torch.cat((ledger.start.flatten(), torch.stack([x.double() for x in march]))).tolist()
            *starts, t, dt, _, _, reached, filled, total, code, _, _ = numbers
            tries = int(total)
            starts = [*starts[: 2 * int(filled)], t, reached]
            nodes, passed = [node], 0
            for value, behind in zip(starts[2::2], starts[3::2], strict=True):
                nodes.append(plan.stops[stop + passed] if behind > passed else Node(value, nodes[-1].anchor))
                passed = int(behind)
            stop += passed
            writer.enter(tape, nodes, ledger, carry)
            node, tape.carry = nodes[-1], carry
            status = None if code < 0 else Status(int(code))
            march = march._replace(filled=torch.zeros_like(march.filled), stop=torch.zeros_like(march.stop))

    tape.status = [Status.SUCCESS if status is None else status]
    accepted = len(tape.t)
    tape.accepted, tape.rejected = [accepted], [tries - accepted]
    tape.evaluations = [calls + tries * method.evaluations]
    if tape.status[0].failed and plan.stops:
        dt = min(dt, abs(plan.stops[min(stop, len(plan.stops) - 1)].value - node.value))
    tape.failed_at = [(node.value, dt)]
    return tape


class _Writer:
    """Opens ledgers, and enters what they say into a tape."""

    def __init__(
        self, method: Uniform, field: Field, y0: Tensor, clock: Clock, plan: Plan, row: int, keep_records: bool
    ) -> None:
        self.method, self.field, self.y0, self.clock, self.plan, self.row = method, field, y0, clock, plan, row
        self.keep_records = keep_records
        ends = {stop.value for stop in plan.stops}
        outputs = clock.values[row:]
        self.several = len(outputs) > 1
        columns, *shape = method.record_shape(y0)
        between = any(t not in ends for t in outputs) or len(set(outputs)) < len(outputs)
        self.record: tuple[Tensor, ...] = (y0.new_empty(STEPS * columns, *shape),) if between else ()

    def ledger(self, carry: Carry) -> Ledger:
        """Return a ledger for a block of steps; the record is used again, since it is read before the next block."""
        start = torch.empty(STEPS, 2, dtype=torch.float64, device=self.y0.device)
        kept = carry if self.plan.keep is not None else carry[:1] if self.several else ()
        return Ledger(start, tuple(x.new_empty(STEPS, *x.shape) for x in kept), self.record)

    def enter(self, tape: Tape, nodes: list[Node], ledger: Ledger, carry: Carry) -> None:
        """Add the steps between the nodes, and the outputs in them, to the tape."""
        times, count = self.clock.values, len(self.clock.values)
        sign = 1.0 if times[-1] >= times[0] else -1.0
        steps = []
        for n, (start, end) in enumerate(pairwise(nodes)):
            first = self.row
            while self.row < count and (end.value - times[self.row]) * sign >= 0:
                self.row += 1
            steps.append(SharedStep(tuple(book[n] for book in ledger.carry), start, end, first, self.row))
            tape.t.append(start.value)
            tape.dt.append(end.value - start.value)
        outputs = Outputs(self.method, self.field, self.y0, self.clock, steps)
        if outputs.count:
            last = len(steps) - 1
            rows = outputs.read(
                self.y0,
                lambda n: carry[0] if n == last else ledger.carry[0][n + 1],
                self.record[0] if self.record else None,
            )
            tape.row_blocks.append(rows)
        if self.plan.keep is not None:
            tape.blocks.append(Block(ledger.carry, len(steps), self.record if self.keep_records else ()))
            if self.keep_records:
                self.record = tuple(torch.empty_like(x) for x in self.record)
            for step in steps:
                self.plan.keep(tape.steps, step)


def _march(device: torch.device, t: float, dt: float) -> March:
    def real(x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device=device)

    def whole(x: int) -> Tensor:
        return torch.tensor(x, device=device)

    no = torch.tensor(False, device=device)
    return March(real(t), real(dt), real(1.0), real(1.0), whole(0), whole(0), whole(0), whole(-1), no, no.clone())


def _course(y: Tensor, plan: Plan, sign: float) -> Course:
    def tolerance(tol: float | Tensor) -> Tensor:
        return torch.as_tensor(tol, dtype=y.dtype, device=y.device)

    whole = torch.tensor(plan.max_steps, device=y.device)
    real = torch.tensor(sign, dtype=torch.float64, device=y.device)
    return Course(real, whole, real, tolerance(plan.control.rtol), tolerance(plan.control.atol), whole)


def _ahead(course: Course, plan: Plan, passed: int) -> Course:
    """Return the course from behind so many stops on."""
    values = [stop.value for stop in plan.stops[passed : passed + STEPS]]
    values += values[-1:] * (STEPS - len(values))
    device = course.sign.device
    stops = torch.tensor(values, dtype=torch.float64, device=device)
    return course._replace(stops=stops, final=torch.tensor(len(plan.stops) - 1 - passed, device=device))
