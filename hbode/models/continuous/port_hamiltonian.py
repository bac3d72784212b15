"""A port-Hamiltonian system: a generalised heavy ball whose energy balance can be read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...inputs import Input
from ...setup.arguments import check_at_least
from ...solution import Solution
from ...solvers.field import checked
from ...systems import System
from .energy import EnergyBalance, energy_balance
from .fields import PotentialField
from .networks import before_softplus, correction, lower_triangular, scaled_identity
from .potentials import Potential


class DampingMatrix(nn.Module):
    """D = L Lᵀ, positive definite: constant, or corrected by a network of (h, m).

    Parameters
    ----------
    size
        Channels D of h and m.
    gamma
        D at the start is about gamma times the identity, in 1/time.
    hidden
        Units of the one hidden layer; 0: D is constant. They are tanh, so that D is bounded far away.

    Examples
    --------
    >>> from hbode.models.continuous import DampingMatrix
    >>> damping = DampingMatrix(3, 0.1)
    """

    def __init__(self, size: int, gamma: float, hidden: int = 0) -> None:
        super().__init__()
        self.constant = nn.Parameter(scaled_identity(size, gamma**0.5))
        self.network = correction([2 * size, hidden, size * size]) if hidden else None

    def factor(self, h: Tensor, m: Tensor) -> Tensor:
        """Return L at states (..., D), shape (..., D, D), or (D, D) where it is constant."""
        raw: Tensor = self.constant
        if self.network is not None:
            raw = raw + self.network(torch.cat((h, m), -1)).unflatten(-1, raw.shape)
        return lower_triangular(raw)

    def forward(self, h: Tensor, m: Tensor) -> Tensor:
        """Return D m, shape of m."""
        factor = self.factor(h, m)
        return (factor @ (factor.mT @ m.unsqueeze(-1))).squeeze(-1)


class PortHamiltonian(System):
    """h' = m, M m' = -∇V(h) - D m + G(h) u, with D positive definite and M diagonal, the identity by default.

    The energy E = ½ mᵀM m + V(h) changes by the power dE/dt = mᵀG u - mᵀD m: it never rises without input, whatever
    was learned (van der Schaft, Jeltsema, "Port-Hamiltonian Systems Theory", 2014).

    Parameters
    ----------
    potential
        V, of D channels.
    inputs
        Channels C of u; 0: no input.
    damping
        "matrix": D is a constant matrix. "network": it depends on h and m. "scalar": it is γ times the identity, which
        leapfrog and Nyström methods step exactly; those are for this one alone.
    gamma
        The damping at the start, positive, in 1/time: D is γ times the identity.
    hidden
        Hidden units of the network of D.
    gain_hidden
        Hidden units of a G that depends on h; 0: G is constant.
    masses
        Whether M is trained, relative to the mass of the first channel, which is one; not with "scalar" damping.

    Raises
    ------
    ValueError, TypeError
        For another `damping`, a γ that is not positive, sizes below 1, masses with "scalar"; see `PotentialField`.

    Examples
    --------
    >>> import torch
    >>> from hbode import LinearInput, hbodeint
    >>> from hbode.models.continuous import PolynomialPotential, PortHamiltonian
    >>> system = PortHamiltonian(PolynomialPotential(1, 4), inputs=1).double()
    >>> t = torch.linspace(0, 10, 101, dtype=torch.float64)
    >>> u = LinearInput(t, torch.sin(t).unsqueeze(-1))
    >>> sol = hbodeint(system, torch.zeros(1, dtype=torch.float64), t, inputs=u, rtol=1e-8, dense=True)
    >>> balance = system.energy_balance(sol, u)
    >>> bool(balance.residual.abs().max() < 1e-6)
    True
    """

    f: PotentialField

    def __init__(
        self,
        potential: Potential,
        inputs: int = 0,
        damping: str = "matrix",
        *,
        gamma: float = 0.1,
        hidden: int = 16,
        gain_hidden: int = 0,
        masses: bool = False,
    ) -> None:
        super().__init__(PotentialField(potential, inputs, gain_hidden))
        if damping not in ("scalar", "matrix", "network"):
            raise ValueError(f"damping must be 'scalar', 'matrix' or 'network', got {damping!r}")
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        check_at_least(hidden=hidden)
        self.damped = damping == "scalar"
        if masses and self.damped:
            raise ValueError("masses need damping='matrix' or 'network', got 'scalar'")
        self.log_masses = nn.Parameter(torch.zeros(potential.size - 1)) if masses else None
        if self.damped:
            self.raw_gamma = nn.Parameter(before_softplus(torch.tensor(float(gamma))))
        else:
            self.damping = DampingMatrix(potential.size, gamma, hidden if damping == "network" else 0)

    @property
    def masses(self) -> Tensor | None:
        """The diagonal of M, shape (D,), the first of them 1; None where all are."""
        return None if self.log_masses is None else F.pad(self.log_masses, (1, 0)).exp()

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        return (F.softplus(self.raw_gamma) if self.damped else None), None

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        h, m = y.unbind()
        friction = self.damping(h, m) if gamma is None else gamma * m
        force, masses = checked(self.f(t, h, *args), h) - friction, self.masses
        return torch.stack((m, force if masses is None else force / masses))

    def energy(self, h: Tensor, m: Tensor) -> Tensor:
        """Return E = ½ mᵀM m + V(h) of states (..., D), shape (...), in units of h²/time²."""
        potential: Tensor = self.f.potential(h)
        masses = self.masses
        return (m.square() if masses is None else masses * m.square()).sum(-1) / 2 + potential

    def supplied(self, h: Tensor, m: Tensor, u: Tensor | None = None) -> Tensor:
        """Return the power that comes in, mᵀG(h) u, shape (...); zero where there is no input."""
        if (u is None) != (self.f.gain is None):
            raise ValueError(f"u must be {'None, there is no input' if u is not None else 'given'}")
        return m.new_zeros(m.shape[:-1]) if self.f.gain is None else (m * self.f.gain(h, u)).sum(-1)

    def friction(self, h: Tensor, m: Tensor) -> Tensor:
        """Return D m of states (..., D), shape of m."""
        gamma, _ = self.coefficients()
        out: Tensor = self.damping(h, m) if gamma is None else gamma * m
        return out

    def dissipated(self, h: Tensor, m: Tensor) -> Tensor:
        """Return the power that is lost, mᵀD m, shape (...); never negative."""
        return (m * self.friction(h, m)).sum(-1)

    def power(self, h: Tensor, m: Tensor, u: Tensor | None = None) -> Tensor:
        """Return dE/dt = mᵀG(h) u - mᵀD m of states (..., D) and an input (..., C), shape (...)."""
        return self.supplied(h, m, u) - self.dissipated(h, m)

    def energy_balance(self, solution: Solution, inputs: Input | None = None) -> EnergyBalance:
        """Return E(t) - E(0) at the times of a solution, beside the work done and the energy dissipated.

        Parameters
        ----------
        solution
            Of this system, with times shared by all samples, made with ``dense=True``.
        inputs
            The input that it was made with.

        Raises
        ------
        ValueError
            For a solution without dense output, with times per sample, or with updates or resets, which change the
            energy by themselves.
        """
        return energy_balance(self, solution, inputs)
