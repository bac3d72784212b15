"""Gradients: ways to walk a tape. They know tapes and steps, not methods."""

from .backprop import backprop
from .discrete_adjoint import discrete_adjoint
from .problem import Problem, Solved

GRADIENTS = {"discrete_adjoint": discrete_adjoint, "backprop": backprop}
"""Gradient modes by name."""

__all__ = ["GRADIENTS", "Problem", "Solved", "backprop", "discrete_adjoint"]
