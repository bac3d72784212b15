"""Finds the tensors that a vector field differentiates through without being told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def reachable_leaves(func: Any) -> list[Tensor]:
    """Return the leaf tensors that need gradients in the modules, closures, partials and methods of `func`."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()

    def visit(item: Any, depth: int) -> None:
        if id(item) in seen or depth > 4:
            return
        seen.add(id(item))
        if isinstance(item, Tensor):
            if item.requires_grad and item.is_leaf:
                found[id(item)] = item
        elif isinstance(item, nn.Module):
            for parameter in item.parameters():
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
            if not hasattr(item, "__closure__"):
                for value in getattr(item, "__dict__", {}).values():
                    visit(value, depth + 1)

    visit(func, 0)
    return list(found.values())


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


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
