"""Samples that step by themselves: each result is that of solving the sample alone.

The same operations are done on a sample alone and within a batch, but matrix products of other sizes round differently:
by 1e-16 an operation. Steps follow error estimates, differences that are known to 1e-16 / rtol relative only.
"""

from __future__ import annotations

import pytest
import torch

from hbode import METHODS, Event, FirstOrder, GeneralizedHeavyBall, SolverError, Status, hbodeint
from hbode.solvers import Chebyshev, Implicit

SPANS = torch.tensor([1.0, 4.0, 0.2, 2.5], dtype=torch.float64)
STIFFNESS = torch.tensor([1.0, 4.0, 30.0, 0.1], dtype=torch.float64)
ADAPTIVE = [name for name, method in METHODS.items() if method.error_order is not None]
FIXED = [name for name, method in METHODS.items() if method.error_order is None]


@pytest.fixture
def batch(draw):
    """Start values of four samples, their stiffness as a third channel that does not move, and a field."""
    h0, m0 = draw(4, 3), draw(4, 3)
    h0[:, 2], m0[:, 2] = STIFFNESS, 0.0

    def f(t, h):
        stiffness = h[:, 2:]
        force = -stiffness * torch.sin(h[:, :2]) + torch.cos(t)
        return torch.cat((force, torch.zeros_like(stiffness)), 1)

    return f, h0, m0


def times(decreasing=False, ragged=True):
    grid = torch.linspace(0, 1, 6, dtype=torch.float64)
    t = SPANS.unsqueeze(1) * grid + torch.tensor([[0.0], [1.0], [-0.5], [0.3]], dtype=torch.float64)
    if ragged:
        t[0, 3:], t[2, 2:] = t[0, 3].clone(), t[2, 2].clone()
    return -t if decreasing else t


def alone(f, h0, m0, t, b, **call):
    event = call.pop("event", None)
    if event is not None:
        call["event"] = Event(lambda t, h, m: event.fn(t.reshape(1), h, m)[0], event.terminal, event.direction)
    return hbodeint(f, h0[b : b + 1], t[b] if t.ndim == 2 else t, m0=m0[b : b + 1], **call)


