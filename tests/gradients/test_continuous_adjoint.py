"""The continuous adjoint: the gradient of the exact solution, to the tolerances of both solves.

At rtol = 1e-9 and atol = 1e-11 the solution, and the discrete gradient with it, is within 1e-7 of the exact one for the
problems here (dopri5, whose interpolant is of order four, is the least accurate), so the modes agree to 1e-6.
"""

from __future__ import annotations

import pytest
import torch
from scenarios import OUTPUTS, SCENARIOS, Scenario, assert_same, increasing, pulled_back
from torch import nn

from hbode import METHODS, Event, FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.gradients import ContinuousAdjoint, DiscreteAdjoint

FINE = {"rtol": 1e-9, "atol": 1e-11}
ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None and method.order > 3]
SHARED = [name for name in SCENARIOS if "sample" not in name]


@pytest.mark.parametrize("name", ["dprkn6", "dopri5"])
@pytest.mark.parametrize("scenario", SHARED)
def test_agrees_with_the_discrete_adjoint_in_every_scenario(net, draw, scenario, name):
    solve = Scenario(net, draw, method=name, **{**SCENARIOS[scenario], **FINE})
    grads = [pulled_back(solve(mode)[0], solve.inputs) for mode in ("continuous_adjoint", "discrete_adjoint")]
    assert_same(*grads, relative=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_agrees_with_every_adaptive_method(net, draw, name):
    solve = Scenario(net, draw, method=name, t=OUTPUTS, **FINE)
    grads = [pulled_back(solve(mode)[0], solve.inputs) for mode in ("continuous_adjoint", "discrete_adjoint")]
    assert_same(*grads, relative=1e-6)


@pytest.mark.parametrize("state", ["interpolating", "backsolve"])
@pytest.mark.parametrize("norm", ["state", "full"])
@pytest.mark.parametrize("kind", ["ball", "channels", "generalised", "second order", "first order"])
def test_agrees_for_every_system(net, draw, kind, norm, state):
    f = net()
    systems = {
        "ball": lambda: HeavyBall(f, 0.4),
        "channels": lambda: GeneralizedHeavyBall(f, torch.tensor([0.1, 0.7]), torch.tensor([0.3, 0.2]), None),
        "generalised": lambda: GeneralizedHeavyBall(f, 0.4, 0.3, "tanh"),
        "second order": lambda: SecondOrder(lambda t, h, m: f(t, h) - torch.tanh(m)),
        "first order": lambda: FirstOrder(f),
    }
    system = systems[kind]().double()
    h0 = draw(3, 2, grad=True)
    inputs = (h0, *f.parameters(), *(p for key, p in system.named_parameters() if key in ("omega", "chi")))
    grads = []
    for mode in (ContinuousAdjoint(adjoint_norm=norm, adjoint_state=state), DiscreteAdjoint()):
        sol = hbodeint(system, h0, increasing(0.0, 0.4, 1.1, 2.0), gradient=mode, **FINE)
        outputs = [sol.h] if sol.m is None else [sol.h, sol.m]
        grads.append(pulled_back(outputs, inputs))
    assert_same(*grads, relative=1e-6)


def test_converges_with_its_own_tolerance(net, draw):
    """The forward solve at 1e-12 is exact beside it: the error follows the adjoint's tolerance down, within 10."""
    solve = Scenario(net, draw, t=(0.0, 0.4, 1.3, 4.0), method="dprkn8", rtol=1e-12, atol=1e-13)
    exact = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    errors = []
    for tol in (1e-4, 1e-6, 1e-8, 1e-10):
        grads = pulled_back(solve(ContinuousAdjoint(tol, tol))[0], solve.inputs)
        errors.append(max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(grads, exact, strict=True)))
    assert all(error <= 10 * tol for error, tol in zip(errors, (1e-4, 1e-6, 1e-8, 1e-10), strict=True))
    assert errors[0] > 100 * errors[3]


