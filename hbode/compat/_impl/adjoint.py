"""torchdiffeq._impl.adjoint."""

from hbode._compat.adjoint_arguments import find_parameters
from hbode._compat.interface import odeint_adjoint

__all__ = ["find_parameters", "odeint_adjoint"]
