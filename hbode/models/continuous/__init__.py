"""Fields and systems in continuous time that carry structure, and state-space models of driven systems."""

from .energy import EnergyBalance
from .fields import DrivenField, InputGain, PotentialField, Sum
from .fixed_steps import fixed_step_states
from .oscillators import LinearOscillators
from .port_hamiltonian import DampingMatrix, PortHamiltonian
from .potentials import NetworkPotential, PolynomialPotential, Potential, SplinePotential
from .sensitivities import Sensitivities, sensitivities, solve_all_steps
from .state_bank import StateBank
from .state_space import Limited, LinearReadout, NeuralStateSpace, PositionReadout, Simulation, StateEncoder

__all__ = [
    "DampingMatrix",
    "DrivenField",
    "EnergyBalance",
    "InputGain",
    "Limited",
    "LinearOscillators",
    "LinearReadout",
    "NetworkPotential",
    "NeuralStateSpace",
    "PolynomialPotential",
    "PortHamiltonian",
    "PositionReadout",
    "Potential",
    "PotentialField",
    "Sensitivities",
    "Simulation",
    "SplinePotential",
    "StateBank",
    "StateEncoder",
    "Sum",
    "fixed_step_states",
    "sensitivities",
    "solve_all_steps",
]
