"""compile=True gives the same solutions, gradients and counts, and compiles once."""

import os
import shutil
import warnings

import pytest
import torch
from scenarios import assert_same
from torch import nn

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, hbodeint
from hbode.models import ODERNN, SolverSettings, hbnode

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="compiling for a CPU needs a C++ compiler",
)


class Net(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, t, h, push=0.0):
        return self.layers(h) * torch.cos(t) + push


def start(batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, generator=generator, dtype=torch.float64, requires_grad=True)


def solved(system, t, compile, inputs, **call):
    """Return the solution and the gradients of a loss of all outputs."""
    call = {"rtol": 1e-6, "atol": 1e-6, **call}
    sol = hbodeint(system, call.pop("h0"), torch.as_tensor(t, dtype=torch.float64), compile=compile, **call)
    loss = (sol.h * torch.sin(1 + sol.h)).mean() + (0 if sol.m is None else sol.m.square().mean())
    return sol, torch.autograd.grad(loss, inputs, allow_unused=True)


def assert_compiled_is_the_same(system, t, inputs, **call):
    eager, eager_grads = solved(system, t, False, inputs, **call)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        compiled, compiled_grads = solved(system, t, True, inputs, **call)
    torch.testing.assert_close(compiled.h, eager.h, rtol=1e-10, atol=1e-12)
    assert_same(compiled_grads, eager_grads, relative=1e-9)
    assert compiled.stats.nfe == eager.stats.nfe
    assert compiled.stats.nfe_backward > 0
    assert abs(compiled.stats.nfe_backward - eager.stats.nfe_backward) <= 1  # the slope at the first time


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_heavy_ball_that_learns_its_damping_compiles_once_for_a_training_run():
    system, h0 = HeavyBall(Net(), 0.3), start()
    system.double()
    inputs = (h0, system.omega, *system.f.layers.parameters())
    before = graphs()
    assert_compiled_is_the_same(system, torch.linspace(0, 4, 30), inputs, h0=h0)
    assert graphs() == before + 2  # forward and backward
    for count, end, tol in ((30, 4.0, 1e-6), (7, 40.0, 1e-4), (50, -3.0, 1e-8)):
        with torch.no_grad():
            for parameter in system.parameters():
                parameter += 0.01
        t = torch.linspace(0, end, count)
        assert_compiled_is_the_same(system, t, inputs, h0=h0, rtol=tol, atol=tol)
    assert graphs() == before + 2


@pytest.mark.slow
def test_generalised_heavy_ball_with_an_argument():
    system, h0 = GeneralizedHeavyBall(Net()), start()
    system.double()
    push = torch.full((3,), 0.2, dtype=torch.float64, requires_grad=True)
    inputs = (h0, push, system.omega, system.chi, *system.f.layers.parameters())
    assert_compiled_is_the_same(system, [0.0, 3.0], inputs, h0=h0, args=(push,))


def test_a_closure_that_is_made_anew_compiles_once():
    net, h0 = Net(), start()

    def system():
        return FirstOrder(lambda t, h: net(t, h) - h)

    inputs = (h0, *net.layers.parameters())
    before = graphs()
    for _ in range(3):
        assert_compiled_is_the_same(system(), torch.linspace(0, 2, 9), inputs, h0=h0)
    assert graphs() == before + 2


@pytest.mark.slow
def test_numbers_are_part_of_the_code_and_tensors_are_not():
    h0 = start()

    def system(rate):
        return FirstOrder(lambda t, h: -rate * torch.sin(h))

    def run(rate):
        expected = hbodeint(system(rate), h0, [0.0, 1.0]).h
        torch.testing.assert_close(hbodeint(system(rate), h0, [0.0, 1.0], compile=True).h, expected)

    with torch.no_grad():
        before = graphs()
        with pytest.warns(RuntimeWarning, match="compiled 3 times for the same shapes(?s:.*)through args="):
            list(map(run, (0.5, 0.6, 0.7)))
        assert graphs() == before + 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(0.8)  # once is enough
            before = graphs()
            for rate in (0.5, 0.6, 0.7):
                run(torch.tensor(rate, dtype=torch.float64))
                hbodeint(
                    FirstOrder(lambda t, h, rate: -rate * torch.sin(h)),
                    h0,
                    [0.0, 1.0],
                    args=(torch.tensor(rate, dtype=torch.float64),),
                    compile=True,
                )
            assert graphs() == before + 2


