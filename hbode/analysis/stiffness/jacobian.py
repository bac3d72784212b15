"""The Jacobian of a system's right-hand side along a trajectory, as matrices or as products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...setup.arguments import as_coefficient
from ...systems import System
from ..linearised import Apply, Linearised, StateAxes, of_channels

CPU_ENTRIES = 2**20
"""Entries of the matrices that are formed at once on a CPU: as many as stay in its cache with what makes them."""
GPU_SHARE = 64
"""On a GPU, one entry for so many that would fit into its free memory."""


class Blocks(NamedTuple):
    """Jacobians of a number of states, (S, ...) each.

    For a damped system, h' = σ(m), m' = -γ m + f(t, h) - ξ h, with γ and ξ that are constant: `force` is ∂f/∂h - ξ,
    (S, N, N), `slope` is σ'(m), (S, N), or None for σ = id, and `gamma` is γ, shape () or (N,). For any other, `force`
    is the whole of ∂(dy/dt)/∂y, (S, P, P), and `gamma` is None.
    """

    force: Tensor
    slope: Tensor | None
    gamma: Tensor | None

    def first_order(self) -> Tensor:
        """Return the Jacobian of the first-order form, (S, P, P)."""
        if self.gamma is None:
            return self.force
        count, n, _ = self.force.shape
        eye = torch.eye(n, dtype=self.force.dtype, device=self.force.device)
        upper = eye.expand(count, -1, -1) if self.slope is None else torch.diag_embed(self.slope)
        damping = (-self.gamma * eye).expand(count, -1, -1)
        return torch.cat((torch.cat((torch.zeros_like(upper), upper), 2), torch.cat((self.force, damping), 2)), 1)


@dataclass(frozen=True)
class SystemStates:
    """A system at states along a trajectory.

    Attributes
    ----------
    system, args
        The right-hand side, and further arguments of its f.
    t
        Times, float64, (T,), or (T, B) where every sample has its own.
    y
        States h, (T, *h0), or (h, m) stacked, (T, 2, *h0).
    batched
        Whether the first axis of h0 holds samples that do not interact.
    """

    system: System
    args: tuple[Any, ...]
    t: Tensor
    y: Tensor
    batched: bool

    @property
    def samples(self) -> int:
        """Samples B of a state; one where there is no batch axis."""
        return self.layout.samples

    @property
    def size(self) -> int:
        """Entries P of the first-order state of a sample."""
        return self.layout.size

    @property
    def layout(self) -> StateAxes:
        """Where the samples of a state are."""
        return StateAxes(self.y.shape[1:], (1 if self.system.second_order else 0) if self.batched else None)

    @property
    def force_layout(self) -> StateAxes:
        """Where the samples of the position of a second-order system are."""
        return StateAxes(self.y.shape[2:], 0 if self.batched else None)

    @property
    def damped(self) -> bool:
        """Whether the system is damped linearly, with the same γ and ξ at all times."""
        return self.system.damped and self.system.varying == (None, None)

    def _times(self) -> Tensor:
        """Return times as f receives them: (T,), or (T, B, 1, …) against h."""
        t = self.t.to(self.y.dtype)
        h_axes = self.y.ndim - (2 if self.system.second_order else 1)
        return t if t.ndim == 1 else t.reshape(*t.shape, *[1] * (h_axes - 1))

    def linearised(self, n: int) -> Linearised:
        """Return the right-hand side of the first-order form around state n, for products with its Jacobian."""
        return Linearised(partial(self._slope, self._times()[n]), self.y[n], self.layout)

    def linearised_force(self, n: int) -> Linearised:
        """Return f(t, h) of a damped system around state n."""
        return Linearised(partial(self._force, self._times()[n]), self.y[n, 0], self.force_layout)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Return γ and ξ of a damped system, as `of_channels` does."""
        gamma, xi = self._coefficients()
        h = self.y[0, 0]
        return of_channels("gamma", gamma, h, self.samples), of_channels("xi", xi, h, self.samples)

    def activation_slope(self, n: int | slice) -> Tensor | None:
        """Return σ'(m) of states n as rows, (…, B, N); None for σ = id."""
        sigma = self.system.activation
        if sigma is None:
            return None
        with torch.enable_grad():
            m = self.y[n, 1].detach().clone().requires_grad_()
            slope = torch.autograd.grad(sigma(m).sum(), m)[0]
        lead = 1 if isinstance(n, slice) else 0
        return slope.reshape(*slope.shape[:lead], self.samples, -1)

    def chunks(self) -> Iterator[tuple[slice, Blocks]]:
        """Yield the Jacobians, some times after the other, (S, ...) with S the states of these times, times first."""
        damped = self.damped
        n = self.size // 2 if damped else self.size
        room = CPU_ENTRIES
        if self.y.is_cuda:
            room = torch.cuda.mem_get_info(self.y.device)[0] // (GPU_SHARE * self.y.element_size())
        each = max(self.samples * n * n, 1)
        length = max(room // each, 1)
        rows = max(min(n, room // max(self.samples * n, 1)), 1)  # of one time, where its matrices alone are too many
        gamma, xi = self.coefficients() if damped else (None, None)
        for start in range(0, len(self.y), length):
            part = slice(start, min(start + length, len(self.y)))
            force = self._matrices(part, rows).flatten(0, 1)
            slope = None
            if xi is not None:
                force = force - torch.diag_embed(xi.expand(n))
                slope = self.activation_slope(part)
                slope = None if slope is None else slope.flatten(0, 1)
            yield part, Blocks(force, slope, gamma)

    def _coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        h = self.y[0, 0] if self.system.second_order else self.y[0]
        gamma, xi = (None if c is None else as_coefficient(c.detach(), h) for c in self.system.coefficients(t))
        return (None if gamma is None else gamma.to(h.dtype)), (None if xi is None else xi.to(h.dtype))

    def _matrices(self, part: slice, rows: int) -> Tensor:
        """Return ∂f/∂h of a damped system, or ∂(dy/dt)/∂y of another, (T, B, n, n)."""
        damped = self.damped
        layout, y = (self.force_layout, self.y[part, 0]) if damped else (self.layout, self.y[part])
        try:
            return _by_vmap(self._force if damped else self._slope, self._times()[part], y, layout, rows)
        except RuntimeError:
            # Not every field can be vectorised over times: it may look at values, draw random numbers, or hold a custom
            # function. An error of the field itself comes again.
            at = self.linearised_force if damped else self.linearised
            return torch.stack([at(n).matrix() for n in range(part.start, part.stop)])

    def _force(self, t: Tensor, h: Tensor) -> Tensor:
        return self.system.force(t, h, *self.args)

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        gamma, xi = self._coefficients(t)
        return self.system.rhs(t, y, gamma, xi, *self.args)


def _by_vmap(
    value: Callable[[Tensor, Tensor], Tensor], times: Tensor, y: Tensor, layout: StateAxes, rows: int
) -> Tensor:
    """Return the Jacobians of value(t, y) at times (T,) and states (T, *shape) as matrices (T, B, P, P).

    A pull-back of each unit vector, the same for all samples and times, is a row of all matrices at once. The force has
    as many values as arguments, or fewer, so rows are the shorter way, and in reverse mode the field runs once.
    """
    y = y.detach()
    linear: tuple[Tensor, Apply] = torch.func.vjp(lambda y: torch.func.vmap(value)(times, y), y)[:2]
    out, pull = linear

    def row(unit: Tensor) -> Tensor:
        bar = layout.states(unit.expand(1, layout.samples, -1), out)[0]
        (found,) = pull(bar.expand(out.shape))
        return layout.rows(found)

    eye = torch.eye(layout.size, dtype=y.dtype, device=y.device)
    matrices: Tensor = torch.func.vmap(row, out_dims=2, chunk_size=rows)(eye)
    return matrices.detach()
