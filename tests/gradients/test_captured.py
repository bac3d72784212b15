"""Whatever the field differentiates through is found without being named, and never silently dropped."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hbode import Event, FirstOrder, HeavyBall, compat, hbodeint

T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
GLOBAL = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
GLOBAL = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
ELSEWHERE = SimpleNamespace(late=torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True))


def leaf():
    return torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(leaf())

    def forward(self, t, h):
        return torch.sin(h * self.w)

    def method(self, t, h):
        return torch.sin(h * self.w)


class Plain:
    """Callable, with its tensor as an attribute, and no module."""

    def __init__(self, w):
        self.w = w

    def __call__(self, t, h):
        return torch.sin(h * self.w)

    def method(self, t, h):
        return torch.sin(h * self.w)


@dataclass
class Settings:
    w: torch.Tensor


def by_closure(w):
    return lambda t, h: torch.sin(h * w)


def by_nested_closure(w):
    def inner(h):
        return torch.sin(h * w)

    return lambda t, h: inner(h)


def by_default_argument(w):
    def f(t, h, w=w):
        return torch.sin(h * w)

    return f


def by_non_leaf(w):
    doubled = 2 * w
    return lambda t, h: torch.sin(h * (doubled - w))


def in_a_frozen_module(w):
    module = Module()
    module.w = nn.Parameter(torch.zeros_like(w), requires_grad=False)
    return lambda t, h: torch.sin(h * w) + module(t, h)


def module_with(w):
    module = Module()
    module.w = nn.Parameter(w)
    return module


WAYS = {
    "closure": by_closure,
    "nested closure": by_nested_closure,
    "default argument": by_default_argument,
    "closure over a list": lambda w: (lambda items: lambda t, h: torch.sin(h * items[0]["w"]))([{"w": w}]),
    "closure over an object": lambda w: (lambda s: lambda t, h: torch.sin(h * s.w))(Settings(w)),
    "partial": lambda w: functools.partial(lambda w, t, h: torch.sin(h * w), w),
    "partial with keywords": lambda w: functools.partial(lambda t, h, w: torch.sin(h * w), w=w),
    "callable object": Plain,
    "bound method": lambda w: Plain(w).method,
    "closure over a bound method": lambda w: (lambda g: lambda t, h: g(t, h))(Plain(w).method),
    "tensor that is no leaf": by_non_leaf,
    "beside a frozen module": in_a_frozen_module,
}


def gradient_of(f, w, mode, **options):
    h0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    h, _ = hbodeint(f, h0, T, gradient=mode, options={"step_size": 0.2, **options})
    (bar,) = torch.autograd.grad(h.square().sum(), w, retain_graph=True)  # the field may hold a graph
    return bar


def assert_found(f, w):
    found, expected = (gradient_of(f, w, mode) for mode in ("discrete_adjoint", "backprop"))
    assert expected.abs().max() > 0
    # Both modes do the same operations in another order: 5 steps of some 100 operations with rounding 1e-16.
    assert torch.allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_tensors_of_a_function(way):
    w = leaf()
    assert_found(WAYS[way](w), w)


@pytest.mark.parametrize("way", ["module", "bound method", "closure", "partial", "list"])
def test_parameters_of_a_module(way):
    module = Module()
    f = {
        "module": module,
        "bound method": module.method,
        "closure": lambda t, h: module(t, h),
        "partial": functools.partial(lambda m, t, h: m(t, h), module),
        "list": (lambda modules: lambda t, h: modules[0](t, h))([module]),
    }[way]
    assert_found(f, module.w)


def test_globals():
    assert_found(lambda t, h: torch.sin(h * GLOBAL), GLOBAL)


def test_parameters_under_a_system():
    module = Module()
    system = HeavyBall(module).double()
    assert_found(system, module.w)
    assert_found(system, system.omega)


def test_a_tensor_out_of_reach_used_only_late_is_refused():
    """It is neither held by the field nor used at the first time: no gradient rather than a wrong one."""
    w = leaf()

    def f(t, h):
        return torch.sin(h * w) if t < 0.5 else torch.sin(h * w * ELSEWHERE.late)

    h, _ = hbodeint(f, torch.ones(1, 2, dtype=torch.float64), T)
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(2,\) that needs a gradient .* Pass it through args="):
        h.sum().backward()
    h, _ = hbodeint(f, torch.ones(1, 2, dtype=torch.float64), T, gradient="backprop")
    assert torch.autograd.grad(h.sum(), ELSEWHERE.late)[0].abs().max() > 0


def test_a_tensor_out_of_reach_is_refused_where_nothing_else_needs_a_gradient():
    def f(t, h):
        return torch.sin(h) if t < 0.5 else torch.sin(h * ELSEWHERE.late)

    h0 = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(2,\) that needs a gradient .* Pass it through args="):
        hbodeint(f, h0, T)
    assert hbodeint(f, h0, T, gradient="backprop").h.requires_grad
    with torch.no_grad():
        assert not hbodeint(f, h0, T).h.requires_grad


def test_a_global_used_only_late_is_found():
    def f(t, h):
        return torch.sin(h) if t < 0.5 else torch.sin(h * GLOBAL)

    assert_found(f, GLOBAL)


def test_a_leaf_used_only_late_is_found_where_the_field_holds_it():
    w, late = leaf(), leaf()

    def f(t, h):
        return torch.sin(h * w) if t < 0.5 else torch.sin(h * late)

    assert_found(f, late)


def test_a_leaf_that_is_never_used_has_no_gradient():
    w, idle = leaf(), leaf()
    f = Plain(w)
    f.idle = idle
    h, _ = hbodeint(f, torch.ones(1, 2, dtype=torch.float64), T)
    assert torch.autograd.grad(h.sum(), idle, allow_unused=True) == (None,)


def test_tensors_of_an_event_function():
    """The time of the event h = c of h' = 1 is c: its gradient is one, by the implicit function."""
    c = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    sol = hbodeint(
        FirstOrder(lambda t, h: torch.ones_like(h)),
        torch.zeros(1, dtype=torch.float64),
        [0.0, 1.0],
        event=Event(lambda t, h: h[0] - c),
        method="dopri5",
    )
    (bar,) = torch.autograd.grad(sol.events[0].t.sum(), c)
    assert bar.item() == pytest.approx(1.0, abs=1e-12)  # an interpolant of a straight line: rounding only


