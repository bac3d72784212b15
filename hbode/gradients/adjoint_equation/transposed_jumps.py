"""Where the solution jumps, so does its adjoint: the jumps of a solve, transposed, are the updates of its adjoint's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers import Carry, Field, Method, Updates
from ..changed import differs, refuse
from .jumps import Jump
from .time_gradients import Slopes, along_slope, inverse, just_before, rate_along
from .transposed import Transposed


def _in_groups(*_: Any) -> Any:
    raise NotImplementedError("the jumps of an adjoint say themselves what they change, see `restart`")


@dataclass(frozen=True, kw_only=True)
class TransposedJumps(Updates):
    """The jumps of a solve as its adjoint meets them, last one first, those at one time together.

    For y⁺ = R(t, y⁻) and the cotangent z⁺ of y⁺, that of y⁻ is z⁻ = (∂R/∂y)ᵀ z⁺, and likewise for what else R depends
    on. With F the slopes on both sides, the time of the jump receives τ = z⁺ᵀ(∂R/∂y F⁻ + ∂R/∂t - F⁺). If it is the zero
    of an event function e, whose rate on the way to it is ė = ∂e/∂t + ∂e/∂yᵀ F⁻, then e receives -τ / ė, and its share
    of that y⁻, and what else e depends on: z⁻ is what the transpose of the saltation matrix makes of z⁺. Where ė = 0,
    as of a function that steps, no gradient passes through the time.

    Attributes
    ----------
    adjoint
        The method that the adjoint equation is solved by.
    groups
        The jumps at each of the times, in the order of the solve, with what the states after them received as outputs.
    slopes
        The slopes of the solution.
    times_bar
        What requested times receive as those of updates, (T,), is added to it; None: it is not wanted.
    """

    fn: Callable[..., Tensor] = field(default=_in_groups, init=False)
    data: Callable[..., Any] = field(default=_in_groups, init=False)
    adjoint: Transposed
    groups: Sequence[Sequence[tuple[Jump, Tensor]]]
    slopes: Slopes
    times_bar: Tensor | None

    def restart(self, which: Tensor, method: Method, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry on the side before the jumps at a time, from that on the side after them."""
        z, sums = self.adjoint.divided(carry)
        sums = [x.clone() for x in sums]
        for jump, bar in reversed(self.groups[int(which)]):
            z = self._pull(jump, z + bar, sums)
        return self.adjoint.resume(field, t, self.adjoint.join(z, sums))

    def _pull(self, jump: Jump, z: Tensor, sums: list[Tensor]) -> Tensor:
        """Return the cotangent of the state before a jump; what the wanted tensors receive is added to `sums`."""
        linear, crossing = self.adjoint.linear, jump.crossing
        at = torch.tensor(jump.t, dtype=torch.float64, device=z.device)
        value, points = self._with_graph(jump.change, at, jump.before)
        if bool(differs(value.detach(), jump.before, jump.after)):
            refuse(f"the {'update' if crossing is None else 'reset'} at t = {jump.t:.6g} gives another state")
        to_t, to_y = linear.products(value, points, z, sums)
        if crossing is None and self.times_bar is None:
            return to_y
        before, after = self.slopes.before(at, jump.before), self.slopes.after(at, jump.after)
        t_bar = to_t + along_slope(to_y, before) - along_slope(z, after)
        if crossing is None:
            if self.times_bar is not None:
                self.times_bar[jump.anchor] += t_bar
            return to_y
        where = just_before(at, jump.before, before, self.slopes.sign)
        value, points = self._with_graph(crossing.fn, *where)
        value_bar = -t_bar * inverse(rate_along(crossing, *where, before))
        _, through = linear.products(value, points, value_bar.to(value), sums)
        return to_y + through

    def _with_graph(
        self, fn: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return what a function of time and state gives, with a graph back to these, which come with it."""
        points = t.detach().requires_grad_(), y.detach().requires_grad_()
        with torch.enable_grad():
            return self.adjoint.linear.guard.run(lambda: fn(*points), lambda value: [value], points), points
