"""Fields and systems in continuous time that carry structure."""

from .energy import EnergyBalance
from .fields import DrivenField, InputGain, PotentialField, Sum
from .oscillators import LinearOscillators
from .port_hamiltonian import DampingMatrix, PortHamiltonian
from .potentials import NetworkPotential, PolynomialPotential, Potential, SplinePotential

__all__ = [
    "DampingMatrix",
    "DrivenField",
    "EnergyBalance",
    "InputGain",
    "LinearOscillators",
    "NetworkPotential",
    "PolynomialPotential",
    "PortHamiltonian",
    "Potential",
    "PotentialField",
    "SplinePotential",
    "Sum",
]