def test_args():
    """Tensors pass with their gradients, whatever else is among the arguments."""
    w, v = leaf(), leaf()

    def f(t, h, scale, w, name, v):
        assert name == "sine"
        return scale * torch.sin(h * w) * v

    h0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    grads = []
    for mode in ("discrete_adjoint", "backprop"):
        h, _ = hbodeint(f, h0, T, args=(2.0, w, "sine", v), gradient=mode, options={"step_size": 0.2})
        grads.append(torch.autograd.grad(h.sum(), (w, v)))
    for found, expected in zip(*grads, strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(found, expected, rtol=1e-12, atol=0)


def test_args_that_are_no_leaves():
    """Gradients go through to what the argument was made from, once."""
    w = leaf()
    bars = []
    for mode in ("discrete_adjoint", "backprop"):
        h, _ = hbodeint(
            lambda t, h, a: torch.sin(h * a), torch.ones(1, 2, dtype=torch.float64), T, args=(3 * w,), gradient=mode
        )
        bars.append(torch.autograd.grad(h.sum(), w)[0])
    assert torch.allclose(*bars, rtol=1e-10, atol=0)
    assert bars[0].abs().max() > 0


def test_one_tensor_in_two_places():
    """As h0, as an argument and in the closure: the gradients add up."""
    w = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    bars = []
    for mode in ("discrete_adjoint", "backprop"):
        h, _ = hbodeint(
            lambda t, h, a: torch.sin(h * w) * a, w, T, args=(w,), gradient=mode, options={"step_size": 0.2}
        )
        bars.append(torch.autograd.grad(h.sum(), w)[0])
    assert torch.allclose(*bars, rtol=1e-12, atol=0)


def own_time(w):
    def f(t, h):
        t.requires_grad_()
        return torch.tanh(h * w) * torch.sin(t)

    return f


def own_state(w):
    def f(t, h):
        with torch.enable_grad():
            x = h.detach().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(x * w).sum(), x, create_graph=True)
        return torch.tanh(h) - slope

    return f


def own_trace(w):
    """As flows that take the trace of their Jacobian do."""

    def f(t, h):
        with torch.enable_grad():
            h.requires_grad_()
            t.requires_grad_()
            out = torch.tanh(h * w) + t * h
            (slope,) = torch.autograd.grad(out[:, 0].sum(), h, create_graph=True)
        return out * slope[:, :1]

    return f


