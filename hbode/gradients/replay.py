"""Gradients by running recorded steps again.

Walking the tape backwards, each step is run again with a graph, the cotangents of the carry it ends with and of
the rows and events it gave out are pulled back to the carry it started from, and the graph is dropped. Nothing is
solved: the gradient is exact for what was computed. A walk says where the carries come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..solvers import Carry, Field, Replayed, Tape
from .captured import Guard
from .changed import Comparison
from .problem import Problem, Solved
from .pull_blocks import pull_blocks
from .walks import Rerun, Walk
from .without_graph import same_autocast, without_graph


def replayed(
    problem: Problem, walk: Walk, on_backward: Callable[[int], None], node: type[Replay] | None = None
) -> Solved:
    """Solve without a graph; `on_backward` receives the number of evaluations that a backward pass made."""
    tape, outputs = without_graph(node or Replay, problem, walk, on_backward)
    rows, event_t, event_y, *flat = outputs
    carries = []
    for step in tape.steps if flat else ():
        carries.append(tuple(flat[: len(step.carry)]))
        flat = flat[len(step.carry) :]
    return Solved(tape, rows, event_t, event_y, carries.__getitem__ if carries else None)


class Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        walk: Walk,
        field: Field,
        start: Carry | None,
        on_backward: Callable[[int], None],
        tapes: list[Tape],
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        y0, times, *_ = inputs
        clock = replace(problem.clock, times=times.detach())
        plan = replace(problem.plan, noise=problem.noise is not None)
        frozen = replace(problem, y0=y0.detach(), clock=clock, plan=plan)
        tape = frozen.keeping(walk.keep(plan, clock)).solve(field, start)
        outputs = tape.gathered()
        tapes.append(tape)
        ctx.save_for_backward(*inputs)
        ctx.autocast = same_autocast(y0.device.type)
        ctx.set_materialize_grads(False)
        ctx.problem, ctx.walk, ctx.on_backward = frozen, walk, on_backward
        ctx.tape = Tape(tape.kept, tape.carry, blocks=tape.blocks, rows=tape.rows.leading())
        if not problem.plan.keep_interpolants:
            return outputs
        return *outputs, *(x.detach() for step in tape.steps for x in step.carry)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(bar is None for bar in cotangents):
            return (None,) * (6 + len(ctx.saved_tensors))
        pull_back = _pull_back_with_graph if torch.is_grad_enabled() else _pull_back
        with torch.enable_grad(), ctx.autocast, ctx.problem.as_it_was():
            return (None,) * 6 + pull_back(ctx, cotangents)


def _pull_back(ctx: Any, cotangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    problem: Problem = ctx.problem
    y0, times, *others = ctx.saved_tensors
    bound, captured = problem.divided(others)
    bound = bound.filled(map(_copy, bound.present))
    instead = _stand_ins(problem, captured)
    leaves = [instead.get(id(x), x) for x in captured]
    times = _copy(times)
    clock = replace(problem.clock, times=times)
    wanted = [x for x in (times, *bound.present, *leaves) if x.requires_grad]
    guard = Guard(wanted, instead, strict=problem.leaves is None)
    comparison = Comparison(y0)
    field, crossings = problem.bind(bound)
    frozen, _ = problem.bind(bound.detach())
    rerun = Rerun(problem.method, frozen, problem.clock, problem.y0)
    totals = [torch.zeros_like(x) for x in wanted]
    used = [problem.leaves is not None] * len(wanted)
    begun = [False] * len(wanted)

    def pull(outputs: list[Tensor], weights: list[Tensor], carry: Carry) -> list[Tensor | None]:
        """Add the cotangents of what is wanted, return those of the carry."""
        pairs = [(x, w) for x, w in zip(outputs, weights, strict=True) if x.requires_grad]
        if not pairs:
            return [None] * len(carry)
        grads = torch.autograd.grad(
            [x for x, _ in pairs], [*carry, *wanted], [w for _, w in pairs], allow_unused=True, retain_graph=True
        )
        own = grads[len(carry) :]
        hit = [i for i, g in enumerate(own) if g is not None]
        for i in hit:  # the first cotangents may be those of several outputs at once, as of a vectorised Jacobian
            totals[i] = totals[i].add_(own[i]) if begun[i] else totals[i] + own[i]
            used[i] = begun[i] = True
        return list(grads[: len(carry)])

    rows_bar, event_t_bar, event_y_bar, *node_bars = cotangents
    lead = ctx.tape.rows.lead
    row = 0 if rows_bar is None else len(rows_bar) - lead
    event = max(0 if bar is None else len(bar) for bar in (event_t_bar, event_y_bar))
    carry_bar: list[Tensor | None] = []
    pulled = None
    at_first = problem.compilation.used if problem.compilation else frozenset[int]()
    if problem.compilation and not node_bars and problem.on_replay is None:
        bars = None if rows_bar is None else rows_bar[lead:]
        own = [x for x in captured if id(x) in at_first]
        pulled = pull_blocks(problem, ctx.tape, clock, bars, field, frozen, bound, own)
    if pulled is not None:
        carry_bar = [*pulled[0]]
        used = [id(x) in at_first or not any(x is leaf for leaf in captured) for x in wanted]
        torch._foreach_add_([total for total, hit in zip(totals, used, strict=True) if hit], list(pulled[1]))
    end = ctx.tape.carry
    for step in () if pulled is not None else ctx.walk.backwards(ctx.tape, rerun):
        carry = tuple(x.detach().requires_grad_() for x in step.carry)
        again = replace(step, carry=carry)
        replayed = guard.run(lambda: again.replay(problem.method, field, clock, crossings), _graphs, (*carry, times))  # noqa: B023
        comparison.add(step, replayed.carry[0], end[0])
        end = step.carry
        if problem.on_replay is not None:
            problem.on_replay(step, replayed.carry[0].detach(), carry_bar[0] if carry_bar else None)
        outputs = [x for x, bar in zip(replayed.carry, carry_bar, strict=False) if bar is not None]
        weights = [bar for bar in carry_bar if bar is not None]
        row, event = row - step.rows, event - step.events
        for value, bar, at, size in (
            (replayed.rows, rows_bar, lead + row, step.rows),
            (replayed.event_t, event_t_bar, event, step.events),
            (replayed.event_y, event_y_bar, event, step.events),
        ):
            if value is not None and bar is not None:
                outputs.append(value)
                weights.append(bar[at : at + size])
        carry_bar = pull(outputs, weights, carry) if outputs else [None] * len(carry)
        if node_bars:
            here = node_bars[len(node_bars) - len(carry) :]
            node_bars = node_bars[: len(node_bars) - len(carry)]
            carry_bar = [_sum(a, b) for a, b in zip(carry_bar, here, strict=True)]

    y0_bar = None
    start_rows = None if rows_bar is None else rows_bar[:lead]
    y = y0.detach().requires_grad_()
    if any(bar is not None for bar in carry_bar[1:]):
        step = ctx.tape.first
        first = guard.run(lambda: problem.start(field, clock, y, step.sides), lambda carry: carry[1:], (y, times))
        comparison.add_start(step, first, step.carry)
        pairs = [(x, bar) for x, bar in zip(first[1:], carry_bar[1:], strict=True) if bar is not None]
        (y0_bar,) = pull([x for x, _ in pairs], [bar for _, bar in pairs], (y,))
    comparison.settle()
    y0_bar = _sum(y0_bar, carry_bar[0] if carry_bar else None)
    if start_rows is not None:
        y0_bar = _sum(y0_bar, clock.fold(start_rows, ctx.tape.rows.places))
    ctx.on_backward(field.calls + frozen.calls)
    sums = {id(x): total for x, total, hit in zip(wanted, totals, used, strict=True) if hit}
    return y0_bar, *(sums.get(id(x)) for x in (times, *bound.present, *leaves))


def _pull_back_with_graph(ctx: Any, cotangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Return the same gradients as functions of inputs and cotangents: all steps are run again in one graph."""
    problem: Problem = ctx.problem
    gate = _Gate()
    count = 2 + len(problem.explicit.present)
    saved = ctx.saved_tensors
    instead = {key: gate(x) for key, x in _intermediate(problem, saved[count:]).items()}
    y0, times, *others = inputs = [*map(gate, saved[:count]), *(instead.get(id(x), x) for x in saved[count:])]
    clock = replace(problem.clock, times=times)
    guard = Guard(inputs, instead, strict=problem.leaves is None, in_one_graph=True)
    field, crossings = guard.run(lambda: problem.bind(problem.divided(others)[0]), _nothing, ())
    comparison = Comparison(y0, drifts=True)
    rows_bar, *others_bar = cotangents
    steps = ctx.tape.steps
    lead = ctx.tape.rows.lead
    blocks: list[Replayed] = []
    carry: Carry = (y0,)
    if steps:
        carry = guard.run(lambda: problem.start(field, clock, y0, steps[0].sides), _nothing, ())
        comparison.add_start(steps[0], carry, steps[0].carry)
    nodes: list[Tensor] = []
    for step, following in zip(steps, [*(step.carry for step in steps[1:]), ctx.tape.carry], strict=True):
        nodes += carry
        again = replace(step, carry=carry)
        blocks.append(guard.run(lambda: again.replay(problem.method, field, clock, crossings), _graphs, carry))  # noqa: B023
        carry = blocks[-1].carry
        if following:
            comparison.add(again, carry[0], following[0])
    comparison.settle()
    outputs = [
        _cat([block.rows for block in blocks]),
        _cat([block.event_t for block in blocks]),
        _cat([block.event_y for block in blocks]),
        *nodes,
    ]
    bars = [None if rows_bar is None else rows_bar[lead:], *others_bar]
    pairs = [(x, bar) for x, bar in zip(outputs, bars, strict=False) if bar is not None and x is not None]
    if rows_bar is not None:
        pairs.append((y0, clock.fold(rows_bar[:lead], ctx.tape.rows.places)))
    pairs = [(x, bar) for x, bar in pairs if x.requires_grad]
    ctx.on_backward(field.calls)
    wanted = [x for x in inputs if x.requires_grad]
    grads = torch.autograd.grad(
        [x for x, _ in pairs], wanted, [bar for _, bar in pairs], create_graph=True, allow_unused=True
    )
    gate.open = True
    found = {id(x): grad for x, grad in zip(wanted, grads, strict=True)}
    return tuple(found.get(id(x)) for x in inputs)


def _intermediate(problem: Problem, captured: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return the captured tensors, by id, that have a graph behind them which is not to be walked with each step."""
    return {id(x): x for x in captured if not x.is_leaf} if problem.leaves is None else {}


def _stand_ins(problem: Problem, captured: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return copies of them without history."""
    return {key: _copy(x) for key, x in _intermediate(problem, captured).items()}


def _graphs(replayed: Replayed) -> list[Tensor]:
    """Return all that a step gave out."""
    return [x for x in (*replayed.carry, *replayed[1:]) if x is not None]


def _nothing(_: object) -> list[Tensor]:
    return []


class _Gate:
    """Identities that no gradient passes until the gate is open.

    An input may depend on another one, as a damping does on the parameter behind it. The first derivative takes them
    as independent; the second has to see how they depend.
    """

    def __init__(self) -> None:
        self.open = False

    def __call__(self, x: Tensor) -> Tensor:
        through: Tensor = _Passage.apply(x, self)
        return through


class _Passage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: _Gate) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor | None, None]:
        return (bar if ctx.gate.open else None), None


def _cat(blocks: list[Tensor | None]) -> Tensor | None:
    present = [block for block in blocks if block is not None]
    return torch.cat(present) if present else None


def _copy(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
