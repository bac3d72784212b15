"""The adjoint equation across resets: exact solutions, and the discrete adjoint.

With tolerances of 1e-11, and gradients some ten times as large as the solutions, the modes agree to 1e-9.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scenarios import assert_same, increasing, pulled_back, solved
from torch import Tensor, nn

from hbode import Event, FirstOrder, Solution, Status, Update, hbodeint
from hbode.gradients import ContinuousAdjoint, DiscreteAdjoint

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
STATES = ["interpolating", "backsolve"]


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("state", STATES)
def test_ten_impacts_of_a_ball_in_closed_form(state):
    """Impacts, and the state between the last of them and the next, as functions of g, e and the height.

    All are polynomials of the time, which the method has exactly: what is left are roundings.
    """
    e, g, height = number(0.9), number(9.81), number(1.3)
    t = increasing(0.0, 6.4)
    floor = Event(lambda t, h, m: h.reshape(()), direction=-1, reset=lambda t, h, m: (h, -e * m))
    sol = hbodeint(
        lambda t, h, g: -g * torch.ones_like(h),
        height.reshape(1),
        t,
        args=(g,),
        gamma=0.0,
        event=floor,
        gradient=ContinuousAdjoint(adjoint_state=state),
        **TIGHT,
    )
    speed = (2 * g * height) ** 0.5
    flights = torch.stack([speed / g, *(2 * speed * e**k / g for k in range(1, 10))])
    met, left = flights.cumsum(0), speed * e ** torch.arange(1, 11)
    since = t[1] - met[-1]
    assert 0 < since < 2 * left[-1] / g
    exact = [met, left, left[-1] * since - g * since**2 / 2, left[-1] - g * since]
    (record,) = sol.events
    got = [record.t, record.after.m.reshape(-1), sol.h[-1, 0], sol.m[-1, 0]]
    for a, b in zip(got, exact, strict=True):
        bar = torch.linspace(1.0, 2.0, a.numel(), dtype=torch.float64).reshape(a.shape)
        grads = (torch.autograd.grad(x, (e, g, height), bar, retain_graph=True) for x in (a, b))
        assert torch.allclose(a, b, rtol=1e-10)
        for x, y in zip(*grads, strict=True):
            assert x.item() == pytest.approx(y.item(), rel=1e-9)


@pytest.mark.parametrize("state", STATES)
def test_the_period_of_a_relay_oscillator(state):
    """x' = a (u - x), and u changes its sign where x is at ±w: half a period is log((1 + w) / (1 - w)) / a."""
    a, w = number(0.7), number(0.4)
    relay = Event(lambda t, y: y[0] * y[1] - w, direction=1, reset=lambda t, y: y * increasing(1.0, -1.0), max_count=5)
    sol = hbodeint(
        FirstOrder(lambda t, y: torch.stack((a * (y[1] - y[0]), 0 * y[1]))),
        increasing(0.0, 1.0),
        [0.0, 20.0],
        event=relay,
        gradient=ContinuousAdjoint(adjoint_state=state),
        method="dopri8",
        **TIGHT,
    )
    half = torch.log((1 + w) / (1 - w)) / a
    exact = torch.stack([-torch.log(1 - w) / a + k * half for k in range(5)])
    t = sol.events[0].t
    assert sol.stats.status is Status.EVENT
    assert torch.allclose(t, exact, rtol=1e-9)
    for x, y in zip(*(pulled_back([x], (a, w)) for x in (t, exact)), strict=True):
        assert x.item() == pytest.approx(y.item(), rel=1e-8)


class Level(nn.Module):
    """A wall whose place depends on the time, with parameters."""

    def __init__(self, at: float, swing: float) -> None:
        super().__init__()
        self.at, self.swing = (nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in (at, swing))

    def forward(self, t: Tensor, h: Tensor, m: Tensor) -> Tensor:
        return h.sum() - self.at - self.swing * torch.sin(t)