@pytest.mark.slow
def test_a_field_with_a_preallocated_output():
    h0, buffer = start().detach(), torch.empty(4, 3, dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, h: buffer.copy_(-h * torch.cos(t))), h0, [0.0, 2.0], compile=True)
    torch.testing.assert_close(sol.h, hbodeint(FirstOrder(lambda t, h: -h * torch.cos(t)), h0, [0.0, 2.0]).h)


@pytest.mark.slow
def test_a_fixed_grid_of_several_blocks():
    system, h0 = HeavyBall(Net(), 0.3, trainable=False), start()
    inputs = (h0, *system.f.layers.parameters())
    assert_compiled_is_the_same(system, torch.linspace(0, 4, 80), inputs, h0=h0, method="leapfrog")


@pytest.mark.slow
@pytest.mark.parametrize("per_sample", [False, True])
def test_times_per_sample(per_sample):
    system, h0 = HeavyBall(Net(), 0.3), start()
    system.double()
    inputs = (h0, system.omega, *system.f.layers.parameters())
    spans = torch.tensor([[1.0], [2.0], [-3.0], [0.0]], dtype=torch.float64)
    compiled = []
    for count in (2, 12):
        t = spans * torch.linspace(0, 1, count, dtype=torch.float64) ** 2 + spans
        assert_compiled_is_the_same(system, t, inputs, h0=h0, per_sample=per_sample)
        compiled.append(graphs())
    assert compiled[0] == compiled[1]


@pytest.mark.slow
def test_a_model_compiles():
    torch.manual_seed(0)
    t = torch.rand(3, 9).cumsum(1)
    x = torch.randn(3, 6, 2)
    results = []
    for compile in (False, True):
        torch.manual_seed(1)
        model = ODERNN(hbnode(4, 8), 4, 2, SolverSettings(compile=compile, rtol=1e-5, atol=1e-5))
        prediction = model(t, x)
        loss = prediction.one_step.square().mean() + prediction.forecast.square().mean()
        results.append([prediction.forecast, *torch.autograd.grad(loss, list(model.parameters()))])
    assert_same(results[1], results[0], relative=1e-3)


@pytest.mark.slow
def test_a_model_with_gaps_compiles_once_for_all_of_them():
    torch.manual_seed(0)
    t, x = torch.rand(3, 9, dtype=torch.float64).cumsum(1), torch.randn(3, 6, 2, dtype=torch.float64)
    masks = torch.rand(3, *x.shape) < 0.7
    model = ODERNN(hbnode(4, 8), 4, 2).double()
    results, compiled = [], []
    for compile in (False, True):
        model.solver = SolverSettings(compile=compile, rtol=1e-6, atol=1e-6)
        for mask in masks:
            prediction = model(t, x, mask)
            loss = prediction.one_step.nan_to_num().square().mean() + prediction.forecast.square().mean()
            grads = torch.autograd.grad(loss, list(model.parameters()))
            results.append([prediction.forecast, *grads])
            compiled.append(graphs())
    for a, b in zip(results[:3], results[3:], strict=True):
        assert_same(b, a, relative=1e-9)
    assert compiled[2] < compiled[3] == compiled[5]


@pytest.mark.slow
def test_parameters_that_the_field_does_not_use_have_no_gradient():
    system, h0 = HeavyBall(Net(), 0.3), start()
    system.double()
    _, (grad,) = solved(system, torch.linspace(0, 4, 30), True, (system.f.unused,), h0=h0)
    assert grad is None


