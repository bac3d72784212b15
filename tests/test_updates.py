"""Updates inside one solve, against separate solves that are joined by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hbode import FirstOrder, HeavyBall, Solution, SolverError, Update, hbodeint

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
# Separate solves choose other steps: both are within some ten tolerances of the exact solution, gradients of size 10.
CLOSE = 1e-9


class Cell(nn.Module):
    """A smooth update of (h, m) by an observation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.dense = nn.Linear(8, 6).double()

    def forward(self, t: Tensor, h: Tensor, m: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.tanh(self.dense(torch.cat((h, m, x), -1)))
        return 0.5 * h + moved[..., :3], m + moved[..., 3:]


class Problem:
    """A driven heavy ball, four samples of three channels, with observations at four times."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
        self.weight, self.h0, self.m0, self.data = draw(3, 3), draw(4, 3), draw(4, 3), draw(4, 4, 2)
        self.cell = Cell()
        self.t = torch.tensor([0.0, 0.5, 1.2, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        self.at = torch.tensor([0.3, 1.0, 1.7, 2.9], dtype=torch.float64, requires_grad=True)

    def f(self, t: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.weight.T) - h + torch.sin(t)

    @property
    def inputs(self) -> list[Tensor]:
        return [self.h0, self.m0, self.weight, self.data, self.at, self.t, *self.cell.parameters()]

    def joined(self, **settings: Any) -> list[Tensor]:
        """Return outputs, states before and states after by separate solves."""
        events = sorted([(float(x.detach()), 0, i) for i, x in enumerate(self.at)])
        events = sorted(events + [(float(x.detach()), 1, i) for i, x in enumerate(self.t)][1:])
        h, m, now = self.h0, self.m0, self.t[0]
        outputs, before, after = [h], [], []
        for _, kind, i in events:
            following = (self.at, self.t)[kind][i]
            if bool(following != now):
                h, m = (x[-1] for x in hbodeint(self.f, h, torch.stack((now, following)), m0=m, **TIGHT, **settings))
            now = following
            if kind:
                outputs.append(h)
            else:
                before.append(h)
                h, m = self.cell(now, h, m, self.data[i])
                after.append(h)
        return [torch.stack(x) for x in (outputs, before, after)]

    def gradients(self, outputs: list[Tensor]) -> list[Tensor]:
        loss = sum((torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).view_as(x) * x).sum() for x in outputs)
        return list(torch.autograd.grad(loss, self.inputs))


def parts(sol: Solution) -> list[Tensor]:
    assert sol.updates is not None
    return [sol.h, sol.updates.before.h, sol.updates.after.h]


def assert_close(got: list[Tensor], expected: list[Tensor], tol: float = CLOSE) -> None:
    for x, y in zip(got, expected, strict=True):
        assert float((x - y).detach().abs().max()) <= tol * max(1.0, float(y.detach().abs().max()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient": "backprop"},
        {"gradient": "reversible"},
        {"options": {"checkpoints": 3}},
        {"dense": True},
        {"method": "dopri8"},
    ],
    ids=["discrete", "backprop", "reversible", "checkpoints", "dense", "dopri8"],
)
def test_one_solve_equals_separate_ones(settings):
    problem = Problem()
    expected = problem.joined()
    got = parts(hbodeint(problem.f, problem.h0, problem.t, m0=problem.m0, updates=update(problem), **TIGHT, **settings))
    assert_close(got, expected)
    assert_close(problem.gradients(got), problem.gradients(expected))


def update(problem: Problem) -> Update:
    return Update(problem.at, problem.cell, problem.data)


@pytest.mark.parametrize("settings", [{}, {"per_sample": True}, {"per_sample": True, "gradient": "backprop"}])
def test_samples_with_the_same_times_equal_the_batch(settings):
    problem = Problem()
    expected = problem.joined()
    own = Update(problem.at.expand(4, -1), problem.cell, problem.data.transpose(0, 1))
    sol = hbodeint(problem.f, problem.h0, problem.t.expand(4, -1), m0=problem.m0, updates=own, **TIGHT, **settings)
    assert_close(parts(sol), expected)
    assert_close(problem.gradients(parts(sol)), problem.gradients(expected))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_every_sample_is_as_it_is_alone(per_sample, backwards):
    """Own times, own counts (NaN and masks), in any order, one at the start and one at the end."""
    rng = torch.Generator().manual_seed(3)
    t = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    at = torch.tensor([[0.0, 2.0, 3.0], [1.5, math.nan, 0.5], [4.0, 2.2, 3.3], [1.0, 2.0, 3.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    if backwards:
        t, at = 4.0 - t, 4.0 - at
    h0, x = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((4, 2), (4, 3, 2)))
    system = HeavyBall(lambda t, h: -torch.sin(h), 0.2)
    jump = lambda t, h, m, x: (h + 0.1 * x, m - h * x)
    times = t.expand(4, -1)
    whole = hbodeint(system, h0, times, updates=Update(at, jump, x, mask), per_sample=per_sample, **TIGHT)
    assert whole.updates is not None
    present = mask & at.isfinite()
    assert torch.equal(~whole.updates.after.h.isnan().any(-1).T, present)
    for b in range(4):
        keep = present[b].nonzero().flatten()
        one = Update(at[b, keep], jump, x[b, keep])
        alone = hbodeint(system, h0[b], t, updates=one, **TIGHT)
        assert alone.updates is not None
        assert_close([whole.h[:, b], whole.m[:, b]], [alone.h, alone.m])
        if len(keep):
            assert_close([whole.updates.after.m[keep, b]], [alone.updates.after.m])
            assert_close([whole.updates.before.m[keep, b]], [alone.updates.before.m])


def test_gradients_of_update_times_are_differences():
    problem = Problem()

    def loss(at: Tensor) -> Tensor:
        sol = hbodeint(problem.f, problem.h0, problem.t, updates=Update(at, problem.cell, problem.data), **TIGHT)
        return (sol.h**2).sum()

    (found,) = torch.autograd.grad(loss(problem.at), problem.at)
    step = 1e-4
    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = step
        with torch.no_grad():
            slope = (loss(problem.at + shift) - loss(problem.at - shift)) / (2 * step)
        # differences of second order: step² times a third derivative of some hundred
        assert float((found[k] - slope).abs()) <= 1e-5 * max(1.0, float(slope.abs()))


def test_an_output_at_the_time_of_an_update_shows_what_is_after_it():
    kick = Update(
        torch.tensor([0.0, 1.0, 2.0]).double(), lambda t, h, push: h + push, torch.tensor([1.0, 2.0, 4.0]).double()
    )
    field = FirstOrder(lambda t, h: torch.zeros_like(h))
    h0 = torch.zeros((), dtype=torch.float64)
    sol = hbodeint(field, h0, [0.0, 0.5, 1.0, 1.5, 2.0], updates=kick, dense=True)
    assert sol.h.tolist() == [1.0, 1.0, 3.0, 3.0, 7.0]
    assert sol.updates.before.h.tolist() == [0.0, 1.0, 3.0]
    assert sol.updates.after.h.tolist() == [1.0, 3.0, 7.0]
    assert sol(torch.tensor([0.0, 0.9, 1.0, 1.9]))[0].tolist() == [1.0, 1.0, 3.0, 3.0]


@pytest.mark.parametrize("method", ["rk4", "leapfrog", "explicit_adams", "prox_bdf3", "auto"])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.05}])
def test_every_kind_of_method_starts_again(method, options):
    """A pendulum that is kicked: against dprkn8, within the error that the method has without a kick."""
    kick = Update(torch.tensor([0.73], dtype=torch.float64), lambda t, h, m: (h, m + 1.0))
    t = torch.linspace(0, 2, 41, dtype=torch.float64)
    h0 = torch.tensor([1.0, 0.3], dtype=torch.float64)
    f = lambda t, h: -torch.sin(h)
    settings = {"method": method, "options": options, "rtol": 1e-6, "atol": 1e-6}
    error = lambda **given: float(
        (hbodeint(f, h0, t, **settings, **given).h - hbodeint(f, h0, t, method="dprkn8", **TIGHT, **given).h)
        .abs()
        .max()
    )
    assert error(updates=kick) <= 5 * error() + 1e-5


def test_the_step_size_is_carried_through():
    """An update that changes nothing costs one evaluation and the shorter step before it, no new first step."""
    f = lambda t, h: -h
    h0 = torch.ones(3, dtype=torch.float64)
    none = hbodeint(f, h0, [0.0, 20.0], rtol=1e-8, atol=1e-8)
    same = Update(torch.linspace(1, 19, 10, dtype=torch.float64), lambda t, h, m: (h, m))
    with_updates = hbodeint(f, h0, [0.0, 20.0], updates=same, rtol=1e-8, atol=1e-8)
    assert with_updates.stats.accepted <= none.stats.accepted + 2 * 10
    assert with_updates.stats.rejected <= none.stats.rejected + 10
    assert float((with_updates.h - none.h).abs().max()) < 1e-6


def test_a_failed_solve_leaves_nan_after_it():
    kick = Update(torch.tensor([0.5, 3.0]), lambda t, h: h * 1.0)
    f = FirstOrder(lambda t, h: h * h)  # blows up at t = 1
    sol = hbodeint(f, torch.ones(2), [0.0, 0.6, 4.0], updates=kick, throw=False)
    assert sol.updates.after.h[0].isfinite().all() and sol.updates.after.h[1].isnan().all()
    assert sol.h[1].isfinite().all() and sol.h[2].isnan().all()
    with pytest.raises(SolverError):
        hbodeint(f, torch.ones(2), [0.0, 0.6, 4.0], updates=kick)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Update(torch.ones(2, 2, 2), lambda t, h: h), "Update.t"),
        (lambda: Update([1.0], lambda t, h: h), "Update.t"),
        (lambda: Update(torch.ones(2), 3), "Update.fn"),
        (lambda: Update(torch.ones(2), lambda t, h: h, torch.ones(3)), "Update.data"),
        (lambda: Update(torch.ones(2), lambda t, h: h, mask=torch.ones(2)), "Update.mask"),
        (lambda: solve(Update(torch.tensor([5.0]), lambda t, h, m: (h, m))), "span of t"),
        (lambda: solve(Update(torch.tensor([0.5, 0.5]), lambda t, h, m: (h, m))), "twice"),
        (lambda: solve(Update(torch.ones(3, 1), lambda t, h, m: (h, m))), "Update.t"),
        (lambda: solve(Update(torch.tensor([0.5]), lambda t, h, m: h)), "Update.fn"),
    ],
)
def test_errors_name_what_is_wrong(make, told):
    with pytest.raises((ValueError, TypeError), match=told):
        make()


def solve(updates: Update, **settings: Any) -> Solution:
    return hbodeint(lambda t, h: -h, torch.ones(3, requires_grad=True), [0.0, 1.0], updates=updates, **settings)
