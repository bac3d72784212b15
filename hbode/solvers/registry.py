"""The methods by name."""

from __future__ import annotations

from functools import cache

from .implicit import Collocation, Dirk, Settings
from .implicit.bdf import BDF
from .implicit.crank_nicolson import CrankNicolson
from .implicit.imex import Imex
from .implicit.multistage import Multistage
from .implicit.tables import COLLOCATION, DIRK, IMEX
from .method import Method, Uniform
from .methods.adams import Adams
from .methods.explicit.butcher_tables import BUTCHER
from .methods.explicit.chebyshev import Chebyshev
from .methods.explicit.nystrom import Nystrom
from .methods.explicit.nystrom_tables import NYSTROM
from .methods.explicit.short_runge_kutta import runge_kutta
from .methods.explicit.tableau import ButcherTableau, NystromTableau
from .methods.symplectic import LEAPFROG, YOSHIDA4
from .methods.wrappers.auto import Auto

_RUNGE_KUTTA = {name: runge_kutta(tableau) for name, tableau in BUTCHER.items()}
_NYSTROM = {name: Nystrom(tableau) for name, tableau in NYSTROM.items()}
METHODS: dict[str, Method] = {
    **_RUNGE_KUTTA,
    **_NYSTROM,
    "leapfrog": LEAPFROG,
    "yoshida4": YOSHIDA4,
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(implicit=True),
    "prox_euler": BDF(highest=1),
    "prox_cn": CrankNicolson(),
    **{f"prox_bdf{q}": BDF(highest=q, starter=DIRK["kvaerno3"]) for q in (2, 3, 4)},
    "prox_multistage3": Multistage(),
    **{name: Dirk(tableau=tableau) for name, tableau in DIRK.items()},
    **{name: Collocation(tableau=tableau) for name, tableau in COLLOCATION.items()},
    **{name: Imex(tableau=tableau) for name, tableau in IMEX.items()},
    "rkc": Chebyshev(),
    "auto": Auto(_RUNGE_KUTTA["dopri5"], Dirk(tableau=DIRK["esdirk4"])),
}
"""One entry a method; an entry may be used in any number of solves at once."""


def switching(reduced: bool, settings: Settings) -> Auto:
    """Return the switching method for a system: `reduced` says that it is damped, with h' = m."""
    explicit = _NYSTROM["dprkn6"] if reduced else _RUNGE_KUTTA["dopri5"]
    return Auto(explicit, Dirk(settings, tableau=DIRK["esdirk4"]))


@cache
def _from_tableau(tableau: ButcherTableau | NystromTableau) -> Method:
    """Return the method of a tableau, the same for the same one: compiled code belongs to a method."""
    return Nystrom(tableau) if isinstance(tableau, NystromTableau) else runge_kutta(tableau)


def as_method(method: str | ButcherTableau | NystromTableau | Method) -> Method:
    """Return a method by its name, of a tableau, or as it is.

    Raises
    ------
    ValueError, TypeError
        For a name that is not there, for what is no method, and for one that does not say its order.

    Examples
    --------
    >>> from hbode.solvers import as_method
    >>> as_method("dopri5")
    RungeKutta(order=5, stages=6)
    """
    if isinstance(method, str):
        if method not in METHODS:
            names = ", ".join(METHODS)
            raise ValueError(f"method must be one of {names}, scipy:<method> or torchdiffeq:<method>; got {method!r}")
        return METHODS[method]
    if isinstance(method, ButcherTableau | NystromTableau):
        return _from_tableau(method)
    if not isinstance(method, Method):
        what = f"the class {method!r}" if isinstance(method, type) else f"a {type(method).__name__}"
        raise TypeError(f"method must be a name, a tableau or an instance of hbode.solvers.Method; got {what}")
    declared = ("order", "evaluations") if isinstance(method, Uniform) else ("order",)
    if missing := [name for name in declared if not hasattr(method, name)]:
        raise TypeError(f"method must have {' and '.join(missing)}; got a {type(method).__name__} without")
    return method
