"""By what factor one step of a method multiplies a linear mode: regions of stability.

Hairer, Wanner, Solving Ordinary Differential Equations II, 1996: IV.2, IV.3 (Runge-Kutta), V.1 (multistep methods).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...solvers import METHODS, Adams, Auto, Damping, Field, Implicit, Method, Settings, switching
from ...solvers.implicit.bdf import BDF
from ...solvers.implicit.equation import Answer, Equation


@torch.no_grad()
def amplification(method: str, rates: Tensor, dt: float, gamma: float | None = None) -> Tensor:
    """Return by what factor one step of length `dt` multiplies the size of a linear mode.

    The method itself takes the step, on the linear field; of an implicit one the stages are solved exactly. So the
    factor is that of the coefficients, without the error that an inner solver leaves.

    - One-step methods for y' = f: |R(dt λ)|, R the stability function. Implicit methods are the same on a heavy ball
      with h' = m, whose first-order form has the eigenvalues λ.
    - prox_bdf2, prox_bdf3, prox_bdf4: the largest root of the characteristic polynomial at constant steps, in modulus.
    - Damped methods (leapfrog, yoshida4, dprkn5, dprkn6, dprkn8): modes of h'' + γ h' = μ h come in pairs, λ and -γ - λ
      with μ = λ² + γ λ, and a step mixes both. The factor is the spectral radius of the step on (h, m): that of the
      mode of the two that grows faster, the same for λ and for -γ - λ. Only in the strip -γ <= Re λ <= 0, the
      imaginary axis without damping, does neither of them grow. ξ h counts as a part of the field.
    - auto: its explicit method, which is dprkn6 where γ is given and dopri5 elsewhere.

    Parameters
    ----------
    method
        A name in `hbode.METHODS` other than explicit_adams and implicit_adams.
    rates
        Eigenvalues λ of the Jacobian of the first-order form, finite, real or complex, any shape (...).
    dt
        Length of the step, positive.
    gamma
        Damping γ of the heavy ball (None: zero). Methods that are not damped do not depend on it.

    Returns
    -------
    Tensor
        Shape (...), float64, on the device of `rates`; inf at a pole and where the step overflows. Rounding takes its
        share of a state that a stage multiplies by dt λ, and so all of one beyond |dt λ| = 1e15.

    Raises
    ------
    ValueError
        For a method whose factor is not known, a `dt` that is not positive and finite, and values that are not finite.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import amplification
    >>> amplification("rk4", torch.tensor([-1.0, -30.0]), 0.1).abs() <= 1
    tensor([ True, False])
    """
    stepped = _stepped(method, gamma)
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt must be positive and finite, got {dt}")
    damping = 0.0 if gamma is None else dt * gamma
    if not math.isfinite(damping):
        raise ValueError(f"gamma must be finite, got {gamma}")
    z = dt * rates.detach().to(torch.complex128).reshape(-1)
    if not bool(z.isfinite().all()):
        raise ValueError("rates, and dt times them, must be finite")
    # In units of the step, the mode is that of a step of length one.
    if stepped.damped:
        mu = z * (z + damping)
        decay = Damping.of(torch.tensor(damping, dtype=torch.float64, device=z.device), None, z)
        field = Field(lambda t, h: mu * h, torch.float64, decay)
    else:
        field = Field(lambda t, y: z * y, torch.float64)
    matrices = _matrices(stepped, field, z)
    finite = matrices.isfinite().all(-1).all(-1)
    radii: Tensor = torch.linalg.eigvals(matrices.where(finite[:, None, None], 0.0)).abs().amax(-1)
    return radii.where(finite, math.inf).reshape(rates.shape)


def _stepped(name: str, gamma: float | None) -> Method:
    """Return the method that takes the step."""
    method = METHODS.get(name)
    if method is None or isinstance(method, Adams):
        known = ", ".join(key for key, other in METHODS.items() if not isinstance(other, Adams))
        reason = ""
        if method is not None:
            reason = ": the region of an Adams method is not available, its order and corrections follow the solution"
        raise ValueError(f"method must be one of {known}; got {name!r}{reason}")
    if isinstance(method, Auto):
        return switching(gamma is not None, Settings()).explicit
    return replace(method, settings=Settings(_solved)) if isinstance(method, Implicit) else method


def _matrices(method: Method, field: Field, z: Tensor) -> Tensor:
    """Return the matrices (n, k, k) of a step of length one, for n modes.

    They act on h and m of a damped method, on the last k states of BDF k, latest first, and on the state elsewhere.
    """
    t, dt = torch.tensor([0.0, 1.0], dtype=torch.float64, device=z.device).unbind()
    count = method.highest if isinstance(method, BDF) else 2 if method.damped else 1
    columns = []
    for unit in torch.eye(count, dtype=z.dtype, device=z.device):
        past = unit.unsqueeze(1).expand(count, len(z)).contiguous()
        carry = method.start(field, t, past if method.damped else past[0])
        if isinstance(method, BDF):
            carry = *carry[:2], past[1:], -torch.arange(1, count, dtype=t.dtype, device=z.device)
        y = method.step(field, t, dt, carry)[0][0]
        columns.append(y if method.damped else torch.cat((y.unsqueeze(0), past[:-1])))
    return torch.stack(columns, -1).transpose(0, 1)


def _solved(equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
    """Solve the linear equations of the stages of n modes, states (n,) or (s, n), as an inner solver."""
    shape = equation.shape
    stages = math.prod(shape[:-1])
    # Not by differences, which lose the Jacobian where the known part of a stage is large.
    with torch.enable_grad():
        point = torch.zeros(shape, dtype=torch.complex128, device=z.device, requires_grad=True)
        image = equation.r(point)
    eye = torch.eye(stages, dtype=point.dtype, device=z.device)
    units = eye.unsqueeze(-1).expand(stages, stages, shape[-1]).reshape(stages, *shape)
    rows = [torch.autograd.grad(image, point, unit, retain_graph=True)[0].conj() for unit in units]
    jacobian = torch.stack(rows).reshape(stages, stages, shape[-1]).movedim(-1, 0)
    known = image.detach().reshape(stages, shape[-1]).T.unsqueeze(-1)
    found, failed = torch.linalg.solve_ex(eye - jacobian, known)
    slopes = found.squeeze(-1).where(failed.unsqueeze(1) == 0, math.inf).T.reshape(shape)
    return Answer(equation.rows(slopes), torch.ones(1, dtype=torch.bool, device=z.device))
