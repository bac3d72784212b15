"""Resets at events: impacts, relays, stick-slip; in time, in state, in gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from hbode import Event, FirstOrder, SolverError, Status, Update, hbodeint

F64 = torch.float64
G = 9.81
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
MODES: dict[str, dict[str, Any]] = {
    "discrete_adjoint": {"gradient": "discrete_adjoint"},
    "checkpoints": {"gradient": "discrete_adjoint", "options": {"checkpoints": 2}},
    "backprop": {"gradient": "backprop"},
    "reversible": {"gradient": "reversible"},
}


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=F64, requires_grad=True)


def fall(t: Tensor, h: Tensor, *g: Tensor) -> Tensor:
    return -(g[0] if g else G) * torch.ones_like(h)


def floor(e: Any, per_sample: bool = False, **event: Any) -> Event:
    height = (lambda t, h, m: h[:, 0]) if per_sample else (lambda t, h, m: h.reshape(()))
    return Event(height, **{"direction": -1, "reset": lambda t, h, m: (h, -e * m), **event})


def drop(event: Any, h0: Any = 1.3, t: Any = (0.0, 20.0), per_sample: bool = False, **call: Any) -> Any:
    start = torch.as_tensor(h0, dtype=F64)
    return hbodeint(fall, start.reshape(-1, 1), t, gamma=0.0, event=event, per_sample=per_sample, **{**TIGHT, **call})


def impacts(n: int, e: Any, h0: Any = 1.3, g: Any = G) -> Tensor:
    """Times of the first n impacts: the fall, then flights of 2 v / g with v reduced by e each time."""
    v = (2 * torch.as_tensor(g * h0, dtype=F64)) ** 0.5
    flights = [v / g] + [2 * v * e**k / g for k in range(1, n)]
    return torch.stack(flights).cumsum(0)


def lanes(cases: Any, fast: Any) -> list[Any]:
    """Return the cases, all slow but those that are to stay fast."""
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "mode, per_sample",
    lanes(itertools.product(MODES, (False, True)), [("discrete_adjoint", False), ("reversible", True)]),
)
def test_ten_impacts_of_a_ball_and_their_gradients_in_closed_form(mode, per_sample):
    e, g, h0 = number(0.9), number(G), number(1.3)
    sol = drop(floor(e, per_sample, max_count=10), h0, per_sample=per_sample, args=(g,), **MODES[mode])
    (record,) = sol.events
    exact = impacts(10, e, h0, g)
    assert sol.stats.success
    assert torch.allclose(record.t, exact, rtol=0, atol=1e-8)
    speed = (2 * g * h0) ** 0.5 * e ** torch.arange(10)
    assert torch.allclose(record.m.reshape(-1), -speed, rtol=0, atol=1e-8)
    assert torch.allclose(record.after.m.reshape(-1), e * speed, rtol=0, atol=1e-8)
    weights = torch.linspace(1.0, 2.0, 10, dtype=F64)
    loss = weights @ record.t + weights @ record.after.m.reshape(-1)
    got = torch.autograd.grad(loss, (e, g, h0))
    expected = torch.autograd.grad(weights @ exact + weights @ (e * speed), (e, g, h0))
    for x, y in zip(got, expected, strict=True):
        assert x.item() == pytest.approx(y.item(), rel=1e-8)


# A pendulum that strikes a wall at a coarse fixed step: what is computed is far from the solution.


def struck(wall: Tensor, e: Tensor, k: Tensor, t: Tensor, dense: bool = False, **mode: Any) -> Any:
    event = Event(
        lambda t, h, m: h[0] - wall - 0.1 * torch.sin(t), direction=-1, reset=lambda t, h, m: (h, -e * m + 0.1 * t)
    )
    h0 = torch.tensor([1.0, 0.2], dtype=F64)
    options = {"step_size": 0.31, **mode.pop("options", {})}
    call = {"method": "dprkn6", "gamma": 0.3, "event": event, "options": options, "dense": dense, **mode}
    return hbodeint(lambda t, h, k: -k * torch.sin(h) + 0.1 * h.flip(0), h0, t, args=(k,), **call)


def parameters() -> list[Tensor]:
    times = torch.tensor([0.0, 1.7, 3.0, 4.6], dtype=F64, requires_grad=True)
    return [number(0.2), number(0.8), number(2.0), times]


def loss_of(sol: Any) -> Tensor:
    (record,) = sol.events
    assert len(record.t) == 2
    return (sol.h**2).sum() + sol.m[-1].sum() + (record.t**2).sum() + (record.after.m * record.h).sum()


def differences(values: Callable[..., Tensor], given: list[Tensor], step: float = 1e-5) -> list[Tensor]:
    """Central differences of what `values` returns, (*value, *parameter) each."""
    out = []
    for i, x in enumerate(given):
        columns = []
        for j in range(x.numel()):
            shift = torch.zeros_like(x).reshape(-1).index_fill(0, torch.tensor([j]), step).reshape(x.shape)
            sides = [
                values(*(y + s * shift if k == i else y for k, y in enumerate(given))).detach() for s in (1.0, -1.0)
            ]
            columns.append((sides[0] - sides[1]) / (2 * step))
        out.append(torch.stack(columns, -1).reshape((*columns[0].shape, *x.shape)))
    return out


@pytest.mark.parametrize(
    "mode", lanes([("discrete_adjoint",), ("checkpoints",), ("backprop",)], [("discrete_adjoint",)])
)
def test_gradients_are_exact_for_what_was_computed(mode):
    """Of the wall, the restitution, the field and the times; steps that follow an impact hang on its time."""
    given = parameters()
    loss = loss_of(struck(*given, **MODES[mode]))
    got = torch.autograd.grad(loss, given)
    with torch.no_grad():
        expected = differences(lambda *x: loss_of(struck(*x)), given)
    for x, y in zip(got, expected, strict=True):
        # differences of step 1e-5: 1e-10 of a third derivative, 1e-11 of rounding
        assert torch.allclose(x, y, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
def test_reversible_gradients_are_those_of_its_scheme():
    given = parameters()
    got = torch.autograd.grad(loss_of(struck(*given, gradient="reversible")), given)
    with torch.no_grad():
        expected = differences(lambda *x: loss_of(struck(*x, gradient="reversible")), given)
    for x, y in zip(got, expected, strict=True):
        assert torch.allclose(x, y, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["discrete_adjoint", "backprop"])
def test_second_derivatives_through_event_times(mode):
    given = parameters()[:3]
    times = torch.tensor([0.0, 3.0, 4.6], dtype=F64)

    def gradient(*x: Tensor) -> Tensor:
        x = tuple(y if y.requires_grad else y.detach().requires_grad_() for y in x)
        loss = loss_of(struck(*x, times, gradient=mode))
        return torch.stack(torch.autograd.grad(loss, x, create_graph=True))

    hessian = torch.stack([torch.stack(torch.autograd.grad(g, given, retain_graph=True)) for g in gradient(*given)])
    expected = torch.stack(differences(gradient, [x.detach() for x in given]), -1)
    # entries of some tens, differences as above
    assert torch.allclose(hessian, expected, rtol=1e-6, atol=1e-6)


def pair(e: float = 0.9) -> list[Event]:
    return [
        Event(
            lambda t, h, m, i=i: h[i, 0],
            direction=-1,
            reset=lambda t, h, m, i=i: (h, torch.where(torch.arange(len(h)) == i, -e * m.T, m.T).T),
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("heights", [[1.3, 1.31], [1.31, 1.3], [1.3, 1.3]])
def test_two_balls_that_hit_the_floor_in_one_step(heights):
    """In the order of time; a step that would go on to the end is cut at each impact. Motion is exact."""
    sol = drop(pair(), heights, (0.0, 1.5), options={"step_size": 1.5})
    for h0, record in zip(heights, sol.events, strict=True):
        assert torch.allclose(record.t, impacts(2, 0.9, h0), rtol=0, atol=1e-12)
    at_once = heights[0] == heights[1]
    assert len(sol.stats.t) == (3 if at_once else 5)


def test_a_reset_that_carries_another_function_across_zero_fires_it_at_once():
    """Two neurons: the first fires, its pulse lifts the second above its threshold, whose pulse does not return."""

    def fire(i: int) -> Event:
        def reset(t, h):
            return torch.where(torch.arange(2) == i, 0.0, h + 0.5)

        return Event(lambda t, h: h[i] - 1.0, direction=1, reset=reset)

    rate = torch.tensor([1.0, 0.8], dtype=F64, requires_grad=True)
    field = FirstOrder(lambda t, h: rate)
    sol = hbodeint(field, torch.zeros(2, dtype=F64), [0.0, 1.1], event=[fire(1), fire(0)], **TIGHT)
    second, first = sol.events
    # the first fires at 1, with the second at 0.8; that goes to 1.3, fires, and the first starts at 0.5
    assert first.t.tolist() == second.t.tolist() == [pytest.approx(1.0, abs=1e-12)]
    assert sol.h[-1].tolist() == pytest.approx([0.6, 0.08], abs=1e-12)
    (by_rate,) = torch.autograd.grad(second.t[0], rate)
    assert by_rate.tolist() == pytest.approx([-1.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("per_sample", lanes([(False,), (True,)], [(False,)]))
def test_the_period_of_a_relay_with_hysteresis(per_sample):
    """x' = u - x, and u = ±1 changes its sign where x u = a: a period is 2 log((1 + a) / (1 - a))."""
    a = number(0.4)
    dot = (lambda t, h: h.prod(1) - a) if per_sample else (lambda t, h: h.prod() - a)
    event = Event(dot, direction=1, reset=lambda t, h: torch.stack((h[..., 0], -h[..., 1]), -1))
    field = FirstOrder(lambda t, h: torch.stack((h[..., 1] - h[..., 0], torch.zeros_like(h[..., 0])), -1))
    h0 = torch.tensor([[0.0, 1.0]], dtype=F64)
    sol = hbodeint(field, h0, [0.0, 2.3], event=event, per_sample=per_sample, rtol=1e-12, atol=1e-12)
    t = sol.events[0].t
    period = 2 * torch.log((1 + a) / (1 - a))
    assert len(t) == 1 + int(((2.3 + torch.log(1 - a)) / (period / 2)).item())
    # tolerances of 1e-12, and an interpolant of one order less, in some twenty steps between events
    assert torch.allclose(t[2:] - t[:-2], period.expand(len(t) - 2), rtol=0, atol=1e-8)
    (got,), (expected,) = torch.autograd.grad(t[-1] - t[-3], a), torch.autograd.grad(period, a)
    assert got.item() == pytest.approx(expected.item(), abs=1e-7)


