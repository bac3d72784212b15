"""Gradients: ways to walk a tape. They know tapes and steps, not methods."""

from .adjoint_equation.continuous_adjoint import ContinuousAdjoint
from .backprop import Backprop
from .discrete_adjoint import DiscreteAdjoint
from .problem import Compilation, Explicit, Gradient, Problem, Solved
from .reversible import Reversible

GRADIENTS: dict[str, type[Gradient]] = {
    "discrete_adjoint": DiscreteAdjoint,
    "continuous_adjoint": ContinuousAdjoint,
    "reversible": Reversible,
    "backprop": Backprop,
}
"""Gradient modes by name; the settings of a mode are the fields of its class."""

__all__ = [
    "GRADIENTS",
    "Backprop",
    "Compilation",
    "ContinuousAdjoint",
    "DiscreteAdjoint",
    "Explicit",
    "Gradient",
    "Problem",
    "Reversible",
    "Solved",
]

INTERNAL = {"Compilation"}
"""Names that other rooms of hbode use, and that are no part of what users may rely on."""
