"""What somebody meets who is new to the package: imports, messages, copies, compilers."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

import hbode
from hbode import METHODS, Event, GeneralizedHeavyBall, HeavyBall, LinearInput, SecondOrder, Update, hbodeint
from hbode.solvers.loops import compiled

ROOT = Path(__file__).resolve().parents[1]
T = torch.linspace(0, 1, 5)


class Pull(nn.Module):
    """-tanh(W h + b), at any time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 2)

    def forward(self, t, h):
        return -torch.tanh(self.linear(h))


# imports --------------------------------------------------------------------------------------------------------------


def test_packages_load_when_they_are_asked_for():
    program = """
import pkgutil, sys, hbode
def walk(package):
    for found in pkgutil.iter_modules(package.__path__):
        if found.ispkg and not found.name.startswith("_"):
            getattr(package, found.name)  # in hbode.analysis also a function of that name
            walk(sys.modules[f"{package.__name__}.{found.name}"])
walk(hbode)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)


def test_what_is_not_there_is_no_attribute():
    for package in (hbode, hbode.models, hbode.timeseries):
        with pytest.raises(AttributeError, match="nothing"):
            package.nothing  # noqa: B018


@pytest.mark.slow
def test_import_takes_little_more_than_that_of_torch():
    # Bytecode is kept, as where packages are installed: without it the sources are compiled at each import.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def seconds(package):
        command = [sys.executable, "-c", f"import {package}"]
        before = os.times()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    seconds("hbode")
    ratios = sorted(seconds("hbode") / seconds("torch") for _ in range(5))
    assert ratios[1] < 1.25, (
        ratios
    )  # 1.13, of which .05 is a collection of all of torch's objects that comes due meanwhile


# messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "h0, remedy",
    [
        (np.zeros(2), r"torch\.as_tensor\(h0\)"),
        (torch.arange(2), r"h0\.float\(\)"),
        ([1.0, 2.0], r"torch\.tensor\(h0\)"),
    ],
)
def test_what_is_no_state_is_told_how_to_become_one(h0, remedy):
    with pytest.raises(TypeError, match=f"h0.*{remedy}"):
        hbodeint(Pull(), h0, T)


def test_a_numpy_momentum_is_told_too():
    with pytest.raises(TypeError, match=r"m0.*torch\.as_tensor\(m0\)"):
        hbodeint(Pull(), torch.zeros(2), T, m0=np.zeros(2))


def test_times_may_be_of_numpy():
    sol = hbodeint(Pull(), torch.zeros(2), np.linspace(0, 1, 5))
    assert sol.h.shape == (5, 2)


@pytest.mark.parametrize("wrap", [lambda f: f, HeavyBall, GeneralizedHeavyBall, hbode.FirstOrder])
@pytest.mark.parametrize("f", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), lambda h: -h])
def test_a_network_of_the_state_alone_is_told_how_it_is_called(wrap, f):
    with pytest.raises(TypeError, match=r"called as f\(t, h\), but .*lambda t, h: net\(h\)"):
        hbodeint(wrap(f), torch.zeros(3, 2), T)


def test_fields_of_other_signatures():
    h0, u = torch.zeros(3, 2), LinearInput(T.double(), torch.zeros(5, 1))
    with pytest.raises(TypeError, match=r"f\(t, h, m\)"):
        hbodeint(SecondOrder(lambda t, h: -h), h0, T)
    with pytest.raises(TypeError, match=r"f\(t, h, u\(t\)\)"):
        hbodeint(lambda t, h: -h, h0, T, inputs=u)
    with pytest.raises(TypeError, match=r"f\(t, h, \*args\)"):
        hbodeint(lambda t, h: -h, h0, T, args=(1.0,))
    for f in (lambda t, h, a=1.0: -a * h, lambda *x: -x[1]):
        assert hbodeint(f, h0, T).h.shape == (5, 3, 2)


# copies ---------------------------------------------------------------------------------------------------------------

CASES = {
    "event": {"event": Event(lambda t, h, m: h.sum() - 5.5)},
    "reset": {"event": Event(lambda t, h, m: h.sum() - 5.5, reset=lambda t, h, m: (h, -m))},
    "update": {"updates": Update(torch.tensor([0.5]), lambda t, h, m: (h, m + 1))},
    "damping": {"gamma": lambda t: 3 / (t + 1)},
    "samples": {"per_sample": True},
    "norm": {"options": {"norm": lambda y: y.abs().max()}},
    "continuous_adjoint": {"gradient": "continuous_adjoint"},
    "backprop": {"gradient": "backprop"},
    "reversible": {"gradient": "reversible"},
} | {name: {"method": name} for name in METHODS}


def same_when_copied(sol, t):
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(sol))))
    # With gradients the original takes the step again, to another rounding.
    tree_map(lambda x, y: torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6), copy(t), sol(t))
    assert copy.stats.nfe == sol.stats.nfe
    return copy


@pytest.mark.parametrize("case", CASES)
def test_a_dense_solution_pickles(case):
    sol = hbodeint(Pull(), torch.ones(3, 2), T, dense=True, **CASES[case])
    same_when_copied(sol, 0.3)


def test_a_solution_of_several_tensors_pickles(recwarn):
    sol = hbodeint(lambda t, h: {k: -x for k, x in h.items()}, {"a": torch.ones(2), "b": torch.ones(3)}, T, dense=True)
    same_when_copied(sol, 0.3)
    assert not recwarn.list


def test_a_copy_says_that_it_left_its_field_behind():
    copy = same_when_copied(hbodeint(lambda t, h: -h, torch.ones(2), T, dense=True), 0.3)
    with pytest.raises(ValueError, match="solve again"):
        hbode.analysis.gradient_flow(HeavyBall(Pull()), copy)


# compilers ------------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """A solve between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.system, self.out = HeavyBall(Pull()), nn.Linear(2, 1)

    def forward(self, x):
        h, _ = hbodeint(self.system, x, torch.linspace(0, 1, 3))
        return self.out(h[-1])


