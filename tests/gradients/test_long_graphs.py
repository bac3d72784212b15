"""Gradients over long graphs, in processes of their own: a graph that cannot be freed kills its process."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

MORE = [pytest.param(name, marks=pytest.mark.slow) for name in ("continuous_adjoint", "reversible")]
START = """
import torch
from hbode import FirstOrder, compat, hbodeint
D = torch.float64
torch.manual_seed(0)
h0, w = torch.randn(2, 2, dtype=D, requires_grad=True), torch.randn(2, 2, dtype=D, requires_grad=True)

def f(t, h):
    return torch.tanh(h @ w) - h

def solved(steps, **call):
    return hbodeint(FirstOrder(f), h0, [0.0, 5.0], options={"step_size": 5.0 / steps}, **call).h[-1].square().sum()
"""


def run(code):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START + dedent(code)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(word) for word in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["discrete_adjoint", *MORE])
def test_a_field_that_closes_over_the_end_of_a_long_graph(gradient):
    """The gradient is that of the same thing given as an argument."""
    found, expected = run(f"""
        x = w
        for i in range(20_000):
            x = 0.5 * x.sin() + w if i % 2 else 1.0001 * x
        for call in ({{}}, {{"args": (x,)}}):
            field = (lambda t, h: torch.tanh(h @ x)) if not call else (lambda t, h, x: torch.tanh(h @ x))
            h = hbodeint(FirstOrder(field), h0, [0.0, 1.0], gradient="{gradient}", **call).h
            (bar,) = torch.autograd.grad(h[-1].sum(), w, retain_graph=True)
            print(bar.norm().item())
        del x, h, field, call
    """)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [pytest.param("backprop", marks=pytest.mark.slow), "discrete_adjoint"])
def test_second_derivatives_over_many_steps(gradient):
    run(f"""
        (bar,) = torch.autograd.grad(solved(2000, method="midpoint", gradient="{gradient}"), h0, create_graph=True)
        torch.autograd.grad(bar.square().sum(), w)
        del bar
    """)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["backprop", "discrete_adjoint", "continuous_adjoint", "reversible", "compat"])
def test_gradients_over_twenty_thousand_steps(gradient):
    """All of them near the same: Euler's method at a step of 1/4000 is off by as much, reversible steps by rounding."""
    exact, found = run(f"""
        print(torch.autograd.grad(solved(200, method="rk4"), w)[0].norm().item())
        if "{gradient}" == "compat":
            y = compat.odeint(f, h0, torch.linspace(0, 5, 20_001, dtype=D), method="euler")[-1].square().sum()
        else:
            y = solved(20_000, method="euler", gradient="{gradient}")
        print(torch.autograd.grad(y, w)[0].norm().item())
        del y
    """)
    assert found == pytest.approx(exact, rel=1e-2)


@pytest.mark.slow
def test_a_gradient_penalty_over_twenty_thousand_steps():
    run("""
        for gradient in ("backprop", "discrete_adjoint"):
            (bar,) = torch.autograd.grad(solved(20_000, method="euler", gradient=gradient), h0, create_graph=True)
            bar.square().sum().backward()
            del bar
        sol = hbodeint(f, h0, [0.0, 10.0], options={"step_size": 10 / 3125})
        (bar,) = torch.autograd.grad(sol.h[-1].sum(), h0, create_graph=True)
        bar.square().sum().backward()
        del bar, sol
    """)
