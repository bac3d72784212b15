"""The statements of docs/theory.md, each checked along a path of its own.

What is computed by hbode is compared with closed forms, with matrix exponentials, or with equations that scipy
solves. Bars come from what is computed: TIGHT solves take up to a few hundred steps with local errors of 1e-11, and
scipy's are tighter, so that they agree to EXACT = 1e-8; identities that hold step by step, and polynomials of small
matrices, are met to ROUNDING = 1e-12 after at most some hundred operations; orders are measured by halving the step,
where the next power of the step adds at most 0.3 to a slope (see `slope`).
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss
from scipy.integrate import solve_ivp
from scipy.linalg import block_diag, expm

from hbode import METHODS, Event, FirstOrder, GeneralizedHeavyBall, HeavyBall, hbodeint
from hbode.solvers import Coupled, Damping, Field

ROOT = Path(__file__).parents[1]
TIGHT = {"rtol": 1e-11, "atol": 1e-11}
EXACT, ROUNDING = 1e-8, 1e-12
TIGHTER = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13}


def heavy_ball(f, gamma=0.3):
    return HeavyBall(f, torch.as_tensor(gamma, dtype=torch.float64), trainable=False)


def generalized(f, gamma=0.3, xi=0.4, activation="tanh"):
    coefficients = (torch.as_tensor(x, dtype=torch.float64) for x in (gamma, xi))
    return GeneralizedHeavyBall(f, *coefficients, activation, trainable=False)


class Potential(torch.nn.Module):
    """f = -∇V for V = Σ cos(h W) + 0.15 ‖h‖², with the gradient written out."""

    def __init__(self, dim=3, width=4):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.w = torch.randn(dim, width, generator=rng, dtype=torch.float64)

    def forward(self, t, h):
        return torch.sin(h @ self.w) @ self.w.T - 0.3 * h


def propagator(system, y, t, **call):
    """Return Φ(T, t) = ∂(h_T, m_T) / ∂(h_t, m_t), by the gradients of a solve of as many copies as it has rows."""
    y = y.expand(len(y), -1).clone().requires_grad_()
    h0, m0 = y.chunk(2, -1)
    h, m = hbodeint(system, h0, t, m0=m0, **{**TIGHT, **call})
    ends = torch.cat((h[-1], m[-1]), -1).diagonal().sum()
    return torch.autograd.grad(ends, y)[0].numpy()


def linear(k):
    """Return the field h ↦ K h."""
    k = torch.as_tensor(k, dtype=torch.float64)
    return lambda t, h: h @ k.mT


def first_order_form(k, gamma):
    """Return A = [[0, I], [K, -Γ]]."""
    size = len(k)
    return np.block([[np.zeros((size, size)), np.eye(size)], [k, -np.diag(np.broadcast_to(gamma, size))]])


def symplectic_form(size):
    return np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(size))


def slope(errors):
    """Return the order that errors at steps s, s / 2 show."""
    return math.log2(errors[0] / errors[1])


# 0. Setting


def test_a_field_with_a_kink_has_a_propagator():
    """h'' = -0.3 h' - relu(h) from (0.5, -1): the product of two exponentials, joined where h = 0.

    The solution is written out in exponentials, and its central differences of width 1e-5 are off by the square of
    that times a third derivative on either side of the kink, 1e-9, and by rounding, 1e-16 / 1e-5.
    """
    above, below = (first_order_form(np.array([[k]]), 0.3) for k in (-1.0, 0.0))

    def crossing(y):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if (expm(middle * above) @ y)[0] > 0 else (low, middle)
        return low

    def flow(y, end=2.0):
        at = crossing(y)
        return expm((end - at) * below) @ expm(at * above) @ y

    y = np.array([0.5, -1.0])
    at = crossing(y)
    assert 0.3 < at < 1.0
    phi = expm((2.0 - at) * below) @ expm(at * above)
    differences = np.stack([(flow(y + d) - flow(y - d)) / 2e-5 for d in 1e-5 * np.eye(2)], 1)
    assert phi == pytest.approx(differences, abs=1e-8)
    assert np.linalg.det(phi) == pytest.approx(math.exp(-0.6), rel=ROUNDING)
    # In the one step across the kink f' is 0 or 1 where it should be the other: an error of at most the step, 0.01.
    system = heavy_ball(lambda t, h: -torch.relu(h))
    solved = propagator(system, torch.tensor(y), [0.0, 2.0], options={"max_step": 0.01}, rtol=1e-6)
    assert solved == pytest.approx(phi, abs=0.01 * np.linalg.norm(phi))


# 1. The adjoint equations


class ByHand:
    """The generalised heavy ball of a `Net` and its adjoint in NumPy, with every derivative written out."""

    def __init__(self, net, gamma, xi, tanh=True):
        self.w, self.b, self.v = (x.detach().numpy() for x in (net.w, net.b, net.v))
        self.gamma, self.xi, self.tanh = gamma, xi, tanh

    def rhs(self, t, y):
        h, m = y[:2], y[2:]
        force = np.tanh(h @ self.w + self.b * math.cos(t)) @ self.v
        return np.concatenate((np.tanh(m) if self.tanh else m, force - self.gamma * m - self.xi * h))

    def forward(self, y, start, end):
        return solve_ivp(self.rhs, (start, end), y, **TIGHTER).y[:, -1]

    def joint(self, t, state):
        """Return the derivatives of y, of z = (a, p) and of the integrals of γ, ξ, w, b, v, which grow backwards."""
        y, a, p = state[:4], state[4:6], state[6:8]
        h, m = y[:2], y[2:]
        q = np.tanh(h @ self.w + self.b * math.cos(t))
        r = (1 - q**2) * (self.v @ p)
        change_a = -(self.w @ r - self.xi * p)
        change_p = -a * (1 - np.tanh(m) ** 2 if self.tanh else 1.0) + self.gamma * p
        integrands = (-p @ m, -p @ h, np.outer(h, r), math.cos(t) * r, np.outer(q, p))
        return np.concatenate((self.rhs(t, y), change_a, change_p, *(-np.ravel(x) for x in integrands)))

    def backward(self, y, z, start, end):
        """Return z at `end` and the integrals, from the state and z at the later `start`."""
        state = np.concatenate((y, z, np.zeros(17)))
        out = solve_ivp(self.joint, (start, end), state, **TIGHTER).y[:, -1]
        return out[4:8], out[8:]


def test_adjoint_equations(net, draw):
    """The equations of a and p and the integrals of γ, ξ and θ, solved by scipy, against the discrete adjoint."""
    f, h0, m0 = net(), draw(2, grad=True), draw(2, grad=True)
    gamma, xi = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.4))
    g = draw(2, 2)
    sol = hbodeint(f, h0, [0.0, 2.0], m0=m0, gamma=gamma, xi=xi, activation="tanh", method="dopri5", **TIGHT)
    loss = (g[0] * sol.h[-1] + g[1] * sol.m[-1]).sum()
    found = torch.autograd.grad(loss, (h0, m0, gamma, xi, f.w, f.b, f.v))

    by_hand = ByHand(f, 0.3, 0.4)
    y0 = torch.cat((h0, m0)).detach().numpy()
    z, integrals = by_hand.backward(by_hand.forward(y0, 0.0, 2.0), g.flatten().numpy(), 2.0, 0.0)
    assert torch.cat(found[:2]).numpy() == pytest.approx(z, abs=EXACT)
    assert torch.cat([x.flatten() for x in found[2:]]).numpy() == pytest.approx(integrals, abs=EXACT)
    assert np.abs(integrals).min() > 1e-4  # nothing is compared with zero


def test_momentum_adjoint_is_a_heavy_ball(net, draw):
    """p(τ) solved as a heavy ball, of the same damping and by the same method, gives the gradients of h0 and m0."""
    gamma, xi, end = torch.tensor([0.3, 0.7], dtype=torch.float64), 0.4, 2.0
    f, h0, m0, (g_h, g_m) = net(), draw(2, grad=True), draw(2, grad=True), draw(2, 2)
    call = {"gamma": gamma, "xi": xi, "method": "dprkn8", **TIGHT}
    sol = hbodeint(f, h0, [0.0, end], m0=m0, dense=True, options={"max_step": 0.05}, **call)
    a0, p0 = torch.autograd.grad((g_h * sol.h[-1] + g_m * sol.m[-1]).sum(), (h0, m0))

    def force(tau, p):
        t = (end - tau).clamp(0.0, end)
        with torch.no_grad():
            h, _ = sol(t)
        return torch.autograd.functional.vjp(lambda h: f(t, h), h, p)[1]

    back = hbodeint(force, g_m, [0.0, end], m0=g_h - gamma * g_m, gradient="backprop", **call)
    p, p_tau = back.h[-1], back.m[-1]
    assert torch.allclose(p, p0, rtol=0, atol=EXACT)
    assert torch.allclose(p_tau + gamma * p, a0, rtol=0, atol=EXACT)


def test_outputs_are_jumps_and_times_move_along_the_slope(net, draw):
    """Three outputs, at t_0, inside and at the end, with m_0 = Q h_0, against scipy's adjoint with jumps."""
    f, h0, q, g = net(), draw(2, grad=True), draw(2, 2, grad=True), draw(3, 4)
    t = torch.tensor([0.0, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    sol = hbodeint(f, h0, t, m0=h0 @ q, gamma=0.3, xi=0.4, activation="tanh", method="dopri5", **TIGHT)
    loss = (g * torch.cat((sol.h, sol.m), -1)).sum()
    by_h0, by_q, by_t = torch.autograd.grad(loss, (h0, q, t))

    by_hand, g = ByHand(f, 0.3, 0.4), g.numpy()
    y = [torch.cat((h0, h0 @ q)).detach().numpy()]
    y += [by_hand.forward(y[0], 0.0, end) for end in (0.9, 2.0)]
    z, _ = by_hand.backward(y[2], g[2], 2.0, 0.9)
    z, _ = by_hand.backward(y[1], z + g[1], 0.9, 0.0)
    slopes = [by_hand.rhs(at, state) for at, state in zip((0.0, 0.9, 2.0), y, strict=True)]
    assert by_t.numpy() == pytest.approx([-z @ slopes[0], g[1] @ slopes[1], g[2] @ slopes[2]], abs=EXACT)
    a, p = np.split(z + g[0], 2)
    assert by_h0.numpy() == pytest.approx(a + q.detach().numpy() @ p, abs=EXACT)
    assert by_q.numpy() == pytest.approx(np.outer(h0.detach().numpy(), p), abs=EXACT)


def test_event_time_changes_the_cotangent(net, draw):
    """L = t* + g · y(t*), stopped where h_1 + h_2 m_2 = 0.2 t, against scipy's adjoint from the event's cotangent."""
    f, g = net(), draw(4).numpy()
    h0, m0 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, 0.3], [-0.8, 0.5]))
    event = Event(lambda t, h, m: h[0] + h[1] * m[1] - 0.2 * t, terminal=True)
    sol = hbodeint(f, h0, [0.0, 5.0], m0=m0, gamma=0.3, xi=0.4, method="dopri5", event=event, throw=False, **TIGHT)
    (record,) = sol.events
    y = torch.cat((record.h[0], record.m[0]))
    found = torch.autograd.grad(record.t[0] + (torch.tensor(g) * y).sum(), (h0, m0))

    at, y = record.t[0].item(), y.detach().numpy()
    assert 0.2 < at < 4.8
    by_hand = ByHand(f, 0.3, 0.4, tanh=False)
    by_y = np.array([1.0, y[3], 0.0, y[1]])
    rhs = by_hand.rhs(at, y)
    start = g - (1.0 + g @ rhs) / (-0.2 + by_y @ rhs) * by_y
    z, _ = by_hand.backward(y, start, at, 0.0)
    assert torch.cat(found).numpy() == pytest.approx(z, abs=EXACT)


