"""Measured orders of convergence, of the steps and of their interpolants, on a problem with a known solution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hbode import METHODS, FirstOrder, hbodeint

END = 2.0
# Steps over [0, END] for each order: few enough that the smallest error stays a hundred times above the rounding of
# such a solve, and enough that the leading term of the error dominates.
STEPS = {
    1: (64, 96, 128),
    2: (48, 64, 96),
    3: (48, 64, 96),
    4: (64, 96, 128),
    5: (48, 64, 96),
    6: (12, 16, 24),
    8: (4, 6, 8, 12),
}
NAMES = [name for name in METHODS if name != "auto"]  # whose steps are those of others


def slope(counts, errors):
    """Order of convergence: minus the slope of log error over log number of steps."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def solved(problem, name, sign=1.0, **options):
    if name == "implicit_adams":
        options["max_iters"] = 60
    h0, m0 = problem.start()
    return hbodeint(
        problem,
        h0,
        [0.0, sign * END],
        m0=m0,
        gamma=problem.gamma,
        xi=problem.xi,
        method=name,
        rtol=1e-13,
        atol=1e-13,
        dense=True,
        options=options,
    )


def distance(problem, sol, t):
    h, m = sol(t)
    t = t.unsqueeze(-1)
    return max((h - problem.h(t)).abs().max().item(), (m - problem.m(t)).abs().max().item())


@pytest.mark.parametrize("sign", [1.0, pytest.param(-1.0, marks=pytest.mark.slow)], ids=["forward", "backward"])
@pytest.mark.parametrize("name", NAMES)
def test_order_of_every_method(manufactured, name, sign):
    """Damped, restored, driven, nonlinear: both γ and ξ are positive, so that Nystrom methods transform both away."""
    problem, order = manufactured(0.3, 0.7), METHODS[name].order
    end = torch.tensor([sign * END], dtype=torch.float64)
    errors = [distance(problem, solved(problem, name, sign, step_size=END / n), end) for n in STEPS[order]]
    assert abs(slope(STEPS[order], errors) - order) < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_order_of_every_interpolant(manufactured, name):
    """Between the steps: the order of the method, or of the interpolant where that is less.

    A polynomial that is correct to order q leaves O(dt^(q+1)) inside a step; cubic Hermite interpolation has q = 3.
    """
    method = METHODS[name]
    q = method.tableau.dense_order if hasattr(method, "tableau") else 3
    expected = min(method.order, q + 1)
    counts = STEPS[method.order]
    problem, errors = manufactured(0.3, 0.7), []
    for n in counts:
        inside = (torch.arange(n, dtype=torch.float64).unsqueeze(1) + torch.tensor([0.21, 0.37, 0.83])) * (END / n)
        errors.append(distance(problem, solved(problem, name, step_size=END / n), inside.flatten()))
    assert abs(slope(counts, errors) - expected) < 0.25


@pytest.mark.parametrize("name", ["explicit_adams", "implicit_adams"])
def test_adams_keep_their_order_on_uneven_grids(manufactured, name):
    """Steps of ratio 1 : 2 : 1.5 : 0.5, over and over: weights for equal steps would leave order one."""
    problem, errors, counts = manufactured(0.3, 0.7), [], (32, 48, 64, 96)
    for n in counts:
        nodes = torch.tensor([1.0, 2.0, 1.5, 0.5], dtype=torch.float64).repeat(n // 4).cumsum(0)
        grid = torch.cat((torch.zeros(1, dtype=torch.float64), nodes / nodes[-1] * END))
        sol = solved(problem, name, grid_constructor=lambda f, h, t, grid=grid: grid)
        assert sol.stats.accepted == n
        errors.append(distance(problem, sol, torch.tensor([END], dtype=torch.float64)))
    assert abs(slope(counts, errors) - 4) < 0.25


@pytest.mark.parametrize(
    "name, max_order",
    [*(("explicit_adams", k) for k in (1, 2, 3, 6, 8)), *(("implicit_adams", k) for k in (2, 3, 6, 8, 12))],
)
def test_adams_of_every_order(manufactured, name, max_order):
    """Orders above four gain on a smooth problem once the history is full.

    The fourth-order starting steps leave an error O(dt^5) in all, so five is the most that can be seen; beyond that
    the error must be well below that of order four at the same steps (measured: a seventh or less).
    """
    problem, counts = manufactured(0.3, 0.7), (64, 96, 128)
    end = torch.tensor([END], dtype=torch.float64)

    def errors(order):
        return [distance(problem, solved(problem, name, step_size=END / n, max_order=order), end) for n in counts]

    measured = errors(max_order)
    if max_order < 4:
        assert abs(slope(counts, measured) - max_order) < 0.25
    else:
        assert slope(counts, measured) > 4.5
        assert measured[-1] < errors(4)[-1] / 4


def test_explicit_adams_of_order_twelve_integrates():
    """On a quadrature, where no step can be unstable: the region of stability of order twelve is minute."""
    counts = (32, 48, 64)

    def errors(order):
        found = []
        for n in counts:
            options = {"step_size": END / n, "max_order": order}
            h0 = torch.zeros(1, dtype=torch.float64)
            field = FirstOrder(lambda t, h: torch.cos(3 * t).expand_as(h))
            h, _ = hbodeint(field, h0, [0.0, END], method="explicit_adams", options=options)
            found.append(abs(h[-1].item() - math.sin(3 * END) / 3))
        return found

    measured = errors(12)
    assert slope(counts, measured) > 4.75  # the starting steps: O(dt^5)
    assert measured[-1] < errors(4)[-1] / 4


def test_every_order_has_its_steps():
    assert {method.order for method in METHODS.values()} <= set(STEPS)
