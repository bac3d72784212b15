"""The loop in blocks for samples with times, and on request steps, of their own: the host looks once a block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .blocks import TRIES, Course, Ledger, RunBlock, run_tries, tolerances, with_first_step
from .clock import Nodes, SampleClock
from .field import Field
from .loop_per_sample import SampleBeginning, begin_per_sample
from .method import Carry, Uniform
from .outputs import Block
from .plan import Plan
from .sample_outputs import SampleOutputs
from .sample_step import SampleStep
from .status import Status
from .tape import Tape


def solve_per_sample_in_blocks(
    method: Uniform,
    field: Field,
    y0: Tensor,
    clock: SampleClock,
    plan: Plan,
    start: Carry | None = None,
    tied: bool = False,
    run: RunBlock = run_tries,
    steps: int = TRIES,
    keep_records: bool = False,
    estimates: bool = False,
) -> Tape:
    """Integrate as `solve_per_sample` does, with the other arguments and the conditions of `solve_in_blocks`."""
    begun = begin_per_sample(method, field, y0, clock, plan, start, tied)
    tape, carry, calls = begun.tape, begun.carry, field.calls
    course, anchors = _course(y0, clock, plan, begun, tied)
    zero = torch.zeros_like(begun.dt)
    one = torch.ones_like(begun.dt)
    march = torch.stack((begun.times[:, 0], begun.dt, one, one, zero, zero, zero, begun.status.double(), *[zero] * 4))
    method.lay_out(y0.device)
    active = bool((begun.status < 0).any())
    if active and plan.adaptive and plan.control.first_step is None:
        calls += 1
        if not estimates:
            march = with_first_step(method, field, plan, course, march, carry)
    writer = _Writer(method, field, y0, clock, plan, begun, anchors, steps, keep_records)
    while active:
        ledger = writer.ledger(carry)
        march, carry = run(method, field, plan, course, ledger, march, carry)
        march = march.clone()
        writer.enter(ledger, march, carry)
        march[5] = 0.0
        active = bool((march[7] < 0).any())
        tape.carry = carry

    tape.status = [Status(int(s)) for s in march[7].tolist()]
    tape.accepted = writer.accepted.tolist()
    tape.rejected = (march[6].long() - writer.accepted).tolist()
    tape.evaluations = [calls + int(tries) * method.evaluations for tries in march[6].tolist()]
    tape.products = [0] * len(tape.evaluations)
    tape.looked, tape.stiff = march[10:].long().tolist()
    remaining = (course.stop(march[4]) - march[0]).abs()
    tape.failed_at = list(zip(march[0].tolist(), torch.minimum(march[1], remaining).tolist(), strict=True))
    return tape


class _Writer:
    """Opens ledgers, and enters what they say into the tape that was begun."""

    def __init__(
        self,
        method: Uniform,
        field: Field,
        y0: Tensor,
        clock: SampleClock,
        plan: Plan,
        begun: SampleBeginning,
        anchors: Tensor,
        steps: int,
        keep_records: bool,
    ) -> None:
        self.method, self.field, self.y0, self.clock, self.plan, self.begun = method, field, y0, clock, plan, begun
        self.places, self.keep_records, self.tape = steps + 1, keep_records, begun.tape
        self.anchors = anchors
        self.accepted = torch.zeros_like(begun.row)
        columns, *shape = method.record_shape(y0)
        self.record = y0.new_empty(self.places * columns, *shape)

    def ledger(self, carry: Carry) -> Ledger:
        """Return a ledger for a block of steps; the record is used again, since it is read before the next block."""
        start = self.begun.dt.new_empty(self.places, 2, len(self.begun.dt))
        kept = carry if self.plan.keep is not None else carry[:1]
        return Ledger(start, tuple(x.new_empty(self.places, *x.shape) for x in kept), (self.record,))

    def enter(self, ledger: Ledger, march: Tensor, carry: Carry) -> None:
        """Add the steps of a block, and the outputs in them, to the tape."""
        tape, times, sign = self.tape, self.begun.times, self.begun.sign
        filled = int(march[5].max())
        value, stop = torch.cat((ledger.start[:filled], march[[0, 4]].unsqueeze(0))).unbind(1)  # (filled + 1, B)
        anchor = self.anchors.gather(1, stop.long().T).T
        moved = value[1:] != value[:-1]
        self.accepted += moved.sum(0)
        row = ((value.unsqueeze(-1) - times) * sign.unsqueeze(-1) >= 0).sum(-1)
        passed = row.diff(dim=0)
        most, counts = (x.tolist() for x in (passed.amax(1), passed.sum(1)))
        steps = []
        for n in range(filled):
            window = torch.arange(most[n], device=times.device).unsqueeze(1)
            index = (row[n] + window).clamp(max=times.shape[1] - 1)
            kept = tuple(book[n] for book in ledger.carry)
            start, end = (Nodes(value[i], anchor[i]) for i in (n, n + 1))
            steps.append(SampleStep(kept, start, end, moved[n], index, window < passed[n]))
            tape.t.append(torch.where(moved[n], value[n], math.nan))
            tape.dt.append(torch.where(moved[n], value[n + 1] - value[n], math.nan))
        outputs = SampleOutputs(self.method, self.field, self.y0, self.clock, steps, counts)
        tape.row_blocks.append(
            outputs.read(lambda n: carry[0] if n == filled - 1 else ledger.carry[0][n + 1], self.record)
        )
        samples = torch.arange(len(sign), device=sign.device)
        for step, count in zip(steps, counts, strict=True):
            if count:
                tape.row_places.append(torch.stack((step.index, samples.expand_as(step.index)), -1)[step.inside])
        if self.plan.keep is not None:
            tape.blocks.append(Block(ledger.carry, filled, outputs, (self.record,) if self.keep_records else ()))
            if self.keep_records:
                self.record = torch.empty_like(self.record)
            for step in steps:
                self.plan.keep(tape.steps, step)


def _course(y: Tensor, clock: SampleClock, plan: Plan, begun: SampleBeginning, tied: bool) -> tuple[Course, Tensor]:
    """Return the course, and the anchors of the nodes behind so many stops, (B, K + 1).

    Repeated last stops make K a power of two, for fewer shapes to compile for.
    """
    sign = begun.sign.unsqueeze(1)
    keys = begun.stops * sign
    ahead = keys > torch.cat((begun.times[:, :1] * sign, keys[:, :-1]), 1)
    order = torch.where(ahead, keys, math.inf).argsort(dim=1, stable=True)  # without repetition, the rest last
    count = ahead.sum(1, keepdim=True)
    places = torch.arange(2 ** (keys.shape[1] - 1).bit_length(), device=y.device)
    order = order.gather(1, places.minimum((count - 1).clamp(min=0)))
    stops, anchors = begun.stops.gather(1, order), begun.anchors.gather(1, order)
    rtol, atol, own = tolerances(plan.control, y)
    same = [torch.full_like(begun.dt, float(x)) for x in (plan.max_steps, rtol, atol)]
    start, end = begun.times[:, 0], begun.times[:, -1]
    numbers = torch.cat((torch.stack((begun.sign, count.squeeze(1) - 1.0, *same, end, start)), stops.T))
    return Course(numbers, own, clock.ndim, tied), torch.cat((torch.zeros_like(anchors[:, :1]), anchors), 1)
