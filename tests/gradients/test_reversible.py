"""Reversible gradients: equal to backpropagation through the same scheme, in the memory of one step."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path

import pytest
import torch
from scenarios import SCENARIOS, Scenario, assert_same, pulled_back

from hbode import METHODS, FirstOrder, hbodeint
from hbode.gradients import Reversible
from hbode.solvers import Coupled, Field, Invertible

PROCESS = Path("/proc/self/status")
ONE_STEP = [name for name, method in METHODS.items() if method.explicit_one_step]


@pytest.mark.parametrize("name", ["dprkn6", "dopri5", "leapfrog"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_equals_backprop_in_every_scenario(net, draw, scenario, name):
    call = dict(SCENARIOS[scenario])
    options = dict(call.pop("options", {}))
    if name == "leapfrog":
        options = {key: value for key, value in options.items() if key != "controller"} | {"step_size": 0.03}
    solve = Scenario(net, draw, method=name, options=options, **call)
    reversible = pulled_back(solve("reversible")[0], solve.inputs)
    if name != "leapfrog":
        solve.call["options"] = {**options, "coupling": 0.999}
    assert_same(reversible, pulled_back(solve("backprop")[0], solve.inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leapfrog", "dprkn6"])
def test_equals_backprop_over_two_thousand_steps(net, draw, name):
    """γT = 4: rounding grows by e⁴ on the way back, and by 1 / 0.999²⁰⁰⁰ = 7 in the coupled scheme."""
    f, h0, gamma = net(), draw(2, 2, grad=True), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    grads = []
    for mode in ("reversible", "backprop"):
        options = {"step_size": 8 / 2000}
        if mode == "backprop" and name not in ("leapfrog", "yoshida4"):
            options["coupling"] = 0.999
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sol = hbodeint(f, h0, [0.0, 3.0, 8.0], gamma=gamma, method=name, gradient=mode, options=options)
            assert sol.stats.accepted == 2000
            outputs = [sol.h, sol.m]
            grads.append(pulled_back(outputs, (h0, gamma, *f.parameters())))
    assert_same(*grads, relative=1e-9)


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_step_is_undone(net, draw, name):
    """The carry of the start comes back to rounding from that of the end, at a coarse step and with any λ."""
    f, y = net(), draw(2, 3, 2) if METHODS[name].damped else draw(3, 2)
    t, dt = (torch.tensor(x, dtype=torch.float64) for x in (0.3, 0.4))
    for coupling in (1.0, 0.9):
        method = METHODS[name] if isinstance(METHODS[name], Invertible) else Coupled(METHODS[name], coupling)
        field = Field(f, torch.float64)
        with torch.no_grad():
            first = method.start(field, t, y)
            second, _ = method.step(field, t, dt, first)  # y and z differ from here on
            third, _ = method.step(field, t + dt, dt, second)
            back = method.undo(field, t + dt, dt, third)
        for x, y_ in zip(back, second, strict=True):
            assert (x - y_).abs().max() <= 1e-14


@pytest.mark.parametrize("name", ["euler", "rk4", "dprkn5", "dopri5"])
def test_coupled_scheme_has_the_order_of_its_base(manufactured, name):
    problem = manufactured(0.3, 0.0)
    h0, m0 = problem.start()
    order = METHODS[name].order
    errors = []
    for steps in (16, 32):
        sol = hbodeint(
            problem, h0, [0.0, 2.0], m0=m0, gamma=0.3, method=name, options={"step_size": 2 / steps, "coupling": 0.99}
        )
        errors.append((sol.h[-1] - problem.h(2.0)).abs().max().item())
    assert errors[0] / errors[1] >= 2**order * 0.7


def test_interpolant_of_the_coupled_scheme_meets_the_states(net, draw):
    """At both ends of every step, also where y and z have drifted apart."""
    with torch.no_grad():
        sol = hbodeint(
            net(), draw(2, 2), [0.0, 3.0], dense=True, method="dopri5", options={"step_size": 0.25, "coupling": 0.9}
        )
    for step in sol.dense.solved.tape.steps:
        h, m = sol(step.start.value)
        assert torch.allclose(torch.stack((h, m)), step.carry[0], atol=1e-14)


def test_backward_evaluations(net, draw, counted):
    """A step of s evaluations is taken back and run again: twice s for leapfrog, and four times for a pair."""
    f = counted(net())
    for name, each in (("leapfrog", 2), ("dprkn6", 24)):
        h0 = draw(2, 2, grad=True)
        sol = hbodeint(f, h0, [0.0, 1.0], method=name, gradient="reversible", options={"step_size": 0.1})
        f.calls = 0
        sol.h.sum().backward()
        assert sol.stats.nfe_backward == f.calls == each * 10 + 1


def test_warns_where_the_way_back_went_astray(draw):
    """Overdamped, in float32: the state decays as e^(-0.05 t), and rounding grows as e^(0.95 t) on the way back."""
    h0 = draw(2, 2).float().requires_grad_()
    call = {"method": "leapfrog", "gradient": "reversible", "options": {"step_size": 0.1}}
    sol = hbodeint(lambda t, h: -0.05 * h, h0, [0.0, 40.0], gamma=1.0, **call)
    with pytest.warns(RuntimeWarning, match="came back to the first state with a relative error of"):
        sol.h.sum().backward()


def test_warns_where_the_pair_came_apart(draw):
    """h' = -6 h: the gap grows as e^(6 t) from the error of a step, up to 1e17 times that."""
    h0 = draw(2, 2, grad=True)
    call = {"method": "rk4", "gradient": "reversible", "options": {"step_size": 0.1}}
    with pytest.warns(RuntimeWarning, match="the two states of the coupled scheme came apart"):
        hbodeint(FirstOrder(lambda t, h: -6.0 * h), h0, [0.0, 6.0], **call)


