"""The loop in blocks takes the steps of the ordinary loop, and gives out its outputs."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import unsynchronised

from hbode.setup.options import plan as make_plan
from hbode.solvers import (
    KEEP_ALL,
    METHODS,
    TRIES,
    Clock,
    Damping,
    Field,
    Status,
    Uniform,
    run_tries,
    solve,
    solve_in_blocks,
)

UNIFORM = [name for name, method in METHODS.items() if isinstance(method, Uniform)]


def both(name, t, tol=1e-5, f=None, keep=True, **options):
    method = METHODS[name]
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    y0 = torch.stack((h, torch.ones_like(h))) if method.damped else h
    t = torch.as_tensor(t, dtype=torch.float64)
    plan = make_plan(method, options, t, tol, tol, (None, None, t))
    plan = dataclasses.replace(plan, keep=KEEP_ALL if keep else None)
    f = f or (lambda t, h: torch.sin(t) - h - 0.3 * h**3)
    damping = Damping.of(torch.tensor(0.4, dtype=torch.float64), None, h)
    with torch.no_grad():
        return [
            loop(method, Field(f, torch.float64, damping), y0, Clock.of(t), plan) for loop in (solve, solve_in_blocks)
        ]


def assert_same_tape(one, other, rtol=1e-9):
    """Equal but for rounding, which a controller's powers, of tensors or of floats, carry on from step to step.

    An error estimate of the size tol is a difference of numbers of size one: its rounding is eps / tol, 2e-11 at 1e-5.
    """
    (mine,), (theirs,) = one.outcomes, other.outcomes
    assert (mine.status, mine.accepted, mine.rejected) == (theirs.status, theirs.accepted, theirs.rejected)
    # the steps of a block are all alike: on a fixed grid the last one evaluates a slope that the loop leaves out
    assert theirs.evaluations - mine.evaluations in (0, 1)
    assert one.t == pytest.approx(other.t, rel=rtol, abs=rtol)
    assert one.dt == pytest.approx(other.dt, rel=rtol)
    assert (mine.t, mine.dt) == pytest.approx((theirs.t, theirs.dt), rel=rtol)
    rows, others = one.gathered()[0], other.gathered()[0]
    torch.testing.assert_close(others, rows, rtol=rtol, atol=rtol)
    for a, b in zip(one.steps, other.steps, strict=True):
        assert (a.rows, a.first, a.last, a.start.anchor, a.end.anchor) == (
            b.rows,
            b.first,
            b.last,
            b.start.anchor,
            b.end.anchor,
        )
        for x, y in zip(a.carry, b.carry, strict=True):
            torch.testing.assert_close(y, x, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("count", [2, 40])
def test_blocks_take_the_same_steps(name, count):
    options = {} if METHODS[name].error_order else {"step_size": 0.07}
    assert_same_tape(*both(name, torch.linspace(0, 5, count), **options))


@pytest.mark.parametrize(
    "options",
    [
        {"controller": "PID"},
        {"step_ts": [0.3, 1.7, 2.2]},
        {"first_step": 1e-3, "max_factor": 2.0},
        {"max_step": 0.05},
        {"min_step": 0.4},
        {"step_size": 0.03},
        {"max_steps": 3},
        {"max_steps": TRIES + 3, "max_step": 0.05},
    ],
)
def test_options_mean_the_same(options):
    assert_same_tape(*both("dprkn6", torch.linspace(0, 4, 9), **options))


@pytest.mark.parametrize("name", ["rk4", "leapfrog"])
def test_a_fixed_grid_of_more_outputs_than_a_block_has_steps(name):
    assert_same_tape(*both(name, torch.linspace(0, 4, 3 * TRIES + 2)))


def test_repeated_first_and_last_times():
    for t in ([0, 0, 1, 1, 3, 3], [2.0, 2.0, 0.5, -1.0, -1.0], [1.0, 1.0]):
        assert_same_tape(*both("dprkn6", t))


def test_nothing_is_kept_where_nobody_asks():
    one, other = both("dopri5", torch.linspace(0, 5, 40), keep=False)
    assert_same_tape(one, other)
    assert other.steps == []
    assert other.blocks == []


def blow_up(t, h):
    return h**3


def turn_to_nan(t, h):
    return torch.where(t > 1, math.nan, -h)


@pytest.mark.parametrize("f", [blow_up, turn_to_nan])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.25}])
def test_failures_are_the_same(f, options):
    one, other = both("dprkn6", torch.linspace(0, 50, 5), f=f, **options)
    (mine,), (theirs,) = one.outcomes, other.outcomes
    assert mine.status.failed
    assert (mine.status, mine.accepted, mine.rejected) == (theirs.status, theirs.accepted, theirs.rejected)
    assert (mine.t, mine.dt) == pytest.approx((theirs.t, theirs.dt))


def test_a_first_slope_that_is_not_finite():
    one, other = both("dprkn6", [0.0, 1.0], f=lambda t, h: h * math.nan)
    assert one.outcomes[0].status == other.outcomes[0].status == Status.NON_FINITE


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["dprkn6", "dopri5", "bosh3", "dprkn8"]),
    t=st.lists(st.floats(-3, 3), min_size=2, max_size=12).map(sorted),
    back=st.booleans(),
    tol=st.sampled_from([1e-3, 1e-6, 1e-9]),
)
def test_any_grid(name, t, back, tol):
    t = torch.tensor(t, dtype=torch.float64)
    # A scaled error e makes the step e^(-1/k) times as long, up to tenfold, and is known to some roundings over tol.
    k = (METHODS[name].error_order or 0) + 1
    known = 1e-14 / (tol * (0.9 / 10) ** k) / k
    assert_same_tape(*both(name, t.flip(0) if back else t, tol), rtol=min(1e-6, max(1e-9, known)))


def test_evaluations_are_counted():
    one, other = both("dprkn6", torch.linspace(0, 5, 3))
    (mine,), (theirs,) = one.outcomes, other.outcomes
    tries = theirs.accepted + theirs.rejected
    assert mine.evaluations == 2 + METHODS["dprkn6"].evaluations * tries == theirs.evaluations


def test_the_host_looks_once_a_block():
    looks = []

    def run(*block):
        looks.append(block)
        return run_tries(*block)

    t = torch.tensor([0.0, 9.0], dtype=torch.float64)
    plan = make_plan(METHODS["dprkn6"], {}, t, 1e-7, 1e-7, (None, None, t))
    y0 = torch.ones(2, 3, dtype=torch.float64)
    with torch.no_grad():
        tape = solve_in_blocks(METHODS["dprkn6"], Field(lambda t, h: -h, torch.float64), y0, Clock.of(t), plan, run=run)
    tries = tape.outcomes[0].accepted + tape.outcomes[0].rejected
    assert tries > 2 * TRIES
    assert len(looks) == -(-tries // TRIES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts the synchronisations of a GPU")
@pytest.mark.parametrize("name", ["dprkn6", "dopri5"])
def test_a_block_on_a_gpu_does_not_synchronise(name):
    method = METHODS[name]
    t = torch.linspace(0, 9, 20, dtype=torch.float64)
    plan = make_plan(method, {}, t, 1e-7, 1e-7, (None, None, t))
    y0 = torch.ones(2, 3, dtype=torch.float64)
    tapes = []
    for device in ("cpu", "cuda"):
        field = Field(lambda t, h: torch.sin(t) - h, torch.float64, Damping.of(None, None, y0.to(device)))
        with torch.no_grad():
            clock = Clock.of(t.to(device))
            tapes.append(solve_in_blocks(method, field, y0.to(device), clock, plan, run=unsynchronised))
    torch.testing.assert_close(tapes[1].gathered()[0].cpu(), tapes[0].gathered()[0], rtol=1e-10, atol=1e-10)
