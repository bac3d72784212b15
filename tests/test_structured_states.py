"""States of several tensors: their solves are those of the one tensor that holds all entries."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from hbode import Event, FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, Update, hbodeint
from hbode.systems import System

F64 = torch.float64
B = 4
Parts = dict[str, Tensor]
T = torch.linspace(0, 1.5, 4, dtype=F64)
SPANS = torch.tensor([[1.0], [0.5], [1.5], [0.8]], dtype=F64)
TIMES: dict[str, dict[str, Any]] = {
    "shared": {"t": T},
    "tied": {"t": SPANS * T},
    "per_sample": {"t": SPANS * T, "per_sample": True},
    "own_steps": {"t": T, "per_sample": True},
}
SYSTEMS: dict[str, Callable[[Any], System]] = {
    "heavy_ball": HeavyBall,
    "generalised": GeneralizedHeavyBall,
    "second_order": SecondOrder,
    "first_order": FirstOrder,
}


def parts_of(y: Tensor) -> Parts:
    """The parts of a state in one tensor, (48,) or (B, 12)."""
    if y.ndim == 1:
        return {"x": y[:12].reshape(B, 3), "y": y[12:44].reshape(B, 2, 4), "s": y[44:]}
    return {"x": y[:, :3], "y": y[:, 3:11].reshape(B, 2, 4), "s": y[:, 11]}


def flat(parts: Parts, lead: tuple[int, ...] = ()) -> Tensor:
    return torch.cat([part.reshape(*lead, -1) for part in parts.values()], -1)


class Mixing(nn.Module):
    """A field in which every entry of a sample drives every other, whatever part it is in."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(12, 12, generator=rng, dtype=F64) / 3)

    def forward(self, t: Tensor, h: Parts, *rest: Any) -> Parts:
        *momenta, scale = rest
        entries = sum((flat(m, (B,)) for m in momenta), flat(h, (B,)))
        return parts_of(torch.tanh(entries @ self.weight * scale) * torch.cos(t))


