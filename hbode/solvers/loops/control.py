"""How long the next step is: error norms, the PID controller, the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..field import Field
from ..linear import norms
from ..method import Carry, Method

Norm = Callable[[Tensor], Tensor]

GRID_SLACK = 1e-9
"""The share of a step on a fixed grid that is not worth a step; two roundings of the time come on top."""
TINY = torch.finfo(torch.float32).tiny
"""What stands for an absolute tolerance of zero, so that no error of a component that stays zero counts as none."""
PID_COEFFICIENTS = {"I": (0.0, 1.0, 0.0), "PI": (0.2, 0.6, 0.0), "PID": (0.2, 0.5, 0.05)}
"""(proportional, integral, derivative) gains, in units of 1 / (error order + 1)."""


@dataclass(frozen=True)
class Controller:
    """Accepts a step whose scaled error is at most one, and proposes the next from the last three errors.

    The scaled error is ‖e / (atol + rtol max(|y_n|, |y_n+1|))‖, in the root-mean-square norm unless `norm` is
    given. The factor on the step is safety · r_n^(p+i+d) · r_n-1^-(p+2d) · r_n-2^d with r = error^(-1/k) and k
    the order of the error estimate plus one (Söderlind, ACM TOMS 29, 2003), kept within [min_factor, max_factor].
    Steps keep within [min_step, max_step]; a step of min_step is accepted whatever its error.

    Examples
    --------
    >>> from hbode.solvers import Controller
    >>> Controller(rtol=1e-3, atol=1e-6, max_step=0.5).max_step
    0.5
    """

    rtol: float | Tensor = 1e-5
    atol: float | Tensor = 1e-7
    gains: tuple[float, float, float] = PID_COEFFICIENTS["I"]
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    min_step: float = 0.0
    max_step: float = math.inf
    first_step: float | None = None
    norm: Norm | None = None

    def __post_init__(self) -> None:
        atol = self.atol.clamp(min=TINY) if isinstance(self.atol, Tensor) else max(self.atol, TINY)
        object.__setattr__(self, "atol", atol)

    def measure(self, x: Tensor) -> float:
        """Return the norm of a scaled tensor; NaN or Inf where it holds any."""
        if self.norm is not None:
            return abs(float(self.norm(x)))
        return float(torch.linalg.vector_norm(x)) / math.sqrt(max(x.numel(), 1))

    def measured(self, x: Tensor) -> Tensor:
        """`measure` as a tensor, in float64."""
        if self.norm is None:
            return norms(x)
        return torch.as_tensor(self.norm(x), dtype=torch.float64, device=x.device).abs()

    def factor(self, error: float, last: float, before: float, k: int) -> float:
        """Return the factor on the step after the scaled errors `before`, `last` and `error`, newest last."""
        if error == 0.0:
            return self.max_factor
        p, i, d = self.gains
        change: float = error ** -((p + i + d) / k)
        if p or d:
            change *= last ** ((p + 2 * d) / k) * before ** -(d / k)
        return min(self.max_factor, max(self.min_factor, self.safety * change))

    def factors(self, error: Tensor, last: Tensor, before: Tensor, k: int) -> Tensor:
        """`factor` for every sample, shape (B,)."""
        p, i, d = self.gains
        change = error ** -((p + i + d) / k) * last ** ((p + 2 * d) / k) * before ** -(d / k)
        return (self.safety * change).clamp(self.min_factor, self.max_factor).where(error > 0, self.max_factor)


def ulp(t: Tensor) -> Tensor:
    """Return the unit in the last place of times."""
    return torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs()


def tie(dt: Tensor, span: Tensor, active: Tensor) -> Tensor:
    """Return steps of active samples that are the same fraction of their spans, the longest as long as it was.

    Not the least fraction that a sample asks for: that of a sample whose last span was short would hold back all.
    """
    longest, widest = (x.where(active, 0.0).max() for x in (dt, span))
    return torch.where(active, span * (longest / widest), dt)


def scaled(error: Tensor, y0: Tensor, y1: Tensor, rtol: float | Tensor, atol: float | Tensor) -> Tensor:
    """Return an error in units of the tolerance, in the shape of the state."""
    return error / torch.maximum(y0.abs(), y1.abs()).mul_(rtol).add_(atol)


@torch.no_grad()
def first_steps(
    method: Method,
    field: Field,
    t: Tensor,
    end: Tensor,
    carry: Carry,
    scale: Tensor,
    measure: Callable[[Tensor], Tensor],
    max_step: float,
) -> Tensor:
    """Return first steps from one more evaluation (Hairer, Nørsett, Wanner 1993, II.4), positive; NaN: no slope.

    By tensors alone, so that it serves every loop. `scale` is the tolerance in the shape of the state: what has none,
    as a zero without absolute tolerance, has no say. `measure` returns norms, in float64: one of shape () for `t` and
    `end` of shape (), or (B,) for (B, 1, …, 1). The evaluation stays within `end`; where the field is not finite
    there, the steps are a thousandth of the way, and the loop finds out the rest. They are a hundred roundings of the
    time at least.
    """
    y, slope = carry[0], method.slope(field, carry)
    scale = scale.where(scale > TINY, math.inf)
    span = (end - t).view(-1 if t.ndim else ())
    longest = span.abs().clamp(max=max_step)
    d0, d1 = measure(y / scale), measure(slope / scale)
    h0 = torch.minimum((0.01 * d0 / d1).where((d0 >= 1e-5) & (d1 >= 1e-5), 1e-6), longest)
    h0 = h0.where(d1.isfinite(), math.nan)
    move = h0.copysign(span).view(t.shape)
    ahead = method.start(field, torch.where(move == end - t, end, t + move), y + move.to(y.dtype) * slope)
    d = torch.maximum(d1, measure((method.slope(field, ahead) - slope) / scale) / h0)
    k = (method.error_order or method.order) + 1
    h1 = ((0.01 / d) ** (1 / k)).where((d > 1e-15) & d.isfinite(), (1e-3 * h0).clamp(min=1e-6))
    least = ulp(t).view(h0.shape)
    return torch.maximum(torch.minimum(100 * h0, h1.where(d.isfinite(), 1e-3 * h0)), 100 * least)
