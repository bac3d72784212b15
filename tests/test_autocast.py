"""Mixed precision: the field runs under `torch.autocast`, the solver in the dtype of the state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hbode.compat as torchdiffeq
from hbode import METHODS, FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.gradients import GRADIENTS
from hbode.solvers import Auto, Implicit

HALF = torch.autocast("cpu", dtype=torch.bfloat16)
EPS = torch.finfo(torch.bfloat16).eps
T = torch.tensor([0.0, 0.4, 0.5, 1.0])
IMPLICIT = [name for name, method in METHODS.items() if isinstance(method, Implicit | Auto)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, t, h):
        return self.layers(h)


@pytest.fixture
def net():
    return Net()


def start():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()


def field_of(net):
    def f(t, h):
        out = net(t, h)
        assert out.dtype == (torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)
        return out

    return f


def solved(f, method, inputs, h0, **call):
    """Return states and gradients."""
    system = (HeavyBall if METHODS[method].damped else FirstOrder)(f)
    options = {"step_size": 0.25}
    if isinstance(METHODS[method], Implicit):
        options["inner_share"] = 0.1  # of 1e-2 and of a step: less than that is lost in the rounding of the field
    sol = hbodeint(system, h0, T, method=method, rtol=1e-2, atol=1e-2, options=options, **call)
    assert sol.h.dtype == h0.dtype
    loss = (sol.h[1:] * torch.sin(1 + sol.h[1:])).sum()
    return sol.h, torch.autograd.grad(loss, inputs)


def assert_near(found, expected, relative):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= relative * b.norm()


@pytest.mark.parametrize("method", METHODS)
def test_solutions_and_gradients_of_every_method(method, net):
    h0 = start()
    inputs = (h0, *net.parameters())
    h, grads = solved(net, method, inputs, h0)
    with HALF:
        low_h, low_grads = solved(field_of(net), method, inputs, h0)
    # a rounding of every product of the two layers, in each of four steps and in their transposes
    assert 0 < (low_h - h).norm() < EPS * h.norm()
    assert_near(low_grads, grads, 4 * EPS)


@pytest.mark.parametrize("method", METHODS)
def test_the_solver_does_not_lose_a_digit(method):
    """Of a field without products nothing changes, to the last bit."""

    def f(t, h):
        return -torch.sin(h) * torch.cos(t)

    h0 = start()
    with torch.no_grad():
        system = (HeavyBall if METHODS[method].damped else FirstOrder)(f)
        options = {"step_size": 0.3} if METHODS[method].error_order is None else {}
        call = {"method": method, "rtol": 1e-4, "atol": 1e-4, "dense": True, "options": options}
        sol = hbodeint(system, h0, T, **call)
        with HALF:
            low = hbodeint(system, h0, T, **call)
            assert torch.equal(low.h, sol.h)
            assert torch.equal(low(0.7)[0], sol(0.7)[0])


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_of_every_mode(gradient, inside, net):
    h0 = start()
    inputs = (h0, *net.parameters())
    system = HeavyBall(net)
    grads = []
    for mode in ("backprop", gradient):
        with HALF:
            sol = hbodeint(system, h0, T, rtol=1e-3, atol=1e-3, gradient=mode, method="leapfrog")
            loss = sol.h.square().sum()
            if inside:
                grads.append(torch.autograd.grad(loss, inputs))
        if not inside:
            grads.append(torch.autograd.grad(loss, inputs))
    assert_near(grads[1], grads[0], 4 * EPS)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("system", [SecondOrder, HeavyBall, GeneralizedHeavyBall])
def test_systems(system, per_sample, net):
    f = (lambda t, h, m: net.layers(h) - m) if system is SecondOrder else lambda t, h: net.layers(h)
    h0 = start()
    rows = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            sol = hbodeint(system(f), h0, T, rtol=1e-3, atol=1e-3, per_sample=per_sample)
        assert sol.h.dtype == sol.m.dtype == torch.float32
        rows.append(torch.stack((sol.h, sol.m)))
    assert_near([rows[1]], [rows[0]], EPS)


def test_weights_used_elsewhere_keep_their_gradients(net):
    with HALF:
        sol = hbodeint(FirstOrder(lambda t, h: net.layers(h)), start(), T)
        loss = sol.h.square().sum() * 0 + net.layers(torch.ones(4)).square().sum()
    (grad,) = torch.autograd.grad(loss, net.layers[0].weight)
    (expected,) = torch.autograd.grad(net.layers(torch.ones(4)).square().sum(), net.layers[0].weight)
    assert_near([grad], [expected], 4 * EPS)


@pytest.mark.parametrize("solve", [torchdiffeq.odeint, torchdiffeq.odeint_adjoint])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams", "gl4", "sdirk2"])
def test_compat(solve, method, net):
    h0 = start()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = solve(net, h0, T, method=method, rtol=1e-3, atol=1e-3)
        assert y.dtype == torch.float32
        results.append((y, *torch.autograd.grad(y.square().sum(), (h0, *net.parameters()))))
    assert_near(results[1], results[0], 4 * EPS)


def test_compat_does_not_lose_a_digit():
    h0 = start()
    ys = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            dense = torchdiffeq.odeint_dense(lambda t, y: -y * t, h0, 0.0, 1.0)
            ys.append(torch.cat((torchdiffeq.odeint(lambda t, y: -y * t, h0, T), dense(torch.tensor([0.3, 0.7])))))
    assert torch.equal(*ys)


def test_a_wrong_dtype_is_an_error_without_autocast(net):
    for f in (lambda t, h: net.layers(h).bfloat16(), lambda t, h: HALF(net.layers)(h)):
        with pytest.raises(TypeError, match=r"func must return the dtype of h, torch\.float32, got torch\.bfloat16"):
            hbodeint(f, start(), T)


def test_a_complex_field_of_a_real_state_is_an_error_under_autocast():
    with HALF, pytest.raises(TypeError, match=r"func must return the dtype of h, torch\.float32, got torch\.complex64"):
        hbodeint(lambda t, h: h * 1j, start(), T)