# 2. Three facts


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("gamma", [0.4, [0.1, 0.6, 1.1]], ids=["one", "per channel"])
def test_determinant_and_mean_square(net, draw, gamma, activation):
    """det Φ, the largest singular value, and the mean of ‖Φᵀ w‖² over an orthonormal basis of directions w."""
    system = generalized(net(3, 5), gamma, 0.2, activation)
    call = {} if activation is None else {"method": "dopri5"}
    for t in ([0.0, 2.0], [1.0, -0.5]):
        phi, span = propagator(system, draw(6), t, **call), t[1] - t[0]
        mean = float(np.mean(gamma))
        assert np.linalg.det(phi) == pytest.approx(math.exp(-3 * mean * span), rel=EXACT)
        s = np.linalg.svd(phi, compute_uv=False)
        bound = math.exp(-0.5 * mean * span)
        assert math.exp(np.log(s).mean()) == pytest.approx(bound, rel=EXACT)
        basis = np.linalg.qr(draw(6, 6).numpy())[0]
        mean_square = np.square(phi.T @ basis).sum(0).mean()
        assert mean_square == pytest.approx(np.square(phi).sum() / 6, rel=ROUNDING)
        assert s[0] >= math.sqrt(mean_square) >= bound


@pytest.mark.slow
def test_node_contracts_where_the_heavy_ball_does_not(net, draw):
    """f = -κ h: Ψ = e^(-κ T) I, and all singular values of Φ are e^(-γ T / 2) within a factor. tr J for any f."""
    kappa, gamma, end = 3.0, 0.3, 6.0
    h = draw(3)
    psi = torch.autograd.functional.jacobian(
        lambda h: hbodeint(FirstOrder(lambda t, h: -kappa * h), h, [0.0, end], rtol=1e-10, atol=1e-20).h[-1], h
    )
    assert psi.numpy() * math.exp(kappa * end) == pytest.approx(np.eye(3), abs=1e-6)  # 1e-10 a step, some hundred
    s = np.linalg.svd(propagator(heavy_ball(lambda t, h: -kappa * h, gamma), draw(6), [0.0, end]), compute_uv=False)
    omega = math.sqrt(kappa - gamma**2 / 4)
    form = np.array([[omega**2 + gamma**2 / 4, gamma / 2], [gamma / 2, 1.0]])
    factor = math.sqrt(np.linalg.cond(form))
    bound = math.exp(-gamma * end / 2)
    assert s.min() >= bound / factor * (1 - EXACT) and s.max() <= bound * factor * (1 + EXACT)

    f, h = net(3, 5), draw(3)
    sol = hbodeint(FirstOrder(f), h, [0.0, 2.0], dense=True, options={"max_step": 0.1}, **TIGHT)
    psi = torch.autograd.functional.jacobian(lambda h: hbodeint(FirstOrder(f), h, [0.0, 2.0], **TIGHT).h[-1], h)
    nodes, weights = leggauss(12)
    trace = 0.0
    for t, weight in zip(nodes + 1.0, weights, strict=True):  # 12 points for a smooth integrand: below 1e-8
        at, now = sol(float(t))[0].detach(), torch.tensor(float(t), dtype=torch.float64)
        trace += weight * torch.autograd.functional.jacobian(lambda h: f(now, h), at).trace().item()  # noqa: B023
    assert np.linalg.slogdet(psi.numpy())[1] == pytest.approx(trace, abs=1e-7)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_eigenvalues_of_the_integral_pair(net, draw, activation):
    """det(x - M) = det(-g - x - M) at any x, M = ∫ A ds, and = det(x (x + g) - S K): polynomials in x with the pairs.

    A is taken by autograd of the right-hand side along a solution and summed by quadrature, whose error is no matter:
    the sums S, K and g of any weights obey the same identity.
    """
    system = generalized(net(3, 5), 0.3, 0.4, activation)
    sol = hbodeint(system, draw(3), [0.0, 3.0], m0=draw(3), method="dopri5", dense=True, rtol=1e-6)
    field = system.as_ode()
    nodes, weights = leggauss(6)
    total = np.zeros((6, 6))
    for t, weight in zip(1.5 * (nodes + 1), 1.5 * weights, strict=True):
        y, now = torch.cat(sol(float(t))).detach(), torch.tensor(float(t), dtype=torch.float64)
        total += weight * torch.autograd.functional.jacobian(lambda y: field(now, y), y).numpy()  # noqa: B023
    g, s, k = 0.9, total[:3, 3:], total[3:, :3]
    eye = np.eye(6)
    for x in (0.7, -2.0 + 1.0j, 3.0j):
        value = np.linalg.det(x * eye - total)
        assert np.linalg.det((-g - x) * eye - total) == pytest.approx(value, rel=1e-11)
        assert np.linalg.det(x * (x + g) * np.eye(3) - s @ k) == pytest.approx(value, rel=1e-11)
    values = np.linalg.eigvals(total)
    distances = np.abs(values[:, None] + values + g)
    assert distances.min(1).max() <= 1e-9  # the eigenvalues are simple here, and their condition is below 1e3
    assert (values.real >= -g / 2 - 1e-9).sum() >= 3


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_gradient_field_keeps_the_symplectic_form(net, draw, activation):
    """Φᵀ Ω Φ = e^(-γ T) Ω, pairs of singular values, and N directions on which Φᵀ is bounded from below."""
    method = "dprkn8" if activation is None else "dopri5"
    phi = propagator(generalized(Potential(), 0.3, 0.4, activation), draw(6), [0.0, 2.0], method=method)
    c, omega = math.exp(-0.6), symplectic_form(3)
    assert phi.T @ omega @ phi == pytest.approx(c * omega, abs=EXACT)
    left, s, _ = np.linalg.svd(phi)
    assert s * s[::-1] == pytest.approx(np.full(6, c), rel=1e-7)  # EXACT times the condition of Φ, below 10
    w = left[:, :3] @ draw(3, 50).numpy()
    lengths = np.linalg.norm(phi.T @ w, axis=0) / np.linalg.norm(w, axis=0)
    assert lengths.min() >= math.sqrt(c) * (1 - EXACT)
    other = propagator(generalized(net(3, 5), 0.3, 0.4, activation), draw(6), [0.0, 2.0], method=method)
    assert np.abs(other.T @ omega @ other - c * omega).max() > 1e-2


