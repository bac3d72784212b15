"""A solve has the dtype of its state, whatever torch's default dtype is."""

from __future__ import annotations

import warnings

import pytest
import torch

import hbode.compat as torchdiffeq
from hbode import METHODS, FirstOrder, HeavyBall, hbodeint
from hbode.solvers import Auto, Chebyshev, Implicit

T = [0.0, 0.3, 1.0]
SAME_STEPS = {"step_size": 0.25}
COMPAT = [
    *("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver"),
    *("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams"),
    *("implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2", "radauIIA3", "radauIIA5", "gl4", "gl6"),
]
NEEDS_DIGITS = {name for name, method in METHODS.items() if isinstance(method, Implicit | Auto | Chebyshev)}


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def default(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def start(dtype):
    """Return a state and rates, the same numbers in each dtype that can hold them."""
    h0, rates = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.complex128)
    if dtype.is_complex:
        rates = rates + torch.tensor([0.5j, -0.25j], dtype=torch.complex128)
        return h0.to(dtype).requires_grad_(), rates.to(dtype)
    return h0.to(dtype).requires_grad_(), rates.real.to(dtype)


def solved(method, dtype, **call):
    """Return the last state and the gradient of the sum of its parts, in double precision."""
    h0, rates = start(dtype)
    system = (HeavyBall if METHODS[method].damped else FirstOrder)(lambda t, h: -rates * h)
    h = hbodeint(system, h0, T, method=method, **call).h
    h0.grad = None
    h[-1].abs().sum().backward()
    assert h.dtype == h0.grad.dtype == dtype
    return h[-1].detach().to(torch.complex128), h0.grad.to(torch.complex128)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_dtype(default, method):
    for single, double in ((torch.float32, torch.float64), (torch.complex64, torch.complex128)):
        expected = solved(method, double, options=SAME_STEPS)
        # four steps of up to a hundred operations on numbers of about one; what an inner solver leaves is 1e-6
        close = {"rtol": 0, "atol": 5e-5}
        torch.testing.assert_close(solved(method, single, options=SAME_STEPS), expected, **close)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.error_order is not None])
def test_every_error_control_in_every_dtype(default, method):
    double = solved(method, torch.float64, rtol=1e-3, atol=1e-3)
    single = solved(method, torch.float32, rtol=1e-3, atol=1e-3, per_sample=True)
    torch.testing.assert_close(single, double, rtol=0, atol=0.1)  # two solves within some tens of their tolerance


@pytest.mark.parametrize("method", COMPAT)
def test_compat(default, method):
    results = []
    for dtype in (torch.float32, torch.float64, torch.complex64):
        if method == "scipy_solver" and dtype.is_complex:
            continue
        y0, rates = start(dtype)
        y = torchdiffeq.odeint(
            lambda t, y, rates=rates: -rates * y,
            y0.detach(),
            torch.linspace(0, 1, 5),
            rtol=1e-5,
            atol=1e-6,
            method=method,
        )
        assert y.dtype == dtype
        results.append(y[-1].to(torch.complex128))
    # the tolerance, or rounding where the steps are the same
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_works_or_says_why_not(method, dtype):
    if method in NEEDS_DIGITS:
        with pytest.raises(TypeError, match=f"h0 must have more digits than {dtype}"):
            solved(method, dtype)
        return
    expected = solved(method, torch.float64, options=SAME_STEPS)
    # four steps of some ten operations, each within half an eps of numbers up to one
    atol = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(solved(method, dtype, options=SAME_STEPS), expected, rtol=0, atol=atol)


def test_a_tolerance_that_half_precision_cannot_meet():
    h0 = torch.ones(2, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="rtol=1e-05 is finer than h0"):
        hbodeint(lambda t, h: -h, h0, T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hbodeint(lambda t, h: -h, h0, T, rtol=0.05, atol=0.05)
        hbodeint(lambda t, h: -h, h0, T, method="rk4")
    with pytest.warns(UserWarning, match="rtol=1e-07 is finer than y0"):
        torchdiffeq.odeint(lambda t, y: -y, h0, torch.tensor(T))


def test_half_precision_in_compat():
    for method in ("gl4", "implicit_euler"):
        with pytest.raises(torchdiffeq.ArgumentTypeError, match=r"y0 must have more digits than torch\.float16"):
            torchdiffeq.odeint(lambda t, y: -y, torch.ones(2, dtype=torch.float16), torch.tensor(T), method=method)
