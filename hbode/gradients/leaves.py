"""Finds the tensors that a vector field differentiates through without being told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..solvers import Carry, Field, Tape
from ..solvers.field import Rhs
from .problem import Problem


class Reachable(NamedTuple):
    """The leaf tensors that need gradients, and the modules that are no parts of others, that a function can reach."""

    leaves: list[Tensor]
    modules: list[nn.Module]


def reachable(func: Any) -> Reachable:
    """Return what is found in the modules, closures, global names, partials and methods of `func`."""
    found: dict[int, Tensor] = {}
    modules: list[nn.Module] = []
    inner: set[int] = set()
    seen: set[int] = set()

    def visit(item: Any, depth: int) -> None:
        if id(item) in seen or depth > 4:
            return
        seen.add(id(item))
        if isinstance(item, Tensor):
            if item.requires_grad and item.is_leaf:
                found[id(item)] = item
        elif isinstance(item, nn.Module):
            if id(item) not in inner:
                modules.append(item)
                inner.update(map(id, item.modules()))
            for _, parameter in item.named_parameters():
                visit(parameter, depth)
            for value in vars(item).values():
                visit(value, depth + 1)
        elif isinstance(item, functools.partial):
            for part in (item.func, *item.args, *item.keywords.values()):
                visit(part, depth + 1)
        elif isinstance(item, list | tuple):
            for part in item:
                visit(part, depth + 1)
        elif isinstance(item, dict):
            for part in item.values():
                visit(part, depth + 1)
        elif hasattr(item, "__self__"):
            visit(item.__self__, depth + 1)
        elif callable(item):
            for cell in getattr(item, "__closure__", None) or ():
                visit(_contents(cell), depth + 1)
            for name in getattr(getattr(item, "__code__", None), "co_names", ()):
                visit(item.__globals__.get(name), depth + 1)
            if not hasattr(item, "__closure__"):
                for value in getattr(item, "__dict__", {}).values():
                    visit(value, depth + 1)

    visit(func, 0)
    return Reachable(list(found.values()), modules)


def graph_leaves(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the leaf tensors that need gradients in the graphs of `outputs`."""
    stack: list[Any] = []
    for output in outputs:
        if output.grad_fn is not None:
            stack.append(output.grad_fn)
        elif output.requires_grad:
            yield output
    seen = set(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)


def used_leaves(run: Callable[[], Iterable[Tensor]]) -> list[Tensor]:
    """Return the leaf tensors that need gradients in what `run()` computes."""
    with torch.enable_grad():
        unique = {id(leaf): leaf for leaf in graph_leaves(run())}
    return list(unique.values())


def without_graph(
    function: type[torch.autograd.Function], problem: Problem, how: Any, on_backward: Callable[[int], None]
) -> tuple[Tape, Sequence[Tensor]]:
    """Solve by a function with a gradient of its own, or plainly where nothing needs one; return tape and outputs.

    The function takes (problem, how, field, start, on_backward, tapes, y0, times, *tensors, *leaves), with the field
    bound to values without gradients, and adds its tape to `tapes`.
    """
    _refuse_transforms(problem.y0)
    field, crossings = problem.bind([None if x is None else x.detach() for x in problem.tensors])
    start: Carry | None = None
    inputs: tuple[Tensor, ...] = ()
    if torch.is_grad_enabled():
        within = [reachable(owner) for owner in problem.owners] if problem.leaves is None else []
        leaves, used, start = _problem_leaves(problem, field, crossings, [x for r in within for x in r.leaves])
        modules = tuple(module for r in within for module in r.modules)
        problem = replace(problem, used=frozenset(id(x) for x in used), modules=modules)
        inputs = (problem.y0, problem.clock.times, *(x for x in problem.tensors if x is not None), *leaves)
    if any(x.requires_grad for x in inputs):
        tapes: list[Tape] = []
        outputs = function.apply(problem, how, field, start, on_backward, tapes, *inputs)
        return tapes[0], outputs
    if torch.is_grad_enabled() and problem.leaves is None:
        field.fn = _without_gradient(field.fn)
    with torch.no_grad():
        tape = problem.without_gradient().solve(field, start)
        return tape, tape.gathered()


def same_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context with the mixed precision of now, for the steps to be run again in the same arithmetic."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled, cache_enabled=False)


def _refuse_transforms(y0: Tensor) -> None:
    """Raise inside a transform of torch.func: its tensors have no storage, and a kept tape would lose it."""
    try:
        y0.data_ptr()
    except RuntimeError as error:
        message = "inside torch.func transforms (jvp, grad, hessian) solve with gradient='backprop'"
        raise RuntimeError(message) from error


def _problem_leaves(
    problem: Problem, field: Field, crossings: Sequence[Any], held: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], Carry | None]:
    """Return the leaves that the field uses or are `held`, those used at the first time, and the first carry."""
    if problem.leaves is not None:
        return list(problem.leaves), list(problem.leaves), None
    clock, y0 = problem.clock, problem.y0.detach()
    t0 = clock.times[..., 0].detach()
    if bool((clock.times == clock.times[..., :1]).all()):
        return held, [], None
    carries: list[Carry] = []

    def start() -> list[Tensor]:
        carries.append(problem.method.start(field, clock.start().detach(), y0))
        return [*carries[0], *(crossing.fn(t0, y0) for crossing in crossings)]

    used = used_leaves(start)
    carry = None if problem.plan.jumps else tuple(x.detach() for x in carries[0])
    return list({id(leaf): leaf for leaf in (*held, *used)}.values()), used, carry


def refuse_strangers(outputs: list[Tensor], known: set[int]) -> None:
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
        if torch.compiler.is_compiling():  # then it uses what it used at the first time, which has been looked at
            return fn(t, y)
        with torch.enable_grad():
            out = fn(t, y)
        if out.requires_grad:
            refuse_strangers([out], {id(leaf) for leaf in graph_leaves([t, y])})
        return out

    return guarded


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
