"""`hbode.compat` beside torchdiffeq itself: values, gradients, events, callbacks, warnings and errors.

On the same grid both libraries do the same arithmetic in another order, hence agreement to a few hundred roundings
(`ROUNDING`). Adaptive solves choose other steps: there the bound is a multiple of the tolerance of the solve.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import hbode
import hbode.compat as compat

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
TSIT5 = "tsit5"  # of later releases
GRID = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
IMPLICIT = (  # of later releases
    *("implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2"),
    *("radauIIA3", "radauIIA5", "gl4", "gl6"),
)
LIBRARIES = pytest.mark.parametrize("library", [torchdiffeq, compat], ids=["torchdiffeq", "compat"])
ROUNDING = 1e-13
BOTH = pytest.mark.parametrize("solve", [compat.odeint, compat.odeint_adjoint], ids=["odeint", "adjoint"])


class Field(nn.Module):
    """A small driven network; its time must be one number of the dtype of the state."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(2, 5, generator=rng, dtype=torch.float64).to(dtype))
        self.b = nn.Parameter(torch.randn(5, 2, generator=rng, dtype=torch.float64).to(dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == () and t.dtype == y.abs().dtype
        return torch.tanh(y @ self.a + torch.sin(3 * t)) @ self.b


class TupleField(Field):
    """The same for a state of three tensors of several shapes."""

    def forward(self, t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        u, v, w = y
        return super().forward(t, u), -v * u.sum(), torch.cos(w) + v.sum()


def start(grad: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[0.9, 0.2], [-0.3, 0.4]], dtype=dtype, requires_grad=grad)


def tuple_start(grad: bool = False) -> tuple[Tensor, ...]:
    rest = torch.tensor([[[0.5]], [[-0.2]]], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    return tuple(x.clone().requires_grad_(grad) for x in (start(), *rest))


def line(sign: float = 1.0, grad: bool = False, n: int = 5) -> Tensor:
    return (0.3 + sign * torch.linspace(0, 1, n, dtype=torch.float64)).requires_grad_(grad)


def close(a: Any, b: Any, tol: float = ROUNDING) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def quiet(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint", "odeint_event", "odeint_dense"])
def test_signatures_are_torchdiffeqs(name: str) -> None:
    def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        return [
            (p.name, p.kind, "odeint" if callable(p.default) and p.name == "odeint_interface" else p.default)
            for p in inspect.signature(function).parameters.values()
        ]

    assert shape(getattr(compat, name)) == shape(getattr(torchdiffeq, name))
    assert compat.__version__ == torchdiffeq.__version__


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", GRID)
@pytest.mark.parametrize(
    "options",
    [None, {"step_size": 0.09}, {"step_size": 0.09, "interp": "cubic"}, {"perturb": True}],
    ids=["grid t", "linear", "cubic", "perturb"],
)
def test_fixed_grid_values(method: str, sign: float, options: dict[str, Any] | None) -> None:
    field, y0 = Field(), tuple_start()
    for f, y in ((field, y0[0]), (TupleField(), y0)):
        a, b = (lib.odeint(f, y, line(sign), method=method, options=options) for lib in (torchdiffeq, compat))
        assert type(a) is type(b)
        close(b, a)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", IMPLICIT)
def test_implicit_methods_are_those_of_hbodeint(method: str, sign: float) -> None:
    """On the same grid, for a tuple as for a tensor, with gradients of odeint_adjoint that are those of odeint.

    Twelve steps leave a residual of up to 3e-12 each, which grows threefold at most.
    """
    f, y0, t = Field(), start(grad=True), line(sign)
    tight = {"rtol": 1e-12, "atol": 1e-12}
    options = {"step_size": 0.09, "interp": "cubic"}
    sol = hbode.hbodeint(hbode.FirstOrder(f), y0, t, method=method, options={"step_size": 0.09}, dense=True, **tight)
    inside = {float(x) for x in sol.stats.t}
    grads = []
    for solve in (compat.odeint, compat.odeint_adjoint):
        rows = solve(f, y0, t, method=method, options=options, **tight)
        for i, at in enumerate(t.tolist()):
            if at in inside or i == len(t) - 1:
                close(rows[i].detach(), sol.h[i].detach(), 1e-10)
        grads.append(torch.autograd.grad(rows.square().sum(), (y0, *f.parameters())))
    for a, b in zip(*grads, strict=True):
        close(a, b, 1e-9)
    several = compat.odeint(TupleField(), tuple_start(), t, method=method, options={"step_size": 0.09}, **tight)
    close(several[0][-1], sol.h[-1].detach(), 1e-10)


def test_implicit_methods_on_a_stiff_field() -> None:
    """y' = -1000 (y - cos t): thirty steps, where euler would need five hundred; too few iterations are an error."""

    def stiff(t: Tensor, y: Tensor) -> Tensor:
        return -1000.0 * (y - torch.cos(t)) - 100.0 * (y - torch.cos(t)) ** 3

    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.zeros(1, dtype=torch.float64)
    y = compat.odeint(stiff, y0, t, method="radauIIA5", options={"step_size": 1 / 30})
    slow = math.cos(1.0) + math.sin(1.0) / 1000  # to the second order in 1/1000
    assert abs(y[-1].item() - slow) < 2e-6
    with pytest.raises(compat.SolveError, match="did not converge"):
        compat.odeint(stiff, y0, t, method="radauIIA5", options={"step_size": 1 / 30, "max_iters": 1})


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ADAMS)
@pytest.mark.parametrize("more", [{}, {"max_order": 5}, {"perturb": True, "max_order": 6}])
def test_adams_values(method: str, sign: float, more: dict[str, Any]) -> None:
    explicit = method == "explicit_adams"
    options = {"step_size": 0.05 if explicit else 0.01, **more}
    f, y0, tol = Field(), start(), 1e-8
    a, b = (
        lib.odeint(f, y0, line(sign), method=method, options=options, rtol=tol, atol=tol)
        for lib in (torchdiffeq, compat)
    )
    # explicit: order 11 amplifies roundings; implicit: each of 100 steps ends its iteration within tol of its change
    close(b, a, 1e-11 if explicit else tol)


def test_adams_of_low_order_reduces_to_rk4() -> None:
    f, y0 = Field(), start()
    with pytest.warns(UserWarning, match="max_order=3 is below 4"):
        b = compat.odeint(f, y0, line(), method="explicit_adams", options={"max_order": 3})
    close(b, compat.odeint(f, y0, line(), method="rk4"), 0.0)
    explicit = {"step_size": 0.05, "max_order": 6}
    as_implicit = compat.odeint(f, y0, line(), method="implicit_adams", options={**explicit, "implicit": False})
    close(as_implicit, compat.odeint(f, y0, line(), method="explicit_adams", options=explicit), 0.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_values(method: str, sign: float) -> None:
    """No worse than torchdiffeq; the error of fehlberg2 grows to twenty times its local tolerance in both."""
    kwargs = {"method": method, "options": {"max_step": 0.04}, "rtol": 1e-4, "atol": 1e-6}
    f, y0 = TupleField(), tuple_start()
    a, b = (lib.odeint(f, y0, line(sign, n=3), **kwargs) for lib in (torchdiffeq, compat))
    exact = torchdiffeq.odeint(f, y0, line(sign, n=3), rtol=1e-9, atol=1e-9)
    for theirs, ours, x in zip(a, b, exact, strict=True):
        assert (ours - x).abs().max() < min(3e-3, (theirs - x).abs().max() + 1e-4)
    close(compat.odeint(Field(), y0[0], line(sign, n=3), **kwargs), b[0], 6e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tsit5_is_of_fifth_order(sign: float) -> None:
    """Equal steps, as a loose tolerance leaves them, against DOP853: of twice as many, the error falls 32-fold."""
    f, y0, t = Field(), start(), line(sign, n=2)
    tight = {"rtol": 1e-13, "atol": 1e-14}
    exact = compat.odeint(f, y0, t, method="scipy_solver", options={"solver": "DOP853"}, **tight)[-1]
    close(compat.odeint(f, y0, t, method=TSIT5, **tight)[-1], exact, 1e-10)
    errors = []
    for steps in (32, 64):
        options = {"first_step": 1 / steps, "max_step": 1 / steps}
        y = compat.odeint(f, y0, t, method=TSIT5, rtol=1e3, atol=1e3, options=options)[-1]
        errors.append((y - exact).abs().max().item())
    assert 4.7 < math.log2(errors[0] / errors[1]) < 5.8


def test_tsit5_takes_tuples_events_jumps_and_callbacks() -> None:
    tight = {"method": TSIT5, "rtol": 1e-10, "atol": 1e-10}
    close(compat.odeint(TupleField(), tuple_start(), line(), **tight)[0], compat.odeint(Field(), start(), line()), 1e-6)
    watched = Watched((STEP, ACCEPT, REJECT, f"{ACCEPT}_adjoint"), False)
    out = compat.odeint_adjoint(watched, start(grad=True), line(), options={"jump_t": [0.77]}, **tight)
    out.sum().backward()
    assert watched.count(STEP) == watched.count(ACCEPT) + watched.count(REJECT)
    assert watched.count(f"{ACCEPT}_adjoint") == watched.count(ACCEPT) > 0
    zero = torch.zeros((), dtype=torch.float64)
    event_t, _ = compat.odeint_event(
        lambda t, y: y, torch.ones(1).double(), zero, event_fn=lambda t, y: y - 2.0, **tight
    )
    close(event_t.detach(), torch.tensor(math.log(2.0), dtype=torch.float64), 1e-8)
    ours = gradients(compat.odeint_adjoint, line(n=3), False, **tight)
    close(ours, gradients(torchdiffeq.odeint, line(n=3), False, rtol=1e-10, atol=1e-10), 1e-7)


def test_default_is_dopri5_at_torchdiffeqs_tolerances() -> None:
    f, y0 = Field(), start()
    exact = torchdiffeq.odeint(f, y0, line(), rtol=1e-12, atol=1e-12)
    close(compat.odeint(f, y0, line()), exact, 1e-6)
    close(compat.odeint(f, y0, line(), method="dopri5"), compat.odeint(f, y0, line()), 0.0)


@pytest.mark.parametrize("method", [*ADAPTIVE, *GRID, *ADAMS, "scipy_solver"])
@LIBRARIES
def test_one_time_point(method: str, library: ModuleType) -> None:
    y0 = tuple_start()
    out = library.odeint(TupleField(), y0, line()[:1], method=method)
    close(out, tuple(y.unsqueeze(0) for y in y0), 0.0)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "implicit_adams"])
def test_complex_states(method: str) -> None:
    matrix = torch.tensor([[0.1j, 1.0], [-1.0 + 0.2j, -0.3]], dtype=torch.complex128)
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128)
    options = {"max_step": 0.05} if method == "dopri5" else {"step_size": 0.05}

    def f(t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == torch.float64
        return matrix @ y

    out = compat.odeint(f, y0, line(), method=method, options=options)
    exact = torch.stack([torch.linalg.matrix_exp(matrix * s) @ y0 for s in line() - line()[0]])
    close(out, exact, 1e-5)  # the error of rk4 at this step, 0.05^4
    close(out, torchdiffeq.odeint(f, y0, line(), method=method, options=options), 1e-6)
    (pair,) = compat.odeint(lambda t, y: (f(t, y[0]),), (y0,), line(), method=method, options=options)
    close(pair, out, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_of_the_state_is_kept(dtype: torch.dtype) -> None:
    out = compat.odeint(Field(dtype), start(dtype=dtype), line().float(), method="rk4")
    assert out.dtype == dtype
    assert compat.odeint(Field(dtype), start(dtype=dtype), line(), rtol=1e-2, atol=1e-2).dtype == dtype


def test_the_grid_of_a_step_size_is_made_in_the_dtype_of_t() -> None:
    """0.3 in float32 is a little more than three steps of 0.1; in float32 it is three."""
    calls: list[int] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y

    f.callback_step = lambda t, y, dt: calls.append(1)  # type: ignore[attr-defined]
    counts = []
    for library in (torchdiffeq, compat):
        calls.clear()
        library.odeint(f, torch.ones(1), torch.tensor([0.0, 0.3]), method="euler", options={"step_size": 0.1})
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_a_field_may_return_what_broadcasts() -> None:
    y0 = torch.zeros(3, 2)
    t = torch.tensor([0.0, 1.0])
    close(compat.odeint(lambda t, y: torch.tensor(2.0), y0, t)[-1], torch.full((3, 2), 2.0), 1e-6)
    close(compat.odeint(lambda t, y: torch.ones(1), torch.zeros(()), t)[-1], torch.tensor(1.0), 1e-6)
    close(compat.odeint(lambda t, y: torch.ones(2).double(), y0, t)[-1], torch.ones(3, 2), 1e-6)


@pytest.mark.parametrize("method", GRID)
def test_a_fixed_grid_goes_on_where_the_state_overflows(method: str) -> None:
    y0 = torch.tensor([1e200, 1.0], dtype=torch.float64)
    out = compat.odeint(lambda t, y: y**2, y0, line(), method=method)
    assert not torch.isfinite(out[-1, 0])
    assert torch.isfinite(compat.odeint(lambda t, y: y, y0, line(), method=method)).all()


# Gradients


def gradients(
    solve: Callable[..., Any], t: Tensor, tuples: bool, **kwargs: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Gradients of a sum with uneven weights, with respect to y0, t and the parameters."""
    f = TupleField() if tuples else Field()
    y0 = tuple_start(grad=True) if tuples else (start(grad=True),)
    t = t.clone().requires_grad_()
    out = quiet(lambda: solve(f, y0 if tuples else y0[0], t, **kwargs))
    parts = out if tuples else (out,)
    sum((x * torch.cos(torch.arange(x.numel()).view(x.shape))).sum() for x in parts).backward()  # type: ignore[union-attr]
    return [y.grad for y in y0], {"t": t.grad, "a": f.a.grad, "b": f.b.grad}


@BOTH
@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    "method, options",
    [
        ("euler", None),
        ("midpoint", {"perturb": True}),
        ("heun3", {"step_size": 0.09}),
        ("rk4", {"step_size": 0.09, "interp": "cubic"}),
        ("rk4", {"perturb": True}),
    ],
)
def test_gradients_on_a_fixed_grid(
    solve: Callable[..., Any], tuples: bool, sign: float, method: str, options: dict[str, Any] | None
) -> None:
    kwargs = {"method": method, "options": options}
    ours = gradients(solve, line(sign, n=4), tuples, **kwargs)
    close(ours, gradients(torchdiffeq.odeint, line(sign, n=4), tuples, **kwargs), 1e-12)


@BOTH
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_of_adams_methods(solve: Callable[..., Any], sign: float) -> None:
    """On 16 equal steps. torchdiffeq's weights do not move with the times, so that those gradients are its error."""
    kwargs = {"method": "explicit_adams", "options": {"step_size": 1 / 16, "max_order": 5}}
    ours = gradients(solve, line(sign, n=4), True, **kwargs)
    theirs = gradients(torchdiffeq.odeint, line(sign, n=4), True, **kwargs)
    exact = gradients(torchdiffeq.odeint, line(sign, n=4), True, rtol=1e-10, atol=1e-10)
    ours_t, theirs_t, exact_t = (g[1].pop("t") for g in (ours, theirs, exact))
    close(ours, theirs, 1e-11)
    assert (ours_t - exact_t).abs().max() <= (theirs_t - exact_t).abs().max()


@BOTH
@pytest.mark.parametrize("tuples", [False, True])
def test_gradients_of_adaptive_solves(solve: Callable[..., Any], tuples: bool) -> None:
    kwargs = {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10, "options": {"max_step": 0.05}}
    ours = gradients(solve, line(n=3), tuples, **kwargs)
    close(ours, gradients(torchdiffeq.odeint, line(n=3), tuples, **kwargs), 1e-6)
    if not tuples:
        close(ours, gradients(torchdiffeq.odeint_adjoint, line(n=3), tuples, **kwargs), 1e-6)


def test_the_adjoint_is_exact_at_any_tolerance() -> None:
    kwargs = {"rtol": 1e-2, "atol": 1e-2}
    ours = gradients(compat.odeint_adjoint, line(), False, **kwargs, adjoint_options={"norm": "seminorm"})
    # The steps are those of odeint up to what rounding makes of the lengths that errors of 1e-2 ask for.
    close(ours, gradients(compat.odeint, line(), False, **kwargs), 1e-9)


def test_complex_gradients() -> None:
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128, requires_grad=True)
    rate = torch.tensor(0.3 + 1.0j, dtype=torch.complex128, requires_grad=True)
    t = line(n=3)
    results = []
    for solve, more in (
        (torchdiffeq.odeint, {}),
        (compat.odeint, {}),
        (compat.odeint_adjoint, {"adjoint_params": (rate,)}),
    ):
        out = solve(lambda t, y: rate * y * torch.cos(t), y0, t, method="rk4", **more)
        results.append(torch.autograd.grad(out.abs().sum(), (y0, rate)))
    close(results[1], results[0])
    close(results[2], results[0])


def test_second_derivatives_through_odeint() -> None:
    y0 = torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda y: compat.odeint(lambda t, x: torch.sin(x), y, line(n=2), method="rk4"), y0
    )


def test_only_adjoint_params_receive_gradients() -> None:
    f = Field()
    unused = torch.zeros(2, requires_grad=True)
    frozen = torch.zeros(2)
    for params, expected in (((f.a, unused, f.a), {"a"}), ((), set()), (iter([f.b]), {"b"}), ((frozen,), set())):
        f.zero_grad()
        y0 = start(grad=True)
        compat.odeint_adjoint(f, y0, line(), method="rk4", adjoint_params=params).sum().backward()
        assert y0.grad is not None
        assert {name for name, p in f.named_parameters() if p.grad is not None} == expected
        if "a" in expected:
            close(f.a.grad, gradient_of(f, "a"))
    assert unused.grad is not None and not unused.grad.any()  # zero and not None, as from torchdiffeq


def gradient_of(f: Field, name: str) -> Tensor:
    (grad,) = torch.autograd.grad(compat.odeint(f, start(), line(), method="rk4").sum(), getattr(f, name))
    return grad


def test_adjoint_params_may_be_no_leaves() -> None:
    seed = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = seed**2
    out = compat.odeint_adjoint(lambda t, y: rate * y, start(), line(), method="rk4", adjoint_params=(rate,))
    ref = compat.odeint(lambda t, y: rate * y, start(), line(), method="rk4")
    close(torch.autograd.grad(out.sum(), seed, retain_graph=True), torch.autograd.grad(ref.sum(), seed))


def test_inner_modules_that_programs_import_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stand_in", compat)
    for name in ("stand_in", "hbode.compat", "torchdiffeq"):
        adjoint, inner = (import_module(f"{name}._impl.{module}") for module in ("adjoint", "odeint"))
        field = torch.nn.Linear(2, 2)
        assert [id(p) for p in adjoint.find_parameters(field)] == [id(p) for p in field.parameters()]
        assert {"dopri5", "rk4", "euler", "implicit_adams", "scipy_solver"} <= set(inner.SOLVERS)
        assert callable(adjoint.odeint_adjoint) and callable(inner.odeint) and callable(inner.odeint_event)
    assert compat._impl.adjoint.find_parameters is import_module("hbode.compat._impl.adjoint").find_parameters
    theirs, ours = (set(import_module(f"{name}._impl.odeint").SOLVERS) for name in ("torchdiffeq", "hbode.compat"))
    assert theirs <= ours
    with pytest.raises((TypeError, AssertionError), match="module"):
        compat._impl.adjoint.find_parameters(lambda t, y: y)


def test_a_replica_of_data_parallel_finds_its_parameters() -> None:
    f = Field()
    copies = {name: p.detach().clone().requires_grad_() for name, p in f.named_parameters()}
    replica = f._replicate_for_data_parallel()
    replica._parameters = {}
    for name, copy in copies.items():
        setattr(replica, name, copy)
    compat.odeint_adjoint(replica, start(), line(), method="rk4").sum().backward()
    close(copies["a"].grad, gradient_of(f, "a"))


# Options


def test_grid_constructor() -> None:
    seen = []

    def construct(f: Any, y0: Any, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.cat((torch.linspace(float(t[0]), float(t[-1]), 23, dtype=t.dtype)[:-1], t[-1:]))

    for sign in (1.0, -1.0):
        a, b = (
            lib.odeint(Field(), start(), line(sign), method="rk4", options={"grid_constructor": construct})
            for lib in (torchdiffeq, compat)
        )
        close(seen[-1], line(sign))
        close(b, a)


GRID_OF_MANY_SIZES = [-3.1, -0.7, -2e-7, 3.3e-9, 0.02, 1.7]
"""Steps whose length, rounded, leads past their end."""


@pytest.mark.parametrize("interface, moving", [("odeint", True), ("odeint_adjoint", True), ("odeint_adjoint", False)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", [*GRID, "explicit_adams", "implicit_adams", "trapezoid", "trbdf2", "gl4"])
@pytest.mark.filterwarnings("ignore:implicit_adams")
def test_perturb_keeps_off_the_grid_points(method: str, sign: float, interface: str, moving: bool) -> None:
    """func sees times strictly within the steps only, forward and backward; its first is next to the start."""
    grid = torch.tensor(GRID_OF_MANY_SIZES[:: int(sign)], dtype=torch.float64, requires_grad=moving)
    y0, seen, points = start(grad=True), [], grid.tolist()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t.item())
        return -y

    for options in ({"perturb": True}, {"perturb": True, "interp": "cubic", "step_size": 0.7}):
        more = {"adjoint_params": ()} if interface == "odeint_adjoint" else {}
        rows = getattr(compat, interface)(f, y0, grid, method=method, options=options, **more)
        if method in GRID:
            assert seen[0] == math.nextafter(points[0], sign * math.inf)
        rows.sum().backward()
        assert not {*seen} & {*points}
        assert min(points) < min(seen) and max(seen) < max(points)
        seen.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perturb_gives_the_times_of_torchdiffeq(dtype: torch.dtype) -> None:
    """rk4: the number after the start, thirds, and the number before the end, in the dtype of the state."""
    t = torch.tensor([0.0, 0.5, 1.25])
    for times in (t, t.flip(0)):
        seen: tuple[list[float], list[float]] = ([], [])
        for library, own in zip((torchdiffeq, compat), seen, strict=True):

            def f(t: Tensor, y: Tensor, own: list[float] = own) -> Tensor:
                own.append(t.item())
                return y

            library.odeint(f, start(dtype=dtype), times, method="rk4", options={"perturb": True})
        close(seen[1], seen[0], 4 * torch.finfo(t.dtype).eps)  # between the ends, torchdiffeq's have the dtype of t
        assert not {*seen[1]} & {*times.tolist()} and seen[1][::4] == seen[0][::4] and seen[1][3::4] == seen[0][3::4]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_jump_t_and_step_t(sign: float) -> None:
    """y' jumps at 0.5: with the jump named, both give the exact broken line."""
    jump, y0 = torch.tensor([0.5 * sign], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    t = sign * torch.linspace(0, 1, 3, dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t.abs() <= 0.5, 1.0, 3.0) * torch.ones_like(y)

    accepted: list[float] = []
    f.callback_accept_step = lambda t, y, dt: accepted.append(abs(float(t)))  # type: ignore[attr-defined]
    for library in (torchdiffeq, compat):
        for named in (jump, jump.tolist()) if library is compat else (jump,):
            out = library.odeint(f, y0, t, options={"jump_t": named, "first_step": 0.2})
            close(out.flatten(), sign * torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64), 1e-9)
    for library in (torchdiffeq, compat):
        accepted.clear()
        library.odeint(f, y0, t, options={"step_t": sign * torch.tensor([0.31, 0.77], dtype=torch.float64)})
        assert {0.31, 0.77} <= set(accepted)


def test_jump_t_keeps_the_gradient_of_time() -> None:
    """y = cos(t1) - cos(t0) across a named jump of size zero."""
    t = line(n=2, grad=True)
    options = {"jump_t": torch.tensor([0.8], dtype=torch.float64)}
    y0 = torch.zeros(1, dtype=torch.float64)
    out = compat.odeint(lambda t, y: -torch.sin(t) * torch.ones_like(y), y0, t, options=options, rtol=1e-10)
    (grad,) = torch.autograd.grad(out[-1].sum(), t)
    close(grad, torch.stack((torch.sin(t[0]), -torch.sin(t[1]))).detach(), 1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 0.01},
        {"first_step": torch.tensor(0.01)},
        {"max_step": 0.03},
        {"min_step": 0.05},
        {"safety": 0.5, "ifactor": 2.0, "dfactor": 0.5},
        {"max_num_steps": 10_000},
        {"dtype": torch.float64},
    ],
    ids=lambda o: ",".join(o),
)
def test_step_options_reach_the_controller(options: dict[str, Any]) -> None:
    """The steps that are tried obey the option, in both libraries."""
    f = Field()
    tried: list[float] = []
    f.callback_step = lambda t, y, dt: tried.append(float(dt.detach()))
    for library in (torchdiffeq, compat):
        tried.clear()
        library.odeint(f, start(), line(), options=options, rtol=1e-9, atol=1e-9)
        if "first_step" in options:
            assert tried[0] == pytest.approx(0.01)
        assert max(tried) <= options.get("max_step", 1.0) * (1 + 1e-12)
        assert min(tried[:-1]) >= options.get("min_step", 0.0) * (1 - 1e-12)
        ratios = [b / a for a, b in pairwise(tried[:-1])]
        assert max(ratios) <= options.get("ifactor", 10.0) * (1 + 1e-9)


@BOTH
def test_norm_receives_the_form_of_the_state(solve: Callable[..., Any]) -> None:
    kinds = set()

    def norm(x: Any) -> Tensor:
        kinds.add(tuple(tuple(part.shape) for part in x) if isinstance(x, tuple) else tuple(x.shape))
        return max(part.abs().max() for part in x)

    solve(TupleField(), tuple_start(), line(), options={"norm": norm})
    assert kinds == {((2, 2), (2, 1, 1), ())}
    kinds.clear()
    solve(Field(), start(), line(), options={"norm": norm})
    assert kinds == {(2, 2)}


def test_the_default_norm_of_a_tuple_is_the_largest() -> None:
    """A second, still entry with many zeros dilutes a plain mean, not the mixed norm."""
    still = torch.zeros(1000, dtype=torch.float64)
    counts: dict[str, int] = {}
    f = Field()

    def pair(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        counts["pair"] = counts.get("pair", 0) + 1
        return f(t, y[0]), torch.zeros_like(y[1])

    def single(t: Tensor, y: Tensor) -> Tensor:
        counts["single"] = counts.get("single", 0) + 1
        return f(t, y)

    out = compat.odeint(pair, (start(), still), line())
    close(out[0], compat.odeint(single, start(), line()), 1e-12)
    assert counts["pair"] == counts["single"]


def test_tolerances_per_entry() -> None:
    f, y0 = TupleField(), tuple_start()
    loose = compat.odeint(f, y0, line(), rtol=1e-3, atol=1e-3)
    exact = compat.odeint(f, y0, line(), rtol=1e-12, atol=1e-12)
    tight = (torch.tensor(1e-10, dtype=torch.float64), 1e-3, torch.tensor([1e-3], dtype=torch.float64))
    for tols in (tight, list(tight), torch.tensor([1e-10, 1e-3, 1e-3])):
        mixed = compat.odeint(f, y0, line(), rtol=tols, atol=tols)
        assert (mixed[0] - exact[0]).abs().max() < 1e-8 < (loose[0] - exact[0]).abs().max()
    close(
        compat.odeint(f, y0, line(), rtol=(1e-6, torch.full((2, 1, 1), 1e-6), 1e-6)),
        compat.odeint(f, y0, line(), rtol=1e-6),
    )
    whole = torch.full((2, 2), 1e-6)
    close(compat.odeint(Field(), start(), line(), rtol=whole), compat.odeint(Field(), start(), line(), rtol=1e-6))


@pytest.mark.parametrize("solver", ["LSODA", "RK45", "DOP853", "Radau", "BDF", "RK23"])
def test_scipy_solver(solver: str) -> None:
    kwargs = {"method": "scipy_solver", "options": {"solver": solver, "max_step": 0.1}, "rtol": 1e-6, "atol": 1e-8}
    for sign in (1.0, -1.0):
        a = quiet(lambda sign=sign: torchdiffeq.odeint(TupleField(), tuple_start(), line(sign), **kwargs))
        b = compat.odeint(TupleField(), tuple_start(), line(sign), **kwargs)
        close(b, a, 1e-5)  # torchdiffeq gives func the time in float32 here
    tols = (1e-8, 1e-8, 1e-8)
    close(
        compat.odeint(TupleField(), tuple_start(), line(), **{**kwargs, "atol": tols}),
        compat.odeint(TupleField(), tuple_start(), line(), **kwargs),
        1e-12,
    )
    assert not compat.odeint(Field(), start(grad=True), line(), **kwargs).requires_grad
    with torch.no_grad():
        assert compat.odeint_adjoint(Field(), start(grad=True), line(), **kwargs).shape == (5, 2, 2)


# Events

G = 9.81


class Ball(nn.Module):
    """Free fall from a height: it lands after sqrt(2 h / g)."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(G, dtype=torch.float64))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -self.g * torch.ones_like(y[1])


EVENT_METHODS = [("dopri5", None), ("rk4", {"step_size": 0.01, "interp": "cubic"})]


@pytest.mark.parametrize("method, options", EVENT_METHODS)
@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_landing_of_a_ball(method: str, options: dict[str, Any] | None, interface: str, reverse: bool) -> None:
    results = []
    for library in (torchdiffeq, compat):
        ball, sign = Ball(), -1.0 if reverse else 1.0
        h = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        t0 = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        v0 = torch.zeros(1, dtype=torch.float64)
        event_t, (height, speed) = library.odeint_event(
            ball,
            (h, v0),
            t0,
            event_fn=lambda t, y: y[0],
            reverse_time=reverse,
            odeint_interface=getattr(library, interface),
            method=method,
            options=options,
            rtol=1e-9,
            atol=1e-12,
        )
        assert event_t.shape == () and height.shape == speed.shape == (2, 1)
        fall = math.sqrt(2 * 3.0 / G)
        close(event_t.detach(), torch.tensor(0.5 + sign * fall, dtype=torch.float64), 1e-9)
        close(height[-1].detach(), torch.zeros(1, dtype=torch.float64), 1e-9)
        of_time = torch.autograd.grad(event_t, (h, t0, ball.g), retain_graph=True)
        of_speed = torch.autograd.grad(speed[-1].sum(), (h, t0, ball.g))
        exact = sign / math.sqrt(2 * G * 3.0), 1.0, -sign * math.sqrt(3.0 / 2) * G**-1.5
        close([float(x) for x in of_time], list(exact), 1e-6)
        exact = -sign * math.sqrt(G / 6.0), 0.0, -sign * math.sqrt(3.0 / (2 * G))
        close([float(x) for x in of_speed], list(exact), 1e-6)
        results.append((event_t, height, speed, of_time, of_speed))
    close(results[1], results[0], 1e-8)


def test_the_first_of_several_events_ends_the_solve() -> None:
    def event_fn(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((y[0] - 2.0, t - 0.4, y[0] + 5.0))

    y0 = torch.ones(1, dtype=torch.float64)
    for rate in (1.0, 3.0):
        t, rows = compat.odeint(
            lambda t, y, rate=rate: rate * y, y0, torch.tensor([0.0, 9.0], dtype=torch.float64), event_fn=event_fn
        )
        expected = min(0.4, math.log(2.0) / rate)
        close(t, torch.tensor(expected, dtype=torch.float64), 1e-7)
        close(rows.flatten(), torch.tensor([1.0, math.exp(rate * expected)], dtype=torch.float64), 1e-6)


@BOTH
def test_event_mode_of_odeint_holds_the_time(solve: Callable[..., Any]) -> None:
    """As in torchdiffeq, the state has the gradient at a fixed time, and the time none; from odeint_adjoint, zero."""
    f, y0 = Ball(), (torch.tensor([3.0], dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64))
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    event_t, (height, _) = solve(f, y0, t, event_fn=lambda t, y: y[0])
    assert event_t.requires_grad == (solve is compat.odeint_adjoint)
    if event_t.requires_grad:
        zeros = torch.autograd.grad(event_t, (y0[0], f.g), retain_graph=True, allow_unused=True)
        assert not any(x is not None and x.any() for x in zeros)
    (grad,) = torch.autograd.grad(height[-1].sum(), y0[0])
    close(grad, torch.ones(1, dtype=torch.float64), 1e-9)


def test_event_gradients_reach_what_the_event_function_uses() -> None:
    level = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    t, _ = compat.odeint_event(lambda t, y: y, y0, torch.zeros(1, dtype=torch.float64), event_fn=lambda t, y: y - level)
    close(torch.autograd.grad(t, level), (torch.tensor(0.5, dtype=torch.float64),), 1e-6)  # t = log(level)
    t, _ = compat.odeint_event(lambda t, y: y, y0, torch.zeros(1).double(), event_fn=lambda t, y: t - 0.5)
    assert not t.requires_grad
    with torch.no_grad():
        t, _ = compat.odeint_event(lambda t, y: y, y0, torch.zeros(1).double(), event_fn=lambda t, y: y - level)
    assert not t.requires_grad


@pytest.mark.parametrize("method, options", EVENT_METHODS)
def test_an_event_at_the_start(method: str, options: dict[str, Any] | None) -> None:
    t = torch.tensor([0.3, 1.0], dtype=torch.float64)
    event_t, rows = compat.odeint(
        lambda t, y: y, start(), t, event_fn=lambda t, y: y[0, 0] - 0.9, method=method, options=options
    )
    assert float(event_t) == 0.3
    close(rows, start().expand(2, 2, 2), 0.0)


def test_a_tangential_event_has_no_nan() -> None:
    t0 = torch.zeros((), dtype=torch.float64)
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    event_t, _ = compat.odeint_event(lambda t, y: torch.zeros_like(y), y0, t0, event_fn=lambda t, y: y - 1.0)
    assert torch.isfinite(event_t)


# Dense output


@LIBRARIES
def test_dense_output(library: ModuleType) -> None:
    f, y0 = Field(), start(grad=True)
    ends = torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    dense = quiet(lambda: library.odeint_dense(f, y0, *ends, method="dopri5"))
    rows = compat.odeint(f, y0, line(), rtol=1e-10, atol=1e-10)
    for i in range(4):
        close(dense(line()[i]), rows[i], 1e-5)
    close(torch.autograd.grad(dense(line()[2]).sum(), f.a), torch.autograd.grad(rows[2].sum(), f.a), 1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "bosh3"])
def test_dense_output_of_tuples_at_many_times(method: str) -> None:
    options = None if method != "rk4" else {"step_size": 0.05, "interp": "cubic"}
    y0 = tuple_start()
    dense = compat.odeint_dense(TupleField(), y0, 1.3, torch.tensor(0.3), method=method, options=options)
    rows = compat.odeint(TupleField(), y0, torch.tensor([1.3, 1.0, 0.65, 0.3]).double(), rtol=1e-10, atol=1e-10)
    close(dense(torch.tensor([1.3, 1.0, 0.65, 0.3]).double()), rows, 2e-5)
    close(dense(1.0), tuple(row[1] for row in rows), 2e-5)
    t = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(dense(t)[2], t)  # type: ignore[arg-type]
    close(slope, TupleField()(t.detach(), tuple(row[1] for row in rows))[2].detach(), 1e-4)


# Callbacks


class Watched(nn.Module):
    """A stiff enough field that counts what is called."""

    def __init__(self, names: tuple[str, ...], tuples: bool) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any, Any, Any]] = []
        self.tuples = tuples
        self.rate = nn.Parameter(torch.tensor(8.0, dtype=torch.float64))
        for name in names:
            setattr(self, name, lambda t, y, dt, name=name: self.calls.append((name, t, y, dt)))

    def forward(self, t: Tensor, y: Any) -> Any:
        f = lambda x: -self.rate * (x - torch.cos(5 * t))
        return tuple(f(x) for x in y) if self.tuples else f(y)

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


STEP, ACCEPT, REJECT = "callback_step", "callback_accept_step", "callback_reject_step"


def describe(x: Any) -> Any:
    return [describe(e) for e in x] if isinstance(x, tuple) else (x.shape, x.dtype)


@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_callbacks(tuples: bool, interface: str, sign: float) -> None:
    y0 = tuple_start() if tuples else start()
    for method, names in (("rk4", (STEP,)), ("dopri5", (STEP, ACCEPT, REJECT))):
        theirs, ours = Watched(names, tuples), Watched(names, tuples)
        getattr(torchdiffeq, interface)(theirs, y0, line(sign), method=method, rtol=1e-5, atol=1e-5)
        getattr(compat, interface)(ours, y0, line(sign), method=method, rtol=1e-5, atol=1e-5)
        assert {(n, str(describe((t, y, dt)))) for n, t, y, dt in ours.calls} == {
            (n, str(describe((t, y, dt)))) for n, t, y, dt in theirs.calls
        }
        assert all(dt > 0 for *_, dt in ours.calls)
        if method == "rk4":
            close([call[1:] for call in ours.calls], [call[1:] for call in theirs.calls])
        else:
            assert ours.count(STEP) == ours.count(ACCEPT) + ours.count(REJECT)
            assert 0.75 < ours.count(STEP) / theirs.count(STEP) < 1.25  # other steps: the last one ends on the time


def test_adjoint_callbacks() -> None:
    names = (ACCEPT, f"{STEP}_adjoint", f"{ACCEPT}_adjoint")
    f, y0 = Watched(names, True), tuple_start(grad=True)
    out = compat.odeint_adjoint(f, y0, line())
    assert f.count(names[1]) == 0
    out[0].sum().backward()
    assert f.count(names[1]) == f.count(names[2]) == f.count(ACCEPT)
    name, t, (y, y_bar), dt = next(call for call in f.calls if call[0] == names[1])
    assert float(t) == pytest.approx(1.3) and dt > 0
    close(y, tuple(x[-1].detach() for x in out), 1e-12)
    assert describe(y) == describe(y_bar) and not y_bar[0].any()


# Warnings


@pytest.mark.parametrize("method", ["dopri5", "rk4", "explicit_adams", "implicit_adams", "scipy_solver"])
@LIBRARIES
def test_unknown_options_warn(method: str, library: ModuleType) -> None:
    with pytest.warns(UserWarning, match="nexpected.*stepsize"):
        library.odeint(Field(), start(), line(), method=method, options={"stepsize": 0.1}, rtol=1e-2, atol=1e-2)


def test_no_warning_without_cause() -> None:
    options = {"rk4": {"norm": torch.linalg.norm, "perturb": False}, "scipy_solver": {"grid_points": None, "eps": None}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (*ADAPTIVE, *GRID, "explicit_adams", "scipy_solver"):
            compat.odeint(Field(), start(), line(), method=method, options=options.get(method), rtol=1e-3, atol=1e-3)


def test_another_dtype_of_time_warns() -> None:
    with pytest.warns(UserWarning, match=r"options\['dtype'\] is torch.float32: time is carried in torch.float64"):
        compat.odeint(Field(), start(), line(), options={"dtype": torch.float32})


def test_unknown_adjoint_options_warn() -> None:
    with pytest.warns(UserWarning, match="adjoint_options for 'dopri5': unexpected.*stepsize"):
        compat.odeint_adjoint(Field(), start(), line(), adjoint_options={"stepsize": 0.1})


@LIBRARIES
@pytest.mark.parametrize("method, name", [("rk4", ACCEPT), ("rk4", REJECT), ("scipy_solver", STEP)])
def test_unsupported_callbacks_warn(library: ModuleType, method: str, name: str) -> None:
    with pytest.warns(UserWarning, match=f"(?i)olver '?{method}|'{method}' does not support callbacks.*{name}"):
        library.odeint(Watched((name,), False), start(), line(), method=method)


def test_unsupported_adjoint_callbacks_warn() -> None:
    with pytest.warns(UserWarning, match=f"does not support callbacks {REJECT}_adjoint .*rejects none"):
        compat.odeint_adjoint(Watched((f"{REJECT}_adjoint",), False), start(), line())
    with pytest.warns(UserWarning, match=f"'rk4' does not support callbacks {ACCEPT}_adjoint"):
        compat.odeint_adjoint(Watched((f"{ACCEPT}_adjoint",), False), start(), line(), method="rk4")


def test_times_on_another_device_warn() -> None:
    """The meta device stands for another one; it holds no numbers, so that the solve itself cannot follow."""
    with pytest.warns(UserWarning, match="t is on cpu, y0 on meta"), pytest.raises(Exception):  # noqa: B017
        compat.odeint(lambda t, y: y, torch.zeros(2, device="meta"), line(), method="euler")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_move_to_the_device_of_the_state() -> None:
    with pytest.warns(UserWarning, match="t is on cpu, y0 on cuda:0"):
        out = compat.odeint(Field().cuda(), start().cuda(), line())
    close(out.cpu(), compat.odeint(Field(), start(), line()), 1e-9)


# Errors

E, TE = compat.ArgumentError, compat.ArgumentTypeError
ONE = torch.ones(1)
T2 = torch.tensor([0.0, 1.0])


def identity(t: Tensor, y: Any) -> Any:
    return y


def crossing(t: Tensor, y: Tensor) -> Tensor:
    return y - 2.0


@pytest.mark.parametrize(
    "error, match, change",
    [
        (TE, "func must be callable", {"func": 3}),
        (TE, "y0 must be a tensor or a tuple of tensors, got list of Tensor", {"y0": [ONE]}),
        (TE, "y0 must be a tensor or a tuple of tensors, got tuple of nothing", {"y0": ()}),
        (TE, "y0 must be a tensor or a tuple of tensors, got tuple of Tensor, float", {"y0": (ONE, 1.0)}),
        (TE, "y0 must be floating or complex, got torch.int64", {"y0": torch.ones(1, dtype=torch.int64)}),
        (TE, "t must be a tensor, got list", {"t": [0.0, 1.0]}),
        (TE, "t must be a floating-point tensor, got torch.int64", {"t": torch.arange(2)}),
        (E, r"t must be one-dimensional .* got shape \(\)", {"t": torch.tensor(0.0)}),
        (E, r"t must be one-dimensional .* got shape \(0,\)", {"t": torch.zeros(0)}),
        (E, "t must be finite", {"t": torch.tensor([0.0, math.nan])}),
        (E, "t must be strictly increasing or decreasing", {"t": torch.tensor([0.0, 1.0, 1.0])}),
        (E, "t must be strictly increasing or decreasing", {"t": torch.tensor([0.0, 1.0, 0.5])}),
        (E, "method must be one of dopri8, .*; got 'rk5'", {"method": "rk5"}),
        (E, "rtol must not require a gradient", {"rtol": torch.tensor(1e-3, requires_grad=True)}),
        (E, "atol must not require a gradient", {"atol": torch.tensor(1e-3, requires_grad=True)}),
        (E, "rtol must have one entry for each of the 2", {"y0": (ONE, ONE), "rtol": (1e-3,)}),
        (TE, "atol must be a number or a tensor", {"atol": "small"}),
        (TE, "atol must be a number or a tensor", {"atol": torch.ones(3), "y0": torch.ones(2)}),
        (TE, "atol must be a number or a tensor", {"atol": (torch.ones(3), 1.0), "y0": (torch.ones(2), ONE)}),
        (TE, "func must return tensors, got float", {"func": lambda t, y: 1.0}),
        (E, r"func must return the shape of y0, \(1,\), got \(3,\)", {"func": lambda t, y: torch.ones(3)}),
        (TE, "func must return the dtype of y0", {"func": lambda t, y: y * 1j}),
        (E, "func must return a tuple of 1 tensors as y0, got Tensor", {"y0": (ONE,), "func": lambda t, y: y[0]}),
        (
            E,
            "func must return a tuple of 1 tensors as y0, got tuple of",
            {"y0": (ONE,), "func": lambda t, y: (y[0],) * 2},
        ),
        (TE, r"options\['norm'\] must be callable, got str", {"options": {"norm": "seminorm"}}),
        (TE, r"options\['dtype'\] must be a torch.dtype", {"options": {"dtype": "float64"}}),
        (TE, r"options\['max_step'\] must be a number", {"options": {"max_step": "long"}}),
        (E, r"options\['max_step'\] must be positive, got 0", {"options": {"max_step": 0.0}}),
        (E, r"options\['first_step'\] must be positive, got -1", {"options": {"first_step": -1.0}}),
        (E, r"options\['min_step'\] must be zero or positive, got -1", {"options": {"min_step": -1.0}}),
        (E, r"options\['safety'\] must be positive, got nan", {"options": {"safety": math.nan}}),
        (E, r"options\['max_num_steps'\] must be positive, got 0", {"options": {"max_num_steps": 0}}),
        (E, r"options\['ifactor'\] must be positive", {"options": {"ifactor": -1.0}}),
        (E, r"options\['dfactor'\] must be positive", {"options": {"dfactor": -1.0}}),
        (TE, r"options\['jump_t'\] must be a tensor of times", {"options": {"jump_t": "noon"}}),
        (E, "must not repeat a time", {"options": {"jump_t": torch.tensor([0.5]), "step_t": torch.tensor([0.5])}}),
        (E, "must not repeat a time", {"options": {"jump_t": torch.tensor([0.5, 0.5])}}),
        (E, "mutually exclusive", {"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": identity}}),
        (E, r"options\['step_size'\] must be positive", {"method": "rk4", "options": {"step_size": 0.0}}),
        (E, r"options\['interp'\] must be 'linear' or 'cubic'", {"method": "rk4", "options": {"interp": "spline"}}),
        (E, "must return times from t", {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[:1]}}),
        (E, "in the order of t", {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[[0, 1, 0, 1]]}}),
        (
            E,
            r"options\['max_order'\] must be at most 12, got 13",
            {"method": "explicit_adams", "options": {"max_order": 13}},
        ),
        (E, r"options\['solver'\] must be one of RK23", {"method": "scipy_solver", "options": {"solver": "RK4"}}),
        (E, r"t must have shape \(2,\) where event_fn is given", {"event_fn": crossing, "t": torch.arange(3.0)}),
        (E, r"step_size'\] must be given to find an event", {"event_fn": crossing, "method": "rk4"}),
        (NotImplementedError, "finds no events", {"event_fn": crossing, "method": "scipy_solver"}),
    ],
)
def test_errors_of_odeint(error: type[Exception], match: str, change: dict[str, Any]) -> None:
    arguments = {"func": identity, "y0": ONE, "t": T2} | change
    for solve, more in ((compat.odeint, {}), (compat.odeint_adjoint, {"adjoint_params": ()})):
        with pytest.raises(error, match=match):
            solve(**arguments, **more)


@pytest.mark.parametrize(
    "error, match, change",
    [
        (E, "func must be an nn.Module where adjoint_params are not given", {"adjoint_params": None}),
        (TE, "adjoint_params must be tensors, got float", {"adjoint_params": (1.0,)}),
        (E, "adjoint_options must be given where options are", {"options": {}, "adjoint_method": "rk4"}),
        (E, "adjoint_method must be one of", {"adjoint_method": "rk5"}),
        (E, "adjoint_rtol must not require a gradient", {"adjoint_rtol": torch.ones((), requires_grad=True)}),
        (E, "adjoint_atol must not require a gradient", {"adjoint_atol": torch.ones((), requires_grad=True)}),
        (E, r"adjoint_options\['norm'\] must be callable or 'seminorm'", {"adjoint_options": {"norm": "max"}}),
    ],
)
def test_errors_of_odeint_adjoint(error: type[Exception], match: str, change: dict[str, Any]) -> None:
    arguments = {"func": identity, "y0": ONE, "t": T2, "adjoint_params": ()} | change
    with pytest.raises(error, match=match):
        compat.odeint_adjoint(**arguments)


def test_errors_of_events_and_dense_output() -> None:
    for t0 in (0.0, torch.zeros(2), torch.tensor(0)):
        with pytest.raises(TE, match="t0 must be a floating-point tensor with one entry"):
            compat.odeint_event(identity, ONE, t0, event_fn=crossing)  # type: ignore[arg-type]
    with pytest.raises(E, match="t0 and t1 must have one entry each"):
        compat.odeint_dense(identity, ONE, T2, 1.0)
    with pytest.raises(NotImplementedError, match="has no dense output"):
        compat.odeint_dense(identity, ONE, 0.0, 1.0, method="scipy_solver")
    dense = compat.odeint_dense(identity, ONE, 0.0, 1.0)
    with pytest.raises(ValueError, match="t must lie within the solve, from 0 to 1"):
        dense(1.5)
    with pytest.raises(ValueError, match="t must be a number or have shape"):
        dense(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "match, change",
    [
        (r"NON_FINITE at t = 0, .*non-finite values in state", {"func": lambda t, y: y * math.nan}),
        (
            "STEP_UNDERFLOW at t = 0.9999.*underflow in dt",
            {"func": lambda t, y: y**2, "t": torch.tensor([0.0, 2.0]).double()},
        ),
        (r"MAX_STEPS .*max_num_steps exceeded \(3>=3\)", {"options": {"max_num_steps": 3, "max_step": 0.1}}),
        ("MAX_STEPS .*Reached maximum number of iterations", {"method": "euler", "options": {"step_size": 1e-4}}),
        ("event_fn never changed its sign", {"func": lambda t, y: 0 * y, "event_fn": crossing}),
        (
            "scipy says: .*",
            {
                "method": "scipy_solver",
                "options": {"solver": "RK45"},
                "func": lambda t, y: y**2,
                "t": torch.tensor([0.0, 2.0]).double(),
            },
        ),
    ],
)
def test_failures(match: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbode._compat.plans._EVENT_STEPS", 200)
    if "Reached" in match:
        change = {**change, "func": lambda t, y: 0 * y, "event_fn": crossing}
    arguments = {"func": identity, "y0": ONE.double(), "t": T2, "rtol": 1e-3, "atol": 1e-3} | change
    with pytest.raises(compat.SolveError, match=match) as caught:
        quiet(lambda: compat.odeint(**arguments))
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, AssertionError)


def test_max_num_steps_is_counted_between_times() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for library in (torchdiffeq, compat):
        out = library.odeint(identity, ONE.double(), t, options={"max_num_steps": 4, "max_step": 0.05})
        assert len(out) == 11


def test_argument_errors_are_what_existing_code_catches() -> None:
    assert issubclass(E, ValueError) and issubclass(E, AssertionError)
    assert issubclass(TE, TypeError) and issubclass(TE, AssertionError)


# Any state


SHAPES = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    shapes=SHAPES,
    single=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex128]),
    sign=st.sampled_from([1.0, -1.0]),
    n=st.integers(1, 4),
    method=st.sampled_from(GRID),
    step=st.sampled_from([None, 0.07, 0.5]),
)
def test_any_state_as_in_torchdiffeq(
    shapes: list[tuple[int, ...]],
    single: bool,
    dtype: torch.dtype,
    sign: float,
    n: int,
    method: str,
    step: float | None,
) -> None:
    rng = torch.Generator().manual_seed(len(shapes))
    y0: Any = tuple(torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes)
    form: Callable[..., Any] = tuple
    if single:
        y0, form = y0[0], lambda parts: next(iter(parts))

    def f(t: Tensor, y: Any) -> Any:
        return form(torch.sin(x) * torch.cos(t) for x in (y if isinstance(y, tuple) else (y,)))

    options = None if step is None else {"step_size": step}
    t = line(sign)[:n]
    a, b = (lib.odeint(f, y0, t, method=method, options=options) for lib in (torchdiffeq, compat))
    close(b, a, 1e-5 if dtype == torch.float32 else 1e-12)


@settings(max_examples=15, deadline=None)
@given(
    rates=st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=4),
    times=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=5, unique_by=lambda x: round(x, 3)),
    rising=st.booleans(),
)
def test_linear_decay_has_its_closed_form(rates: list[float], times: list[float], rising: bool) -> None:
    """y_i = exp(r_i (t - t0)) for adaptive steps and any times; the gradient with respect to y0 is the same."""
    t = torch.tensor(sorted(times, reverse=not rising), dtype=torch.float64)
    rate = torch.tensor(rates, dtype=torch.float64)
    y0 = torch.ones(len(rates), dtype=torch.float64, requires_grad=True)
    out = compat.odeint_adjoint(lambda t, y: rate * y, y0, t, rtol=1e-9, atol=1e-10, adjoint_params=())
    exact = torch.exp(torch.outer(t - t[0], rate))
    close(out, exact, 1e-6)
    (grad,) = torch.autograd.grad(out[-1].sum(), y0)
    close(grad, exact[-1], 1e-6)
