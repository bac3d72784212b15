"""Explicit Runge-Kutta methods of few stages and without error estimate, as fixed grids use them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...field import Field
from ...linear import along, lift, stage_times
from ...method import Carry, Method
from .runge_kutta import RungeKutta
from .tableau import ButcherTableau


class ShortStages(NamedTuple):
    """One step: its field, its start, its slopes, its length (a number, or in the dtype of y), its last time and state.

    The slope at the end may be missing: the field is there to ask for it, and is None where it is not. A copy has it.
    """

    field: Field | None
    y: Tensor
    slopes: tuple[Tensor, ...]
    dt: Tensor | float
    t1: Tensor | float
    y1: Tensor

    def all_slopes(self) -> tuple[Tensor, ...]:
        """Return the slopes with that at the end."""
        return self.slopes if self.field is None else (*self.slopes, self.field(self.t1, self.y1))

    def __reduce__(self) -> tuple[Any, ...]:
        return ShortStages, (None, self.y, self.all_slopes(), self.dt, self.t1, self.y1)


class ShortRungeKutta(RungeKutta):
    """A Runge-Kutta method whose sums are formed term by term.

    Where time and length are constants they may come as numbers, and a step then makes no tensors but those that the
    formulas show. A last step leaves out the slope at its end, which its interpolant evaluates if it is asked for.
    """

    numbers = True
    error = Method.error

    def step(self, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, Any]:
        (y1,), stages = self.last_step(field, t, dt, carry)
        f1 = field(stages.t1, y1)
        return (y1, f1), ShortStages(None, stages.y, (*stages.slopes, f1), stages.dt, stages.t1, y1)

    def last_step(self, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, ShortStages]:
        y, f = carry
        tab, size = self.tableau, dt
        if isinstance(dt, float):
            times: Any = [t + c * dt for c in tab.c[1:]]
        else:
            _, *times = stage_times(t, dt, self._weights(y.device).c, field.dtype)
            size = lift(dt, y.ndim, keep=0).to(y.dtype)
        slopes = [f]
        for t_i, row in zip(times[:-1], tab.a[1:-1], strict=True):
            slopes.append(field(t_i, along(y, size, row, slopes)))
        y1 = along(y, size, tab.a[-1], slopes)
        return (y1,), ShortStages(field, y, tuple(slopes), size, times[-1], y1)

    def interpolate(self, stages: Any, theta: Tensor) -> Tensor:
        return self._between(stages.y, torch.stack(stages.all_slopes()), stages.dt, theta)

    def record(self, stages: Any) -> Tensor:
        return torch.stack((stages.y, *stages.slopes))


def runge_kutta(tableau: ButcherTableau) -> RungeKutta:
    """Return the method of a tableau in the form in which its steps are fastest.

    Term by term, a step passes over memory once for each weight; otherwise it fills a matrix of weights, and passes
    over all rows for each stage.
    """
    terms = sum(weight != 0.0 for row in tableau.a for weight in row)
    short = tableau.b_error is None and terms <= 2 * tableau.stages + 6
    return ShortRungeKutta(tableau) if short else RungeKutta(tableau)
