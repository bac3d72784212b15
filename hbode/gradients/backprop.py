"""Backpropagation through the operations of the solve: every derivative, at the price of keeping the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..solvers import Method
from .problem import Problem, Solved


@dataclass(frozen=True)
class Backprop:
    """Solve with a graph: derivatives of any order, backwards and in forward mode (`torch.func.jvp`)."""

    def adapt(self, method: Method) -> Method:
        return method

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve. The backward pass evaluates the field no further, and `on_backward` is told so."""
        field, _ = problem.bind(problem.tensors)
        tape = problem.without_gradient().solve(field)
        rows, event_t, event_y = tape.gathered()

        def report(_: Tensor) -> None:
            on_backward(0)

        if rows.requires_grad:
            rows.register_hook(report)
        return Solved(tape, rows, event_t, event_y)
