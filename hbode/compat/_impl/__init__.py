"""What public programs import from the inner modules of torchdiffeq, under the same names.

Its modules import by full names: they also serve where `hbode.compat` stands in for torchdiffeq in `sys.modules`.
"""

from . import adjoint
from .odeint import SOLVERS, odeint, odeint_dense, odeint_event

odeint_adjoint = adjoint.odeint_adjoint

__all__ = ["SOLVERS", "adjoint", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
