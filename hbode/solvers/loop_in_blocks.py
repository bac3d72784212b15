"""The loop in blocks: the host looks once a block, and enters into the tape what the block has written down."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .blocks import TRIES, BlockBuffers, BlockInputs, LoopState, RunBlock, run_tries, tolerances, with_first_step
from .clock import Clock, Node, Nodes, SampleClock
from .field import Field
from .loop import begin
from .loop_per_sample import Samples
from .method import Carry, Uniform
from .outputs import Block, Outputs
from .plan import Plan
from .sample_outputs import SampleOutputs
from .sample_step import SampleStep
from .shared_step import SharedStep
from .status import Status
from .tape import Tape


def solve_in_blocks(
    method: Uniform,
    field: Field,
    y0: Tensor,
    clock: Clock | SampleClock,
    plan: Plan,
    start: Carry | None = None,
    tied: bool = False,
    run: RunBlock = run_tries,
    steps: int = TRIES,
    keep_records: bool = False,
    estimates: bool = False,
) -> Tape:
    """Integrate as the other loops do, for plans without crossings, discontinuities, hooks and norms of their own.

    `run` runs a block of so many steps; `estimates` says that it also estimates the length of the first step, given as
    NaN. With `keep_records` the blocks of the tape have the records that outputs were read off.
    """
    host: Host
    if isinstance(clock, Clock):
        host = SharedHost(method, field, y0, clock, plan, start, steps)
    else:
        host = SampleHost(method, field, y0, clock, plan, start, steps, tied)
    tape, carry, state, calls = host.tape, host.tape.carry, host.state, field.calls
    record = y0.new_empty(host.columns * (steps + 1), *method.record_shape(y0)[1:])
    method.lay_out(y0.device)
    if host.active and plan.adaptive and plan.control.first_step is None:
        calls += 1
        if not estimates:
            state = with_first_step(method, field, plan, host.inputs, state, carry)
    while host.active:
        if keep_records:  # else it is used again, as it is read before the next block
            record = torch.empty_like(record)
        kept = carry if plan.keep is not None else carry[: host.ends]
        buffers = BlockBuffers(
            state.new_empty(steps + 1, *state[:2].shape),
            tuple(x.new_empty(steps + 1, *x.shape) for x in kept),
            (record,) if len(record) else (),
        )
        state, carry = run(method, field, plan, host.inputs, buffers, state, carry)
        tape.carry = carry
        done, outputs = host.enter(buffers, state, carry)
        if plan.keep is not None:
            tape.blocks.append(Block(buffers.carry, len(done), outputs, buffers.record if keep_records else ()))
            for step in done:
                plan.keep(tape.steps, step)
        state = host.state

    tape.end(LoopState(*host.state.unbind()), host.targets())
    tries = [a + r for a, r in zip(tape.accepted, tape.rejected, strict=True)]
    tape.evaluations, tape.products = [calls + n * method.evaluations for n in tries], [0] * len(tries)
    return tape


class Host:
    """What the host knows of a solve between two blocks.

    Attributes
    ----------
    tape, state, inputs
        What the next block starts from, and goes by.
    active
        Whether there is a next block.
    ends
        1 where the states that steps end with are outputs, as far as is known before, else 0.
    columns
        How many columns of the record of a step outputs are read off; 0 where none is.
    """

    tape: Tape
    state: Tensor
    inputs: BlockInputs
    active: bool
    ends = 1
    columns: int

    def enter(self, buffers: BlockBuffers, state: Tensor, carry: Carry) -> tuple[list[Any], Any]:
        """Enter a block into the tape; return its steps and how their outputs are read, and be ready for the next."""
        raise NotImplementedError

    def targets(self) -> Tensor:
        """Return the next stops, shape () or (B,)."""
        raise NotImplementedError


class SharedHost(Host):
    """For a batch that steps as one."""

    def __init__(
        self, method: Uniform, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None, steps: int
    ) -> None:
        self.method, self.field, self.y0, self.clock, self.plan, self.steps = method, field, y0, clock, plan, steps
        self.tape, _, self.row, self.sign, dt, status = begin(method, field, y0, clock, plan, start, estimate=False)
        self.stop, self.node = 0, Node(clock.values[0], 0)
        self.active = status is None and self.row < len(clock.values)
        code = -1.0 if self.active else float(status or Status.SUCCESS)
        self.values = [self.node.value, dt, 1.0, 1.0, 0.0, 0.0, code, *[0.0] * 6]
        stops, outputs = {stop.value for stop in plan.stops}, clock.values[self.row :]
        self.ends = int(len(outputs) > 1)
        between = any(t not in stops for t in outputs) or len(set(outputs)) < len(outputs)
        self.columns = method.record_shape(y0)[0] if between else 0
        self.rows = y0.new_empty(len(clock.values), *y0.shape)
        self.rows[: self.row] = y0
        self._continue()

    def _continue(self) -> None:
        """Make the tensors that the next block starts from."""
        self.state = torch.tensor(self.values, dtype=torch.float64, device=self.y0.device)
        if not self.active:
            return
        rtol, atol, own = tolerances(self.plan.control, self.y0)
        passed, stops = self.stop, [stop.value for stop in self.plan.stops[self.stop : self.stop + self.steps]]
        stops += stops[-1:] * (self.steps - len(stops))
        before = self.plan.stops[passed - 1].value if passed else self.clock.values[0]
        limits = self.sign, len(self.plan.stops) - 1.0 - passed, float(self.plan.max_steps), rtol, atol
        numbers = [*limits, self.clock.values[-1], before, *stops]
        self.inputs = BlockInputs(torch.tensor(numbers, dtype=torch.float64, device=self.y0.device), own)

    def enter(self, buffers: BlockBuffers, state: Tensor, carry: Carry) -> tuple[list[SharedStep], Outputs]:
        starts, self.values = buffers.start.tolist(), state.tolist()
        now = LoopState(*self.values)
        nodes, behind = [self.node], 0
        for value, passed in [*starts[1 : int(now.filled)], (now.t, now.stop)] if now.filled else ():
            nodes.append(self.plan.stops[self.stop + behind] if passed > behind else Node(value, nodes[-1].anchor))
            behind = int(passed)
        self.stop, self.node, self.active = self.stop + behind, nodes[-1], now.status < 0
        self.values[7] = self.values[8] = 0.0  # stops passed and steps accepted in the block
        self._continue()

        tape, times, count, sign = self.tape, self.clock.values, len(self.clock.values), self.sign
        done: list[SharedStep] = []
        for n, (start, end) in enumerate(pairwise(nodes)):
            first = self.row
            while self.row < count and (end.value - times[self.row]) * sign >= 0:
                self.row += 1
            done.append(SharedStep(tuple(buffer[n] for buffer in buffers.carry), start, end, first, self.row))
            tape.t.append(start.value)
            tape.dt.append(end.value - start.value)
        outputs = Outputs(self.method, self.field, self.y0, self.clock, done)
        if outputs.count:
            last = len(done) - 1
            outputs.read(
                self.rows[done[0].first : self.row],
                lambda n: carry[0] if n == last else buffers.carry[0][n + 1],
                buffers.record[0] if buffers.record else None,
            )
            tape.row_blocks, tape.ends = [self.rows[: self.row]], []
        return done, outputs

    def targets(self) -> Tensor:
        stops = self.plan.stops
        stop = stops[min(self.stop, len(stops) - 1)].value if stops else self.node.value
        return self.state.new_tensor(stop)


class SampleHost(Host):
    """For samples with times, and on request steps, of their own."""

    def __init__(
        self,
        method: Uniform,
        field: Field,
        y0: Tensor,
        clock: SampleClock,
        plan: Plan,
        start: Carry | None,
        steps: int,
        tied: bool,
    ) -> None:
        self.method, self.field, self.y0, self.clock = method, field, y0, clock
        begun = Samples(method, field, y0, clock, plan, start, tied)
        self.tape, self.times, self.sign, self.anchors = begun.tape, begun.times, begun.sign, begun.anchors
        self.state, self.inputs, self.tape.carry = begun.state, begun.inputs, begun.carry
        self.active = begun.active
        self.columns = method.record_shape(y0)[0]

    def enter(self, buffers: BlockBuffers, state: Tensor, carry: Carry) -> tuple[list[SampleStep], SampleOutputs]:
        tape, times, sign = self.tape, self.times, self.sign
        now = LoopState(*state.unbind())
        filled = int(now.filled.max())
        value, stop = torch.cat((buffers.start[:filled], torch.stack((now.t, now.stop)).unsqueeze(0))).unbind(1)
        anchor = self.anchors.gather(1, stop.long().T).T
        moved = value[1:] != value[:-1]
        row = ((value.unsqueeze(-1) - times) * sign.unsqueeze(-1) >= 0).sum(-1)
        passed = row.diff(dim=0)
        most, counts = (x.tolist() for x in (passed.amax(1), passed.sum(1)))
        done = []
        for n in range(filled):
            window = torch.arange(most[n], device=times.device).unsqueeze(1)
            index = (row[n] + window).clamp(max=times.shape[1] - 1)
            kept = tuple(buffer[n] for buffer in buffers.carry)
            start, end = (Nodes(value[i], anchor[i]) for i in (n, n + 1))
            done.append(SampleStep(kept, start, end, moved[n], index, window < passed[n]))
            tape.t.append(torch.where(moved[n], value[n], math.nan))
            tape.dt.append(torch.where(moved[n], value[n + 1] - value[n], math.nan))
        outputs = SampleOutputs(self.method, self.field, self.y0, self.clock, done, counts)
        record = buffers.record[0]
        tape.row_blocks.append(outputs.read(lambda n: carry[0] if n == filled - 1 else buffers.carry[0][n + 1], record))
        samples = torch.arange(len(sign), device=sign.device)
        for step, count in zip(done, counts, strict=True):
            if count:
                tape.row_places.append(torch.stack((step.index, samples.expand_as(step.index)), -1)[step.inside])
        self.state = torch.stack(now._replace(filled=torch.zeros_like(now.filled)))
        self.active = bool((now.status < 0).any())
        return done, outputs

    def targets(self) -> Tensor:
        return self.inputs.stop(self.state[7])