def test_stick_slip_of_a_block_on_a_belt_with_a_state_of_several_tensors():
    """A spring holds a block of mass 1 on a belt. It sticks until k x = μs, and slides against μd until v = vb."""
    k, static, kinetic, belt = 4.0, 1.0, 0.6, 0.5

    def field(t, s):
        slides = 1.0 - s["sticks"]
        return {"x": s["v"], "v": slides * (kinetic - k * s["x"]), "sticks": torch.zeros_like(s["sticks"])}

    def mode(sticks):
        return lambda t, s: {"x": s["x"], "v": torch.full_like(s["v"], belt), "sticks": torch.full_like(s["x"], sticks)}

    events = [
        Event(lambda t, s: s["v"] - belt, direction=1, reset=mode(1.0)),
        Event(lambda t, s: torch.where(s["sticks"] > 0, k * s["x"] - static, -1.0), direction=1, reset=mode(0.0)),
    ]
    start = {"x": torch.tensor(0.2, dtype=F64), "v": torch.tensor(belt, dtype=F64), "sticks": torch.ones((), dtype=F64)}
    sol = hbodeint(FirstOrder(field), start, [0.0, 6.2], event=events, **TIGHT)
    omega = math.sqrt(k)
    slide = 2 * (math.pi - math.atan((static - kinetic) / (omega * belt))) / omega
    stick = 2 * (static - kinetic) / (k * belt)
    caught, freed = sol.events
    expected = 0.1 + (slide + stick) * torch.arange(2, dtype=F64)
    assert torch.allclose(freed.t, expected, rtol=0, atol=1e-8)
    assert torch.allclose(caught.t, expected[:2] + slide, rtol=0, atol=1e-8)
    assert caught.after.h["sticks"].tolist() == [1.0] * 2


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("direction", [-1, 0])
def test_flights_much_shorter_than_a_step_are_not_missed(direction, shift):
    """Restitution 0.05: the last flight is a 6e-6th of the first, and steps of constant force know no bound."""
    count = 4 if shift else 5
    event = Event(
        lambda t, h, m: h.reshape(()) - shift,
        direction=direction,
        reset=lambda t, h, m: (h, -0.05 * m),
        max_count=count,
    )
    sol = drop(event, 1.3 + shift)
    # heights are known to 1e-13 at 1,000, and speeds are some 1e-4 at the fourth impact
    assert torch.allclose(sol.events[0].t, impacts(count, 0.05), rtol=0, atol=1e-7 if shift else 1e-9)