# 3. What the methods keep


@pytest.mark.parametrize("activation", [None, "tanh", "hardtanh"])
@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_leapfrog_at_a_coarse_step(net, draw, method, activation):
    """Five steps of 0.8: determinant for any f, symplectic form for a potential, and the way back."""
    call = {"method": method, "options": {"step_size": 0.8}}
    y, c = draw(6), math.exp(-0.3 * 4.0)
    for f in (net(3, 5), Potential()):
        phi = propagator(generalized(f, 0.3, 0.4, activation), y, [0.0, 4.0], **call)
        assert np.linalg.det(phi) == pytest.approx(c**3, rel=ROUNDING * np.linalg.cond(phi))
    omega = symplectic_form(3)
    assert phi.T @ omega @ phi == pytest.approx(c * omega, abs=ROUNDING * np.linalg.norm(phi) ** 2)
    s = np.linalg.svd(phi, compute_uv=False)
    assert 1 / s[-1] == pytest.approx(s[0] / c, rel=ROUNDING * s[0] / s[-1])  # ‖Φ⁻¹‖ = e^(γT) ‖Φ‖
    per_channel = generalized(net(3, 5), [0.2, 1.1, 0.7], 0.4, activation)
    phi = propagator(per_channel, y, [0.0, 4.0], **call)
    assert np.linalg.det(phi) == pytest.approx(math.exp(-2.0 * 4.0), rel=ROUNDING * np.linalg.cond(phi))
    there = hbodeint(per_channel, y[:3], [0.0, 4.0], m0=y[3:], **call)
    back = hbodeint(per_channel, there.h[-1], [4.0, 0.0], m0=there.m[-1], **call)
    # Rounding of 1e-16 in a state of size 10, five times, times at most ‖Φ⁻¹‖.
    bar = 1e-14 * np.linalg.norm(np.linalg.inv(phi), 2)
    assert torch.allclose(torch.cat((back.h[-1], back.m[-1])), y, rtol=0, atol=bar)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dprkn5", "dprkn6"])