def test_steps_do_not_end_at_the_outputs(net, draw, counted):
    """64 times as many outputs cost no evaluation more than two do."""
    f, h0 = counted(net()), draw(2, 2, grad=True)
    calls = []
    for count in (2, 129):
        sol = hbodeint(f, h0, torch.linspace(0, 4, count), gradient="continuous_adjoint", rtol=1e-6)
        f.calls = 0
        sol.h[-1].sum().backward() if count == 2 else (sol.h.sum() + sol.m.sum()).backward()
        assert sol.stats.nfe_backward == f.calls
        calls.append(f.calls)
    assert calls[1] <= 1.5 * calls[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_backsolve_starts_afresh_at_outputs(draw, sign):
    """A mode that decays as e^(-4 t) over 5 units: e²⁰ times the tolerance, if the outputs between did not help.

    Loose adjoint tolerances beside a tight one have steps rejected, and states asked for again.
    """
    k = torch.tensor([[-4.0, 0.3], [-0.2, -0.6]], dtype=torch.float64, requires_grad=True)
    h0, t = draw(3, 2, grad=True), sign * torch.linspace(0, 5, 41, dtype=torch.float64)
    for tol in (1e-3, 1e-8):
        grads = []
        for mode in (ContinuousAdjoint(tol, tol, adjoint_state="backsolve"), DiscreteAdjoint()):
            system = FirstOrder(lambda t, h: sign * torch.sin(h @ k))
            sol = hbodeint(system, h0, t, gradient=mode, rtol=1e-8, atol=1e-10)
            grads.append(pulled_back([sol.h], (h0, k)))
        assert_same(*grads, relative=10 * tol)


def test_does_not_depend_on_the_scale_of_the_loss(net, draw):
    f, h0 = net(), draw(2, 2, grad=True)
    sol = hbodeint(f, h0, [0.0, 1.0, 4.0], gradient="continuous_adjoint")
    (whole,) = torch.autograd.grad(sol.h.sum(), h0, retain_graph=True)
    (part,) = torch.autograd.grad(1e-12 * sol.h.sum(), h0)
    assert torch.allclose(1e12 * part, whole, rtol=1e-12)


def test_outputs_without_a_cotangent_cost_nothing(net, draw, counted):
    """The sweep starts at the last output that the loss depends on."""
    f, h0 = counted(net()), draw(2, 2, grad=True)
    sol = hbodeint(f, h0, [0.0, 0.5, 20.0], gradient="continuous_adjoint")
    sol.h[1].sum().backward(retain_graph=True)
    early = sol.stats.nfe_backward
    h0.grad = None
    sol.h[0].sum().backward(retain_graph=True)
    assert sol.stats.nfe_backward == 0
    assert torch.equal(h0.grad, torch.ones_like(h0))
    sol.h[2].sum().backward()
    assert early < 0.2 * sol.stats.nfe_backward


@pytest.mark.parametrize("name", ["leapfrog", "rk4", "dprkn6", "explicit_adams"])
def test_fixed_grids(net, draw, name):
    """The adjoint takes the steps of the solve; its error is that of the method, and falls with its order."""
    f, h0 = net(), draw(2, 2, grad=True)
    t = increasing(0.0, 0.7, 2.0)
    exact = torch.autograd.grad(hbodeint(f, h0, t, **FINE).h.sum(), (h0, *f.parameters()))
    errors = []
    for steps in (40, 80):
        sol = hbodeint(f, h0, t, method=name, gradient="continuous_adjoint", options={"step_size": 2 / steps})
        grads = torch.autograd.grad(sol.h.sum(), (h0, *f.parameters()))
        errors.append(max((a - b).abs().max().item() for a, b in zip(grads, exact, strict=True)))
    assert errors[1] <= 1e-9 or errors[0] / errors[1] >= 0.7 * 2 ** min(METHODS[name].order, 4)


def test_methods_of_its_own(net, draw):
    for name in ("dopri5", "dprkn8", "tsit5"):
        solve = Scenario(net, draw, method="dprkn6", t=OUTPUTS, **FINE)
        grads = [
            pulled_back(solve(mode)[0], solve.inputs)
            for mode in (ContinuousAdjoint(adjoint_method=name), DiscreteAdjoint())
        ]
        assert_same(*grads, relative=1e-6)


def test_settings_as_options(net, draw):
    solve = Scenario(net, draw, t=OUTPUTS, options={"adjoint_rtol": 1e-3, "adjoint_atol": 1e-3})
    by_options = pulled_back(solve("continuous_adjoint")[0], solve.inputs)
    solve.call["options"] = {}
    for a, b in zip(by_options, pulled_back(solve(ContinuousAdjoint(1e-3, 1e-3))[0], solve.inputs), strict=True):
        assert torch.equal(a, b)


def test_dense_output(net, draw):
    f, h0, t = net(), draw(2, 2, grad=True), increasing(0.0, 1.0, 2.0).requires_grad_()
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        sol = hbodeint(f, h0, t, gradient=mode, dense=True, **FINE)
        h, m = sol(increasing(0.3, 1.234))
        grads.append(torch.autograd.grad(h.sum() + (m * sol.h[1]).sum(), (h0, t, *f.parameters())))
    assert_same(*grads, relative=1e-6)


def test_complex_states(draw):
    h0, w = draw(2, 2, dtype=torch.complex128, grad=True), draw(2, dtype=torch.complex128, grad=True)
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for name in ("dprkn6", "dopri5"):
        grads = []
        for mode in ("continuous_adjoint", "discrete_adjoint"):
            sol = hbodeint(
                lambda t, h: w * torch.sin(h), h0, [0.0, 0.4, 1.0], gamma=gamma, gradient=mode, method=name, **FINE
            )
            grads.append(pulled_back([sol.h, sol.m], (h0, w, gamma)))
        assert_same(*grads, relative=1e-6)


def test_a_field_that_does_not_depend_on_the_state(draw):
    h0, force = draw(2, 2, grad=True), draw(2, grad=True)
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        sol = hbodeint(lambda t, h: (force * torch.cos(t)).expand_as(h), h0, [0.0, 2.0], gradient=mode, **FINE)
        grads.append(torch.autograd.grad(sol.h[-1].sum(), (h0, force)))
    assert_same(*grads, relative=1e-6)


def test_parameters_of_a_module_in_float32(draw):
    """Weights, states and the adjoint in float32: agreement to its rounding over some hundred operations."""
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).float()
    h0 = draw(4, 3).float().requires_grad_()
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        sol = hbodeint(lambda t, h: f(h), h0, torch.linspace(0, 3, 7), gradient=mode)
        grads.append(torch.autograd.grad(sol.h.square().sum(), (h0, *f.parameters())))
    assert_same(*grads, relative=1e-4)


