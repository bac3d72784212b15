"""Solves of stochastic heavy balls by torchsde, to compare with, and for noise that mixes channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..gradients.captured import reachable
from ..solution import Solution, Stats
from ..solvers import Status
from ..systems import System, join, split


def solve_by_torchsde(
    method: str,
    system: System,
    noise: Tensor | Callable[[Tensor, Tensor], Tensor],
    h0: Tensor,
    m0: Tensor | None,
    times: Tensor,
    step_size: float,
    seed: int,
    gradient: object,
) -> Solution:
    """Return the solution by torchsde's method of a name, along a path of its own; counts of `stats` are zero."""
    if h0.ndim != 2 or times.ndim != 1 or times.requires_grad or not bool((times.diff() > 0).all()):
        raise ValueError("torchsde needs h0 (B, C), and t (T,) strictly increasing and without gradient")
    if gradient not in ("backprop", "continuous_adjoint"):
        raise ValueError(f"gradient must be backprop or continuous_adjoint with torchsde, got {gradient!r}")
    import torchsde

    strength = noise if callable(noise) else _everywhere(noise)
    sample = strength(times[0].to(h0.dtype), h0)
    mixing = sample.ndim == 3
    sde = system.as_sde(strength, "general" if mixing else "diagonal")
    y0 = join(h0, torch.zeros_like(h0) if m0 is None else m0)
    path = torchsde.BrownianInterval(
        float(times[0]),
        float(times[-1]),
        (len(h0), sample.shape[-1] if mixing else y0.shape[-1]),
        h0.dtype,
        h0.device,
        dt=step_size,  # without, its tree of intervals gets deeper than Python's limit at a few thousand steps
        entropy=seed % 2**32,
        levy_area_approximation="space-time" if method == "srk" else "none",
    )
    given: dict[str, Any] = {"bm": path, "method": method, "dt": step_size}
    if gradient == "backprop":
        rows = torchsde.sdeint(sde, y0, times.to(h0.dtype), **given)
    else:
        captured = tuple({id(x): x for owner in (system, noise) for x in reachable(owner).leaves}.values())
        rows = torchsde.sdeint_adjoint(sde, y0, times.to(h0.dtype), adjoint_params=captured, **given)
    none = torch.zeros(0, dtype=torch.float64)
    return Solution(times, *split(rows), Stats(0, 0, 0, Status.SUCCESS, none, none, 0, math.nan))


def _everywhere(noise: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, h: noise.expand_as(h)
