"""Other libraries' integrators, for reference: no tape, no dense output, their own step control.

They load where they are used: they take as long as torch does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..field import Field

SCIPY_METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")


class ReferenceRows(NamedTuple):
    """The states at the requested times (T, *y), NaN where they were not reached, and why not."""

    rows: Tensor
    failure: str | None


def solve_scipy(
    method: str, field: Field, y0: Tensor, times: Tensor, rtol: float, atol: float, options: dict[str, Any]
) -> ReferenceRows:
    """Integrate with `scipy.integrate.solve_ivp`, in float64 on the host; there is no gradient.

    Parameters
    ----------
    method
        One of scipy's `solve_ivp` methods.
    field
        Right-hand side of y' = field(t, y).
    times
        (T,) float64.
    options
        Passed to `solve_ivp`.
    """
    from scipy.integrate import solve_ivp

    complex_state = y0.is_complex()
    dtype = torch.complex128 if complex_state else torch.float64

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y).to(dtype).view(y0.shape).to(y0)
        with torch.no_grad():
            out = field(torch.tensor(t, dtype=torch.float64, device=y0.device), state)
        return np.asarray(out.detach().cpu().to(dtype).reshape(-1).numpy())

    t = times.detach().cpu().double().numpy()
    start = y0.detach().cpu().to(dtype).reshape(-1).numpy()
    points, places = np.unique(t, return_inverse=True)
    if len(points) == 1:
        return ReferenceRows(y0.detach().unsqueeze(0).expand(len(t), *y0.shape).clone(), None)
    backward = t[-1] < t[0]
    result = solve_ivp(
        rhs,
        (t[0], t[-1]),
        start,
        method=method,
        t_eval=points[::-1] if backward else points,
        rtol=rtol,
        atol=atol,
        **options,
    )
    rows = np.full((len(points), start.size), np.nan, dtype=start.dtype)
    rows[: result.y.shape[1]] = result.y.T
    rows = rows[len(points) - 1 - places if backward else places]
    full = torch.from_numpy(rows).to(y0.device, y0.dtype).view(len(t), *y0.shape)
    return ReferenceRows(full, None if result.success else str(result.message))


def solve_torchdiffeq(
    method: str, field: Field, y0: Tensor, times: Tensor, rtol: Any, atol: Any, options: dict[str, Any]
) -> ReferenceRows:
    """Integrate with `torchdiffeq.odeint`; gradients by backpropagation through its operations."""
    import torchdiffeq

    distinct, places = torch.unique_consecutive(times, return_inverse=True)
    if len(distinct) == 1:
        return ReferenceRows(y0.unsqueeze(0).expand(len(times), *y0.shape), None)
    try:
        rows = torchdiffeq.odeint(field, y0, distinct, rtol=rtol, atol=atol, method=method, options=options or None)
    except AssertionError as error:
        return ReferenceRows(y0.detach().new_full((len(times), *y0.shape), float("nan")), str(error))
    return ReferenceRows(rows[places], None)
