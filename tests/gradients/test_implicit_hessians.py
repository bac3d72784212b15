"""Second derivatives through implicit steps: those of the implicit function, with its term through the solution."""

from __future__ import annotations

import pytest
import torch

from hbode import METHODS, FirstOrder, hbodeint
from hbode.solvers import Auto, Implicit

D = torch.float64
MODES = ("backprop", "discrete_adjoint")


@pytest.mark.parametrize("gradient", MODES)
def test_one_step_of_implicit_euler(gradient):
    """y = 1 / (1 + w) has y'' = 2 / (1 + w)³: the linear equations are solved to 1e-10."""
    w = torch.tensor(0.8, dtype=D, requires_grad=True)
    sol = hbodeint(
        FirstOrder(lambda t, y: -w * y), torch.ones(1, dtype=D), [0.0, 1.0], method="implicit_euler", gradient=gradient
    )
    (first,) = torch.autograd.grad(sol.h[-1].sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first, w)
    assert first.item() == pytest.approx(-1 / 1.8**2, rel=1e-8)
    assert second.item() == pytest.approx(2 / 1.8**3, rel=1e-8)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["kvaerno5", "esdirk4", "prox_bdf3", "auto"])
def test_of_a_solution_to_a_tight_tolerance(method, gradient):
    """y' = -w y² has y(1) = y0 / (1 + w y0). The Hessian of the steps nears its own within their tolerance."""
    x = torch.tensor([1.0, 0.8], dtype=D, requires_grad=True)
    system, call = FirstOrder(lambda t, y: -x[1] * y * y), {"method": method, "gradient": gradient}
    sol = hbodeint(system, x[:1], [0.0, 1.0], rtol=1e-7, atol=1e-9, **call)
    (first,) = torch.autograd.grad(sol.h[-1].sum(), x, create_graph=True)
    found = torch.stack([torch.autograd.grad(first[i], x, retain_graph=True)[0] for i in (0, 1)])
    y0, w = x.detach().tolist()
    mixed = -2 * y0 / (1 + w * y0) ** 3
    exact = torch.tensor([[-2 * w / (1 + w * y0) ** 3, mixed], [mixed, 2 * y0**3 / (1 + w * y0) ** 3]], dtype=D)
    assert torch.allclose(found, exact, rtol=1e-4)
    assert torch.allclose(found, found.T, rtol=1e-8)


def end_of(method, gradient, reduced, v):
    """A functional of three steps on a grid that moves with its end, of all that can have a gradient."""
    h0, m0, matrix, gamma, a, end = v[:2], v[2:4], v[4:8].view(2, 2), v[8], v[9], v[10]
    t = end * torch.linspace(0, 1, 4, dtype=D)
    call = {"method": method, "gradient": gradient, "rtol": 1e-10, "atol": 1e-12, "args": (a,)}
    call["options"] = {"grid_constructor": lambda f, h, t: t}

    def f(t, h, a):
        return torch.tanh(h @ matrix) + a * torch.sin(t * h)

    if reduced:
        sol = hbodeint(f, h0, t, m0=m0, gamma=gamma, **call)
    else:
        sol = hbodeint(FirstOrder(lambda t, h, a: f(t, h, a) - gamma * torch.sin(h)), h0, t, **call)
    return (sol.h[-1] * torch.tensor([1.0, 2.0], dtype=D)).sum() + sol.h[1].square().sum()


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if isinstance(method, Implicit | Auto)])
def test_products_with_the_hessian_are_differences_of_the_gradient(method, reduced):
    """With respect to h0, m0, parameters, γ, args and t at once; differences of 1e-5 leave some 1e-9."""
    rng = torch.Generator().manual_seed(0)
    v, u = torch.randn(2, 11, dtype=D, generator=rng)
    v[8:] = torch.tensor([0.3, 0.7, 1.1])
    gradient = MODES[len(method) % 2]

    def slope(v, create_graph=False):
        v = v.detach().requires_grad_()
        return v, torch.autograd.grad(end_of(method, gradient, reduced, v), v, create_graph=create_graph)[0]

    at, first = slope(v, create_graph=True)
    (found,) = torch.autograd.grad(first @ u, at)
    eps = 1e-5
    expected = (slope(v + eps * u)[1] - slope(v - eps * u)[1]) / (2 * eps)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
