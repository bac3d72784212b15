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
from .control import first_steps, norm, scaled
from .field import Field
from .loop import begin
from .method import Carry, Uniform
from .outputs import Block, Outputs
from .plan import Plan
from .shared_step import SharedStep
from .status import Status
from .tape import Tape

STEPS = 32
"""How many accepted steps fill a block that runs as one compiled loop."""
TRIES = 8
"""How many steps are tried on an accelerator before the host looks: it waits for the device once in so many."""
_CODES = {status: float(status) for status in Status}


class March(NamedTuple):
    """What a step changes besides the carry: numbers of one tensor, float64, shape (10,)."""

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
    """What a block goes by.

    Of `numbers`, float64: the direction of time (±1), which of the next stops is the last of all, the most steps that
    may be tried, rtol, atol, and as many of the next stops as a block can pass. Tolerances that are no numbers, rtol
    and atol, come by themselves.
    """

    numbers: Tensor
    tolerances: tuple[Tensor, ...]


class Ledger(NamedTuple):
    """What is written down of the accepted steps of a block.

    Of step n: its start and how many stops lay behind it in ``start[n]``, its carry in ``carry[i][n]``, and its record
    of k columns in ``record[n k : (n + 1) k]``. Carry and record are empty where nobody wants them. There is a place
    beyond the last step for what is not to be kept.
    """

    start: Tensor
    carry: tuple[Tensor, ...]
    record: tuple[Tensor, ...]


RunBlock = Callable[[Uniform, Field, Plan, Course, Ledger, Tensor, Carry], tuple[Tensor, Carry]]


