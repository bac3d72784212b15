"""What a method does exactly, up to rounding: linear solutions, invariants, reversibility."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hbode import METHODS, FirstOrder, GeneralizedHeavyBall, SecondOrder, hbodeint
from hbode.solvers import Implicit
from hbode.solvers.methods.explicit.chebyshev import Chebyshev

A = torch.tensor([[-1.0, 2.0, 0.1], [-2.0, -0.5, 0.3], [0.2, -0.3, -1.5]], dtype=torch.float64)
GAMMA, XI = 0.4, 0.7
ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None]
NYSTROM = ["dprkn5", "dprkn6", "dprkn8"]


def accuracy(name: str) -> float:
    """Return the tolerance of a linear solve that shows the method's errors well above rounding."""
    order = METHODS[name].order
    if isinstance(METHODS[name], Implicit):
        return {1: 1e-4, 5: 1e-10}.get(order, 1e-6)
    return 1e-10 if order > 3 else 1e-6


def allowed(name: str, steps: int, growth: float) -> float:
    """Return the error that a linear solve over 2 units of time is allowed with that tolerance.

    Local errors add up and grow with the matrix exponential, of size ten. Measured, in units of the tolerance: at most
    9 for orders above three and 65 for orders two and three. The estimate of fehlberg2 is a 512th of a stage
    difference by construction (Fehlberg 1969) and lets the error be 3200 times the tolerance. Implicit methods and
    rkc step with the very solution whose error they estimate: each step may leave an error of the tolerance in the mean
    square, thrice as much in a component, which then grows.
    """
    tol = accuracy(name)
    if isinstance(METHODS[name], Implicit | Chebyshev):
        return 3 * growth * steps * tol
    if METHODS[name].order > 3:
        return 20 * tol
    return 5000 * tol if name == "fehlberg2" else 150 * tol


def block(gamma: float = GAMMA, xi: float = XI) -> Tensor:
    """The matrix of h' = m, m' = -γ m + A h - ξ h, on rows (h, m)."""
    eye = torch.eye(3, dtype=torch.float64)
    return torch.cat((torch.cat((torch.zeros_like(eye), eye), 1), torch.cat((A - xi * eye, -gamma * eye), 1)))


def growth(matrix: Tensor, t: Tensor) -> float:
    """By how much an error grows until any of the times, at most, in the largest component."""
    return max(torch.linalg.matrix_norm(torch.linalg.matrix_exp(s * matrix), math.inf).item() for s in t)


