"""The loop in blocks: the host looks once a block, and enters into the tape what the block has written down."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..clock import Clock, Nodes, SampleClock
from ..field import Field
from ..method import Carry, Uniform
from ..status import Status
from ..tape.block import Block
from ..tape.outputs import Outputs
from ..tape.tape import Tape
from .block_state import BlockBuffers, LoopState, Start, tolerances
from .blocks import TRIES, RunBlock, run_tries, with_first_step
from .loop import begin
from .loop_per_sample import begin_samples
from .plan import Plan


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
    if isinstance(clock, Clock):
        begun = _begin_shared(method, field, y0, clock, plan, start)
    else:
        begun = begin_samples(method, field, y0, clock, plan, start, tied)
    tape, state, nodes = begun[:3]
    updates, carry, calls, first = plan.updates, tape.carry, field.calls, tape.rows.joined()
    restart, total = calls, clock.times.numel() + (0 if updates is None else updates.anchors.numel())
    done, rows = len(first), first.new_empty(total, *first.shape[1:])
    rows[:done] = first
    columns, *entry = method.record_shape(y0)
    record = y0.new_empty(columns * (steps + 1) if _reads_between(clock, plan) else 0, *entry)
    method.lay_out(y0.device)
    fresh = plan.adaptive and plan.control.first_step is None
    passed = made = torch.zeros_like(state[0], dtype=torch.long)
    going = _least(state).status < 0
    while going:
        inputs = begun.inputs(passed, steps, updates)
        if fresh:
            fresh, calls = False, calls + 1
            if not estimates:
                state = torch.stack(with_first_step(method, field, plan, inputs, LoopState(*state.unbind()), carry))
        if keep_records:  # else it is used again, as it is read before the next block
            record = torch.empty_like(record)
        kept = carry if plan.keep is not None else carry[: int(clock.per_sample or clock.times.shape[-1] > 2)]
        fresh_kept = kept if updates is not None else ()
        books, fresh_books = (tuple(x.new_empty(steps + 1, *x.shape) for x in part) for part in (kept, fresh_kept))
        places = state.new_empty(steps + 1, 2, *state.shape[1:])
        buffers = BlockBuffers(places, books, fresh_books, (record,) if len(record) else ())
        state, carry = run(method, field, plan, inputs, buffers, state, carry)
        least = _least(state)
        filled, going = int(least.filled), least.status < 0
        value, stop = buffers.start[: filled + 1].unbind(1)
        place = (passed + stop.long()).clamp_(max=len(nodes.value) - 1)
        which = None
        if begun.which is not None:
            following = (place[:-1] + 1).clamp_(max=len(begun.which) - 1)
            which = begun.which.gather(0, following).where(stop.diff(dim=0) > 0, -1)
            made = made + (which >= 0).sum(0)
        at = Nodes(value, nodes.anchor.gather(0, place))
        given = buffers.carry, buffers.fresh, buffers.record if keep_records else ()
        block = Block(clock, at, *given, updates, which)
        outputs = Outputs(method, field, y0, block)
        end = buffers.carry[0][1 : filled + 1] if buffers.carry else carry[0].expand(filled, *y0.shape)
        outputs.read(rows[done : done + block.rows], end, buffers.fresh[:1], buffers.record)
        done += block.rows
        tape.rows.places += block.places
        tape.t += block.t
        tape.dt += block.dt
        if plan.keep is not None and filled:
            tape.blocks.append(outputs)
        passed, tape.carry = place[-1], carry

    tape.rows = replace(tape.rows, blocks=[rows[:done]], ends=[])
    now, stop = LoopState(*state.unbind()), (passed + 1).clamp_(max=len(nodes.value) - 1).unsqueeze(0)
    evaluations = calls + restart * made + method.evaluations * (now.accepted + now.rejected)
    tape.outcomes = now.outcomes(nodes.value.gather(0, stop).squeeze(0), evaluations, torch.zeros_like(evaluations))
    return tape


def _least(state: Tensor) -> LoopState:
    """Return the least of the numbers of a loop among samples, all of which have filled as much of a block."""
    return LoopState(*state.view(len(state), -1).amin(1).tolist())


def _begin_shared(method: Uniform, field: Field, y0: Tensor, clock: Clock, plan: Plan, start: Carry | None) -> Start:
    """Return where a batch that steps as one stands before its first step."""
    tape, row, dt, status = begin(method, field, y0, clock, plan, start, estimate=False)
    code = -1.0 if status is None and row < len(clock.values) else float(status or Status.SUCCESS)
    points = [clock.values[0], *(stop.value for stop in plan.stops)]
    anchors = [0, *(-1 if stop.anchor is None else stop.anchor for stop in plan.stops)]
    rtol, atol, own = tolerances(plan.control, y0)
    limits = [clock.sign, plan.max_steps, rtol, atol, clock.values[-1], len(plan.stops) - 1]
    state = [clock.values[0], dt, 1.0, 1.0, 0.0, 0.0, code, *[0.0] * 6]
    numbers = torch.tensor([*state, *limits, *points], dtype=torch.float64, device=y0.device)
    nodes = Nodes(numbers[19:], torch.tensor(anchors, device=y0.device))
    begun = Start(tape, numbers[:13], nodes, numbers[13:19], own)
    return begun if plan.updates is None else begun.updated(plan.updates)


def _reads_between(clock: Clock | SampleClock, plan: Plan) -> bool:
    """Return whether outputs may fall between the ends of steps; of samples always, for one shape to compile for."""
    return isinstance(clock, SampleClock) or not {*clock.values} <= {
        clock.values[0],
        *(stop.value for stop in plan.stops),
    }
