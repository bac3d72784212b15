"""Backpropagation through the operations of the solve: every derivative, at the price of keeping the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..solvers import Field, Method, Tape
from .problem import Problem, Solved


@dataclass(frozen=True)
class Backprop:
    """Solve with a graph: derivatives of any order, backwards and in forward mode (`torch.func.jvp`).

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.gradients import Backprop
    >>> h0 = torch.ones(2, requires_grad=True)
    >>> hbodeint(lambda t, h: -h, h0, [0.0, 1.0], gradient=Backprop()).h[-1].sum().backward()
    >>> h0.grad.shape
    torch.Size([2])
    """

    def adapt(self, method: Method) -> Method:
        return method

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve. The backward pass evaluates the field no further, and `on_backward` is told so."""
        if differentiates_steps() and any(crossing.reset is not None for crossing in problem.plan.crossings):
            raise RuntimeError(
                "a reset at an event moves what follows in time, which forward mode and the transforms of torch.func "
                "do not see: take derivatives backwards, by torch.autograd.grad or backward()"
            )
        field, _ = problem.bind(problem.explicit)
        tape = _solved(problem.without_gradient(), field)
        rows, *_ = outputs = tape.gathered()

        def report(_: Tensor) -> None:
            on_backward(0)

        if rows.requires_grad:
            rows.register_hook(report)
        return Solved(tape, *outputs)


def _solved(problem: Problem, field: Field) -> Tape:
    if not torch._C._are_functorch_transforms_active():
        return problem.solve(field)
    plan = replace(problem.plan, check_finite=False)  # inside vmap nobody can look at a state
    try:
        return replace(problem, plan=plan).solve(field)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise RuntimeError(
            "inside torch.func.vmap no step can be chosen, or iterated, by its error: solve by an explicit method on a "
            "fixed grid (options={'step_size': ...}), or give h0 a batch axis and solve with per_sample=True instead"
        ) from error


def differentiates_steps() -> bool:
    """Return whether derivatives are taken in a way that only the operations of the solve themselves can follow.

    So are those of forward mode and of the transforms of `torch.func`, in which every mode solves as `Backprop` does.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
