"""Liénard systems: orders against an exact solution, the determinant of a leapfrog, gradients, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from hbode import Lienard, SecondOrder, SplitField, hbodeint, sdeint

SPAN = (0.3, 2.0)


def known() -> Lienard:
    """h = sin(t) φ solves it, with one φ for each channel; the damping of van der Pol, 1 + 2 h², and a negative one."""
    phi = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def f(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        damping = torch.stack((1 + 2 * h[..., 0] ** 2, -0.3 * torch.cos(h[..., 0])), -1)
        exact = torch.sin(t) * phi
        damping_there = torch.stack((1 + 2 * exact[..., 0] ** 2, -0.3 * torch.cos(exact[..., 0])), -1)
        return torch.sin(h) - torch.sin(exact) - exact + damping_there * torch.cos(t) * phi, damping

    return Lienard(f)


def exact(t: float) -> tuple[Tensor, Tensor]:
    phi = torch.tensor([1.0, -0.5], dtype=torch.float64)
    return math.sin(t) * phi, math.cos(t) * phi


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4)).double()

    def forward(self, t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(2 * h).chunk(2, -1)


@pytest.mark.parametrize(("method", "order"), [("leapfrog", 2), ("yoshida4", 4), ("rk4", 4), ("gl4", 4)])
def test_orders(method, order):
    h0, m0 = exact(SPAN[0])
    errors = []
    for n in (16, 32):
        grid = {"step_size": (SPAN[1] - SPAN[0]) / n}
        h, m = hbodeint(known(), h0, SPAN, m0=m0, method=method, options=grid)
        errors.append((torch.stack((h[-1], m[-1])) - torch.stack(exact(SPAN[1]))).abs().max().item())
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.4


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", [None, "prox_bdf3", "kvaerno5", "auto"])
def test_adaptive_methods_find_the_solution(method, per_sample):
    h0, m0 = (x.expand(3, 2) for x in exact(SPAN[0]))
    sol = hbodeint(known(), h0, SPAN, m0=m0, method=method, rtol=1e-6, atol=1e-6, per_sample=per_sample)
    # Local tolerances of 1e-6; BDF methods add some hundred of them up.
    torch.testing.assert_close(sol.h[-1], exact(SPAN[1])[0].expand(3, 2), rtol=0, atol=1e-3)


def test_a_constant_damping_is_that_of_the_heavy_ball(draw):
    h0, m0 = draw(2, 3, 2)
    given = {"m0": m0, "method": "leapfrog", "options": {"step_size": 0.1}}
    ball = hbodeint(lambda t, h: torch.sin(t * h), h0, [0.0, 1.0], gamma=0.7, **given)
    found = hbodeint(
        Lienard(lambda t, h: (torch.sin(t * h), torch.tensor(0.7, dtype=h.dtype))), h0, [0.0, 1.0], **given
    )
    torch.testing.assert_close(found.h, ball.h, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.m, ball.m, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_the_determinant_is_the_product_of_the_dampings(method, draw):
    """Each kick damps by exp(-Γ dt / 2) on both its sides, whatever the force is."""
    f, y0, seen = Network(), draw(4), []

    def told(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        force, damping = f(t, h)
        seen.append(damping.detach().sum())
        return force, damping

    def end(y: Tensor) -> Tensor:
        given = {"m0": y[2:], "method": method, "options": {"step_size": 0.5}, "gradient": "backprop"}
        return torch.cat([x[-1] for x in hbodeint(Lienard(told), y[:2], [0.0, 1.5], **given)])

    jacobian = torch.autograd.functional.jacobian(end, y0)
    w = 1 / (2 - 2 ** (1 / 3))
    lengths = [0.5] * 3 if method == "leapfrog" else [w / 2, 0.5 - w, w / 2] * 3
    ends = pairwise(seen)
    expected = -sum(0.5 * s * (a + b) for s, (a, b) in zip(lengths, ends, strict=True))
    # Rounding; a determinant of a 4 x 4 matrix of entries near one.
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, expected, rtol=0, atol=1e-12)


def test_a_step_back_undoes_a_step(draw):
    h0, m0 = draw(2, 5, 2)
    given = {"method": "leapfrog", "options": {"step_size": 0.25}}
    there = hbodeint(Lienard(Network()), h0, [0.0, 1.0], m0=m0, **given)
    back = hbodeint(Lienard(Network()), there.h[-1], [1.0, 0.0], m0=there.m[-1], **given)
    assert (there.h[-1] - h0).abs().max() > 0.1
    torch.testing.assert_close(torch.stack((back.h[-1], back.m[-1])), torch.stack((h0, m0)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("gradient", ["discrete_adjoint", "reversible"])
def test_gradients_are_those_through_the_graph(gradient, per_sample, draw):
    h0, found = draw(3, 2), {}
    for mode in ("backprop", gradient):
        f = Network()
        given = {"method": "leapfrog", "options": {"step_size": 0.2}, "gradient": mode, "per_sample": per_sample}
        h, m = hbodeint(Lienard(f), h0, [0.0, 0.5, 1.0], **given)
        (h * h + torch.sin(m)).sum().backward()
        found[mode] = torch.cat([x.grad.flatten() for x in f.parameters()])
    torch.testing.assert_close(found[gradient], found["backprop"], rtol=1e-10, atol=1e-11)


def test_continuous_adjoint_tends_to_the_same_gradient(draw):
    h0, found = draw(3, 2), {}
    for mode in ("backprop", "continuous_adjoint"):
        f = Network()
        hbodeint(Lienard(f), h0, [0.0, 1.0], rtol=1e-9, atol=1e-9, gradient=mode).h[-1].sum().backward()
        found[mode] = torch.cat([x.grad.flatten() for x in f.parameters()])
    torch.testing.assert_close(found["continuous_adjoint"], found["backprop"], rtol=1e-6, atol=1e-6)


def test_states_of_several_tensors():
    def f(t: Tensor, h: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (-h[0], -h[1]), (h[0] ** 2, torch.zeros_like(h[1]))

    h0 = torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    sol = hbodeint(Lienard(f), h0, [0.0, 1.0], method="yoshida4", options={"step_size": 0.02})
    # The error of yoshida4 at this step is near 1e-8.
    torch.testing.assert_close(sol.h[1][-1], torch.full((3,), math.cos(1.0)).double(), rtol=0, atol=1e-6)
    alone = hbodeint(SecondOrder(lambda t, h, m: -h - h * h * m), h0[0], [0.0, 1.0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sol.h[0][-1], alone.h[-1], rtol=0, atol=1e-6)


def test_a_field_in_two_parts():
    h0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    parts = SplitField(stiff=lambda t, h: (-50 * h, 2 + h * h), nonstiff=lambda t, h: (torch.cos(t) + 0 * h, -h))
    whole = Lienard(lambda t, h: (torch.cos(t) - 50 * h, 2 + h * h - h))
    found = hbodeint(Lienard(parts), h0, [0.0, 1.0], method="imex_ark4", rtol=1e-8, atol=1e-8)
    expected = hbodeint(whole, h0, [0.0, 1.0], rtol=1e-10, atol=1e-10)
    # Local tolerances of 1e-8 and some hundred steps.
    torch.testing.assert_close(found.h, expected.h, rtol=0, atol=1e-5)


def test_what_does_not_fit_is_told():
    h0 = torch.ones(3)
    cases = [
        (lambda t, h: h, TypeError, "pair, force and damping, got Tensor"),
        (lambda t, h: (h, torch.ones(7)), ValueError, "damping that broadcasts"),
        (lambda t, h: (h, 1.0), TypeError, "damping"),
        (lambda t, h: (h[:1], h), ValueError, "shape of h"),
    ]
    for f, error, match in cases:
        for method in ("dopri5", "leapfrog"):
            with pytest.raises(error, match=match):
                hbodeint(Lienard(f), h0, [0.0, 1.0], method=method)
    with pytest.raises(ValueError, match="Lienard"):
        hbodeint(Lienard(lambda t, h: (h, h)), h0, [0.0, 1.0], method="dprkn6")
    with pytest.raises(ValueError, match="Lienard"):
        sdeint(Lienard(lambda t, h: (h, h)), 0.1, h0, [0.0, 1.0])