@pytest.mark.parametrize("e", [0.5, 0.0])
def test_infinitely_many_impacts_end_with_a_status(e):
    sol = drop(floor(e), throw=False)
    assert sol.stats.status is Status.ZENO
    assert not sol.stats.success
    assert sol.h[1:].isnan().all()
    last = math.sqrt(2 * 1.3 / G) * (1 + e) / (1 - e)
    assert sol.events[0].t[-1].item() == pytest.approx(last, abs=1e-4)  # what is left in flights of rounding
    with pytest.raises(SolverError, match=r"ZENO.*max_count"):
        drop(floor(e))


def test_samples_that_are_stuck_leave_the_others_alone():
    e = torch.tensor([[0.5], [0.9]], dtype=F64)
    sol = drop(floor(e, True), [1.3, 1.3], (0.0, 3.0), per_sample=True, throw=False)
    assert sol.stats.status == [Status.ZENO, Status.SUCCESS]
    times = [sol.events[0].t[sol.events[0].sample == i] for i in range(2)]
    assert torch.allclose(times[1], impacts(len(times[1]), 0.9), rtol=0, atol=1e-9)
    assert sol.h[1, 0].isnan().all()
    assert sol.h[1, 1].isfinite().all()


@pytest.mark.slow
def test_thresholds_that_go_up_with_the_state_end_with_a_status():
    """Each firing is 1e-13 after the one before, and its function not near zero."""
    event = Event(lambda t, h: h[0] - h[1], direction=1, reset=lambda t, h: h + torch.tensor([0.0, 1e-13]))
    field = FirstOrder(lambda t, h: torch.tensor([1.0, 0.0], dtype=F64))
    sol = hbodeint(field, torch.tensor([0.0, 0.5], dtype=F64), [0.0, 1.0], event=event, throw=False)
    assert sol.stats.status is Status.ZENO


