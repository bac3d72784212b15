"""What a field returned stays as it was, whatever the field does to that tensor afterwards."""

from __future__ import annotations

import pytest
import torch

import hbode.compat as torchdiffeq
from hbode import METHODS, FirstOrder, HeavyBall, hbodeint
from hbode.solvers import Field

H0 = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
RATES = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)


class Plain:
    """f(t, h) = -rates h cos t, in a new tensor each time."""

    def __call__(self, t, h):
        return -RATES * h * torch.cos(t)


class Buffers(Plain):
    """The same, written to `count` tensors in turn."""

    def __init__(self, count, shape=H0.shape):
        self.buffers = [torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(count)]

    def __call__(self, t, h):
        self.buffers.append(self.buffers.pop(0))
        return self.buffers[0].copy_(super().__call__(t, h))


class Slices(Buffers):
    """The same, in views of one tensor."""

    def __init__(self):
        self.buffers = list(torch.full((2, *H0.shape), torch.nan, dtype=torch.float64))

    def __call__(self, t, h):
        return super().__call__(t, h)[:]


class Numpy(Plain):
    """The same, in the memory of an array, by a new tensor each time."""

    def __init__(self):
        self.array = torch.full(H0.shape, torch.nan, dtype=torch.float64).numpy()

    def __call__(self, t, h):
        self.array[:] = super().__call__(t, h).numpy()
        return torch.from_numpy(self.array)


REUSED = {
    "one": lambda: Buffers(1),
    "two in turn": lambda: Buffers(2),
    "three in turn": lambda: Buffers(3),
    "views": Slices,
    "array": Numpy,
}


def solve(method, f, **call):
    system = HeavyBall(f, 0.4, trainable=False) if METHODS[method].damped else FirstOrder(f)
    fixed = METHODS[method].error_order is None
    options = {"step_size": 0.125} if fixed else {}
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    call = {"rtol": 1e-4, "atol": 1e-6, "options": options, **call}
    with torch.no_grad():
        sol = hbodeint(system, H0, t, method=method, dense=True, **call)
        return torch.cat((sol.h, sol([0.1, 0.9])[0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_comes_again_is_as_good_as_a_new_one(method):
    expected = solve(method, Plain())
    assert torch.equal(solve(method, Buffers(1)), expected)
    assert torch.equal(solve(method, Buffers(3)), expected)


@pytest.mark.parametrize("method", ["dopri5", "dprkn6", "explicit_adams", "kvaerno5"])
@pytest.mark.parametrize("kind", REUSED)
def test_whatever_the_tensor_is(method, kind):
    assert torch.equal(solve(method, REUSED[kind]()), solve(method, Plain()))


@pytest.mark.parametrize("kind", REUSED)
def test_samples_that_step_by_themselves(kind):
    t = torch.tensor([[0.0, 0.4, 1.0], [0.0, 0.3, 2.0], [0.0, 0.1, 0.2]], dtype=torch.float64)
    for call in ({}, {"per_sample": True}):
        rows = [hbodeint(FirstOrder(f), H0, t, **call).h for f in (REUSED[kind](), Plain())]
        assert torch.equal(*rows)


def test_across_a_discontinuity():
    rows = [solve("dopri5", f, options={"jump_ts": [0.2, 0.5]}) for f in (Buffers(2), Plain())]
    assert torch.equal(*rows)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "explicit_adams", "implicit_adams", "gl4", "scipy_solver"])
def test_compat(method):
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    rows = [torchdiffeq.odeint(f, H0, t, method=method) for f in (Buffers(1), Plain())]
    assert torch.equal(*rows)


@pytest.mark.parametrize("f", [lambda t, h: h, lambda t, h: h[:], lambda t, h: h.view(3)])
@pytest.mark.parametrize("method", ["dopri5", "explicit_adams", "prox_bdf2"])
def test_the_argument_itself(method, f):
    assert torch.equal(solve(method, f), solve(method, lambda t, h: h.clone()))


@pytest.mark.parametrize("gradient", ["discrete_adjoint", "backprop"])
def test_gradients(gradient):
    plain, buffer = Plain(), torch.empty_like(H0)
    grads = []
    for f in (plain, lambda t, h: buffer.detach().copy_(plain(t, h))):
        h0 = H0.clone().requires_grad_()
        sol = hbodeint(FirstOrder(f), h0, [0.0, 1.0], gradient=gradient)
        grads.append(torch.autograd.grad(sol.h[-1].square().sum(), h0)[0])
    assert torch.equal(*grads)


def test_a_new_tensor_is_not_copied():
    made = []

    def f(t, h):
        made.append(-h)
        return made[-1]

    field = Field(f, torch.float64)
    t = torch.zeros((), dtype=torch.float64)
    came = [field(t, H0) for _ in range(20)]
    same = [a is b for a, b in zip(came, made, strict=True)]
    assert all(same[3:])
    assert not any(same[:3])