class Bounce(nn.Module):
    """What an impact leaves: the position moved by a function of the time, the momentum mixed and turned."""

    def __init__(self, restitution: float) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([[-restitution, 0.1], [0.2, -restitution]], dtype=torch.float64))

    def forward(self, t: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        return 0.9 * h + 0.01 * torch.cos(t), m @ self.turn


class Struck:
    """A damped, restored ball between two walls that move, kicked at known times, watched by an event of its own."""

    def __init__(self, net, draw, t=(0.0, 0.5, 1.3, 2.2, 3.0), at=(0.45, 1.9)) -> None:
        self.net, self.walls, self.bounces = net(), [Level(0.5, 0.1), Level(-0.5, 0.2)], [Bounce(1.0), Bounce(0.9)]
        self.t, self.at = (increasing(*x).requires_grad_() for x in (t, at))
        self.m0, self.arg = increasing(2.5, 1.5).requires_grad_(), draw(2, grad=True)
        self.h0 = increasing(0.1, -0.1).requires_grad_()
        self.gamma, self.xi = number(0.2), number(4.0)
        self.kick = draw(len(at), 2, grad=True)

    @property
    def inputs(self) -> list[Tensor]:
        modules = [self.net, *self.walls, *self.bounces]
        own = [self.h0, self.m0, self.t, self.at, self.gamma, self.xi, self.arg, self.kick]
        return [*own, *(x for module in modules for x in module.parameters())]

    def __call__(self, gradient: Any, times: Any = None, **settings: Any) -> tuple[list[Tensor], Solution]:
        upper, lower = (
            Event(wall, direction=direction, reset=bounce)
            for wall, bounce, direction in zip(self.walls, self.bounces, (1, -1), strict=True)
        )
        event = [upper, Event(lambda t, h, m: h[0] - 0.1 * t, terminal=False), lower]
        sol = solved(
            self,
            gradient,
            updates=Update(self.at, lambda t, h, m, x: (h, m + 0.5 * torch.sin(x * t)), self.kick),
            **{"event": event, "method": "dprkn8", **TIGHT, **settings},
        )
        outputs = [sol.h, sol.m, *(x for side in sol.updates for x in side)]
        for record in sol.events:
            outputs += [record.t, record.h, record.m]
            outputs += [] if record.after is None else [*record.after]
        if times is not None:
            outputs += [x * sol.h[1] for x in sol(times)]
        return [x.nan_to_num() for x in outputs], sol


CASES: dict[str, dict[str, Any]] = {
    "both walls, kicks and an event": {},
    "first-order form": {"method": "dopri8"},
    "jump of the field": {"options": {"jump_ts": [0.7]}},
    "dense output": {"dense": True, "times": increasing(0.0, 0.3, 1.0, 2.0, 2.9)},
}
FAST = "both walls, kicks and an event", "interpolating"


@pytest.mark.parametrize(
    "case, state",
    [
        pytest.param(case, state, marks=() if (case, state) == FAST else pytest.mark.slow)
        for case, state in itertools.product(CASES, STATES)
    ],
)
def test_agrees_with_the_discrete_adjoint(net, draw, case, state):
    """Events are found on interpolants, which for dopri8 are of order seven, at a hundred times the error."""
    solve = Struck(net, draw)
    modes = ContinuousAdjoint(adjoint_state=state), DiscreteAdjoint()
    found = [solve(mode, **CASES[case]) for mode in modes]
    assert min(len(record.t) for record in found[0][1].events) >= 2
    relative = 1e-6 if case == "first-order form" else 1e-8
    assert_same(*(pulled_back(outputs, solve.inputs) for outputs, _ in found), relative=relative)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leapfrog", "rk4"])
def test_fixed_grids(net, draw, method):
    """The adjoint takes the steps of the solve, of which those cut short vary: its error falls with the grid."""
    solve = Struck(net, draw)
    exact = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    errors = []
    for steps in (100, 400):
        call = {"method": method, "options": {"step_size": 3.0 / steps}}
        grads = pulled_back(solve("continuous_adjoint", **call)[0], solve.inputs)
        errors.append(max((a - b).abs().max().item() for a, b in zip(grads, exact, strict=True)))
    # the cubic interpolant, on which events are found, has errors of the fourth power of the step
    assert errors[0] / errors[1] >= 0.5 * 4 ** (3 if method == "rk4" else 2)


# What follows is solved by motion at constant rates: y' = v, v' = 0, in closed form.

DRIFT: dict[str, Any] = {"gamma": 0.0, "rtol": 1e-8, "atol": 1e-8}


def still(t: Tensor, h: Tensor) -> Tensor:
    return torch.zeros_like(h)


MODES = [ContinuousAdjoint(), ContinuousAdjoint(adjoint_state="backsolve"), DiscreteAdjoint()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("t", [(0.0, 3.0), (0.0, -3.0)])
def test_the_transpose_of_the_saltation_matrix(mode, t):
    """Through a wall that moves, h = w + u t, into another medium: m⁺ = c m + d t, at time t* = (w - h0) / (m0 - u)."""
    h0, m0, w, u, c, d = inputs = [number(x) for x in (0.2, 1.5 * math.copysign(1, t[1]), 1.0, 0.1, 0.6, 0.3)]
    wall = Event(lambda t, h, m: h[0] - w - u * t, reset=lambda t, h, m: (h, c * m + d * t), terminal=False)
    sol = hbodeint(still, h0.reshape(1), t, m0=m0.reshape(1), event=wall, gradient=mode, **DRIFT)
    met = (w - h0) / (m0 - u)
    after = c * m0 + d * met
    exact = [met, h0 + m0 * met, m0, after, h0 + m0 * met + after * (t[1] - met), after]
    (record,) = sol.events
    got = [x.squeeze() for x in (record.t, record.h, record.m, record.after.m, sol.h[-1], sol.m[-1])]
    for a, b in zip(got, exact, strict=True):
        assert a.item() == pytest.approx(b.item(), abs=1e-12)
        grads = (torch.autograd.grad(x, inputs, retain_graph=True, materialize_grads=True) for x in (a, b))
        for x, y in zip(*grads, strict=True):
            assert x.item() == pytest.approx(y.item(), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_solve_that_ends_with_a_reset(mode):
    """What is after the last impact is shown by its record alone; the rows that were not reached have no part."""
    v, e = number(2.0), number(0.5)
    wall = Event(lambda t, h, m: h[0] - 1, reset=lambda t, h, m: (h, -e * m), terminal=True)
    sol = hbodeint(
        still, torch.zeros(1).double(), [0.0, 0.25, 1.0], m0=v.reshape(1), event=wall, gradient=mode, **DRIFT
    )
    assert sol.stats.status is Status.EVENT
    assert bool(sol.h[2].isnan().all())
    record = sol.events[0]
    for value, expected in (
        (record.after.m[0, 0], (-0.5, -2.0)),
        (record.t[0], (-0.25, 0.0)),
        (sol.h[1, 0], (0.25, 0)),
    ):
        grads = torch.autograd.grad(value, (v, e), retain_graph=True, materialize_grads=True)
        assert [x.item() for x in grads] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_events_at_one_time_and_a_reset_that_carries_another_function_across_zero(mode):
    """y' = rate: the first fires where y0 = 1 and takes y1 from 0.8 beyond 1.2, where the second turns it back."""
    rate, size = increasing(1.0, 0.8).requires_grad_(), number(0.5)
    events = [
        Event(lambda t, y: y[0] - 1, direction=1, reset=lambda t, y: torch.stack((0.5 * y[0], y[1] + size * y[0]))),
        Event(lambda t, y: y[1] - 1.2, direction=1, reset=lambda t, y: y * torch.stack((0 * size + 1, size * y[0]))),
    ]
    y0 = torch.zeros(2, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, y: rate), y0, [0.0, 1.1], event=events, gradient=mode, rtol=1e-8, atol=1e-8)
    first, second = sol.events
    assert first.t.tolist() == second.t.tolist() == [pytest.approx(1.0, abs=1e-12)]
    met = 1 / rate[0]
    jumped = (rate[1] * met + size) * size * 0.5
    exact = [met, met, jumped, torch.stack((0.5 + rate[0] * (1.1 - met), jumped + rate[1] * (1.1 - met)))]
    got = [first.t[0], second.t[0], second.after.h[0, 1], sol.h[-1]]
    for a, b in zip(got, exact, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
        inputs = {"inputs": (rate, size), "retain_graph": True, "materialize_grads": True}
        for x, y in zip(*(torch.autograd.grad(x.sum(), **inputs) for x in (a, b)), strict=True):
            assert torch.allclose(x, y, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_an_update_at_the_time_of_a_reset_comes_after_it(mode):
    """y' = r, reset to c y at t = 1/2, where it is then kicked by k: dy/dt at the end is 1, whatever the times move."""
    c, k, r, at = number(0.6), number(0.3), number(2.0), increasing(0.5).requires_grad_()
    half = Event(lambda t, y: t - 0.5, reset=lambda t, y: c * y)
    sol = hbodeint(
        FirstOrder(lambda t, y: r * torch.ones_like(y)),
        torch.ones(1, dtype=torch.float64),
        [0.0, 0.5, 1.0],
        event=half,
        updates=Update(at, lambda t, y: y * y + k),
        gradient=mode,
        rtol=1e-8,
        atol=1e-8,
    )
    assert sol.events[0].t.tolist() == [0.5]
    assert sol.updates.before.h.item() == pytest.approx(1.2)
    assert sol.h.flatten().tolist() == pytest.approx([1.0, 1.44 + 0.3, 1.44 + 0.3 + 1.0])
    grads = torch.autograd.grad(sol.h[-1], (c, k, r))
    # y = (c (1 + r / 2))² + k + r / 2
    assert [x.item() for x in grads] == pytest.approx([2 * 1.2 * 2, 1.0, 2 * 1.2 * 0.3 + 0.5], abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_passes_through_the_time_of_a_function_that_steps(mode):
    """As by the discrete adjoint: y' = r to the first time after which y > 1, where it is halved."""
    r = number(2.0)
    steps = Event(lambda t, y: torch.where(y[0] > 1, 1.0, -1.0).double(), direction=1, reset=lambda t, y: 0.5 * y)
    y0 = torch.zeros(1, dtype=torch.float64)
    sol = hbodeint(
        FirstOrder(lambda t, y: r * torch.ones_like(y)), y0, [0.0, 0.7], event=steps, gradient=mode, rtol=1e-8
    )
    (by_r,) = torch.autograd.grad(sol.h[-1], r)
    assert by_r.item() == pytest.approx(0.5 * 0.5 + 0.2, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_touch_without_speed_has_no_finite_derivative(mode):
    """A wall that a ball barely reaches, within 1e-12: the derivative is what the rate there, 2e-6 or so, divides."""
    height = number(0.5 + 1e-12)
    top = Event(lambda t, h, m: h[0] - 0.5, direction=1, reset=lambda t, h, m: (h, -m))
    sol = hbodeint(
        lambda t, h: -torch.ones_like(h),
        torch.zeros(1, dtype=torch.float64),
        [0.0, 1.5],
        m0=torch.sqrt(2 * height).reshape(1),
        event=top,
        gradient=mode,
        **DRIFT,
    )
    (by_height,) = torch.autograd.grad(sol.events[0].t[0], height)
    # t* = m0 - sqrt(2 (height - 1/2)), to the rounding of 1e-12
    assert by_height.item() == pytest.approx(-1 / math.sqrt(2e-12), rel=1e-2)


def test_complex_states_and_states_of_several_tensors(draw):
    """A wall, and what it does to a state, by its modulus and by its parts."""
    w, turn = number(0.8), torch.tensor(0.6 + 0.3j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([0.3 + 0.1j, -0.5j], requires_grad=True, dtype=torch.complex128)
    beat = {"x": draw(2, grad=True), "y": draw(2, 3, grad=True)}
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        wall = Event(lambda t, y: (y.abs() ** 2).sum() - w, reset=lambda t, y: turn * y)
        grown = hbodeint(
            FirstOrder(lambda t, y: (0.4 + 1j) * y),
            y0,
            [0.0, 1.3, 3.0],
            event=wall,
            gradient=mode,
            method="dopri8",
            **TIGHT,
        )
        half = Event(
            lambda t, s, m: s["x"].sum() - 0.1 * m["y"].sum(),
            reset=lambda t, s, m: (s, {"x": w * m["x"], "y": -m["y"]}),
        )
        parts = hbodeint(
            lambda t, s: {"x": -torch.sin(s["x"]), "y": s["x"][:, None] - s["y"]},
            beat,
            [0.0, 6.0],
            event=half,
            gradient=mode,
            method="dprkn8",
            **TIGHT,
        )
        assert min(len(sol.events[0].t) for sol in (grown, parts)) >= 2
        outputs = [grown.h, grown.events[0].t, *parts.h.values(), parts.events[0].after.m["y"]]
        grads.append(pulled_back(outputs, (w, turn, y0, *beat.values())))
    assert_same(*grads, relative=1e-6)


def test_a_reset_that_draws_is_refused():
    wall = Event(lambda t, h, m: h[0] - 0.5, reset=lambda t, h, m: (h, -m * torch.rand_like(m)))
    v = number(1.0)
    sol = hbodeint(
        still,
        torch.zeros(1).double(),
        [0.0, 1.0],
        m0=v.reshape(1),
        event=wall,
        gradient="continuous_adjoint",
        **DRIFT,
    )
    with pytest.raises(RuntimeError, match=r"changed since the solve: run again, the reset at t = 0\.5"):
        sol.h.sum().backward()


class Box:
    """Neither called nor a dataclass: its tensor is not searched for."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


@pytest.mark.parametrize("mode", ["continuous_adjoint", "discrete_adjoint"])
def test_what_a_reset_hides_is_refused_and_what_an_event_function_hides_is_found(mode):
    """The event function is evaluated at the first time, where it is seen what it uses."""
    at, left, v = Box(number(0.5)), Box(number(0.5)), number(1.0)

    def solve(reset: Any) -> Solution:
        wall = Event(lambda t, h, m: h[0] - at.value, reset=reset)
        start = torch.zeros(1, dtype=torch.float64)
        return hbodeint(still, start, [0.0, 1.0], m0=v.reshape(1), event=wall, gradient=mode, **DRIFT)

    sol = solve(lambda t, h, m: (h, -0.5 * m))
    (by_at,) = torch.autograd.grad(sol.h[-1], at.value)
    assert by_at.item() == pytest.approx(1.5, abs=1e-12)  # h = at - (1 - at) / 2
    sol = solve(lambda t, h, m: (h, -left.value * m))
    with pytest.raises(RuntimeError, match="a reset or an update used a tensor of shape"):
        sol.h.sum().backward()
    at.value, v = at.value.detach(), v.detach()
    with pytest.raises(RuntimeError, match="a reset or an update used a tensor of shape"):
        solve(lambda t, h, m: (h, -left.value * m))