def test_a_function_that_goes_on_through_zero_fires_once():
    """The reset changes something else."""
    event = Event(lambda t, h: h[0] - 0.5, reset=lambda t, h: h + torch.tensor([0.0, 1.0], dtype=F64))
    field = FirstOrder(lambda t, h: torch.tensor([1.0, 0.0], dtype=F64))
    sol = hbodeint(field, torch.zeros(2, dtype=F64), [0.0, 1.0], event=event)
    assert sol.h[-1].tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert len(sol.events[0].t) == 1


HEIGHTS = [1.3, 2.0, 0.4]


@pytest.mark.parametrize("tied", lanes([(False,), (True,)], [(False,)]))
def test_every_sample_is_as_it_is_alone(tied):
    """With steps of its own, or times of its own and shared steps; its gradients too."""
    t = torch.tensor([0.0, 0.7, 1.9, 2.5], dtype=F64)
    times = t * torch.tensor([[1.0], [0.9], [0.8]], dtype=F64) if tied else t
    h0, e = torch.tensor(HEIGHTS, dtype=F64, requires_grad=True), number(0.9)
    sol = drop(floor(e, True), h0, times, per_sample=not tied, dense=True)
    total = sol.h[1:].sum() + (sol.events[0].t ** 2).sum()
    got = torch.autograd.grad(total, (h0, e), retain_graph=True)
    other, restitution = h0.detach().clone().requires_grad_(), number(0.9)
    expected: Any = 0.0
    for i in range(3):
        mine = times[i] if tied else t
        alone = drop(floor(restitution), other[i], mine, dense=True)
        assert torch.allclose(sol.h[:, i], alone.h[:, 0], rtol=0, atol=1e-9)
        record, its = sol.events[0], sol.events[0].sample == i
        assert torch.allclose(record.t[its], alone.events[0].t, rtol=0, atol=1e-9)
        assert torch.allclose(record.after.m[its], alone.events[0].after.m[:, 0], rtol=0, atol=1e-9)
        at = torch.linspace(0.0, 1.9, 7, dtype=F64)
        assert torch.allclose(sol(at)[0][:, i], alone(at)[0][:, 0], rtol=0, atol=1e-9)
        expected = expected + alone.h[1:].sum() + (alone.events[0].t ** 2).sum()
    for x, y in zip(got, torch.autograd.grad(expected, (other, restitution)), strict=True):
        assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("t", [[0.0, 0.5, 1.0, 2.0], [0.0, 1.0]])
