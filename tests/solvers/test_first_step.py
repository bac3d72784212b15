"""The estimate of the first step: within the span and the domain of the field, and the same in every loop."""

from __future__ import annotations

import math

import pytest
import torch

import hbode.compat as compat
from hbode import METHODS, FirstOrder, SecondOrder, Status, hbodeint
from hbode.setup.options import plan as make_plan
from hbode.solvers import (
    Clock,
    Field,
    SampleClock,
    solve,
    solve_in_blocks,
    solve_per_sample,
)

F64 = torch.float64
ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None]


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_is_tiny_at_first(name, per_sample):
    """h' = 1e-9 exp(t), or h'' for accelerations alone: a probe by the scales of the start is at t = 1e7."""
    h0 = torch.ones(1, 1, dtype=F64)
    call = {"method": name, "per_sample": per_sample, "rtol": 1e-7}
    if METHODS[name].damped:
        sol = hbodeint(lambda t, h: 1e-9 * torch.exp(t) + 0 * h, h0, [0.0, 10.0], m0=1e-9 + 0 * h0, gamma=0.0, **call)
    else:
        sol = hbodeint(FirstOrder(lambda t, h: 1e-9 * torch.exp(t) + 0 * h), h0, [0.0, 10.0], **call)
    assert sol.h[-1].item() == pytest.approx(1 + 1e-9 * math.exp(10.0), abs=1e-5)  # half of the rise


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("jump", [None, 0.5])
@pytest.mark.parametrize("interface", ["shared", "per sample", "compat"])
def test_the_probe_stays_within_the_span_and_its_side_of_a_jump(interface, jump, sign):
    """For h' = 1e-6 h a hundredth of |h| / |h'| is 10,000."""
    seen = []

    def field(t, h):
        seen.extend((sign * t).reshape(-1).tolist())
        return 1e-6 * h

    h0, t = torch.ones(1, 1, dtype=F64), torch.tensor([0.0, sign], dtype=F64)
    if interface == "compat":
        compat.odeint(field, h0, t, options={} if jump is None else {"jump_t": torch.tensor([sign * jump])})
    elif jump is None or interface == "shared":
        options = {} if jump is None else {"jump_ts": [sign * jump]}
        hbodeint(FirstOrder(field), h0, t, per_sample=interface == "per sample", options=options)
    assert max(seen, default=0.0) <= 1.0
    assert max(seen[:2], default=0.0) <= (jump or 1.0)


def all_loops(f, y0, t, name="dopri5", options=None, tol=(1e-5, 1e-7)):
    """Return the tapes of one sample from every loop."""
    method = METHODS[name]
    t = torch.tensor(t, dtype=F64)
    plan = make_plan(method, options or {}, t, *tol, (None, None, t))
    samples = make_plan(method, options or {}, t[None], *tol, (None, None, t[None]))
    y = torch.tensor([[y0]], dtype=F64)
    with torch.no_grad():
        return [
            *(loop(method, Field(f, F64), y, Clock.of(t), plan) for loop in (solve, solve_in_blocks)),
            *(
                loop(method, Field(f, F64), y, SampleClock(t[None], 2), samples)
                for loop in (solve_per_sample, solve_in_blocks)
            ),
        ]


FIELDS = {
    "defined to 1": (lambda t, h: torch.sqrt(1 - h), 0.999, [0.0, 0.06]),
    "defined beyond 1": (lambda t, h: -torch.sqrt(h - 1), 1.001, [0.0, 0.06]),
    "undefined soon in time": (lambda t, h: h * torch.sqrt(0.11 - t), 1.0, [0.0, 0.1]),
    "tiny": (lambda t, h: 1e-9 * torch.exp(t) + 0 * h, 1.0, [0.0, 10.0]),
    "short": (lambda t, h: -h, 1.0, [0.0, 1e-9]),
    "late": (lambda t, h: 0 * h, 1.0, [1.7e9, 1.7e9 + 10.0]),  # a step of 1e-6 is a few roundings of the time
    "zero": (lambda t, h: 0 * h, 1.0, [0.0, 1.0]),
    "ordinary": (lambda t, h: torch.cos(t) - h, 0.5, [0.0, 5.0]),
    "backwards": (lambda t, h: torch.cos(t) - h, 0.5, [5.0, 0.0]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_loop_begins_alike(name):
    tapes = all_loops(*FIELDS[name])
    assert [[o.status for o in tape.outcomes] for tape in tapes] == [[Status.SUCCESS]] * 4
    assert len({tape.outcomes[0].evaluations for tape in tapes}) == 1
    for tape in tapes[1:]:
        # One formula: roundings of powers, carried on from step to step by the controller.
        assert [float(dt) for dt in tape.dt] == pytest.approx(tapes[0].dt, rel=1e-9)


def test_where_no_step_is_defined_every_loop_says_so():
    tapes = all_loops(lambda t, h: torch.where(t > 0, math.nan, 1.0) * h, 1.0, [0.0, 1.0])
    assert [[o.status for o in tape.outcomes] for tape in tapes] == [[Status.NON_FINITE]] * 4


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ["dprkn6", "dopri5", "prox_bdf2", "kvaerno5", "auto"])
@pytest.mark.parametrize("atol", [0.0, torch.zeros(2, 1, 1, dtype=F64)], ids=["number", "tensor"])
def test_no_absolute_tolerance_for_a_momentum_that_starts_at_zero(name, per_sample, atol):
    """h'' = -h from rest: h(1) = cos 1. The momentum has no scale at first, and gets one with the first step."""
    h0 = torch.ones(1, 1, dtype=F64)
    sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], gamma=0.0, method=name, rtol=1e-6, atol=atol, per_sample=per_sample)
    assert sol.h[-1].item() == pytest.approx(math.cos(1.0), abs=1e-4)  # a hundred steps' errors at most


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_absolute_tolerance_for_what_stays_zero(dtype, per_sample):
    h0 = torch.tensor([[1.0, 0.0]], dtype=dtype)
    system = SecondOrder(lambda t, h, m: -h)
    sol = hbodeint(system, h0, [0.0, 1.0], rtol=1e-4, atol=0.0, per_sample=per_sample)
    assert sol.h[-1, 0].tolist() == [pytest.approx(math.cos(1.0), abs=1e-3), 0.0]
    rows = compat.odeint(lambda t, y: -y, h0, torch.tensor([0.0, 1.0]), rtol=1e-4, atol=0.0)
    assert rows[-1, 0].tolist() == [pytest.approx(math.exp(-1.0), abs=1e-3), 0.0]
