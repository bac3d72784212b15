"""Measured inputs: what they interpolate, their gradients, and what a solve makes of their knots."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline, interp1d
from torch import Tensor, nn

from hbode import CubicInput, FirstOrder, HeavyBall, HoldInput, LinearInput, SecondOrder, hbodeint
from hbode.inputs import Input

Make = Callable[[Any, Tensor], Input]
Array = Any


def causal(times: Any, values: Tensor) -> CubicInput:
    return CubicInput(times, values, causal=True)


def backward_hermite(t: Array, v: Array) -> CubicHermiteSpline:
    slopes = np.diff(v) / np.diff(t)
    return CubicHermiteSpline(t, v, np.concatenate((slopes[:1], slopes)))


KINDS: dict[str, tuple[Make, Callable[[Array, Array], Callable[[Array], Array]]]] = {
    "linear": (LinearInput, interp1d),
    "hold": (HoldInput, lambda t, v: interp1d(t, v, kind="previous")),
    "natural": (CubicInput, lambda t, v: CubicSpline(t, v, bc_type="natural")),
    "causal": (causal, backward_hermite),
}
MAKES = {name: make for name, (make, _) in KINDS.items()}
MOST_SLOW = [kind if kind == "linear" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
NAN = float("nan")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(count: int, span: float = 6.0, seed: int = 0) -> Tensor:
    """Times from 0 to a span whose distances differ by a factor of three at most."""
    rng = torch.Generator().manual_seed(seed)
    gaps = 0.5 + torch.rand(count - 1, generator=rng, dtype=torch.float64)
    times = torch.cat((torch.zeros(1, dtype=torch.float64), gaps.cumsum(0)))
    return times * (span / times[-1])


def gappy(count: int = 40) -> Tensor:
    """Values of two channels with gaps inside, at the start and at the end, and a channel with one known value."""
    values = drawn(3, count, 2)
    values[0, 5:9, 0] = values[0, count // 2, 1] = values[1, :4, 1] = values[1, -3:, 0] = NAN
    values[2, 1:, 1] = NAN
    return values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_times", [False, True])
def test_values_are_those_of_scipy(kind: str, own_times: bool) -> None:
    """Each channel is interpolated through its known values, and is constant before and after them.

    Slopes are differences of values of size 3 over gaps of 0.08 at least, and cubics have up to four times their size:
    some 20 roundings of 3 / 0.08, 1e-13.
    """
    make, reference = KINDS[kind]
    values = gappy()
    times = torch.stack([uneven(40, seed=b if own_times else 0) for b in range(3)])
    u = make(times if own_times else times[0], values)
    at = torch.linspace(0, 6, 301, dtype=torch.float64)
    found = u(at)
    assert found.shape == (301, 3, 2)
    for b in range(3):
        for c in range(2):
            known = values[b, :, c].isfinite().numpy()
            t, v = times[b].numpy()[known], values[b, :, c].numpy()[known]
            inside = np.clip(at.numpy(), t[0], t[-1])
            expected = reference(t, v)(inside) if len(t) > 1 else np.full(301, v[0])
            np.testing.assert_allclose(found[:, b, c].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_times", [False, True])
def test_shapes_of_times(kind: str, own_times: bool) -> None:
    times = torch.stack([uneven(9, seed=b if own_times else 0) for b in range(3)])
    u, at = MAKES[kind](times if own_times else times[0], drawn(3, 9, 2)), torch.tensor([0.3, 2.0, 6.0]).double()
    grid = u(at)
    assert torch.equal(u(at[1]), grid[1])
    for shape in ((3, 1), (3, 1, 1, 1)):
        assert torch.equal(u(at.view(shape)), torch.stack([grid[b, b] for b in range(3)]))
    one = MAKES[kind](uneven(9), drawn(9, 2))
    assert one(at[0]).shape == (2,) and one(at).shape == one(at.view(3, 1)).shape == (3, 2)
    assert torch.equal(one(at), one(at.view(3, 1)))
    assert torch.equal(one(torch.tensor([-1.0, 9.0])), one(one.times[[0, -1]]))  # constant beyond the record


def test_a_held_value_changes_at_its_knot() -> None:
    u = HoldInput([0.0, 1.0, 2.0], torch.tensor([[1.0], [2.0], [3.0]]))
    before = torch.nextafter(torch.tensor(1.0).double(), torch.tensor(0.0).double())
    assert [u(t).item() for t in (before, torch.tensor(1.0), torch.tensor(2.0))] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_and_states(kind: str) -> None:
    """A module that is cast keeps its times; one that is loaded has the values that were saved."""
    make = MAKES[kind]
    times, values = 1e6 + uneven(30), gappy(30)[1]
    u = make(times, values)
    short = make(times, values).to(torch.float32)
    at = 1e6 + torch.linspace(0, 6, 50, dtype=torch.float64)
    assert short.times.dtype == torch.float64 and short(at).dtype == torch.float32
    assert torch.allclose(short(at).double(), u(at), rtol=0, atol=1e-4)  # 30 roundings of 3 / 0.1 in float32
    other = make(uneven(30), torch.zeros_like(values))
    other.load_state_dict(u.state_dict())
    assert torch.equal(other(at), u(at))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_values_and_time(kind: str) -> None:
    values = gappy(10)[:2]
    known = values.isfinite()
    entries = values[known].clone().requires_grad_()
    times = torch.stack([uneven(10, seed=b) for b in range(2)])
    at = torch.tensor([0.4, 2.2, 5.9], dtype=torch.float64, requires_grad=True)

    def u(entries: Tensor, at: Tensor) -> Tensor:
        return MAKES[kind](times, torch.full_like(values, NAN).masked_scatter(known, entries))(at)

    assert torch.autograd.gradcheck(u, (entries, at))


def force(t: Tensor, h: Tensor, u: Tensor) -> Tensor:
    return u - h**3


TIMES = [0.0, 1.2, 3.0]


def solve(u: Input, **call: Any) -> Tensor:
    call = {"rtol": 1e-7, "atol": 1e-7, **call}
    h0 = torch.tensor([[0.3, -0.2], [0.1, 0.5], [-0.4, 0.2]], dtype=torch.float64)
    t = torch.tensor(TIMES, dtype=torch.float64)
    if call.pop("times_per_sample", False):
        t = t.expand(3, -1).clone()
    return hbodeint(HeavyBall(force, 0.2, trainable=False), h0, t, inputs=u, **call).h


MODES = {
    "discrete_adjoint": {},
    "checkpoints": {"options": {"checkpoints": 3}},
    "backprop": {"gradient": "backprop"},
    "continuous_adjoint": {"gradient": "continuous_adjoint"},
    "reversible": {"gradient": "reversible", "method": "dopri5"},
    "per_sample": {"per_sample": True},
    "tied": {"times_per_sample": True},
    "own times and steps": {"times_per_sample": True, "per_sample": True},
    "first order form": {"method": "dopri5"},
    "implicit": {"method": "esdirk4"},
}


@pytest.mark.parametrize("kind", MOST_SLOW)
@pytest.mark.parametrize("own_times", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_modes_agree(kind: str, own_times: bool) -> None:
    """The same steps agree to roundings, others to a global error: what tolerances of 1e-7 let pass in 100 steps, 1e-5.

    The factor of ten to 1e-4 is for growth and for squares. Where samples share steps but not knots, the kinks of all
    are named: a step across a kink κ of the force leaves an error O(κ dt²) that its estimate may miss, being zero at
    some places of the kink in the step, and what the continuous adjoint sums up along kinks has no estimate at all.
    """
    same, close = 1e-12, 1e-4
    knots = torch.stack([uneven(6, 3.0, seed=b) for b in range(3)]) if own_times else uneven(6, 3.0)
    found = {}
    for name, call in MODES.items():
        if own_times and not {"per_sample", "times_per_sample"} & set(call):
            inside = sorted(set(knots[:, 1:-1].flatten().tolist()))
            call = {**call, "options": {**call.get("options", {}), "jump_ts": inside}}
        values = drawn(3, 6, 2).requires_grad_()
        h = solve(MAKES[kind](knots, values), **call)
        (bar,) = torch.autograd.grad(h[1:].square().sum(), values)
        found[name] = h.detach(), bar
    expected = found.pop("discrete_adjoint")
    assert expected[1].abs().max() > 0.1
    for name, pair in found.items():
        for a, b in zip(pair, expected, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=same if name in ("checkpoints", "backprop") else close), name


@pytest.mark.parametrize("kind", MOST_SLOW)
def test_gradient_through_a_solve_is_that_of_differences(kind: str) -> None:
    """A central difference of step 1e-4 is off by 1e-8 of third derivatives of order one, and by 1e-9 / 1e-4."""
    values = drawn(3, 6, 2)
    learned = nn.Parameter(values.clone())
    u, towards = MAKES[kind](uneven(6, 3.0), learned), drawn(3, 6, 2, seed=3)
    for _ in range(2):  # as in training: a second solve needs no graph of the first
        learned.grad = None
        solve(u, rtol=1e-11, atol=1e-11)[-1].sum().backward()
    shifted = [solve(MAKES[kind](uneven(6, 3.0), values + s * towards), rtol=1e-11, atol=1e-11) for s in (1e-4, -1e-4)]
    difference = (shifted[0] - shifted[1])[-1].sum() / 2e-4
    assert learned.grad is not None
    assert torch.allclose((learned.grad * towards).sum(), difference, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_the_field_calls_itself(kind: str) -> None:
    u = MAKES[kind](uneven(6, 3.0), drawn(3, 6, 2).requires_grad_())
    h0 = torch.zeros(3, 2, dtype=torch.float64)
    given = hbodeint(force, h0, TIMES, inputs=u, rtol=1e-9, atol=1e-9).h
    called = hbodeint(lambda t, h: force(t, h, u(t)), h0, TIMES, rtol=1e-9, atol=1e-9).h
    assert torch.allclose(given, called, rtol=0, atol=1e-6)  # unknown jumps leave errors beyond 100 rtol
    grads = [torch.autograd.grad(h[-1].sum(), u.values, retain_graph=True)[0] for h in (given, called)]
    assert torch.allclose(*grads, rtol=0, atol=1e-6)


def test_systems_arguments_and_directions() -> None:
    """u comes after the state and before args; times may decrease; reference methods take it too."""
    u, t = CubicInput(uneven(9), drawn(9, 2)), torch.tensor([5.0, 1.0], dtype=torch.float64)
    h0, call = torch.ones(3, 2, dtype=torch.float64), {"rtol": 1e-10, "atol": 1e-10}
    first = hbodeint(FirstOrder(lambda t, h, u, k: k * u + 0 * h), h0, t, inputs=u, args=(2.0,), **call)
    second = hbodeint(SecondOrder(lambda t, h, m, u, k: k * u - m), h0, t, inputs=u, args=(2.0,), **call)
    call["method"] = "scipy:DOP853"
    scipy = hbodeint(FirstOrder(lambda t, h, u, k: k * u + 0 * h), h0, t, inputs=u, args=(2.0,), **call)
    spline = CubicSpline(u.times.numpy(), u.values.numpy(), bc_type="natural")
    exact = h0 + 2 * torch.as_tensor(spline.integrate(5.0, 1.0))
    for h in (first.h[-1], second.m[-1] + second.h[-1]):
        assert torch.allclose(h, exact, rtol=0, atol=1e-7)  # 1,000 times the tolerances
    assert torch.allclose(scipy.h[-1], exact, rtol=0, atol=1e-5)  # long steps over jumps of the third derivative


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("own_times", [False, True])
def test_two_values_are_enough(kind: str, own_times: bool) -> None:
    """h'' = 1 + 2 t between two values, or h'' = 1 where the first is held: cubics, which dprkn6 steps exactly."""
    times = torch.tensor([0.0, 2.0], dtype=torch.float64)
    u = MAKES[kind](times.repeat(3, 1) if own_times else times, torch.tensor([[[1.0], [5.0]]] * 3, dtype=torch.float64))
    t = times.repeat(3, 1) if own_times else times
    sol = hbodeint(lambda t, h, u: u, torch.zeros(3, 1, dtype=torch.float64), t, gamma=0.0, inputs=u)
    exact = 2.0 if kind == "hold" else 2.0 + 8 / 3
    # a few steps of a handful of roundings of 4.7 each, which is 1e-15
    assert torch.allclose(sol.h[-1], torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_held_input_keeps_the_order_of_fixed_steps() -> None:
    """h' = u with steps from knot to knot is exact for a held input: no stage sees the next value."""
    times, values = uneven(12), drawn(12, 1)
    for name in ("rk4", "dopri5", "midpoint"):
        options = {"grid_constructor": lambda *_: times} if name == "dopri5" else {}
        call: dict[str, Any] = {"inputs": HoldInput(times, values), "method": name, "options": options}
        sol = hbodeint(FirstOrder(lambda t, h, u: u + 0 * h), torch.zeros(1).double(), times, **call)
        exact = (values[:-1, 0] * times.diff()).cumsum(0)
        assert torch.allclose(sol.h[1:, 0], exact, rtol=0, atol=1e-13)  # twelve sums of numbers of size one


