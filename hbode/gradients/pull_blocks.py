"""Steps pulled back in blocks: the discrete adjoint of a solve that was written down in blocks, as compiled loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from ..solvers import (
    CannotCompileError,
    Carry,
    Clock,
    Field,
    SampleClock,
    Tape,
    Uniform,
    Updates,
    compiled,
    jump,
    warn_of_eager,
)
from ..solvers.warning import warn
from .changed import differs, refuse
from .problem import Bind, Explicit, Problem


class ParameterSource(nn.Module):
    """The modules that a field draws its parameters from, so that they can be exchanged for a call."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.held = nn.ModuleList(modules)

    def names(self, leaves: Sequence[Tensor]) -> tuple[str, ...] | None:
        """Return the names of the leaves, or None where one of them is no parameter of the modules."""
        known = {id(parameter): name for name, parameter in self.named_parameters()}
        return tuple(known[id(x)] for x in leaves) if all(id(x) in known for x in leaves) else None

    def forward(self, function: Callable[[], Any]) -> Any:
        """Call a function."""
        return function()


class BlockCotangents(NamedTuple):
    """What a block of steps took from elsewhere, and the cotangents of what it gave out.

    Starts and lengths of the steps (K,), or (K, B, 1, …, 1) with zero for samples that do not move; their carries,
    (K, ...) each; the cotangents of the states that they end with, (K, *y), and of their records, joined, if any
    outputs of the solve were read off records. Where there are updates: the cotangents of the states after them,
    (K, *y), who makes one at the start of the step, like the lengths, and the data.
    """

    start: Tensor
    dt: Tensor
    carry: tuple[Tensor, ...]
    ends: Tensor
    record: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...] = ()
    due: tuple[Tensor, ...] = ()
    data: tuple[Tensor, ...] = ()


