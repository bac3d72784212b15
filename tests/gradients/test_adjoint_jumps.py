"""The adjoint equation across updates: exact solutions, and the discrete adjoint to the tolerances of both solves.

At rtol = 1e-9 and atol = 1e-11 both gradients are within 1e-7 of the exact one (see test_continuous_adjoint.py).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from scenarios import assert_same, increasing, pulled_back, solved
from torch import Tensor, nn

from hbode import Event, FirstOrder, HeavyBall, Solution, Update, hbodeint
from hbode.gradients import ContinuousAdjoint, DiscreteAdjoint

FINE = {"rtol": 1e-9, "atol": 1e-11, "method": "dprkn8"}
STATES = ["interpolating", "backsolve"]


class Observed:
    """A damped, restored ball with an argument, updated by a cell that depends on the time and on encoded data."""

    def __init__(self, net, draw, t, at) -> None:
        self.net, self.cell = net(), nn.Linear(6, 4).double()
        self.t, self.at = (increasing(*x).requires_grad_() for x in (t, at))
        self.h0, self.m0, self.arg = draw(3, 2, grad=True), draw(3, 2, grad=True), draw(2, grad=True)
        self.gamma, self.xi = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.4))
        self.raw = draw(len(at), 3, 2, grad=True)

    @property
    def inputs(self) -> list[Tensor]:
        own = [self.h0, self.m0, self.t, self.at, self.gamma, self.xi, self.arg, self.raw]
        return [*own, *self.net.parameters(), *self.cell.parameters()]

    def update(self, t: Tensor, h: Tensor, m: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.tanh(self.cell(torch.cat((h, m, x), -1)) + t)
        return 0.5 * h + moved[..., :2], m * moved[..., 2:]

    def __call__(self, gradient: Any, **settings: Any) -> tuple[list[Tensor], Solution]:
        sol = solved(
            self,
            gradient,
            updates=Update(self.at, self.update, torch.sin(self.raw)),
            **{**FINE, **settings},
        )
        outputs = [sol.h, sol.m, *(x for side in sol.updates for x in side)]
        for record in sol.events:
            outputs += [record.t, record.h, record.m]
        return [x.nan_to_num() for x in outputs], sol


TIMES = {
    "inside": ((0.0, 0.4, 1.1, 2.0), (0.2, 0.9, 1.5)),
    "at outputs and both ends": ((0.0, 0.4, 0.4, 1.1, 2.0), (0.0, 0.4, 2.0)),
    "backwards": ((2.0, 1.1, 0.4, 0.0), (1.5, 0.4, 0.2)),
    "after the last output that counts": ((0.0, 0.5), (0.1, 0.5)),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "times", [x if x == "at outputs and both ends" else pytest.param(x, marks=pytest.mark.slow) for x in TIMES]
)
def test_agrees_with_the_discrete_adjoint(net, draw, times, state):
    solve = Observed(net, draw, *TIMES[times])
    modes = ContinuousAdjoint(adjoint_state=state), DiscreteAdjoint()
    assert_same(*(pulled_back(solve(mode)[0], solve.inputs) for mode in modes), relative=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{"adjoint_norm": "full"}, {"adjoint_method": "dopri8", "adjoint_norm": "full"}])
@pytest.mark.parametrize("state", STATES)
def test_integrals_in_the_norm(net, draw, state, mode):
    solve = Observed(net, draw, *TIMES["at outputs and both ends"])
    modes = ContinuousAdjoint(adjoint_state=state, **mode), DiscreteAdjoint()
    assert_same(*(pulled_back(solve(mode)[0], solve.inputs) for mode in modes), relative=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"event": Event(lambda t, h, m: h.sum() - 0.1 * t, terminal=False)},
        {"event": Event(lambda t, h, m: t - 1.3 + 0.1 * torch.tanh(h.sum()))},
        {"method": "dopri5"},
        {"options": {"jump_ts": [0.7]}},
    ],
    ids=["events", "terminal event", "first-order form", "jump of the field"],
)
def test_agrees_with_the_discrete_adjoint_where_more_goes_on(net, draw, settings):
    solve = Observed(net, draw, *TIMES["inside"])
    modes = "continuous_adjoint", "discrete_adjoint"
    assert_same(*(pulled_back(solve(mode, **settings)[0], solve.inputs) for mode in modes), relative=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leapfrog", "rk4", "explicit_adams"])
def test_fixed_grids(net, draw, method):
    """The adjoint takes the steps of the solve; its error falls as that of the method does, 2² = 4 and 2⁴ = 16.

    That of a multistep method, which starts again at updates, with at least its second power.
    """
    solve = Observed(net, draw, *TIMES["inside"])
    exact = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    errors = []
    for steps in (40, 80):
        grads = pulled_back(
            solve("continuous_adjoint", method=method, options={"step_size": 2 / steps})[0], solve.inputs
        )
        errors.append(max((a - b).abs().max().item() for a, b in zip(grads, exact, strict=True)))
    assert errors[0] / errors[1] >= 0.7 * (16 if method == "rk4" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_dense_output(net, draw, state):
    solve = Observed(net, draw, *TIMES["at outputs and both ends"])
    grads = []
    for mode in (ContinuousAdjoint(adjoint_state=state), DiscreteAdjoint()):
        _, sol = solve(mode, dense=True)
        h, m = sol(increasing(0.0, 0.2, 0.4, 1.7))
        grads.append(pulled_back([h, m * sol.h[1]], solve.inputs))
    assert_same(*grads, relative=1e-6)


class Kicked(NamedTuple):
    """y' = -a y from y(t0) = y0, and y⁺ = c y⁻ + t k at t = s: solved in closed form."""

    y0: Tensor
    a: Tensor
    c: Tensor
    k: Tensor
    t: Tensor
    s: Tensor

    @classmethod
    def of(cls, t: tuple[float, ...], s: float) -> Kicked:
        y0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
        numbers = (torch.tensor(x, dtype=torch.float64) for x in (0.8, 0.6, 0.7))
        return cls(*(x.requires_grad_() for x in (y0, *numbers, increasing(*t), increasing(s))))

    def solve(self, gradient: Any) -> list[Tensor]:
        system = FirstOrder(lambda t, y: -self.a * y)
        kick = Update(self.s, lambda t, y: self.c * y + t * self.k)
        sol = hbodeint(system, self.y0, self.t, updates=kick, gradient=gradient, rtol=1e-9, atol=1e-11)
        return [*sol.h, sol.updates.before.h[0], sol.updates.after.h[0]]

    def exact(self) -> list[Tensor]:
        s, y0 = self.s[0], self.y0
        before = y0 * torch.exp(-self.a * (s - self.t[0]))
        after = self.c * before + s * self.k
        rows = [
            y0 * torch.exp(-self.a * (t - self.t[0])) if t < s else after * torch.exp(-self.a * (t - s)) for t in self.t
        ]
        return [*rows, before, after]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("row", range(7))
