"""Step size control: controllers, their limits, the first step, points to step to, and discontinuities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45
from scipy.integrate._ivp.common import select_initial_step

from hbode import METHODS, FirstOrder, Status, hbodeint
from hbode.setup.options import plan
from hbode.solvers import (
    Clock,
    Controller,
    Field,
    SampleClock,
    solve_in_blocks,
    solve_per_sample,
)
from hbode.solvers import solve as solve_loop

CONTROLLERS = {"I": (0.0, 1.0, 0.0), "PI": (0.2, 0.6, 0.0), "PID": (0.2, 0.5, 0.05), "gains": (0.3, 0.4, 0.1)}
T = [0.0, 6.0]


def van_der_pol(t, y):
    h, m = y.unbind(-1)
    return torch.stack((m, 5 * (1 - h * h) * m - h), -1)


Y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)


def solve(options=None, func=van_der_pol, y0=Y0, t=T, **call):
    return hbodeint(FirstOrder(func), y0, t, options=options, **{"method": "dopri5", **call})


@pytest.fixture(scope="module")
def exact():
    return solve(rtol=1e-12, atol=1e-12).h[-1]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_every_controller_meets_the_tolerance(exact, controller):
    gains = controller if controller != "gains" else CONTROLLERS[controller]
    errors = []
    for tol in (1e-5, 1e-7, 1e-9):
        sol = solve({"controller": gains}, rtol=tol, atol=tol)
        errors.append((sol.h[-1] - exact).abs().max().item() / tol)
    # Over one relaxation oscillation errors of early steps grow (measured: at most 30 tolerances).
    assert max(errors) < 200


def test_controllers_differ_and_names_stand_for_gains():
    counts = {}
    for name, gains in CONTROLLERS.items():
        by_gains = solve({"controller": gains}).stats
        counts[name] = (by_gains.accepted, by_gains.rejected)
        if name != "gains":
            by_name = solve({"controller": name}).stats
            assert torch.equal(by_name.dt, by_gains.dt)
    assert len(set(counts.values())) > 1
    # What the proportional part is for: fewer rejections where the step has to shrink and grow.
    assert counts["PI"][1] < counts["I"][1]


@pytest.mark.parametrize("gains", CONTROLLERS.values())
def test_factor_is_the_product_of_the_three_terms(gains):
    """With r_n = error_n^(-1/k): safety r_n^(p+i+d) r_n-1^-(p+2d) r_n-2^d, within the limits of the factor."""
    p, i, d = gains
    control = Controller(gains=gains, min_factor=0.01, max_factor=100.0)
    for errors in ((0.5, 0.8, 0.3), (2.0, 0.1, 0.9), (1.0, 1.0, 1.0)):
        r = [e ** (-1 / 5) for e in errors]
        expected = 0.9 * r[0] ** (p + i + d) * r[1] ** -(p + 2 * d) * r[2] ** d
        assert control.factor(*errors, 5) == pytest.approx(expected, rel=1e-14)
        together = control.factors(*(torch.tensor([e], dtype=torch.float64) for e in errors), 5)
        assert together.item() == pytest.approx(expected, rel=1e-14)
    for error, limit in ((0.0, 100.0), (1e30, 0.01)):
        assert control.factor(error, 1.0, 1.0, 5) == limit
        one = torch.ones(1, dtype=torch.float64)
        assert control.factors(error * one, one, one, 5).item() == limit


@pytest.mark.parametrize("per_sample", [False, True])
def test_limits_of_the_factor(per_sample):
    """From one accepted step to the next, dt grows by max_factor at most, where it would grow by more."""
    options = {"max_factor": 1.5, "min_factor": 0.7, "first_step": 1e-4}
    sol = solve(options, y0=Y0.unsqueeze(0), per_sample=per_sample)
    steps = sol.stats.dt.flatten().numpy()
    assert (steps[1:-1] / steps[:-2]).max() <= 1.5 * (1 + 1e-9)
    free = solve({"first_step": 1e-4}, y0=Y0.unsqueeze(0), per_sample=per_sample).stats.dt.flatten().numpy()
    assert (free[1:-1] / free[:-2]).max() > 1.5


@pytest.mark.parametrize("per_sample", [False, True])
def test_safety_scales_the_next_step(per_sample):
    """The step after the first: safety · error^(-1/5) times it, so in proportion to the safety."""
    second = []
    for safety in (0.45, 0.9):
        options = {"safety": safety, "first_step": 0.01, "max_factor": 1e6, "min_factor": 1e-6}
        second.append(solve(options, y0=Y0.unsqueeze(0), per_sample=per_sample).stats.dt.flatten()[1].item())
    assert second[1] / second[0] == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("per_sample", [False, True])
def test_first_and_max_step(per_sample, sign):
    sol = solve(
        {"first_step": 0.05, "max_step": 0.07},
        func=lambda t, h: torch.cos(t) - h,
        y0=Y0.unsqueeze(0),
        t=[0.0, sign * 2.0],
        per_sample=per_sample,
        rtol=1e-2,
        atol=1e-2,
    )
    steps = sign * sol.stats.dt.flatten()
    assert steps[0].item() == 0.05
    assert steps.max().item() == pytest.approx(0.07, rel=1e-12)  # a difference of two times of size one
    assert steps.min() > 0
    assert steps.sum().item() == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["dopri5", "dprkn5"])
def test_a_step_of_min_step_is_accepted_whatever_its_error(per_sample, name):
    """A force that switches 13 times in a unit of time, at a tolerance that no step meets.

    0.007 is no dyadic number: with the rounding of the times, the length of a step is 0.007 or a few ulps more.
    """

    def switching(t, h):
        return torch.sign(torch.sin(40 * t)) * torch.ones_like(h)

    func = FirstOrder(switching) if name == "dopri5" else switching
    options = {"min_step": 0.007, "max_steps": 1000}
    call = {"method": name, "rtol": 1e-12, "atol": 1e-12, "per_sample": per_sample, "options": options}
    sol = hbodeint(func, torch.zeros(1, 2, dtype=torch.float64), [0.0, 1.0], **call)
    steps = sol.stats.dt.flatten()
    assert steps[:-1].min().item() == pytest.approx(0.007, rel=1e-12)
    assert sol.stats.success
    free = hbodeint(func, torch.zeros(1, 2, dtype=torch.float64), [0.0, 1.0], **{**call, "options": {}})
    assert free.stats.dt[:-1].min() < 0.0007


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("size", [1.0, 1e-9, 1e-14], ids=["by the estimate", "by 100 h0", "from zero"])
def test_automatic_first_step_is_hairers(size, rtol, sign):
    """The algorithm of Hairer, Norsett, Wanner II.4, against scipy's.

    scipy scales by atol + rtol |y0| and takes error order 4 for RK45, as is done here for dopri5.
    """

    def field(t, y):
        return np.array([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0] + np.cos(t)])

    def ours(t, y):
        return van_der_pol(t, y) + torch.stack((torch.zeros_like(t), torch.cos(t)))

    y0, atol = size * np.array([1.0, 0.5]), 1e-8
    expected = select_initial_step(
        field, 0.0, y0, sign * 6.0, np.inf, field(0.0, y0), sign, RK45.error_estimator_order, rtol, atol
    )
    first = solve(func=ours, y0=torch.tensor(y0), t=[0.0, sign * 6.0], rtol=rtol, atol=atol).stats.dt[0]
    # Both difference two slopes, 1e-4 apart at least, with a relative rounding of 1e-12.
    assert sign * first.item() == pytest.approx(expected, rel=1e-9)


def test_norm():
    """A norm that looks at the first component only: errors of the second do not shorten the steps."""
    y0 = torch.tensor([1.0, 1.0], dtype=torch.float64)
    rates = torch.tensor([-1.0, -60.0], dtype=torch.float64)

    def accepted(norm):
        return solve(
            {"norm": norm} if norm else {}, func=lambda t, y: rates * y + torch.sin(t), y0=y0, t=[0.0, 0.5]
        ).stats.accepted

    assert accepted(lambda x: x[0].abs()) < accepted(lambda x: x.abs().max())
    assert accepted(lambda x: torch.linalg.vector_norm(x) / math.sqrt(2)) == accepted(None)


def test_tolerances_per_component():
    """A loose tolerance on the fast component shortens no step, as with its own norm."""
    y0 = torch.tensor([1.0, 1.0], dtype=torch.float64)
    rates = torch.tensor([-1.0, -60.0], dtype=torch.float64)

    def accepted(atol):
        return solve(
            func=lambda t, y: rates * y + torch.sin(t), y0=y0, t=[0.0, 0.5], rtol=0.0, atol=atol
        ).stats.accepted

    assert accepted(torch.tensor([1e-6, 1e-6])) == accepted(1e-6)
    assert accepted(torch.tensor([1e-6, 1.0])) < accepted(1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.3}])
def test_step_ts_end_steps(options, per_sample, sign):
    """In either order, and outside of the span without effect; the last time always ends a step."""
    points = [sign * 4.5, sign * 1.25, 100.0, -100.0, 0.0]
    sol = solve(
        {"step_ts": points, **options},
        func=lambda t, h: torch.cos(t) - 0.1 * h,
        y0=Y0.unsqueeze(0),
        t=[0.0, sign * 1.0, sign * 6.0],
        per_sample=per_sample,
    )
    starts, steps = sol.stats.t.flatten(), sol.stats.dt.flatten()
    assert sign * 1.25 in starts.tolist()
    assert sign * 4.5 in starts.tolist()
    assert 100.0 not in starts.tolist()
    assert sign * 1.0 not in starts.tolist()
    assert (starts[-1] + steps[-1]).item() == sign * 6.0
    assert (sign * steps > 0).all()


def test_step_ts_do_not_shorten_the_steps_after_them():
    """Having stepped to a point, the controller goes on with the step that it wanted."""
    wanted = solve({"first_step": 0.1, "max_step": 0.1}, func=lambda t, h: torch.cos(t) - h)
    cut = solve({"first_step": 0.1, "max_step": 0.1, "step_ts": [0.25]}, func=lambda t, h: torch.cos(t) - h)
    assert torch.allclose(cut.stats.dt[:4], torch.tensor([0.1, 0.1, 0.05, 0.1], dtype=torch.float64), rtol=1e-12)
    assert cut.stats.accepted <= wanted.stats.accepted + 1


JUMP = 0.4


def bouncing(t, h):
    """A force that jumps at t = 0.4, where no grid below has a point."""
    return torch.where(t < JUMP, -torch.sin(h), 3 * torch.cos(h))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("name", ["rk4", "dopri5", "dprkn6", "leapfrog", "explicit_adams"])
def test_full_order_across_a_jump_takes_jump_ts(name, sign):
    """Order p with the discontinuity named; without, a step across it makes an error O(dt²) in the position."""
    h0, t = torch.tensor([0.5, 1.5], dtype=torch.float64), ([0.0, 1.0] if sign > 0 else [1.0, 0.0])

    def end(n, **options):
        return hbodeint(
            lambda t, h: bouncing(t, h), h0, t, gamma=0.2, method=name, options={"step_size": 1.0 / n, **options}
        )

    nominal = METHODS[name].order
    # One more than a multiple of five: the jump lies at the same fraction of a step in every grid.
    counts = {2: (61, 86, 121), 4: (31, 46, 61), 5: (41, 61, 81), 6: (21, 31, 41)}[nominal]
    exact = hbodeint(bouncing, h0, t, gamma=0.2, method="dprkn8", rtol=1e-14, atol=1e-14, options={"jump_ts": [JUMP]})

    def order(**options):
        errors = [(end(n, **options).h[-1] - exact.h[-1]).abs().max().item() for n in counts]
        return -np.polyfit(np.log(counts), np.log(errors), 1)[0], errors

    full, named = order(jump_ts=[JUMP])
    assert abs(full - nominal) < 0.25
    if nominal > 2:
        _, unnamed = order()
        assert unnamed[-1] > 10 * named[-1]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["increasing", "decreasing"])
def test_adaptive_steps_across_a_jump(sign):
    """With jump_ts no step is rejected over it, and the result has the error of a smooth problem."""
    h0, t = torch.tensor([0.5, 1.5], dtype=torch.float64), ([0.0, 1.0] if sign > 0 else [1.0, 0.0])
    call = {"gamma": 0.2, "method": "dopri5", "rtol": 1e-10, "atol": 1e-10}
    # `bouncing` itself counts t = 0.4 to the right side; coming from the right, that point belongs to the right, too.
    named = hbodeint(bouncing, h0, t, options={"jump_ts": [JUMP]}, **call)
    blind = hbodeint(bouncing, h0, t, **call)
    assert named.stats.nfe < 0.6 * blind.stats.nfe
    assert named.stats.rejected < blind.stats.rejected
    assert JUMP in named.stats.t.tolist()


def test_the_field_is_seen_from_the_side_of_the_step():
    """The steps on one side evaluate neither at the jump itself nor beyond it."""
    seen = []

    def field(t, h):
        seen.append(float(t))
        return torch.ones_like(h)

    hbodeint(
        FirstOrder(field),
        torch.zeros(1, dtype=torch.float64),
        [0.0, 1.0],
        method="rk4",
        options={"step_size": 0.5, "jump_ts": [0.5]},
    )
    assert 0.5 not in seen
    assert math.nextafter(0.5, 0) in seen
    assert math.nextafter(0.5, 1) in seen
    crossing = seen.index(math.nextafter(0.5, 1))
    assert max(seen[:crossing]) < 0.5 < min(seen[crossing:])


def test_an_adaptive_method_on_a_fixed_grid():
    """step_size and grid_constructor: no step is rejected, whatever its error."""
    sol = solve({"step_size": 0.5}, func=lambda t, y: -torch.sin(y), rtol=1e-12)
    assert sol.stats.rejected == 0
    assert torch.allclose(sol.stats.dt, torch.full((12,), 0.5, dtype=torch.float64), rtol=0, atol=0)
    grid = torch.tensor([0.0, 1.0, 1.5, 6.0], dtype=torch.float64)
    given = []

    def constructor(func, h0, t):
        given.append((func, h0, t))
        return grid

    system = FirstOrder(lambda t, y: -y)
    t = torch.tensor([0.0, 6.0], dtype=torch.float64)
    sol = hbodeint(system, Y0, t, method="dopri5", options={"grid_constructor": constructor})
    assert torch.equal(sol.stats.dt, grid.diff())
    assert len(given) == 1
    assert all(a is b for a, b in zip(given[0], (system, Y0, t), strict=True))


def test_a_step_size_that_does_not_divide_the_span():
    sol = solve({"step_size": 0.4}, func=lambda t, y: -y, t=[0.0, 1.0], method="rk4")
    assert torch.allclose(sol.stats.dt, torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64), rtol=1e-14)


def test_fixed_methods_step_from_time_to_time():
    t = torch.tensor([0.0, 0.1, 0.4, 0.4, 1.0], dtype=torch.float64)
    sol = solve(func=lambda t, y: -y, t=t, method="rk4")
    assert torch.equal(sol.stats.t, torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64))
    assert torch.equal(sol.stats.dt, torch.tensor([0.1, 0.4 - 0.1, 1.0 - 0.4], dtype=torch.float64))


def test_a_blown_up_step_is_tried_again_with_a_smaller_one():
    """sqrt(h) is NaN where a long step overshoots below zero; short steps pass."""
    sol = solve(
        {"first_step": 3.0}, func=lambda t, h: -torch.sqrt(h), y0=torch.ones(1, dtype=torch.float64), t=[0.0, 1.0]
    )
    assert sol.stats.rejected > 0
    assert sol.stats.status is Status.SUCCESS
    assert sol.h[-1].item() == pytest.approx(0.25, abs=1e-4)  # (1 - t / 2)², at rtol 1e-5


def test_zero_error_grows_the_step_by_max_factor():
    sol = solve({"first_step": 1e-3}, func=lambda t, h: torch.zeros_like(h), y0=torch.ones(1, dtype=torch.float64))
    assert torch.allclose(sol.stats.dt[:4], torch.tensor([1e-3, 1e-2, 1e-1, 1.0], dtype=torch.float64), rtol=1e-12)


GRIDS = {
    "backwards": (0.05, [10.0, 0.0], 200),
    "with points to step to": (0.1, [0.0, 0.35, 5.0], 51),
    "large times": (0.05, [1.7e9, 1.7e9 + 10.0], 200),
    "a true remainder": (0.3, [0.0, 1.0], 4),
    "a small remainder": (0.25, [0.0, 1.0 + 1e-6], 5),
}


@pytest.mark.parametrize(
    ("loop", "shared"),
    [(solve_loop, True), (solve_in_blocks, True), (solve_per_sample, False), (solve_in_blocks, False)],
)
@pytest.mark.parametrize("name", GRIDS)
def test_a_fixed_grid_has_no_sliver_at_its_end(name, loop, shared):
    """Steps added up end 9.5e-6 before the end at large times, 3.6e-10 for .05 over [0, 1000]: a step of its own."""
    step, t, count = GRIDS[name]
    method, options = METHODS["euler"], {"step_size": step, **({"step_ts": [0.35]} if len(t) == 3 else {})}
    times = torch.tensor(t, dtype=torch.float64)
    times = times if shared else times.unsqueeze(0)
    clock = Clock.of(times) if shared else SampleClock(times, 2)
    drawn = plan(method, options, times, 1e-5, 1e-7, (None, None, times))
    y0 = torch.ones(1, 1, dtype=torch.float64)
    with torch.no_grad():
        tape = loop(method, Field(lambda t, y: 0 * y, torch.float64), y0, clock, drawn)
    dt = torch.tensor([float(x) for x in tape.dt], dtype=torch.float64)
    assert len(dt) == count
    if shared:
        assert drawn.step_count(t[0]) == count
    # Times are rounded to half an ulp, so that a difference of two is off by no more than one.
    ulp = math.ulp(max(map(abs, t)))
    assert dt.abs().max() <= step + 2 * ulp
    assert dt.abs().min() >= min(step, 1e-6) * (1 - 1e-9) - 2 * ulp
    if name in ("backwards", "large times"):
        assert dt.abs().min() >= step - 2 * ulp
