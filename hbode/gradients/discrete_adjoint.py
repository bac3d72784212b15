"""The exact gradient of what was computed, from the states of the accepted steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..solvers import Method
from .backprop import Backprop, differentiates_steps
from .problem import Problem, Solved
from .replay import replayed
from .walks import Checkpointed, Stored


@dataclass(frozen=True)
class DiscreteAdjoint:
    """Run the accepted steps again, last one first, and pull the cotangents through each.

    The backward pass evaluates the field once for each evaluation of an accepted step. With `create_graph=True` all
    steps are run again in one graph: second derivatives at the memory of backpropagation.

    Parameters
    ----------
    checkpoints
        How many states to keep; the others are computed again, by the binomial schedule (Griewank and Walther,
        ACM TOMS 26, 2000). The gradients are the same, bit by bit on a CPU. None keeps all, as does dense output.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.gradients import DiscreteAdjoint
    >>> h0 = torch.ones(2, requires_grad=True)
    >>> hbodeint(lambda t, h: -h, h0, [0.0, 1.0], gradient=DiscreteAdjoint(checkpoints=3)).h[-1].sum().backward()
    >>> h0.grad.shape
    torch.Size([2])
    """

    checkpoints: int | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None and self.checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, or None to keep all, got {self.checkpoints}")

    def adapt(self, method: Method) -> Method:
        return method

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve without a graph; `on_backward` receives the evaluations that a backward pass made."""
        if differentiates_steps():
            return Backprop().solve(problem, on_backward)
        all_kept = self.checkpoints is None or problem.plan.keep_interpolants
        return replayed(problem, Stored() if all_kept else Checkpointed(self.checkpoints or 1), on_backward)
