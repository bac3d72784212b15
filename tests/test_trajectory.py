"""The accepted steps of a solve: taken again, they end where the solve did; those that cannot be are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hbode import Event, FirstOrder, HeavyBall, hbodeint

H0 = torch.tensor([[1.0, -0.5], [0.3, 0.8]], dtype=torch.float64)


def swing(t: Tensor, h: Tensor) -> Tensor:
    return -torch.sin(h)


@pytest.mark.parametrize("method", ["dprkn6", "dopri5", "leapfrog", "kvaerno5"])
def test_steps_taken_again_end_on_the_recorded_states(method: str) -> None:
    options = {"step_size": 0.25} if method == "leapfrog" else {}
    ball = HeavyBall(swing, 0.3, trainable=False)
    sol = hbodeint(ball, H0, [0.0, 1.0], method=method, options=options, dense=True)
    steps = sol.trajectory
    assert len(steps) == sol.stats.accepted and steps.times[:-1] == tuple(sol.stats.t.tolist()) and steps.times[-1] == 1
    assert steps.second_order and torch.equal(steps.h0, H0) and float(steps.gamma) == pytest.approx(0.3)
    for n in range(len(steps) - 1):
        assert torch.allclose(steps.advance(n, steps.state(n)), steps.state(n + 1), rtol=0, atol=1e-10)
    assert torch.allclose(steps.state(len(steps)), torch.stack((sol.h[-1], sol.m[-1])), rtol=0, atol=1e-10)
    assert torch.allclose(steps.between(0, (0.0,))[0], steps.state(0), rtol=0, atol=1e-14)
    rate = torch.stack((sol.m[0], swing(sol.t, H0) - 0.3 * sol.m[0]))
    assert torch.allclose(steps.slope(0.0, steps.state(0)), rate, rtol=0, atol=1e-14)


def test_a_step_is_differentiable_and_leads_back() -> None:
    """h' = -h by dopri5: the factor of a step is its polynomial, exp(-dt) up to the local error."""
    steps = hbodeint(FirstOrder(lambda t, h: -h), H0, [0.0, 1.0], method="dopri5", dense=True).trajectory
    y = steps.state(0).requires_grad_()
    end = steps.advance(0, y)
    (slope,) = torch.autograd.grad(end.sum(), y)
    dt = steps.times[1] - steps.times[0]
    assert torch.allclose(slope, torch.full_like(H0, math.exp(-dt)), rtol=1e-5)
    assert torch.allclose(steps.advance(0, end, back=True), H0, rtol=1e-5)


def test_it_has_no_graph_of_the_solve_and_ends_at_a_terminal_event() -> None:
    h0 = H0.clone().requires_grad_()
    sol = hbodeint(FirstOrder(lambda t, h: -h), h0, [0.0, 3.0], dense=True, event=lambda t, h: t - 1.25)
    steps = sol.trajectory
    assert steps.times[-1] == pytest.approx(1.25, abs=1e-12) and not steps.state(0).requires_grad


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"dense": False}, ValueError, r"hbodeint\(..., dense=True\)"),
        ({"h0": {"a": H0}}, TypeError, "state of one tensor, got dict"),
        ({"h0": H0 + 0j}, TypeError, "real state, got torch.complex128"),
        ({"h0": H0[:0]}, ValueError, r"entries in its state, got h0 of shape \(0, 2\)"),
        ({"per_sample": True}, ValueError, "one time axis"),
        ({"method": "explicit_adams"}, ValueError, "one-step method"),
        ({"options": {"max_steps": 1}, "throw": False, "t": [0.0, 9.0]}, ValueError, "its status is MAX_STEPS"),
        ({"t": [0.0, 0.0]}, ValueError, "at least one step"),
        ({"event": Event(lambda t, h: t - 0.5, reset=lambda t, h: -h)}, ValueError, "without resets"),
    ],
)
def test_steps_that_do_not_follow_from_states_alone_are_refused(
    call: dict[str, Any], error: type[Exception], message: str
) -> None:
    def f(t: Tensor, h: Any) -> Any:
        return {"a": -h["a"]} if isinstance(h, dict) else -h

    sol = hbodeint(FirstOrder(f), **{"h0": H0, "t": [0.0, 1.0], "dense": True, **call})
    with pytest.raises(error, match=message):
        _ = sol.trajectory
