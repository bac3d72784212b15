"""Derivatives in forward mode and by the transforms of torch.func, in every gradient mode."""

from __future__ import annotations

import pytest
import torch
import torchdiffeq
from torch.autograd import forward_ad
from torch.autograd.functional import hessian as backward_hessian
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from hbode import FirstOrder, compat, hbodeint

D = torch.float64
H0 = torch.tensor([[0.4, -0.8], [1.1, 0.3], [-0.2, 0.6]], dtype=D)
W = torch.tensor([[0.7, -0.4], [0.5, 0.9]], dtype=D)
V = torch.tensor([[0.3, 1.0], [-0.7, 0.2]], dtype=D)
T = torch.tensor([0.0, 0.5, 1.0], dtype=D)
MODES = ("discrete_adjoint", "backprop", "reversible", "continuous_adjoint")
TOL = {"rtol": 1e-8, "atol": 1e-10}
SAME = {"rtol": 1e-10, "atol": 1e-10}
"""Derivatives of the same operations in another order; taking reversible steps apart costs some digits."""


def end(w, gradient="discrete_adjoint", h0=H0, **call):
    return hbodeint(lambda t, h: torch.tanh(h @ w) - h, h0, T, gradient=gradient, **{**TOL, **call}).h[-1]


def loss(w, gradient="discrete_adjoint", **call):
    return end(w, gradient, **call).square().sum()


def references(gradient):
    """By backpropagation, of the method that the mode runs."""
    options = {"coupling": 0.999} if gradient == "reversible" else {}
    call = {"gradient": "backprop", "options": options}
    jac, hess = jacobian(lambda w: end(w, **call), W), backward_hessian(lambda w: loss(w, **call), W)
    return jacobian(lambda w: loss(w, **call), W), jac, hess


@pytest.mark.parametrize("gradient", [*MODES[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in MODES[2:])])
def test_transforms_of_a_solve_are_its_derivatives(gradient):
    slope, jac, hess = references(gradient)
    along = (jac * V).sum((-1, -2))
    assert torch.allclose(grad(lambda w: loss(w, gradient))(W), slope, **SAME)
    assert torch.allclose(vjp(lambda w: loss(w, gradient), W)[1](torch.ones((), dtype=D))[0], slope, **SAME)
    assert torch.allclose(jvp(lambda w: end(w, gradient), (W,), (V,))[1], along, **SAME)
    assert torch.allclose(jacrev(lambda w: end(w, gradient))(W), jac, **SAME)
    assert torch.allclose(jacfwd(lambda w: end(w, gradient))(W), jac, **SAME)
    for second in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f))):
        assert torch.allclose(second(lambda w: loss(w, gradient))(W), hess, **SAME)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("gradient", MODES)
def test_tangents_pass_in_forward_mode(gradient, graph):
    _, jac, _ = references(gradient)
    with forward_ad.dual_level(), torch.set_grad_enabled(graph):
        tangent = forward_ad.unpack_dual(end(forward_ad.make_dual(W, V), gradient)).tangent
    assert torch.allclose(tangent, (jac * V).sum((-1, -2)), **SAME)


@pytest.mark.parametrize("name", ["h0", "m0", "t", "gamma", "args"])
def test_tangents_of_every_input(name):
    values = {"h0": H0, "m0": H0.flip(0), "t": T, "gamma": torch.tensor(0.3, dtype=D), "args": W}

    def run(x):
        given = {**values, name: x}
        w = given.pop("args")
        h0, t = given.pop("h0"), given.pop("t")
        return hbodeint(lambda t, h, w: torch.tanh(h @ w) * torch.cos(t), h0, t, args=(w,), **given, **TOL).h

    x = values[name]
    tangent = torch.linspace(0.5, 1.5, x.numel(), dtype=D).view(x.shape)
    expected = (jacobian(run, x) * tangent).reshape(*run(x).shape, -1).sum(-1)
    assert torch.allclose(jvp(run, (x,), (tangent,))[1], expected, **SAME)


def test_a_vectorised_jacobian():
    assert torch.allclose(jacobian(end, W, vectorize=True), jacobian(end, W), **SAME)
    with pytest.raises(RuntimeError):  # torch's own, where it batches cotangents outside torch.func
        jacobian(lambda w: end(w, "continuous_adjoint"), W, vectorize=True)


@pytest.mark.parametrize("method", ["dprkn6", "leapfrog", "dopri5", "euler", "rk4", "explicit_adams"])
def test_vmap_over_a_fixed_grid(method):
    states, weights = torch.stack((H0, 2 * H0, -H0)), torch.stack((W, V, W - V))
    call = {"method": method, "options": {"step_size": 0.1}}
    both = vmap(lambda h0, w: end(w, h0=h0, **call))(states, weights)
    alone = torch.stack([end(w, h0=h0, **call) for h0, w in zip(states, weights, strict=True)])
    assert torch.allclose(both, alone, rtol=1e-12, atol=1e-12)
    each = vmap(grad(lambda w, h0: loss(w, h0=h0, **call)))(weights, states)
    own = [grad(lambda w, h0: loss(w, h0=h0, **call))(w, h0) for h0, w in zip(states, weights, strict=True)]
    assert torch.allclose(each, torch.stack(own), rtol=1e-12, atol=1e-12)


def test_vmap_of_adaptive_steps_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"step_size.*per_sample=True"):
        vmap(lambda h0: end(W, h0=h0))(torch.stack((H0, 2 * H0)))


def test_implicit_methods_say_that_they_are_differentiated_backwards():
    def run(w):
        return hbodeint(FirstOrder(lambda t, h: -h @ w), H0, T, method="kvaerno5").h.sum()

    for derivative in (grad(run), jacfwd(run)):
        with pytest.raises(RuntimeError, match="differentiate backwards"):
            derivative(W)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="differentiate backwards"):
        run(forward_ad.make_dual(W, V))


def test_transforms_agree_with_torchdiffeq():
    """On a fixed grid, whose operations are the same: torchdiffeq's adaptive solver has no rule for them."""

    def run(odeint):
        return lambda w: odeint(lambda t, y: torch.tanh(y @ w), H0, T, method="rk4", options={"step_size": 0.1})[-1]

    for transform in (jacrev, jacfwd):
        assert torch.allclose(transform(run(compat.odeint))(W), transform(run(torchdiffeq.odeint))(W), **SAME)
