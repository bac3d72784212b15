"""Updates inside one solve, against separate solves that are joined by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hbode import FirstOrder, HeavyBall, Solution, SolverError, Update, hbodeint
from hbode.gradients.walks import Inverted

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
LONG_STEPS = {**TIGHT, "method": "dprkn8"}
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

    def joined(self) -> list[Tensor]:
        """Return outputs, states before and states after, (h, m) stacked, by separate solves."""
        events = sorted([(float(x.detach()), 0, i) for i, x in enumerate(self.at)])
        events = sorted(events + [(float(x.detach()), 1, i) for i, x in enumerate(self.t)][1:])
        h, m, now = self.h0, self.m0, self.t[0]
        outputs, before, after = [torch.stack((h, m))], [], []
        for _, kind, i in events:
            following = (self.at, self.t)[kind][i]
            if bool(following != now):
                h, m = (x[-1] for x in hbodeint(self.f, h, torch.stack((now, following)), m0=m, **LONG_STEPS))
            now = following
            if kind:
                outputs.append(torch.stack((h, m)))
            else:
                before.append(torch.stack((h, m)))
                h, m = self.cell(now, h, m, self.data[i])
                after.append(torch.stack((h, m)))
        return [torch.stack(x) for x in (outputs, before, after)]

    def gradients(self, outputs: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(weighed(outputs), self.inputs))


def weighed(outputs: list[Tensor]) -> Tensor:
    """Return a sum in which every entry counts otherwise; NaN does not."""
    weights = [torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).view_as(x) for x in outputs]
    return torch.stack([(w * x.nan_to_num()).sum() for w, x in zip(weights, outputs, strict=True)]).sum()


def parts(sol: Solution) -> list[Tensor]:
    assert sol.updates is not None
    return [torch.stack(list(x), 1) for x in (sol, sol.updates.before, sol.updates.after)]


def assert_close(got: list[Tensor], expected: list[Tensor], tol: float = CLOSE) -> None:
    for x, y in zip(got, expected, strict=True):
        assert float((x - y).detach().abs().max()) <= tol * max(1.0, float(y.detach().abs().max()))


def slow(**settings: Any) -> Any:
    return pytest.param(settings, marks=pytest.mark.slow, id="-".join(map(str, settings.values())))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="discrete_adjoint"),
        pytest.param({"gradient": "continuous_adjoint"}, id="continuous_adjoint"),
        slow(gradient="continuous_adjoint", options={"adjoint_state": "backsolve"}),
        slow(gradient="backprop"),
        slow(gradient="reversible"),
        slow(options={"checkpoints": 3}),
        slow(dense=True),
        slow(method="dopri8"),
        slow(method="dopri8", gradient="continuous_adjoint"),
    ],
)
def test_one_solve_equals_separate_ones(settings):
    problem = Problem()
    expected = problem.joined()
    call = {**LONG_STEPS, **settings}
    got = parts(hbodeint(problem.f, problem.h0, problem.t, m0=problem.m0, updates=update(problem), **call))
    assert_close(got, expected)
    assert_close(problem.gradients(got), problem.gradients(expected))


def update(problem: Problem) -> Update:
    return Update(problem.at, problem.cell, problem.data)


def test_reversible_keeps_the_states_before_updates_alone(monkeypatch):
    problem, kept = Problem(), []
    backwards = Inverted.backwards

    def watched(walk: Inverted, tape: Any, rerun: Any) -> Any:
        kept.append((len(tape.steps), sum(bool(step.carry) for step in tape.steps)))
        return backwards(walk, tape, rerun)

    monkeypatch.setattr(Inverted, "backwards", watched)
    sol = hbodeint(problem.f, problem.h0, problem.t, updates=update(problem), gradient="reversible")
    sol.h.sum().backward()
    ((steps, states),) = kept
    assert steps == sol.stats.accepted + 4
    assert states == 4


@pytest.mark.parametrize(
    "settings",
    [
        slow(),
        pytest.param({"per_sample": True}, id="per_sample"),
        slow(per_sample=True, gradient="backprop"),
        slow(per_sample=True, gradient="reversible"),
        slow(per_sample=True, options={"checkpoints": 3}),
    ],
)
def test_samples_with_the_same_times_equal_the_batch(settings):
    problem = Problem()
    expected = problem.joined()
    own = Update(problem.at.expand(4, -1), problem.cell, problem.data.transpose(0, 1))
    call = {**LONG_STEPS, **settings}
    sol = hbodeint(problem.f, problem.h0, problem.t.expand(4, -1), m0=problem.m0, updates=own, **call)
    assert_close(parts(sol), expected)
    assert_close(problem.gradients(parts(sol)), problem.gradients(expected))


@pytest.mark.parametrize(
    ("per_sample", "backwards", "gradient"),
    [
        (True, True, "discrete_adjoint"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product((True, False), (True, False), ("discrete_adjoint", "backprop"))
            if case != (True, True, "discrete_adjoint")
        ),
    ],
)
def test_every_sample_is_as_it_is_alone(per_sample, backwards, gradient):
    """Own times, own counts (NaN and masks), in any order, one at the start and one at the end; all gradients too."""
    rng = torch.Generator().manual_seed(3)
    t = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    at = torch.tensor([[0.0, 2.0, 3.0], [1.5, math.nan, 0.5], [4.0, 2.2, 3.3], [1.0, 2.0, 3.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    if backwards:
        t, at = 4.0 - t, 4.0 - at
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
    h0, m0, x, scale = draw(4, 2), draw(4, 2), draw(4, 3, 2), draw(2)
    times, at = t.repeat(4, 1).requires_grad_(), at.requires_grad_()
    system = HeavyBall(lambda t, h: -torch.sin(h), 0.2)
    jump = lambda t, h, m, x: (h + scale * x, m - h * x)
    call = {**LONG_STEPS, "gradient": gradient}
    whole = hbodeint(system, h0, times, m0=m0, updates=Update(at, jump, x, mask), per_sample=per_sample, **call)
    assert whole.updates is not None
    present = mask & at.detach().isfinite()
    assert torch.equal(~whole.updates.after.h.isnan().any(-1).T, present)
    inputs = h0, m0, x, times, at, scale
    for b in range(4):
        keep = present[b].nonzero().flatten()
        one = Update(at[b, keep], jump, x[b, keep])
        alone = parts(hbodeint(system, h0[b], times[b], m0=m0[b], updates=one, **call))
        rows, *sides = (part[:, :, b] for part in parts(whole))
        together = [rows, *(side[keep] for side in sides)]
        assert_close(together[: 3 if len(keep) else 1], alone[: 3 if len(keep) else 1])
        grads = (
            torch.autograd.grad(weighed(outputs), inputs, retain_graph=True, materialize_grads=True, allow_unused=True)
            for outputs in (together, alone)
        )
        assert_close(*grads)


@pytest.mark.parametrize(
    "gradient",
    ["discrete_adjoint", *(pytest.param(x, marks=pytest.mark.slow) for x in ("continuous_adjoint", "per sample"))],
)
def test_gradients_of_update_times_are_differences(gradient):
    problem = Problem()
    samples = gradient == "per sample"
    data = problem.data.transpose(0, 1) if samples else problem.data
    t = problem.t.expand(4, -1) if samples else problem.t
    mode = {"per_sample": True} if samples else {"gradient": gradient}

    def loss(at: Tensor) -> Tensor:
        sol = hbodeint(problem.f, problem.h0, t, updates=Update(at, problem.cell, data), **LONG_STEPS, **mode)
        return weighed([x**2 for x in parts(sol)])

    at = (problem.at.detach().repeat(4, 1) if samples else problem.at.detach()).requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    step = 1e-4
    for k in range(4):
        place = (k, k) if samples else k
        shift = torch.zeros_like(at)
        shift[place] = step
        with torch.no_grad():
            slope = (loss(at + shift) - loss(at - shift)) / (2 * step)
        # differences of second order: step² times a third derivative of some hundred
        assert float((found[place] - slope).abs()) <= 1e-5 * max(1.0, float(slope.abs()))


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
        (lambda: solve(Update(torch.tensor([5.0]), lambda t, h, m: (h, m))), "span of t, from 0 to .*, got 5"),
        (lambda: solve([Update(torch.tensor([0.5]), lambda t, h, m: (h, m))]), "updates must be one Update"),
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
