"""Events: where a function of the solution vanishes, in time, in state, in gradient."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from hbode import METHODS, Event, FirstOrder, SecondOrder, Status, hbodeint

G = 9.81


def falling(t, h):
    """h'' = -g as a heavy ball without damping."""
    return torch.full_like(h, -G)


def oscillator(t, h):
    return -h


def solve(event, t=(0.0, 1.0, 2.0, 3.0, 10.0), f=oscillator, h0=1.0, m0=0.0, **call):
    h0, m0 = (torch.as_tensor(x, dtype=torch.float64).reshape(1) for x in (h0, m0))
    call = {"gamma": 0.0, "rtol": 1e-10, "atol": 1e-10, **call}
    return hbodeint(f, h0, t, m0=m0, event=event, **call)


ZEROS = [math.pi / 2, 3 * math.pi / 2, 5 * math.pi / 2]
"""Of cos t in [0, 10]: the first and third from above, the second from below."""

# Event times are as good as the solution: at tolerances of 1e-10 over some 50 steps.
CLOSE = 1e-8


@pytest.mark.parametrize("direction, expected", [(0, ZEROS), (-1, [ZEROS[0], ZEROS[2]]), (1, [ZEROS[1]])])
@pytest.mark.parametrize("method", ["dprkn6", "dprkn8", "dopri5"])
def test_non_terminal_events(method, direction, expected):
    sol = solve(Event(lambda t, h, m: h[0], terminal=False, direction=direction), method=method)
    (record,) = sol.events
    # dprkn8 locates on an interpolant of order six within the long steps of order eight.
    close = 1e-5 if method == "dprkn8" else CLOSE
    assert record.t.tolist() == pytest.approx(expected, abs=close)
    assert record.h.shape == record.m.shape == (len(expected), 1)
    assert record.h.abs().max() < 1e-12  # a zero of the interpolant, to the precision of the root finding
    assert record.m[:, 0].tolist() == pytest.approx([-math.sin(t) for t in expected], abs=close)
    assert record.sample is None
    assert sol.stats.status is Status.SUCCESS
    assert sol.h.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_events_on_every_method(name):
    """Order of the error of the step or more: 0.05 to the order of the method, or of cubic interpolation."""
    order = min(METHODS[name].order, 4)
    options = {"step_size": 0.05, **({"max_iters": 30} if name == "implicit_adams" else {})}
    sol = solve(Event(lambda t, h, m: h[0]), method=name, options=options)
    assert sol.events[0].t.item() == pytest.approx(ZEROS[0], abs=5 * 0.05**order)
    assert sol.stats.status is Status.EVENT


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_terminal_event_ends_the_solve(per_sample):
    """Rows after it are NaN, rows before it are the solution, and it is no failure."""
    event = Event(lambda t, h, m: h[:, 0] if per_sample else h[0, 0])
    h0 = torch.tensor([[5.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    sol = hbodeint(falling, h0, t, gamma=0.0, event=event, per_sample=per_sample)
    landing = math.sqrt(2 * 5.0 / G)
    (record,) = sol.events
    # A parabola: methods and interpolants of order six are exact for it.
    assert record.t.item() == pytest.approx(landing, abs=1e-12)
    assert record.m.item() == pytest.approx(-G * landing, abs=1e-11)
    assert abs(record.h.item()) < 1e-12
    assert torch.allclose(sol.h[:3, 0, 0], 5.0 - 0.5 * G * t[:3] ** 2, rtol=0, atol=1e-12)
    assert sol.h[3:].isnan().all()
    assert sol.m[3:].isnan().all()
    assert sol.stats.success
    assert sol.stats.status == ([Status.EVENT] if per_sample else Status.EVENT)
    if per_sample:
        assert record.sample.tolist() == [0]


def test_a_row_at_the_event_itself_is_reached():
    """t = 1 is requested and the event is at t = 1 exactly."""
    sol = solve(Event(lambda t, h, m: t - 1.0))
    assert sol.h[:2].isfinite().all()
    assert sol.h[2:].isnan().all()
    assert sol.h[1].item() == pytest.approx(math.cos(1.0), abs=CLOSE)


@pytest.mark.parametrize("per_sample", [False, True])
def test_decreasing_time(per_sample):
    """Directions are those of the integration: cos t from t = 10 down rises at 5π/2 and π/2 and sinks at 3π/2."""

    def value(t, h, m):
        return h[:, 0] if per_sample else h[0, 0]

    h0, m0 = (torch.tensor([[x]], dtype=torch.float64) for x in (math.cos(10.0), -math.sin(10.0)))
    events = [Event(value, terminal=False, direction=d) for d in (1, -1)]
    call = {"m0": m0, "gamma": 0.0, "rtol": 1e-10, "atol": 1e-10, "per_sample": per_sample}
    sol = hbodeint(oscillator, h0, [10.0, 5.0, 0.0], event=events, **call)
    rising, sinking = sol.events
    assert rising.t.tolist() == pytest.approx([ZEROS[2], ZEROS[0]], abs=CLOSE)
    assert sinking.t.tolist() == pytest.approx([ZEROS[1]], abs=CLOSE)
    sol = hbodeint(oscillator, h0, [10.0, 5.0, 0.0], event=Event(value, direction=-1), **call)
    assert sol.events[0].t.item() == pytest.approx(ZEROS[1], abs=CLOSE)
    assert sol.h[1].isfinite().all()
    assert sol.h[2].isnan().all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_several_events_up_to_the_first_terminal_one(per_sample):
    """All in one step: those before the terminal event are recorded, those after it are not."""
    events = [
        Event(lambda t, h, m: t - 0.7, terminal=False),
        Event(lambda t, h, m: t - 0.5),
        Event(lambda t, h, m: t - 0.3, terminal=False),
        Event(lambda t, h, m: t - 0.4, terminal=False, direction=-1),
        Event(lambda t, h, m: t - 5.0),
    ]
    sol = solve(events, options={"step_size": 1.0}, per_sample=per_sample)
    times = [record.t.tolist() for record in sol.events]
    assert times == [[], [pytest.approx(0.5, abs=1e-15)], [pytest.approx(0.3, abs=1e-15)], [], []]
    assert len(sol.stats.t) == 1
    assert sol.events[0].h.shape == ((0,) if per_sample else (0, 1))  # states of a sample, or of the batch


def test_an_event_where_a_step_ends_is_met_once():
    sol = solve(Event(lambda t, h, m: t - 0.5, terminal=False), options={"step_size": 0.25})
    assert sol.events[0].t.tolist() == [0.5]


def test_a_zero_at_the_start_is_not_a_crossing():
    sol = solve(Event(lambda t, h, m: m[0]), t=[0.0, 10.0])
    assert sol.events[0].t.item() == pytest.approx(math.pi, abs=CLOSE)


def test_a_bare_function_is_a_terminal_event():
    assert solve(lambda t, h, m: h[0]).stats.status is Status.EVENT


def test_a_first_order_system_has_events_of_two_arguments():
    sol = hbodeint(
        FirstOrder(lambda t, h: -h),
        torch.ones(1, dtype=torch.float64),
        [0.0, 1.0],
        event=lambda t, h: h[0] - 0.5,
        rtol=1e-10,
        atol=1e-10,
    )
    assert sol.events[0].t.item() == pytest.approx(math.log(2.0), abs=CLOSE)
    assert sol.events[0].m is None


def test_events_per_sample():
    """Every sample meets its own events; a terminal one ends its own solve only."""
    heights = torch.tensor([[1.0], [4.0], [9.0], [400.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.4, 0.8, 2.0], dtype=torch.float64)
    events = [Event(lambda t, h, m: h[:, 0]), Event(lambda t, h, m: m[:, 0] + 3.0, terminal=False)]
    sol = hbodeint(falling, heights, t, gamma=0.0, event=events, per_sample=True)
    landing = torch.sqrt(2 * heights[:3, 0] / G)
    ground, speed = sol.events
    order = ground.sample.argsort()
    assert ground.sample[order].tolist() == [0, 1, 2]
    assert torch.allclose(ground.t[order], landing, rtol=0, atol=1e-12)
    assert torch.allclose(ground.m[order, 0], -G * landing, rtol=0, atol=1e-11)
    assert sorted(speed.sample.tolist()) == [0, 1, 2, 3]
    assert torch.allclose(speed.t, torch.full_like(speed.t, 3.0 / G), rtol=0, atol=1e-12)
    assert sol.stats.status == [Status.EVENT] * 3 + [Status.SUCCESS]
    reached = sol.h[:, :, 0].isfinite()
    assert torch.equal(reached[:, :3], t.unsqueeze(1) <= landing)
    assert reached[:, 3].all()


def test_events_per_sample_are_those_of_each_sample_alone(net, draw):
    f, h0, m0 = net(), draw(5, 2), draw(5, 2)
    t = torch.linspace(0, 6, 7, dtype=torch.float64)
    call = {"rtol": 1e-8, "atol": 1e-8, "options": {"first_step": 0.3}}

    def value(t, h, m):
        return m[:, 0] - 0.3 * h[:, 1]

    sol = hbodeint(f, h0, t, m0=m0, event=Event(value, terminal=False), per_sample=True, **call)
    assert len(sol.events[0].t) > 3
    for b in range(5):
        mine = sol.events[0].sample == b
        one = hbodeint(
            f,
            h0[b : b + 1],
            t,
            m0=m0[b : b + 1],
            event=Event(lambda t, h, m: value(t, h, m)[0], terminal=False),
            **call,
        )
        # The same steps to 1e-8 of themselves, and a bisection to the last bit of the fraction.
        assert torch.allclose(sol.events[0].t[mine], one.events[0].t, rtol=0, atol=1e-12)
        assert torch.allclose(sol.events[0].h[mine], one.events[0].h[:, 0], rtol=0, atol=1e-12)


def test_agreement_with_scipy():
    """A ball thrown with drag -0.1 v |v|: its apex and its landing, in time and state."""
    system = SecondOrder(lambda t, h, m: -G - 0.1 * m * m.abs())
    h0, m0 = torch.zeros(1, dtype=torch.float64) + 0.1, torch.tensor([15.0], dtype=torch.float64)
    events = [Event(lambda t, h, m: m[0], terminal=False), Event(lambda t, h, m: h[0])]
    sol = hbodeint(system, h0, [0.0, 10.0], m0=m0, event=events, rtol=1e-10, atol=1e-10)

    def ground(t, y):
        return y[0]

    ground.terminal = True
    theirs = solve_ivp(
        lambda t, y: [y[1], -G - 0.1 * y[1] * abs(y[1])],
        (0, 10),
        [0.1, 15.0],
        events=[lambda t, y: y[1], ground],
        rtol=1e-11,
        atol=1e-11,
        method="DOP853",
    )
    for record, t, y in zip(sol.events, theirs.t_events, theirs.y_events, strict=True):
        assert record.t.tolist() == pytest.approx(list(t), abs=CLOSE)
        assert record.h[:, 0].tolist() == pytest.approx(list(y[:, 0]), abs=1e-7)
        assert record.m[:, 0].tolist() == pytest.approx(list(y[:, 1]), abs=1e-7)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("mode", ["discrete_adjoint", "backprop"])
def test_gradient_through_the_event_time(mode, per_sample):
    """A fall from h0 with m0 = 0 lands after sqrt(2 h0 / g) at the speed sqrt(2 g h0)."""
    h0 = torch.tensor([[5.0]], dtype=torch.float64, requires_grad=True)
    m0 = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    g = torch.tensor(G, dtype=torch.float64, requires_grad=True)
    floor = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    event = Event(lambda t, h, m: (h[:, 0] if per_sample else h[0, 0]) - floor)
    sol = hbodeint(
        lambda t, h, g: -g * torch.ones_like(h),
        h0,
        [0.0, 2.0],
        m0=m0,
        args=(g,),
        gamma=0.0,
        event=event,
        gradient=mode,
        per_sample=per_sample,
    )
    (record,) = sol.events
    inputs = (h0, m0, g, floor)
    t, v = math.sqrt(2 * 5.0 / G), math.sqrt(2 * G * 5.0)
    by_time = torch.autograd.grad(record.t.sum(), inputs, retain_graph=True)
    # Along the fall t = (m0 + sqrt(m0² + 2 g (h0 - floor))) / g.
    assert [x.item() for x in by_time] == pytest.approx([1 / v, 1 / G, -t / (2 * G), -1 / v], abs=1e-11)
    by_speed = torch.autograd.grad(record.m.sum(), inputs, retain_graph=True)
    # m = -sqrt(m0² + 2 g (h0 - floor)).
    assert [x.item() for x in by_speed] == pytest.approx([-G / v, 0.0, -5.0 / v, G / v], abs=1e-10)
    by_height = torch.autograd.grad(record.h.sum(), inputs)
    assert [x.item() for x in by_height] == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-11)


def test_gradient_of_a_bouncing_ball():
    """Two solves joined by an event: the second starts at the event's time and with its speed reversed.

    The height at t = 2 after one bounce with restitution e is e v τ - g τ²/2, τ = 2 - sqrt(2 h0 / g).
    """
    h0 = torch.tensor([[5.0]], dtype=torch.float64, requires_grad=True)
    e = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    fall = hbodeint(falling, h0, [0.0, 2.0], gamma=0.0, event=Event(lambda t, h, m: h[0, 0]))
    (hit,) = fall.events
    t = torch.stack((hit.t[0], torch.tensor(1.5, dtype=torch.float64)))
    h, _ = hbodeint(falling, torch.zeros(1, 1, dtype=torch.float64), t, m0=-e * hit.m[0], gamma=0.0)
    h0_bar, e_bar = torch.autograd.grad(h[-1].sum(), (h0, e))

    x, r = h0.detach().requires_grad_(), e.detach().requires_grad_()
    tau = 1.5 - torch.sqrt(2 * x / G)
    height = r * torch.sqrt(2 * G * x) * tau - 0.5 * G * tau**2
    expected = torch.autograd.grad(height.sum(), (x, r))
    assert h[-1].item() == pytest.approx(height.item(), abs=1e-11)
    assert h0_bar.item() == pytest.approx(expected[0].item(), abs=1e-10)
    assert e_bar.item() == pytest.approx(expected[1].item(), abs=1e-10)


def test_a_short_pair_of_zeros_needs_max_step():
    """The documented limit, and its remedy: two zeros between the looks, in a dip that no parabola shows."""
    narrow = Event(lambda t, h, m: 1.0 - torch.exp(-((t - 0.45) ** 2) / 1e-4) * 2.0, terminal=False)
    assert solve(narrow, options={"step_size": 1.0}, t=[0.0, 1.0]).events[0].t.tolist() == []
    found = solve(narrow, options={"max_step": 0.02}, t=[0.0, 1.0]).events[0].t.tolist()
    half = 1e-2 * math.sqrt(math.log(2.0))
    assert found == pytest.approx([0.45 - half, 0.45 + half], abs=1e-12)
