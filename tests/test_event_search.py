"""How events are found: functions that step, stay zero, are flat there or undefined beyond it, or cross in pairs."""

from __future__ import annotations

import math

import pytest
import torch

import hbode.compat as compat
from hbode import Event, FirstOrder, SolverError, Status, hbodeint
from hbode.solvers.tape.roots import first_zeros, rounding

F64 = torch.float64
LEVEL = 0.1
MET = math.log(1 / LEVEL)
"""Where exp(-t) comes down to LEVEL."""


def decay(t, y):
    return -y


FUNCTIONS = {
    "smooth": lambda y: y - LEVEL,
    "step": lambda y: (y > LEVEL).to(y.dtype) - 0.5,
    "becomes zero by a step": lambda y: (y > LEVEL).to(y.dtype),
    "relu": lambda y: torch.relu(y - LEVEL),
    "clamp": lambda y: (LEVEL - y).clamp(max=0.0),
    "rounding": lambda y: torch.ceil(y - LEVEL),
    "cube": lambda y: (y - LEVEL) ** 3,
    "undefined beyond the zero": lambda y: torch.sqrt(y - LEVEL),
    "undefined soon after the zero": lambda y: torch.log(y - 0.999 * LEVEL) - math.log(0.001 * LEVEL),
    "infinite at the zero": lambda y: torch.where(y > LEVEL, 1 / (y - LEVEL), -math.inf),
}


