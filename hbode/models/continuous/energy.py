"""The energy balance of a solved system: what came in, what was lost, and what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...inputs import Input
from ...solution import Solution

POINTS = 5
"""Gauss points in a step; five are exact for the square of a quartic interpolant."""


class WithEnergy(Protocol):
    """A system whose energy is known, and the two powers that change it."""

    def energy(self, h: Tensor, m: Tensor) -> Tensor: ...
    def supplied(self, h: Tensor, m: Tensor, u: Tensor | None = None) -> Tensor: ...
    def dissipated(self, h: Tensor, m: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class EnergyBalance:
    """E(t) - E(0) = work - dissipated, at the times of a solution; all without graphs.

    Attributes
    ----------
    t
        (T,).
    change
        E(t) - E(0), (T, ...).
    work, dissipated
        ∫ mᵀG u dt and ∫ mᵀD m dt from the first time on, (T, ...).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import EnergyBalance
    >>> EnergyBalance(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(3)).work.shape
    torch.Size([3])
    """

    t: Tensor
    change: Tensor
    work: Tensor
    dissipated: Tensor

    @property
    def residual(self) -> Tensor:
        """By how much the balance does not close: the error of the solve, (T, ...)."""
        return self.change - self.work + self.dissipated

    def plot(self, ax: Axes | None = None, sample: int = 0) -> Figure:
        """Draw the balance of one sample over the time, and return the figure that it was drawn on."""
        figure = Figure(figsize=(9, 4), layout="constrained") if ax is None else ax.figure
        panel = figure.subplots() if ax is None else ax
        curves = {"work of the input": self.work, "dissipated": -self.dissipated, "change of the energy": self.change}
        looks = ("#0072B2", "dotted"), ("#D55E00", "dashed"), ("#000000", "solid")
        for (name, curve), (color, style) in zip(curves.items(), looks, strict=True):
            values = curve.reshape(len(self.t), -1)[:, sample]
            panel.plot(self.t.cpu(), values.cpu(), label=name, color=color, linestyle=style)
        worst = float(self.residual.abs().max())
        panel.set(xlabel="t", ylabel="energy", title=f"Energy balance, closed to {worst:.1e}")
        panel.legend()
        return cast(Figure, figure)


@torch.no_grad()
def energy_balance(system: WithEnergy, solution: Solution, inputs: Input | None) -> EnergyBalance:
    """Return the balance of a solution; powers are integrated over each step, between the knots of the input."""
    t = solution.t.detach().double()
    if solution.dense is None or t.ndim != 1:
        raise ValueError("solution must be made with dense=True, and with times (T,) that all samples share")
    if solution.updates is not None or any(event.after is not None for event in solution.events):
        raise ValueError("solution must be without updates and resets: they change the energy by themselves")
    h, m = cast(tuple[Tensor, Tensor], tuple(solution))
    t = t.to(h.device)
    first, last = torch.aminmax(t)
    steps = solution.stats.t
    ends = [t, steps.flatten().to(t), (steps + solution.stats.dt).flatten().to(t)]
    ends += [] if inputs is None else [inputs.times.flatten()]
    nodes = torch.cat(ends).unique()  # NaN, where a sample did not move, is outside
    nodes = nodes[(nodes >= first) & (nodes <= last)]
    x, w = (torch.from_numpy(a).to(t) for a in np.polynomial.legendre.leggauss(POINTS))
    lengths = nodes.diff().unsqueeze(-1)
    at = (nodes[:-1].unsqueeze(-1) + lengths * (x + 1) / 2).flatten()
    inner = cast(tuple[Tensor, Tensor], solution(at))
    u = None if inputs is None else inputs(at)
    if u is not None:
        u = u.reshape(len(at), *[1] * (h.ndim - u.ndim), *u.shape[1:])
    weights = (lengths * w / 2).flatten().to(h.dtype)
    place = torch.searchsorted(nodes, t)

    def integral(power: Tensor) -> Tensor:
        over = (power * weights.reshape(-1, *[1] * (power.ndim - 1))).unflatten(0, (-1, POINTS)).sum(1)
        total = torch.cat((torch.zeros_like(over[:1]), over.cumsum(0)))[place]
        return total - total[:1]

    energy = system.energy(h, m)
    work, lost = system.supplied(*inner, u), system.dissipated(*inner)
    return EnergyBalance(t, energy - energy[:1], integral(work), integral(lost))
