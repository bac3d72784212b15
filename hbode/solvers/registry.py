"""The methods by name."""

from __future__ import annotations

from .adams import Adams
from .butcher_tables import BUTCHER
from .implicit import IMPLICIT
from .method import Method
from .nystrom import Nystrom
from .nystrom_tables import NYSTROM
from .runge_kutta import RungeKutta
from .symplectic import LEAPFROG, YOSHIDA4

METHODS: dict[str, Method] = {
    **{name: RungeKutta(tableau) for name, tableau in BUTCHER.items()},
    **{name: Nystrom(tableau) for name, tableau in NYSTROM.items()},
    "leapfrog": LEAPFROG,
    "yoshida4": YOSHIDA4,
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(implicit=True),
    **IMPLICIT,
}
"""One entry a method; an entry may be used in any number of solves at once."""
