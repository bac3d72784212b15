"""The front door: agreement with scipy, counts, shapes, dtypes, directions, and properties of any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import hbode.compat as compat
from hbode import METHODS, FirstOrder, GeneralizedHeavyBall, SecondOrder, Status, hbodeint
from hbode.solvers import Implicit

# Problems of DETEST (Hull, Enright, Fellen, Sedgwick 1972) by their names there, each over [0, 20] or a part of it.


def spiral(t, y):
    """A4 and others scaled: y' = y cos t."""
    return y * torch.cos(t)


def kinetics(t, y):
    """B2-like linear chemical reaction."""
    matrix = torch.tensor([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]], dtype=y.dtype)
    return y @ matrix.T


def reaction(t, y):
    """B4: y' on a torus."""
    a, b, c = y.unbind(-1)
    r = torch.sqrt(a * a + b * b)
    return torch.stack((-b - a * c / r, a - b * c / r, a / r), -1)


def rigid_body(t, y):
    """B5: Euler's equations without external forces."""
    a, b, c = y.unbind(-1)
    return torch.stack((b * c, -a * c, -0.51 * a * b), -1)


def kepler(t, y):
    """D3: an orbit of eccentricity 0.5."""
    x, u = y[..., :2], y[..., 2:]
    return torch.cat((u, -x / (x * x).sum(-1, keepdim=True) ** 1.5), -1)


def van_der_pol(t, y):
    """E2."""
    a, b = y.unbind(-1)
    return torch.stack((b, (1 - a * a) * b - a), -1)


def duffing(t, y):
    """E3, driven and non-autonomous."""
    a, b = y.unbind(-1)
    return torch.stack((b, a**3 / 6 - a + 2 * torch.sin(2.78535 * t)), -1)


DETEST = {
    "A3": (spiral, [1.0], 10.0),
    "B2": (kinetics, [2.0, 0.0, 1.0], 10.0),
    "B4": (reaction, [3.0, 0.0, 0.0], 10.0),
    "B5": (rigid_body, [0.0, 1.0, 1.0], 10.0),
    "D3": (kepler, [0.5, 0.0, 0.0, math.sqrt(3.0)], 10.0),
    "E2": (van_der_pol, [2.0, 0.0], 10.0),
    "E3": (duffing, [0.0, 0.0], 10.0),
}
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)


def scipy_solution(f, y0, t, rtol=1e-12, atol=1e-13, method="DOP853"):
    def rhs(s, y):
        return f(torch.tensor(s, dtype=torch.float64), torch.from_numpy(y)).numpy()

    ordered = t.numpy()
    done = solve_ivp(rhs, (ordered[0], ordered[-1]), y0.numpy(), method=method, t_eval=ordered, rtol=rtol, atol=atol)
    return torch.from_numpy(done.y.T.copy())


@pytest.fixture(scope="module")
def references():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    found = {}
    for name, (f, y0, end) in DETEST.items():
        y0 = torch.tensor(y0, dtype=torch.float64)
        found[name] = y0, end * t, scipy_solution(f, y0, end * t)
    return found


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("problem", DETEST)
def test_agreement_with_scipy(references, problem, method):
    """At tolerances from 1e-3 to 1e-9, errors as small as those of scipy's method of the same order, times five.

    The two control alike but differ in their norms and coefficients, and take steps of different lengths.
    """
    f = DETEST[problem][0]
    y0, t, exact = references[problem]
    peer = {"dopri5": "RK45", "tsit5": "RK45", "dopri8": "DOP853"}[method]
    for tol in TOLERANCES:
        # dopri8's outputs are taken at the ends of steps: its free interpolant is of order five.
        options = {"step_ts": t[1:-1]} if method == "dopri8" else {}
        h, _ = hbodeint(FirstOrder(f), y0, t, method=method, rtol=tol, atol=tol, options=options)
        theirs = scipy_solution(f, y0, t, rtol=tol, atol=tol, method=peer)
        error, bound = (h - exact).abs().max().item(), (theirs - exact).abs().max().item()
        assert error < 5 * bound + 10 * tol