def own_parameters(w):
    """As a field does that makes a module in each call: no operation gives a parameter itself."""

    def f(t, h):
        first, second = (torch.nn.Parameter(torch.full((2, 2), x, dtype=h.dtype)) for x in (0.3, -0.2))
        return torch.tanh(h @ first * w) + torch.sin(h @ second)

    return f


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("mode", ["discrete_adjoint", "continuous_adjoint", "reversible", "odeint", "odeint_adjoint"])
@pytest.mark.parametrize("kind", [own_time, own_state, own_trace, own_parameters])
def test_a_field_may_make_leaves_of_its_own(kind, mode, create_graph):
    w = leaf()
    h0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    call = {"rtol": 1e-8, "atol": 1e-8}
    if mode.startswith("odeint"):
        more = {"adjoint_params": (w,)} if mode == "odeint_adjoint" else {}
        h = getattr(compat, mode)(kind(w), h0, T, **call, **more)
    else:
        h = hbodeint(FirstOrder(kind(w)), h0, T, gradient=mode, **call).h
    if create_graph and mode == "continuous_adjoint":
        pytest.skip("it has first derivatives only")
    (found,) = torch.autograd.grad(h[-1].sum(), w, create_graph=create_graph)
    h = hbodeint(FirstOrder(kind(w)), h0, T, gradient="backprop", **call).h
    (expected,) = torch.autograd.grad(h[-1].sum(), w)
    assert torch.allclose(found, expected, rtol=1e-5)  # the modes are exact for solves of their own, to 1e-8


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("mode", ["discrete_adjoint", "reversible", "continuous_adjoint"])
def test_an_intermediate_result_of_what_the_field_uses_too(mode, create_graph):
    """The weights are in the field and behind what it holds: each way counts once."""
    if create_graph and mode == "continuous_adjoint":
        pytest.skip("it has first derivatives only")
    bars = []
    for gradient in (mode, "backprop"):
        w = leaf()
        held = torch.tanh(3 * w)
        options = {"coupling": 0.999} if mode == "reversible" and gradient == "backprop" else {}
        f = FirstOrder(lambda t, h, w=w, held=held: torch.sin(h * w) * held)
        h = hbodeint(f, torch.ones(1, 2, dtype=torch.float64), T, gradient=gradient, options=options, rtol=1e-9).h
        (bar,) = torch.autograd.grad(h[-1].square().sum(), w, create_graph=create_graph)
        bars.append(torch.autograd.grad(bar.square().sum(), w)[0] if create_graph else bar)
    assert torch.allclose(*bars, rtol=1e-6 if mode == "continuous_adjoint" else 1e-9)


def test_what_is_behind_an_intermediate_result_is_differentiated_once():
    passes = []
    w = leaf()
    encoded = torch.tanh(2 * w)
    encoded.grad_fn.register_hook(lambda *_: passes.append(1))
    h, _ = hbodeint(lambda t, h: torch.sin(h * encoded), torch.ones(1, 2, dtype=torch.float64), [0.0, 5.0])
    h[-1].sum().backward()
    assert len(passes) == 1
    assert w.grad.abs().max() > 0


@pytest.mark.parametrize("dense", [False, True])
def test_a_delay_equation_by_segments(dense):
    """Each segment's field reads the solution of the one before, at its outputs or between them."""
    bars = []
    for gradient in ("discrete_adjoint", "backprop"):
        net = Module()
        h = torch.ones(1, 2, dtype=torch.float64)
        past = torch.ones_like
        for k in range(2 if dense else 5):
            segment = torch.linspace(k, k + 1, 5, dtype=torch.float64)
            system = FirstOrder(lambda t, h, net=net, past=past: net(t, h) + past(t - 1))
            sol = hbodeint(system, h, segment, gradient=gradient, dense=dense, options={"step_size": 0.25})
            if dense:
                past = lambda t, sol=sol: sol(t.double())[0]
            else:
                past = lambda t, rows=sol.h, k=k: rows[min(int((float(t) - k) * 4), 4)]
            h = sol.h[-1]
        bars.append(torch.autograd.grad(h.sum(), net.w)[0])
    assert torch.allclose(*bars, rtol=1e-10)


def test_a_module_whose_graph_is_cut_gets_a_warning():
    class Cut(Module):
        def forward(self, t, h):
            return torch.sin(h * self.w.detach())

    with pytest.warns(RuntimeWarning, match="Cut returned depends on none of its parameters"):
        hbodeint(Cut(), torch.ones(1, 2, dtype=torch.float64), T)
