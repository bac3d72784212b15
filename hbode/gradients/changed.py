"""Whether a field still gives what it gave in the solve, when its steps are run again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

ROUNDING = 100
"""By how many roundings of a state a step that is run again, with its sums in another order, may differ."""
NOISE = 30
"""By how many square roots of the precision, of the way that a step goes, the field may differ from itself.

It rounds differently where it computes in less than the precision of the state. Dropout or a mask makes a difference
of a tenth and more.
"""


class Comparison:
    """The ends of steps that are run again, beside those of the solve. Nothing is evaluated and nobody waits for it.

    Parameters
    ----------
    drifts
        Whether steps start where the last one ended when it was run again, and carry its difference on.
    """

    def __init__(self, like: Tensor, drifts: bool = False) -> None:
        eps = torch.finfo(like.dtype).eps
        self.rounding, self.noise, self.drifts = ROUNDING * eps, NOISE * math.sqrt(eps), drifts
        self.starts: list[Any] = []
        self.norms: list[Tensor] = []

    @torch.no_grad()
    def add(self, step: Any, again: Tensor, end: Tensor) -> None:
        """Note what a step ended with now, and what in the solve."""
        self.starts.append(step.start.value)
        for x in (again - end, end - step.carry[0], end):
            self.norms.append(_largest(x.detach()))

    @torch.no_grad()
    def add_start(self, step: Any, again: Sequence[Tensor], carry: Sequence[Tensor]) -> None:
        """Note what the field gave at the first time, which the first carry holds beside the state."""
        for x, first in zip(again[1:], carry[1:], strict=False):
            if x.dtype.is_floating_point or x.is_complex():
                self.starts.append(step.start.value)
                size = _largest(first)
                self.norms += [_largest(x.detach() - first), size, size]

    def settle(self) -> None:
        """Raise if a step differed by more than rounding."""
        if not self.norms:
            return
        before = 0.0
        for start, (gap, way, size) in zip(self.starts, torch.stack(self.norms).view(-1, 3).tolist(), strict=True):
            if gap > self.rounding * size + self.noise * way + (10 * before if self.drifts else 0.0):
                at = float(torch.as_tensor(start).min())
                refuse(f"the step from t = {at:.6g} ends {gap:.2g} from where it ended, {way:.2g} from its start")
            before = gap


def _largest(x: Tensor) -> Tensor:
    """Return the largest absolute value, zero of nothing."""
    largest: Tensor = torch.linalg.vector_norm(x, math.inf) if x.numel() else x.new_zeros(()).abs()
    return largest


def differs(again: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return whether a step differs from one of the solve by more than rounding, shape (); for compiled loops."""
    eps = torch.finfo(end.dtype).eps
    gap, way, size = map(_largest, (again - end, end - start, end))
    return gap > ROUNDING * eps * size + NOISE * math.sqrt(eps) * way


def refuse(what: str) -> NoReturn:
    """Raise for a field that has changed."""
    raise RuntimeError(
        f"the field has changed since the solve: run again, {what}. What it depends on beside its arguments and "
        "captured tensors, such as a mask, a counter or a generator of random numbers of its own, must be the same in "
        "the backward pass: restore it, call backward() before it changes, or solve with gradient='backprop'"
    )