# The same problems that are second-order equations, as heavy balls: h'' + γ h' = f - ξ h.
SECOND = {
    "D3": (lambda t, h: -h / (h * h).sum(-1, keepdim=True) ** 1.5, [0.5, 0.0], [0.0, math.sqrt(3.0)], 0.0, 0.0, 10.0),
    "pendulum": (lambda t, h: -4 * torch.sin(h) + torch.cos(2 * t), [1.0], [0.5], 0.2, 0.0, 10.0),
    "E3": (lambda t, h: h**3 / 6 + 2 * torch.sin(2.78535 * t), [0.0], [0.0], 0.0, 1.0, 10.0),
    "coupled": (lambda t, h: torch.tanh(h.flip(-1)) * t, [0.3, -0.6], [0.1, 0.2], 0.7, 2.0, 5.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dprkn5", "dprkn6", "dprkn8", "dopri5", "leapfrog", "yoshida4"])
@pytest.mark.parametrize("problem", SECOND)
def test_second_order_problems_agree_with_scipy(problem, method):
    """Errors within a fixed number of tolerances at every tolerance.

    Measured on the Kepler orbit, the hardest: at most 4.4 for Nystrom methods, 520 for dopri5. Fixed steps of length s
    leave 110 s² and 900 s⁴.
    """
    f, h0, m0, gamma, xi, end = SECOND[problem]
    h0, m0 = torch.tensor(h0, dtype=torch.float64), torch.tensor(m0, dtype=torch.float64)
    t = torch.linspace(0, end, 9, dtype=torch.float64)

    def joined(s, y):
        h, m = y.chunk(2, -1)
        return torch.cat((m, f(s, h) - gamma * m - xi * h), -1)

    exact = scipy_solution(joined, torch.cat((h0, m0)), t)
    if METHODS[method].error_order is None:
        step = end / 1000
        sol = hbodeint(f, h0, t, m0=m0, gamma=gamma, xi=xi, method=method, options={"step_size": step})
        bound = {"leapfrog": 150 * step**2, "yoshida4": 1200 * step**4}[method]
        assert (torch.cat((sol.h, sol.m), -1) - exact).abs().max() < bound
        return
    for tol in TOLERANCES:
        options = {"step_ts": t[1:-1]} if method == "dprkn8" else {}
        sol = hbodeint(f, h0, t, m0=m0, gamma=gamma, xi=xi, method=method, rtol=tol, atol=tol, options=options)
        assert (torch.cat((sol.h, sol.m), -1) - exact).abs().max() < (1000 if method == "dopri5" else 10) * tol


@pytest.mark.parametrize("method", ["scipy:RK45", "scipy:DOP853", "scipy:LSODA", "torchdiffeq:dopri5"])
def test_reference_methods(draw, method):
    """The same problem in their hands and in ours; repeated times, decreasing time and shapes included."""
    h0, m0 = draw(2, 3), draw(2, 3)
    for sign in (1.0, -1.0):
        t = sign * torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=torch.float64)
        call = {"m0": m0, "gamma": 0.3, "xi": 0.5, "activation": "tanh", "rtol": 1e-9, "atol": 1e-9}
        ours = hbodeint(lambda t, h: torch.sin(h + t), h0, t, **call)
        theirs = hbodeint(lambda t, h: torch.sin(h + t), h0, t, method=method, **call)
        assert torch.allclose(theirs.h, ours.h, rtol=0, atol=1e-6)  # the slackest, LSODA: 100 tolerances and more
        assert torch.allclose(theirs.m, ours.m, rtol=0, atol=1e-6)
        assert theirs.stats.nfe > 10
        single = hbodeint(lambda t, h: torch.sin(h + t), h0, t[:1], method=method, m0=m0)
        assert torch.equal(single.h[0], h0)


def test_gradient_through_torchdiffeq(draw):
    """Its backpropagation and our adjoint give one gradient, to the error of the solves."""
    h0, w = draw(2, 3, grad=True), draw(3, grad=True)
    grads = []
    for method in ("torchdiffeq:dopri5", "dopri5"):
        h, _ = hbodeint(lambda t, h: torch.sin(w * h), h0, [0.0, 1.0], method=method, rtol=1e-10, atol=1e-10)
        grads.append(torch.autograd.grad(h[-1].sum(), (h0, w)))
    for theirs, ours in zip(*grads, strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-7, atol=1e-8)


ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_number_of_outputs_changes_neither_steps_nor_evaluations(net, draw, counted, name, per_sample):
    h0 = draw(2, 2)
    counts, ends = [], []
    for count in (2, 3, 50, 200):
        f = counted(net())
        sol = hbodeint(f, h0, torch.linspace(0, 2, count), method=name, per_sample=per_sample, rtol=1e-4)
        counts.append((f.calls, sol.stats.nfe, sol.stats.accepted, sol.stats.dt.nan_to_num().tolist()))
        ends.append(sol.h[-1])
    assert all(other == counts[0] for other in counts[1:])
    for other in ends[1:]:
        # With several rows in the last step all are interpolated: rounding of weights that add up to some ten (dopri8).
        assert torch.allclose(other, ends[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("grad", [False, True])
def test_evaluations_are_counted(net, draw, counted, name, grad):
    """By a counter in the field, that of rejected steps and of the first step included."""
    f = counted(net())
    options = {"first_step": 2.0} if METHODS[name].error_order else {"step_size": 0.2}
    if name == "implicit_adams":
        options["max_iters"] = 20
    if isinstance(METHODS[name], Implicit):
        options["inner"] = "newton_krylov"  # the one that makes products
    stats = hbodeint(f, draw(2, 2, grad=grad), [0.0, 3.0], method=name, options=options).stats
    assert stats.nfe - stats.products == f.calls
    assert stats.accepted == len(stats.t) == len(stats.dt)
    assert (stats.products > 0) == isinstance(METHODS[name], Implicit)
    if hasattr(METHODS[name], "tableau") and not stats.products:
        each = len(METHODS[name].tableau.c) - 1
        first = bool(METHODS[name].error_order)  # on a fixed grid the last step leaves out the slope at its end
        assert stats.nfe == first + each * (stats.accepted + stats.rejected)


def test_the_automatic_first_step_takes_two_evaluations(net, draw, counted):
    f = counted(net())
    stats = hbodeint(f, draw(2, 2), [0.0, 3.0], method="dopri5").stats
    assert stats.nfe == f.calls == 2 + 6 * (stats.accepted + stats.rejected)


def test_steps_tile_the_span(net, draw):
    stats = hbodeint(net(), draw(2, 2), [1.0, 3.0], method="dopri5").stats
    assert stats.t[0].item() == 1.0
    ends = stats.t + stats.dt
    # Each step starts where the last one ended: differences of times of size one, rounded.
    assert torch.allclose(stats.t[1:], ends[:-1], rtol=0, atol=1e-15)
    assert ends[-1].item() == 3.0


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2), (2, 3, 4, 5), (0, 3)])
@pytest.mark.parametrize("name", METHODS)
def test_shapes_of_the_state(draw, name, shape):
    """Any shape, 0-d and empty ones included, with what each entry gives alone."""
    h0, m0 = draw(*shape), draw(*shape)
    t = torch.tensor([0.0, 0.3, 0.3, 1.0], dtype=torch.float64)
    call = {"gamma": 0.2, "method": name, "options": {"step_size": 0.1}, "rtol": 1e-13, "atol": 1e-13}
    if name == "implicit_adams":
        call["options"]["max_iters"] = 60
    h, m = hbodeint(lambda t, h: -torch.sin(h) + t, h0, t, m0=m0, **call)
    assert h.shape == m.shape == (4, *shape)
    assert h.dtype == torch.float64
    if h0.numel():
        one, _ = hbodeint(lambda t, h: -torch.sin(h) + t, h0.flatten()[-1], t, m0=m0.flatten()[-1], **call)
        # One step of rounding in each of ten steps; what implicit methods iterate stops at 1e-13.
        iterates = name == "implicit_adams" or isinstance(METHODS[name], Implicit)
        assert torch.allclose(h.reshape(4, -1)[:, -1], one, rtol=0, atol=1e-12 if iterates else 1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_single_precision(draw, name):
    """States, results and the time that the field sees are float32; the times of the steps are not.

    At t = 1000 float32 numbers are 6e-5 apart: steps of 0.01 in it would differ by half a percent.
    """
    h0 = draw(2, 3, dtype=torch.float32)
    seen = set()

    def f(t, h):
        seen.add((t.dtype, h.dtype))
        return torch.cos(t) - h

    t = torch.tensor([1000.0, 1001.0], dtype=torch.float64)
    options = {"step_size": 0.01, **({"max_iters": 20} if name == "implicit_adams" else {})}
    results = []
    for start in (h0, h0.double()):
        func = f if METHODS[name].damped else FirstOrder(f)
        sol = hbodeint(func, start, t, method=name, options=options)
        assert torch.allclose(sol.stats.dt, torch.full_like(sol.stats.dt, 0.01), rtol=1e-10, atol=0)
        results.append(sol.h[-1])
        assert results[-1].dtype == start.dtype
    assert seen == {(torch.float32, torch.float32), (torch.float64, torch.float64)}
    # 100 steps with a rounding of 6e-8 each, and a time rounded to 3e-5 in the force, over one unit of time; for the
    # methods of low order both have the same error of discretisation.
    assert torch.allclose(results[0].double(), results[1], rtol=0, atol=1e-4)


def test_half_precision_tolerances_are_loose(draw):
    h0 = draw(2, 3).to(torch.bfloat16)
    h, _ = sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], rtol=1e-1, atol=1e-1)
    assert h.dtype == torch.bfloat16
    assert sol.stats.success


