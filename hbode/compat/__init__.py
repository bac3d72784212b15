"""torchdiffeq's interface on our solvers: ``import hbode.compat as torchdiffeq``.

Signatures, methods, options, callbacks and checks are those of torchdiffeq 0.2.5 (Chen et al., NeurIPS 2018; Chen,
Amos, Nickel, ICLR 2021). What differs:

- An adaptive solve ends its last step on the last time, and does not evaluate func beyond it. States between steps
  come from the interpolant of the method, whose error is that of the method.
- A step ends with an evaluation of func that the next one takes over, on a fixed grid too; the last one on a fixed
  grid leaves it out, unless perturb=False is given. Without that, and without events, func is called no more often
  than by torchdiffeq on the same grid.
- No method evaluates func beyond the last time: all nodes of all methods are inside their steps.
- Time is carried in float64, whatever `options['dtype']`.
- `odeint_adjoint` differentiates the steps that were taken, exactly. It solves an adjoint equation where an adjoint_
  argument says how, other than adjoint_options={"norm": "seminorm"}, and for scipy_solver.
- Adams methods know the true lengths of their steps. On equal steps explicit_adams agrees with torchdiffeq's to
  rounding, implicit_adams to the tolerance of its iteration.
- tsit5 is of later releases too. It goes on from the fifth-order solution, as in its paper, with the interpolant given
  there; torchdiffeq's goes on from the embedded one, of fourth order.
- The implicit methods are those of later releases: implicit_euler, implicit_midpoint, trapezoid, sdirk2, trbdf2,
  radauIIA3, radauIIA5, gl4, gl6. Their stages are solved by Newton's method without matrices, and their gradients come
  from the implicit function; one that does not converge within max_iters is an error.
- The time of an event is the zero itself, not within atol of it, and its gradient reaches what event_fn uses.
- `odeint_dense` takes tuples, any method but scipy_solver, decreasing time, and several times at once.
- Of the inner modules, `_impl.adjoint.find_parameters`, `_impl.odeint.SOLVERS`, the names of the methods, and the
  functions above are there; solvers of one's own are methods of `hbode.hbodeint`, and cannot be entered in SOLVERS.
- Arguments are checked before any work. The errors are ValueError or TypeError and AssertionError at once.
"""

from __future__ import annotations

from .._compat.interface import odeint, odeint_adjoint, odeint_dense, odeint_event
from .._compat.state import ArgumentError, ArgumentTypeError, SolveError
from . import _impl

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "SolveError",
    "_impl",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
]

__version__ = "0.2.5"
"""The release of torchdiffeq whose interface this is."""
