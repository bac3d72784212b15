"""The loop in blocks for samples takes the steps of the loop per sample, and gives out its outputs."""

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
    Damping,
    Field,
    SampleClock,
    Uniform,
    run_tries,
    solve_in_blocks,
    solve_per_sample,
)

UNIFORM = [name for name, method in METHODS.items() if isinstance(method, Uniform)]
SPANS = torch.stack(
    (
        torch.linspace(0, 5, 11),
        torch.linspace(1, 2, 11) ** 2,
        torch.linspace(0, -3, 11),
        torch.cat((torch.linspace(0, 1, 6), torch.ones(5))),
        torch.zeros(11),
    )
).double()


def problem(name, t, tol, options, keep=True):
    method = METHODS[name]
    h = torch.randn(len(t), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y0 = torch.stack((h, torch.ones_like(h))) if method.damped else h
    plan = make_plan(method, options, t, tol, tol, (None, None, t))
    plan = dataclasses.replace(plan, keep=KEEP_ALL if keep else None)
    return method, y0, SampleClock(t, 2), plan


def both(name, t, tol=1e-5, tied=False, f=None, keep=True, **options):
    method, y0, clock, plan = problem(name, t, tol, options, keep)
    stiffness = torch.arange(1.0, len(t) + 1, dtype=torch.float64).unsqueeze(1)
    f = f or (lambda t, h: torch.sin(t) - stiffness * h - 0.3 * h**3)
    damping = Damping.of(torch.tensor(0.4, dtype=torch.float64), None, y0)
    with torch.no_grad():
        return clock, *(
            loop(method, Field(f, torch.float64, damping), y0, clock, plan, tied=tied)
            for loop in (solve_per_sample, solve_in_blocks)
        )


def assert_same_tape(clock, one, other, rtol=1e-9):
    """Equal but for rounding: that of an error estimate of size tol is eps / tol, 2e-11 at 1e-5."""
    for mine, theirs in zip(one.outcomes, other.outcomes, strict=True):
        assert (mine.status, mine.accepted, mine.rejected) == (theirs.status, theirs.accepted, theirs.rejected)
        assert mine.evaluations == theirs.evaluations
    rows, others = (clock.place(tape.gathered()[0], tape.rows.places) for tape in (one, other))
    torch.testing.assert_close(others, rows, rtol=rtol, atol=rtol, equal_nan=True)
    for mine, theirs in ((one.t, other.t), (one.dt, other.dt)):
        assert len(mine) == len(theirs)
        if mine:
            torch.testing.assert_close(torch.stack(theirs), torch.stack(mine), rtol=rtol, atol=rtol, equal_nan=True)
    for a, b in zip(one.steps, other.steps, strict=True):
        assert torch.equal(a.moved, b.moved)
        assert torch.equal(a.inside, b.inside)
        assert torch.equal(a.index, b.index)
        for x, y in ((a.start.anchor, b.start.anchor), (a.end.anchor, b.end.anchor)):
            assert torch.equal(x[a.moved], y[a.moved])
        for x, y in zip(a.carry, b.carry, strict=True):
            torch.testing.assert_close(y, x, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", UNIFORM)
def test_blocks_take_the_same_steps(name):
    options = {} if METHODS[name].error_order else {"step_size": 0.07}
    assert_same_tape(*both(name, SPANS, **options))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"controller": "PID"},
        {"step_ts": [0.5, 1.5, 3.0]},
        {"first_step": 0.1, "max_factor": 2.0},
        {"first_step": math.inf},
        {"max_step": 0.05},
        {"min_step": 0.4},
        {"max_steps": 3},
        {"max_steps": TRIES + 3, "max_step": 0.05},
    ],
)
def test_options_mean_the_same(options, tied):
    assert_same_tape(*both("dprkn6", SPANS, tied=tied, **options))


@pytest.mark.parametrize("name", ["rk4", "leapfrog", "dprkn6"])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.3}])
def test_fixed_grids(name, options):
    if options or METHODS[name].error_order is None:
        assert_same_tape(*both(name, SPANS, **options))
    else:
        assert_same_tape(*both(name, SPANS[:, ::10], **options))


@pytest.mark.parametrize("tied", [False, True])
def test_a_sample_that_fails_leaves_the_others_alone(tied):
    def f(t, h):
        broken = torch.tensor([False, True, False, False, False]).unsqueeze(1) & (t.abs() > 1.5)
        return torch.where(broken, math.nan, -h)

    clock, one, other = both("dprkn6", SPANS, f=f, tied=tied)
    assert [outcome.status.failed for outcome in one.outcomes[:2]] == [False, True]
    assert [(o.status, o.accepted) for o in one.outcomes] == [(o.status, o.accepted) for o in other.outcomes]


def test_nothing_is_kept_where_nobody_asks():
    clock, one, other = both("dopri5", SPANS, keep=False)
    assert_same_tape(clock, one, other)
    assert other.steps == []
    assert other.blocks == []


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["dprkn6", "dopri5", "rk4"]),
    t=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3),
    back=st.lists(st.booleans(), min_size=3, max_size=3),
    tol=st.sampled_from([1e-3, 1e-6]),
    tied=st.booleans(),
)
def test_any_grid(name, t, back, tol, tied):
    rows = [sorted(row, reverse=down) for row, down in zip(t, back, strict=False)]
    assert_same_tape(*both(name, torch.tensor(rows, dtype=torch.float64), tol, tied), rtol=1e-9)


def test_the_host_looks_once_a_block():
    looks = []

    def run(*block):
        looks.append(block)
        return run_tries(*block)

    method, y0, clock, plan = problem("dprkn6", SPANS, 1e-7, {})
    with torch.no_grad():
        field = Field(lambda t, h: -h, torch.float64, Damping.of(None, None, y0))
        tape = solve_in_blocks(method, field, y0, clock, plan, run=run)
    tries = max(outcome.accepted + outcome.rejected for outcome in tape.outcomes)
    assert tries > 2 * TRIES
    assert len(looks) == -(-tries // TRIES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts the synchronisations of a GPU")
def test_a_block_on_a_gpu_does_not_synchronise():
    method, y0, clock, plan = problem("dprkn6", SPANS, 1e-7, {})
    field = Field(lambda t, h: torch.sin(t) - h, torch.float64, Damping.of(None, None, y0.cuda()))
    with torch.no_grad():
        solve_in_blocks(method, field, y0.cuda(), SampleClock(SPANS.cuda(), 2), plan, run=unsynchronised)
