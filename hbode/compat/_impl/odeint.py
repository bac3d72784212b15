"""torchdiffeq._impl.odeint."""

from collections.abc import Mapping
from types import MappingProxyType

from hbode._compat.interface import odeint, odeint_dense, odeint_event
from hbode._compat.methods import NAMES

SOLVERS: Mapping[str, str] = MappingProxyType({name: name for name in NAMES})
"""The names of the methods, each for itself; torchdiffeq has its classes of solvers here."""

__all__ = ["SOLVERS", "odeint", "odeint_dense", "odeint_event"]
