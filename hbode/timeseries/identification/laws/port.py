"""The law of ``model="port"``: a port-Hamiltonian system of the outputs, its start, and what it says of energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....integrate import hbodeint
from ....models.continuous import (
    EnergyBalance,
    NeuralStateSpace,
    PolynomialPotential,
    PortHamiltonian,
    PositionReadout,
    Potential,
)
from ....models.continuous.networks import before_softplus
from ...records import Array, Scaling
from ..runs.initial_states import estimate
from ..runs.stretches import Stretches

CORRECTED = ("potential", "damping", "gain")
"""What a network can correct."""
LEAST_DAMPING = 1e-3
"""The least eigenvalue of D at the start, in 1/τ: the rates of the data are about one there."""
LIGHTEST = 1e-2
"""The least ratio of two masses at the start."""
ACCURACY = 1e-6
"""The relative tolerance of the solves whose energy is balanced."""


class CorrectedPotential(Potential):
    """V(h) = Σ_α c_α h^α + w · log cosh(B h + b): a polynomial, and a network that corrects it.

    Its force -Bᵀ(w ⊙ tanh(B h + b)) is bounded: far from the data the law goes on as its polynomial.

    Parameters
    ----------
    size, degree
        Channels D, and the degree of the polynomial.
    hidden
        Units of the network; 0: none.
    """

    def __init__(self, size: int, degree: int, hidden: int) -> None:
        super().__init__(size)
        self.polynomial = PolynomialPotential(size, degree)
        self.inner = nn.Linear(size, hidden) if hidden else None
        self.outer = nn.Parameter(0.1 * torch.randn(hidden)) if hidden else None

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = self.polynomial(h)
        if self.inner is None or self.outer is None:
            return value
        x: Tensor = self.inner(h).abs()
        return value + (x + torch.log1p(torch.exp(-2 * x)) - math.log(2)) @ self.outer

    def gradient(self, h: Tensor) -> Tensor:
        force: Tensor = self.polynomial.gradient(h)
        if self.inner is None or self.outer is None:
            return force
        return force + (torch.tanh(self.inner(h)) * self.outer) @ self.inner.weight


def port_system(
    size: int, inputs: int, degree: int, hidden: int, corrected: Sequence[str], masses: bool
) -> PortHamiltonian:
    """Return an untrained system; one channel with constant damping is a heavy ball, which leapfrog can step.

    Parameters
    ----------
    size, inputs
        Channels of h and of u.
    degree
        Of the force: the potential has one more.
    hidden, corrected
        Units of each of the networks, and what they correct, among `CORRECTED`.
    masses
        Whether the channels have masses of their own.
    """
    units = {part: hidden * (part in corrected) for part in CORRECTED}
    constant = "scalar" if size == 1 else "matrix"
    return PortHamiltonian(
        CorrectedPotential(size, degree + 1, units["potential"]),
        inputs,
        "network" if units["damping"] else constant,
        gamma=0.2,
        hidden=max(units["damping"], 1),
        gain_hidden=units["gain"],
        masses=masses and size > 1,
    )


@torch.no_grad()
def linear_start(model: NeuralStateSpace, y: Tensor, slopes: Tensor, curvatures: Tensor, u: Tensor) -> None:
    """Set V, D, G and the masses by linear least squares on smoothed derivatives, all (N, C); networks stay.

    With the masses given, the law is linear in all else, D among symmetric matrices; what D has of eigenvalues below
    `LEAST_DAMPING` is then raised to it. The masses are those that make the matrices of a linear law without structure
    symmetric, M K and M D, as nearly as can be.
    """
    system: Any = model.system
    d = system.f.potential.size
    if y.shape[1] != d:
        return
    polynomial = system.f.potential.polynomial
    masses = y.new_ones(d)
    if system.log_masses is not None:
        masses = _symmetrising(y, slopes, curvatures, u)
        system.log_masses.copy_(masses[1:].log())
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    damping = y.new_zeros(len(y), d, len(pairs))
    for k, (i, j) in enumerate(pairs):
        damping[:, i, k] -= slopes[:, j]
        if i != j:
            damping[:, j, k] -= slopes[:, i]
    gain = torch.einsum("nc,ij->nijc", u, torch.eye(d, dtype=y.dtype)).flatten(2)
    features = torch.cat((-polynomial.gradients(y), damping, gain), 2) / masses.view(-1, 1)
    target = curvatures.reshape(-1, 1)
    found = torch.linalg.lstsq(features.flatten(0, 1), target, driver="gelsd").solution[:, 0]
    count = len(polynomial.coefficients)
    polynomial.coefficients.copy_(found[:count])
    matrix = y.new_zeros(d, d)
    for (i, j), value in zip(pairs, found[count:], strict=False):
        matrix[i, j] = matrix[j, i] = value
    _set_damping(system, matrix)
    system.f.gain.constant.weight.copy_(found[count + len(pairs) :].view(d, -1))


@torch.no_grad()
def random_start(model: NeuralStateSpace) -> None:
    """Set V, D and G at random: uncoupled and stable, with rates around one in the unit of time."""
    system: Any = model.system
    polynomial = system.f.potential.polynomial
    rates = torch.exp(torch.empty(polynomial.size).uniform_(-1.5, 0.7)).double()
    squares = {(i, i): 0.5 * float(rate) ** 2 for i, rate in enumerate(rates)}
    polynomial.coefficients.copy_(torch.tensor([squares.get(monomial, 0.0) for monomial in polynomial.monomials]))
    _set_damping(system, torch.diag(2 * rates * torch.empty_like(rates).uniform_(0.05, 0.7)))
    system.f.gain.constant.weight.normal_(0.0, 0.3)


def _symmetrising(y: Tensor, slopes: Tensor, curvatures: Tensor, u: Tensor) -> Tensor:
    """Return masses (D,), the first 1, with m_i a_ij = m_j a_ji for the matrices of a law without structure."""
    d = y.shape[1]
    features = torch.cat((y, slopes, u, torch.ones_like(y[:, :1]), y**2, y**3), 1)
    found = torch.linalg.lstsq(features, curvatures, driver="gelsd").solution
    rows = []
    for a in (found[:d].T, found[d : 2 * d].T):
        for i in range(d):
            for j in range(i + 1, d):
                row = y.new_zeros(d)
                row[i], row[j] = a[i, j], -a[j, i]
                rows.append(row)
    masses = torch.linalg.svd(torch.stack(rows)).Vh[-1]
    masses = masses / masses[0]
    usable = bool(masses.isfinite().all()) and float(masses.min()) > LIGHTEST and float(masses.max()) < 1 / LIGHTEST
    return masses if usable else torch.ones_like(masses)


def _set_damping(system: Any, matrix: Tensor) -> None:
    """Set the constant part of D to the nearest matrix whose eigenvalues are at least `LEAST_DAMPING`."""
    values, vectors = torch.linalg.eigh(matrix)
    near = (vectors * values.clamp(min=LEAST_DAMPING)) @ vectors.T
    if system.damped:
        system.raw_gamma.copy_(before_softplus(near[0, 0]))
        return
    factor = torch.linalg.cholesky(near)
    system.damping.constant.copy_(factor.tril(-1) + torch.diag(before_softplus(factor.diagonal())))


@dataclass(frozen=True, eq=False)
class EnergyLaw:
    """M y'' = -∇V(y) - D y' + G u in physical units, energies for a unit mass of the first output.

    Attributes
    ----------
    masses
        The diagonal of M, (Cy,), relative to the mass of the first output, times (unit of the first / own unit)².
    stiffness, damping
        ∇²V and D, (Cy, Cy), and
    gain
        G, (Cy, Cu), all at rest with the inputs at their mean.
    potentials
        V along each output, the others at rest, at the positions of the curve of this output; 0 at rest.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries.identification import EnergyLaw
    >>> EnergyLaw(np.eye(2), np.eye(2), np.zeros((2, 2)), np.ones((2, 1)), ()).masses.shape
    (2, 2)
    """

    masses: Array
    stiffness: Array
    damping: Array
    gain: Array
    potentials: tuple[Array, ...]

    def lines(self, names: Sequence[str], unit: str) -> list[str]:
        """Return what `print` shows."""
        if len(names) == 1:
            return [f"damping {self.damping[0, 0]:.4g} 1/{unit}"]
        shown = [f"mass of {name}: {x:.4g}" for name, x in zip(names, self.masses, strict=True)]
        for title, matrix in ((f"stiffness (1/{unit}^2)", self.stiffness), (f"damping (1/{unit})", self.damping)):
            shown += [f"{title}, for a unit mass of {names[0]}:"]
            shown += ["  " + "  ".join(f"{x:11.4g}" for x in row) for row in matrix]
        return shown

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {name: [x.tolist() for x in value] for name, value in vars(self).items()}


def has_energy(model: NeuralStateSpace) -> bool:
    """Return whether a model is a port-Hamiltonian system of the outputs, so that its energy has a unit."""
    system, readout = model.system, model.readout
    seen = isinstance(readout, PositionReadout) and not readout.absolute and readout.outputs == model.size
    return isinstance(system, PortHamiltonian) and seen


def energy_law(model: NeuralStateSpace, scaling: Scaling, rest: Tensor, along: Sequence[Tensor]) -> EnergyLaw:
    """Return the law of a fitted model in physical units.

    Parameters
    ----------
    model
        A port-Hamiltonian system whose positions are the outputs.
    scaling
        Of the records.
    rest
        Where it rests, standardised, (Cy,).
    along
        States (N, Cy), standardised, for the potential along each output.
    """
    system: Any = model.system
    zero = torch.zeros_like(rest)
    no_input = rest.new_zeros(len(scaling.inputs.std))
    stiffness = torch.func.jacrev(system.f.potential.gradient)(rest)
    damping = torch.func.jacrev(lambda m: system.friction(rest, m))(zero)
    gain = torch.func.jacrev(lambda u: system.f.gain(rest, u))(no_input)
    masses = torch.ones_like(rest) if system.masses is None else system.masses
    s, tau, unit = scaling.outputs.std, scaling.time_unit, _unit_of_energy(scaling)
    per = unit / np.outer(s, s)
    with torch.no_grad():
        values = [system.f.potential(h) - system.f.potential(rest) for h in along]
    return EnergyLaw(
        masses.detach().numpy() * (s[0] / s) ** 2,
        stiffness.detach().numpy() * per,
        damping.detach().numpy() * per * tau,
        gain.detach().numpy() * unit / np.outer(s, scaling.inputs.std),
        tuple(unit * value.numpy() for value in values),
    )


def energy_balance(
    model: NeuralStateSpace, scaling: Scaling, given: Stretches, initial: int, begin: float
) -> EnergyBalance:
    """Return the balance of a simulation of one standardised stretch, in physical units, its times from `begin` on.

    The energy is that for a unit mass of the first output; work is done by the deviation of the inputs from their mean.
    """
    system: Any = model.system
    h0, m0 = estimate(model, given.first(initial)).unbind()
    with torch.no_grad():
        solution = hbodeint(
            system, h0, given.t, m0=m0, inputs=given.inputs, method="dopri5", rtol=ACCURACY, atol=ACCURACY, dense=True
        )
    made: EnergyBalance = system.energy_balance(solution, given.inputs)
    unit = _unit_of_energy(scaling)
    energies = {name: unit * getattr(made, name)[:, 0] for name in ("change", "work", "dissipated")}
    return replace(made, t=begin + made.t * scaling.time_unit, **energies)


def _unit_of_energy(scaling: Scaling) -> float:
    """Return (σ₁/τ)², the energy 1 of the standardised system, for a unit mass of the first output."""
    return float(scaling.outputs.std[0] / scaling.time_unit) ** 2
