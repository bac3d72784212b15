"""All gradient modes, on random networks, dampings, horizons and output grids."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenarios import pulled_back
from torch import nn

from hbode import GeneralizedHeavyBall, HeavyBall, hbodeint
from hbode.gradients import Backprop, ContinuousAdjoint, DiscreteAdjoint, Reversible

FINE = {"rtol": 1e-9, "atol": 1e-11}


@st.composite
def problems(draw):
    """A system, its first state, and times that may repeat."""
    seed = draw(st.integers(0, 2**20))
    dim, width, batch = draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    gain = draw(st.floats(0.2, 2.0))
    rng = torch.Generator().manual_seed(seed)
    inner, outer = nn.Linear(dim, width).double(), nn.Linear(width, dim).double()
    with torch.no_grad():
        for p in (*inner.parameters(), *outer.parameters()):
            p.copy_(gain * torch.randn(p.shape, generator=rng, dtype=torch.float64) / p.shape[-1] ** 0.5)
    activation = draw(st.sampled_from([torch.tanh, torch.sin, nn.functional.silu]))

    def f(t, h):
        return outer(activation(inner(h) + torch.sin(t)))

    gamma = draw(st.floats(0.01, 0.95))
    if draw(st.booleans()):
        system = HeavyBall(f, gamma).double()
    else:
        xi, sigma = draw(st.floats(0.1, 1.0)), draw(st.sampled_from(["tanh", None]))
        system = GeneralizedHeavyBall(f, gamma, xi, sigma).double()
    parts = draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
    span = draw(st.floats(0.3, 4.0)) * draw(st.sampled_from([1.0, -0.3]))
    times = torch.tensor([0.0, *parts], dtype=torch.float64).cumsum(0)
    times = times / times[-1].clamp(min=0.1) * span
    h0 = torch.randn(batch, dim, generator=rng, dtype=torch.float64)
    own = (p for name, p in system.named_parameters() if name in ("omega", "chi"))
    return system, h0, times, (*inner.parameters(), *outer.parameters(), *own)


def gradients(problem, mode, **call):
    system, h0, times, wanted = problem
    h0 = h0.clone().requires_grad_()
    sol = hbodeint(system, h0, times, gradient=mode, **call)
    return [x if x is not None else torch.zeros(()) for x in pulled_back([sol.h, sol.m], (h0, *wanted))]


def assert_close(first, second, relative):
    """Equal relative to the largest entry of all: a gradient may vanish altogether."""
    size = max(x.abs().max().item() for x in second)
    for a, b in zip(first, second, strict=True):
        assert (a - b).abs().max().item() <= relative * size


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_modes_agree(problem):
    exact = gradients(problem, Backprop(), **FINE)
    assert_close(gradients(problem, DiscreteAdjoint(), **FINE), exact, 1e-10)
    for a, b in zip(
        gradients(problem, DiscreteAdjoint(), **FINE), gradients(problem, DiscreteAdjoint(3), **FINE), strict=True
    ):
        assert torch.equal(a, b)
    assert_close(gradients(problem, ContinuousAdjoint(), **FINE), exact, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no drift
        reversed_ = gradients(problem, Reversible(), **FINE)
    assert_close(reversed_, gradients(problem, Backprop(), options={"coupling": 0.999}, **FINE), 1e-9)
