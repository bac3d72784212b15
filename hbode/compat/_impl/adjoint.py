"""torchdiffeq._impl.adjoint."""

from hbode._compat.interface import find_parameters, odeint_adjoint

__all__ = ["find_parameters", "odeint_adjoint"]