@pytest.mark.parametrize("loop", ["shared", "per sample", "compat", "compat grid"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_first_time_at_which_a_function_is_zero_or_changes_sign(name, loop):
    g = FUNCTIONS[name]
    y0 = torch.ones(1, dtype=F64)
    if loop.startswith("compat"):
        call = {"method": "rk4", "options": {"step_size": 0.05, "interp": "cubic"}} if loop != "compat" else {}
        t, _ = compat.odeint_event(
            decay, y0, torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: g(y), rtol=1e-8, atol=1e-10, **call
        )
        # rk4 of step h: an error of t h⁴ / 120 relative to y, which is that of the time, and the cubic's h⁴ / 384.
        close = 0.05**4 if call else 1e-6
        assert t.item() == pytest.approx(MET, abs=close)
        return
    event = Event((lambda t, y: g(y)) if loop == "per sample" else (lambda t, y: g(y)[0]))
    sol = hbodeint(
        FirstOrder(decay), y0, [0.0, 4.0], event=event, rtol=1e-8, atol=1e-10, per_sample=loop == "per sample"
    )
    status = sol.stats.status[0] if loop == "per sample" else sol.stats.status
    assert status is Status.EVENT
    # The tolerance, relative to the state, over some 20 steps.
    assert sol.events[0].t.tolist() == [pytest.approx(MET, abs=1e-6)]


@pytest.mark.parametrize("mode", ["discrete_adjoint", "backprop", "continuous_adjoint"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name, slope", [("smooth", 1.0), ("relu", 1.0), ("cube", 1.0), ("step", 0.0)])
def test_gradient_of_the_time_is_that_from_before_the_zero(name, slope, per_sample, mode):
    """t = log(y0 / LEVEL): dt/dy0 = 1 / y0. A step function has no slope, and the time no gradient through it."""
    if per_sample and mode == "continuous_adjoint":
        pytest.skip("needs one time axis")
    g = FUNCTIONS[name]
    y0 = torch.full((1,), 2.0, dtype=F64, requires_grad=True)
    event = Event((lambda t, y: g(y) + 0 * y) if per_sample else (lambda t, y: (g(y) + 0 * y)[0]))
    call = {"rtol": 1e-8, "atol": 1e-10, "per_sample": per_sample, "gradient": mode}
    (record,) = hbodeint(FirstOrder(decay), y0, [0.0, 4.0], event=event, **call).events
    (bar,) = torch.autograd.grad(record.t.sum() + record.h.sum(), y0)
    # The state at the event is LEVEL whatever y0, or moves as exp(-t) where the time does not.
    assert bar.item() == pytest.approx(slope / 2.0 + (1 - slope) * LEVEL / 2.0, abs=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_function_that_is_undefined_without_a_zero_is_an_error(per_sample):
    g = lambda t, y: torch.sqrt(y - LEVEL) + 0.1
    event = Event(g if per_sample else lambda t, y: g(t, y)[0])
    call = {"event": event, "per_sample": per_sample}
    y0 = torch.ones(1, dtype=F64)
    with pytest.raises(SolverError, match="event function"):
        hbodeint(FirstOrder(decay), y0, [0.0, 10.0], **call)
    sol = hbodeint(FirstOrder(decay), y0, [0.0, 10.0], throw=False, **call)
    assert (sol.stats.status[0] if per_sample else sol.stats.status) is Status.NON_FINITE
    assert sol.h[-1].isnan().all()
    with pytest.raises(compat.SolveError):
        compat.odeint_event(decay, y0, torch.tensor(0.0, dtype=F64), event_fn=g)


def test_one_undefined_sample_does_not_stop_the_others():
    """Of the first it has no zero before y = 0.5, of the second it is zero at y = 1.5."""
    y0, offset = torch.tensor([[1.0], [2.0]], dtype=F64), torch.tensor([0.1, -1.0], dtype=F64)
    event = Event(lambda t, y: torch.sqrt(y[:, 0] - 0.5) + offset)
    sol = hbodeint(FirstOrder(decay), y0, [0.0, 3.0], event=event, per_sample=True, throw=False)
    assert sol.stats.status == [Status.NON_FINITE, Status.EVENT]
    assert sol.events[0].t.tolist() == [pytest.approx(math.log(2 / 1.5), abs=1e-4)]  # at rtol 1e-5


def resting(rows, w, gamma, t_end, per_sample, **call):
    """A heavy ball that comes to rest, so that its steps become long, beside an event of its own rhythm."""
    h0, m0 = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    event = Event(lambda t, h, m: torch.sin(w * t) + 0 * (h[:, 0] if per_sample else h[0, 0]), terminal=False)
    t = torch.linspace(0, t_end, rows, dtype=F64)
    return hbodeint(lambda t, h: -h, h0, t, m0=m0, gamma=gamma, event=event, per_sample=per_sample, **call).events[0].t


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("gamma, w, rows", [(0.0, 10.0, 2), (0.0, 20.0, 2), (2.0, 1.0, 317), (2.0, 10.0, 317)])
def test_zeros_that_come_in_pairs_within_a_step(gamma, w, rows, per_sample):
    """31 zeros of sin wt: with a step of up to half a period by the looks inside it, with longer ones by the rows."""
    times = resting(rows, w, gamma, 31.5 * math.pi / w, per_sample)
    expected = math.pi / w * torch.arange(1, 32, dtype=F64)
    assert times.sort().values.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_terminal_event_is_the_first_of_a_pair(per_sample):
    event = Event(lambda t, h, m: (t - 0.4) * (t - 0.6) + (0 * h[:, 0] if per_sample else 0.0))
    y0 = torch.ones(1, 1, dtype=F64)
    sol = hbodeint(lambda t, h: -h, y0, [0.0, 1.0], event=event, per_sample=per_sample, options={"step_size": 1.0})
    assert sol.events[0].t.tolist() == [pytest.approx(0.4, abs=1e-14)]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("direction, expected", [(0, [0.4, 0.6]), (-1, [0.4]), (1, [0.6])])
def test_directions_of_a_pair(per_sample, direction, expected):
    def value(t, h, m):
        return (t - 0.4) * (t - 0.6) + (0 * h[:, 0] if per_sample else 0.0)

    event = Event(value, terminal=False, direction=direction)
    y0 = torch.ones(1, 1, dtype=F64)
    sol = hbodeint(lambda t, h: -h, y0, [0.0, 1.0], event=event, per_sample=per_sample, options={"step_size": 1.0})
    assert sol.events[0].t.tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0, -1.0])
def test_simultaneous_events_are_all_recorded(scale, per_sample):
    """Two functions with one zero, which rounding may move by the last bit of the time."""

    def h_of(h):
        return h[:, 0] if per_sample else h[0, 0]

    events = [Event(lambda t, h, m: h_of(h)), Event(lambda t, h, m: scale * h_of(h))]
    y0 = torch.ones(1, 1, dtype=F64)
    sol = hbodeint(lambda t, h: -h, y0, [0.0, 5.0], gamma=0.0, event=events, per_sample=per_sample)
    one, two = (record.t.item() for record in sol.events)
    assert one == pytest.approx(two, abs=4 * math.ulp(two))


@pytest.mark.parametrize("per_sample", [False, True])
def test_what_starts_at_zero_and_what_leaves_it_is_no_event(per_sample):
    """max(t - .5, 0) is zero from the start and leaves it; min(t - .5, 0) becomes zero and stays."""

    def event(g):
        return Event(lambda t, h, m: g(t) + (0 * h[:, 0] if per_sample else 0.0), terminal=False)

    events = [event(lambda t: (t - 0.5).clamp(min=0.0)), event(lambda t: (t - 0.5).clamp(max=0.0))]
    y0 = torch.ones(1, 1, dtype=F64)
    for step in (1.0, 0.25):
        call = {"per_sample": per_sample, "options": {"step_size": step}}
        leaving, staying = hbodeint(lambda t, h: -h, y0, [0.0, 1.0], event=events, **call).events
        assert leaving.t.tolist() == []
        assert staying.t.tolist() == [pytest.approx(0.5, abs=1e-14)]


SHAPES = {
    "line": (lambda x: x - 0.5, 0.5, 3),
    "cosine": (lambda x: torch.cos(2 * x), math.pi / 4, 10),
    "exponential": (lambda x: torch.exp(-30 * x) - 0.3, -math.log(0.3) / 30, 14),
    "power": (lambda x: 0.5 - x**5, 0.5**0.2, 10),
    "cube": (lambda x: (x - 0.3) ** 3, 0.3, 3 * 53),
    "step": (lambda x: torch.where(x < 0.37, 1.0, -1.0).double(), 0.37, 3 * 53),
    "stays": (lambda x: (0.3 - x).clamp(min=0), 0.3, 3 * 53),
}


@pytest.mark.parametrize("name", SHAPES)
def test_brackets_close_to_rounding_in_few_evaluations(name):
    """Scipy's brentq takes 3, 8, 13 and 10 for the smooth ones, which it does not bracket; bisection takes 53."""
    f, zero, most = SHAPES[name]
    low, high = torch.zeros(2, dtype=F64), torch.tensor([1.0, 0.9], dtype=F64)
    calls = []

    def value(x):
        calls.append(x)
        return f(x)

    width = rounding(low, high)
    before, at, g_before, g = first_zeros(value, low, high, f(low), f(high), width)
    assert ((at - before > 0) & (at - before <= width)).all()
    assert (g_before.sign() == f(low).sign()).all()
    assert (g.sign() != f(low).sign()).all()
    assert at.tolist() == pytest.approx([zero, zero], abs=8e-16)
    assert len(calls) <= most
