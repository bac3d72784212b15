"""Derivatives of any order by backpropagation, of second order by the discrete adjoint, and in forward mode."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad, gradgradcheck

from hbode import hbodeint

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


@pytest.mark.parametrize("gradient", ["discrete_adjoint", "reversible", "continuous_adjoint"])
def test_other_modes_refuse_transforms(net, draw, gradient):
    h0 = draw(1, 2)
    for transform in (
        lambda f: torch.func.jvp(f, (h0,), (h0,)),
        lambda f: torch.func.grad(lambda h0: f(h0).sum())(h0),
    ):
        with pytest.raises(RuntimeError, match=r"inside torch\.func transforms .* solve with gradient='backprop'"):
            transform(solved(net(), gradient))
