"""Gradients: ways to walk a tape. They know tapes and steps, not methods."""

from .backprop import Backprop
from .discrete_adjoint import DiscreteAdjoint
from .problem import Gradient, Problem, Solved
from .reversible import Reversible

GRADIENTS: dict[str, type[Gradient]] = {
    "discrete_adjoint": DiscreteAdjoint,
    "reversible": Reversible,
    "backprop": Backprop,
}
"""Gradient modes by name; the settings of a mode are the fields of its class."""

__all__ = ["GRADIENTS", "Backprop", "DiscreteAdjoint", "Gradient", "Problem", "Reversible", "Solved"]
