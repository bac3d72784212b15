"""Solves without a graph, as functions with a gradient of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor, nn

from ..solvers import Carry, Field, Tape
from ..solvers.noise import Noise, noise_state, restore_noise, same_noise
from ..solvers.warning import warn
from .captured import Guard, Reachable, Watch, graph_ends, now, reachable
from .problem import Problem

P = ParamSpec("P")


class Found(NamedTuple):
    """What the first evaluation of a field showed."""

    captured: list[Tensor]
    """Tensors that need gradients and that the field holds or uses, other than its arguments."""
    used: frozenset[int]
    """The ids of those it uses at the first time."""
    carry: Carry | None
    """The first carry, if it was made."""
    noise: Noise | None
    """Where the field draws random numbers: the state of the generators before it did."""
    changing: tuple[Tensor, ...]
    """The buffers of modules that it changes."""


def without_graph(
    function: type[torch.autograd.Function], problem: Problem, how: Any, on_backward: Callable[[int], None]
) -> tuple[Tape, Sequence[Tensor]]:
    """Solve by a function with a gradient of its own, or plainly where nothing needs one; return tape and outputs.

    The function takes (problem, how, field, start, on_backward, tapes, y0, times, *tensors, *captured), with the field
    bound to values without gradients, and adds its tape to `tapes`.
    """
    field, crossings = problem.bind(problem.explicit.detach())
    start: Carry | None = None
    inputs: tuple[Tensor, ...] = ()
    if torch.is_grad_enabled():
        within = [reachable(owner) for owner in problem.owners] if problem.leaves is None else []
        found = _look(problem, field, crossings, within)
        start, used = found.carry, found.used
        if problem.plan.updates is not None and problem.leaves is None:
            used |= {id(x) for r in within[-2:] for x in r.tensors}  # of their function and data
        problem = replace(
            problem,
            compilation=problem.compilation
            and problem.compilation._replace(used=used, modules=tuple(module for r in within for module in r.modules)),
            noise=found.noise,
            changing=found.changing,
        )
        inputs = (problem.y0, problem.clock.times, *problem.explicit.present, *found.captured)
    if any(x.requires_grad for x in inputs):
        tapes: list[Tape] = []
        outputs = function.apply(problem, how, field, start, on_backward, tapes, *inputs)
        return tapes[0], outputs
    if torch.is_grad_enabled() and problem.leaves is None:
        field.guarded(_without_gradient)
        plan = problem.plan
        updates = plan.updates and replace(plan.updates, fn=_without_gradient(plan.updates.fn))
        met = tuple(c if c.reset is None else replace(c, reset=_without_gradient(c.reset)) for c in plan.crossings)
        problem = replace(problem, plan=replace(plan, updates=updates, crossings=met))
    with torch.no_grad():
        tape = problem.without_gradient().solve(field, start)
        return tape, tape.gathered()


def same_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context with the mixed precision of now, for the steps to be run again in the same arithmetic."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled, cache_enabled=False)


def _look(problem: Problem, field: Field, crossings: Sequence[Any], within: Sequence[Reachable]) -> Found:
    """Evaluate the field at the first time, with a graph, and see what it uses and what it changes."""
    clock, y0 = problem.clock, problem.y0.detach()
    held = [x for r in within for x in r.tensors] if problem.leaves is None else list(problem.leaves)
    t0 = clock.times[..., 0].detach()
    if bool((clock.times == clock.times[..., :1]).all()):
        return Found(held, frozenset(), None, None, ())
    carry: Carry = ()

    def start() -> list[Tensor]:
        nonlocal carry
        t = clock.start().detach()
        carry = problem.method.start(field, t, y0)
        return [*carry, field.damping_at(t).gamma, *(crossing.fn(t0, y0) for crossing in crossings)]

    before = noise_state(y0.device)
    parts = [part for r in within for module in r.modules for part in module.modules() if part._buffers]
    versions = [_versions(part) for part in parts]
    since = now()
    with torch.enable_grad():
        outputs = start()
    drawn = not same_noise(before, noise_state(y0.device))
    changed = [part for part, version in zip(parts, versions, strict=True) if _versions(part) != version]
    changing = {id(x): x for part in changed for x in part.buffers(recurse=False)}
    if problem.leaves is not None:
        captured, used = held, held
    else:
        captured, used = _captured(start, outputs, since, held)
        _warn_of_cut(problem.owners[0], outputs)
    kept = None if problem.plan.jumps else tuple(x.detach() for x in carry)
    if drawn and kept is None:
        restore_noise(before, y0.device)
    return Found(captured, frozenset(id(x) for x in used), kept, before if drawn else None, (*changing.values(),))


def _versions(module: nn.Module) -> list[int]:
    """Return how often the buffers of a module were written; of running statistics, only the count of batches tells."""
    return [x._version for x in module.buffers(recurse=False)]


def _captured(
    start: Callable[[], list[Tensor]], outputs: list[Tensor], since: int, held: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a field holds or uses at the first time, and those it uses."""
    ends = graph_ends(outputs, since)
    used = {id(x): x for x in ends.leaves}
    known = {id(x): x for x in held}
    if ends.older or any(x not in known for x in used):
        with torch.enable_grad(), Watch() as watch:
            start()
        used = {key: x for key, x in used.items() if key in known} | watch.taken
        if not ends.older <= {(x.grad_fn, x.output_nr) for x in used.values() if x.grad_fn is not None}:
            raise RuntimeError(
                "the field uses a tensor that other operations made and that needs a gradient, out of the sight of "
                "torch's operations. Pass it through args=, or solve with gradient='backprop'"
            )
    return list((known | used).values()), list(used.values())


def _without_gradient(fn: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Return `fn` for a solve in which nothing was found that needs a gradient; it raises if something does."""
    guard = Guard((), {}, strict=True)

    def guarded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():  # then it uses what it used at the first time, which has been looked at
            return fn(*args, **kwargs)
        given = [x for x in args if isinstance(x, Tensor)]
        own = (*given, *graph_ends(given, guard.since).leaves)  # a solver of implicit steps linearises the field
        linearised = torch.is_grad_enabled()
        with torch.enable_grad():
            out = guard.run(lambda: fn(*args, **kwargs), lambda out: [out], own)
        return out if linearised else out.detach()

    return guarded


def _warn_of_cut(owner: Any, outputs: Sequence[Tensor]) -> None:
    """Warn where a module has parameters to train and what it gave depends on none of them."""
    f = getattr(owner, "f", owner)
    f = getattr(f, "__self__", f)
    trainable = isinstance(f, nn.Module) and any(parameter.requires_grad for _, parameter in f.named_parameters())
    if trainable and not any(x.requires_grad for x in outputs):
        warn(
            f"what {type(f).__name__} returned depends on none of its parameters, which will get no gradient: its "
            "graph is cut, by detach(), torch.no_grad(), torch.tensor(x) or numpy",
            RuntimeWarning,
        )
