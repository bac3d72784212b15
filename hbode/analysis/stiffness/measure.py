"""How stiff a system is along a trajectory: the eigenvalues of its Jacobian."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...setup.arguments import check_at_least, check_state, check_times
from ...solution import Solution
from ...systems import System
from ..linearised import check_independent
from .eigenvalues import Eigenvalues, eigenvalues_of
from .extremes import ends
from .jacobian import SystemStates
from .result import Rates, Stiffness


def stiffness(
    system: System,
    sol: Solution,
    *,
    args: tuple[Any, ...] = (),
    batch: bool | None = None,
    closed_form: bool = True,
    dense_limit: int = 512,
    tol: float = 1e-6,
    most: int = 2000,
    unit: str = "time units",
) -> Stiffness:
    """Measure how stiff a system is at the requested times of a solve, from the eigenvalues of its Jacobian.

    The Jacobian A = ∂(dy/dt)/∂y is that of the first-order form, y = (h, m) for a second-order system. Its eigenvalues
    λ are rates: a mode decays or grows like e^(Re λ t) and turns at the angular frequency Im λ, each in 1/time.

    stiffness ratio
        max |Re λ| / min |Re λ|, over the modes whose real part is not zero to rounding. Modes that neither decay nor
        grow (a conserved quantity, an undamped oscillation) have no time scale of decay to compare with; they are
        counted as `neutral`. NaN where all modes are.
    oscillatory stiffness
        max |λ|: what bounds the steps of an explicit method, also where the fast modes turn rather than decay. The
        lightly damped modes of a heavy ball all have Re λ = -γ/2, hence a ratio of one, and |λ| = √|μ|.
    stiffness index
        max |λ| · |T - t_0|: how many time units of the fastest mode the solve spans, to which the number of explicit
        steps is proportional once stability holds them back. Far above one: long; far above the number of steps that
        accuracy asks for: stiff.

    For a damped system with one γ for all entries, λ² + γ λ = μ with the eigenvalues μ of (∂f/∂h - ξ) diag σ'(m),
    so that a matrix of half the size is enough; it is symmetric for f = -∇V, and the eigenvalues are then exact to
    rounding. Other systems are looked at as a whole.

    Parameters
    ----------
    system
        The `System` that was solved.
    sol
        What `hbodeint(system, ...)` returned; times of shape (T,) or (B, T), real states.
    args
        The further arguments of f that the solve was given.
    batch
        Whether the first axis of h0 holds samples that do not interact; each then has a Jacobian of its own. Default:
        whether h0 has two axes or more.
    closed_form
        Whether to use λ² + γ λ = μ where it applies.
    dense_limit
        Matrices are formed for P up to this, P being the entries of a sample's first-order state. Beyond it, the ends
        of the spectrum come from Lanczos' method, if the Jacobian is symmetric, or Arnoldi's, at a memory of a few
        vectors or of 40. The ratio is then known where all modes decay, or all grow: min |Re λ| is an end of the
        spectrum there.
    tol, most
        Of these methods: the relative error asked for, and the most products with the Jacobian for a state and search.
    unit
        Of time, for the labels.

    Returns
    -------
    Stiffness
        Values per time and sample, on the device of the state; a `Report`, with `plot_spectrum` beside.

    Raises
    ------
    TypeError
        If `system` is no `System`, `sol` no `Solution`, or the state is complex.
    ValueError
        If samples interact, γ or ξ differ between samples, or a number is out of range.

    Source: Xia et al., "Heavy Ball Neural Ordinary Differential Equations", NeurIPS 2021; Lambert, Numerical Methods
    for Ordinary Differential Systems, 1991, chapter 6 (stiffness ratio); Shampine, Gear, SIAM Review 21, 1979 (that it
    is the steps against the span that matter).

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, hbodeint
    >>> from hbode.analysis import stiffness
    >>> system = FirstOrder(lambda t, h: -h * torch.tensor([1.0, 50.0]))
    >>> sol = hbodeint(system, torch.ones(1, 2), [0.0, 1.0], dense=True)
    >>> round(float(stiffness(system, sol).largest.max()), 2)
    50.0
    """
    if not isinstance(sol, Solution):
        raise TypeError(f"sol must be the Solution of hbodeint, got {type(sol).__name__}; see stiffness_at for states")
    states = _trajectory(system, sol.t, sol.h, sol.m, args, batch)
    return _measured(states, sol.stats.dt, closed_form, dense_limit, tol, most, unit)


def stiffness_at(
    system: System,
    t: Tensor | list[float] | tuple[float, ...],
    h: Tensor,
    m: Tensor | None = None,
    *,
    args: tuple[Any, ...] = (),
    batch: bool | None = None,
    closed_form: bool = True,
    dense_limit: int = 512,
    tol: float = 1e-6,
    most: int = 2000,
    unit: str = "time units",
) -> Stiffness:
    """Measure how stiff a system is at given states; see `stiffness`.

    Parameters
    ----------
    system
        A `System`.
    t
        Times, monotone, shape (T,), or (B, T) for samples with times of their own.
    h, m
        States at these times, (T, ...); m for second-order systems alone (default: zero).
    args, batch, closed_form, dense_limit, tol, most, unit
        As in `stiffness`.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder
    >>> from hbode.analysis import stiffness_at
    >>> system = FirstOrder(lambda t, h: -h * torch.tensor([1.0, 50.0]))
    >>> round(float(stiffness_at(system, [0.0], torch.ones(1, 1, 2)).largest.max()), 2)
    50.0
    """
    states = _trajectory(system, t, h, m, args, batch)
    return _measured(states, None, closed_form, dense_limit, tol, most, unit)


@torch.inference_mode(False)
@torch.no_grad()
def _measured(
    trajectory: SystemStates,
    steps: Tensor | None,
    closed_form: bool,
    dense_limit: int,
    tol: float,
    most: int,
    unit: str,
) -> Stiffness:
    check_at_least(0, dense_limit=dense_limit)
    check_at_least(1, most=most)
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}")
    if trajectory.samples > 1:
        check_independent(trajectory.linearised(0), "h")
    reduced = closed_form and trajectory.damped and trajectory.coefficients()[0].ndim == 0
    if trajectory.size <= dense_limit:
        rates, values, how = _dense(trajectory, closed_form)
        notes: list[str] = []
    else:
        rates, notes, how = _matrix_free(trajectory, reduced, tol, most)
        values = None
    if reduced:
        how += ", λ² + γ λ = μ"
    shaped = trajectory.layout.per_sample
    times = trajectory.t
    gamma, xi = trajectory.coefficients() if reduced else (None, None)
    return Stiffness(
        system=type(trajectory.system).__name__,
        t=times,
        eigenvalues=None if values is None else shaped(values),
        span=(times[-1] - times[0]).abs(),
        gamma=None if gamma is None else float(gamma),
        xi=None if xi is None or xi.ndim else float(xi),
        how=how,
        notes=tuple(notes),
        steps=steps,
        unit=unit,
        **vars(rates.each(shaped)),
    )


@torch.inference_mode(False)
def _trajectory(
    system: System, t: Any, h: Tensor, m: Tensor | None, args: tuple[Any, ...], batch: bool | None
) -> SystemStates:
    if not isinstance(system, System):
        raise TypeError(f"system must be a System such as HeavyBall or FirstOrder, got {type(system).__name__}")
    check_state(h, m, system)
    if h.is_complex():
        raise TypeError(f"h must be real, got {h.dtype}")
    if h.ndim == 0 or h.numel() == 0:
        raise ValueError(f"h must have shape (T, ...) with entries, got {tuple(h.shape)}")
    times = check_times(t, h[0], False).detach()
    if times.shape[-1] != len(h):
        raise ValueError(f"t must have one entry for each of the {len(h)} rows of h, got {times.shape[-1]}")
    batched = h.ndim >= 3 if batch is None else batch
    if batched and h.ndim == 1:
        raise ValueError("batch must be False for states of shape (), got True")
    if times.ndim == 2:
        times = times.T
    h = h.detach()
    y = h
    if system.second_order:
        y = torch.stack((h, torch.zeros_like(h) if m is None else m.detach()), 1)
    return SystemStates(system, args, times, y, batched)


def _dense(trajectory: SystemStates, closed_form: bool) -> tuple[Rates, Tensor, str]:
    parts: list[Eigenvalues] = [eigenvalues_of(blocks, closed_form) for _, blocks in trajectory.chunks()]
    values, floor, log_norm = (torch.cat(x) for x in zip(*parts, strict=True))
    real = values.real.abs()
    neutral = real <= floor.unsqueeze(1)
    lost = floor.isnan()
    slowest = real.where(~neutral, math.inf).amin(1)
    found = Rates(
        fastest=real.amax(1),
        slowest=slowest.where(slowest.isfinite(), math.nan),
        largest=values.abs().amax(1),
        abscissa=values.real.amax(1),
        log_norm=log_norm,
        growing=(values.real > floor.unsqueeze(1)).sum(1).where(~lost, -1),
        neutral=neutral.sum(1).where(~lost, -1),
    )
    shape = len(trajectory.y), trajectory.samples
    return found.each(lambda x: x.reshape(shape)), values.reshape(*shape, -1), "matrices"


def _matrix_free(trajectory: SystemStates, reduced: bool, tol: float, most: int) -> tuple[Rates, list[str], str]:
    found = (ends(trajectory, n, reduced, tol, most) for n in range(len(trajectory.y)))
    values, converged, by = zip(*found, strict=True)
    left, right, size, norm = torch.stack(values, 1)
    good = torch.stack(converged, 1)
    rounding = 8 * torch.finfo(size.dtype).eps * size
    one_sided = torch.where(right < -rounding, -right, torch.where(left > rounding, left, math.nan))
    known = torch.where(right < 0, good[1], good[0])
    notes = [
        f"{name}: not found to {tol:g} at {int((~ok).sum())} of {ok.numel()} states after {most} products; the "
        "nearest seen is given"
        for name, ok in zip(("least Re λ", "largest Re λ", "largest |λ|", "logarithmic norm"), good, strict=True)
        if not bool(ok.all())
    ]
    if bool(one_sided.isnan().any()):
        notes.append(
            "stiffness ratio: unknown where some modes decay and others do not; min |Re λ| is then inside the spectrum"
        )
    rates = Rates(
        fastest=torch.maximum(left.abs(), right.abs()),
        slowest=one_sided.where(known, math.nan),
        largest=size,
        abscissa=right,
        log_norm=norm,
    )
    return rates, notes, "products, " + " and ".join(sorted(set(by)))
