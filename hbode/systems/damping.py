"""Damping that depends on the time, as modules: γ(t) of a heavy ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NesterovDamping(nn.Module):
    """γ(t) = r / (t + offset): the damping of Nesterov's method in the limit of small steps, h'' + (r/t) h' = f.

    For r ≥ 3 and f = -∇V with V convex, V(h(t)) - min V = O(1/t²), where a constant damping gives O(1/t)
    (Su, Boyd, Candès, JMLR 17, 2016); for a learned f it is a Nesterov neural ODE (Nguyen et al., AAAI 2022).

    Parameters
    ----------
    r
        Strength, a number without unit.
    offset
        Time before t = 0 at which the damping is infinite. It is defined for t > -offset: solve from a later time, or
        take a positive offset for spans that begin at zero.
    trainable
        Whether r is learned.

    Raises
    ------
    TypeError, ValueError
        If r or offset is not a finite number. From `hbodeint`, if t does not lie within t > -offset.

    Examples
    --------
    >>> import torch
    >>> from hbode import NesterovDamping, hbodeint
    >>> sol = hbodeint(lambda t, h: -h, torch.ones(1), [0.0, 10.0], gamma=NesterovDamping(offset=1.0))
    """

    r: Tensor

    def __init__(self, r: float = 3.0, offset: float = 0.0, *, trainable: bool = False) -> None:
        super().__init__()
        for name, value in (("r", r), ("offset", offset)):
            if not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {type(value).__name__}")
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        self.offset = float(offset)
        if trainable:
            self.r = nn.Parameter(torch.tensor(float(r)))
        else:
            self.register_buffer("r", torch.tensor(float(r), dtype=torch.float64))

    def forward(self, t: Tensor) -> Tensor:
        """Return γ(t), shape of t; NaN where it is not defined."""
        since = t + self.offset
        return torch.where(since > 0, self.r / since, math.nan)

    def extra_repr(self) -> str:
        return f"r={float(self.r):g}, offset={self.offset:g}"
