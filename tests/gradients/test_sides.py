"""Gradients across discontinuities: a step sees the field from its own side, in every pass that evaluates it."""

from __future__ import annotations

import pytest
import torch

from hbode import FirstOrder, compat, hbodeint

ON_GRID = (
    *("implicit_euler", "prox_euler", "implicit_midpoint", "trapezoid", "sdirk2"),
    *("radauIIA3", "radauIIA5", "gl4", "gl6"),
)
ADAPTIVE = ("prox_cn", "prox_bdf2", "prox_bdf3", "prox_multistage3", "kvaerno3", "kvaerno5")
W, Y0 = 0.8, 1.0
EXACT = 1 / (1 + 10.5 * W * Y0)  # y(1) / y0 of y' = -w u(t) y², with u = 1 before 0.5 and 20 after
D_Y0 = EXACT**2
WITHIN = 0.02
"""More than ten times what 80 steps leave of it; a gradient from the wrong side is 12 to 53 percent off."""
FIRST_ORDER = ("implicit_euler", "prox_euler")
"""80 steps of these leave a tenth: the gradient of what they compute is known by differences."""


def field(w):
    return lambda t, y: -w * torch.where(t < 0.5, 1.0, 20.0) * y * y


@pytest.mark.parametrize("create_graph", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradient", ["backprop", "discrete_adjoint"])
@pytest.mark.parametrize("method", [*ON_GRID, *ADAPTIVE, "auto", "dopri5"])
def test_the_gradient_is_that_of_the_solution_on_both_sides_of_a_jump(method, gradient, create_graph):
    w = torch.tensor(W, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([Y0], dtype=torch.float64, requires_grad=True)
    options = {"jump_ts": [0.5]} | ({"step_size": 1 / 80} if method in ON_GRID else {})

    def end(w, y0):
        call = {"method": method, "rtol": 1e-7, "atol": 1e-7} if method in ON_GRID else {"method": method}
        return hbodeint(FirstOrder(field(w)), y0, [0.0, 1.0], gradient=gradient, options=options, **call).h[-1].sum()

    by_y0, by_w = torch.autograd.grad(end(w, y0), (y0, w), create_graph=create_graph)
    d_y0, d_w = D_Y0, -10.5 * D_Y0
    if method in FIRST_ORDER:
        with torch.no_grad():
            d_y0 = (end(w, y0 + 1e-4) - end(w, y0 - 1e-4)).item() / 2e-4
            d_w = (end(w + 1e-4, y0) - end(w - 1e-4, y0)).item() / 2e-4
    assert by_y0.item() == pytest.approx(d_y0, rel=WITHIN)
    assert by_w.item() == pytest.approx(d_w, rel=WITHIN)


@pytest.mark.parametrize("method", ["trapezoid", "sdirk2", "trbdf2", "radauIIA3", "gl4", "rk4"])
def test_perturbed_grids_of_compat_see_the_field_from_inside_each_step(method):
    y0 = torch.tensor([Y0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    end = compat.odeint(field(W), y0, t, method=method, options={"step_size": 1 / 80, "perturb": True})[-1]
    (by_y0,) = torch.autograd.grad(end.sum(), y0)
    assert by_y0.item() == pytest.approx(D_Y0, rel=WITHIN)
