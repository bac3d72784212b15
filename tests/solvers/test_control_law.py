"""The control law: the one for tensors and the one for Python floats are the same, and all loops go by it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbode.setup.options import plan as make_plan
from hbode.solvers import (
    METHODS,
    Clock,
    Controller,
    Field,
    Node,
    Plan,
    SampleClock,
    Status,
    compiled,
    run_block,
    solve,
    solve_in_blocks,
    solve_per_sample,
)
from hbode.solvers.loops.control import PID_COEFFICIENTS
from hbode.solvers.loops.control_law import Control, Numbers, propose, settle

F64 = torch.float64
K = 5


def number(x):
    return torch.tensor(float(x), dtype=F64)


ERRORS = st.one_of(st.floats(0.0, 3.0), st.floats(1e-14, 1e6), st.sampled_from([0.0, 1.0, math.nan, math.inf, 1e-300]))
TRIES = st.lists(st.tuples(ERRORS, st.booleans()), min_size=1, max_size=40)


@st.composite
def plans(draw):
    """A plan, the start and the direction of time."""
    sign = draw(st.sampled_from([1.0, -1.0]))
    start = draw(st.sampled_from([0.0, -3.0, 1e9]))
    gaps = draw(st.lists(st.sampled_from([1e-12, 1e-6, 0.1, 0.3, 1.0, 7.0]), min_size=1, max_size=5))
    stops, t = [], start
    for gap in gaps:
        t += sign * gap
        stops.append(Node(t, None))
    adaptive = draw(st.booleans())
    control = Controller(
        gains=PID_COEFFICIENTS[draw(st.sampled_from(["I", "PI", "PID"]))],
        min_step=draw(st.sampled_from([0.0, 0.05])),
        max_step=draw(st.sampled_from([math.inf, 0.5])),
        max_factor=draw(st.sampled_from([2.0, 10.0])),
    )
    size = math.inf if adaptive else draw(st.sampled_from([math.inf, 0.1, 0.07]))
    first = draw(st.sampled_from([0.1, 3.0, 1e-20, math.nan])) if adaptive else size
    return Plan(control, adaptive, tuple(stops), size), start, sign, first


@settings(max_examples=300, deadline=None)
@given(plans(), TRIES)
def test_tensors_and_floats_go_by_the_same_law(given_plan, tries):
    """Every number is the same but for a rounding or two of the powers in the factor on a step."""
    plan, start, sign, first = given_plan
    at = Control(*map(number, (start, first, 1, 1, 0, 0, -1)))
    numbers = Numbers(plan, K, sign, start, first, None)
    stop, passed = 0, start
    for error, solved in tries:
        target = plan.stops[stop].value
        active = torch.tensor(True)
        at, attempt = propose(plan, at, number(sign), number(target), number(passed), active, ~active)
        going = numbers.propose(target, passed)
        assert going == bool(attempt.active)
        if not going:
            assert numbers.status == Status(int(at.status))
            return
        assert (numbers.lands, numbers.least) == (bool(attempt.lands), bool(attempt.least))
        assert numbers.end == pytest.approx(attempt.end.item(), rel=1e-14)
        assert numbers.length == attempt.length.item()
        error = error if plan.adaptive or not math.isfinite(error) else 0.0
        at, accept = settle(plan, K, at, attempt, number(error), torch.tensor(solved))
        assert numbers.settle(error, solved) == bool(accept)
        assert numbers.status == (None if at.status < 0 else Status(int(at.status)))
        assert numbers.failure == (Status(int(at.failure)) if at.failure > 0 else None)
        assert numbers.refused == bool(at.refused)
        for mine, theirs in ((numbers.dt, at.dt), (numbers.last, at.last), (numbers.before, at.before)):
            assert mine == pytest.approx(theirs.item(), rel=1e-13, nan_ok=True)
        numbers.t, numbers.dt, numbers.last, numbers.before = (x.item() for x in at[:4])  # no rounding adds up
        if numbers.status is not None:
            return
        if accept and attempt.lands:
            stop, passed = stop + 1, target
            if stop == len(plan.stops):
                return


def field_that_breaks(t, h):
    return torch.where(t < 0.5, -h, math.nan)


PROBLEMS = {
    "ordinary": (lambda t, h: torch.cos(t) - h, 0.5, [0.0, 1.0, 5.0], {}),
    "backwards": (lambda t, h: torch.cos(t) - h, 0.5, [5.0, 1.0, 0.0], {}),
    "the first step leaves the domain": (lambda t, h: torch.sqrt(1 - h), 0.999, [0.0, 0.06], {}),
    "NaN from a time on": (field_that_breaks, 1.0, [0.0, 1.0], {}),
    "a singularity": (lambda t, h: torch.where(h > 0, -1 / h, math.nan), 1.0, [0.0, 2.0], {}),
    "a step that no tolerance allows": (lambda t, h: torch.where(t < 0.3, 0.0, 1e30) + 0 * h, 0.0, [0.0, 1.0], {}),
    "stops closer than a step": (lambda t, h: -h, 1.0, [0.0, 1.0], {"step_ts": [0.3, 0.3 + 1e-9, 0.31, 0.7]}),
    "no time at all": (lambda t, h: -h, 1.0, [0.0, 0.0], {}),
    "too few steps": (lambda t, h: -100 * h, 1.0, [0.0, 3.0], {"max_steps": 11}),
    "a smallest step": (lambda t, h: torch.sin(30 * t) - h, 1.0, [0.0, 2.0], {"min_step": 0.2}),
    "not finite at a smallest step": (field_that_breaks, 1.0, [0.0, 1.0], {"min_step": 0.01}),
    "a fixed grid": (lambda t, h: torch.cos(t) - h, 0.5, [0.0, 0.33, 1.0], {"step_size": 0.07}),
    "a fixed grid that breaks": (field_that_breaks, 1.0, [0.0, 1.0], {"step_size": 0.1}),
    "PID": (lambda t, h: torch.cos(5 * t) - 30 * h, 0.5, [0.0, 1.0], {"controller": "PID"}),
}


def field_of(f):
    """Return the field of two samples, of which the first is at rest."""
    mask = torch.tensor([[0.0], [1.0]], dtype=F64)
    return lambda t, h: torch.where(mask > 0, f(t, h), 0.0)


def tapes(f, y0, t, options, batch=1, compile=False):
    """Return the tape of every loop, the last sample of each."""
    method, t = METHODS["dopri5"], torch.tensor(t, dtype=F64)
    rows = t.expand(batch, -1)
    shared = make_plan(method, options, t, 1e-6, 1e-8, (None, None, t))
    samples = make_plan(method, options, rows, 1e-6, 1e-8, (None, None, rows))
    y = torch.full((batch, 1), y0, dtype=F64)
    how = {"run": compiled(run_block, method, f.__code__, "cpu"), "steps": 32, "estimates": True} if compile else {}
    with torch.no_grad():
        yield "shared", solve(method, Field(f, F64), y, Clock.of(t), shared)
        yield "blocks", solve_in_blocks(method, Field(f, F64), y, Clock.of(t), shared, **how)
        clock = SampleClock(rows, 2)
        for tied in (False, True):
            yield "samples", solve_per_sample(method, Field(f, F64), y, clock, samples, tied=tied)
            yield (
                "blocks of samples",
                solve_in_blocks(method, Field(f, F64), y, clock, samples, None, tied, **how),
            )


def assert_alike(found):
    (_, first), *others = found
    for name, tape in others:
        mine, theirs = (x.outcomes[-1] for x in (first, tape))
        told = [(x.status, x.accepted, x.rejected, x.evaluations) for x in (mine, theirs)]
        assert told[0] == told[1], name
        one, other = (x.carry[0][-1] for x in (first, tape))
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9, equal_nan=True)
        if mine.status.failed:
            assert theirs[1:3] == pytest.approx(mine[1:3], rel=1e-6, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_loops_end_alike(name):
    assert_alike(list(tapes(*PROBLEMS[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_all_compiled_loops_end_alike(name):
    assert_alike(list(tapes(*PROBLEMS[name], compile=True)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_end_as_they_do_alone(name):
    """Beside one that is at rest, where each steps by itself."""
    f, y0, t, options = PROBLEMS[name]
    alone = list(tapes(f, y0, t, options))[2]
    pair = [x for x in tapes(field_of(f), y0, t, options, batch=2) if "samples" in x[0]][:2]
    assert_alike([alone, *pair])