def test_other_methods_keep_the_identities_to_their_order(draw, method):
    """The largest misses of three solutions, so that no error that happens to cross zero is taken for an order."""
    omega, c, starts = symplectic_form(3), math.exp(-0.3), draw(3, 6)
    volumes, forms = [], []
    for step in (0.05, 0.025):
        call = {"method": method, "options": {"step_size": step}}
        phis = [propagator(heavy_ball(Potential()), y, [0.0, 1.0], **call) for y in starts]
        volumes.append(max(abs(np.linalg.slogdet(phi)[1] + 3 * 0.3) for phi in phis))
        forms.append(max(np.abs(phi.T @ omega @ phi - c * omega).max() for phi in phis))
    for errors in (volumes, forms):
        assert errors[0] > 1e-11  # above rounding
        assert errors[1] <= 1e-12 or slope(errors) >= METHODS[method].order - 0.3


def driven(t):
    """A matrix K(t), not symmetric, whose values at different times do not commute."""
    return np.array([[-1.0, 0.8 * math.cos(2 * t)], [0.5 * t, -2.0 + math.sin(t)]])


def driven_field(t, h):
    zero = torch.zeros_like(t)
    k = torch.stack((zero - 1.0, 0.8 * torch.cos(2 * t), 0.5 * t, -2.0 + torch.sin(t))).view(2, 2)
    return h @ k.T


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dprkn5", "dprkn6", "leapfrog"])
def test_transposed_step_has_the_order_of_the_method(draw, method):
    """z' = -Aᵀ z by the transposed steps of v' = A v; the second time adds a cotangent within a step."""
    gamma, (g_in, g_end) = np.array([0.3, 0.7]), draw(2, 4).numpy()

    def adjoint(t, z):
        return -first_order_form(driven(t), gamma).T @ z

    def exact(inside):
        z = solve_ivp(adjoint, (2.0, 0.63), g_end, **TIGHTER).y[:, -1]
        return solve_ivp(adjoint, (0.63, 0.0), z + g_in if inside else z, **TIGHTER).y[:, -1]

    p = METHODS[method].order
    tableau = getattr(METHODS[method], "tableau", None)
    q = 3 if tableau is None else min(tableau.dense_order, getattr(tableau, "dense_p_order", p))
    for inside in (False, True):
        errors = []
        for step in (0.1, 0.05):
            h, m = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True).unbind()
            sol = hbodeint(
                driven_field,
                h,
                [0.0, 0.63, 2.0],
                m0=m,
                gamma=torch.tensor(gamma),
                method=method,
                options={"step_size": step},
            )
            y = torch.cat((sol.h, sol.m), -1)
            loss = (torch.tensor(g_end) * y[2]).sum() + inside * (torch.tensor(g_in) * y[1]).sum()
            z = torch.cat(torch.autograd.grad(loss, (h, m))).numpy()
            errors.append(np.abs(z - exact(inside)).max())
        assert errors[1] > 1e-12
        # 0.63 is at 0.3 of a step of 0.1 and at 0.6 of one of 0.05: the interpolant's part has a factor in between.
        assert slope(errors) >= (min(p, q + 1) - 1.0 if inside else p - 0.3)


