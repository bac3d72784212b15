"""The adjoint equation of `hbode.compat.odeint_adjoint`: gradients with a known answer, and what its arguments do.

The field is y' = θ y, with y(t) = y0 exp(θ (t - t0)); sums of y(t1) have the gradients G = exp(θ (t1 - t0)) by y0,
(t1 - t0) y0 G by θ and ±θ y0 G by the times.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import hbode.compat as compat

RATE, START = -0.7, (1.5, -0.4)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


class Growth(nn.Module):
    """y' = θ y, of a tensor or of each tensor of a tuple."""

    def __init__(self, rate: float = RATE, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=dtype))

    def forward(self, t: Tensor, y: Any) -> Any:
        assert t.shape == ()
        return tuple(self.rate * x for x in y) if isinstance(y, tuple) else self.rate * y


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(START, dtype=dtype, requires_grad=True)


def times(sign: float = 1.0, n: int = 4) -> Tensor:
    return (0.3 + sign * torch.linspace(0, 1, n, dtype=torch.float64)).requires_grad_()


def check_gradients(sign: float, tuples: bool, tol: float, **kwargs: Any) -> None:
    f, y0, t = Growth(), start(), times(sign)
    given = (y0[:1], y0[1:].reshape(1, 1)) if tuples else y0
    out = compat.odeint_adjoint(f, given, t, **kwargs)
    end = torch.cat([x[-1].reshape(-1) for x in out]) if tuples else out[-1]
    by_y0, by_rate, by_t = torch.autograd.grad(end.sum(), (y0, f.rate, t))
    growth = math.exp(RATE * sign)
    exact = growth * sum(START)
    assert (by_y0 - growth).abs().max() < tol
    assert abs(by_rate - sign * exact) < tol
    assert abs(by_t[-1] - RATE * exact) < tol and abs(by_t[0] + RATE * exact) < tol
    assert by_t[1:-1].abs().max() < tol


