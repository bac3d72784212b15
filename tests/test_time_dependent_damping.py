"""Damping and restoring coefficients that depend on the time, h'' + γ(t) h' + ξ(t) h = f(t, h)."""

import math

import numpy as np
import pytest
import torch
from scenarios import assert_same
from torch import nn

from hbode import (
    METHODS,
    Event,
    FirstOrder,
    GeneralizedHeavyBall,
    HeavyBall,
    LinearInput,
    NesterovDamping,
    Update,
    hbodeint,
)
from hbode.analysis import gradient_flow, stiffness
from hbode.setup.options import plan
from hbode.solvers import (
    Clock,
    Field,
    Implicit,
    Method,
    Nystrom,
    SampleClock,
    VaryingDamping,
    normal_form,
    solve,
    solve_in_blocks,
    solve_per_sample,
)

F64 = torch.float64
NYSTROM = [name for name, method in METHODS.items() if isinstance(method, Nystrom)]


def nesterov(t):
    return 3 / t


def sine(t):
    return 0.3 + 0.1 * torch.sin(t)


def restoring(t):
    return 0.7 + 0.2 * torch.cos(t)


GAMMAS = pytest.mark.parametrize("gamma", [nesterov, sine], ids=["3/t", "0.3 + 0.1 sin t"])


class Known:
    """f such that a sin(ω t + φ) solves h'' + γ(t) h' + ξ(t) h = f(t, h); nonlinear, so that errors of h are felt."""

    a, omega, phi = (torch.tensor(x, dtype=F64) for x in ((1.0, 0.7), (1.3, 0.9), (0.4, 1.1)))
    matrix = torch.tensor([[1.2, 0.5], [-0.4, 0.9]], dtype=F64)

    def __init__(self, gamma, xi):
        self.gamma, self.xi = gamma, xi

    def h(self, t):
        return self.a * torch.sin(self.omega * t + self.phi)

    def m(self, t):
        return self.a * self.omega * torch.cos(self.omega * t + self.phi)

    def __call__(self, t, h):
        exact = self.h(t)
        drive = -(self.omega**2) * exact + self.gamma(t) * self.m(t) + self.xi(t) * exact
        return torch.sin(exact @ self.matrix) - torch.sin(h @ self.matrix) + drive

    def errors(self, name, count, start=2.0, end=4.0, inside=(0.21, 0.37, 0.83)):
        """Errors at the end of so many steps, and between them."""
        y0 = (f(torch.tensor(start, dtype=F64)) for f in (self.h, self.m))
        h0, m0 = y0
        step = (end - start) / count
        options = {"step_size": abs(step)} | ({"max_iters": 60} if name == "implicit_adams" else {})
        call = {"method": name, "rtol": 1e-13, "atol": 1e-13, "options": options, "dense": True}
        sol = hbodeint(self, h0, [start, end], m0=m0, gamma=self.gamma, xi=self.xi, **call)
        between = (start + step * (torch.arange(count, dtype=F64).unsqueeze(1) + torch.tensor(inside))).flatten()

        def error(t):
            t = t.unsqueeze(-1)
            h, m = sol(t[:, 0])
            return max((h - self.h(t)).abs().max().item(), (m - self.m(t)).abs().max().item())

        return error(torch.tensor([end], dtype=F64)), error(between)


def slopes(counts, errors):
    """Orders of convergence at the ends of the spans, and inside the steps."""
    return [-np.polyfit(np.log(counts), np.log(column), 1)[0] for column in zip(*errors, strict=True)]


@GAMMAS
@pytest.mark.parametrize("span", [(2.0, 4.0), (4.0, 2.0)], ids=["forward", "backward"])
def test_nystrom_methods_keep_their_order_and_that_of_their_interpolants(gamma, span):
    """As with a constant damping; an interpolant of order q leaves O(dt^(q + 1)) inside a step."""
    steps = {5: (24, 32, 48), 6: (12, 16, 24), 8: (4, 6, 8)}
    for name in NYSTROM:
        tableau, counts = METHODS[name].tableau, steps[METHODS[name].order]
        ends, inside = slopes(counts, [Known(gamma, restoring).errors(name, n, *span) for n in counts])
        assert abs(ends - tableau.order) < 0.5, name
        assert abs(inside - min(tableau.order, tableau.dense_order + 1)) < 0.5, name