def test_times_keep_double_precision(draw):
    """Python numbers are not rounded to torch's default dtype: 0.1 stays 0.1, in t as well as for γ and ξ."""
    h0 = torch.zeros(1, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, h: torch.ones_like(h)), h0, [0.0, 0.1, 0.3])
    assert sol.t.tolist() == [0.0, 0.1, 0.3]
    assert sol.h[1].item() == pytest.approx(0.1, abs=1e-16)
    system = GeneralizedHeavyBall(lambda t, h: -h, 0.1, 0.3, trainable=False)
    assert system.gamma.double().item() == 0.1
    assert system.xi.double().item() == 0.3


def test_integer_and_single_precision_times(draw):
    h0 = draw(2, 2)
    results = [
        hbodeint(lambda t, h: -torch.sin(h), h0, t).h
        for t in (
            [0, 1, 2],
            torch.tensor([0, 1, 2]),
            torch.tensor([0.0, 1.0, 2.0]),
            np.array([0.0, 1.0, 2.0]),
            (0, 1, 2),
        )
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", METHODS)
def test_complex_states(draw, name, dtype):
    """h'' + γ h' = (i - 1) h, as two real equations in one."""
    h0, m0 = draw(2, 3, dtype=dtype), draw(2, 3, dtype=dtype)
    options = {"step_size": 0.05, **({"max_iters": 60} if name == "implicit_adams" else {})}
    tol = 1e-12 if dtype == torch.complex128 else 1e-6
    call = {"gamma": 0.3, "xi": 0.2, "method": name, "options": options, "rtol": tol, "atol": tol}
    h, m = hbodeint(lambda t, h: (1j - 1) * h * torch.cos(t), h0, [0.0, 0.33, 1.0], m0=m0, **call)
    assert h.dtype == m.dtype == dtype

    def real(t, h):
        re, im = h.unbind(-1)
        return torch.stack((-re - im, re - im), -1) * torch.cos(t)

    as_pairs = hbodeint(real, torch.view_as_real(h0), [0.0, 0.33, 1.0], m0=torch.view_as_real(m0), **call)
    # The same sums in another order, 20 steps of 100 roundings.
    bound = 1e-12 if dtype == torch.complex128 else 1e-5
    assert torch.allclose(torch.view_as_real(h), as_pairs.h, rtol=0, atol=bound)
    assert torch.allclose(torch.view_as_real(m), as_pairs.m, rtol=0, atol=bound)


def test_complex_and_adaptive(draw):
    h0 = draw(2, 3, dtype=torch.complex128)
    for per_sample in (False, True):
        sol = hbodeint(FirstOrder(lambda t, h: 1j * h), h0, [0.0, 3.0], rtol=1e-9, atol=1e-9, per_sample=per_sample)
        assert torch.allclose(sol.h[-1], h0 * np.exp(3j), rtol=0, atol=1e-7)  # 100 tolerances


@pytest.mark.parametrize("name", METHODS)
def test_decreasing_time_is_the_mirror_image(net, draw, name):
    """h(-t) of h'' + γ h' = f(t, h) obeys the equation with -γ and f(-t, h): the same steps, to rounding."""
    f, h0, m0 = net(), draw(2, 2), draw(2, 2)
    t = torch.tensor([0.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    options = {"step_size": 0.1} if METHODS[name].error_order is None else {"first_step": 0.2}
    if name == "implicit_adams":
        options["max_iters"] = 40
    call = {"method": name, "options": options, "rtol": 1e-6, "atol": 1e-8}
    back = hbodeint(f, h0, -t, m0=m0, gamma=0.3, **call)
    mirror = hbodeint(lambda t, h: f(-t, h), h0, t, m0=-m0, gamma=-0.3, **call)
    assert torch.allclose(back.stats.dt, -mirror.stats.dt, rtol=1e-8, atol=0)
    assert torch.allclose(back.h, mirror.h, rtol=0, atol=1e-12)
    assert torch.allclose(back.m, -mirror.m, rtol=0, atol=1e-12)


def test_default_methods(draw):
    """dprkn6 where the momentum enters by linear damping alone, dopri5 elsewhere: by the evaluations of a step."""
    h0, t = draw(2, 2), [0.0, 1.0]

    def f(t, h, *m):
        return -torch.sin(h)

    cases = (
        (f, {}, 5),
        (f, {"xi": 0.3}, 5),
        (f, {"activation": "tanh"}, 6),
        (FirstOrder(f), {}, 6),
        (SecondOrder(f), {}, 6),
    )
    for func, call, each in cases:
        stats = hbodeint(func, h0, t, options={"first_step": 0.1}, **call).stats
        assert stats.nfe == 1 + each * (stats.accepted + stats.rejected)


def test_default_gamma(draw):
    h0, m0, gamma = draw(2, 2), draw(2, 2), 1 / (1 + math.exp(3))
    bare, given = (hbodeint(lambda t, h: -h, h0, [0.0, 1.0], m0=m0, gamma=g).h for g in (None, gamma))
    assert torch.equal(bare, given)
    assert torch.equal(hbodeint(lambda t, h: -h, h0, [0.0, 1.0]).m[0], torch.zeros_like(h0))


def test_the_solution_unpacks_and_describes_itself(draw):
    t = torch.tensor([0.0, 1.0])
    sol = hbodeint(lambda t, h: -h, draw(2, 2), t)
    h, m = sol
    assert h is sol.h
    assert m is sol.m
    assert sol.t is t
    assert repr(sol).startswith("Solution(h=(2, 2, 2), m=(2, 2, 2), nfe=")
    first = hbodeint(FirstOrder(lambda t, h: -h), draw(2, 2), t)
    assert first.m is None
    assert "m=None" in repr(first)
    assert sol.stats.success
    assert sol.stats.status is Status.SUCCESS


def test_progress(draw, capsys):
    hbodeint(lambda t, h: -h, draw(2, 2), [0.0, 1.0], progress=True)
    assert "%" in capsys.readouterr().err
    hbodeint(lambda t, h: -h, draw(2, 2), [0.0, 1.0])
    assert capsys.readouterr().err == ""


times = st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=1, max_size=6).map(sorted)
shapes = st.lists(st.integers(0, 3), min_size=0, max_size=4).map(tuple)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    t=times,
    shape=shapes,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]),
    decreasing=st.booleans(),
    name=st.sampled_from(["dprkn6", "dprkn8", "dopri5", "bosh3", "rk4", "leapfrog", "explicit_adams"]),
    per_sample=st.booleans(),
    fixed=st.booleans(),
    gamma=st.floats(0, 3),
)
def test_any_input(t, shape, dtype, decreasing, name, per_sample, fixed, gamma):
    """Shapes and dtypes of the results, the first row, equal rows at equal times, and the solution itself.

    h'' + γ h' = -h is linear with constant coefficients: its solution by the matrix exponential, for any times.
    """
    per_sample = per_sample and len(shape) > 0
    t = t[::-1] if decreasing else t
    rng = torch.Generator().manual_seed(0)
    h0, m0 = (torch.randn(shape, generator=rng, dtype=dtype) for _ in range(2))
    options = {"step_size": 0.02} if fixed or METHODS[name].error_order is None else {}
    single = dtype in (torch.float32, torch.complex64)
    tol = 1e-5 if single else 1e-8
    sol = hbodeint(
        lambda t, h: -h,
        h0,
        t,
        m0=m0,
        gamma=gamma,
        method=name,
        per_sample=per_sample,
        options=options,
        rtol=tol,
        atol=tol,
    )
    assert sol.h.shape == sol.m.shape == (len(t), *shape)
    assert sol.h.dtype == sol.m.dtype == dtype
    assert torch.equal(sol.h[0], h0)
    assert torch.equal(sol.m[0], m0)
    for i in range(1, len(t)):
        if t[i] == t[0]:
            assert torch.equal(sol.h[i], h0)
    assert sol.stats.success
    matrix = torch.tensor([[0.0, 1.0], [-1.0, -gamma]], dtype=torch.float64)
    for i, at in enumerate(t):
        grow = torch.linalg.matrix_exp((at - t[0]) * matrix).tolist()
        expected = grow[0][0] * h0 + grow[0][1] * m0
        # In decreasing time solutions grow by e^(γ 6) at most, and errors with them. A fixed step of 0.02 leaves
        # (0.02 (1 + γ))² / 10 for leapfrog, the lowest order here; adaptive methods 100 tolerances a unit of size.
        size = max(1.0, max(abs(x) for row in grow for x in row)) * 6
        step = 0.02 * (1 + gamma)
        allowed = (step**2 if name == "leapfrog" else step**3) if options else 100 * tol
        assert torch.allclose(sol.h[i], expected, rtol=0, atol=size * max(allowed, 1e-4 if single else 0.0))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    starts=st.lists(st.floats(-1, 1).map(lambda x: round(x, 2)), min_size=1, max_size=4),
    spans=st.lists(st.floats(-2, 2).map(lambda x: round(x, 2)), min_size=4, max_size=4),
    name=st.sampled_from(["dprkn6", "dopri5", "rk4", "leapfrog", "implicit_adams"]),
    per_sample=st.booleans(),
)
def test_any_times_per_sample(starts, spans, name, per_sample):
    """Every sample with its own start, span and direction, a span of zero included: h'' = -h turns by the span."""
    start = torch.tensor(starts, dtype=torch.float64).unsqueeze(1)
    span = torch.tensor(spans[: len(starts)], dtype=torch.float64).unsqueeze(1)
    t = start + span * torch.linspace(0, 1, 81, dtype=torch.float64)
    h0, m0 = torch.ones(len(starts), 2, dtype=torch.float64), torch.zeros(len(starts), 2, dtype=torch.float64)
    options = {"max_iters": 20} if name == "implicit_adams" else {}
    sol = hbodeint(
        lambda t, h: -h,
        h0,
        t,
        m0=m0,
        gamma=0.0,
        method=name,
        per_sample=per_sample,
        rtol=1e-8,
        atol=1e-8,
        options=options,
    )
    angle = (t - t[:, :1]).T.unsqueeze(-1)
    # 80 steps of at most 1 / 40: (1 / 40)² / 12 for leapfrog; 100 tolerances for the others.
    bound = 1e-4 if name == "leapfrog" else 1e-6
    assert torch.allclose(sol.h, torch.cos(angle).expand_as(sol.h), rtol=0, atol=bound)
    assert torch.allclose(sol.m, -torch.sin(angle).expand_as(sol.m), rtol=0, atol=bound)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("t", [[0.0], [0.0, 0.0]])
def test_rows_at_the_first_time_are_no_views_of_the_initial_state(t, per_sample):
    h0 = torch.ones(2, 1, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, y: -y), h0, t, per_sample=per_sample, dense=True)
    read, _ = sol(0.0)
    sol.h[0] += 1
    read += 1
    assert (h0 == 1).all()
    assert (sol.h[1:] == 1).all()
    rows = compat.odeint(lambda t, y: -y, h0, torch.tensor(t[:1]))
    rows += 1
    assert (h0 == 1).all()
