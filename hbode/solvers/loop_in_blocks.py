"""The loop in blocks, for a batch that steps as one: the host looks once a block."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from .blocks import TRIES, Course, Ledger, RunBlock, run_tries, tolerances, with_first_step
from .clock import Clock, Node
from .field import Field
from .loop import begin
from .method import Carry, Uniform
from .outputs import Block, Outputs
from .plan import Plan
from .shared_step import SharedStep
from .status import Status
from .tape import Tape


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
    state = [node.value, dt, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    if status is None and row < len(clock.values):
        method.lay_out(y0.device)
        course = _course(y0, clock, plan, sign, stop, steps)
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
            t, dt, _, _, passed, filled, _, code, *_ = state
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
                course = _course(y0, clock, plan, sign, stop, steps)
                march = torch.tensor(state, dtype=torch.float64, device=y0.device)
    tries = int(state[6])

    tape.status = [Status.SUCCESS if status is None else status]
    accepted = len(tape.t)
    tape.accepted, tape.rejected = [accepted], [tries - accepted]
    tape.evaluations = [calls + tries * method.evaluations]
    tape.products = [0]
    tape.looked, tape.stiff = [int(state[10])], [int(state[11])]
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
        self.rows[:row] = y0

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
            tape.row_blocks, tape.ends = [self.rows[: self.row]], []
        if self.plan.keep is not None:
            tape.blocks.append(Block(ledger.carry, len(steps), outputs, self.record if self.keep_records else ()))
            if self.keep_records:
                self.record = tuple(torch.empty_like(x) for x in self.record)
            for step in steps:
                self.plan.keep(tape.steps, step)


def _course(y: Tensor, clock: Clock, plan: Plan, sign: float, passed: int, steps: int) -> Course:
    """Return the course from behind so many stops on."""
    rtol, atol, own = tolerances(plan.control, y)
    stops = [stop.value for stop in plan.stops[passed : passed + steps]]
    stops += stops[-1:] * (steps - len(stops))
    ends = clock.values[-1], plan.stops[passed - 1].value if passed else clock.values[0]
    numbers = [sign, len(plan.stops) - 1.0 - passed, float(plan.max_steps), rtol, atol, *ends, *stops]
    return Course(torch.tensor(numbers, dtype=torch.float64, device=y.device), own)