def nystrom_step(c, a, b, bp, k, gamma, s, y):
    """One step of a Nyström method with exact damping, from the formulas, for h'' + Γ h' = K(c s) h; y (2N, any)."""
    half, size = np.diag(gamma) / 2, len(gamma)
    u, v = y[:size], y[size:] + half @ y[:size]
    order = np.argsort(c, kind="stable")
    stages = [np.zeros_like(u) for _ in c]
    for i in order:
        grow = expm(half * c[i] * s)
        inner = u + c[i] * s * v + s**2 * sum(a[i][j] * stages[j] for j in range(len(c)))
        stages[i] = grow @ k(c[i] * s) @ np.linalg.inv(grow) @ inner + half @ half @ inner
    u = u + s * v + s**2 * sum(x * stage for x, stage in zip(b, stages, strict=True))
    v = v + s * sum(x * stage for x, stage in zip(bp, stages, strict=True))
    shrink = expm(-half * s)
    return np.concatenate((shrink @ u, shrink @ v - half @ shrink @ u))


def transposed_nystrom(c, a, bp, k, gamma, s, z):
    """The stages q_j of the statement, from (a, p) at the end of the step to (a, p) at its start."""
    half, size = np.diag(gamma) / 2, len(gamma)
    pi, alpha = z[size:], z[:size] - half @ z[size:]
    products = [np.zeros_like(pi) for _ in c]
    for j in reversed(range(len(c))):
        later = sum(a[i][j] * products[i] for i in range(len(c)))
        q = bp[j] * (pi + (1 - c[j]) * s * alpha) + s**2 * later
        grow = expm(half * (1 - c[j]) * s)
        products[j] = grow @ k(c[j] * s).T @ np.linalg.inv(grow) @ q + half @ half @ q
    p = pi + s * alpha + s**2 * sum(x * product for x, product in zip(c, products, strict=True))
    v = alpha + s * sum(products)
    shrink = expm(-half * s)
    return np.concatenate((shrink @ v + half @ shrink @ p, shrink @ p))


@pytest.mark.parametrize("gamma", [[0.0, 0.0], [0.6, 0.6], [0.3, 1.7]], ids=["none", "one", "per channel"])
@pytest.mark.parametrize("method", ["dprkn5", "dprkn6", "dprkn8"])
def test_transposed_nystrom_step_of_the_package(method, gamma):
    """The Jacobian of one step against the formulas, and its transpose against the transposed stages."""
    tableau, s = METHODS[method].tableau, 0.7
    stages = len(tableau.c)
    a = [[*row, *[0.0] * (stages - len(row))] for row in tableau.a]
    b = a[-1]
    assert b == pytest.approx([x * (1 - c) for x, c in zip(tableau.bp, tableau.c, strict=True)], abs=1e-15)
    system = heavy_ball(driven_field, gamma)
    step = propagator(
        system, torch.zeros(4, dtype=torch.float64), [0.2, 0.9], method=method, options={"step_size": 0.7}
    )
    by_formula = nystrom_step(tableau.c, a, b, tableau.bp, lambda t: driven(0.2 + t), gamma, s, np.eye(4))
    assert step == pytest.approx(by_formula, abs=ROUNDING)
    transposed = transposed_nystrom(tableau.c, a, tableau.bp, lambda t: driven(0.2 + t), gamma, s, np.eye(4))
    assert pytest.approx(transposed, abs=ROUNDING) == step.T