def run_block(
    method: Uniform, field: Field, plan: Plan, course: Course, ledger: Ledger, march: Tensor, carry: Carry
) -> tuple[Tensor, Carry]:
    """Step until the block is full or the solve is over: `torch.while_loop`, to be compiled."""
    size, field = len(ledger.start) - 1, field.anew()
    method.prepare(field, carry[0])

    def estimate(march: Tensor, carry: Carry) -> Tensor:
        return with_first_step(method, field, plan, course, march, carry)

    def keep(march: Tensor, carry: Carry) -> Tensor:
        return march.clone()

    if plan.adaptive:
        march = torch.cond(march[1].isnan() & (march[6] == 0), estimate, keep, (march, carry))

    def on(march: Tensor, carry: Carry) -> Tensor:
        state = March(*march.unbind())
        return (state.status < 0) & (state.filled < size)

    def advance(march: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        return step_once(method, field, plan, course, ledger, march, carry)

    done: tuple[Tensor, Carry] = torch.while_loop(on, advance, (march, carry))
    return done


def with_first_step(method: Uniform, field: Field, plan: Plan, course: Course, march: Tensor, carry: Carry) -> Tensor:
    """Estimate the length of the first step."""
    rtol, atol = course.tolerances or course.numbers[3:5].unbind()
    scale = atol.to(carry[0].dtype) + rtol.to(carry[0].dtype) * carry[0].abs()
    dt = first_steps(method, field, march[0], carry, course.numbers[0], scale, norm, plan.control.max_step)
    return torch.cat((march[:1], dt.view(1), march[2:]))


def run_tries(
    method: Uniform,
    field: Field,
    plan: Plan,
    course: Course,
    ledger: Ledger,
    march: Tensor,
    carry: Carry,
    step: RunBlock | None = None,
) -> tuple[Tensor, Carry]:
    """Try as many steps as fit into the block, without a look at how they go; those after the last change nothing."""
    method.prepare(field, carry[0])
    for _ in range(len(ledger.start) - 1):
        march, carry = (step or step_once)(method, field, plan, course, ledger, march, carry)
    return march, carry


def step_once(
    method: Uniform, field: Field, plan: Plan, course: Course, ledger: Ledger, march: Tensor, carry: Carry
) -> tuple[Tensor, Carry]:
    """Try one step, as `solve` does, and write it down; where the solve is over or the block full, change nothing."""
    control, k = plan.control, (method.error_order or 0) + 1
    t, dt, last, before, stop, filled, tries, status, refused, blown = march.unbind()
    sign, final, most, rtol, atol = course.numbers[:5].unbind()
    if course.tolerances:
        rtol, atol = course.tolerances
    on = (status < 0) & (filled < len(ledger.start) - 1)
    over = on & (tries >= most)
    if plan.adaptive:
        dt = torch.where(on & ~over, dt.clamp(control.min_step, control.max_step), dt)
    target = course.numbers.index_select(0, (stop.long() + 5).clamp(max=len(course.numbers) - 1).view(1)).view(())
    remaining = (target - t) * sign
    lands = dt >= remaining * (1 - 1e-9)
    end = torch.where(lands, target, t + sign * dt)
    length = (end - t) * sign
    stuck = ~(length > 0)
    if plan.adaptive:
        ulp = torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs()
        stuck = stuck | (~lands & (length < 10 * ulp))
    stuck = on & stuck & ~over
    halted = ~on | over | stuck
    nothing = torch.where((blown > 0) | dt.isnan(), _CODES[Status.NON_FINITE], _CODES[Status.STEP_UNDERFLOW])
    status = torch.where(over, _CODES[Status.MAX_STEPS], torch.where(stuck, nothing, status))

    carry1, stages = method.step(field, t, end - t, carry)
    if plan.adaptive:
        y0, y1 = carry[0], carry1[0]
        error = norm(scaled(method.error(stages), y0, y1, rtol.to(y0.dtype), atol.to(y0.dtype)))
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
    status = torch.where(hopeless, _CODES[Status.NON_FINITE], status)
    status = torch.where(accept & lands & (stop == final), _CODES[Status.SUCCESS], status)

    at = filled.long().view(1)
    ledger.start.index_copy_(0, at, torch.stack((t, stop)).unsqueeze(0))
    for book, x in zip(ledger.carry, carry, strict=False):
        book.index_copy_(0, at, x.unsqueeze(0))
    for book in ledger.record:
        record = method.record(stages)
        book.index_copy_(0, at * len(record) + torch.arange(len(record), device=t.device), record)

    if plan.adaptive:
        factor = torch.where(finite, control.factors(error, last, before, k), control.min_factor)
        grown = length * torch.where(refused > 0, factor.clamp(max=1.0), factor)
        grown = torch.where(lands, torch.maximum(grown, dt), grown)
        dt = torch.where(accept, grown, torch.where(refuse, length * factor.clamp(max=0.9), dt))
        before = torch.where(accept, last, before)
        last = torch.where(accept, error.clamp(min=1e-10), last)
    onward = March(
        torch.where(accept, end, t),
        dt,
        last,
        before,
        stop + (accept & lands),
        filled + accept,
        tries + ~halted,
        status,
        torch.where(halted, refused, refuse.double()),
        torch.where(refuse, (~finite).double(), blown),
    )
    return torch.stack(onward), tuple(torch.where(accept, new, old) for new, old in zip(carry1, carry, strict=True))


def solve_in_blocks(
    method: Uniform,
    field: Field,
    y0: Tensor,
    clock: Clock,
    plan: Plan,
    start: Carry | None = None,
    run: RunBlock = run_tries,
    steps: int = TRIES,
    keep_records: bool = False,
    estimates: bool = False,
) -> Tape:
    """Integrate as `solve` does, for plans without crossings, discontinuities, hooks and norms of their own.

    `run` runs a block of so many steps; `estimates` says that it also estimates the length of the first step, given as
    NaN. With `keep_records` the blocks of the tape have the records that outputs were read off.
    """
    tape, carry, row, sign, dt, status = begin(method, field, y0, clock, plan, start, estimate=False)
    node, stop, calls = Node(clock.values[0], 0), 0, field.calls
    state = [node.value, dt, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    if status is None and row < len(clock.values):
        method.lay_out(y0.device)
        course = _course(y0, plan, sign, stop, steps)
        march = torch.tensor(state, dtype=torch.float64, device=y0.device)
        if math.isnan(dt):
            calls += 1
            if not estimates:
                march = with_first_step(method, field, plan, course, march, carry)
        writer = _Writer(method, field, y0, clock, plan, row, steps, keep_records, tape)
        while status is None:
            ledger = writer.ledger(carry)
            march, carry = run(method, field, plan, course, ledger, march, carry)
            starts, state = ledger.start.tolist(), march.tolist()
            t, dt, _, _, passed, filled, _, code, _, _ = state
            nodes, behind = [node], 0
            for value, now in [*starts[1 : int(filled)], (t, passed)] if filled else ():
                nodes.append(plan.stops[stop + behind] if now > behind else Node(value, nodes[-1].anchor))
                behind = int(now)
            stop += behind
            writer.enter(nodes, ledger, carry)
            node, tape.carry = nodes[-1], carry
            status = None if code < 0 else Status(int(code))
            if status is None:
                state[4] = state[5] = 0.0
                course = _course(y0, plan, sign, stop, steps)
                march = torch.tensor(state, dtype=torch.float64, device=y0.device)
    tries = int(state[6])

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
        self,
        method: Uniform,
        field: Field,
        y0: Tensor,
        clock: Clock,
        plan: Plan,
        row: int,
        steps: int,
        keep_records: bool,
        tape: Tape,
    ) -> None:
        self.method, self.field, self.y0, self.clock, self.plan, self.row = method, field, y0, clock, plan, row
        self.places, self.keep_records, self.tape = steps + 1, keep_records, tape
        ends = {stop.value for stop in plan.stops}
        outputs = clock.values[row:]
        self.several = len(outputs) > 1
        columns, *shape = method.record_shape(y0)
        between = any(t not in ends for t in outputs) or len(set(outputs)) < len(outputs)
        self.record: tuple[Tensor, ...] = (y0.new_empty(self.places * columns, *shape),) if between else ()
        self.rows = y0.new_empty(len(clock.values), *y0.shape)
        self.rows[:row] = tape.row_blocks[0]

    def ledger(self, carry: Carry) -> Ledger:
        """Return a ledger for a block of steps; the record is used again, since it is read before the next block."""
        start = torch.empty(self.places, 2, dtype=torch.float64, device=self.y0.device)
        kept = carry if self.plan.keep is not None else carry[:1] if self.several else ()
        return Ledger(start, tuple(x.new_empty(self.places, *x.shape) for x in kept), self.record)

    def enter(self, nodes: list[Node], ledger: Ledger, carry: Carry) -> None:
        """Add the steps between the nodes, and the outputs in them, to the tape."""
        tape, times, count = self.tape, self.clock.values, len(self.clock.values)
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
            outputs.read(
                self.rows[steps[0].first : self.row],
                lambda n: carry[0] if n == last else ledger.carry[0][n + 1],
                self.record[0] if self.record else None,
            )
            tape.row_blocks = [self.rows[: self.row]]
        if self.plan.keep is not None:
            tape.blocks.append(Block(ledger.carry, len(steps), outputs, self.record if self.keep_records else ()))
            if self.keep_records:
                self.record = tuple(torch.empty_like(x) for x in self.record)
            for step in steps:
                self.plan.keep(tape.steps, step)


def _course(y: Tensor, plan: Plan, sign: float, passed: int, steps: int) -> Course:
    """Return the course from behind so many stops on."""
    rtol, atol = plan.control.rtol, plan.control.atol
    tolerances: tuple[Tensor, ...] = ()
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        tolerances = tuple(torch.as_tensor(tol, dtype=y.dtype, device=y.device) for tol in (rtol, atol))
        rtol = atol = 0.0
    stops = [stop.value for stop in plan.stops[passed : passed + steps]]
    stops += stops[-1:] * (steps - len(stops))
    numbers = [sign, len(plan.stops) - 1.0 - passed, float(plan.max_steps), rtol, atol, *stops]
    return Course(torch.tensor(numbers, dtype=torch.float64, device=y.device), tolerances)