@pytest.mark.parametrize("gamma", [nesterov, pytest.param(sine, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if isinstance(method, Implicit) and name != "prox_bdf3" else [])
        for name, method in METHODS.items()
        if name not in (*NYSTROM, "auto")
    ],
)
def test_every_other_method_keeps_its_order(gamma, name):
    """One that asks for γ at the times of its stages."""
    order = METHODS[name].order
    counts = {1: (64, 128), 2: (48, 96), 3: (48, 96), 4: (64, 128), 5: (48, 72), 6: (8, 16), 8: (4, 8)}[order]
    ends, _ = slopes(counts, [Known(gamma, restoring).errors(name, n) for n in counts])
    assert abs(ends - order) < 0.45


@pytest.mark.parametrize("name", ["dprkn6", "auto", "leapfrog"])
def test_nesterov_damping_of_an_oscillator_is_a_bessel_function(name):
    """t h'' + 3 h' + t h = 0 has the solution J₁(t) / t, and (J₁(t) / t)' = -J₂(t) / t."""
    t = torch.linspace(0.5, 4 if name == "leapfrog" else 20, 40, dtype=F64)
    j0, j1 = torch.special.bessel_j0(t), torch.special.bessel_j1(t)
    h, m = j1 / t, -(2 * j1 / t - j0) / t
    call = {"options": {"step_size": 1e-2}} if name == "leapfrog" else {"rtol": 1e-9, "atol": 1e-11}
    sol = hbodeint(lambda t, h: -h, h[:1], t, m0=m[:1], gamma=NesterovDamping(), method=name, **call)
    # A leapfrog leaves dt² / 24 times derivatives up to (3/t)³ at the start; tolerances add up over some 100 steps.
    tol = 1e-2**2 * 6**3 / 24 if name == "leapfrog" else 1e-7
    assert (sol.h[:, 0] - h).abs().max() < tol
    assert (sol.m[:, 0] - m).abs().max() < 10 * tol


def test_without_a_force_the_momentum_is_that_of_the_integral_of_the_damping():
    """m = t⁻³, h = (1 - t⁻²) / 2, over steps as long as the time itself."""
    t = torch.logspace(0, 3, 10, dtype=F64)
    zero = torch.zeros(1, dtype=F64)
    sol = hbodeint(lambda t, h: 0 * h, zero, t, m0=zero + 1, gamma=nesterov, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(sol.h[:, 0], (1 - t**-2) / 2, rtol=0, atol=1e-8)
    torch.testing.assert_close(sol.m[:, 0], t**-3, rtol=0, atol=1e-8)
    assert sol.stats.accepted < 1000  # 6 in each tenth of a decade, where equal steps would be 10⁵


@pytest.mark.parametrize("name", [*NYSTROM, "leapfrog", "dopri5", "gl4"])
def test_a_function_that_is_constant_gives_what_the_constant_gives(name, net):
    f, h0 = net(), torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=F64)
    own = torch.tensor([0.3, 0.6], dtype=F64)
    call = {"method": name, "options": {"step_size": 0.125}}
    t = [0.0, 0.7, 2.0]
    fixed = hbodeint(f, h0, t, m0=h0.flip(0), gamma=own, xi=0.4, **call)
    varying = hbodeint(f, h0, t, m0=h0.flip(0), gamma=lambda t: own + 0 * t, xi=lambda t: 0.4 + 0 * t, **call)
    # Rounding of γ in its derivative, 50 times as large on six points, and of 16 steps; of equations, their tolerance.
    torch.testing.assert_close(
        torch.stack((*varying,)), torch.stack((*fixed,)), rtol=0, atol=1e-8 if name == "gl4" else 1e-12
    )


# ---- gradients


class Waves(nn.Module):
    """γ(t) = a + b sin t, b for each channel."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=F64))
        self.b = nn.Parameter(torch.tensor([0.1, 0.2], dtype=F64))

    def forward(self, t):
        return self.a + self.b * torch.sin(t)


class Fading(nn.Module):
    """ξ(t) = c e^-t."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.5, dtype=F64))

    def forward(self, t):
        return self.c * torch.exp(-t)