@pytest.mark.parametrize("gamma", [[0.0, 0.0], [0.6, 0.6], [0.3, 1.7]], ids=["none", "one", "per channel"])
def test_transposed_nystrom_step_is_the_reversed_nystrom_step(draw, gamma):
    """Any (c, a, b') without a zero in b': reversed nodes 1 - c_j and â_jl = b'_l a_lj / b'_j, for (p, p_τ)."""
    c, s = np.array([0.0, 0.3, 0.8, 1.0]), 0.7
    a, bp = np.tril(draw(4, 4).numpy(), -1), 0.5 + np.abs(draw(4).numpy())
    step = nystrom_step(c, a, bp * (1 - c), bp, driven, gamma, s, np.eye(4))
    reversed_a = a.T * bp / bp[:, None]
    to_heavy_ball = np.block([[np.zeros((2, 2)), np.eye(2)], [np.eye(2), -np.diag(gamma)]])  # (a, p) to (p, p_τ)
    back = nystrom_step(1 - c, reversed_a, bp * c, bp, lambda tau: driven(s - tau).T, gamma, s, to_heavy_ball)
    assert pytest.approx(np.linalg.inv(to_heavy_ball) @ back, abs=ROUNDING * np.linalg.norm(step)) == step.T
    assert reversed_a.T * bp / bp[:, None] == pytest.approx(a, abs=ROUNDING)


def test_discrete_adjoint_is_the_gradient_of_the_discrete_map(net, draw):
    """Against leapfrog written out and differentiated by autograd, with three coarse steps and all parameters."""
    f, h0, m0 = net(), draw(2, grad=True), draw(2, grad=True)
    gamma, xi = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.4))
    inputs = (h0, m0, gamma, xi, *f.parameters())
    s, h, m = 0.5, h0, m0
    for n in range(3):
        m = m * torch.exp(-gamma * s / 2)
        m = m + s / 2 * (f(torch.tensor(n * s, dtype=torch.float64), h) - xi * h)
        h = h + s * torch.tanh(m)
        m = m + s / 2 * (f(torch.tensor((n + 1) * s, dtype=torch.float64), h) - xi * h)
        m = m * torch.exp(-gamma * s / 2)
    known = torch.autograd.grad((h * h + h * m).sum(), inputs)
    for mode, bar in (("discrete_adjoint", ROUNDING), ("backprop", ROUNDING), ("reversible", 1e-11)):
        call = {"activation": "tanh", "method": "leapfrog", "gradient": mode, "options": {"step_size": s}}
        hs, ms = hbodeint(f, h0, [0.0, 1.5], m0=m0, gamma=gamma, xi=xi, **call)
        found = torch.autograd.grad((hs[-1] ** 2 + hs[-1] * ms[-1]).sum(), inputs)
        for a, b in zip(found, known, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=bar * (1 + b.abs().max().item()))


def test_checkpoints_do_not_change_the_arithmetic(net, draw):
    f, h0 = net(), draw(3, 2, grad=True)
    results = []
    for options in ({}, {"checkpoints": 1}, {"checkpoints": 3}):
        h, _ = hbodeint(f, h0, [0.0, 0.4, 3.0], gamma=0.3, options=options, rtol=1e-6)
        results.append(torch.autograd.grad((h**2).sum(), (h0, *f.parameters())))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("known", [0.0, 0.5])
def test_coupled_scheme(net, draw, known):
    """Determinant and inverse for any field; on a linear one the gap moves by λ E e^(-sA) E, with or without E."""
    f, s, coupling = net(), torch.tensor(0.3, dtype=torch.float64), 0.9
    system, t = heavy_ball(f, 0.5), torch.tensor(0.2, dtype=torch.float64)
    damping = Damping.of(torch.tensor(known, dtype=torch.float64), None, t)
    field = Field(lambda t, y: system.rhs(t, y, system.gamma, None), torch.float64, damping)
    method = Coupled(METHODS["rk4"], coupling)

    def step(pair):
        y, z = pair.view(2, 2, 2)
        carry, _ = method.step(field, t, s, (y, *method.base.start(field, t, z)))
        return torch.stack(carry[:2]).flatten()

    pair, e = draw(8), math.exp(-known * 0.3 / 2)
    matrix = torch.autograd.functional.jacobian(step, pair)
    assert torch.linalg.det(matrix).item() == pytest.approx((coupling * e * e) ** 4, rel=ROUNDING)
    y, z = step(pair).view(2, 2, 2)
    back = method.undo(field, t, s, (y, *method.base.start(field, t + s, z)))
    assert torch.allclose(torch.stack(back[:2]).flatten(), pair, rtol=0, atol=ROUNDING)

    k = np.array([[-1.3, 0.4], [-0.2, -0.6]])
    a = first_order_form(k, 0.5)
    linear_field = Field(lambda t, y: (torch.as_tensor(a) @ y.flatten()).view(2, 2), torch.float64, damping)
    method, small = Coupled(METHODS["dopri8"], coupling), torch.tensor(0.05, dtype=torch.float64)
    y, z = draw(2, 2, 2)
    with torch.no_grad():
        (y1, z1, _), _ = method.step(linear_field, t, small, (y, *method.base.start(linear_field, t, z)))
    e = math.exp(-known * 0.05 / 2)
    gap = coupling * e * e * expm(-0.05 * a) @ (y - z).flatten().numpy()
    assert (y1 - z1).flatten().numpy() == pytest.approx(gap, abs=1e-11)  # order 8 at s = 0.05
    if known:
        grown, flow = (np.linalg.eigvals(x) for x in (math.exp(-0.5 * 0.05) * expm(-0.05 * a), expm(0.05 * a)))
        assert np.sort_complex(grown) == pytest.approx(np.sort_complex(flow), rel=1e-10)


