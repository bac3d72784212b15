"""Where the solution jumps, so does its adjoint: the updates of a solve, transposed, are those of its adjoint's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Carry, Field, Method, Updates
from ..changed import differs, refuse
from .transposed import Transposed


class Jump(NamedTuple):
    """Cotangents on both sides of update `which`, shape of y, and that of its time at fixed states, shape ()."""

    which: int
    before: Tensor
    after: Tensor
    t: Tensor


@dataclass(frozen=True)
class TransposedUpdates(Updates):
    """The updates of a solve as its adjoint meets them, last one first.

    For y⁺ = U(t, y⁻), the `apply` of both, and the cotangent z⁺ of y⁺, that of y⁻ is z⁻ = (∂U/∂y)ᵀ z⁺, and likewise
    for what else U depends on. The adjoint may start in between: the last updates of the solve are not among its own.

    Attributes
    ----------
    adjoint
        The method that the adjoint equation is solved by.
    before, after
        The states on both sides of each update of the solve, (K, *y), in its order.
    bars
        What the states after received as outputs, (K, *y).
    jumps
        What was found, for the gradients of times.
    """

    adjoint: Transposed
    before: Tensor
    after: Tensor
    bars: Tensor
    jumps: list[Jump] = field(default_factory=list)

    def restart(self, which: Tensor, method: Method, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry on the side before an update, from that on the side after it."""
        k, linear = self.count - 1 - int(which), self.adjoint.linear
        z, sums = self.adjoint.divided(carry)
        z, sums = z + self.bars[k], [x.clone() for x in sums]
        with torch.enable_grad():
            y, at = (x.detach().to(z.device).requires_grad_() for x in (self.before[k], t))
            value = linear.guard.run(
                lambda: self.apply(torch.tensor(k, device=z.device), at, y), lambda value: [value], (y, at)
            )
        if bool(differs(value.detach(), self.before[k], self.after[k])):
            refuse(f"the update at t = {float(t):.6g} gives another state")
        to_y, to_t = linear.products(value, (y, at), z, sums)
        self.jumps.append(Jump(k, to_y, z, to_t))
        return self.adjoint.resume(field, t, self.adjoint.join(to_y, sums))
