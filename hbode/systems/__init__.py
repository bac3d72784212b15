"""Systems with learned or given fields."""

from collections.abc import Callable

from .heavy_ball import GeneralizedHeavyBall, HeavyBall
from .lienard import Lienard
from .system import FirstOrder, SecondOrder, System, VectorField, join, split

FAMILY: dict[str, Callable[..., System]] = {
    "node": FirstOrder,
    "sonode": SecondOrder,
    "hbnode": HeavyBall,
    "ghbnode": GeneralizedHeavyBall,
}
"""The four systems that are compared, by the names that commands, comparisons and figures know them by."""

__all__ = [
    "FAMILY",
    "FirstOrder",
    "GeneralizedHeavyBall",
    "HeavyBall",
    "Lienard",
    "SecondOrder",
    "System",
    "VectorField",
    "join",
    "split",
]