def test_coupled_scheme_is_stable_where_the_heavy_ball_is(draw):
    """γ = 2 over T = 20: e^(γT) is 1e17, and what the published scheme would make of the error of a step; here 1e-5."""
    h0, m0 = draw(2, 2), draw(2, 2)
    for k in (0.0, -0.3, -4.0):
        ends = []
        for options in ({"coupling": 0.999}, {}):
            options |= {"step_size": 0.1}
            sol = hbodeint(lambda t, h, k=k: k * h, h0, [0.0, 20.0], m0=m0, gamma=2.0, method="rk4", options=options)
            ends.append(torch.stack((sol.h[-1], sol.m[-1])))
        assert (ends[0] - ends[1]).abs().max() <= 1e-5


# 4. What is not claimed


def test_a_cotangent_may_decay_at_twice_the_rate():
    """f = 0: ∂L/∂m_T alone gives e^(-γ T) at the start, below e^(-γ T / 2)."""
    h, m = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sol = hbodeint(lambda t, h: 0 * h, h, [0.0, 10.0], m0=m, gamma=0.3, **TIGHT)
    by_h, by_m = torch.autograd.grad(sol.m[-1].sum(), (h, m))
    assert abs(by_h.item()) <= ROUNDING
    assert by_m.item() == pytest.approx(math.exp(-3), rel=EXACT)
    assert by_m.item() < 0.3 * math.exp(-1.5)


def test_a_block_may_vanish():
    """f = -κ h: ∂h_T/∂h_0 = 0 where tan ωT = -2 ω / γ; and for γ = 0 ∂h_T/∂(h_0, m_0) = (0, 1 / ω) at ωT = π / 2."""
    kappa, gamma = 2.0, 0.3
    omega = math.sqrt(kappa - gamma**2 / 4)
    end = (math.pi - math.atan(2 * omega / gamma)) / omega
    phi = propagator(heavy_ball(lambda t, h: -kappa * h, gamma), torch.ones(2, dtype=torch.float64), [0.0, end])
    assert abs(phi[0, 0]) <= EXACT
    assert np.linalg.norm(phi, 2) >= math.exp(-gamma * end / 2)
    end = math.pi / 20
    phi = propagator(heavy_ball(lambda t, h: -100 * h, 0.0), torch.ones(2, dtype=torch.float64), [0.0, end])
    assert phi[0] == pytest.approx([0.0, 0.1], abs=EXACT)


@pytest.mark.slow
def test_heavy_damping_and_explosion():
    """f = -h with γ = 8: e^(-γ T / 2) is below the NODE's e^-T, and σ_max above. f = h: nothing bounds from above."""
    one, end = torch.ones(2, dtype=torch.float64), 3.0
    largest = np.linalg.norm(propagator(heavy_ball(lambda t, h: -h, 8.0), one, [0.0, end]), 2)
    slow = -4 + math.sqrt(15)
    assert math.exp(-4 * end) < math.exp(-end) < math.exp(slow * end) <= largest
    phi = propagator(heavy_ball(lambda t, h: 9 * h), one, [0.0, end])
    grows = -0.15 + math.sqrt(9 + 0.15**2)
    assert np.abs(np.linalg.eigvals(phi)).max() == pytest.approx(math.exp(grows * end), rel=1e-7)
    assert np.linalg.det(phi) == pytest.approx(math.exp(-0.3 * end), abs=1e-7 * np.linalg.norm(phi) ** 2)


def test_saturated_momentum_blocks_the_parameters(net):
    """|m| > 5 throughout: the determinant holds, and a loss of h_T gives every parameter of f the gradient zero."""
    f = net()
    h, m = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.1, 0.2], [20.0, -20.0]))
    system = generalized(f, 0.3, 0.0, "hardtanh")
    call = {"method": "leapfrog", "options": {"step_size": 0.1}}
    sol = hbodeint(system, h, torch.linspace(0, 2, 21), m0=m, **call)
    assert sol.m.abs().min() > 5
    grads = torch.autograd.grad(sol.h[-1].sum(), (h, m, *f.parameters()), allow_unused=True, materialize_grads=True)
    assert grads[0].tolist() == [1.0, 1.0]
    assert all(not x.any() for x in grads[1:])
    phi = propagator(system, torch.cat((h, m)).detach(), [0.0, 2.0], **call)
    assert phi[:2] == pytest.approx(np.eye(4)[:2], abs=0)
    assert np.linalg.det(phi) == pytest.approx(math.exp(-1.2), rel=ROUNDING)


def test_pairs_of_the_integral_say_nothing_of_the_propagator():
    """Quarter periods of two frequencies in turn, γ = 0: |e^λ| = 1 for M = ∫ A, while Φ stretches by ω₁ / ω₂ each time.

    Each jump of the force is a point that the steps end on.
    """
    fast, slow = 2.0, 1.0
    times, frequencies = [0.0], []
    for omega in (fast, slow) * 3:
        times.append(times[-1] + math.pi / (2 * omega))
        frequencies.append(omega)
    rates = torch.tensor(frequencies, dtype=torch.float64) ** 2
    ends = torch.tensor(times[1:-1], dtype=torch.float64)

    def f(t, h):
        return -rates[torch.searchsorted(ends, t.detach().double(), right=True)] * h

    options = {"jump_ts": times[1:-1]}
    one = torch.ones(2, dtype=torch.float64)
    phi = propagator(heavy_ball(f, 0.0), one, [0.0, times[-1]], options=options)
    assert phi == pytest.approx(np.diag([-((fast / slow) ** 3), -((slow / fast) ** 3)]), abs=EXACT)
    integral = sum(math.pi / (2 * omega) * first_order_form(np.array([[-(omega**2)]]), 0.0) for omega in frequencies)
    assert np.abs(np.exp(np.linalg.eigvals(integral))) == pytest.approx(np.ones(2), rel=ROUNDING)
    assert np.abs(np.linalg.eigvals(expm(integral))) == pytest.approx(np.ones(2), rel=ROUNDING)


