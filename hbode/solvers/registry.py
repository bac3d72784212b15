"""The methods by name."""

from __future__ import annotations

from .adams import Adams
from .auto import Auto
from .butcher_tables import BUTCHER
from .implicit import IMPLICIT, Dirk, Implicit, Settings
from .implicit.tables import DIRK
from .method import Method
from .nystrom import Nystrom
from .nystrom_tables import NYSTROM
from .short_runge_kutta import runge_kutta
from .symplectic import LEAPFROG, YOSHIDA4

_RUNGE_KUTTA = {name: runge_kutta(tableau) for name, tableau in BUTCHER.items()}
_NYSTROM = {name: Nystrom(tableau) for name, tableau in NYSTROM.items()}
METHODS: dict[str, Method] = {
    **_RUNGE_KUTTA,
    **_NYSTROM,
    "leapfrog": LEAPFROG,
    "yoshida4": YOSHIDA4,
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(implicit=True),
    **IMPLICIT,
    "auto": Auto(_RUNGE_KUTTA["dopri5"], Dirk(tableau=DIRK["esdirk4"])),
}
"""One entry a method; an entry may be used in any number of solves at once."""


def switching(reduced: bool, settings: Settings) -> Auto:
    """Return the switching method for a system: `reduced` says that it is damped, with h' = m."""
    explicit = _NYSTROM["dprkn6"] if reduced else _RUNGE_KUTTA["dopri5"]
    return Auto(explicit, Dirk(settings, tableau=DIRK["esdirk4"]))


def is_explicit_one_step(method: Method) -> bool:
    """Return whether a step is computed from the state alone, without iteration."""
    return not isinstance(method, Adams | Implicit | Auto)