@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("solver", ["RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_scipy_solver_has_a_gradient(solver: str, sign: float, tuples: bool) -> None:
    """The error of a multistep method grows to some hundreds of its local tolerance."""
    check_gradients(sign, tuples, 1e-6, method="scipy_solver", options={"solver": solver}, **TIGHT)


H = 0.02
GRID = {"step_size": H}
ADJOINT_METHODS = [
    ("dopri8", {}, 1e-8),
    ("tsit5", {"first_step": 0.1}, 1e-8),
    ("bosh3", {}, 1e-8),
    ("rk4", GRID, H**4),
    ("explicit_adams", {**GRID, "max_order": 4}, H**3),
    ("implicit_adams", {**GRID, "max_order": 4}, H**4),
    ("midpoint", {**GRID, "perturb": True}, H**2),
    ("trapezoid", GRID, H**2),
    ("radauIIA5", GRID, 1e-8),
    ("gl6", GRID, 1e-8),
    ("scipy_solver", {"solver": "DOP853"}, 1e-8),
]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method, options, tol", ADJOINT_METHODS, ids=[m for m, *_ in ADJOINT_METHODS])
def test_any_method_solves_the_adjoint_equation(method: str, options: dict[str, Any], tol: float, sign: float) -> None:
    """On a grid the bound is the step to the power of the order; the first order of explicit_adams is one less."""
    for tuples in (False, True):
        check_gradients(sign, tuples, tol, adjoint_method=method, adjoint_options=options, **TIGHT)


def test_euler_in_the_adjoint_gives_its_own_product() -> None:
    """n steps of h give (1 + θ h)^n, whatever the method of the solve is; nothing else is asked for in the second."""
    for given in (
        {"adjoint_options": {"step_size": 0.1}, "adjoint_method": "euler", "method": "rk4"},
        {"method": "euler"},
    ):
        y0, options = start(), {"step_size": 0.1}
        out = compat.odeint_adjoint(Growth(), y0, times(n=2).detach(), options=options, **given)
        (grad,) = torch.autograd.grad(out[-1].sum(), y0)
        torch.testing.assert_close(grad, torch.full_like(grad, (1 + RATE * 0.1) ** 10), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_tolerances_of_the_adjoint_bound_its_error() -> None:
    """They may be given for each tensor of (t, y, y_bar, rate)."""
    errors = []
    for tol in (1e-3, 1e-9, (1.0, 1e-9, torch.tensor([1e-9, 1e-9]), 1.0)):
        y0 = start()
        out = compat.odeint_adjoint(Growth(-4.0), y0, times(n=2).detach(), **TIGHT, adjoint_rtol=tol, adjoint_atol=tol)
        (grad,) = torch.autograd.grad(out[-1].sum(), y0)
        errors.append(float((grad - math.exp(-4.0)).abs().max()))
    for key in ("rtol", "atol"):  # those of the solve, the smallest entry
        y0 = start()
        more = {"rtol": 1e-10, "atol": 1e-10, key: torch.tensor([1e-3, 1e-10])}
        out = compat.odeint_adjoint(Growth(-4.0), y0, times(n=2).detach(), adjoint_method="bosh3", **more)
        (grad,) = torch.autograd.grad(out[-1].sum(), y0)
        errors.append(float((grad - math.exp(-4.0)).abs().max()))
    assert max(errors[1:]) < 1e-8 < errors[0] < 1e-2


def test_the_norm_gets_the_state_of_the_adjoint_equation() -> None:
    """(t, *y, *y_bar, *params), each in its own shape; the solve itself is measured by another norm."""
    seen = set()

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        seen.add(tuple(tuple(x.shape) for x in state))
        return max(x.abs().max() for x in state)

    y0 = start()
    unused = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    f = Growth()
    for given, expected in ((y0, ((2,),)), ((y0[:1], y0[1:].reshape(1, 1)), ((1,), (1, 1)))):
        out = compat.odeint_adjoint(
            f, given, times(), adjoint_params=(f.rate, unused), adjoint_options={"norm": norm}, **TIGHT
        )
        assert not seen
        grads = torch.autograd.grad(sum(x.sum() for x in out), (y0, unused))
        assert seen == {((), *expected, *expected, (), (3, 1))}
        total = sum(math.exp(RATE * i / 3) for i in range(4))
        if given is y0:
            assert (grads[0] - total).abs().max() < 1e-8
        assert not grads[1].any()
        seen.clear()


@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("given", [None, {}, {"norm": "seminorm"}], ids=["none", "empty", "seminorm"])
def test_the_default_norm_of_the_adjoint_and_the_seminorm(given: dict[str, Any] | None, tuples: bool) -> None:
    """By hand: |t|, the norm of the solve, here the largest entry, of y and y_bar, and mean squares of parameters."""
    f, y0 = Growth(), start()
    big = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def largest(y: Any) -> Tensor:
        return max(x.abs().max() for x in y) if tuples else y.abs().max()

    out = compat.odeint_adjoint(
        f,
        (y0,) if tuples else y0,
        times(),
        options={"norm": largest},
        adjoint_options=given,
        adjoint_params=(f.rate, big),
    )
    node = out[0].grad_fn.next_functions[0][0].next_functions[0][0] if tuples else out.grad_fn
    norm = node.adjoint_options["norm"]
    y, scalar = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    assert norm((-4 * scalar, y, y / 4, scalar, y * 0)) == 2.0
    assert norm((scalar, y / 8, y, scalar, y * 0)) == 2.0
    of_params = norm((scalar, y / 8, y / 8, 6 * scalar, torch.tensor([3.0, 4.0])))
    assert of_params == (0.5 if given else pytest.approx(math.sqrt(12.5)))


def steps_of_the_adjoint(norm: Any, tol: float = 1e-6) -> int:
    """Count the steps of an equation in which the integral of a parameter oscillates, and nothing else does."""

    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.amplitude = nn.Parameter(torch.zeros((), dtype=torch.float64))
            self.count = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y + self.amplitude * torch.cos(60 * t)

        def callback_step_adjoint(self, t: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
            self.count += 1

    f = Forced()
    options = {"norm": norm} if norm else {}
    out = compat.odeint_adjoint(f, start(), times(n=2), rtol=tol, atol=tol, adjoint_rtol=tol, adjoint_options=options)
    out[-1].sum().backward()
    # ∫ 2 exp(t - 1.3) cos(60 t) dt, which is no ODE: the seminorm does not see how well it is resolved
    low, high = (math.exp(t - 1.3) * (math.cos(60 * t) + 60 * math.sin(60 * t)) * 2 / 3601 for t in (0.3, 1.3))
    assert f.amplitude.grad is not None and (norm or abs(float(f.amplitude.grad) - (high - low)) < 1e-5)
    return f.count


def test_the_seminorm_leaves_parameters_out_of_the_choice_of_steps() -> None:
    """cos(60 t) has ten periods: nine steps for each at least, where the rest of the state takes few."""
    full, semi = steps_of_the_adjoint(None), steps_of_the_adjoint("seminorm")
    assert semi < 20 < 60 < full
    assert steps_of_the_adjoint(lambda state: state[1].abs().max()) < 20


def test_the_seminorm_alone_leaves_the_gradient_exact() -> None:
    grads = []
    for more in ({}, {"adjoint_options": {"norm": "seminorm"}}):
        y0 = start()
        out = compat.odeint_adjoint(Growth(), y0, times(), rtol=1e-2, atol=1e-2, **more)
        grads += torch.autograd.grad(out.sum(), y0)
    assert torch.equal(*grads)


def test_a_norm_put_into_the_node_asks_for_the_adjoint_equation() -> None:
    y0, calls = start(), []
    out = compat.odeint_adjoint(Growth(), y0, times(), **TIGHT)
    node: Any = out.grad_fn
    default = node.adjoint_options["norm"]

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        calls.append(len(state))
        return default(state)

    node.adjoint_options["norm"] = norm
    (grad,) = torch.autograd.grad(out[-1].sum(), y0, retain_graph=True)
    assert (grad - math.exp(RATE)).abs().max() < 1e-8 and {*calls} == {4}
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(out[-1].sum(), y0, create_graph=True)
    with torch.no_grad():
        out.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        torch.autograd.grad(out, y0, torch.ones_like(out))


def test_options_of_the_solve_hold_for_the_adjoint_equation() -> None:
    """y' = ±y on either side of a jump: named, few steps are wasted on it in either direction."""
    counts = []
    for options in (None, {"jump_t": torch.tensor([0.77], dtype=torch.float64)}):
        calls: list[float] = []

        def f(t: Tensor, y: Tensor, calls: list[float] = calls) -> Tensor:
            calls.append(float(t))
            return torch.where(t < 0.77, y, -y)

        y0 = start()
        out = compat.odeint_adjoint(f, y0, times(n=2).detach(), options=options, adjoint_rtol=1e-8, adjoint_params=())
        calls.clear()
        (grad,) = torch.autograd.grad(out[-1].sum(), y0)
        assert (grad - math.exp(0.47 - 0.53)).abs().max() < 1e-6
        counts.append(len(calls))
    assert 2 * counts[1] < counts[0]


def test_complex_states_and_parameters() -> None:
    rate = torch.tensor(-0.3 + 1.1j, dtype=torch.complex128, requires_grad=True)
    shift = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128, requires_grad=True)
    grads = []
    for solve, more in (
        (compat.odeint, {}),
        (compat.odeint_adjoint, {"adjoint_params": (rate, shift), "adjoint_rtol": 1e-10}),
    ):
        out = solve(lambda t, y: rate * y * torch.cos(t) + shift, y0, times().detach(), **TIGHT, **more)
        grads.append(torch.autograd.grad(out.abs().sum(), (y0, rate, shift)))
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("of_state, of_rate", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_dtypes_of_state_and_parameters_are_kept(of_state: torch.dtype, of_rate: torch.dtype) -> None:
    f, y0 = Growth(dtype=of_rate), start(of_state)
    out = compat.odeint_adjoint(f, y0, times().float(), rtol=1e-5, atol=1e-5, adjoint_rtol=1e-5)
    assert out.dtype == of_state
    by_y0, by_rate = torch.autograd.grad(out[-1].sum(), (y0, f.rate))
    assert (by_y0.dtype, by_rate.dtype) == (of_state, of_rate)
    assert (by_y0 - math.exp(RATE)).abs().max() < 1e-4 and abs(by_rate - sum(START) * math.exp(RATE)) < 1e-4


def test_a_parameter_may_be_an_intermediate_result() -> None:
    seed = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = seed**2
    y0 = start()
    out = compat.odeint_adjoint(lambda t, y: rate * y, y0, times(), adjoint_params=(rate,), adjoint_rtol=1e-9, **TIGHT)
    (grad,) = torch.autograd.grad(out[-1].sum(), seed)
    assert abs(grad - 2 * 0.5 * sum(START) * math.exp(0.25)) < 1e-7


def test_events_through_the_adjoint_equation() -> None:
    """exp(θ (t - t0)) y0 = 2 y0 at t0 + log(2) / θ."""
    f, y0 = Growth(0.5), torch.ones(1, dtype=torch.float64, requires_grad=True)
    t0 = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    interface = partial(compat.odeint_adjoint, adjoint_rtol=1e-9, adjoint_atol=1e-9)
    event_t, rows = compat.odeint_event(f, y0, t0, event_fn=lambda t, y: y - 2, odeint_interface=interface, **TIGHT)
    by_rate, by_y0, by_t0 = torch.autograd.grad(event_t, (f.rate, y0, t0), retain_graph=True)
    assert abs(event_t - 0.3 - 2 * math.log(2)) < 1e-8
    assert abs(by_rate + math.log(2) / 0.25) < 1e-6 and abs(by_y0 + 2) < 1e-6 and abs(by_t0 - 1) < 1e-6
    assert torch.autograd.grad(rows[-1].sum(), f.rate)[0].abs() < 1e-6
    time, rows = interface(f, y0, torch.tensor([0.3, 1.0]).double(), event_fn=lambda t, y: y - 2, **TIGHT)
    assert not torch.autograd.grad(time, f.rate, retain_graph=True)[0]
    assert abs(torch.autograd.grad(rows[-1].sum(), y0)[0] - 2) < 1e-7


@pytest.mark.parametrize("method, options, counted", [("dopri5", {}, 3), ("rk4", {"step_size": 0.1}, 1)])
def test_callbacks_of_the_adjoint_equation(method: str, options: dict[str, Any], counted: int) -> None:
    names = ("callback_step", "callback_accept_step", "callback_reject_step")
    calls: dict[str, list[Any]] = {name: [] for name in names[:counted]}
    f = Growth()
    for name, own in calls.items():
        setattr(f, f"{name}_adjoint", lambda t, state, dt, own=own: own.append((float(t), state, float(dt))))
    y0 = start()
    t = torch.tensor([0.0, 1.0])
    out = compat.odeint_adjoint(f, (y0,), t, adjoint_method=method, adjoint_options=options)
    out[0].sum().backward()
    first, state, dt = calls[names[0]][0]
    assert first == 1.0 and dt > 0 and [tuple(x.shape) for x in state] == [(), (2,), (2,), ()]
    if counted == 1:
        assert len(calls[names[0]]) == 10
    else:
        assert len(calls[names[0]]) == len(calls[names[1]]) + len(calls[names[2]]) > 1


def test_it_agrees_with_torchdiffeq() -> None:
    grads = []
    for library in (torchdiffeq, compat):
        f, y0, t = Growth(), start(), times()
        out = library.odeint_adjoint(f, y0, t, adjoint_rtol=1e-10, adjoint_atol=1e-10, **TIGHT)
        grads.append(torch.autograd.grad(out.cos().sum(), (y0, t, f.rate)))
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-8)


# What cannot be done


def solve(**change: Any) -> Any:
    arguments = {"func": Growth(), "y0": start(), "t": times()} | change
    return compat.odeint_adjoint(**arguments)


def test_errors() -> None:
    with pytest.raises(
        compat.ArgumentError, match=r"adjoint_atol must have one entry for each of the 4 tensors of \(t, y"
    ):
        solve(adjoint_atol=(1e-6, 1e-8))
    with pytest.raises(compat.ArgumentTypeError, match="adjoint_atol must be a number or a tensor"):
        solve(adjoint_atol="small")
    with pytest.raises(compat.SolveError, match=r"in the adjoint equation.*max_num_steps exceeded"):
        solve(adjoint_options={"max_num_steps": 1}).sum().backward()
    out = solve(adjoint_rtol=1e-6)
    with pytest.raises(RuntimeError, match=r"no derivatives by create_graph=True: leave out adjoint_rtol"):
        torch.autograd.grad(out.sum(), out.grad_fn.next_functions[0][0].variable, create_graph=True)

    f, t = Growth(), times()

    def end(y: Tensor) -> Tensor:
        last: Tensor = compat.odeint_adjoint(f, y, t, adjoint_rtol=1e-6)[-1]
        return last

    with pytest.raises(RuntimeError, match=r"no derivatives by transforms of torch.func.*leave out adjoint_rtol"):
        torch.func.grad(lambda y: end(y).sum())(start())
    with pytest.raises(RuntimeError):  # torch's own, where it batches cotangents outside torch.func
        torch.autograd.functional.jacobian(end, start(), vectorize=True)
    jacobian = torch.autograd.functional.jacobian(end, start())
    assert isinstance(jacobian, Tensor) and (jacobian - math.exp(RATE) * torch.eye(2)).abs().max() < 1e-4


def test_warnings() -> None:
    def norm(state: Any) -> Tensor:
        return state[1].abs().max()

    with pytest.warns(UserWarning, match=r"adjoint_options\['norm'\] is not used by 'scipy_solver'") as caught:
        solve(method="scipy_solver", adjoint_options={"norm": norm})
    with pytest.warns(UserWarning, match=r"options\['norm'\] is not used by 'scipy_solver'") as of_solve:
        solve(method="scipy_solver", options={"norm": norm})
    with pytest.warns(UserWarning, match="adjoint_params that need no gradient are left out") as frozen:
        solve(adjoint_params=(torch.zeros(2),), adjoint_options={"norm": norm})
    assert {record.filename for record in (*caught, *of_solve, *frozen)} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(adjoint_params=(torch.zeros(2),), adjoint_options={"norm": "seminorm"})
        solve(method="scipy_solver", adjoint_rtol=1e-6).sum().backward()
