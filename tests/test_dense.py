"""Dense output: any time inside a solve, for every method, in both gradient modes."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from hbode import METHODS, Event, FirstOrder, hbodeint

T = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def options(name, **more):
    base = {"step_size": 0.17} if METHODS[name].error_order is None else {}
    if name == "implicit_adams":
        base["max_iters"] = 30
    return {**base, **more}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("name", METHODS)
def test_it_agrees_with_the_rows_of_the_solution(net, draw, name, sign, per_sample):
    """The requested times read again, and other times against a solve that requested them."""
    f, h0, m0 = net(), draw(2, 2), draw(2, 2)
    other = torch.tensor([0.05, 0.5, 0.77, 1.0], dtype=torch.float64)
    call = {"m0": m0, "method": name, "per_sample": per_sample, "rtol": 1e-4, "options": options(name)}
    sol = hbodeint(f, h0, sign * T, dense=True, **call)
    h, m = sol(sign * T)
    # Rounding of weights of the size one, ten with dopri8.
    assert torch.allclose(h, sol.h, rtol=0, atol=1e-13)
    assert torch.allclose(m, sol.m, rtol=0, atol=1e-13)
    start = torch.zeros(1, dtype=torch.float64)
    expected = hbodeint(f, h0, torch.cat((start, sign * other)), **call)
    h, m = sol(sign * other)
    assert torch.allclose(h, expected.h[1:], rtol=0, atol=1e-13)
    assert torch.allclose(m, expected.m[1:], rtol=0, atol=1e-13)


def test_order_repetition_and_numbers(net, draw):
    """Times in any order come back in that order; a number gives the shape of h0."""
    sol = hbodeint(net(), draw(2, 2), T, dense=True, rtol=1e-9)
    t = torch.tensor([0.9, 0.1, 0.5, 0.1], dtype=torch.float64)
    h, m = sol(t)
    assert h.shape == m.shape == (4, 2, 2)
    assert torch.equal(h[1], h[3])
    for row, at in zip(h, t.tolist(), strict=True):
        one, _ = sol(at)
        assert one.shape == (2, 2)
        assert torch.allclose(one, row, rtol=0, atol=1e-15)
    assert sol(torch.zeros(0))[0].shape == (0, 2, 2)


@pytest.mark.parametrize("grad", [False, True])
def test_no_evaluations_are_added_without_gradients(net, draw, counted, grad):
    f = counted(net())
    for parameter in f.f.parameters():
        parameter.requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        sol = hbodeint(f, draw(2, 2), T, dense=True)
    f.calls = 0
    with torch.no_grad():
        sol(torch.linspace(0, 1, 20))
    assert f.calls == 0


def test_continuity_across_steps(net, draw):
    """The interpolants of two steps meet at their common end."""
    sol = hbodeint(net(), draw(2, 2), T, dense=True, options={"step_size": 0.25})
    tiny = 1e-14
    for node in (0.25, 0.5, 0.75):
        left, right = sol(node - tiny), sol(node + tiny)
        for a, b in zip(left, right, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)  # 2e-14 times a slope of size one, and rounding


def test_a_first_order_system_has_no_momentum(draw):
    sol = hbodeint(FirstOrder(lambda t, h: -h), draw(3), T, dense=True)
    h, m = sol(0.5)
    assert h.shape == (3,)
    assert m is None


@pytest.mark.parametrize("per_sample", [False, True])
def test_no_steps_and_one_time(draw, per_sample):
    h0 = draw(2, 3)
    sol = hbodeint(lambda t, h: -h, h0, [0.4], dense=True, per_sample=per_sample)
    assert torch.equal(sol(0.4)[0], h0)


def test_times_of_each_sample(net, draw):
    """Shape (B, n): each sample has its own span; within it, it equals the sample alone."""
    f, h0 = net(), draw(3, 2)
    t = torch.tensor([[0.0, 1.0], [0.5, 0.2], [-1.0, 2.0]], dtype=torch.float64)
    call = {"rtol": 1e-8, "dense": True, "options": {"first_step": 0.3}}
    sol = hbodeint(f, h0, t, per_sample=True, **call)
    at = torch.tensor([[0.0, 0.7], [0.5, 0.21], [1.9, -0.3]], dtype=torch.float64)
    h, m = sol(at)
    assert h.shape == m.shape == (2, 3, 2)
    for b in range(3):
        one = hbodeint(f, h0[b : b + 1], t[b], **call)(at[b])
        # Steps follow error estimates, known to 1e-16 / 1e-8: the same steps to 1e-8, the same states to 1e-8 of
        # their error.
        assert torch.allclose(h[:, b], one[0][:, 0], rtol=0, atol=1e-12)
        assert torch.allclose(m[:, b], one[1][:, 0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="within the span that each sample was solved over"):
        sol(0.9)


@pytest.mark.parametrize("case", ["shared", "per sample", "decreasing", "jump_ts", "both"])
@pytest.mark.parametrize("name", ["dprkn6", "dopri5", "leapfrog", "explicit_adams", "implicit_adams"])
def test_gradients_of_both_modes_are_equal(net, draw, name, case):
    """With respect to everything, the times asked for included, together with a loss on the rows of the solution.

    The same operations in another order: 1e-10 relative, as for the rows themselves.
    """
    f = net()
    sign = -1.0 if case == "decreasing" else 1.0
    h0, m0, t = draw(2, 2, grad=True), draw(2, 2, grad=True), (sign * T).requires_grad_()
    gamma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    at = (sign * torch.tensor([0.45, 0.1, 0.9, 0.46], dtype=torch.float64)).requires_grad_()
    weight = draw(4, 2, 2)
    grads = []
    more = {"jump_ts": [0.5]} if case == "jump_ts" else {}
    for mode in ("discrete_adjoint", "backprop"):
        sol = hbodeint(
            f,
            h0,
            t,
            m0=m0,
            gamma=gamma,
            method=name,
            gradient=mode,
            dense=True,
            per_sample=case == "per sample",
            options=options(name, **more),
        )
        h, m = sol(at)
        loss = (weight * h).sum() + (weight * m * m).sum()
        if case == "both":
            loss = loss + sol.h.square().sum() - sol.m[1].sum()
        grads.append(torch.autograd.grad(loss, (h0, m0, t, gamma, at, *f.parameters())))
    for found, expected in zip(*grads, strict=True):
        size = expected.abs().max().item()
        assert size > 0
        assert (found - expected).abs().max().item() < 1e-10 * size


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradcheck(net, draw, per_sample):
    """Central differences of width 1e-6 against the gradient, to 1e-7 as for the rows."""
    f = net()
    h0, at = draw(2, 2, grad=True), torch.tensor([0.15, 0.62], dtype=torch.float64, requires_grad=True)

    def read(h0, at, *_):
        sol = hbodeint(f, h0, T, dense=True, per_sample=per_sample, rtol=1e-10, atol=1e-10)
        return sol(at)

    assert gradcheck(read, (h0, at, *f.parameters()), atol=1e-7, rtol=1e-6, fast_mode=True)


def test_the_derivative_in_time_is_the_slope(net, draw):
    """dh/dt of the interpolant is m: to the error of an interpolant of order six over steps at 1e-9."""
    sol = hbodeint(net(), draw(1, 2), T, dense=True, rtol=1e-9, atol=1e-9, gradient="backprop")
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    h, m = sol(at)
    for channel in range(2):
        (slope,) = torch.autograd.grad(h[:, 0, channel].sum(), at, retain_graph=True)
        assert torch.allclose(slope, m[:, 0, channel], rtol=0, atol=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_up_to_a_terminal_event(draw, per_sample):
    """The solve reaches as far as the event: h' = 1 from 0, stopped at h = 0.6."""
    event = Event(lambda t, h: (h[:, 0] if per_sample else h[0, 0]) - 0.6)
    h0 = torch.zeros(1, 1, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, h: torch.ones_like(h)), h0, T, dense=True, event=event, per_sample=per_sample)
    assert sol(0.55)[0].item() == pytest.approx(0.55, abs=1e-14)
    with pytest.raises(ValueError, match="t must lie within"):
        sol(0.7)