def solved(net, draw_h0, gamma=None, activation=None, **call):
    torch.manual_seed(0)
    system = GeneralizedHeavyBall(net(), Waves() if gamma is None else gamma, Fading(), activation)
    h0 = draw_h0.detach().clone().requires_grad_()
    t = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=F64, requires_grad=True)
    sol = hbodeint(system, h0, t, rtol=1e-6, atol=1e-8, **call)
    loss = sol.h.square().sum() + sol.m.sum()
    return torch.autograd.grad(loss, (h0, t, *system.parameters())), sol


H0 = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]], dtype=F64)


@pytest.mark.parametrize("gamma", [None, pytest.param("nesterov", marks=pytest.mark.slow)])
def test_gradients_of_every_mode_reach_coefficients_states_times_and_parameters(net, gamma):
    """Backpropagation through steps of another kind is the independent path, at errors of the tolerances, 1e-6."""

    def found(**call):
        own = None if gamma is None else NesterovDamping(offset=0.5, trainable=True).double()
        return solved(net, H0, own, **call)[0]

    exact = found(method="dopri5", gradient="backprop")
    stored = found(gradient="backprop")
    assert_same(stored, exact, 1e-4)
    assert_same(found(), stored)
    assert_same(found(options={"checkpoints": 2}), stored)
    assert_same(found(gradient="reversible"), exact, 1e-4)
    assert_same(found(gradient="continuous_adjoint"), exact, 1e-4)
    assert_same(found(per_sample=True), exact, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["esdirk4", "radauIIA5", "prox_bdf3", "auto"])
def test_gradients_of_implicit_methods(net, name):
    exact = solved(net, H0, gradient="backprop")[0]
    assert_same(solved(net, H0, method=name)[0], exact, 1e-2 if name == "prox_bdf3" else 1e-3)


def test_gradients_of_the_generalised_heavy_ball_and_of_reversible_leapfrogs(net):
    exact = solved(net, H0, activation="tanh", gradient="backprop")[0]
    assert_same(solved(net, H0, activation="tanh")[0], exact)
    call = {"activation": "tanh", "method": "yoshida4", "options": {"step_size": 2**-5}}
    stored = solved(net, H0, gradient="backprop", **call)[0]
    assert_same(stored, exact, 1e-3)  # an error of order four, (2⁻⁵)⁴, times some 10³
    assert_same(solved(net, H0, gradient="reversible", **call)[0], stored, 1e-9)


def test_dense_output_has_the_gradient_of_the_solve(net):
    system = HeavyBall(net(), Waves())
    rows = []
    for gradient in ("discrete_adjoint", "backprop"):
        sol = hbodeint(system, H0, [0.0, 2.0], gradient=gradient, dense=True)
        rows.append(
            torch.autograd.grad(sol(torch.tensor([0.33, 1.7], dtype=F64))[0].square().sum(), [*system.parameters()])
        )
    assert_same(*rows)


def test_an_event_and_its_gradient():
    """From m = m0 at t = 1, h = m0 (1 - t⁻²) / 2 reaches c at t = (1 - 2 c / m0)^(-1/2)."""
    m0 = torch.tensor([1.5], dtype=F64, requires_grad=True)
    times = []
    for gradient in ("discrete_adjoint", "continuous_adjoint", "backprop"):
        call = {"gamma": nesterov, "m0": m0, "gradient": gradient, "rtol": 1e-10, "atol": 1e-12}
        sol = hbodeint(
            lambda t, h: 0 * h, torch.zeros(1, dtype=F64), [1.0, 9.0], event=Event(lambda t, h, m: h - 0.4), **call
        )
        times.append((sol.events[0].t, *torch.autograd.grad(sol.events[0].t.sum(), m0)))
    exact = (1 - 0.8 / m0).rsqrt()
    (slope,) = torch.autograd.grad(exact.sum(), m0)
    for t, bar in times:
        torch.testing.assert_close(t.detach().reshape(1), exact.detach(), rtol=1e-7, atol=0)
        torch.testing.assert_close(bar, slope, rtol=1e-6, atol=0)


# ---- ways to solve