@pytest.mark.slow
def test_torch_compile_leaves_a_solve_as_it_is(recwarn, capfd):
    model, x = Model(), torch.randn(4, 2)
    torch._dynamo.reset()
    fast = torch.compile(model)
    assert torch.equal(fast(x), model(x))
    fast(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not [w for w in recwarn if "hbode" in str(w.filename) or "Dynamo" in str(w.message)]
    assert capfd.readouterr().err.count("\n") < 5


def test_torch_export_is_told_what_to_do():
    with pytest.raises(RuntimeError, match=r"hbodeint cannot be exported.*fixed steps"):
        torch.export.export(Model(), (torch.randn(4, 2),), strict=False)


def test_warnings_point_at_the_line_of_the_caller(recwarn):
    hbodeint(lambda t, h: -h, torch.ones(2), torch.tensor([1e6, 1e6 + 0.5], dtype=torch.float64))
    assert [w.filename for w in recwarn if "dtype of the state" in str(w.message)] == [__file__]


def test_compiling_is_told_of(caplog, monkeypatch):
    """By the logger, with the time it took; here nothing is compiled for real."""
    graphs = iter((0, 1, 1, 1))
    monkeypatch.setattr(compiled, "_graphs", lambda: next(graphs))
    monkeypatch.setattr(compiled, "_compile", lambda *_: lambda x: x)

    def field(t, h):
        return -h

    run = compiled.compiled(field, key=METHODS["dopri5"], subject=field.__code__, device="cpu")
    with caplog.at_level(logging.WARNING, logger="hbode"):
        run(torch.ones(1))
        run(torch.ones(1))
    first, second = (record.getMessage() for record in caplog.records)
    assert "compiling" in first and "field" in first and "ten seconds" in first
    assert "compiled" in second and second.endswith(" s")