def test_a_requested_time_that_is_the_event_shows_the_state_after_it(t, per_sample):
    """Also where it is the last one."""
    event = Event(lambda t, h, m: t - 1.0, reset=lambda t, h, m: (h + 5.0, m))
    sol = drop(event, 1.0, t, per_sample=per_sample)
    row = t.index(1.0)
    assert sol.h[row].item() == pytest.approx(6.0 - G / 2, abs=1e-9)
    assert sol.events[0].h.item() == pytest.approx(1.0 - G / 2, abs=1e-9)
    assert sol.events[0].after.h.item() == pytest.approx(6.0 - G / 2, abs=1e-9)
    assert sol.h.isfinite().all()
    assert sol.stats.success


@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_on_both_sides_and_its_gradient(per_sample):
    e = number(0.9)
    sol = drop(floor(e, per_sample), 1.3, (0.0, 1.4), per_sample=per_sample, dense=True)
    hit = impacts(1, 0.9).item()
    t = torch.tensor([hit - 1e-3, hit + 1e-3, 1.3], dtype=F64)
    h, m = sol(t)
    v = math.sqrt(2 * G * 1.3)
    after = t[1:] - hit
    expected = [1.3 - G / 2 * t[0].item() ** 2, *(0.9 * v * after - G / 2 * after**2).tolist()]
    assert h.reshape(-1).tolist() == pytest.approx(expected, abs=1e-9)
    (by_e,) = torch.autograd.grad(h[1:].sum(), e)
    assert by_e.item() == pytest.approx((v * after).sum().item(), abs=1e-8)