@pytest.mark.parametrize("name", ["dprkn6", "leapfrog", pytest.param("esdirk4", marks=pytest.mark.slow)])
def test_samples_have_times_of_their_own(net, name):
    """γ gets them as (B, 1); a sample that is done waits at its last time."""
    f = net()
    t = torch.tensor([[0.5, 1.0, 1.5], [0.2, 1.7, 3.1], [0.9, 1.0, 1.0]], dtype=F64)
    call = {"method": name, "gamma": NesterovDamping(offset=0.1), "xi": restoring, "per_sample": True}
    call |= {"options": {"step_size": 0.1}} if name == "leapfrog" else {"rtol": 1e-5, "atol": 1e-7}
    sol = hbodeint(f, H0, t, **call)
    for i in range(3):
        alone = hbodeint(f, H0[i : i + 1], t[i : i + 1], **call)
        torch.testing.assert_close(sol.h[:, i], alone.h[:, 0], rtol=0, atol=1e-6 if name == "esdirk4" else 1e-11)


def test_a_damping_that_jumps_is_seen_from_the_side_of_the_step():
    """m' = -γ m with γ = 0.2 before t = 1.5 and 2 from then on."""
    one = torch.ones(1, dtype=F64)

    def gamma(t):
        return torch.where(t < 1.5, 0.2, 2.0)

    call = {"m0": one, "gamma": gamma, "rtol": 1e-10, "atol": 1e-12, "options": {"jump_ts": [1.5]}}
    sol = hbodeint(lambda t, h: 0 * h, 0 * one, [0.0, 1.5, 3.0], **call)
    expected = torch.tensor([1.0, math.exp(-0.3), math.exp(-3.3)], dtype=F64)
    torch.testing.assert_close(sol.m[:, 0], expected, rtol=0, atol=1e-8)
    assert sol.stats.rejected <= 2


@pytest.mark.parametrize("what", ["complex", "driven", "updated", "tied"])
def test_the_normal_form_and_the_first_order_form_agree(what):
    """At errors of the tolerances, 1e-9."""
    t, h0, extra, f = [1.0, 2.0, 3.0], torch.ones(2, 1, dtype=F64), {}, lambda t, h: -torch.sin(h)
    if what == "complex":
        h0, f = torch.tensor([1 + 0.5j], dtype=torch.complex128), lambda t, h: -1j * h
    elif what == "driven":
        values = torch.tensor([0.3, -0.5, 1.0, 0.2], dtype=F64).unsqueeze(1)
        extra["inputs"], f = LinearInput(torch.arange(4.0, dtype=F64), values), lambda t, h, u: u - h
    elif what == "updated":
        extra["updates"] = Update(torch.tensor([1.5, 2.0], dtype=F64), lambda t, h, m: (h + 1, 0.5 * m))
    else:
        t = torch.tensor([t, [2.0, 4.5, 5.0]], dtype=F64)
    call = {"gamma": nesterov, "xi": restoring, "rtol": 1e-9, "atol": 1e-11, **extra}
    first, second = (hbodeint(f, h0, t, method=name, **call) for name in ("dprkn6", "dopri5"))
    torch.testing.assert_close(torch.stack((*first,)), torch.stack((*second,)), rtol=0, atol=1e-7)


def test_second_derivatives():
    found = []
    for gradient in ("discrete_adjoint", "backprop"):
        gamma = NesterovDamping(trainable=True).double()
        h0 = torch.ones(1, dtype=F64, requires_grad=True)
        sol = hbodeint(HeavyBall(lambda t, h: -torch.sin(h), gamma), h0, [1.0, 3.0], gradient=gradient)
        first = torch.autograd.grad(sol.h.square().sum(), (h0, gamma.r), create_graph=True)
        found.append(torch.autograd.grad(first[0].sum() + first[1], (h0, gamma.r)))
    assert_same(*found)


def test_states_of_several_tensors_share_a_function(net):
    h0 = {"a": H0[:, :1], "b": H0[:, 1]}

    def both(t, h):
        return {"a": -h["b"].unsqueeze(1), "b": torch.sin(h["a"][:, 0])}

    def one(t, h):
        return torch.stack((-h[:, 1], torch.sin(h[:, 0])), 1)

    for t in (torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([[1.0, 2.0]] * 3, dtype=F64)):
        sol = hbodeint(both, h0, t, gamma=nesterov, xi=restoring)
        flat = hbodeint(one, H0, t, gamma=nesterov, xi=restoring)
        torch.testing.assert_close(torch.cat((sol.h["a"], sol.h["b"].unsqueeze(-1)), -1), flat.h, rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match=r"gamma\['a'\]"):
        hbodeint(both, h0, [1.0, 2.0], gamma={"a": nesterov, "b": 0.3})


