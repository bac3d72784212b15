"""Derivatives of any order by backpropagation, of second order by the discrete adjoint, and in forward mode."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad, gradgradcheck

from hbode import Event, hbodeint

GRID = {"options": {"step_size": 0.125}}


def solved(net, gradient, **call):
    """The last position and momentum as a function of h0."""

    def solve(h0):
        sol = hbodeint(net, h0, [0.0, 0.3, 0.5], gradient=gradient, **call)
        return torch.cat((sol.h[-1], sol.m[1]))

    return solve


@pytest.mark.parametrize("gradient", ["backprop", "discrete_adjoint", "reversible"])
@pytest.mark.parametrize("method", ["dprkn6", "dopri5", "leapfrog", "rk4"])
def test_second_derivatives_against_differences(net, draw, gradient, method):
    solve = solved(net(), gradient, method=method, **GRID)
    assert gradgradcheck(solve, (draw(1, 2, grad=True),), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "discrete_adjoint"])
def test_third_derivatives(net, draw, gradient):
    """Of a solve of h'' = -h³ from rest, against central differences of the second: truncation and rounding 1e-8."""

    def second(h0):
        h0 = h0.detach().requires_grad_()
        sol = hbodeint(lambda t, h: -(h**3), h0, [0.0, 1.0], gamma=0.1, gradient=gradient, **GRID)
        (first,) = torch.autograd.grad(sol.h[-1].sum(), h0, create_graph=True)
        (out,) = torch.autograd.grad(first.sum(), h0, create_graph=True)
        return h0, out

    h0 = torch.tensor([0.8, 1.3], dtype=torch.float64)
    inner, value = second(h0)
    (third,) = torch.autograd.grad(value.sum(), inner)
    eps = 1e-4
    expected = (second(h0 + eps)[1] - second(h0 - eps)[1]) / (2 * eps)
    assert torch.allclose(third, expected, rtol=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("gradient", ["backprop", "discrete_adjoint"])
def test_derivatives_of_the_time_of_an_event(gradient, per_sample):
    """Free fall from h0, h'' = -2, meets zero at √h0, and the interpolant of the parabola is exact."""
    h0 = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    event = Event(lambda t, h, m: h if per_sample else h[0])
    sol = hbodeint(
        lambda t, h: torch.full_like(h, -2.0) + 0.0 * h,
        h0,
        [0.0, 5.0],
        gamma=0.0,
        event=event,
        gradient=gradient,
        per_sample=per_sample,
        options={"first_step": 0.3},
    )
    derivative = sol.events[0].t[0]
    for order in (1, 2, 3):
        (derivative,) = torch.autograd.grad(derivative, h0, create_graph=True)
        factor = {1: 0.5, 2: -0.25, 3: 0.375}[order]
        assert derivative.item() == pytest.approx(factor * 1.7 ** (0.5 - order), rel=1e-11)
    (slope,) = torch.autograd.grad(sol.events[0].m[0].sum(), h0, create_graph=True)
    (second,) = torch.autograd.grad(slope, h0)
    assert second.item() == pytest.approx(0.5 * 1.7**-1.5, rel=1e-11)  # m = -2 √h0 there


@pytest.mark.parametrize("method", ["dprkn6", "dopri5", "leapfrog", "explicit_adams"])
def test_forward_mode_against_reverse_mode(net, draw, method):
    """⟨w, J v⟩ both ways, by torch.func.jvp and by dual numbers."""
    solve = solved(net(), "backprop", method=method, **GRID)
    h0, v = draw(2, 2), draw(2, 2)
    _, pushed = torch.func.jvp(solve, (h0,), (v,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(solve(forward_ad.make_dual(h0, v))).tangent
    w = draw(*pushed.shape)
    (pulled,) = torch.autograd.grad(solve(h0.requires_grad_()), h0, w)
    assert (w * pushed).sum().item() == pytest.approx((pulled * v).sum().item(), rel=1e-12)
    assert torch.allclose(dual, pushed, rtol=1e-14)


def test_hessian_is_symmetric_and_that_of_autograd(net, draw):
    f, h0 = net(), draw(1, 2)
    by_func = torch.func.hessian(lambda h0: solved(f, "backprop")(h0).square().sum())(h0).reshape(2, 2)
    by_adjoint = torch.autograd.functional.hessian(
        lambda h0: solved(f, "discrete_adjoint")(h0).square().sum(), h0
    ).reshape(2, 2)
    assert torch.allclose(by_func, by_func.T, rtol=1e-10)
    assert torch.allclose(by_func, by_adjoint, rtol=1e-10)
