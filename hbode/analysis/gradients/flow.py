"""A certificate that gradients through a heavy ball do not vanish."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...integrate import hbodeint
from ...output.trajectory import Trajectory
from ...setup.arguments import as_coefficient, check_at_least
from ...solution import Solution, SolverError
from ...systems import FirstOrder, System
from ..inputs import Loss
from ..linearised import of_channels
from .flow_result import GradientFlow, NodeFlow
from .matrix_free import matrix_free_spectrum
from .propagator import Propagator, PropagatorError
from .spectrum import Spectrum, dense_spectrum, eigenvalue_pairs


@torch.inference_mode(False)
@torch.no_grad()
def gradient_flow(
    system: System,
    sol: Solution,
    *,
    loss: Loss | None = None,
    batch: bool | None = None,
    gradient_field: bool | None = None,
    node: bool = True,
    dense_limit: int = 128,
    nodes: int = 9,
    probes: int = 16,
    tol: float | None = None,
    unit: str = "time units",
) -> GradientFlow:
    """Check on a solve that gradients through a heavy ball do not vanish, and what the NODE of the same f does.

    Φ(T, t_n), the product of the Jacobians of the accepted steps from t_n on, is the propagator of the discrete
    solution. With Γ = γ (T - t), these claims hold for h' = σ(m), m' = -γ m + f(t, h) - ξ h with any f and any
    elementwise σ, in either direction of time. A residual is the largest miss over nodes and samples.

    determinant
        det Φ = exp(-Σ_i γ_i (T - t)). Residual: the difference of the logarithms.
    eigenvalue_pairing
        For one γ: the eigenvalues of ∫_t^T A ds, A the Jacobian of the first-order form, pair to sums of -Γ.
        Residual: relative to their condition, and to the largest if that exceeds one (see `pairing_gap`); None if
        matrix-free.
    singular_value_pairing
        For one γ and f = -∇V: Φᵀ Ω Φ = e^(-Γ) Ω, so the singular values pair to products of e^(-Γ). Residual: the
        differences in the single steps, relative to ‖J_n‖² and summed.
    lower_bound
        The largest singular value and the root mean square of all are at least exp(-γ̄ (T - t) / 2), the geometric
        mean of all (γ̄: mean of γ over the channels). Residual: the share by which either is below.

    Parameters
    ----------
    system
        The `HeavyBall` or `GeneralizedHeavyBall` that was solved.
    sol
        ``hbodeint(system, h0, t, ..., dense=True)`` of a real state, with one time axis and a one-step method.
    loss
        ``loss(h_T, m_T)`` returns one number from two tensors of the shape of h0, summed over a batch. The NODE is
        given zeros for m_T.
    batch
        Whether the first axis of h0 holds samples that do not interact; Φ is then that of one sample. Default:
        whether h0 has two axes or more.
    gradient_field
        Whether f = -∇V. Default: whether ∂f/∂h is symmetric along the solution, to 1e-8 in float64.
    node
        Whether to solve the NODE h' = f(t, h) from h0 over the same span, by dopri5 at the same tolerances and with
        steps no longer than those of the heavy ball.
    dense_limit
        Matrices are formed for 2N up to this, N being the entries of a sample. Beyond it, determinants and root mean
        squares are averages over random probes, whose residuals leave out four standard errors, and singular values
        come from Lanczos' method.
    nodes
        At how many nodes, evenly chosen, eigenvalue pairs are checked, and singular values measured if matrix-free.
    probes
        Pairs of random vectors of a matrix-free analysis, drawn from a generator with a fixed seed.
    tol
        What the residuals are held against. The claims are exact for exact solutions, and every step adds an error of
        the order of its tolerance. Default: 10 max(rtol, atol) for each adaptive step, at least √eps of the
        dtype. On a fixed grid √eps alone, which asks for a method with these properties at any step, like leapfrog,
        or for small steps.
    unit
        Of time, for the labels.

    Returns
    -------
    GradientFlow
        Its `holds` is the verdict; `plot` draws it.

    Raises
    ------
    TypeError
        If the system is no heavy ball, the state is complex, or the loss is not one real number.
    ValueError
        If the solve cannot be followed (see `Solution.trajectory`) or is one of another system, samples interact, or
        the loss does not depend on the state.

    Source: Xia et al., "Heavy Ball Neural Ordinary Differential Equations", NeurIPS 2021.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.analysis import gradient_flow
    >>> system = HeavyBall(lambda t, h: -torch.sin(h), 0.2, trainable=False)
    >>> sol = hbodeint(system, torch.ones(1, 2, dtype=torch.float64), torch.linspace(0, 2, 5), dense=True)
    >>> flow = gradient_flow(system, sol)
    >>> bool((flow.measured >= 0.99 * flow.bound).all())
    True
    """
    if not (isinstance(system, System) and system.second_order and system.damped):
        raise TypeError(f"system must be a HeavyBall or GeneralizedHeavyBall, got {type(system).__name__}")
    check_at_least(2, nodes=nodes, probes=probes)
    check_at_least(0, dense_limit=dense_limit)
    propagator = Propagator(sol, batch)
    steps = propagator.steps
    _check_system(system, steps)
    gamma = of_channels("gamma", steps.gamma, steps.h0, propagator.samples).cpu()
    one = float(gamma) if gamma.ndim == 0 else None
    total = float(gamma.expand(propagator.size // 2).sum())

    matrices = propagator.size <= dense_limit

    def chosen(steps: int) -> list[int]:
        """Return the nodes where not all of them are looked at."""
        return sorted({round(i) for i in torch.linspace(0, steps, nodes).tolist()})

    def spectrum_of(propagator: Propagator, gamma: float | None) -> Spectrum:
        gradient = None if loss is None else propagator.loss_gradient(loss)
        if matrices:
            return dense_spectrum(propagator, gradient, gamma)
        return matrix_free_spectrum(propagator, gradient, gamma, chosen(propagator.count), probes)

    spectrum, some = spectrum_of(propagator, one), chosen(propagator.count)
    gap = eigenvalue_pairs(propagator, one, some) if matrices and one is not None else None
    eps = torch.finfo(propagator.dtype).eps
    if gradient_field is None:
        gradient_field = propagator.asymmetry(some, matrices) <= max(1e-8, 100 * eps)
    paired = gradient_field and one is not None

    left = (propagator.t[-1] - propagator.t).unsqueeze(1)
    log_bound = -total / propagator.size * left
    residuals = {
        "determinant": _determinant_miss(spectrum, -total * left),
        "eigenvalue_pairing": gap,
        "singular_value_pairing": float(spectrum.conformal.max()) if paired else None,
        "lower_bound": _undershot(spectrum, log_bound),
    }
    if tol is None:
        largest = max(float(torch.as_tensor(x).max()) for x in (steps.rtol, steps.atol))
        tol = max(eps**0.5, 10 * propagator.count * largest if steps.adaptive else 0.0)

    flow = _node_flow(propagator, spectrum_of, loss, spectrum.notes) if node else None
    shaped = propagator.layout.per_sample
    errors = {"log_det": shaped(spectrum.log_det_error), "rms": shaped(spectrum.log_rms_error)}
    return GradientFlow(
        t=propagator.t,
        bound=log_bound[:, 0].exp(),
        sigma_min=shaped(spectrum.log_smallest.exp()),
        log_det=shaped(spectrum.log_det),
        pair_sums=shaped(spectrum.pair_sums) if paired else None,
        residuals=residuals,
        tolerance=tol,
        gradient_field=gradient_field,
        node=flow,
        notes=tuple(spectrum.notes),
        standard_errors=None if matrices else errors,
        unit=unit,
        **_sizes(propagator, spectrum, loss),
    )


def _check_system(system: System, steps: Trajectory) -> None:
    """Raise unless it is the system that was solved."""
    if not steps.is_of(system):
        raise ValueError("system must be the one that sol was solved with; their fields f differ")
    pairs = zip(("gamma", "xi"), system.coefficients(), (steps.gamma, steps.xi), strict=True)
    for name, own, solved in pairs:
        a, b = (0.0 if x is None else as_coefficient(x.detach(), steps.h0) for x in (own, solved))
        if not bool(torch.eq(torch.as_tensor(a), torch.as_tensor(b)).all()):
            raise ValueError(f"system must be the one that sol was solved with; {name} has changed since")


def _determinant_miss(spectrum: Spectrum, expected: Tensor) -> float:
    if not spectrum.positive:
        return math.inf
    return float(((spectrum.log_det - expected).abs() - 4 * spectrum.log_det_error).clamp(min=0.0).max())


def _undershot(spectrum: Spectrum, log_bound: Tensor) -> float:
    """Return the largest share by which σ_max or the rms are below the bound, where they were measured."""
    above = torch.stack((spectrum.log_largest, spectrum.log_rms + 4 * spectrum.log_rms_error)) - log_bound
    lowest = above[~above.isnan()].min()
    return max(0.0, -math.expm1(min(float(lowest), 0.0)))


def _node_flow(
    propagator: Propagator,
    spectrum_of: Callable[[Propagator, None], Spectrum],
    loss: Loss | None,
    notes: list[str],
) -> NodeFlow | None:
    """Solve the NODE of the same f over the same span and analyse it; on failure add a note."""
    steps, batched = propagator.steps, propagator.layout.axis is not None

    def force(t: Tensor, h: Tensor) -> Tensor:
        change = steps.slope(t, torch.stack((h, torch.zeros_like(h))))[1]
        return change if steps.xi is None else change + steps.xi.to(h.dtype) * h

    # Tolerances for (h, m) serve the NODE with their part for h.
    rtol, atol = (x[0] if isinstance(x, Tensor) and x.ndim > steps.h0.ndim else x for x in (steps.rtol, steps.atol))
    options: dict[str, object] = {"jump_ts": list(steps.jumps), "max_steps": steps.max_steps}
    # At a rest point the error is zero at any step, and steps so long that they are unstable would amplify.
    options["max_step"] = max(abs(b - a) for a, b in pairwise(steps.times))
    span = [steps.times[0], steps.times[-1]]
    given: dict[str, Any] = {"method": "dopri5", "rtol": rtol, "atol": atol, "dense": True, "options": options}
    try:
        other = Propagator(hbodeint(FirstOrder(force), steps.h0.clone(), span, **given), batched)
        spectrum = spectrum_of(other, None)
    except (SolverError, PropagatorError) as error:
        notes.append(f"NODE: {error}")
        return None
    notes += [f"NODE: {note}" for note in spectrum.notes]
    return NodeFlow(t=other.t, log_det=other.layout.per_sample(spectrum.log_det), **_sizes(other, spectrum, loss))


def _sizes(propagator: Propagator, spectrum: Spectrum, loss: Loss | None) -> dict[str, Any]:
    shaped = propagator.layout.per_sample
    return {
        "measured": shaped(spectrum.log_largest.exp()),
        "rms": shaped(spectrum.log_rms.exp()),
        "gradient_norm": None if loss is None else shaped(spectrum.log_gradient.exp()),
    }