def test_every_row_alone_has_the_exact_gradient(row, state):
    """The third time is one rounding after the update, the second one before it; the last two are its sides."""
    s = 0.3
    case = Kicked.of((0.0, math.nextafter(s, 0.0), math.nextafter(s, 1.0), 0.3 + 1e-9, 1.4), s)
    got = case.solve(ContinuousAdjoint(adjoint_state=state))[row].sum()
    expected = case.exact()[row].sum()
    assert got.item() == pytest.approx(expected.item(), rel=1e-8)
    grads = (torch.autograd.grad(x, case, materialize_grads=True, allow_unused=True) for x in (got, expected))
    for a, b in zip(*grads, strict=True):
        # 1e-9 of the solve and of the adjoint each, gradients of size one
        assert torch.allclose(a, b, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("t", [(0.5,), (0.5, 0.5), (0.5, 1.5)])
@pytest.mark.parametrize(
    ("mode", "per_sample"),
    [
        *((mode, False) for mode in ("continuous_adjoint", "discrete_adjoint", "backprop", "reversible")),
        *((mode, True) for mode in ("discrete_adjoint", "backprop")),
    ],
)
def test_an_update_at_the_first_time(t, mode, per_sample):
    """Even a solve of no length has it, and its gradient: y⁺ = c y + t x(w), of data with a graph behind it."""
    y0, c, w = (x.requires_grad_() for x in (increasing(1.0, 2.0), increasing(0.6), increasing(3.0)))
    data = torch.sin(w).expand(2, 1) if per_sample else torch.sin(w)
    at = increasing(0.5).expand(2, 1) if per_sample else increasing(0.5)
    kick = Update(at, lambda t, y, x: c * y + t * x, data)
    sol = hbodeint(
        FirstOrder(lambda t, y: 0.0 * y), y0, increasing(*t), updates=kick, gradient=mode, per_sample=per_sample
    )
    assert sol.updates.before.h[0].tolist() == [1.0, 2.0]
    for x in (*sol.h, sol.updates.after.h[0]):
        expected = 0.6 * y0 + 0.5 * torch.sin(w)
        assert torch.allclose(x, expected, rtol=1e-14)
        grads = torch.autograd.grad(x.sum(), (y0, c, w), retain_graph=True)
        # sums of a few roundings
        for got, want in zip(grads, (increasing(0.6, 0.6), increasing(3.0), torch.cos(w)), strict=True):
            assert torch.allclose(got, want, rtol=1e-13)


def test_no_new_first_step(net, draw, counted):
    """Updates that change nothing cost the adjoint the shorter step before each, twice that of the start after it."""
    f, h0 = counted(net()), draw(2, 2, grad=True)
    calls = []
    for count in (0, 10):
        same = Update(torch.linspace(1, 19, count, dtype=torch.float64), lambda t, h, m: (h, m))
        sol = hbodeint(f, h0, [0.0, 20.0], updates=same, gradient="continuous_adjoint", method="dprkn8")
        sol.h[-1].sum().backward()
        calls.append((sol.stats.nfe_backward, sol.stats.nfe))
    backward, forward = (more - less for less, more in zip(*calls, strict=True))
    assert backward <= 1.5 * forward


def test_an_update_that_forgets_the_state(draw):
    h0, x = draw(2, 2, grad=True), draw(1, 2, 2, grad=True)
    reset = Update(increasing(0.5), lambda t, h, m, x: (x, x), x)
    sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], updates=reset, gradient="continuous_adjoint", **FINE)
    to_h0, to_x = torch.autograd.grad(sol.h[-1].sum(), (h0, x))
    assert not to_h0.any()
    assert bool(to_x.any())


