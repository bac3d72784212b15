"""`sdeint`: heavy balls with noise on the momentum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .gradients import ContinuousAdjoint, Gradient
from .integrate import hbodeint
from .reference.sde import solve_by_torchsde
from .setup.arguments import as_system, check_state, check_times
from .setup.options import gradient_mode
from .solution import Solution
from .solvers.stochastic.baoab import Baoab
from .solvers.stochastic.brownian import BrownianPath
from .systems import System
from .systems.coefficients import Activation, OfTime

Noise = float | Tensor | Callable[[Tensor, Tensor], Tensor]


def sdeint(
    func: Callable[..., Tensor] | System,
    noise: Noise,
    h0: Tensor,
    t: Tensor | Sequence[float],
    *,
    step_size: float | None = None,
    seed: int | None = None,
    halvings: int = 0,
    m0: Tensor | None = None,
    args: tuple[Any, ...] = (),
    gamma: float | Tensor | OfTime | None = None,
    xi: float | Tensor | OfTime | None = None,
    activation: str | Activation | None = None,
    method: str = "baoab",
    gradient: str | Gradient = "discrete_adjoint",
    throw: bool = True,
) -> Solution:
    """Integrate a stochastic heavy ball, dh = σ_h(m) dt, dm = (f(t, h) - γ m - ξ h) dt + σ(t, h) dW.

    With f = -∇V and constant γ and σ this is Langevin dynamics, at temperature σ² / (2 γ).

    Parameters
    ----------
    func, args, gamma, xi, activation
        As for `hbodeint`: ``f(t, h, *args)``, or a `HeavyBall` or `GeneralizedHeavyBall`.
    noise
        σ: a number, a tensor that broadcasts to h, such as (C,) per channel, or ``noise(t, h)`` that returns one, in
        units of h / time^(3/2). Ito and Stratonovich mean the same here, since σ does not depend on m. Gradients reach
        tensors, and what a function or module holds.
    h0, m0
        Initial position and momentum (default: zero), real, any shape (...): every entry has a noise of its own, so
        that (B, C) is a batch of B paths.
    t
        Times of the solution, increasing, with repetition allowed, shape (T,), or (B, T) for times per sample.
    step_size
        Longest step, in units of t; the way between two requested times is divided evenly. Default: one step each.
    seed
        An integer that stands for the Brownian path, with the shape and device of h0 and the steps of
        `step_size`. Default: drawn from torch's generator, which `torch.manual_seed` sets.
    halvings
        Halve all steps so often, along the same Brownian path.
    method
        "baoab" (`Baoab`; Leimkuhler and Matthews 2013): damping and noise together exactly; weak order 2, strong
        order 1, one evaluation of f a step. Or "torchsde:<method>", for reference and for noise that mixes channels:
        h0 (B, C), ``noise(t, h)`` (B, C) or (B, C, M), equal times for all, a path of torchsde's own.
    gradient
        "discrete_adjoint", "reversible" or "backprop", or a mode of `hbode.gradients` such as
        ``DiscreteAdjoint(checkpoints=10)``: pathwise gradients, of the same path, exact for what was computed. The
        noise of a step is drawn again where a backward pass needs it. With torchsde "backprop" or
        "continuous_adjoint", its `sdeint_adjoint`.
    throw
        As for `hbodeint`.

    Returns
    -------
    Solution
        As of `hbodeint`: h and m of shape (T, *h0). Without dense output.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit, before any work.
    SolverError
        If a state is not finite and `throw` is set.

    Examples
    --------
    >>> import torch
    >>> from hbode import sdeint
    >>> h, m = sdeint(lambda t, h: -h, 1.0, torch.zeros(1000, 1), [0.0, 10.0], gamma=0.5, step_size=0.1, seed=0)
    >>> temperature = m[-1].var()  # 1² / (2 · 0.5), to the error of 1000 samples
    """
    system = as_system(func, gamma, xi, activation)
    if not system.damped:
        raise ValueError(
            f"func must be a force or a heavy ball, with noise on its momentum; got a {type(system).__name__}"
        )
    check_state(h0, m0, system)
    if h0.is_complex():
        raise TypeError(f"h0 must be real, got {h0.dtype}")
    times = check_times(t, h0, False)
    if bool((times.detach().diff() < 0).any()):
        raise ValueError("t must be increasing: noise has a direction of time")
    counts = step_counts(times, step_size, halvings)
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    if not isinstance(seed, int):
        raise TypeError(f"seed must be an integer or None, got {type(seed).__name__}")
    backend, _, name = method.partition(":")
    if backend == "torchsde":
        if args:
            raise ValueError(f"args must be empty with torchsde, whose fields take (t, h); got {len(args)}")
        steps = [float(move) / n for move, n in zip(times.detach().diff().flatten(), counts, strict=False) if n]
        given = system, _as_given(noise, h0), h0, m0, times, min(steps, default=0.0), seed, gradient
        return solve_by_torchsde(name, *given)
    if method != "baoab":
        raise ValueError(f"method must be baoab or torchsde:<method>, got {method!r}")
    mode, _ = gradient_mode(gradient, {})
    if isinstance(mode, ContinuousAdjoint):
        raise ValueError("gradient must be discrete_adjoint, reversible or backprop with baoab, got continuous_adjoint")
    nodes, places = divided(times, counts)
    path = BrownianPath(seed, h0, halvings)
    solver = Baoab(path, nodes.detach())
    own_grid = times.ndim == 1 and not times.requires_grad
    grid = {"grid_constructor": lambda *_: nodes} if own_grid and len(nodes) > 1 else {}
    solution = hbodeint(
        _Noisy(system, _diffusion(noise, h0)),
        h0,
        t if own_grid else nodes,
        m0=m0,
        args=args,
        method=solver,
        gradient=mode,
        options=grid,
        throw=throw,
    )
    if own_grid:
        return solution
    h, m = (state[places] for state in solution if isinstance(state, Tensor))
    return Solution(t if isinstance(t, Tensor) else times, h, m, solution.stats)


class _Noisy(System):
    """A heavy ball with noise on its momentum."""

    damped = True

    def __init__(self, system: System, diffusion: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(system.f)
        self.system = system
        self.activation = system.activation
        self.gamma_of_time, self.xi_of_time = system.varying
        self.diffusion = diffusion

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        return self.system.coefficients(t)


def _as_given(noise: Noise, h0: Tensor) -> Tensor | Callable[[Tensor, Tensor], Tensor]:
    """Return σ as a function, or as a tensor in the dtype of h0 that broadcasts to it."""
    if callable(noise):
        return noise
    if not isinstance(noise, Tensor | float | int):
        raise TypeError(f"noise must be a number, a tensor or a function noise(t, h), got {type(noise).__name__}")
    value = torch.as_tensor(noise, device=h0.device).to(h0.dtype)
    if not bool(value.isfinite().all()):
        raise ValueError("noise must be finite, got NaN or Inf")
    return _fitting(value, h0)


def _diffusion(noise: Noise, h0: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return σ(t, h), with checks of what it returns."""
    given = _as_given(noise, h0)
    if isinstance(given, Tensor):
        return lambda t, h: given

    def diffusion(t: Tensor, h: Tensor) -> Tensor:
        value = given(t, h)
        if not isinstance(value, Tensor):
            raise TypeError(f"noise must return a tensor, got {type(value).__name__}")
        return _fitting(value, h)

    return diffusion


