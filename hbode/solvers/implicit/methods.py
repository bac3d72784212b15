"""The implicit methods by name."""

from __future__ import annotations

from ..method import Method
from .bdf import BDF
from .collocation import Collocation
from .crank_nicolson import CrankNicolson
from .dirk import Dirk
from .multistage import Multistage
from .tables import COLLOCATION, DIRK

IMPLICIT: dict[str, Method] = {
    "prox_euler": BDF(highest=1),
    "prox_cn": CrankNicolson(),
    "prox_bdf2": BDF(highest=2, starter=DIRK["kvaerno3"]),
    "prox_bdf3": BDF(highest=3, starter=DIRK["kvaerno3"]),
    "prox_bdf4": BDF(highest=4, starter=DIRK["kvaerno3"]),
    "prox_multistage3": Multistage(),
    **{name: Dirk(tableau=tableau) for name, tableau in DIRK.items()},
    **{name: Collocation(tableau=tableau) for name, tableau in COLLOCATION.items()},
}