def evolved(matrix: Tensor, t: Tensor, y0: Tensor) -> Tensor:
    return torch.stack([y0 @ torch.linalg.matrix_exp(s * matrix).T for s in t])


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_damped_linear_system_by_matrix_exponential(draw, name, sign):
    """Every adaptive method on h'' + γ h' + ξ h = A h at 7 times, each the end of a step.

    (Between the steps there is the error of the interpolant besides, which is measured with the orders.)
    """
    tol = accuracy(name)
    t = sign * torch.linspace(0, 2, 7, dtype=torch.float64)
    h0, m0 = draw(4, 3), draw(4, 3)
    sol = hbodeint(
        lambda t, h: h @ A.T,
        h0,
        t,
        m0=m0,
        gamma=GAMMA,
        xi=XI,
        method=name,
        rtol=tol,
        atol=tol,
        options={"step_ts": t[1:-1]},
    )
    expected = evolved(block(), t, torch.cat((h0, m0), -1))
    bound = allowed(name, sol.stats.accepted, growth(block(), t))
    assert torch.allclose(torch.cat((sol.h, sol.m), -1), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", [n for n in ADAPTIVE if not METHODS[n].damped])
def test_first_order_linear_system_by_matrix_exponential(draw, name):
    tol = accuracy(name)
    t = torch.linspace(0, 2, 7, dtype=torch.float64)
    h0 = draw(4, 3)
    sol = hbodeint(
        FirstOrder(lambda t, h: h @ A.T), h0, t, method=name, rtol=tol, atol=tol, options={"step_ts": t[1:-1]}
    )
    bound = allowed(name, sol.stats.accepted, growth(A, t))
    assert torch.allclose(sol.h, evolved(A, t, h0), rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["dopri5", "tsit5"])
def test_second_order_linear_system_by_matrix_exponential(draw, name):
    t = torch.linspace(0, 2, 7, dtype=torch.float64)
    h0, m0 = draw(4, 3), draw(4, 3)
    system = SecondOrder(lambda t, h, m: h @ A.T - GAMMA * m - XI * h)
    h, m = hbodeint(system, h0, t, m0=m0, method=name, rtol=1e-10, atol=1e-10)
    expected = evolved(block(), t, torch.cat((h0, m0), -1))
    assert torch.allclose(torch.cat((h, m), -1), expected, rtol=0, atol=allowed(name, 0, 0.0))


@pytest.mark.parametrize(
    "name", [n for n, method in METHODS.items() if not method.damped and hasattr(method, "tableau")]
)
def test_one_step_on_a_linear_system_is_the_function_of_its_tableau(draw, name):
    """R(z) = 1 + z b (1 - z A)^-1 1, here with a matrix for z: the step against its table, by other arithmetic."""
    tab, h0, dt = METHODS[name].tableau, draw(2, 3), 0.3
    call = {"method": name, "options": {"step_size": dt}, "rtol": 0.0, "atol": 1e-13}
    h, _ = hbodeint(FirstOrder(lambda t, h: h @ A.T), h0, [0.0, dt], **call)
    s = len(tab.c)
    a = torch.tensor([[*row, *[0.0] * (s - len(row))] for row in tab.a], dtype=torch.float64)
    z = dt * A
    stages = torch.linalg.solve(
        torch.eye(3 * s, dtype=torch.float64) - torch.kron(a, z), torch.eye(3 * s, dtype=torch.float64)
    )
    start = torch.cat([torch.eye(3, dtype=torch.float64)] * s)
    # Explicit tables end with the derivative at the end of the step: the last row of a holds the weights b.
    b = torch.tensor([tab.b], dtype=torch.float64) if isinstance(METHODS[name], Implicit) else a[-1:]
    growth = torch.eye(3, dtype=torch.float64) + torch.kron(b, z) @ stages @ start
    # Rounding of at most 13 stages with coefficients up to 10; implicit stages are solved to less than that.
    assert torch.allclose(h[1], h0 @ growth.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("step", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("gamma", [0.3, 2.0, [0.3, 0.0, 1.5]], ids=["weak", "strong", "per channel"])
@pytest.mark.parametrize("name", NYSTROM)
def test_nystrom_damping_is_exact_for_any_step(draw, name, gamma, step):
    """With f = -(γ²/4) h the transformed force vanishes: h = e^(-γt/2) (h0 + t (m0 + γ h0 / 2)).

    One step of any length gives it to rounding, inside the step as well as at its end. The same damping as ξ, without
    f, is the critically damped oscillator.
    """
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    h0, m0 = draw(4, 3), draw(4, 3)
    t = torch.tensor([0.0, 0.3 * step, step], dtype=torch.float64)
    at, v0 = t.view(3, 1, 1), m0 + 0.5 * gamma * h0
    decay = torch.exp(-0.5 * gamma * at)
    h_exact = decay * (h0 + at * v0)
    m_exact = decay * v0 - 0.5 * gamma * h_exact
    call = {"m0": m0, "gamma": gamma, "method": name, "options": {"step_size": step}}
    by_force = hbodeint(lambda t, h: -0.25 * gamma**2 * h, h0, t, **call)
    by_xi = hbodeint(lambda t, h: torch.zeros_like(h), h0, t, xi=0.25 * gamma**2, **call)
    # Rounding: sums of some ten terms, of the size of the sums of absolute values times the weights, below 10.
    scale = (h0.abs() + step * v0.abs()).max().item()
    for sol in (by_force, by_xi):
        assert sol.stats.accepted == 1
        assert torch.allclose(sol.h, h_exact, rtol=0, atol=1e-14 * scale)
        assert torch.allclose(sol.m, m_exact, rtol=0, atol=1e-14 * scale * (1 + gamma.max().item()))


@pytest.mark.parametrize("name", NYSTROM)
def test_free_damped_motion_costs_no_accuracy(draw, name):
    """f = 0, ξ = 0: h = h0 + m0 (1 - e^-γt) / γ.

    In the transformed variable u'' = (γ²/4) u, so that one step leaves an error of the method's order in γs/2 = 0.15
    alone: below (γs/2)^(p+1) for the coefficients of these tables.
    """
    gamma, s = 0.3, 1.0
    h0, m0 = draw(4, 3), draw(4, 3)
    h, m = hbodeint(
        lambda t, h: torch.zeros_like(h), h0, [0.0, s], m0=m0, gamma=gamma, method=name, options={"step_size": s}
    )
    bound = (gamma * s / 2) ** (METHODS[name].order + 1)
    assert (h[1] - (h0 + m0 * (1 - math.exp(-gamma * s)) / gamma)).abs().max() < bound
    assert (m[1] - m0 * math.exp(-gamma * s)).abs().max() < bound


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape, channels", [((4, 3), (3,)), ((2, 3, 2, 2), (3, 1, 1)), ((2, 2, 2, 3), (3,))])
def test_coefficients_per_channel(draw, shape, channels, per_sample):
    """γ and ξ per channel by a Nystrom method, by dopri5 on the first-order form, and channel by channel."""
    gamma = torch.tensor([0.2, 0.9, 1.7], dtype=torch.float64).view(channels)
    xi = torch.tensor([0.5, 0.0, 1.1], dtype=torch.float64).view(channels)
    h0, m0 = draw(*shape), draw(*shape)
    call = {"m0": m0, "rtol": 1e-11, "atol": 1e-11, "per_sample": per_sample}
    t = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    results = [
        hbodeint(lambda t, h: torch.sin(h + t), h0, t, gamma=gamma, xi=xi, method=name, **call)
        for name in ("dprkn6", "dprkn8", "dopri5")
    ]
    for sol in results[:2]:  # two solves with some ten steps at 1e-11 each
        assert torch.allclose(sol.h, results[2].h, rtol=0, atol=1e-9)
        assert torch.allclose(sol.m, results[2].m, rtol=0, atol=1e-9)
    axis = len(shape) - len(channels)
    for c in range(3):
        one = {**call, "m0": m0.narrow(axis, c, 1)}
        sol = hbodeint(
            lambda t, h: torch.sin(h + t), h0.narrow(axis, c, 1), t, gamma=gamma[c].item(), xi=xi[c].item(), **one
        )
        assert torch.allclose(sol.h, results[0].h.narrow(axis + 1, c, 1), rtol=0, atol=1e-9)


def coupled(t: Tensor, h: Tensor) -> Tensor:
    """A force that is no gradient."""
    return torch.sin(h @ A.T + t)


def of_a_potential(t: Tensor, h: Tensor) -> Tensor:
    """-∇V of V = Σ log cosh(A h + cos t)."""
    return -torch.tanh(h @ A.T + torch.cos(t)) @ A


def propagator(f, name, steps, length, gamma=GAMMA, xi=XI, activation=None) -> Tensor:
    """The Jacobian ∂(h, m)(T) / ∂(h, m)(0) of a solve, shape (6, 6)."""

    def run(y: Tensor) -> Tensor:
        system = GeneralizedHeavyBall(f, gamma, xi, activation, trainable=False)
        h, m = hbodeint(
            system,
            y[:3],
            [0.0, length],
            m0=y[3:],
            method=name,
            gradient="backprop",
            options={"step_size": length / steps},
        )
        return torch.cat((h[-1], m[-1]))

    y = torch.tensor([0.3, -0.8, 0.5, 0.1, 0.9, -0.4], dtype=torch.float64)
    return torch.autograd.functional.jacobian(run, y)


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_volume_shrinks_as_in_the_exact_flow(name, activation):
    """det Φ = e^(-γ N T) for any force and any step: the shears have determinant one.

    N = 3, T = 2, 20 steps (60 substeps for yoshida4): rounding of products of some hundred 6 x 6 matrices, below 1e-12.
    """
    phi = propagator(coupled, name, 20, 2.0, activation=activation)
    assert torch.linalg.det(phi).item() == pytest.approx(math.exp(-GAMMA * 3 * 2.0), rel=1e-12)


def test_volume_of_another_method_is_off():
    """The test above can fail: rk4 keeps the volume to its order only (measured: 1e-5)."""
    phi = propagator(coupled, "rk4", 20, 2.0)
    assert torch.linalg.det(phi).item() != pytest.approx(math.exp(-GAMMA * 3 * 2.0), rel=1e-8)


@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_conformally_symplectic(name):
    """Φᵀ Ω Φ = e^(-γT) Ω for a force with a potential, and singular values in pairs s s' = e^(-γT)."""
    phi = propagator(of_a_potential, name, 20, 2.0)
    eye, none = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    omega = torch.cat((torch.cat((none, eye), 1), torch.cat((-eye, none), 1)))
    decay = math.exp(-GAMMA * 2.0)
    assert torch.allclose(phi.T @ omega @ phi, decay * omega, rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(phi)
    assert torch.allclose(values * values.flip(0), torch.full_like(values, decay), rtol=1e-11, atol=0)
    other = propagator(coupled, name, 20, 2.0)
    assert not torch.allclose(other.T @ omega @ other, decay * omega, rtol=0, atol=1e-3)


@pytest.mark.parametrize("activation", [None, "tanh", "hardtanh"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_reversed_it_returns_to_its_start(draw, name, per_sample, activation):
    """100 steps there and back, damped and driven.

    A rounding of 1e-16 a step grows by at most e^(2 T) = 3000 on the way back, over 200 steps: 1e-10 is not reached
    (measured: 1e-14), while the error of a leapfrog solve is 1e-3.
    """
    system = GeneralizedHeavyBall(coupled, GAMMA, XI, activation, trainable=False)
    h0, m0 = draw(4, 3), draw(4, 3)
    t = torch.linspace(0, 4, 101, dtype=torch.float64)
    there = hbodeint(system, h0, t, m0=m0, method=name, per_sample=per_sample)
    back = hbodeint(system, there.h[-1], t.flip(0), m0=there.m[-1], method=name, per_sample=per_sample)
    assert (there.h[-1] - h0).abs().max() > 0.1
    assert torch.allclose(back.h.flip(0), there.h, rtol=0, atol=1e-12)
    assert torch.allclose(back.m.flip(0), there.m, rtol=0, atol=1e-12)


def test_another_method_does_not_return(draw):
    """The test above can fail: rk4 comes back to its order only."""
    h0, m0 = draw(4, 3), draw(4, 3)
    t = torch.linspace(0, 4, 101, dtype=torch.float64)
    there = hbodeint(coupled, h0, t, m0=m0, method="rk4")
    back = hbodeint(coupled, there.h[-1], t.flip(0), m0=there.m[-1], method="rk4")
    assert (back.h[-1] - h0).abs().max() > 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_force_is_integrated_exactly(draw, name):
    """h' = c: every method of order one and more, in one step, to the rounding of its weights."""
    c, h0 = draw(3), draw(2, 3)
    t = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    if METHODS[name].damped:
        h, m = hbodeint(lambda t, h: c.expand_as(h), h0, t, gamma=0.0, method=name, options={"step_size": 2.0})
        expected = h0 + 0.5 * c * t.view(3, 1, 1) ** 2
        assert torch.allclose(m, (c * t.view(3, 1, 1)).expand_as(m), rtol=0, atol=1e-13)
    else:
        h, _ = hbodeint(FirstOrder(lambda t, h: c.expand_as(h)), h0, t, method=name, options={"step_size": 2.0})
        expected = h0 + c * t.view(3, 1, 1)
    assert torch.allclose(h, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_field_may_return_its_argument(name, per_sample):
    """The steps must not write into what the field gave them: h' = h, as the same tensor, a view and a copy."""
    h0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    options = {"step_size": 0.25, **({"max_iters": 60} if name == "implicit_adams" else {})}
    fields = (lambda t, h: h, lambda t, h: h.view_as(h), lambda t, h: h.clone())
    results = []
    for f in fields:
        func = f if METHODS[name].damped else FirstOrder(f)
        sol = hbodeint(
            func, h0, [0.0, 0.4, 1.0], method=name, per_sample=per_sample, rtol=1e-12, atol=1e-12, options=options
        )
        results.append(sol.h)
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[2])
    assert torch.equal(h0, torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