def _fitting(value: Tensor, h: Tensor) -> Tensor:
    """Return σ if it broadcasts to h."""
    if value.ndim > h.ndim or any(n not in (1, m) for n, m in zip(value.shape[::-1], h.shape[::-1], strict=False)):
        raise ValueError(f"noise must broadcast to h, {tuple(h.shape)}, got shape {tuple(value.shape)}")
    return value


def step_counts(times: Tensor, step_size: float | None, halvings: int = 0) -> list[int]:
    """Return the number of steps between requested times."""
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    if not isinstance(halvings, int) or halvings < 0:
        raise ValueError(f"halvings must be an integer from zero on, got {halvings}")
    moves = times.detach().diff()
    longest = (moves if times.ndim == 1 else moves.amax(0)).tolist()
    whole = [int(move > 0) if step_size is None else math.ceil(move / step_size * (1 - 1e-9)) for move in longest]
    return [n << halvings for n in whole]


def divided(times: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the ends of all steps, (N,) or (B, N), and the places of the requested times among them, (T,)."""
    number = torch.tensor(counts, dtype=torch.long, device=times.device)
    places = torch.cat((number.new_zeros(1), number.cumsum(0)))
    interval = torch.repeat_interleave(torch.arange(len(counts), device=times.device), number)
    share = (torch.arange(len(interval), device=times.device) - places[interval]) / number[interval].double()
    starts, ends = times[..., interval], times[..., interval + 1]
    return torch.cat((starts + share * (ends - starts), times[..., -1:]), -1), places