def test_single_precision(net):
    f, gamma = net().float(), NesterovDamping(offset=1.0, trainable=True)
    system = HeavyBall(f, gamma)
    sol = hbodeint(system, H0.float(), [0.0, 2.0])
    exact = hbodeint(HeavyBall(net(), NesterovDamping(offset=1.0)), H0, [0.0, 2.0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(sol.h.double(), exact.h, rtol=0, atol=1e-4)
    sol.h.sum().backward()
    assert gamma.r.grad is not None and gamma.r in set(system.parameters())


def test_reference_methods_and_the_joined_field(net):
    system = GeneralizedHeavyBall(net(), nesterov, restoring, None)
    with torch.no_grad():
        ours = hbodeint(system, H0, [1.0, 2.0], rtol=1e-9, atol=1e-11)
        theirs = hbodeint(system, H0, [1.0, 2.0], method="scipy:DOP853", rtol=1e-9, atol=1e-11)
        joined = hbodeint(FirstOrder(system.as_ode()), torch.cat((H0, 0 * H0), 1), [1.0, 2.0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.h, theirs.h, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.h, joined.h[..., :2], rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dopri5", "leapfrog"])
def test_methods_that_ask_for_the_damping_compile(net, name, recwarn):
    call = {"method": name, "options": {"step_size": 0.05}}
    grads = []
    for compile in (True, False):
        system = GeneralizedHeavyBall(net(), Waves(), Fading(), None)
        sol = hbodeint(system, H0, [0.1, 0.72, 2.0], compile=compile, **call)
        grads.append((sol.h.detach(), *torch.autograd.grad(sol.h.square().sum(), [*system.parameters()])))
    assert_same(*grads)
    assert not [w for w in recwarn if "uncompiled" in str(w.message)]


@pytest.mark.slow
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("t", [[0.1, 0.72, 2.0], [0.1, 2.0]], ids=["outputs inside", "none"])
def test_nystrom_methods_compile(net, t, per_sample, recwarn):
    """To rounding, with the gradients of what the damping holds, by which the outputs inside the steps are read."""
    found = []
    for compile in (True, False):
        system = GeneralizedHeavyBall(net(), Waves(), Fading(), None)
        sol = hbodeint(system, H0, t, compile=compile, per_sample=per_sample)
        grads = torch.autograd.grad(sol.h.square().sum() + sol.m.sum(), [*system.parameters()])
        found.append((sol.h.detach(), sol.m.detach(), *grads))
    assert_same(*found, 1e-12)
    assert not [w for w in recwarn if "uncompiled" in str(w.message)]


def waves_of(own):
    return lambda t: torch.tensor(own, dtype=F64) + 0.2 * torch.sin(2 * t)


def looked_at(t):
    return torch.tensor(0.3 + 0.2 * math.sin(2 * float(t)), dtype=F64)


@pytest.mark.parametrize(
    "gamma, samples",
    [
        (waves_of(0.3), False),
        (waves_of([[0.3, 0.6]]), False),
        (waves_of(0.3), True),
        (waves_of([[0.3, 0.6]]), True),
        (looked_at, False),
    ],
    ids=["one", "of channels", "of samples", "of samples and channels", "that looks at its time"],
)
def test_blocks_read_the_outputs_of_the_loops(gamma, samples):
    """Inside 28 steps of order eight, to rounding."""
    t = torch.linspace(0, 5, 40, dtype=F64)
    t = torch.stack((t, 0.5 * t, t)) if samples else t
    clock = SampleClock(t, H0.ndim) if samples else Clock.of(t)
    method, tapes = normal_form(METHODS["dprkn8"]), []
    drawn = plan(method, {}, t, 1e-8, 1e-8, (None, None, t))
    for loop in (solve_per_sample if samples else solve, solve_in_blocks):
        damping = VaryingDamping(gamma, H0.new_zeros(()))
        field = Field(lambda t, h: torch.sin(t) - h - 0.3 * h**3, F64, damping)
        with torch.no_grad():
            tapes.append(loop(method, field, torch.stack((H0, torch.ones_like(H0))), clock, drawn))
    one, other = (clock.place(tape.gathered()[0], tape.rows.places) for tape in tapes)
    assert [x.accepted for x in tapes[0].outcomes] == [x.accepted for x in tapes[1].outcomes]
    torch.testing.assert_close(other, one, rtol=0, atol=1e-13)


# ---- analysis


def test_stiffness_takes_the_damping_of_each_time():
    """Of h'' + γ(t) h' + 4 h = 0: the roots of λ² + γ λ + 4."""
    system = HeavyBall(lambda t, h: -4 * h, lambda t: 10 / t)
    t = torch.tensor([1.0, 2.0, 4.0], dtype=F64)
    sol = hbodeint(system, torch.ones(1, 1, dtype=F64), t)
    found = stiffness(system, sol).largest.reshape(-1)
    expected = [max(abs(np.roots([1, 10 / s, 4]))) for s in t.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=1e-9, atol=0)


def test_an_analysis_of_a_constant_damping_refuses():
    system = HeavyBall(lambda t, h: -4 * h, sine)
    sol = hbodeint(system, torch.ones(1, 1, dtype=F64), [1.0, 2.0], dense=True)
    with pytest.raises(ValueError, match="gamma must be constant"):
        gradient_flow(system, sol)
    with pytest.raises(ValueError, match="gamma must be constant"):
        system.coefficients()
    xi_alone = GeneralizedHeavyBall(lambda t, h: -4 * h, 0.3, restoring)
    with pytest.raises(ValueError, match="xi must be constant"):
        xi_alone.coefficients()
    assert torch.equal(xi_alone.coefficients(torch.tensor(0.0))[1], torch.tensor(0.9))


# ---- errors


@pytest.mark.parametrize(
    "given, t, error, named",
    [
        ({"gamma": nesterov}, [0.0, 1.0], ValueError, "gamma must be finite"),
        ({"gamma": NesterovDamping()}, [-1.0, 1.0], ValueError, "gamma must be finite"),
        ({"gamma": NesterovDamping()}, [1.0, 0.0], ValueError, "gamma must be finite"),
        ({"gamma": 0.1, "xi": lambda t: 1 / t}, [0.0, 1.0], ValueError, "xi must be finite"),
        ({"gamma": lambda t: 0.3}, [0.0, 1.0], TypeError, "must return tensors"),
        ({"gamma": NesterovDamping}, [0.0, 1.0], TypeError, "r must be a number"),
        ({"gamma": lambda t: torch.ones(3) * t}, [0.0, 1.0], ValueError, "γ and ξ must broadcast"),
    ],
)
def test_functions_are_checked_before_any_work(given, t, error, named, counted):
    f = counted(lambda t, h: -h)
    with pytest.raises(error, match=named):
        hbodeint(f, torch.ones(2, 2, dtype=F64), t, **given)
    assert f.calls == 0


@pytest.mark.parametrize("arguments", [{"r": math.inf}, {"offset": math.nan}, {"r": torch.ones(2)}, {"offset": "1"}])
def test_nesterov_damping_takes_finite_numbers(arguments):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(arguments))} must be"):
        NesterovDamping(**arguments)


def test_an_upper_bound_is_for_a_constant():
    with pytest.raises(ValueError, match="epsilon"):
        HeavyBall(nn.Linear(2, 2), nesterov, epsilon=2.0)


def test_parameters_of_a_module_that_a_function_uses_are_missed_with_a_warning():
    own = NesterovDamping(trainable=True)
    with pytest.warns(UserWarning, match="that gamma uses"):
        list(HeavyBall(nn.Linear(2, 2), lambda t: own(t)).parameters())


def test_a_method_that_knows_constant_damping_alone_refuses():
    class Own(Method):
        damped, identity_only, order = True, True, 1

        def start(self, field, t, y):
            return y, field(t, y[0]) - field.damping.gamma_h * y[1]

        step = slope = interpolate = None

    with pytest.raises(TypeError, match="damping_at"):
        hbodeint(lambda t, h: -h, torch.ones(2, dtype=F64), [1.0, 2.0], gamma=nesterov, method=Own())
