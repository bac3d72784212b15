"""The stages of implicit steps, z = y + σ k with k = f(t, z), solved for k."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as entry
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..field import Field, acceleration
from .equation import ROUNDINGS, Equation, Inner, Linear, Secants
from .inner import Anderson
from .krylov import solve_rows

SLACK = 10.0
"""How much more than a linear solver may leave its residual is taken for, which is rounded once more."""


@dataclass(frozen=True)
class Settings:
    """How stages are solved.

    Parameters
    ----------
    inner
        The inner solver.
    rtol, atol
        Tolerances of the step control.
    share
        The share of them that the inner solver may leave, as a residual of z.
    span
        The time over which residuals add up where the steps are given. They may then leave the share of the tolerances
        in all of it, however many the steps are. None where steps are chosen: each may leave the share, as it may
        leave a local error as large as the tolerances.
    reduced
        Whether the field is the force of a damped system with h' = m: the stage is then solved for m' alone, from which
        h and m follow, half the unknowns (Baker et al. 2022).

    Examples
    --------
    >>> from hbode.solvers import Settings
    >>> Settings(share=0.05).share
    0.05
    """

    inner: Inner = entry(default_factory=Anderson)
    rtol: float | Tensor = 1e-5
    atol: float | Tensor = 1e-7
    share: float = 0.1
    reduced: bool = False
    span: float | None = None


class Stage(NamedTuple):
    """A stage value z, its slope k, and which samples converged, (B,) or (1,)."""

    z: Tensor
    k: Tensor
    converged: Tensor


def slope(field: Field, t: Tensor, y: Tensor, reduced: bool) -> Tensor:
    """Return dy/dt at a state."""
    if not reduced:
        return field(t, y)
    h, m = y.unbind()
    return torch.stack((m, acceleration(field.damping_at(t), field(t, h), h, m)))


def solve_stage(
    field: Field,
    t: Tensor,
    y: Tensor,
    sigma: Tensor,
    guess: Tensor,
    settings: Settings,
    secants: Secants | None = None,
) -> Stage:
    """Solve a stage from a guess of its slope.

    Parameters
    ----------
    t
        Its time.
    y
        What is known of z, in the shape of the state.
    sigma
        The rest in units of the slope, shape () or (B, 1, …, 1), in which case samples are independent of each other.
    secants
        Those of another stage with the same σ.
    """
    allowed = tolerance(settings, y, sigma, guess)
    samples = y.ndim - sigma.ndim if sigma.ndim else None

    def solved(r: Callable[[Tensor], Tensor], guess: Tensor, samples: int | None) -> tuple[Tensor, Tensor]:
        return fixed_point(r, guess, allowed, samples, settings, field, secants)

    if not settings.reduced:
        k, converged = solved(lambda k: field(t, torch.addcmul(y, sigma, k)), guess, samples)
        return Stage(torch.addcmul(y, sigma, k), k, converged)
    h, m = y.unbind()
    ahead = torch.addcmul(h, sigma, m)
    damping = field.damping_at(t)
    rest = 1 + sigma * damping.gamma_h

    def rate(q: Tensor) -> Tensor:
        """Return q of (1 + σγ) q = F - γ m - ξ h, with F and h where q leads."""
        at = torch.addcmul(ahead, sigma * sigma, q)
        return acceleration(damping, field(t, at), at, m) / rest

    q, converged = solved(rate, guess[1], None if samples is None else samples - 1)
    m1 = torch.addcmul(m, sigma, q)
    return Stage(torch.stack((torch.addcmul(h, sigma, m1), m1)), torch.stack((m1, q)), converged)


class Tolerance(NamedTuple):
    """How far off a slope may be over the share that is the inner solver's, and what the last bit of a state is of it.

    Both in the shape of the slope.
    """

    scale: Tensor
    rounding: Tensor


def tolerance(settings: Settings, y: Tensor, sigma: Tensor, guess: Tensor) -> Tolerance:
    """Return how far off the slope may be that moves a state by σ times it; of the reduced equation, the last slope.

    No less than a few roundings of each component: one that is small beside the others has a tolerance of its own.
    """
    size = sigma.detach().abs().clamp(min=torch.finfo(y.real.dtype).tiny ** 0.25)
    y, guess = y.detach().abs(), guess.detach().abs()
    eps = torch.finfo(y.dtype).eps
    axes = [axis for axis in range(int(settings.reduced), y.ndim) if not sigma.ndim or axis != y.ndim - sigma.ndim]
    largest = y.amax(axes, keepdim=True) if axes and y.numel() else y
    rounding = eps * torch.maximum(y, eps * largest) / size
    scale = (settings.atol + settings.rtol * y) / (size if settings.span is None else settings.span)
    scale = torch.maximum(scale, ROUNDINGS / settings.share * rounding)
    if settings.reduced:
        scale, rounding = torch.minimum(scale[1], scale[0] / size), torch.maximum(rounding[1], rounding[0] / size)
        guess = guess[1]
    return Tolerance(torch.maximum(scale, ROUNDINGS / settings.share * eps * guess), rounding)


def fixed_point(
    r: Callable[[Tensor], Tensor],
    guess: Tensor,
    allowed: Tolerance,
    samples: int | None,
    settings: Settings,
    field: Field,
    secants: Secants | None = None,
) -> tuple[Tensor, Tensor]:
    """Return z = r(z), and which samples converged.

    Its gradient is that of the implicit function: one transposed linear equation for the cotangent, and no graph
    through the iteration. It has a gradient once more.
    """

    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError(
            "implicit methods have no derivatives in forward mode and inside torch.func transforms: differentiate "
            "backwards (torch.autograd.grad, torch.autograd.functional), or take an explicit method"
        )
    equation = Equation(r, guess, samples, field.count_products, allowed.rounding, secants)
    with torch.no_grad():
        scale = equation.weights(allowed.scale.expand(guess.shape).to(guess.real.dtype))
        first = equation.rows(guess)
        rows, converged = settings.inner(equation, first, scale, settings.share)
        if not bool(converged.all()):
            limit = torch.full_like(rows[:, 0], settings.share)
            converged = converged | equation.rounded(rows, scale, limit)
            # What the field is to blame for shows in the state.
            finite = equation.residual(first).isfinite().all(1) | converged
            rows = torch.where(finite.unsqueeze(1), rows, math.nan)
        z = equation.state(rows)
    return differentiable(equation, z), converged


def differentiable(equation: Equation, z: Tensor) -> Tensor:
    """Return a root z of g(z, θ) = z - r(z, θ) with the derivatives, up to the second, of the implicit function.

    From an exact root, chord iterations z ← z - A⁻¹ g(z, θ) with a fixed A = ∂g/∂z do not move z, and each gives it one
    more derivative with respect to θ. So r is evaluated at the root as it stands, which makes a root with a first
    derivative, and then at that one. The cotangent that the second iteration leaves for its starting point is that of
    the first derivative of g at a root: zero, but for what the linear solver leaves.
    """
    if not torch.is_grad_enabled():
        return z
    image = equation.r(z)
    if not image.requires_grad:
        return z
    slack: list[Tensor] = []

    @cache
    def again() -> Linear:  # a second derivative finds the graph of the first freed
        return equation.linearised(equation.rows(z))

    point = _Attached.apply(image, z, lambda bar: _pulled_last(again, equation, bar, slack))
    image = equation.r(point)
    linear = Linear(point, equation.rows(image), equation.count, equation.rows)
    root: Tensor = _Chord.apply(image, point, lambda bar: _pulled(linear, again, equation, bar, slack))
    return root


class _Attached(torch.autograd.Function):
    """A value with a gradient: `solve(bar)` is what its cotangent is for the image that the value is the same as."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, value: Tensor, solve: Callable[[Tensor], Tensor | None]) -> Tensor:
        ctx.solve = solve
        return value.clone()

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor | None, None, None]:
        return ctx.solve(bar), None, None


