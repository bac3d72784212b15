"""scipy's solution of a problem, by a right-hand side of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import solve_ivp

if TYPE_CHECKING:
    from stress.problems import Problem


def solution(
    problem: Problem, sample: int | None = None, shift: np.ndarray | None = None, back: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return scipy's solution y(t) as a function; from a shifted first state, or from the last one backwards."""
    one = problem if sample is None else problem.alone(sample)
    x = {k: v.detach() for k, v in one.values.items()}
    parts = [x["h0"]] + ([x["m0"]] if problem.second_order else [])
    y0 = torch.stack(parts).flatten().numpy() if back is None else back
    y0 = y0 if shift is None else y0 + shift
    shape = (len(parts), *x["h0"].shape)
    f = problem.field(x, "closure")
    gamma, xi = x.get("gamma", torch.tensor(0.0)), x.get("xi", torch.tensor(0.0))

    def rhs(t: float, y: np.ndarray, low: float, high: float) -> np.ndarray:
        at = torch.tensor(min(max(t, low), high), dtype=torch.float64)
        h, *m = torch.as_tensor(y).reshape(shape).unbind()
        if problem.case.system == "first":
            return f(at, h, x["arg"]).flatten().numpy()
        if problem.case.system == "second":
            return torch.stack((m[0], f(at, h, m[0], x["arg"]))).flatten().numpy()
        dh = torch.tanh(m[0]) if problem.case.system == "tanh" else m[0]
        return torch.stack((dh, f(at, h, x["arg"]) - gamma * m[0] - xi * h)).flatten().numpy()

    first, last = float(x["t"][0]), float(x["t"][-1])
    if back is not None:
        first, last = last, first
    inside = problem.case.field == "discontinuous" and min(first, last) < problem.jump < max(first, last)
    ends = [first, *([problem.jump] if inside else []), last]
    pieces = []
    for a, b in pairwise(ends):
        low, high = math.nextafter(min(a, b), math.inf), math.nextafter(max(a, b), -math.inf)
        done = solve_ivp(rhs, (a, b), y0, "DOP853", dense_output=True, rtol=1e-11, atol=1e-13, args=(low, high))
        assert done.success, done.message
        pieces.append((a, b, done.sol))
        y0 = done.y[:, -1]

    def at(times: np.ndarray) -> np.ndarray:
        out = []
        for t in np.atleast_1d(times):
            piece = next((s for a, b, s in pieces if min(a, b) <= t <= max(a, b)), pieces[-1][2])
            out.append(piece(t))
        return np.array(out).reshape(-1, *shape)

    return at