def test_first_order_systems(net, draw):
    f, h0 = net(), draw(2, 2, grad=True)
    grads = []
    for mode, options in (("reversible", {}), ("backprop", {"coupling": 0.999})):
        sol = hbodeint(FirstOrder(f), h0, [0.0, 0.4, 1.0], gradient=mode, options=options)
        grads.append(torch.autograd.grad(sol.h.square().sum(), (h0, *f.parameters())))
    assert_same(*grads)


def test_dense_output_keeps_the_gradient(net, draw):
    f, h0 = net(), draw(2, 2, grad=True)
    grads = []
    for mode, options in (("reversible", {}), ("backprop", {"coupling": 0.999})):
        sol = hbodeint(f, h0, [0.0, 1.0], gradient=mode, options=options, dense=True)
        grads.append(torch.autograd.grad(sol(0.37)[0].sum(), (h0, *f.parameters())))
    assert_same(*grads)


def test_refuses_what_cannot_be_taken_back(net, draw):
    for name in ("explicit_adams", "prox_bdf2", "kvaerno5", "auto"):
        with pytest.raises(ValueError, match="gradient='reversible' needs an explicit one-step method"):
            hbodeint(net(), draw(2, 2), [0.0, 1.0], method=name, gradient="reversible")
    for coupling in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"options\['coupling'\] must be in \(0, 1\]"):
            hbodeint(net(), draw(2, 2), [0.0, 1.0], gradient=Reversible(coupling))


def _peaks(steps):
    """Peak memory of a process after one step and after many, in KiB; a state has 4 MiB."""
    torch.set_num_threads(1)
    h0 = torch.randn(512, 512, dtype=torch.float64, requires_grad=True)

    def run(steps):
        t = torch.tensor([0.0, 0.0004 * steps], dtype=torch.float64)
        call = {"method": "leapfrog", "gradient": "reversible", "options": {"step_size": 0.0004}}
        hbodeint(lambda t, h: -h, h0, t, **call).h[-1].sum().backward()
        lines = dict(line.split(":", 1) for line in PROCESS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0])

    return run(1), run(steps)


@pytest.mark.slow
@pytest.mark.skipif(not PROCESS.exists(), reason="needs the peak memory of a process as Linux reports it")
def test_memory_does_not_grow_with_the_steps(monkeypatch):
    """400 steps after one take no more than a few states; kept carries would be 2.4 GiB."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # freed tensors go back: what is measured is what is held
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        one, many = pool.apply(_peaks, (400,))
    assert many - one <= 8 * 4096
