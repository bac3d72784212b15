"""The field's Jacobian along a solution, known by its products from the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Field
from ..captured import Guard


class Evaluation(NamedTuple):
    """The field at one point of the solution, with a graph back to `point`: h of a damped system, else y."""

    state: Tensor
    point: Tensor
    value: Tensor


class Linearisation:
    """Products of cotangents with the Jacobians of a field, with respect to its state and what else is wanted.

    Only f goes through autograd: what γ, ξ and σ contribute is written out (reference: Xia et al. 2021, section 3).

    Parameters
    ----------
    field
        The field; in its damped form, `damped`, if the system has one.
    coefficients
        γ and ξ with their gradients wanted, or None: shape () or as many axes as h. Unused without `damped`.
    wanted
        The other tensors whose gradients are wanted.
    guard
        What the field is run by.
    """

    def __init__(
        self,
        field: Field,
        damped: bool,
        coefficients: Sequence[Tensor | None],
        wanted: Sequence[Tensor],
        guard: Guard,
    ) -> None:
        self.field, self.damped = field, damped
        self.coefficients = [x if damped and x is not None and x.requires_grad else None for x in coefficients]
        self.wanted = list(wanted)
        self.guard = guard

    def evaluate(self, field: Field, t: Tensor, y: Tensor) -> Evaluation:
        """Evaluate the field, as it is seen there, at a time, shape (), and a state."""
        with torch.enable_grad():
            point = (y[0] if self.damped else y).detach().requires_grad_()
            value = self.guard.run(lambda: field(t, point), lambda value: [value], (point,))
        return Evaluation(y, point, value)

    def zeros(self) -> list[Tensor]:
        """Return zeros for γ, ξ (if wanted) and the other tensors."""
        return [torch.zeros_like(x) for x in (*self.coefficients, *self.wanted) if x is not None]

    def force(self, at: Evaluation, bar: Tensor, sums: list[Tensor] | None) -> Tensor:
        """Return the product of a cotangent of the force, or of a field that is not damped, with ∂f/∂(its state).

        Where `sums` are given, as `zeros` returns them, what the wanted tensors receive is added to them in place.
        """
        (product,) = self.products(at.value, [at.point], bar, sums)
        if sums is not None:
            rates = [
                -(factor.conj() * bar).real.sum_to_size(coefficient.shape)
                for coefficient, factor in zip(self.coefficients, at.state.flip(0) if self.damped else (), strict=False)
                if coefficient is not None
            ]  # f - γ m - ξ h: the coefficients γ, ξ go with m, h
            _add(sums, rates)
        return product

    def products(self, value: Tensor, points: Sequence[Tensor], bar: Tensor, sums: list[Tensor] | None) -> list[Tensor]:
        """Return the products of a cotangent of a value with its derivatives by the points (and see `force`)."""
        wanted = self.wanted if sums is not None else []
        found: Sequence[Tensor | None] = [None] * (len(points) + len(wanted))
        if value.requires_grad:
            found = torch.autograd.grad(value, [*points, *wanted], bar, allow_unused=True, retain_graph=True)
        if sums is not None:
            _add(sums[len(sums) - len(wanted) :], found[len(points) :])
        return [torch.zeros_like(x) if to_x is None else to_x for x, to_x in zip(points, found, strict=False)]

    def first_order(self, at: Evaluation, bar: Tensor, sums: list[Tensor] | None) -> Tensor:
        """Return the product of a cotangent of dy/dt with the Jacobian of the first-order form, shape of y.

        For a damped system, with cotangents (a, p) of (h', m') stacked: (p ∂f/∂h - ξ p, a ⊙ σ'(m) - γ p).
        """
        if not self.damped:
            return self.force(at, bar, sums)
        a, p = bar.unbind()
        damping, sigma = self.field.damping, self.field.sigma
        to_h = self.force(at, p, sums)
        if damping.xi_h is not None:
            to_h = torch.addcmul(to_h, damping.xi_h.detach(), p, value=-1)
        if sigma is not None:
            with torch.enable_grad():
                m = at.state[1].detach().requires_grad_()
                (a,) = torch.autograd.grad(sigma(m), m, a)
        return torch.stack((to_h, torch.addcmul(a, damping.gamma_h.detach(), p, value=-1)))


def _add(sums: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
    """Add what was found to the first of the sums, in place."""
    hits = [(total, x) for total, x in zip(sums, found, strict=False) if x is not None]
    if hits:
        torch._foreach_add_([total for total, _ in hits], [x.to(total.dtype) for total, x in hits])