@pytest.mark.slow
def test_second_derivatives_of_a_compiled_solve():
    system, h0 = HeavyBall(Net(), 0.3), start()
    system.double()

    def second(compile):
        sol = hbodeint(system, h0, torch.linspace(0, 4, 30), rtol=1e-6, atol=1e-6, compile=compile)
        (first,) = torch.autograd.grad(sol.h.square().mean(), h0, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [h0, *system.f.layers.parameters()])

    assert_same(second(True), second(False), relative=1e-8)


def branching(t, h):
    return -h if h.sum() > 0 else -2 * h


def test_a_field_that_does_not_compile_says_why_once_and_runs():
    h0 = start()
    with pytest.warns(RuntimeWarning, match=r"runs uncompiled: (?s:.*)return -h if h.sum\(\) > 0"):
        sol = hbodeint(branching, h0, [0.0, 1.0], compile=True)
    torch.testing.assert_close(sol.h, hbodeint(branching, h0, [0.0, 1.0]).h)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        hbodeint(branching, h0, [0.0, 1.0], compile=True)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("events", {"event": lambda t, h, m: h.sum() - 100.0}),
        ("points of discontinuity", {"options": {"jump_ts": [0.5]}}),
        ("dense output", {"dense": True}),
        ("gradient='backprop'", {"gradient": "backprop"}),
        ("not all kept", {"options": {"checkpoints": 2}}),
        ("Adams steps", {"method": "implicit_adams"}),
    ],
)
def test_what_is_not_compiled_says_so(match, call):
    net, h0 = Net(), start()
    with pytest.warns(RuntimeWarning, match=match):
        hbodeint(net, h0, torch.linspace(0, 1, 5), compile=True, **call)


@pytest.mark.slow
def test_a_tensor_outside_modules_is_differentiated_uncompiled():
    weight, h0 = torch.eye(3, dtype=torch.float64, requires_grad=True), start()
    system = HeavyBall(lambda t, h: torch.tanh(h @ weight), 0.3, trainable=False)
    _, eager = solved(system, [0.0, 1.0], False, (h0, weight), h0=h0)
    with pytest.warns(RuntimeWarning, match="backward pass runs uncompiled: the field uses a leaf tensor"):
        _, compiled = solved(system, [0.0, 1.0], True, (h0, weight), h0=h0)
    assert_same(compiled, eager)


@pytest.mark.slow
def test_times_that_need_gradients_are_differentiated_uncompiled():
    system, h0 = HeavyBall(Net(), 0.3), start()
    system.double()
    grads = []
    for compile in (False, True):
        t = torch.linspace(0, 4, 30, dtype=torch.float64, requires_grad=True)
        sol = hbodeint(system, h0, t, compile=compile)
        if not compile:
            grads.append(torch.autograd.grad(sol.h.square().mean(), (h0, t)))
            continue
        with pytest.warns(RuntimeWarning, match="backward pass runs uncompiled: the times need gradients"):
            grads.append(torch.autograd.grad(sol.h.square().mean(), (h0, t)))
    assert_same(grads[1], grads[0])


def test_code_that_fails_when_it_runs_is_left(monkeypatch):
    """As that of some networks does with torch 2.13; any other error is the user's to see."""

    def failing(message):
        def run(*args):
            raise RuntimeError(message)

        return lambda *args: run

    f, h0 = Net(), start().detach()
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    eager = hbodeint(HeavyBall(f, 0.3), h0, t).h
    monkeypatch.setattr("hbode.solvers.loops.compiled._compile", failing("aoti_torch_get_data_ptr(x) API call failed"))
    with pytest.warns(RuntimeWarning, match="runs uncompiled: the code that torch .* made of it fails"):
        assert torch.equal(hbodeint(HeavyBall(f, 0.3), h0, t, compile=True).h, eager)
    monkeypatch.setattr("hbode.solvers.loops.compiled._compile", failing("no such thing"))
    with pytest.raises(RuntimeError, match="no such thing"):
        hbodeint(HeavyBall(Net(), 0.3), h0, t, compile=True)
