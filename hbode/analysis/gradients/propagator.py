"""The propagator of a solve: the Jacobians of its steps, applied to vectors from either side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...dense import DenseOutput
from ...solvers import MovingStart, Status
from ..linearised import Apply, Linearised, StateAxes

TerminalLoss = Callable[[Tensor, Tensor], Tensor]
"""``loss(h_T, m_T)``: one number from two tensors of the shape of h0; m_T is zero for a first-order system."""


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

    They belong to the discrete solution: y_{n+1} is what the method makes of the state y_n alone, all that it
    carries besides being a function of y_n. Φ(T, t_n) = J_{N-1} … J_n = ∂y(T)/∂y(t_n) is the propagator. A
    terminal event ends the last step where it happened.

    Parameters
    ----------
    dense
        The steps of a solve in which one step size served the batch, by a one-step method.
    second_order
        Whether the state is (h, m) stacked; the P components of a vector are then all of h and all of m.
    batched
        Whether the first axis of h holds samples that do not interact.

    Attributes
    ----------
    times
        The nodes t_0, …, t_N.
    count
        The number N of steps.
    """

    def __init__(self, dense: DenseOutput, second_order: bool, batched: bool) -> None:
        problem, tape = dense.problem, dense.solved.tape
        if isinstance(problem.method, MovingStart):
            raise PropagatorError(
                "sol must come from a solve without resets: a step after an event starts at a time that depends on the "
                "state, and has no propagator of its own"
            )
        given = problem.explicit.filled([x.detach().clone() for x in problem.explicit.present])
        self.method = problem.method
        self.field, _ = problem.bind(given)
        self.steps, self._interpolants = tape.steps, tape.interpolants
        self.count = len(self.steps)
        self.device, self.dtype = problem.y0.device, problem.y0.dtype
        self.layout = StateAxes(problem.y0.shape, (1 if second_order else 0) if batched else None)
        self.samples = self.layout.samples
        self.size = problem.y0.numel() // self.samples
        self.second_order = second_order
        self.times = [step.start.value for step in self.steps]
        clock = problem.clock
        if tape.outcomes[0].status is Status.EVENT:
            self.times.append(float(dense.solved.event_t[-1]))
        elif not clock.per_sample:
            self.times.append(float(clock.times[-1]))
        # A step is run again on the operations of autograd, in another order than without.
        self._rounding = torch.finfo(self.dtype).eps ** 0.5

    def state(self, n: int) -> Tensor:
        """Return y_n, n < N, as the solve recorded it."""
        carry = self.steps[n].carry
        if carry:
            return torch.as_tensor(carry[0]).detach()
        start = torch.zeros(1, dtype=torch.float64, device=self.device)
        return self.method.interpolate(self._interpolants[n], start)[0].detach()

    def step(self, n: int) -> Checked:
        """Return step n around y_n.

        Raises
        ------
        PropagatorError
            If it does not end on the recorded y_{n+1}: the field has changed since, is random, or the method
            carries more than the state.
        """
        start = self.state(n)
        linear = Checked(lambda y: self._advance(n, y), start, self.layout, self._name(n))
        if n + 1 < self.count:
            there, here = self.state(n + 1), linear.value.detach()
            size = torch.maximum(start.abs().max(), there.abs().max())
            if not bool((here - there).abs().max() <= self._rounding * size):
                raise PropagatorError(
                    f"{self._name(n)} must end on the recorded state when it is taken again from the state before, but "
                    "does not: has the field changed since the solve (weights, mode, autocast), is it random, or does "
                    "the method carry more than the state (Adams, or coupled for gradient='reversible')?"
                )
        return linear

    def step_back(self, n: int) -> Checked:
        """Return step n taken back in time from its end: its Jacobian is J_n⁻¹ up to the local error of a step."""
        with torch.no_grad():
            end = self.state(n + 1) if n + 1 < self.count else self.final()
        return Checked(lambda y: self._advance(n, y, back=True), end, self.layout, self._name(n))

    def final(self) -> Tensor:
        """Return y_N, the state at T."""
        with torch.no_grad():
            return self._advance(self.count - 1, self.state(self.count - 1)).detach()

    def loss_gradient(self, loss: TerminalLoss) -> Tensor:
        """Return ∂L/∂(h_T, m_T), or ∂L/∂h_T of a first-order system, for L = loss(h_T, m_T), shape (1, B, P)."""
        y = self.final().requires_grad_()
        with torch.enable_grad():
            value = loss(*y.unbind()) if self.second_order else loss(y, torch.zeros_like(y))
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return a tensor with one entry, got {got}")
        found = torch.autograd.grad(value, y, allow_unused=True)[0] if value.requires_grad else None
        if found is None:
            if self.second_order:
                raise ValueError("loss must depend on h_T or m_T, but has no gradient with respect to either")
            found = torch.zeros_like(y)  # a loss of m_T alone, which a first-order system does not have
        return self.layout.rows(found.unsqueeze(0)).double().cpu()

    def solve(self, n: int, vectors: Tensor, transposed: bool = False) -> Tensor:
        """Return J_n⁻¹, or its transpose, applied to vectors.

        The step taken back in time is an inverse up to the local error, and iterative refinement removes the rest.

        Raises
        ------
        PropagatorError
            If the refinement does not converge, which takes a local error near one.
        """
        step, back = self.step(n), self.step_back(n)
        product, inverse = (step.pull, back.pull) if transposed else (step.push, back.push)
        tol = torch.finfo(self.dtype).eps ** 0.75 * torch.linalg.vector_norm(vectors, dim=-1)
        found = inverse(vectors)
        for _ in range(20):
            rest = vectors - product(found)
            if bool((torch.linalg.vector_norm(rest, dim=-1) <= tol).all()):
                return found
            found = found + inverse(rest)
        raise PropagatorError(f"{self._name(n)} is too long for its inverse to be found from the step back in time")

    def slope(self, t: Tensor, y: Tensor, n: int | None = None) -> Tensor:
        """Return dy/dt at (t, y) as the solve saw it, within step n where the field is discontinuous in time."""
        field = self.field if n is None else self.field.within(self.steps[n].sides)
        field = field.at(t)
        return self.method.slope(field, self.method.start(field, t, y))

    def slope_at(self, t: float, y: Tensor, n: int) -> Checked:
        """Return `slope` around (t, y), within step n: its Jacobian is A = ∂(dy/dt)/∂y."""
        time = self._time(t)
        return Checked(lambda y: self.slope(time, y, n), y, self.layout, f"the field at t = {t:.6g}")

    def _advance(self, n: int, y: Tensor, back: bool = False) -> Tensor:
        start, end = self.times[n : n + 2]
        if back:
            start, end = end, start
        t, field = self._time(start), self.field.within(self.steps[n].sides)
        carry, _ = self.method.step(field, t, self._time(end - start), self.method.start(field, t, y))
        return carry[0]

    def _time(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def _name(self, n: int) -> str:
        return f"the step from t = {self.times[n]:.6g}"