def test_per_channel_damping_has_the_determinant_only(draw):
    """Three oscillators of one frequency, γ = (g, g, 0): after a period Φ = diag(e^(-γ_i T / 2)), too small in four.

    And the eigenvalues of ∫ A pair per channel, to -γ_i T, not to one sum.
    """
    gamma, omega = np.array([0.4, 0.4, 0.0]), 1.5
    end = 2 * math.pi / omega
    kappa = omega**2 + gamma**2 / 4
    phi = propagator(heavy_ball(linear(np.diag(-kappa)), gamma), draw(6), [0.0, end])
    assert phi == pytest.approx(block_diag(*np.exp(-np.tile(gamma, 2) * end / 2)), abs=EXACT)
    s = np.linalg.svd(phi, compute_uv=False)
    bound = math.exp(-gamma.mean() * end / 2)
    assert math.exp(np.log(s).mean()) == pytest.approx(bound, rel=EXACT)
    assert (s >= bound).sum() == 2
    values = end * np.linalg.eigvals(first_order_form(np.diag(-kappa), gamma))
    assert np.sort(values.real) == pytest.approx(np.sort(np.tile(-gamma * end / 2, 2)), abs=1e-10)


def test_tolerances_watch_the_state_and_not_the_propagator():
    """At rest in h = 0 no error is seen: h'' = -9 h takes steps far too long, and det Φ is off."""
    system, zero = heavy_ball(lambda t, h: -9 * h), torch.zeros(2, dtype=torch.float64)
    sol = hbodeint(system, zero[:1], [0.0, 20.0], **TIGHT)
    phi = propagator(system, zero, [0.0, 20.0])
    assert sol.stats.accepted < 20
    assert abs(np.linalg.det(phi) * math.exp(6) - 1) > 0.5
    short = propagator(system, zero, [0.0, 20.0], options={"max_step": 0.05})
    assert np.linalg.det(short) == pytest.approx(math.exp(-6), rel=1e-6)


# 5. Momentum and stiffness


def test_frequencies_and_steps_of_a_stiff_mode():
    """|λ|² = L; leapfrog is stable exactly while s √L ≤ 2, for any γ; Euler on the NODE while s L ≤ 2."""
    rate = 400.0
    for gamma in (0.0, 0.3, 5.0):
        values = np.linalg.eigvals(first_order_form(np.array([[-rate]]), gamma))
        assert np.abs(values) == pytest.approx(np.full(2, math.sqrt(rate)), rel=ROUNDING)
        assert np.abs(values.imag) == pytest.approx(np.full(2, math.sqrt(rate - gamma**2 / 4)), rel=ROUNDING)
        for share, stable in ((1.99, True), (2.01, False)):
            s = share / math.sqrt(rate)
            call = {"method": "leapfrog", "options": {"step_size": s}}
            zero = torch.zeros(2, dtype=torch.float64)
            step = propagator(heavy_ball(lambda t, h: -rate * h, gamma), zero, [0.0, s], **call)
            decay = math.exp(-gamma * s)
            assert np.trace(step) == pytest.approx((1 - s**2 * rate / 2) * (1 + decay), rel=ROUNDING)
            assert (np.abs(np.linalg.eigvals(step)).max() <= 1 + ROUNDING) == stable
    for share, stable in ((1.99, True), (2.01, False)):
        one = torch.ones(1, dtype=torch.float64)
        s = share / rate
        sol = hbodeint(FirstOrder(lambda t, h: -rate * h), one, [0.0, s], method="euler", options={"step_size": s})
        assert (abs(sol.h[-1].item()) <= 1) == stable


def test_rotation_may_make_the_heavy_ball_unstable():
    """J = [[-L, -β], [β, -L]] has eigenvalues -L ± iβ: stable for the NODE, for the heavy ball iff β² < γ² L."""
    rate, gamma = 4.0, 0.3
    for share, stable in ((0.99, True), (1.01, False)):
        beta = share * gamma * math.sqrt(rate)
        k = np.array([[-rate, -beta], [beta, -rate]])
        assert np.linalg.eigvals(k).real.max() < 0
        values = np.linalg.eigvals(first_order_form(k, gamma))
        assert (values.real.max() < 0) == stable
        phi = propagator(heavy_ball(linear(k), gamma), torch.ones(4, dtype=torch.float64), [0.0, 1.0])
        assert np.abs(np.linalg.eigvals(phi)).max() == pytest.approx(math.exp(values.real.max()), rel=EXACT)


# The document


def test_every_pointer_names_a_test():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    pointers = re.findall(r"Test: `([^`]+)::([^`]+)`", text)
    assert len(pointers) >= 12
    assert len(pointers) == text.count("Test:")  # each has that form
    known = {}
    for path, _ in pointers:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        known[path] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for path, name in pointers:
        assert name.startswith("test_") and name in known[path], f"{path}::{name} does not exist"


def test_every_statement_has_a_pointer():
    """Each numbered statement, up to the next one or the next heading, names a test."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    head = r"\*\*(?:Definition|Lemma|Theorem|Proposition|Corollary|Counterexample) \d+\.\d+"
    blocks = re.split(rf"(?m)^(?={head}|## )", text)
    statements = [block for block in blocks if re.match(head, block)]
    assert len(statements) >= 12
    for block in statements:
        assert "Test: `tests/" in block, block.splitlines()[0]
