"""What all implicit methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as entry
from typing import Any, NamedTuple

from torch import Tensor

from ..field import Field
from ..method import Carry, Method
from ..methods.hermite import Hermite
from .quartic import Quartic
from .stage import Settings, slope

Interpolant = Hermite | Quartic


class ImplicitStages(NamedTuple):
    """A step: its interpolant, its error estimate if there is one, and which samples converged, (B,) or (1,).

    An estimate that has to be solved for is a function, called where the error is asked for; a copy leaves it out.
    """

    interpolant: Interpolant
    error: Tensor | Callable[[], Tensor] | None
    converged: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        error = None if callable(self.error) else self.error
        return ImplicitStages, (self.interpolant, error, self.converged)


@dataclass(frozen=True)
class Implicit(Method):
    """A method whose stages are solved by an inner solver. Its carry begins with (y, slope at y).

    Examples
    --------
    >>> from hbode.solvers import Implicit, as_method
    >>> isinstance(as_method("prox_bdf3"), Implicit)
    True
    """

    settings: Settings = entry(default_factory=Settings)
    explicit_one_step = False

    def __post_init__(self) -> None:
        self._declare(damped=self.settings.reduced, identity_only=self.settings.reduced)

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, slope(field, t, y, self.settings.reduced)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return carry[1]

    def error(self, stages: ImplicitStages) -> Tensor:
        if stages.error is None:
            return super().error(stages)
        return stages.error if isinstance(stages.error, Tensor) else stages.error()

    def interpolate(self, stages: ImplicitStages, theta: Tensor) -> Tensor:
        return stages.interpolant(theta)

    def converged(self, stages: ImplicitStages) -> Tensor:
        return stages.converged