def test_complex_states(draw):
    h0, w = draw(2, 2, dtype=torch.complex128, grad=True), draw(2, dtype=torch.complex128, grad=True)
    at = increasing(0.3).requires_grad_()
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        turn = Update(at, lambda t, h, m: (w * h, m + t * h))
        sol = hbodeint(lambda t, h: -torch.sin(h), h0, [0.0, 0.4, 1.0], updates=turn, gradient=mode, **FINE)
        grads.append(pulled_back([sol.h, sol.m], (h0, w, at)))
    assert_same(*grads, relative=1e-6)


def test_states_and_data_of_several_tensors(draw):
    h0 = {"x": draw(2, grad=True), "y": draw(2, 3, grad=True)}
    data = [draw(1, 2, grad=True), {"which": torch.tensor([2])}]
    push = Update(increasing(0.5), lambda t, h, m, x: (h, {"x": m["x"] + x[0], "y": m["y"] * x[1]["which"]}), data)
    f = lambda t, h: {"x": -torch.sin(h["x"]), "y": h["x"][:, None] - h["y"]}
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        sol = hbodeint(f, h0, [0.0, 0.4, 1.0], updates=push, gradient=mode, **FINE)
        grads.append(pulled_back([*sol.h.values(), sol.updates.after.m["x"]], (*h0.values(), data[0])))
    assert_same(*grads, relative=1e-6)


def test_a_failed_solve_has_the_gradient_of_what_it_reached(draw):
    y0, c = increasing(1.0).requires_grad_(), increasing(2.0).requires_grad_()
    grow = Update(increasing(0.0, 0.25), lambda t, y: c * y)  # y' = y² then blows up at t = 0.25 + 1/8
    grads = []
    for mode in ("continuous_adjoint", "discrete_adjoint"):
        sol = hbodeint(FirstOrder(lambda t, y: y * y), y0, [0.0, 0.3, 1.0], updates=grow, gradient=mode, throw=False)
        assert sol.stats.status.failed
        grads.append(pulled_back([sol.updates.after.h, sol.h[:2]], (y0, c)))
    # y(0.3) = 1 / (1/8 - 0.05) is amplified: both are within some hundred tolerances of 1e-5
    assert_same(*grads, relative=1e-3)


@pytest.mark.parametrize("mode", ["continuous_adjoint", "discrete_adjoint"])
def test_an_update_that_draws_is_refused(draw, mode):
    h0 = draw(2, 2, grad=True)
    drop = Update(increasing(0.5), lambda t, h, m: (h + torch.rand_like(h), m))
    sol = hbodeint(lambda t, h: -h, h0, [0.0, 1.0], updates=drop, gradient=mode)
    with pytest.raises(RuntimeError, match="changed since the solve"):
        sol.h.sum().backward()


class Box:
    """Neither called nor a dataclass: its tensor is not searched for."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


@pytest.mark.parametrize("mode", ["continuous_adjoint", "discrete_adjoint"])
@pytest.mark.parametrize("grad", [False, True])
def test_what_an_update_hides_is_refused(draw, mode, grad):
    """A tensor in an object that nobody can look into is not lost silently, whether anything else needs a gradient."""
    kept = Box(draw(2, grad=True))
    kick = Update(increasing(0.5), lambda t, h, m: (h * kept.value, m))
    h0 = draw(3, 2, grad=grad)
    with pytest.raises(RuntimeError, match="an update used a tensor of shape"):
        hbodeint(lambda t, h: -h, h0, [0.0, 1.0], updates=kick, gradient=mode).h.sum().backward()


def test_samples_of_their_own_are_refused():
    kick = Update(torch.full((2, 1), 0.5), lambda t, h, m: (h, m))
    with pytest.raises(ValueError, match="gradient='continuous_adjoint' needs one time axis"):
        hbodeint(
            HeavyBall(lambda t, h: -h),
            torch.ones(2),
            [0.0, 1.0],
            updates=kick,
            per_sample=True,
            gradient="continuous_adjoint",
        )
