"""A method that is explicit where the field is not stiff, and implicit where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...field import Field
from ...implicit import Dirk
from ...linear import norms
from ...method import Carry, Method
from ..explicit.nystrom import Nystrom
from ..explicit.runge_kutta import RungeKutta
from ..explicit.stiffness import BOUNDARY

DOUBT = 0.4
"""From which share of the boundary on, if stages show no more, the linearised field is asked."""
TO_IMPLICIT = 8
"""After how many more steps held back by stability than others the method becomes implicit."""
TO_EXPLICIT = 4
"""After how many implicit steps that explicit ones could do for less it becomes explicit."""
PAUSE = 8
"""How many times as long an explicit phase takes to end that began because it costs less, although steps are stiff."""


class AutoStages(NamedTuple):
    """A step: what both methods say of it, where they were asked, and for which samples the implicit one counts."""

    explicit: Any
    implicit: Any
    chosen: Tensor


@dataclass(frozen=True)
class Auto(Method):
    """An explicit method, and an implicit one for the samples or the time in which it is held back by stability.

    The explicit method tells from its stages. They show too little of |λ| where several stiff modes are mixed in them,
    or where, at loose tolerances, they differ by so much that a saturating field does not follow: from some share of
    the boundary on, the linearised field is asked, by one step of a power iteration, one evaluation, that goes on from
    step to step. In implicit steps the largest |λ| is followed so, two evaluations a step, as in Sommeijer, Shampine,
    Verwer (J. Comput. Appl. Math. 88, 1998); the method becomes explicit when as many explicit steps as stability would
    ask for cost fewer evaluations than the implicit step did. What is decided in a step holds from the next one on.

    The carry is (y, what the explicit method reuses, direction of the power iteration, lean). Lean is at least one in
    implicit steps, and moves towards the other kind of step with each that speaks for it.

    Examples
    --------
    >>> from hbode.solvers import Auto, as_method
    >>> isinstance(as_method("auto"), Auto)
    True
    """

    explicit: RungeKutta | Nystrom
    implicit: Dirk
    explicit_one_step = False

    def __post_init__(self) -> None:
        base = self.explicit
        order = min(base.order, self.implicit.order)
        self._declare(damped=base.damped, identity_only=base.identity_only, order=order, error_order=base.error_order)

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        carry = self.explicit.start(field, t, y)
        return *carry, torch.zeros_like(carry[1]), torch.zeros_like(t)

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return *self.explicit.start(field, t, carry[0]), *carry[2:]

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.explicit.slope(field, carry[:2])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, AutoStages]:
        y, f, v, lean = carry
        chosen = lean >= 1
        ends: list[Carry] = []
        explicit: Any = None
        implicit: Any = None
        if not bool(chosen.all()):
            length = torch.where(chosen, 0.0, dt)
            (y1, f1), explicit = self.explicit.step(field, t, length, (y, f))
            ratio = self.explicit.stiffness(explicit).reshape(lean.shape)
            doubtful = (ratio > DOUBT) & (ratio <= BOUNDARY) & ~chosen
            if bool(doubtful.any()):
                image, linear = self._followed(field, t + length, length, y1, f1, v)
                ratio, v = torch.where(doubtful, torch.maximum(ratio, linear), ratio), torch.where(doubtful, image, v)
            held = ratio > BOUNDARY
            lean1 = torch.where(held, lean + 1 / TO_IMPLICIT, torch.clamp(lean - 1 / TO_IMPLICIT, min=0.0))
            turns, v1 = lean1 >= 1, v
            if bool((turns & ~doubtful).any()):
                v1 = torch.where(turns & ~doubtful, self._position(self.explicit.error(explicit)).detach(), v)
            ends.append((y1, f1, v1, torch.where(turns, 2.0, lean1)))
        if bool(chosen.any()):
            calls, length = field.calls, torch.where(chosen, dt, 0.0)
            (y1, k1), implicit = self.implicit.step(field, t, length, (y, self.slope(field, carry)))
            spent = field.calls - calls
            f1 = self._reused(field, y1, k1)
            v1, ratio = self._followed(field, t + length, length, y1, None, v)
            needed = (ratio.sqrt() if self.damped else ratio).div(BOUNDARY).clamp(min=1.0) * self.explicit.evaluations
            lean1 = torch.where(needed < spent, lean - 1 / TO_EXPLICIT, torch.clamp(lean + 1 / TO_EXPLICIT, max=2.0))
            afterwards = torch.where(ratio < BOUNDARY, 0.0, 1.0 - PAUSE)
            ends.append((y1, f1, v1, torch.where(lean1 <= 1, afterwards, lean1)))
        stages = AutoStages(explicit, implicit, chosen)
        if len(ends) == 1:
            return ends[0], stages
        return tuple(torch.where(chosen, b, a) for a, b in zip(*ends, strict=True)), stages

    def error(self, stages: AutoStages) -> Tensor:
        return self._either(stages, self.explicit.error, self.implicit.error)

    def interpolate(self, stages: AutoStages, theta: Tensor) -> Tensor:
        def of(method: Method) -> Callable[[Any], Tensor]:
            return lambda own: method.interpolate(own, theta)

        return self._either(stages, of(self.explicit), of(self.implicit))

    def converged(self, stages: AutoStages) -> Tensor | None:
        if stages.implicit is None:
            return None
        return ~stages.chosen.reshape(-1) | self.implicit.converged(stages.implicit)

    def stiffness(self, stages: AutoStages) -> Tensor:
        """Return dt |λ|, or dt² |μ|, in units of the explicit boundary; implicit steps count as twice beyond it."""
        beyond = torch.where(stages.chosen, 2.0, 0.0).reshape(-1 if stages.chosen.ndim else ())
        if stages.explicit is None:
            return beyond
        return torch.where(beyond > 0, beyond, self.explicit.stiffness(stages.explicit))

    def _either(
        self, stages: AutoStages, of_explicit: Callable[[Any], Tensor], of_implicit: Callable[[Any], Tensor]
    ) -> Tensor:
        if stages.implicit is None:
            return of_explicit(stages.explicit)
        if stages.explicit is None:
            return of_implicit(stages.implicit)
        return torch.where(stages.chosen, of_implicit(stages.implicit), of_explicit(stages.explicit))

    def _position(self, y: Tensor) -> Tensor:
        """Return the part of a state that the explicit method's field depends on."""
        return y[0] if self.damped else y

    def _reused(self, field: Field, y: Tensor, slope: Tensor) -> Tensor:
        """Return what the explicit method reuses, from the slope."""
        if not self.damped:
            return slope
        h, m = y.unbind()
        force = torch.addcmul(slope[1], field.damping.gamma_h, m)
        return force if field.damping.xi_h is None else torch.addcmul(force, field.damping.xi_h, h)

    @torch.no_grad()
    def _followed(
        self, field: Field, t: Tensor, dt: Tensor, y: Tensor, f: Tensor | None, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ∂f/∂x v, up to its length, and dt |λ| or dt² |μ| along v in units of the explicit boundary.

        `f` is the field at the state if it is known: the slope of an implicit step is not that near to it.
        """

        def lengths(x: Tensor) -> Tensor:
            size = norms(x, dt.ndim).to(x.real.dtype)
            return size.reshape(-1, *[1] * (dt.ndim - 1)) if dt.ndim else size

        x = self._position(y)
        f = field(t, x) if f is None else f
        v = torch.where(lengths(v) > 0, v, f)
        size = lengths(x)
        reach = torch.finfo(size.dtype).eps ** 0.5 * torch.where(size > 0, size, 1.0)
        image = field(t, x + reach / lengths(v).clamp(min=torch.finfo(size.dtype).tiny) * v) - f
        rate = (lengths(image) / reach).double()
        return image, dt.abs() ** (2 if self.damped else 1) * rate / self.explicit.probe.boundary
