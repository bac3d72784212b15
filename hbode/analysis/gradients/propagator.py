"""The propagator of a solve: the Jacobians of its steps, applied to vectors from either side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...solution import Solution
from ..inputs import Loss, terminal_loss
from ..linearised import Apply, Linearised, StateAxes, asymmetry, check_independent


class PropagatorError(ValueError):
    """The Jacobian of a step is not finite, cannot be inverted, or is not that of the recorded step."""


class Checked(Linearised):
    """A linearised map whose products are vectors in float64 on the CPU, and finite.

    Raises
    ------
    PropagatorError
        From a product that is not, with `name` for the map.
    """

    def __init__(self, fn: Apply, y: Tensor, layout: StateAxes, name: str) -> None:
        super().__init__(fn, y, layout)
        self.name = name

    def _product(self, out: Tensor, of: Tensor, rows: Tensor) -> Tensor:
        moved = super()._product(out, of, rows).double().cpu()
        if not bool(torch.isfinite(moved).all()):
            raise PropagatorError(f"the Jacobian of {self.name} must be finite, got NaN or Inf")
        return moved


class Propagator:
    """Jacobians J_n = ∂y_{n+1}/∂y_n of the accepted steps of a solve, the length of each step held fixed.

    They belong to the discrete solution: y_{n+1} is what the method makes of the state y_n. Φ(T, t_n) = J_{N-1} … J_n
    = ∂y(T)/∂y(t_n) is the propagator.

    Parameters
    ----------
    sol
        A solve, as `Solution.trajectory` can follow it.
    batch
        Whether the first axis of h0 holds samples that do not interact. Default: whether h0 has two axes or more.

    Attributes
    ----------
    steps
        The trajectory. The P components of a vector are all of h, then all of m.
    count
        The number N of steps.

    Raises
    ------
    TypeError, ValueError
        If `sol` is no solution, its steps cannot be followed, or its samples interact.
    """

    def __init__(self, sol: Solution, batch: bool | None) -> None:
        if not isinstance(sol, Solution):
            raise TypeError(f"sol must be the Solution of hbodeint, got {type(sol).__name__}")
        self.steps = steps = sol.trajectory
        batch = steps.h0.ndim >= 2 if batch is None else batch
        if batch and steps.h0.ndim == 0:
            raise ValueError("batch must be False for h0 of shape (), got True")
        self.times, self.count, self.second_order = steps.times, len(steps), steps.second_order
        self.t = torch.tensor(self.times, dtype=torch.float64)
        self.dtype = steps.h0.dtype
        shape = torch.Size((2, *steps.h0.shape)) if self.second_order else steps.h0.shape
        self.layout = StateAxes(shape, (1 if self.second_order else 0) if batch else None)
        self.samples, self.size = self.layout.samples, self.layout.size
        # A step is run again on the operations of autograd, in another order than without.
        self._rounding = torch.finfo(self.dtype).eps ** 0.5
        check_independent(self.step(0), "h0")

    def step(self, n: int) -> Checked:
        """Return step n around y_n.

        Raises
        ------
        PropagatorError
            If it does not end on the recorded y_{n+1}: the field has changed since, is random, or the method
            carries more than the state.
        """
        start = self.steps.state(n)
        linear = Checked(lambda y: self.steps.advance(n, y), start, self.layout, self._name(n))
        if n + 1 < self.count:
            there, here = self.steps.state(n + 1), linear.value.detach()
            size = torch.maximum(start.abs().max(), there.abs().max())
            if not bool((here - there).abs().max() <= self._rounding * size):
                raise PropagatorError(
                    f"{self._name(n)} must end on the recorded state when it is taken again from the state before, but "
                    "does not: has the field changed since the solve (weights, mode, autocast), is it random, or does "
                    "the method carry more than the state (Adams, or coupled for gradient='reversible')?"
                )
        return linear

    def loss_gradient(self, loss: Loss) -> Tensor:
        """Return ∂L/∂(h_T, m_T), or ∂L/∂h_T of a first-order system, for L = loss(h_T, m_T), shape (1, B, P)."""
        y = self.steps.state(self.count).requires_grad_()
        with torch.enable_grad():
            value = terminal_loss(loss, *(y.unbind() if self.second_order else (y, None)))
        found = torch.autograd.grad(value, y, allow_unused=True)[0] if value.requires_grad else None
        if found is None:
            if self.second_order:
                raise ValueError("loss must depend on h_T or m_T, but has no gradient with respect to either")
            found = torch.zeros_like(y)  # a loss of m_T alone, which a first-order system does not have
        return self.layout.rows(found.unsqueeze(0)).double().cpu()

    def solve(self, n: int, vectors: Tensor, transposed: bool = False) -> Tensor:
        """Return J_n⁻¹, or its transpose, applied to vectors.

        The step taken back in time from its end is an inverse up to the local error, and iterative refinement removes
        the rest.

        Raises
        ------
        PropagatorError
            If the refinement does not converge, which takes a local error near one.
        """
        name, end = self._name(n), self.steps.state(n + 1)
        step, back = self.step(n), Checked(lambda y: self.steps.advance(n, y, back=True), end, self.layout, name)
        product, inverse = (step.pull, back.pull) if transposed else (step.push, back.push)
        tol = torch.finfo(self.dtype).eps ** 0.75 * torch.linalg.vector_norm(vectors, dim=-1)
        found = inverse(vectors)
        for _ in range(20):
            rest = vectors - product(found)
            if bool((torch.linalg.vector_norm(rest, dim=-1) <= tol).all()):
                return found
            found = found + inverse(rest)
        raise PropagatorError(f"{name} is too long for its inverse to be found from the step back in time")

    def slope(self, t: float, y: Tensor, n: int) -> Checked:
        """Return dy/dt around (t, y), within step n: its Jacobian is A = ∂(dy/dt)/∂y."""
        return Checked(lambda y: self.steps.slope(t, y, n), y, self.layout, f"the field at t = {t:.6g}")

    def asymmetry(self, nodes: Sequence[int], matrices: bool) -> float:
        """Return the largest ‖K - Kᵀ‖ / ‖K‖ for K = ∂m'/∂h at the nodes, or of products with it; 0 for K = 0."""
        half = self.size // 2
        v = torch.randn(4, 1, half, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        v = v.expand(-1, self.samples, -1)
        zero, found = torch.zeros_like(v), 0.0
        for n in nodes:
            if n < self.count:
                slope = self.slope(self.times[n], self.steps.state(n), n)
                if matrices:  # forming them takes no second derivative of the field
                    k = slope.matrix()[:, half:, :half]
                    right, left = k.flatten(1), k.mT.flatten(1)
                else:
                    right = slope.push(torch.cat((v, zero), -1))[..., half:]
                    left = slope.pull(torch.cat((zero, v), -1))[..., :half]
                found = max(found, asymmetry(right, left))
        return found

    def _name(self, n: int) -> str:
        return f"the step from t = {self.times[n]:.6g}"