class _Chord(torch.autograd.Function):
    """The point z + A⁻¹ (image - z), which is z; `solve` is A⁻ᵀ."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, z: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return z.clone()

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor, Tensor, None]:
        u = ctx.solve(bar)
        return u, bar - u, None


def _pulled(
    linear: Linear, again: Callable[[], Linear], equation: Equation, bar: Tensor, slack: list[Tensor]
) -> Tensor:
    """Return u = (I - ∂r/∂z)⁻ᵀ bar: from dz = ∂r/∂z dz + ∂r/∂θ dθ, the cotangent of r(z, θ) as a function of θ.

    How far off it may be is added to `slack`.
    """
    u = _solved(linear.transposed, equation, bar, slack)
    if not torch.is_grad_enabled() or not linear.image.requires_grad:
        return u
    (back,) = torch.autograd.grad(linear.image, linear.point, equation.rows(u), create_graph=True, allow_unused=True)
    image = bar if back is None else bar + back
    if not image.requires_grad:
        return u
    solved: Tensor = _Attached.apply(image, u, lambda bar: _first_only(again().product, equation, bar))
    return solved


def _pulled_last(again: Callable[[], Linear], equation: Equation, bar: Tensor, slack: list[Tensor]) -> Tensor | None:
    """Return the same for the starting point of the second iteration, or None where only the slack arrives."""
    limit = slack.pop() if slack else None
    if limit is not None and bool((torch.linalg.vector_norm(equation.rows(bar.detach()), dim=1) <= limit).all()):
        return None
    return _first_only(again().transposed, equation, bar)


def _first_only(product: Callable[[Tensor], Tensor], equation: Equation, bar: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        raise RuntimeError("implicit methods have first and second derivatives; for a third take an explicit one")
    return _solved(product, equation, bar)


def _solved(
    product: Callable[[Tensor], Tensor], equation: Equation, b: Tensor, slack: list[Tensor] | None = None
) -> Tensor:
    """Solve a linear equation to rounding, or nearly."""
    rows = equation.rows(b.detach())
    limit = max(1e-10, 50 * torch.finfo(rows.dtype).eps) * torch.linalg.vector_norm(rows, dim=1)
    found, _ = solve_rows(product, rows, lambda x: torch.linalg.vector_norm(x, dim=1), limit)
    if slack is not None:
        slack[:] = [SLACK * limit]
    return equation.state(found)