@pytest.mark.parametrize("decreasing", [False, True], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_equals_solving_each_sample_alone(batch, name, decreasing):
    f, h0, m0 = batch
    t = times(decreasing)
    tol = 1e-6 if METHODS[name].order > 3 else 1e-3
    # A given, large first step: the small automatic one makes an error estimate that is all rounding, and the second
    # step would follow that.
    call = {"method": name, "gamma": 0.2, "rtol": tol, "atol": tol, "options": {"first_step": 0.5}}
    sol = hbodeint(f, h0, t, m0=m0, per_sample=True, **call)
    assert sol.h.shape == (6, 4, 3)
    for b in range(4):
        one = alone(f, h0, m0, t, b, **call)
        assert sol.stats.accepted[b] == one.stats.accepted
        assert sol.stats.rejected[b] == one.stats.rejected
        # The inner solver of an implicit method goes on for the others, who wait; and so do the stages of rkc.
        waits = isinstance(METHODS[name], Implicit | Chebyshev) and sol.stats.nfe[b] > one.stats.nfe
        assert waits or sol.stats.nfe[b] == one.stats.nfe
        assert sol.stats.status[b] is Status.SUCCESS
        moved = sol.stats.dt[:, b]
        moved = moved[moved.isfinite()]
        assert torch.allclose(moved, one.stats.dt, rtol=1e-7, atol=0)
        # Steps that differ by 1e-7 of themselves move the result by less than that share of its error, some 100 tol.
        assert torch.allclose(sol.h[:, b], one.h[:, 0], rtol=0, atol=1e-5 * tol)
        assert torch.allclose(sol.m[:, b], one.m[:, 0], rtol=0, atol=1e-5 * tol)


@pytest.mark.parametrize("controller", ["I", "PI", "PID", (0.3, 0.4, 0.1)])
def test_every_controller_treats_a_sample_as_it_does_alone(batch, controller):
    f, h0, m0 = batch
    t = times()
    options = {"first_step": 0.3, "controller": controller, "max_step": 0.4, "safety": 0.8, "max_factor": 3.0}
    sol = hbodeint(f, h0, t, m0=m0, per_sample=True, options=options)
    assert sum(sol.stats.rejected) > 0
    for b in range(4):
        one = alone(f, h0, m0, t, b, options=options)
        assert (sol.stats.accepted[b], sol.stats.rejected[b]) == (one.stats.accepted, one.stats.rejected)
        assert torch.allclose(sol.h[:, b], one.h[:, 0], rtol=0, atol=1e-12)


def test_automatic_first_steps_are_those_of_each_sample(batch):
    """d0, d1, d2 are norms of a sample: first steps agree to the rounding of the differences in d2, 1e-16 / 1e-6."""
    f, h0, m0 = batch
    t = times()
    sol = hbodeint(f, h0, t, m0=m0, per_sample=True)
    for b in range(4):
        one = alone(f, h0, m0, t, b)
        assert sol.stats.dt[0, b].item() == pytest.approx(one.stats.dt[0].item(), rel=1e-8)
    assert len(set(sol.stats.dt[0].tolist())) == 4


@pytest.mark.parametrize("step_size", [None, 0.07])
@pytest.mark.parametrize("name", FIXED)
def test_fixed_grids_equal_solving_each_sample_alone(batch, name, step_size):
    f, h0, m0 = batch
    t = times()
    options = {} if step_size is None else {"step_size": step_size}
    if name == "implicit_adams":
        # Batch and sample stop iterating at their own times; a tolerance at rounding makes that no difference.
        options["max_iters"] = 100
    call = {"method": name, "gamma": 0.2, "options": options, "rtol": 1e-14, "atol": 1e-14}
    sol = hbodeint(f, h0, t, m0=m0, per_sample=True, **call)
    for b in range(4):
        one = alone(f, h0, m0, t, b, **call)
        assert sol.stats.accepted[b] == one.stats.accepted
        scale = max(1.0, one.h.abs().max().item(), one.m.abs().max().item())
        assert torch.allclose(sol.h[:, b], one.h[:, 0], rtol=0, atol=1e-12 * scale)
        assert torch.allclose(sol.m[:, b], one.m[:, 0], rtol=0, atol=1e-12 * scale)


def test_samples_do_not_see_each_other(batch):
    """Another companion changes no bit of a sample's steps beyond rounding; in one shared step it does."""
    f, h0, m0 = batch
    other = h0.clone()
    other[1] = torch.tensor([3.0, -2.0, 90.0], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    own = [hbodeint(f, x, t, m0=m0, per_sample=True, options={"first_step": 0.05}) for x in (h0, other)]
    assert own[0].stats.accepted[0] == own[1].stats.accepted[0]
    assert own[0].stats.accepted[1] != own[1].stats.accepted[1]
    assert torch.allclose(own[0].h[:, 0], own[1].h[:, 0], rtol=0, atol=1e-12)
    shared = [hbodeint(f, x, t, m0=m0) for x in (h0, other)]
    assert shared[0].stats.accepted != shared[1].stats.accepted


def test_times_per_sample_with_shared_fractions_of_the_span(batch):
    """Without per_sample, samples with times of their own take the same share of their span in every step."""
    f, h0, m0 = batch
    t = times(ragged=False)
    sol = hbodeint(f, h0, t, m0=m0)
    assert len(set(sol.stats.accepted)) == 1
    shares = sol.stats.dt / SPANS
    assert torch.allclose(shares, shares[:, :1].expand_as(shares), rtol=1e-9, atol=0)
    exact = hbodeint(f, h0, t, m0=m0, per_sample=True, rtol=1e-11, atol=1e-11)
    # The error norm is over the batch, at rtol 1e-5 a step: the global error of these solves is within 100 times that.
    assert torch.allclose(sol.h, exact.h, rtol=0, atol=1e-3)
    assert torch.allclose(sol.h[:2], exact.h[:2], rtol=0, atol=1e-4)


def test_fraction_sharing_equals_the_solve_in_scaled_time(batch):
    """Rescaled to the unit interval it is one ordinary solve of the batch, of h' = s m, m' = s f."""
    f, h0, m0 = batch
    t = times(ragged=False)
    start, span = t[:, :1], SPANS.unsqueeze(1)
    sol = hbodeint(f, h0, t, m0=m0, gamma=0.2, method="dopri5", options={"first_step": 0.01})

    def scaled(s, y):
        h, m = y.chunk(2, -1)
        return torch.cat((span * m, span * (f(start + s * span, h) - 0.2 * m)), -1)

    grid = torch.linspace(0, 1, 6, dtype=torch.float64)
    joined = torch.cat((h0, m0), -1)
    one = hbodeint(FirstOrder(scaled), joined, grid, method="dopri5", options={"first_step": 0.01})
    assert one.stats.success
    # Different first shares, so different steps: both within the tolerance of the problem (measured: 3e-5).
    assert torch.allclose(torch.cat((sol.h, sol.m), -1), one.h, rtol=0, atol=2e-3)


def test_a_finished_sample_keeps_its_last_row(batch):
    f, h0, m0 = batch
    t = times()
    h, m = hbodeint(f, h0, t, m0=m0, per_sample=True)
    assert torch.equal(h[3:, 0], h[3:4, 0].expand(3, -1))
    assert torch.equal(m[2:, 2], m[2:3, 2].expand(4, -1))


def test_mixed_directions():
    """One sample forward, one backward: h' = h."""
    t = torch.tensor([[0.0, 0.5, 1.0], [0.0, -0.5, -1.0]], dtype=torch.float64)
    h0 = torch.ones(2, 1, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, h: h), h0, t, per_sample=True, rtol=1e-10, atol=1e-12)
    # The local error of each of some 50 steps is below 1e-10 of the solution.
    assert torch.allclose(sol.h[..., 0], t.T.exp(), rtol=1e-9, atol=0)


def test_field_sees_the_time_of_each_sample():
    seen = []

    def f(t, h):
        seen.append(t.shape)
        return torch.cos(t) * torch.ones_like(h)

    t = torch.tensor([[0.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    h0 = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    sol = hbodeint(FirstOrder(f), h0, t, per_sample=True, rtol=1e-10, atol=1e-10)
    assert set(seen) == {(2, 1, 1, 1)}
    change = torch.sin(t[:, 1]) - torch.sin(t[:, 0])
    assert torch.allclose(sol.h[1], change.view(2, 1, 1, 1).expand_as(h0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2, 2)])
@pytest.mark.parametrize("name", ["dprkn6", "dopri5", "leapfrog", "explicit_adams"])
def test_shapes(draw, name, shape):
    h0, m0 = draw(*shape), draw(*shape)
    t = torch.tensor([[0.0, 0.4, 1.0], [0.0, 0.1, 0.1], [1.0, 0.5, 0.2]], dtype=torch.float64)
    options = {"step_size": 0.05}
    sol = hbodeint(lambda t, h: -torch.sin(h) + t, h0, t, m0=m0, method=name, per_sample=True, options=options)
    assert sol.h.shape == sol.m.shape == (3, *shape)
    for b in range(3):
        one = hbodeint(lambda t, h: -torch.sin(h) + t, h0[b], t[b], m0=m0[b], method=name, options=options)
        assert torch.allclose(sol.h[:, b], one.h, rtol=0, atol=1e-13)
        assert torch.allclose(sol.m[:, b], one.m, rtol=0, atol=1e-13)


def test_counts_stop_with_the_sample(batch):
    """A sample is charged for the steps that it took part in, not for those of the others."""
    f, h0, m0 = batch
    stats = hbodeint(f, h0, times(), m0=m0, per_sample=True, method="dopri5").stats
    for accepted, rejected, nfe in zip(stats.accepted, stats.rejected, stats.nfe, strict=True):
        assert nfe == 2 + 6 * (accepted + rejected)  # the start, the first step, and six for each step
    assert len(set(stats.nfe)) > 1


def test_one_failure_leaves_the_others_alone():
    """The second sample blows up at t = 1 / 2: h' = h², h(0) = 2."""
    h0 = torch.tensor([[0.5], [2.0], [-1.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    field = FirstOrder(lambda t, h: h * h)
    sol = hbodeint(field, h0, t, per_sample=True, throw=False, rtol=1e-8, atol=1e-10)
    assert not sol.stats.success
    assert [status.failed for status in sol.stats.status] == [False, True, False]
    assert sol.h[2, 1].isnan().all()
    exact = h0 / (1 - h0 * t.view(3, 1, 1))
    assert torch.allclose(sol.h[:, [0, 2]], exact[:, [0, 2]], rtol=1e-6, atol=0)  # global error: 100 times rtol
    assert torch.allclose(sol.h[:2, 1], exact[:2, 1], rtol=1e-6, atol=0)
    with pytest.raises(SolverError, match=r"sample 1: ") as caught:
        hbodeint(field, h0, t, per_sample=True)
    assert caught.value.sample == 1
    assert caught.value.status is Status.STEP_UNDERFLOW
    # The numerical pole is off by the global error, some 100 times the default rtol of 1e-5, at most.
    assert caught.value.t == pytest.approx(0.5, abs=1e-3)


def test_a_single_sample_is_named_too():
    with pytest.raises(SolverError, match="sample 0: ") as caught:
        hbodeint(lambda t, h: h * torch.nan, torch.ones(1, 2), [0.0, 1.0], per_sample=True)
    assert caught.value.sample == 0


def test_no_samples():
    h0 = torch.zeros(0, 3, dtype=torch.float64)
    sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], per_sample=True)
    assert sol.h.shape == (2, 0, 3)
    assert sol.stats.nfe == []
    assert hbodeint(lambda t, h: -h, h0, [0.0, 1.0]).h.shape == (2, 0, 3)


def test_generalised_system_with_an_activation(batch):
    f, h0, m0 = batch
    system = GeneralizedHeavyBall(f, 0.3, 0.2, "tanh", trainable=False)
    t = times()
    sol = hbodeint(system, h0, t, m0=m0, per_sample=True, rtol=1e-10, atol=1e-10)
    for b in range(4):
        one = hbodeint(system, h0[b : b + 1], t[b], m0=m0[b : b + 1], rtol=1e-10, atol=1e-10)
        # Automatic first steps differ in rounding, so the results agree to the error of the solves.
        assert torch.allclose(sol.h[:, b], one.h[:, 0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["dopri5", "rk4", "dprkn6"])
@pytest.mark.parametrize("mode", ["discrete_adjoint", "backprop"])
def test_a_failed_sample_does_not_spoil_the_gradient_of_the_others(name, mode):
    """The second sample becomes NaN after t = 1 / 2; rows that were reached have the gradients of the samples alone."""
    w = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    h0 = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)

    def f(t, h):
        broken = (t > 0.5) & (h[:, 1:] > 0)
        return torch.cat((torch.sin(w * h[:, :1]) * torch.where(broken, torch.nan, 1.0), torch.zeros_like(h[:, 1:])), 1)

    func = f if name == "dprkn6" else FirstOrder(f)
    call = {"method": name, "gradient": mode, "rtol": 1e-9, "atol": 1e-9}
    call["options"] = {"step_size": 0.1} if name == "rk4" else {}
    sol = hbodeint(func, h0, t, per_sample=True, throw=False, **call)
    assert [status.failed for status in sol.stats.status] == [False, True]
    found = torch.autograd.grad(sol.h[-1, 0].sum() + sol.h[1].sum(), (h0, w))
    first, second = hbodeint(func, h0[:1], t, **call), hbodeint(func, h0[1:], t[:2], **call)
    expected = torch.autograd.grad(first.h[-1].sum() + first.h[1].sum() + second.h[1].sum(), (h0, w))
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0
        assert torch.allclose(a, b, rtol=0, atol=1e-7)  # other steps, at tolerances of 1e-9


def test_samples_of_an_iterated_method_converge_by_themselves():
    """A sample that asks for more iterations of the corrector leaves the others as they would be alone."""
    rates = torch.tensor([[0.1], [3.0]], dtype=torch.float64)
    call = {"method": "implicit_adams", "per_sample": True, "rtol": 1e-3, "options": {"step_size": 0.1}}

    def solved(rate):
        return hbodeint(FirstOrder(lambda t, h: -rate * h), torch.ones_like(rate), [0.0, 1.0], **call).h[-1]

    both, alone = solved(rates), torch.cat([solved(rate[None]) for rate in rates])
    assert torch.allclose(both, alone, rtol=1e-14, atol=0)