def test_refusals(net, draw):
    h0 = draw(2, 2, grad=True)
    with pytest.raises(ValueError, match="gradient='continuous_adjoint' needs one time axis"):
        hbodeint(net(), h0, [0.0, 1.0], gradient="continuous_adjoint", per_sample=True)
    for settings, message in (
        ({"adjoint_state": "stored"}, "adjoint_state must be one of interpolating, backsolve, got 'stored'"),
        ({"adjoint_norm": "max"}, "adjoint_norm must be one of state, full, got 'max'"),
        ({"adjoint_method": "explicit_adams"}, "adjoint_method must be one of "),
        ({"adjoint_rtol": -1.0}, "adjoint_rtol must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            hbodeint(net(), h0, [0.0, 1.0], gradient="continuous_adjoint", options=settings)
    with pytest.raises(ValueError, match="dense=True with gradient='continuous_adjoint' needs an explicit one-step"):
        hbodeint(net(), h0, [0.0, 1.0], gradient="continuous_adjoint", method="explicit_adams", dense=True)
    mode, rtol = ContinuousAdjoint(adjoint_norm="full"), torch.full((2, 2, 2), 1e-6)
    with pytest.raises(ValueError, match="must be numbers where adjoint_norm is 'full'"):
        hbodeint(net(), h0, [0.0, 1.0], rtol=rtol, gradient=mode)
    sol = hbodeint(net(), h0, [0.0, 1.0], gradient="continuous_adjoint")
    with pytest.raises(RuntimeError, match="solve with gradient='discrete_adjoint' or 'backprop'"):
        torch.autograd.grad(sol.h.sum(), h0, create_graph=True)
    system = GeneralizedHeavyBall(net(), 0.3, 0.2, "tanh").double()
    with pytest.raises(ValueError, match="adjoint_method='dprkn6' needs a heavy ball with h' = m"):
        hbodeint(system, h0, [0.0, 1.0], gradient=ContinuousAdjoint(adjoint_method="dprkn6"))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_event_on_a_discontinuity_moves_along_the_slope_before_it(sign):
    """y' = 1 before the jump at T and 5 after it, with an event at t = T: dy/dT = 1 for the state there."""
    end = torch.tensor(0.5 * sign, dtype=torch.float64, requires_grad=True)

    def field(t, y):
        return torch.where(sign * t < 0.5, 1.0, 5.0) * torch.ones_like(y)

    sol = hbodeint(
        FirstOrder(field),
        torch.zeros(1, dtype=torch.float64, requires_grad=True),
        [0.0, sign],
        event=Event(lambda t, y: t - end + 0 * y[0]),
        gradient="continuous_adjoint",
        options={"jump_ts": [0.5 * sign]},
    )
    (record,) = sol.events
    bar_t, bar_y = (torch.autograd.grad(x.sum(), end, retain_graph=True)[0].item() for x in (record.t, record.h))
    # Sums of a few roundings.
    assert (bar_t, bar_y) == pytest.approx((1.0, 1.0), abs=1e-12)


@pytest.mark.parametrize("mode", ["continuous_adjoint", "discrete_adjoint"])
def test_a_requested_time_on_a_discontinuity_moves_along_the_slope_before_it(mode):
    """The last row is at the jump: its cotangent of the time is y' = 1 before it, not 5 after it."""
    t = torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)
    system = FirstOrder(lambda t, y: torch.where(t < 0.5, 1.0, 5.0) * torch.ones_like(y))
    h0 = torch.zeros(1, dtype=torch.float64)
    sol = hbodeint(system, h0, t, gradient=mode, options={"jump_ts": [0.5]})
    (bar,) = torch.autograd.grad(sol.h[-1].sum(), t)
    assert bar.tolist() == pytest.approx([-1.0, 1.0], abs=1e-12)


def test_the_adjoint_steps_to_a_kink_of_the_field_as_the_solve_did():
    """Named as step_ts or as jump_ts the steps are the same, so that gradients agree to roundings and not to 1e-5."""
    found = []
    for name in ("step_ts", "jump_ts"):
        w = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
        system = FirstOrder(lambda t, y, w=w: -w * (t - 0.37).abs() * torch.sin(3 * y))
        call = {"gradient": "continuous_adjoint", "rtol": 1e-7, "atol": 1e-7, "options": {name: [0.37]}}
        end = hbodeint(system, torch.ones(1, dtype=torch.float64), [0.0, 1.0], **call).h[-1]
        found.append(torch.autograd.grad(end.sum(), w)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-10)
