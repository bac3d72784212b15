"""The exact gradient of what was computed, from the tape alone.

Walking the tape backwards, each step is run again with a graph, the cotangents of the carry it ends with and of
the rows and events it gave out are pulled back to the carry it started from, and the graph is dropped. Nothing is
solved: the backward pass evaluates the field once for each evaluation of an accepted step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..solvers import Carry, Field, Tape
from ..solvers.field import Rhs
from .leaves import graph_leaves, reachable_leaves, used_leaves
from .problem import Problem, Solved


def discrete_adjoint(problem: Problem, on_backward: Callable[[int], None]) -> Solved:
    """Solve without a graph; `on_backward` receives the number of evaluations that a backward pass made."""
    detached = [None if x is None else x.detach() for x in problem.tensors]
    field, crossings = problem.bind(detached)
    start: Carry | None = None
    inputs: tuple[Tensor, ...] = ()
    if torch.is_grad_enabled():
        leaves, start = _leaves(problem, field, crossings)
        inputs = (problem.y0, problem.clock.times, *(x for x in problem.tensors if x is not None), *leaves)
    if not any(x.requires_grad for x in inputs):
        if torch.is_grad_enabled() and problem.leaves is None:
            field.fn = _without_gradient(field.fn)
        with torch.no_grad():
            tape = problem.without_steps().solve(field, start)
            return Solved(tape, *tape.gathered())
    tapes: list[Tape] = []
    rows, event_t, event_y, *flat = _Replay.apply(problem, field, start, on_backward, tapes, *inputs)
    carries = []
    for step in tapes[0].steps if flat else ():
        carries.append(tuple(flat[: len(step.carry)]))
        flat = flat[len(step.carry) :]
    return Solved(tapes[0], rows, event_t, event_y, tuple(carries))


def _leaves(problem: Problem, field: Field, crossings: Sequence[Any]) -> tuple[list[Tensor], Carry | None]:
    """Return the leaves that the field uses or its owners hold, and the first carry, found on the way."""
    if problem.leaves is not None:
        return list(problem.leaves), None
    found = [leaf for owner in problem.owners for leaf in reachable_leaves(owner)]
    clock, y0 = problem.clock, problem.y0.detach()
    t0 = clock.times[..., 0].detach()
    if bool((clock.times == clock.times[..., :1]).all()):
        return found, None
    carries: list[Carry] = []

    def start() -> list[Tensor]:
        carries.append(problem.method.start(field, clock.start().detach(), y0))
        return [*carries[0], *(crossing.fn(t0, y0) for crossing in crossings)]

    found += used_leaves(start)
    carry = None if problem.plan.jumps else tuple(x.detach() for x in carries[0])
    return list({id(leaf): leaf for leaf in found}.values()), carry


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        field: Field,
        start: Carry | None,
        on_backward: Callable[[int], None],
        tapes: list[Tape],
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        y0, times, *_ = inputs
        frozen = replace(problem, y0=y0.detach(), clock=replace(problem.clock, times=times.detach()))
        tape = frozen.solve(field, start)
        outputs = tape.gathered()
        tapes.append(tape)
        ctx.save_for_backward(*inputs)
        ctx.autocast = _same_autocast(y0.device.type)
        ctx.set_materialize_grads(False)
        ctx.problem, ctx.steps, ctx.places, ctx.on_backward = frozen, tape.steps, tape.row_places[:1], on_backward
        if not problem.plan.keep_interpolants:
            return outputs
        return *outputs, *(x.detach() for step in tape.steps for x in step.carry)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gradient='discrete_adjoint' gives first derivatives only; for create_graph=True, and any second "
                "derivative, solve with gradient='backprop'"
            )
        with torch.enable_grad(), ctx.autocast:
            return (None,) * 5 + _pull_back(ctx, cotangents)


def _same_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context with the mixed precision of now, for the steps to be run again in the same arithmetic."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled, cache_enabled=False)


def _pull_back(ctx: Any, cotangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    problem: Problem = ctx.problem
    y0, times, *others = ctx.saved_tensors
    explicit_count = sum(x is not None for x in problem.tensors)
    explicit = iter([x.detach().requires_grad_(x.requires_grad) for x in others[:explicit_count]])
    bound = [None if x is None else next(explicit) for x in problem.tensors]
    field, crossings = problem.bind(bound)
    times = times.detach().requires_grad_(times.requires_grad)
    clock = replace(problem.clock, times=times)
    leaves = others[explicit_count:]
    wanted = [x for x in (times, *(b for b in bound if b is not None), *leaves) if x.requires_grad]
    totals = [torch.zeros_like(x) for x in wanted]
    used = [problem.leaves is not None] * len(wanted)
    known = {id(x) for x in wanted}

    def pull(outputs: list[Tensor], weights: list[Tensor], carry: Carry) -> list[Tensor | None]:
        """Add the cotangents of what is wanted, return those of the carry."""
        pairs = [(x, w) for x, w in zip(outputs, weights, strict=True) if x.requires_grad]
        if not pairs:
            return [None] * len(carry)
        if problem.leaves is None:
            _refuse_strangers([x for x, _ in pairs], known | {id(x) for x in carry})
        grads = torch.autograd.grad(
            [x for x, _ in pairs], [*carry, *wanted], [w for _, w in pairs], allow_unused=True, retain_graph=True
        )
        own = grads[len(carry) :]
        hit = [i for i, g in enumerate(own) if g is not None]
        if hit:
            torch._foreach_add_([totals[i] for i in hit], [own[i] for i in hit])
            for i in hit:
                used[i] = True
        return list(grads[: len(carry)])

    rows_bar, event_t_bar, event_y_bar, *node_bars = cotangents
    steps = ctx.steps
    row = sum(step.rows for step in steps)
    lead = 0 if rows_bar is None else len(rows_bar) - row
    event = sum(step.events for step in steps)
    carry_bar: list[Tensor | None] = []
    for n in range(len(steps) - 1, -1, -1):
        step = steps[n]
        carry = tuple(x.detach().requires_grad_() for x in step.carry)
        replayed = replace(step, carry=carry).replay(problem.method, field, clock, crossings)
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
        field.between(*(steps[0].sides or (None, None)))
        first = problem.method.start(field, clock.start(), y)
        pairs = [(x, bar) for x, bar in zip(first[1:], carry_bar[1:], strict=True) if bar is not None]
        (y0_bar,) = pull([x for x, _ in pairs], [bar for _, bar in pairs], (y,))
    y0_bar = _sum(y0_bar, carry_bar[0] if carry_bar else None)
    if start_rows is not None:
        y0_bar = _sum(y0_bar, clock.fold(start_rows, ctx.places))
    ctx.on_backward(field.calls)
    sums = {id(x): total for x, total, hit in zip(wanted, totals, used, strict=True) if hit}
    return y0_bar, *(sums.get(id(x)) for x in (times, *(b for b in bound if b is not None), *leaves))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _refuse_strangers(outputs: list[Tensor], known: set[int]) -> None:
    """Raise if the field reached a leaf that the gradient would lose."""
    for leaf in graph_leaves(outputs):
        if id(leaf) not in known:
            raise RuntimeError(
                f"the field used a tensor of shape {tuple(leaf.shape)} that needs a gradient and that could not be "
                "found before the solve, because the field does not use it at the first time and does not hold it. "
                "Pass it through args=, make it a parameter of the module, or solve with gradient='backprop'"
            )


def _without_gradient(fn: Rhs) -> Rhs:
    """Return `fn` for a solve in which nothing was found that needs a gradient; it raises if something does."""

    def guarded(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            out = fn(t, y)
        if out.requires_grad:
            _refuse_strangers([out], set())
        return out

    return guarded
