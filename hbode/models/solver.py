"""How models solve their ODEs, and what that cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..solution import Stats, of_batch


@dataclass(frozen=True)
class SolverSettings:
    """How a model solves its ODE: arguments of `hbodeint` of the same names.

    Examples
    --------
    >>> from hbode.models import HBNODE, DenseField, SolverSettings
    >>> layer = HBNODE(DenseField(2, 8), solver=SolverSettings(method="dprkn6", rtol=1e-5, atol=1e-5))
    """

    method: str | None = "dopri5"
    """None for what `hbodeint` takes for the system."""
    rtol: float = 1e-3
    atol: float = 1e-3
    gradient: str = "discrete_adjoint"
    compile: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of `hbodeint`."""
        return asdict(self)


class SolveCounts:
    """Evaluations of the field in a number of solves that step as one batch.

    Examples
    --------
    >>> from hbode.models import SolveCounts
    >>> SolveCounts().nfe
    0
    """

    def __init__(self) -> None:
        self._stats: list[Stats] = []

    def add(self, stats: Stats) -> None:
        """Count one more solve."""
        self._stats.append(stats)

    @property
    def nfe(self) -> int:
        """Evaluations in the forward pass."""
        return sum(of_batch(stats.nfe) for stats in self._stats)

    @property
    def nfe_backward(self) -> int:
        """Evaluations in the backward pass; 0 before it, and always 0 for ``gradient="backprop"``."""
        return sum(stats.nfe_backward or 0 for stats in self._stats)

    @property
    def rejected(self) -> int:
        """Steps that were tried in vain."""
        return sum(of_batch(stats.rejected) for stats in self._stats)
