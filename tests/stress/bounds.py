"""What the checks share: how a difference is told, and what is allowed."""

from __future__ import annotations

import numpy as np
import torch
from stress.cases import Case
from stress.problems import Problem
from stress.reference import solution

LOCAL = 10.0
"""How much the error of a step may exceed its estimate, and the growth of errors that of the shift that was measured:
one factor for both."""
FLOORS = {"complex128": 1e-10, "float64": 1e-10, "float32": 1e-5}
"""Below this, relative to the state, scipy's own error shows, that of inner solvers, or rounding."""
AT_KINKS = 1e-6
"""As `FLOORS` where the field has kinks: thirty times what scipy was seen to leave of one, against four methods."""
TIGHT = {"rtol": 1e-11, "atol": 1e-12}
"""For implicit methods on fixed grids, where the tolerances are those of the inner solver alone."""


class Difference(AssertionError):
    """A check that failed."""


class Kink(Exception):
    """Nearby problems differ in kind, as where an event is in one step or the next: no derivative to compare."""


def floor(case: Case) -> float:
    """Return the error, relative to the state, that is none of the solve."""
    return max(FLOORS[case.dtype], AT_KINKS if case.field == "kinked" else 0.0)


def require(found: float, allowed: float, what: str) -> None:
    if not found <= allowed:
        raise Difference(f"{what}: {found:.3e} is more than {allowed:.3e}")


def scale_and_growth(problem: Problem, sample: int | None, exact) -> tuple[float, float]:
    """Return the largest component of the solution, and how much a small shift of the first state grows."""
    t = problem.values["t"]
    t = (t[sample] if sample is not None and t.ndim == 2 else t).numpy()
    times = np.linspace(t[0], t[-1], 9)
    y = exact(times)
    rng = np.random.default_rng(problem.case.seed)
    shift = 1e-6 * rng.standard_normal(y[0].size)
    moved = solution(problem, sample, shift=shift)(times)
    growth = np.abs(moved - y).max() / np.abs(shift).max()
    return float(np.abs(y).max()), max(1.0, float(growth))


def rows_of(problem: Problem, sol, sample: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the times, and the states (T, parts, ...) of a sample or of the batch."""
    parts = torch.stack([sol.h] + ([sol.m] if sol.m is not None else []), 1).detach()
    t = problem.values["t"]
    if sample is not None:
        parts, t = parts[:, :, sample : sample + 1], t[sample] if t.ndim == 2 else t
    return t.numpy(), parts.numpy()