class Flattened(nn.Module):
    """The same field on states in one tensor."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, t: Tensor, *rest: Any) -> Tensor:
        *states, scale = rest
        return flat(self.f(t, *map(parts_of, states), scale), states[0].shape[:-1])


def solve(*args: Any, **call: Any) -> Any:
    return hbodeint(*args, **call)


@pytest.fixture
def h0() -> Parts:
    rng = torch.Generator().manual_seed(2)
    shapes = {"x": (B, 3), "y": (B, 2, 4), "s": (B,)}
    return {k: torch.randn(s, generator=rng, dtype=F64, requires_grad=True) for k, s in shapes.items()}


def leading(call: dict[str, Any]) -> tuple[int, ...]:
    return (B,) if call.get("per_sample") or call["t"].ndim == 2 else ()


def loss_of(*states: Tensor) -> Tensor:
    return sum(((1 + n) * torch.sin(x + n)).sum() for n, x in enumerate(states)) + torch.zeros((), dtype=F64)


# ---- the solve of one tensor, bit by bit


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", SYSTEMS)
def test_equals_the_solve_of_one_tensor(kind: str, times: str, h0: Parts) -> None:
    call = TIMES[times]
    lead = leading(call)
    net = Mixing()
    m0 = None if kind == "first_order" else tree_map(lambda x: 0.3 * x.detach(), h0)

    def results(one: bool) -> tuple[Any, ...]:
        scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
        t = call["t"].clone().requires_grad_()
        system = SYSTEMS[kind](Flattened(net) if one else net)
        start, momentum = (flat(h0, lead), m0 and flat(m0, lead)) if one else (h0, m0)
        sol = solve(system, start, **{**call, "t": t}, m0=momentum, args=(scale,), atol=1e-9)
        states = [x for x in sol if x is not None]
        joined = [x if one else flat(x, (len(T), *lead)) for x in states]
        inputs = [*h0.values(), t, scale, *system.parameters()]
        return joined, sol.stats, torch.autograd.grad(loss_of(*joined), inputs)

    mine, stats, gradients = results(one=False)
    theirs, other, expected = results(one=True)
    assert all(map(torch.equal, mine, theirs))
    assert (stats.nfe, stats.accepted, stats.rejected) == (other.nfe, other.accepted, other.rejected)
    assert torch.equal(stats.dt.nan_to_num(), other.dt.nan_to_num())
    assert len(gradients) == len(expected)
    # The sum of the gradients of a pair of parts may be taken in another order.
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", ["dopri5", "leapfrog", "kvaerno3", "auto", "scipy:RK45", "torchdiffeq:dopri5"])
def test_any_method(method: str, h0: Parts) -> None:
    net, options = Mixing(), {"step_size": 0.1} if method == "leapfrog" else {}
    call: dict[str, Any] = {"args": (0.5,), "method": method, "options": options, "rtol": 1e-4, "atol": 1e-4}
    with torch.no_grad():
        sol = solve(net, h0, T, **call)
        one = solve(Flattened(net), flat(h0), T, **call)
    assert torch.equal(flat(sol.h, (len(T),)), one.h)
    assert sol.stats.nfe == one.stats.nfe


def test_a_bare_function_that_closes_over_parameters(h0: Parts) -> None:
    net = Mixing()
    sol = solve(lambda t, h: net(t, h, 1.0), h0, T, activation="tanh", xi=0.1)
    sum(x.sum() for x in tree_leaves(sol.m)).backward()
    assert net.weight.grad is not None and net.weight.grad.abs().sum() > 0


# ---- forms and dtypes

Pair = namedtuple("Pair", "left right")


def test_nested_tuples_lists_and_named_tuples(h0: Parts) -> None:
    x, y, s = h0.values()
    state = ([x, (y,)], Pair({"s": s}, x * 2))
    calls = []

    def f(t: Tensor, h: Any) -> Any:
        calls.append(tree_structure(h))
        return tree_map(lambda part: -torch.sin(part), h)

    sol = solve(f, state, T)
    assert set(calls) == {tree_structure(state)} == {tree_structure(sol.h)} == {tree_structure(sol.m)}
    assert isinstance(sol.h[1], Pair)
    for part, rows in zip(tree_leaves(state), tree_leaves(sol.h), strict=True):
        assert rows.shape == (len(T), *part.shape)
        assert torch.equal(rows[0], part)
    assert repr(sol).startswith("Solution(h=([(4, 4, 3), ((4, 4, 2, 4),)], Pair(")


def test_a_dict_in_another_order_comes_back_in_its_own(h0: Parts) -> None:
    net = Mixing()

    def shuffled(t: Tensor, h: Parts) -> Parts:
        out = net(t, h, 1.0)
        return {key: out[key] for key in ("s", "x", "y")}

    m0 = {key: 0 * h0[key] for key in ("y", "s", "x")}
    assert torch.equal(flat(solve(shuffled, h0, T, m0=m0).h), flat(solve(lambda t, h: net(t, h, 1.0), h0, T).h))


def test_parts_keep_their_dtypes() -> None:
    single = torch.tensor([0.3, -0.2], requires_grad=True)
    double = torch.tensor(0.4, dtype=F64, requires_grad=True)
    seen = []

    def f(t: Tensor, h: Any) -> Any:
        seen.append((t.dtype, h[0].dtype, h[1].dtype))
        return (-h[0] * h[1].float(), -torch.sin(h[1]) + h[0].sum().double())

    sol = solve(f, (single, double), T, dense=True)
    assert set(seen) == {(F64, torch.float32, F64)}
    assert (sol.h[0].dtype, sol.h[1].dtype, sol.m[0].dtype) == (torch.float32, F64, torch.float32)
    assert (sol.h[0].shape, sol.h[1].shape) == ((4, 2), (4,))
    assert sol(0.3)[0][0].dtype == torch.float32
    first, second = torch.autograd.grad(sol.h[0].sum() + sol.h[1].sum(), (single, double))
    assert first.dtype == torch.float32 and second.dtype == F64

    def both(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat((-y[:2] * y[2], -torch.sin(y[2:]) + y[:2].sum()))

    one = solve(both, torch.cat((single.double(), double.reshape(1))), T)
    # Parts of the field are rounded to single precision, 6e-8 of themselves, which grows by e^3 at most over the span.
    torch.testing.assert_close(sol.h[1], one.h[:, 2], rtol=0, atol=20 * 1.5 * 6e-8)


def test_complex_parts_of_one_dtype() -> None:
    state = [torch.tensor([1.0 + 1.0j], dtype=torch.complex128), torch.tensor(0.5j, dtype=torch.complex128)]
    sol = solve(FirstOrder(lambda t, h: [1j * h[0], -h[1]]), state, T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sol.h[0][:, 0], (1 + 1j) * torch.exp(1j * T), rtol=1e-8, atol=0)
    torch.testing.assert_close(sol.h[1], 0.5j * torch.exp(-T).to(torch.complex128), rtol=1e-8, atol=0)


def test_mixed_precision_of_the_field() -> None:
    linear = nn.Linear(3, 3)
    state = {"x": torch.ones(2, 3), "y": torch.ones(2)}
    with torch.autocast("cpu", torch.bfloat16):
        sol = solve(lambda t, h: {"x": linear(h["x"]), "y": linear(h["x"])[:, 0]}, state, [0.0, 1.0], rtol=1e-2)
    assert sol.h["x"].dtype == sol.h["y"].dtype == torch.float32


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
TREES = st.recursive(
    st.tuples(SHAPES, st.sampled_from([torch.float32, F64])).map(lambda x: torch.randn(x[0], dtype=x[1])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    ),
    max_leaves=6,
).filter(lambda tree: not isinstance(tree, Tensor) and bool(tree_leaves(tree)))


@given(TREES)
@settings(max_examples=50, deadline=None)
def test_round_trip(state: Any) -> None:
    """What goes in comes out, and a field of zeros moves nothing."""
    sol = solve(
        lambda t, h: tree_map(torch.zeros_like, h),
        state,
        [0.0, 1.0],
        m0=tree_map(torch.zeros_like, state),
        method="dopri5",
    )
    assert tree_structure(sol.h) == tree_structure(sol.m) == tree_structure(state)
    for part, rows in zip(tree_leaves(state), tree_leaves(sol.h), strict=True):
        assert rows.dtype == part.dtype and rows.shape == (2, *part.shape)
        assert torch.equal(rows, part.expand(2, *part.shape))


# ---- tolerances and coefficients


@pytest.mark.parametrize("times", ["shared", "per_sample"])
def test_tolerances_of_parts(times: str, h0: Parts) -> None:
    net, call = Mixing(), TIMES[times]
    lead = leading(call)
    rtol: dict[str, Any] = {"x": 1e-3, "y": torch.tensor([1e-7, 1e-6, 1e-5, 1e-4], dtype=F64), "s": 1e-5}
    wide = {key: torch.as_tensor(rtol[key], dtype=F64).expand(h0[key].shape) for key in h0}
    given: dict[str, Any] = {**call, "args": (1.0,), "atol": 1e-8}
    sol = solve(net, h0, rtol=rtol, **given)
    one = solve(Flattened(net), flat(h0, lead), rtol=flat(wide, lead), **given)
    assert torch.equal(flat(sol.h, (len(T), *lead)), one.h)
    assert sol.stats.nfe == one.stats.nfe
    assert sol.stats.nfe != solve(net, h0, rtol=1e-7, **given).stats.nfe


@pytest.mark.parametrize("times", ["shared", "tied"])
def test_coefficients_of_parts(times: str, h0: Parts) -> None:
    net, call = Mixing(), TIMES[times]
    lead = leading(call)
    gamma: dict[str, Any] = {"x": torch.tensor([0.1, 0.2, 0.3], dtype=F64, requires_grad=True), "y": 0.5, "s": 0.0}
    wide = {key: torch.as_tensor(gamma[key], dtype=F64).expand(h0[key].shape) for key in h0}
    sol = solve(net, h0, **call, args=(1.0,), gamma=gamma, xi=dict.fromkeys(h0, 0.2))
    one = solve(Flattened(net), flat(h0, lead), **call, args=(1.0,), gamma=flat(wide, lead), xi=0.2)
    torch.testing.assert_close(flat(sol.h, (len(T), *lead)), one.h, rtol=1e-13, atol=1e-13)
    (mine,) = torch.autograd.grad(loss_of(flat(sol.h)), gamma["x"])
    (theirs,) = torch.autograd.grad(loss_of(flat(parts_rows(one.h))), gamma["x"])
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def parts_rows(rows: Tensor) -> Parts:
    """The parts of every row."""
    split = [parts_of(row) for row in rows]
    return {key: torch.stack([row[key] for row in split]) for key in split[0]}


def test_functions_among_the_options_get_the_form_of_h0(h0: Parts) -> None:
    seen: list[Any] = []

    def norm(error: Parts) -> Tensor:
        seen.append(tree_map(lambda x: tuple(x.shape), error))
        return torch.stack([x.abs().max() for x in error.values()]).max()

    solve(Mixing(), h0, T, args=(1.0,), options={"norm": norm})
    assert seen[0] == {"x": (2, B, 3), "y": (2, B, 2, 4), "s": (2, B)}

    def grid(func: Any, start: Parts, t: Tensor) -> Tensor:
        assert torch.equal(start["y"], h0["y"])
        return torch.linspace(0, 1.5, 7, dtype=F64)

    sol = solve(Mixing(), h0, T, args=(1.0,), method="rk4", options={"grid_constructor": grid})
    assert sol.stats.accepted == 6


# ---- events and dense output


def test_an_event_of_the_batch_gets_the_form_of_h0() -> None:
    state = {"ball": torch.tensor([1.0], dtype=F64, requires_grad=True), "other": torch.zeros(2, 2, dtype=F64)}
    sol = solve(
        lambda t, h: {"ball": torch.full_like(h["ball"], -2.0), "other": torch.ones_like(h["other"])},
        state,
        [0.0, 5.0],
        gamma=0.0,
        event=lambda t, h, m: h["ball"][0],
    )
    (record,) = sol.events
    assert record.h["ball"].shape == (1, 1) and record.m["other"].shape == (1, 2, 2)
    torch.testing.assert_close(record.t, torch.tensor([1.0], dtype=F64))  # h = 1 - t²
    torch.testing.assert_close(record.m["ball"].squeeze(), torch.tensor(-2.0, dtype=F64))
    (slope,) = torch.autograd.grad(record.t.sum(), state["ball"])
    torch.testing.assert_close(slope, torch.tensor([0.5], dtype=F64))


def test_events_of_samples_and_dense_output(h0: Parts) -> None:
    net, call = Mixing(), TIMES["per_sample"]
    event = Event(lambda t, h, m: h["s"] + 0 * m["y"].sum((1, 2)) - h0["s"].detach() + 1e-2 * (t - 0.2), terminal=False)
    one_event = Event(lambda t, h, m: event.fn(t, parts_of(h), parts_of(m)), terminal=False)
    sol = solve(net, h0, **call, args=(2.0,), event=event, dense=True)
    one = solve(Flattened(net), flat(h0, (B,)), **call, args=(2.0,), event=one_event, dense=True)
    (mine,), (theirs,) = sol.events, one.events
    count = len(theirs.t)
    assert count > 0
    assert torch.equal(mine.t, theirs.t) and torch.equal(mine.sample, theirs.sample)
    assert mine.h["y"].shape == (count, 2, 4) and mine.h["s"].shape == (count,)
    assert torch.equal(flat(mine.m, (count,)), theirs.m)
    at = torch.tensor([0.1, 0.3], dtype=F64)
    (h, m), (h1, m1) = sol(at), one(at)
    assert torch.equal(flat(h, (2, B)), h1) and torch.equal(flat(m, (2, B)), m1)
    now, momentum = sol(0.2)
    assert now["y"].shape == (B, 2, 4) and momentum["s"].shape == (B,)
    (pulled,) = torch.autograd.grad(now["y"].sum(), h0["s"])
    assert pulled.abs().sum() > 0


def test_dense_output_of_a_first_order_system(h0: Parts) -> None:
    sol = solve(FirstOrder(lambda t, h: tree_map(torch.neg, h)), h0, T, dense=True, rtol=1e-9, atol=1e-9)
    h, m = sol(0.7)
    assert m is None and sol.m is None
    torch.testing.assert_close(h["y"], h0["y"] * math.exp(-0.7), rtol=1e-7, atol=0)


@pytest.mark.parametrize("times", ["shared", "per_sample"])
def test_updates_get_the_form_of_h0(times: str, h0: Parts) -> None:
    net, call = Mixing(), TIMES[times]
    lead = leading(call)
    at = torch.tensor([0.2, 0.4], dtype=F64).expand(*lead, 2)

    def fn(t: Tensor, h: Parts, m: Parts) -> tuple[Parts, Parts]:
        return h, {**m, "s": m["s"] + h["s"]}

    def one_fn(t: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        return h, flat(fn(t, parts_of(h), parts_of(m))[1], lead)

    sol = solve(net, h0, **call, args=(1.0,), updates=Update(at, fn))
    one = solve(Flattened(net), flat(h0, lead), **call, args=(1.0,), updates=Update(at, one_fn))
    assert torch.equal(flat(sol.m, (len(T), *lead)), one.m)
    assert torch.equal(flat(sol.updates.after.m, (2, *lead)), one.updates.after.m)
    assert sol.updates.before.h["y"].shape == (2, B, 2, 4)
    with pytest.raises(ValueError, match=r"Update.fn must have the entries .* as in h0, got \['s'\]"):
        solve(net, h0, **call, args=(1.0,), updates=Update(at, lambda t, h, m: (h, {"s": m["s"]})))

    first = FirstOrder(lambda t, h: tree_map(torch.neg, h))
    sol = solve(first, h0, **call, updates=Update(at, lambda t, h: tree_map(torch.zeros_like, h)))
    assert all((part[-1] == 0).all() for part in sol.h.values())


# ---- gradients


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["backprop", "reversible", "continuous_adjoint"])
@pytest.mark.parametrize("kind", SYSTEMS)
def test_gradient_modes_agree(kind: str, gradient: str, h0: Parts) -> None:
    net = Mixing()
    options = {"coupling": 0.99} if gradient == "reversible" else {}
    tight = {"adjoint_rtol": 1e-10, "adjoint_atol": 1e-10} if gradient == "continuous_adjoint" else {}

    def gradients(mode: str, options: dict[str, Any]) -> tuple[Tensor, ...]:
        system = SYSTEMS[kind](net)
        scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
        sol = solve(system, h0, T, args=(scale,), gradient=mode, rtol=1e-9, atol=1e-9, options=options)
        loss = loss_of(*(part for state in sol if state is not None for part in state.values()))
        return torch.autograd.grad(loss, [*h0.values(), scale, *system.parameters()])

    for a, b in zip(gradients(gradient, {**options, **tight}), gradients("discrete_adjoint", options), strict=True):
        # What differs is the error of the solution and of the adjoint, some 100 tolerances, but for backprop rounding.
        torch.testing.assert_close(a, b, rtol=1e-10 if gradient == "backprop" else 1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="compiling for a CPU needs a C++ compiler",
)
@pytest.mark.parametrize("times", ["shared", "per_sample"])
def test_compiled(times: str, h0: Parts) -> None:
    net, call = Mixing(), TIMES[times]

    def solved(compile: bool, start: Parts) -> tuple[Any, ...]:
        system = HeavyBall(net)
        scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
        sol = solve(system, start, **call, args=(scale,), compile=compile)
        loss = loss_of(*sol.h.values(), *sol.m.values())
        return sol, torch.autograd.grad(loss, [*start.values(), scale, *system.parameters()])

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        sol, gradients = solved(True, h0)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        solved(True, tree_map(lambda x: (0.5 * x.detach()).requires_grad_(), h0))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    one, expected = solved(False, h0)
    assert sol.stats.nfe == one.stats.nfe
    for a, b in zip([*sol.h.values(), *gradients], [*one.h.values(), *expected], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="compiling for a CPU needs a C++ compiler",
)
def test_compiled_code_is_for_one_form() -> None:
    """Two forms of as many entries do not share what was compiled for one of them."""

    def f(t: Tensor, h: Parts) -> Parts:
        return {"a": -h["a"], "b": -2 * h["b"]}

    long, short = torch.ones(3, dtype=F64), torch.ones(2, dtype=F64)
    for state in ({"a": long, "b": short}, {"a": short, "b": long}, {"b": short, "a": long}):
        with torch.no_grad():
            sol = solve(FirstOrder(f), state, T, compile=True, rtol=1e-8, atol=1e-8)
        for key, rate in (("a", 1.0), ("b", 2.0)):
            expected = torch.exp(-rate * T).unsqueeze(1).expand(-1, len(state[key]))
            torch.testing.assert_close(sol.h[key], expected, rtol=1e-6, atol=0)