@pytest.mark.parametrize("per_sample", lanes([(False,), (True,)], [(False,)]))
def test_updates_resets_and_jumps_of_the_field_in_one_solve(per_sample):
    """An impact, a kick at 0.8 by an update, with shared steps thrust from 1.0 on, an impact."""

    def outcome(e: Tensor, kick: Tensor, at: Tensor) -> Tensor:
        update = Update(at.reshape(1, 1) if per_sample else at.reshape(1), lambda t, h, m: (h, m + kick))

        def thrust(t: Tensor, h: Tensor) -> Tensor:
            return -G + (0.0 if per_sample else 3.0) * (t >= 1.0) + 0.0 * h

        sol = hbodeint(
            thrust,
            torch.full((1, 1), 1.3, dtype=F64),
            [0.0, 0.6, 1.5],
            gamma=0.0,
            event=floor(e, per_sample),
            updates=update,
            per_sample=per_sample,
            options={} if per_sample else {"jump_ts": [1.0]},
            **TIGHT,
        )
        assert sol.stats.success
        assert len(sol.events[0].t) == 2
        return torch.cat((sol.h.reshape(-1), sol.events[0].t, sol.updates.after.m.reshape(-1))).sum()

    given = [number(0.7), number(-0.4), number(0.8)]
    got = torch.autograd.grad(outcome(*given), given)
    expected = differences(outcome, [x.detach() for x in given], 1e-4)
    # differences of step 1e-4: 1e-8 of a third derivative
    for x, y in zip(got, expected, strict=True):
        assert x.item() == pytest.approx(y.item(), rel=1e-6)


METHODS = ["dopri5", "dprkn6", "rk4", "leapfrog", "explicit_adams", "prox_bdf3", "esdirk4", "radauIIA5", "auto"]


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_starts_again(method):
    """Of order two or more, each is exact for a parabola; multistep ones but for their first steps of order one."""
    options = {"step_size": 0.02} if method in ("rk4", "leapfrog", "explicit_adams", "prox_bdf3") else {}
    sol = drop(floor(0.8, max_count=3), 0.5, (0.0, 2.0), method=method, options=options, rtol=1e-6, atol=1e-8)
    close = 2e-2 if method in ("prox_bdf3", "explicit_adams") else 1e-6
    assert torch.allclose(sol.events[0].t, impacts(3, 0.8, 0.5), rtol=0, atol=close)