def pull_block(
    method: Uniform,
    field: Field,
    bind: Bind,
    updates: Updates | None,
    held: ParameterSource,
    names: tuple[str, ...],
    explicit: Explicit,
    slots: tuple[int, ...],
    wanted: tuple[Tensor, ...],
    block: BlockCotangents,
    at: Tensor,
    carry_bar: Carry,
    totals: tuple[Tensor, ...],
    after: Tensor,
    changed: Tensor,
) -> tuple[Carry, tuple[Tensor, ...], Tensor]:
    """Pull cotangents back through the steps from `at` on to the first: a loop, to be compiled.

    `after` is the state that the last of them ended with in the solve, and `changed` whether a step differed so far.
    `totals` are the cotangents of what is `wanted`: first the tensors to bind, at the places `slots` among the explicit
    ones, then the parameters of the modules `held` of the given `names`.
    """
    field = field.anew()
    if not slots:
        method.prepare(field, block.dt.ndim - 1)

    def on(at: Tensor, carry_bar: Carry, totals: tuple[Tensor, ...], after: Tensor, changed: Tensor) -> Tensor:
        return at >= 0

    def pull(
        at: Tensor, carry_bar: Carry, totals: tuple[Tensor, ...], after: Tensor, changed: Tensor
    ) -> tuple[Tensor, Carry, tuple[Tensor, ...], Tensor, Tensor]:
        n = at.view(1)

        def of(books: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(book.index_select(0, n).squeeze(0) for book in books)

        t, dt, end_bar = of((block.start, block.dt, block.ends))
        carry, due, data, fresh_bar = of(block.carry), of(block.due), of(block.data), of(block.fresh)
        record_bar: tuple[Tensor, ...] = ()
        for book in block.record:
            k = len(book) // len(block.start)
            record_bar = (book.index_select(0, n * k + torch.arange(k, device=n.device)),)

        def advance(own: Field, carry: Carry) -> tuple[Tensor, ...]:
            fresh: tuple[Tensor, ...] = ()
            if updates is not None:
                carry = jump(method, own, updates, t, due[0], data, carry)
                fresh = (carry[0].clone(),)
            carry1, stages = method.step(own, t, dt, carry)
            if dt.ndim or updates is not None:
                carry1 = tuple(torch.where(dt != 0, new, old) for new, old in zip(carry1, carry, strict=True))
            return (*carry1, *fresh, method.record(stages)) if record_bar else (*carry1, *fresh)

        def again(carry: Carry, *wanted: Tensor) -> tuple[Tensor, ...]:
            values = explicit.present
            for slot, x in zip(slots, wanted, strict=False):
                values[slot] = x

            def run() -> tuple[Tensor, ...]:
                return advance(bind(explicit.filled(values))[0] if slots else field, carry)

            parameters = dict(zip(names, wanted[len(slots) :], strict=True))
            outputs: tuple[Tensor, ...] = functional_call(held, parameters, (run,))
            return outputs

        given, back = vjp(again, carry, *wanted)[:2]
        before, *bars = back((carry_bar[0] + end_bar, *carry_bar[1:], *fresh_bar, *record_bar))
        changed = changed | differs(given[0], carry[0], after)
        return at - 1, before, tuple(a + b for a, b in zip(totals, bars, strict=True)), carry[0].clone(), changed

    done: Any = torch.while_loop(on, pull, (at, carry_bar, totals, after, changed))
    return done[1], done[2], done[4]


def pull_blocks(
    problem: Problem,
    tape: Tape,
    clock: Clock | SampleClock,
    rows_bar: Tensor | None,
    field: Field,
    frozen: Field,
    bound: Explicit,
    leaves: Sequence[Tensor],
) -> tuple[Carry, tuple[Tensor, ...]] | None:
    """Pull the cotangents of the outputs, but for those at the first time, back to the first carry.

    Returns the cotangents of the carry, and those of the tensors to bind that need gradients and of the leaves; or None
    where this is not to be done in blocks. The field is bound to the tensors, and frozen to the same
    without gradients.
    """
    method = problem.method
    if problem.compilation is None or rows_bar is None:
        return None
    if not (tape.blocks and isinstance(method, Uniform)):
        return None
    pull = compiled(pull_block, method, problem.compilation.subject, rows_bar.device.type)
    held = ParameterSource(problem.compilation.modules)
    names = held.names(leaves)
    if names is None:
        _warn("the field uses a leaf tensor that is no parameter of a module it holds, closes over or names")
        return None
    if clock.times.requires_grad:
        _warn("the times need gradients")
        return None
    slots = tuple(i for i, x in enumerate(bound.present) if x.requires_grad)
    read = [*(x for x in bound.present if x.requires_grad), *leaves]  # what the outputs may be read by
    fixed = bound.detach()
    wanted = (*(fixed.present[i] for i in slots), *leaves)
    carry_bar: Carry = tuple(torch.zeros_like(x) for x in tape.carry)
    totals = tuple(torch.zeros_like(x) for x in wanted)
    row, stepped, made = len(rows_bar), 0, 0
    after, changed = tape.carry[0].detach().clone(), torch.zeros((), dtype=torch.bool, device=rows_bar.device)
    # of samples always, for one shape to compile for
    between = clock.per_sample or any(outputs.inner for outputs in tape.blocks)
    updates = problem.plan.updates
    for outputs in reversed(tape.blocks):
        block = outputs.block
        if not len(block):
            continue
        size = len(block.carry[0])
        bar = rows_bar[row - block.rows : row]
        row -= block.rows
        start, dt = block.spans(size)
        last = torch.tensor(len(block) - 1, device=bar.device)
        with torch.no_grad():
            ends, fresh, record = outputs.spread(bar, size, between)
            cotangents = BlockCotangents(start, dt, block.carry, ends, record, fresh)
            if updates is not None and block.which is not None:
                missing = block.which.new_full((size - len(block), *block.which.shape[1:]), -1)
                which = torch.cat((block.which, missing))
                due, data = clock.wide(which >= 0), updates.data(which.clamp(min=0))
                cotangents = cotangents._replace(due=(due,), data=data)
            try:
                given = (method, frozen, problem.bind, updates, held, names, fixed, slots, wanted, cotangents)
                carry_bar, totals, changed = pull(*given, last, carry_bar, totals, after, changed)
            except CannotCompileError as error:
                warn_of_eager(error)
                return None
        after = block.carry[0][0].clone()
        for book in block.record:
            own = outputs.anew(field).weights_bar(bar, book, read)
            totals = tuple(a if b is None else a + b for a, b in zip(totals, own, strict=True))
        stepped += sum(block.moving.tolist())
        made += sum(n > 0 for n in block.made)
    if bool(changed):
        refuse("a step ends elsewhere")
    frozen.counts.calls += stepped * method.evaluations + made
    return carry_bar, totals


def _warn(reason: str) -> None:
    warn(f"compile=True, but the backward pass runs uncompiled: {reason}", RuntimeWarning)