def duffing(u: Input, end: float, options: dict[str, Any] | None = None, **call: Any) -> tuple[int, float]:
    """Return the evaluations of h'' + 0.05 h' + h³ = u(t), and h at the end."""
    h0 = torch.tensor([0.1], dtype=torch.float64)
    with torch.no_grad():
        sol = hbodeint(force, h0, [0.0, end], gamma=0.05, inputs=u, options=options, **call)
    assert isinstance(sol.stats.nfe, int)
    return sol.stats.nfe, sol.h[-1].item()


def record(count: int, end: float, noise: float) -> tuple[Tensor, Tensor]:
    """Six sines of up to 0.3 periods in a unit of time, and noise."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, end, count)
    rates, phases = rng.uniform(0.02, 0.3, 6), rng.uniform(0, 6.28, 6)
    v = 0.5 * np.sin(2 * np.pi * np.outer(t, rates) + phases).sum(1) + noise * rng.normal(size=count)
    return torch.from_numpy(t), torch.from_numpy(v).unsqueeze(1)


RECORDS = {
    "fine": pytest.param(2000, 100.0, 0.01, marks=pytest.mark.slow),
    "noisy": pytest.param(480, 24.0, 0.01),
    "coarse": pytest.param(60, 12.0, 0.01),
    "smooth": pytest.param(1000, 6.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MOST_SLOW)
@pytest.mark.parametrize("count, end, noise", RECORDS.values(), ids=RECORDS)
def test_knots_cost_no_more_than_by_hand(kind: str, count: int, end: float, noise: float) -> None:
    """At the default tolerances, among the ways that have errors of at most 100 rtol, as smooth problems have."""
    u = MAKES[kind](*record(count, end, noise))
    knots = u.times[1:-1].tolist()
    sides = {"jump_ts": knots} if kind == "hold" else {"step_ts": knots}
    exact = duffing(u, end, sides, rtol=1e-8, atol=1e-10)[1]
    by_hand: list[dict[str, Any]] = [{"jump_ts": [], "step_ts": []}, {"step_ts": knots, "jump_ts": []}]
    by_hand.append({"jump_ts": knots, "step_ts": []})
    if kind == "hold":  # known to take ten times as many evaluations where jumps are not known
        by_hand = by_hand[-1:]
    evaluations, h = duffing(u, end)
    tried = [duffing(u, end, options) for options in by_hand]
    assert abs(h - exact) < 1e-3
    assert evaluations <= 1.1 * min(n for n, h in tried if abs(h - exact) < 1e-3)


@pytest.mark.parametrize("mode", [{"per_sample": True}, pytest.param({"compile": True}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("own_times", [False, True])
def test_jumps_cost_little_where_loops_know_none(mode: dict[str, Any], own_times: bool) -> None:
    """Steps end just before and just after a jump: two attempts at most for each, of 19, and those in between.

    Without, each jump takes some ten attempts: measured 880 evaluations of dopri5 against 260.
    """
    if "compile" in mode and not COMPILES:
        pytest.skip("compiling for a CPU needs a C++ compiler")
    times = torch.stack([uneven(10, 3.0, seed=b) for b in range(3)]) if own_times else uneven(10, 3.0)
    values, h0 = drawn(3, 10, 2), torch.zeros(3, 2, dtype=torch.float64)
    u, t = HoldInput(times, values), torch.tensor([0.0, 3.0], dtype=torch.float64)
    call: dict[str, Any] = {"per_sample": mode.get("per_sample", False), "method": "dopri5", "inputs": u}
    exact = hbodeint(force, h0, [0.0, 3.0], method="dopri5", inputs=u, rtol=1e-9, atol=1e-9).h[-1]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True.*uncompiled")
        sol = hbodeint(force, h0, t, compile=mode.get("compile", False), **call)
    plain = hbodeint(force, h0, t, options={"step_ts": [], "jump_ts": []}, **call)
    assert torch.allclose(sol.h[-1], exact, rtol=0, atol=1e-3)  # 100 times rtol
    cost = [np.mean(s.stats.nfe) for s in (sol, plain)]
    assert cost[0] < 0.7 * cost[1], cost


COMPILES = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILES, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_times", [False, True])
@pytest.mark.parametrize("call", [{}, {"per_sample": True}], ids=["shared", "per_sample"])
def test_compiled_solves_are_the_same(kind: str, own_times: bool, call: dict[str, Any]) -> None:
    times = torch.stack([uneven(6, 3.0, seed=b) for b in range(3)]) if own_times else uneven(6, 3.0)
    found = []
    for compile in (False, True):
        values = drawn(3, 6, 2).requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="compile=True.*uncompiled")
            h = solve(MAKES[kind](times, values), compile=compile, **call)
        found.append((h, *torch.autograd.grad(h[-1].square().sum(), values)))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)  # 100 times rtol: jumps are met in another way


ERRORS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "times decrease": ([0.0, 2.0, 1.0], torch.zeros(3, 1), ValueError, "times must increase"),
    "times repeat": ([0.0, 1.0, 1.0], torch.zeros(3, 1), ValueError, "times must increase"),
    "times not finite": ([0.0, NAN, 1.0], torch.zeros(3, 1), ValueError, "times must be finite"),
    "times no numbers": ("abc", torch.zeros(3, 1), TypeError, "times must be"),
    "one time": ([0.0], torch.zeros(1, 1), ValueError, "times must have shape"),
    "times with gradient": (torch.arange(3.0, requires_grad=True), torch.zeros(3, 1), ValueError, "times must not"),
    "values of another length": ([0.0, 1.0, 2.0], torch.zeros(4, 1), ValueError, "values must have shape (3, C)"),
    "values without channels": ([0.0, 1.0], torch.zeros(2), ValueError, "values must have shape (2, C)"),
    "values for other samples": (torch.arange(3.0).expand(2, 3), torch.zeros(4, 3, 1), ValueError, "values must have"),
    "integers": ([0.0, 1.0], torch.zeros(2, 1, dtype=torch.long), TypeError, "values must be a real floating tensor"),
    "a list": ([0.0, 1.0], [[0.0], [1.0]], TypeError, "values must be a real floating tensor"),
    "infinite values": ([0.0, 1.0], torch.full((2, 1), float("inf")), ValueError, "values must be finite"),
    "a channel of NaN": ([0.0, 1.0], torch.full((2, 1), NAN), ValueError, "values must be known"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_argument(case: str) -> None:
    times, values, kind, message = ERRORS[case]
    for make in MAKES.values():
        with pytest.raises(kind) as caught:
            make(times, values)
        assert str(caught.value).startswith(message)


def test_an_empty_channel_is_named() -> None:
    values = drawn(3, 4, 2)
    values[1, :, 1] = NAN
    with pytest.raises(ValueError, match=r"values .* channel 1 of sample 1"):
        LinearInput(range(4), values)


@pytest.mark.parametrize("t, span", [([0.0, 3.5], "0 to 3.5"), ([-1.0, 3.0], "-1 to 3"), ([3.1, 1.0], "1 to 3.1")])
def test_an_input_must_cover_the_solve(t: list[float], span: str) -> None:
    u = LinearInput([0.0, 1.0, 3.0], torch.zeros(3, 2))
    with pytest.raises(ValueError, match=rf"inputs must cover t, from {span}; they span 0 to 3"):
        hbodeint(force, torch.zeros(2), t, inputs=u)
    own = LinearInput([[0.0, 3.0], [0.5, 3.0]], torch.zeros(2, 2, 1))
    with pytest.raises(ValueError, match=r"inputs must cover t, from 0 to 2; they span 0\.5 to 3"):
        hbodeint(force, torch.zeros(2, 1), [0.0, 2.0], inputs=own)


def test_an_input_must_fit_the_state() -> None:
    u = LinearInput([0.0, 1.0], torch.zeros(3, 2, 1))
    for h0 in (torch.zeros(2, 1), torch.tensor(0.0)):
        with pytest.raises(ValueError, match="inputs has values for 3 samples"):
            hbodeint(force, h0, [0.0, 1.0], inputs=u)
    with pytest.raises(TypeError, match="inputs must be"):
        hbodeint(force, torch.zeros(3, 1), [0.0, 1.0], inputs=torch.sin)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="t must have shape"):
        u(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="t has times for 2 samples"):
        u(torch.zeros(2, 1))
