"""What a solve is to know of its measured input: whether it fits, and where its steps should end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs import Input
from ..solvers import real_dtype
from .options import with_points

SHARE = 100.0
"""How many relative tolerances of its size an input must break by at a knot, for steps to end there.

With `_size` as the measure of a break. Below it a step over the knot costs less than one to the knot and one on from
it, at equal errors: measured on a Duffing oscillator, h'' + 0.05 h' + h³ = u, driven by six sines with and without
noise, for 2 to 20 knots in a step.
"""
MOST = 0.5
"""Of how many knots this must hold, for steps to end at all that break by one relative tolerance.

Steps are short then anyway. On a noisy record nearly all of the error came from the eighth of the kinks that were
stepped over.
"""
BESIDE = 4.0
"""How many roundings before and after a jump steps end, where a loop knows no jumps."""


class Points(NamedTuple):
    """The options of a solve with the points of its input, and those that single samples stop at."""

    options: Mapping[str, Any]
    of_samples: tuple[tuple[float, ...], ...]


def check_inputs(inputs: Input, times: Tensor, h0: Tensor) -> None:
    """Raise unless an input fits a solve over times (T,) or (B, T), and covers them."""
    if not isinstance(inputs, Input):
        raise TypeError(f"inputs must be a LinearInput, HoldInput, CubicInput or Input, got {type(inputs).__name__}")
    if inputs.values.device != h0.device:
        raise ValueError(f"inputs must be on the device of h0, {h0.device}, got {inputs.values.device}")
    batch = inputs.batch
    if batch is not None and (h0.ndim == 0 or len(h0) != batch):
        raise ValueError(f"inputs has values for {batch} samples, h0 has shape {tuple(h0.shape)}")
    times = times.detach()
    first, last = times.amin(-1), times.amax(-1)
    slack = 8 * torch.finfo(torch.float64).eps * torch.maximum(first.abs(), last.abs())
    start, end = inputs.times[..., 0], inputs.times[..., -1]
    outside = (first < start - slack) | (last > end + slack)
    if bool(outside.any()):
        spans = (x.expand(outside.shape)[outside].reshape(-1)[0].item() for x in (first, last, start, end))
        raise ValueError("inputs must cover t, from {:.10g} to {:.10g}; they span {:.10g} to {:.10g}".format(*spans))


def with_knots(
    inputs: Input,
    options: Mapping[str, Any],
    times: Tensor,
    h0: Tensor,
    rtol: float | Tensor,
    *,
    adaptive: bool,
    per_sample: bool,
    compile: bool,
    adjoint: bool,
) -> Points:
    """Return the options with the knots that matter, for a solve over times (T,) or (B, T).

    `adjoint` says that an adjoint equation is solved back, whose steps know of points of discontinuity alone.
    """
    jumps = inputs.smoothness == -1
    if inputs.smoothness is None or not (adaptive or jumps):
        return Points(options, ())
    fine = float(torch.as_tensor(rtol).min()) if adaptive else 0.0
    broken = breaks(inputs, SHARE * fine)
    if broken.double().mean() > MOST:
        broken = breaks(inputs, fine)
    knots = inputs.times[..., 1 : 1 + broken.shape[-1]]
    found = [row[mask].tolist() for row, mask in zip(torch.atleast_2d(knots), broken, strict=True)]
    # Samples that share fractions of their spans are refused steps together: none may be as short as between roundings.
    samples, own = times.ndim == 2, inputs.times.ndim == 2
    if jumps and (per_sample or (compile and not samples)):
        eps = BESIDE * torch.finfo(real_dtype(h0)).eps
        found = [[x for knot in row for x in _beside(knot, eps)] for row in found]
    if samples and own:
        return Points(options, () if options.get("step_ts") is not None else tuple(map(tuple, found)))
    if own and not jumps:
        return Points(options, ())
    name = "jump_ts" if adjoint or (jumps and not (samples or compile)) else "step_ts"
    return Points(with_points(options, name, sorted({x for row in found for x in row})), ())


@torch.no_grad()
def breaks(inputs: Input, share: float) -> Tensor:
    """Return at which knots after the first an input breaks by more than a share of its size.

    Shape (1, P - 1), or (B, P - 1) for knots of samples, of P pieces: a held input jumps at the last knot too. The
    size of a channel is its root mean square.
    """
    order, table = (inputs.smoothness or 0) + 1, inputs.coefficients().double()
    knots = inputs.times.T.unsqueeze(-1) if inputs.times.ndim == 2 else inputs.times.view(-1, *[1] * (table.ndim - 2))
    lengths = knots.diff(dim=0, append=knots[-1:] + 1)[: len(table)]
    jump = math.factorial(order) * table[1:, ..., order] - _derivative(table[:-1], lengths[:-1], order)
    size = _size(jump.abs(), lengths[1:].minimum(lengths[:-1]), order)
    broken = (size > share * table[..., 0].square().mean(0).sqrt()).any(-1)
    return broken.T if inputs.times.ndim == 2 else broken.reshape(len(broken), inputs.batch or 1).any(-1).unsqueeze(0)


def _size(jump: Tensor, length: Tensor, order: int) -> Tensor:
    """Return the size of a break: the jump of a derivative, as the change of u that it makes between knots.

    At order 1 that is how far a straight line is off a smooth function through the values. At order 2 the denominator
    is measured: it makes breaks of causal cubics count as those of lines do.
    """
    return jump * length**order / (1.0, 8.0, 24.0)[order]


def _derivative(coefficients: Tensor, s: Tensor, order: int) -> Tensor:
    """Return a derivative of polynomials (..., K) at s (...)."""
    total = torch.zeros_like(coefficients[..., 0])
    for k in reversed(range(order, coefficients.shape[-1])):
        total = total * s + math.perm(k, order) * coefficients[..., k]
    return total


def _beside(knot: float, eps: float) -> Sequence[float]:
    gap = eps * max(abs(knot), eps)
    return knot - gap, knot + gap
