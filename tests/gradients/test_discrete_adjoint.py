"""The discrete adjoint: the gradient of what was computed, equal to backpropagation, and to finite differences.

Equality of the two modes is asked to 1e-10 relative: they do the same operations in another order, and the solves here
are some hundred operations long, each with a rounding of 1e-16.

`torch.autograd.gradcheck` compares with central differences of width 1e-6: their truncation is of the size 1e-12 times
a third derivative, their rounding 1e-16 / 1e-6 times the size of the solution, so 1e-7 is far above both. Where steps
are adaptive, the size of a step moves with the inputs, which finite differences see and the gradient, by design, does
not: an effect of the size of the local error, made small by rtol = atol = 1e-10. `fast_mode` compares the Jacobians
along random directions, every input in turn.
"""

from __future__ import annotations

import pytest
import torch
from scenarios import OUTPUTS, SCENARIOS, Scenario, assert_same, increasing, pulled_back
from torch.autograd import gradcheck

from hbode import METHODS, FirstOrder, GeneralizedHeavyBall, SecondOrder, SolverError, hbodeint

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
METHOD_NAMES = list(METHODS)
FEW = ("between steps", "terminal event", "times per sample")
SLOW_BUT_FEW = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS]
ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None and method.order > 2]


@pytest.mark.parametrize("name", ["dprkn6", "dopri5"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_equals_backprop_in_every_scenario(net, draw, scenario, name):
    solve = Scenario(net, draw, method=name, **SCENARIOS[scenario])
    grads = []
    for gradient in ("discrete_adjoint", "backprop"):
        outputs, sol = solve(gradient)
        if solve.call.get("event") is not None:
            assert all(len(record.t) for record in sol.events)
        grads.append(pulled_back(outputs, solve.inputs))
    assert_same(*grads)


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("scenario", ["between steps", "decreasing", "gamma per channel", "per sample, ragged"])
def test_equals_backprop_with_every_method_on_a_fixed_grid(net, draw, scenario, name):
    call = SCENARIOS[scenario]
    options = {"step_size": 0.17}
    if name == "implicit_adams":
        options["max_iters"] = 30
    solve = Scenario(net, draw, method=name, **{**call, "options": options})
    assert_same(*(pulled_back(solve(gradient)[0], solve.inputs) for gradient in ("discrete_adjoint", "backprop")))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_equals_backprop_with_every_adaptive_method(net, draw, name):
    # The error estimate of the tiny automatic first step is all rounding, and the next step would follow it.
    solve = Scenario(net, draw, method=name, t=OUTPUTS, options={"first_step": 0.2})
    assert_same(*(pulled_back(solve(gradient)[0], solve.inputs) for gradient in ("discrete_adjoint", "backprop")))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_gradcheck_with_every_method_on_a_fixed_grid(net, draw, name):
    options = {"step_size": 0.23}
    if name == "implicit_adams":
        options["max_iters"] = 60
    solve = Scenario(net, draw, method=name, t=(0.0, 0.31, 0.7), batch=1, options=options, **TIGHT)
    assert gradcheck(lambda *_: tuple(solve("discrete_adjoint")[0]), solve.inputs, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("scenario", SLOW_BUT_FEW)
def test_gradcheck_in_every_scenario(net, draw, scenario):
    call = dict(SCENARIOS[scenario])
    if isinstance(call["t"], tuple):
        call["t"] = (0.0, 0.31, 0.8)  # strictly increasing: a repeated time cannot be moved alone
    else:
        call["t"] = torch.tensor([[0.0, 0.4, 1.2], [0.1, 0.5, 0.7]], dtype=torch.float64)
    if "jump_ts" in call.get("options", {}):
        # The field must be evaluated on its own side of a jump, wherever the perturbed first time is.
        call["options"] = {"jump_ts": [0.25, 0.55]}
    solve = Scenario(net, draw, method="dprkn6", **{**call, **TIGHT})
    assert gradcheck(lambda *_: tuple(solve("discrete_adjoint")[0]), solve.inputs, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize(
    "system",
    [
        lambda net: FirstOrder(net),
        lambda net: SecondOrder(lambda t, h, m: net(t, h) - torch.tanh(m)),
        lambda net: GeneralizedHeavyBall(net).double(),
        lambda net: GeneralizedHeavyBall(net, torch.tensor([0.2, 0.6]), 0.3, activation=None).double(),
    ],
    ids=["first order", "second order", "generalised", "generalised, per channel"],
)
def test_gradcheck_of_every_system(net, draw, system):
    f = net()
    system = system(f)
    h0, t = draw(1, 2, grad=True), increasing(0.0, 0.3, 0.8).requires_grad_()
    own = [p for name, p in system.named_parameters() if name in ("omega", "chi")]

    def solve(method):
        sol = hbodeint(system, h0, t, method=method, **TIGHT)
        return sol.h if sol.m is None else (sol.h, sol.m)

    for method in (None, "leapfrog") if system.damped else (None,):
        inputs = (h0, t, *own, *f.parameters())
        assert gradcheck(lambda *_, method=method: solve(method), inputs, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradcheck_of_a_complex_state(draw, per_sample):
    """Holomorphic or not: h' = i w h + 0.1 conj(h) h."""
    h0 = draw(2, 2, dtype=torch.complex128, grad=True)
    w = draw(2, grad=True)
    t = increasing(0.0, 0.3, 0.7).requires_grad_()

    def solve(*_):
        field = FirstOrder(lambda t, h: 1j * w * h + 0.1 * torch.cos(t) * h.conj() * h)
        return hbodeint(field, h0, t, per_sample=per_sample, **TIGHT).h

    assert gradcheck(solve, (h0, w, t), atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_complex_gradient_equals_backprop(draw, name):
    h0, m0 = (draw(2, 2, dtype=torch.complex128, grad=True) for _ in range(2))
    w = draw(2, dtype=torch.complex128, grad=True)
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    grads = []
    for gradient in ("discrete_adjoint", "backprop"):
        sol = hbodeint(
            lambda t, h: w * torch.sin(h),
            h0,
            increasing(0.0, 0.35, 0.7),
            m0=m0,
            gamma=gamma,
            method=name,
            gradient=gradient,
            options={"step_size": 0.2, **({"max_iters": 30} if name == "implicit_adams" else {})},
        )
        grads.append(pulled_back([sol.h, sol.m], (h0, m0, w, gamma)))
    assert_same(*grads)


def test_gradient_of_the_last_time_is_the_slope(net, draw):
    """dh(T)/dT = m(T), exactly that of the exact solution, so to the error of the solve: 1e-9 at these tolerances."""
    h0, m0, t = draw(2, 2), draw(2, 2), increasing(0.0, 0.4, 1.0).requires_grad_()
    f = net()
    h, m = hbodeint(f, h0, t, m0=m0, gamma=0.25, **TIGHT)
    (bar,) = torch.autograd.grad(h[-1].sum(), t, retain_graph=True)
    assert bar[-1].item() == pytest.approx(m[-1].sum().item(), abs=1e-8)
    assert bar[1].item() == 0.0
    (bar,) = torch.autograd.grad(m[-1].sum(), t)
    slope = f(t[-1], h[-1]) - 0.25 * m[-1]
    assert bar[-1].item() == pytest.approx(slope.sum().item(), abs=1e-8)


def test_gradient_of_a_repeated_last_time(net, draw):
    """Each of the two rows has the slope there as the derivative with respect to its own time."""
    t = increasing(0.0, 1.0, 1.0).requires_grad_()
    h, m = hbodeint(net(), draw(2, 2), t, m0=draw(2, 2), **TIGHT)
    for row in (1, 2):
        (bar,) = torch.autograd.grad(h[row].sum(), t, retain_graph=True)
        assert bar[row].item() == pytest.approx(m[row].sum().item(), abs=1e-8)


def test_gradient_of_the_first_time(net, draw):
    """dh(T)/dt0 = -Φ(T, t0) y'(t0): the sensitivity to h0 and m0 along the slope at the start, backwards."""
    h0, m0, t = draw(2, 2, grad=True), draw(2, 2, grad=True), increasing(0.0, 1.0).requires_grad_()
    f = net()
    h, _ = hbodeint(f, h0, t, m0=m0, gamma=0.25, **TIGHT)
    t_bar, h_bar, m_bar = torch.autograd.grad(h[-1].sum(), (t, h0, m0))
    with torch.no_grad():
        slope = (h_bar * m0).sum() + (m_bar * (f(t[0], h0) - 0.25 * m0)).sum()
    assert t_bar[0].item() == pytest.approx(-slope.item(), abs=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["dprkn6", "dopri5", "leapfrog", "explicit_adams"])
def test_single_and_repeated_times(net, draw, name, per_sample):
    """No step is taken: the rows are h0 and m0, and so are their gradients."""
    for t in (increasing(0.7), increasing(0.7, 0.7, 0.7)):
        h0, m0 = draw(2, 2, grad=True), draw(2, 2, grad=True)
        t.requires_grad_()
        h, m = sol = hbodeint(net(), h0, t, m0=m0, method=name, per_sample=per_sample)
        assert sol.stats.accepted in (0, [0, 0])
        assert torch.equal(h, h0.expand_as(h))
        assert torch.equal(m, m0.expand_as(m))
        h_bar, m_bar = torch.autograd.grad((2 * h + 3 * m).sum(), (h0, m0))
        assert torch.equal(h_bar, torch.full_like(h0, 2.0 * len(t)))
        assert torch.equal(m_bar, torch.full_like(m0, 3.0 * len(t)))


# How many evaluations of the field a step makes; all methods carry the derivative at the end of a step over.
EVALUATIONS = {"leapfrog": 1, "yoshida4": 3}


@pytest.mark.parametrize(
    "name", ["dprkn5", "dprkn6", "dprkn8", "dopri5", "tsit5", "bosh3", "leapfrog", "yoshida4", "rk4"]
)
def test_backward_evaluations_are_those_of_the_accepted_steps(net, draw, counted, name):
    f = counted(net())
    h0 = draw(2, 2, grad=True)
    options = {} if METHODS[name].error_order else {"step_size": 0.1}
    h, _ = sol = hbodeint(f, h0, [0.0, 0.4, 3.0], method=name, options=options, rtol=1e-7)
    each = EVALUATIONS.get(name) or len(METHODS[name].tableau.c) - 1
    assert sol.stats.nfe_backward is None
    assert sol.stats.nfe == f.calls
    f.calls = 0
    h.square().sum().backward()
    start, spared = 1, name == "rk4"  # whose last step evaluates no slope for a next one
    assert sol.stats.nfe_backward == f.calls == each * sol.stats.accepted + start - spared


def test_per_sample_backward_evaluations_count_every_step_of_the_batch(net, draw, counted):
    f = counted(net())
    h0 = draw(3, 2, grad=True)
    sol = hbodeint(f, h0, [0.0, 3.0], per_sample=True, method="dopri5")
    f.calls = 0
    sol.h.sum().backward()
    assert sol.stats.nfe_backward == f.calls == 6 * len(sol.stats.t) + 1


def test_backpropagation_reports_that_it_evaluates_nothing(net, draw, counted):
    f = counted(net())
    sol = hbodeint(f, draw(2, 2, grad=True), [0.0, 1.0], gradient="backprop")
    assert sol.stats.nfe_backward is None
    f.calls = 0
    sol.h.sum().backward()
    assert sol.stats.nfe_backward == f.calls == 0


def test_backward_twice_through_a_retained_graph(net, draw):
    h0 = draw(2, 2, grad=True)
    h, _ = hbodeint(net(), h0, [0.0, 1.0])
    (first,) = torch.autograd.grad(h.sum(), h0, retain_graph=True)
    (second,) = torch.autograd.grad(h.sum(), h0)
    assert torch.equal(first, second)
    assert first.abs().max() > 0


def test_second_derivatives_by_backprop(net, draw):
    h0 = draw(1, 2, grad=True)
    f = net()

    def solve(h0):
        return hbodeint(f, h0, [0.0, 0.5], method="dprkn6", gradient="backprop", options={"step_size": 0.25}).h[-1]

    assert torch.autograd.gradgradcheck(solve, (h0,), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    "scenario", ["between steps", "decreasing", "gamma per channel", "jump_ts", "per sample, ragged"]
)
def test_second_derivatives_equal_those_of_backprop(net, draw, scenario):
    solve = Scenario(net, draw, method="dprkn6", **SCENARIOS[scenario])
    seconds = []
    for gradient in ("discrete_adjoint", "backprop"):
        outputs, _ = solve(gradient)
        weighted = sum((w * x).sum() for w, x in zip((1.3, -0.4), outputs, strict=True))
        first = torch.autograd.grad(weighted.sin(), solve.inputs, create_graph=True)
        seconds.append(torch.autograd.grad(sum(x.square().sum() for x in first), solve.inputs))
    assert_same(*seconds)


def test_no_graph_without_gradients(net, draw):
    f = net()
    with torch.no_grad():
        assert not hbodeint(f, draw(2, 2, grad=True), [0.0, 1.0]).h.requires_grad
    for parameter in f.parameters():
        parameter.requires_grad_(False)
    assert not hbodeint(f, draw(2, 2), [0.0, 1.0]).h.requires_grad
    assert hbodeint(f, draw(2, 2, grad=True), [0.0, 1.0]).h.requires_grad


def test_rows_beyond_a_failure_do_not_spoil_the_gradient(net, draw):
    """The rows that were reached have the gradient that they have in a solve that ends there."""
    h0 = draw(2, 2, grad=True)
    f = net()
    options = {"step_size": 0.1}

    def breaks(t, h):
        return f(t, h) if t < 0.55 else torch.full_like(h, torch.nan)

    part = hbodeint(breaks, h0, [0.0, 0.3, 1.0], options=options, throw=False)
    assert part.h[2].isnan().all()
    whole = hbodeint(f, h0, [0.0, 0.3, 1.0], options=options)
    assert_same(*(torch.autograd.grad(sol.h[1].sum(), (h0, *f.parameters())) for sol in (part, whole)))
    with pytest.raises(SolverError, match="NON_FINITE"):
        hbodeint(breaks, h0, [0.0, 0.3, 1.0], options=options)


@pytest.mark.parametrize("inside", [False, True])
def test_steps_are_run_again_under_the_autocast_of_the_forward_pass(inside):
    """The gradient of h0: bfloat16 arithmetic differs from float32 by 1e-3, from itself by float32 rounding.

    (Gradients of weights differ between the modes: backpropagation sums them in bfloat16.)
    """
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).float()
    h0, t = torch.randn(3, 4, dtype=torch.float32, requires_grad=True), torch.linspace(0, 2, 5)
    grads = []
    for mode in ("backprop", "discrete_adjoint"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sol = hbodeint(lambda t, h: net(h).float(), h0, t, gradient=mode, options={"step_size": 0.25})
            loss = sol.h.square().sum()
            if inside:
                grads += torch.autograd.grad(loss, h0)
        if not inside:
            grads += torch.autograd.grad(loss, h0)
    # Inside, torch runs the backward pass of the solver's own sums in bfloat16 too; the discrete adjoint does not.
    assert (grads[0] - grads[1]).norm() <= (3e-2 if inside else 1e-5) * grads[0].norm()
