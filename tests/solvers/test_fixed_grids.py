"""What steps on a fixed grid cost: evaluations, and the weights of Adams methods on any grid."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hbode.compat
from hbode import FirstOrder, hbodeint
from hbode._compat.methods import NAMES
from hbode.solvers.methods.adams import integration_weights, number_weights

METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "ralston": 2, "rk4": 4, "rk38": 4}
GRIDS: dict[str, dict[str, Any]] = {
    "given": {},
    "finer": {"step_size": 0.07},
    "cubic": {"step_size": 0.07, "interp": "cubic"},
    "perturbed": {"perturb": True},
}


class Counting(torch.nn.Module):
    """y' = -y + sin t, counting its calls and remembering the times of them."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.times.append(float(t.detach()))
        return torch.sin(t) - y


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_compat_calls_func_no_more_often_than_torchdiffeq(method: str, grid: str, steps: int) -> None:
    y0, t = torch.ones(3, dtype=torch.float64), torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    counts = []
    for library in (hbode.compat, torchdiffeq):
        f = Counting()
        # the corrector of implicit_adams stops where torchdiffeq's does, at a tolerance that both reach
        library.odeint(f, y0, t, method=method, options=GRIDS[grid], rtol=1e-3, atol=1e-3)
        counts.append(len(f.times))
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("method", STAGES)
@pytest.mark.parametrize("inside", [False, True])
def test_the_last_step_evaluates_nothing_at_its_end(method: str, inside: bool) -> None:
    f, steps = Counting(), 5
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if inside:  # outputs inside the last step are read off its interpolant, which needs the slope at its end
        t = torch.tensor([0.0, 0.93, 1.0], dtype=torch.float64)
    h0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    sol = hbodeint(FirstOrder(f), h0, t, method=method, options={"step_size": 1 / steps})
    assert sol.stats.nfe == len(f.times) == STAGES[method] * steps + inside
    f.times.clear()
    sol.h.sum().backward()
    assert sol.stats.nfe_backward == len(f.times) == STAGES[method] * steps + inside


def test_float32_increments_of_implicit_adams_converge() -> None:
    """Two iterates are compared by their increments: the rounding of a large state does not hide that they agree."""
    f = Counting()
    t = torch.linspace(0, 1, 21)
    hbode.compat.odeint(f, 1e3 * torch.ones(3), t, method="implicit_adams", rtol=1e-6, atol=1e-6)
    theirs = Counting()
    torchdiffeq.odeint(theirs, 1e3 * torch.ones(3), t, method="implicit_adams", rtol=1e-6, atol=1e-6)
    assert len(f.times) <= len(theirs.times)


@pytest.mark.parametrize("method", [m for m in NAMES if m != "scipy_solver"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_method_of_compat_evaluates_beyond_the_times(method: str, sign: float) -> None:
    f = Counting()
    t = sign * torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    hbode.compat.odeint(f, torch.ones(2, dtype=torch.float64), t, method=method, rtol=1e-6, atol=1e-6)
    assert all(0.0 <= sign * time <= 1.0 for time in f.times)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.2, 2.0), min_size=0, max_size=11), st.booleans())
def test_weights_of_numbers_are_those_of_tensors(gaps: list[float], implicit: bool) -> None:
    nodes = [0.0]
    for gap in gaps:
        nodes.append(nodes[-1] - gap)
    nodes = [1.0, *nodes] if implicit else nodes
    weights = number_weights(tuple(nodes))
    of_tensors = integration_weights(torch.tensor(nodes, dtype=torch.float64)).tolist()
    # each weight is a sum of at most seven terms of 3 k roundings; the terms are of the size of the largest weight
    size = max(map(abs, weights))
    assert all(abs(a - b) <= 7 * 36 * 2.2e-16 * size for a, b in zip(weights, of_tensors, strict=True))
    assert abs(math.fsum(weights) - 1) <= 7 * 36 * 2.2e-16 * math.fsum(map(abs, weights))


@pytest.mark.parametrize("solve", [hbode.compat.odeint, hbode.compat.odeint_adjoint])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3"])
def test_perturb_given_as_false_evaluates_both_ends_of_each_step(method: str, solve: Any) -> None:
    """That of the last step costs one evaluation in each pass, and changes nothing."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    results = []
    for more in ({}, {"perturb": False}):
        f, y0 = Counting(), torch.ones(2, dtype=torch.float64, requires_grad=True)
        y = solve(f, y0, t, method=method, options={"step_size": 0.25, **more})
        forward, f.times = f.times, []
        y[-1].sum().backward()
        results.append((y.detach(), y0.grad))
        assert {0.0, 0.25, 0.5, 0.75} <= {*forward} and (1.0 in forward) == bool(more)
        assert len(forward) == 4 * STAGES[method] + bool(more)
        if solve is hbode.compat.odeint_adjoint:
            assert {0.25, 0.5, 0.75} <= {*f.times} and (1.0 in f.times) == bool(more)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("method", ["heun3", "rk4", "rk38"])
def test_a_float32_step_is_rounded_to_its_state_once(method: str) -> None:
    """One step from 1 along slopes near 1/3 of length 1/7: half a unit in the last place, and the rounding of 1/21."""
    y0 = 1.0 + torch.arange(200) / 400.0
    options = {"step_size": 1 / 7}
    ends = [
        hbodeint(
            FirstOrder(lambda t, y: torch.full_like(y, 1 / 3) * (1 + t / 8)),
            y0.to(dtype),
            torch.tensor([0.0, 1 / 7], dtype=torch.float64),
            method=method,
            options=options,
        )
        .h[-1]
        .double()
        for dtype in (torch.float32, torch.float64)
    ]
    unit = torch.finfo(torch.float32).eps  # of numbers in [1, 2)
    assert (ends[0] - ends[1]).abs().max() <= (0.5 + 5 / 21) * unit
