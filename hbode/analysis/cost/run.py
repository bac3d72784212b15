"""One solve of `profile`: what it cost, and how exact it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One solve by one method at one tolerance, forward and backward. Of a failed one, numbers are NaN or None.

    Attributes
    ----------
    method, tolerance
        What was run; the tolerance (rtol = atol) is NaN for a method without an error estimate.
    nfe, nfe_backward, products, accepted, rejected, stiffness
        As in `Stats`.
    t, dt
        Where the accepted steps start, and their lengths, (n,) each, float64 on the CPU, in the unit of time.
    error
        Root mean square difference of (h, m) from the reference over the requested times, relative to the root mean
        square of the reference (as it is where that is zero). NaN if the reference failed.
    seconds_forward, seconds_backward
        Medians over the repeats.
    seconds_forward_range, seconds_backward_range
        Least and most.
    peak_bytes
        The most memory that forward and backward together held at a time, over what was held before. None where it
        was not measured.
    failure
        Why the solve failed; None if it did not.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import profile
    >>> inputs = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]
    >>> run = profile(lambda t, h: -h, inputs, methods=("dopri5",), tolerances=(1e-3,), repeats=1).runs[0]
    >>> run.nfe > 0, run.error < 0.1
    (True, True)
    """

    method: str
    tolerance: float
    nfe: int | None = None
    nfe_backward: int | None = None
    products: int | None = None
    accepted: int | None = None
    rejected: int | None = None
    stiffness: float = math.nan
    t: Tensor
    dt: Tensor
    error: float = math.nan
    seconds_forward: float = math.nan
    seconds_forward_range: tuple[float, float] = (math.nan, math.nan)
    seconds_backward: float = math.nan
    seconds_backward_range: tuple[float, float] = (math.nan, math.nan)
    peak_bytes: int | None = None
    failure: str | None = None