def test_a_method_starts_again_at_one_evaluation():
    """And the step size is carried through: under constant force, after the first steps only events end one."""
    sol = drop(floor(0.9), 1.3, (0.0, 3.0), options={"first_step": 0.01})
    count = len(sol.events[0].t)
    assert count == 3
    # five evaluations of dprkn6 a step, one at the start; steps of 0.01 and 0.1, then one for each flight
    assert sol.stats.accepted == count + 3
    assert sol.stats.nfe == 5 * sol.stats.accepted + 1 + count
    ends = sol.stats.t + sol.stats.dt
    assert torch.allclose(ends[:-1], sol.stats.t[1:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("per_sample", [False, True])
def test_decreasing_time(per_sample):
    """An elastic ball, from the top of its third flight back to where it fell from."""
    v = math.sqrt(2 * G * 1.3)
    t = 5 * v / G - 0.1
    h0, m0 = (torch.tensor([[x]], dtype=F64) for x in (1.3 - G / 2 * (v / G - 0.1) ** 2, v - G * (t - 3 * v / G)))
    call = {"gamma": 0.0, "m0": m0, "event": floor(1.0, per_sample), "per_sample": per_sample, **TIGHT}
    sol = hbodeint(fall, h0, [t, 0.0], **call)
    assert sol.events[0].t.tolist() == pytest.approx([3 * v / G, v / G], abs=1e-9)
    assert sol.h[-1].item() == pytest.approx(1.3, abs=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_solve_ends_at_the_number_that_was_asked_for(per_sample):
    """All zeros of cos 5 t in one step; a terminal event ends it at the first, after its reset."""

    def wave(t, h, m):
        return torch.cos(5 * t)

    sol = drop(Event(wave, max_count=3), 1.0, (0.0, 2.0), per_sample=per_sample, options={"step_size": 2.0})
    zeros = [(k + 0.5) * math.pi / 5 for k in range(3)]
    assert sol.events[0].t.tolist() == pytest.approx(zeros, abs=1e-12)
    assert sol.events[0].after is None
    assert sol.h[-1].isnan().all()
    sol = drop(floor(0.9, per_sample, terminal=True), per_sample=per_sample, dense=True)
    assert sol.stats.success
    assert len(sol.events[0].t) == 1
    assert sol.events[0].after.m.item() == pytest.approx(0.9 * math.sqrt(2 * G * 1.3), abs=1e-9)
    with pytest.raises(ValueError, match="t must lie within"):
        sol(0.6)


def test_a_compiled_solve_with_resets_runs_uncompiled():
    with pytest.warns(RuntimeWarning, match="solves with events run uncompiled"):
        drop(floor(0.9), t=(0.0, 1.0), compile=True)


@pytest.mark.parametrize("mode", ["discrete_adjoint", "backprop"])
def test_forward_mode_is_refused(mode):
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="take derivatives backwards"):
        drop(floor(0.9), forward_ad.make_dual(torch.ones(1, dtype=F64), torch.ones(1, dtype=F64)), gradient=mode)


def identity(*state: Any) -> Any:
    return state[1:]


@pytest.mark.parametrize(
    "make, error, told",
    [
        (lambda: Event(identity, reset=0.9), TypeError, "Event.reset must be callable, got float"),
        (lambda: Event(identity, max_count=0), ValueError, "Event.max_count must be a positive integer or None, got 0"),
        (lambda: Event(identity, terminal=3), TypeError, "Event.terminal must be True, False or None.*max_count=n"),
        (lambda: Event(identity, max_count=2.0), ValueError, "Event.max_count must be a positive integer"),
        (lambda: Event(identity, terminal=True, max_count=2), ValueError, "terminal event.*max_count=2"),
        (lambda: drop(floor(0.9, reset=lambda t, h, m: h)), TypeError, r"Event.reset must return \(h, m\), got"),
        (lambda: drop(floor(0.9, reset=lambda t, h, m: (h, 0.0))), TypeError, "Event.reset must return a tensor"),
        (
            lambda: drop(floor(0.9, reset=lambda t, h, m: (h, m[0]))),
            ValueError,
            r"Event.reset must return the shape of h, \(1, 1\), got \(1,\)",
        ),
        (
            lambda: hbodeint(fall, torch.ones(1, dtype=F64), [0.0, 1.0], event=floor(0.9), method="scipy:RK45"),
            ValueError,
            "no events",
        ),
    ],
)
def test_errors_name_what_is_wrong(make, error, told):
    with pytest.raises(error, match=told):
        make()


@pytest.mark.parametrize("samples", [False, True])
def test_an_update_that_carries_a_function_across_zero_is_no_event(samples: bool) -> None:
    """h' = 1 from -1, moved from -0.5 to 0.5 at t = 0.5, back to -0.25 at 1: it is zero at 1.25 alone."""
    at, jumps = torch.tensor([0.5, 1.0], dtype=F64), torch.tensor([1.0, -1.25], dtype=F64)
    h0, t = -torch.ones(2, 1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    if samples:
        t, at, jumps = t.expand(2, 2).clone(), at.expand(2, 2).clone(), jumps.expand(2, 2).clone()
    by = Update(at, lambda t, h, jump: h + (jump.unsqueeze(-1) if samples else jump), jumps)
    event = Event(lambda t, h: h[..., 0] if samples else h[0, 0], terminal=False)
    sol = hbodeint(FirstOrder(lambda t, h: torch.ones_like(h)), h0, t, updates=by, event=event, per_sample=samples)
    torch.testing.assert_close(sol.events[0].t, torch.full((2 if samples else 1,), 1.25, dtype=F64), rtol=0, atol=1e-12)
