"""Gradients at the memory of one step: the steps are taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..solvers import Coupled, Invertible, Method, MovingStart
from ..solvers.warning import warn
from .backprop import Backprop, differentiates_steps
from .problem import Problem, Solved
from .replay import replayed
from .walks import Inverted, Stored


@dataclass(frozen=True)
class Reversible:
    """Recover the states of the backward pass by inverting the steps, instead of keeping them.

    The gradient is that of the discrete adjoint up to the rounding of the way back, which damping amplifies by
    exp(γ T). leapfrog and yoshida4 are reversible as they are; any other one-step method is run in the coupled
    scheme of McCallum and Foster (arXiv 2410.11648, 2024), at twice its evaluations.

    Parameters
    ----------
    coupling
        λ of the coupled scheme, in (0, 1].

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.gradients import Reversible
    >>> h0 = torch.ones(2, requires_grad=True)
    >>> steps = {"method": "leapfrog", "options": {"step_size": 0.1}}
    >>> hbodeint(lambda t, h: -h, h0, [0.0, 1.0], gradient=Reversible(), **steps).h[-1].sum().backward()
    >>> h0.grad.shape
    torch.Size([2])
    """

    coupling: float = 0.999

    def adapt(self, method: Method) -> Method:
        """Return the method itself if it is reversible, coupled if not."""
        if isinstance(method, Invertible):
            return method
        if not method.explicit_one_step:
            raise ValueError(
                "gradient='reversible' needs an explicit one-step method, such as leapfrog or dprkn6, not one that "
                "iterates or has a history"
            )
        return Coupled(method, self.coupling)

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve without a graph; `on_backward` receives the evaluations that a backward pass made."""
        if differentiates_steps():
            return Backprop().solve(problem, on_backward)
        solved = replayed(problem, Stored() if problem.plan.keep_interpolants else Inverted(), on_backward)
        carry = solved.tape.carry
        base = problem.method.base if isinstance(problem.method, MovingStart) else problem.method
        if isinstance(base, Coupled) and len(carry) > 1:
            _warn_of_gap(carry[0], carry[1], problem.plan.control.atol)
        return solved


@torch.no_grad()
def _warn_of_gap(y: Tensor, z: Tensor, atol: float | Tensor) -> None:
    """Warn where the states of the pair came apart, by more than a hundredth and a hundred absolute tolerances."""
    gap, size = (float(torch.linalg.vector_norm(x)) for x in (y - z, y))
    if gap > 0.01 * size + 100 * float(torch.as_tensor(atol).max()) * y.numel() ** 0.5:
        warn(
            f"the two states of the coupled scheme came apart: they differ by {gap:.1e}, the state being {size:.1e}. "
            "They do where a first-order system decays by many orders of magnitude; take smaller steps or tolerances, "
            "or gradient='discrete_adjoint' with options={'checkpoints': k}",
            RuntimeWarning,
        )
