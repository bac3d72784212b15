"""Whether stability holds a step back: known from its stages, told in the stats, acted upon by method="auto"."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hbode import METHODS, FirstOrder, HeavyBall, hbodeint
from hbode.solvers import Auto, Field, Nystrom, RungeKutta
from hbode.solvers.methods.explicit.stiffness import BOUNDARY

PROBED = [name for name, method in METHODS.items() if isinstance(method, RungeKutta | Nystrom) and method.error_order]
RUNGE_KUTTA = [name for name in PROBED if not METHODS[name].damped]


def van_der_pol(mu):
    def f(t, y):
        a, b = y.unbind(-1)
        return torch.stack((b, mu * (1 - a * a) * b - a), -1)

    return FirstOrder(f)


def heat(n=64):
    def f(t, y):
        z = nn.functional.pad(y, (1, 1))
        return (z[..., 2:] - 2 * y + z[..., :-2]) * (n + 1) ** 2

    return f


def hot(n=64):
    x = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]
    return (x * (1 - x) * torch.exp(-20 * (x - 0.3) ** 2)).unsqueeze(0)


def one_step(name, f, dt, y):
    method, field = METHODS[name], Field(f, torch.float64)
    t, dt = (torch.tensor(x, dtype=torch.float64) for x in (0.0, dt))
    with torch.no_grad():
        return method.step(field, t, dt, method.start(field, t, y))


@pytest.mark.parametrize("name", PROBED)
@pytest.mark.parametrize("share", [0.1, 0.9, 3.0])
def test_the_rate_of_a_linear_equation_is_exact(draw, name, share):
    """All stages of y' = λ y are multiples of y, so any combination of them shows λ; μ for Nyström methods."""
    method = METHODS[name]
    dt = 0.1
    rate = share * method.probe.boundary / dt ** (2 if method.damped else 1)
    y = draw(2, 3, 4) if method.damped else draw(3, 4)
    _, stages = one_step(name, lambda t, y: -rate * y, dt, y)
    assert method.stiffness(stages).item() == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("name", PROBED)
def test_the_boundary_is_where_errors_begin_to_grow(name):
    """Powers of one step: bounded just inside, growing by a hundredth a step on the boundary itself."""
    method = METHODS[name]
    for share, grows in ((0.97, False), (1.03, True)):
        rate = share * method.probe.boundary / (0.01 if method.damped else 0.1)
        eye = torch.eye(2, dtype=torch.float64) if method.damped else torch.eye(1, dtype=torch.float64)
        y = eye.unsqueeze(-1)  # (h, m) of two solutions, or one
        states = [one_step(name, lambda t, y, rate=rate: -rate * y, 0.1, column)[0][0] for column in y.unbind(1)]
        growth = np.abs(np.linalg.eigvals(torch.stack(states, 1)[..., 0].numpy())).max()
        assert (growth > 1.01) == grows


def test_known_boundaries():
    """Those of the real axis: Hairer, Wanner (1996), IV.2, for DOPRI5; 1 + z + z²/2 and + z³/6 by their zeros."""
    for name, boundary in (("dopri5", 3.31), ("adaptive_heun", 2.0), ("bosh3", 2.51)):
        assert METHODS[name].probe.boundary == pytest.approx(boundary, rel=0.06)


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_stats_tell_stiff_from_not(net, draw, name):
    """At loose tolerances, such that low orders are held back by stability too."""
    stiff = hbodeint(FirstOrder(heat()), hot(), [0.0, 0.05], method=name, rtol=1e-3, atol=1e-3)
    assert stiff.stats.stiffness > 0.9
    easy = hbodeint(FirstOrder(net()), draw(3, 2), [0.0, 20.0], method=name, rtol=1e-5, atol=1e-5)
    assert easy.stats.stiffness < 0.1


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_stats_of_every_loop(compile, per_sample):
    """Two samples, one of them stiff: the batch is stiff where they step together, one sample where they do not."""
    rate = torch.tensor([[1.0], [300.0]], dtype=torch.float64)
    field = FirstOrder(Relaxation(rate))
    y0 = torch.ones(2, 1, dtype=torch.float64)
    sol = hbodeint(field, y0, [0.0, 5.0], method="dopri5", per_sample=per_sample, compile=compile)
    if per_sample:
        easy, stiff = sol.stats.stiffness
        assert stiff > 0.8
        assert not easy > 0.1
    else:
        assert sol.stats.stiffness > 0.8


class Relaxation(nn.Module):
    """y' = -k (y - cos t), k of each sample its own."""

    def __init__(self, rate):
        super().__init__()
        self.register_buffer("rate", rate)

    def forward(self, t, y):
        return -self.rate * (y - torch.cos(t))


def test_stats_without_a_look():
    y0 = torch.ones(1, dtype=torch.float64)
    for call in ({"method": "rk4"}, {"method": "prox_bdf2"}, {"method": "dopri5", "rtol": 1e-2}):
        assert math.isnan(hbodeint(FirstOrder(lambda t, y: -y), y0, [0.0, 0.1], **call).stats.stiffness)


def test_auto_is_the_explicit_method_where_nothing_is_stiff(net, draw):
    f, h0 = net(), draw(3, 2, grad=True)
    t = torch.linspace(0, 5, 7, dtype=torch.float64)
    for func, name in ((f, "dprkn6"), (FirstOrder(f), "dopri5"), (HeavyBall(f, 0.4), "dprkn6")):
        found = []
        for method in ("auto", name):
            sol = hbodeint(func, h0, t, method=method)
            found.append((sol.h, sol.stats.nfe, *torch.autograd.grad(sol.h.sum(), (h0, *f.parameters()))))
        assert found[0][1] == found[1][1]
        for a, b in zip(*found, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@pytest.mark.slow
def test_auto_goes_there_and_back():
    """Over a period and a half of Van der Pol's relaxation, explicit in the jumps; cheaper than both of its methods."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    call = {"rtol": 1e-6, "atol": 1e-6, "options": {"max_steps": 20000}}
    spent = {name: hbodeint(van_der_pol(200.0), y0, [0.0, 300.0], method=name, **call) for name in ("auto", "kvaerno5")}
    explicit = hbodeint(van_der_pol(200.0), y0, [0.0, 20.0], method="dopri5", **call)
    assert 0.1 < spent["auto"].stats.stiffness < 0.9
    assert spent["auto"].stats.nfe < spent["kvaerno5"].stats.nfe
    assert spent["auto"].stats.nfe < explicit.stats.nfe  # of a fifteenth of the time
    exact = hbodeint(van_der_pol(200.0), y0, [0.0, 300.0], method="scipy:Radau", rtol=1e-10, atol=1e-10).h[-1]
    assert (spent["auto"].h[-1] - exact).abs().max() < 1e-4


@pytest.mark.parametrize("per_sample", [False, True])
def test_auto_sees_stiffness_at_loose_tolerances(per_sample):
    """Diffusion that saturates, on a random graph: stages that differ by the size of the state show half of |λ|.

    Explicit steps stay on the boundary of stability, for 1,196 evaluations; auto, which asks the linearised field,
    takes 350, at an error of the size of the tolerance.
    """
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 50, (2, 250), generator=rng)
    strength = 10 ** (3 * torch.rand(250, 1, generator=rng, dtype=torch.float64) - 1)

    def flow(t, h):
        gap = h[..., b, :] - h[..., a, :]
        flow = strength * gap / (1 + gap.square())
        return torch.zeros_like(h).index_add(-2, a, flow).index_add(-2, b, -flow)

    h0 = torch.randn(1, 50, 4, generator=rng, dtype=torch.float64)
    call = {"rtol": 1e-2, "atol": 1e-2, "per_sample": per_sample}
    explicit, auto = (hbodeint(FirstOrder(flow), h0, [0.0, 1.0], method=name, **call) for name in ("dopri5", "auto"))
    assert np.sum(auto.stats.nfe) < 0.5 * np.sum(explicit.stats.nfe)
    exact = hbodeint(FirstOrder(flow), h0, [0.0, 1.0], method="prox_bdf4", rtol=1e-4, atol=1e-4).h[-1]
    assert (auto.h[-1] - exact).square().mean().sqrt() < 0.1


@pytest.mark.slow
def test_auto_on_a_stiff_heavy_ball():
    """h'' + 40 h' = -1e6 (h - cos t): the reduced equation takes over from dprkn6 when the oscillation has died away.

    Then h is cos t + h'' and h' terms over 1e6, below the tolerance.
    """
    y0 = torch.zeros(1, 2, dtype=torch.float64)

    def f(t, h):
        return -1e6 * (h - torch.cos(t))

    sols = {}
    for method in ("auto", "dprkn6"):
        sols[method] = hbodeint(f, y0, [0.0, 4.0], gamma=40.0, method=method, rtol=1e-4, atol=1e-4)
        assert (sols[method].h[-1] - math.cos(4.0)).abs().max() < 2e-3
    assert sols["auto"].stats.nfe < 0.6 * sols["dprkn6"].stats.nfe
    assert sols["dprkn6"].stats.stiffness > 0.5


def test_auto_decides_for_each_sample():
    """Two samples, one stiff: the other takes the very steps of dopri5."""
    rate = torch.tensor([[1.0], [3000.0]], dtype=torch.float64)
    y0 = torch.tensor([[0.5], [0.0]], dtype=torch.float64)
    sol = hbodeint(FirstOrder(Relaxation(rate)), y0, [0.0, 5.0], method="auto", per_sample=True)
    alone = hbodeint(FirstOrder(Relaxation(rate[:1])), y0[:1], [0.0, 5.0], method="dopri5")
    assert sol.stats.accepted[0] == alone.stats.accepted
    assert (sol.h[-1, 0] - alone.h[-1, 0]).abs().max() < 1e-12
    assert not sol.stats.stiffness[0] > 0.0
    assert sol.stats.stiffness[1] > 0.3  # a few looks, the first steps among them
    assert sol.stats.accepted[1] < 200
    exact = (3000.0**2 * math.cos(5.0) + 3000.0 * math.sin(5.0)) / (3000.0**2 + 1)
    assert abs(sol.h[-1, 1].item() - exact) < 1e-5


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("gradient", ["discrete_adjoint", "backprop"])
def test_gradients_through_the_switch(per_sample, gradient):
    """Against central differences over the same steps: a fixed grid, on which the method switches as well."""
    rate = torch.tensor([[1.0], [140.0]], dtype=torch.float64)

    def solved(scale, y0):
        field = FirstOrder(lambda t, y, scale: -scale * rate * torch.sinh(y - torch.cos(t)))
        options = {"step_size": 0.02, "inner_share": 1e-6}
        sol = hbodeint(
            field,
            y0,
            [0.0, 1.0],
            args=(scale,),
            method="auto",
            per_sample=per_sample,
            gradient=gradient,
            options=options,
        )
        return sol.h[-1].square().sum()

    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[0.5], [0.9]], dtype=torch.float64, requires_grad=True)
    for leaf, grad in zip((scale, y0), torch.autograd.grad(solved(scale, y0), (scale, y0)), strict=True):
        direction = torch.full_like(leaf, 1e-5)
        with torch.no_grad():
            ends = [solved(*(x + s * direction if x is leaf else x for x in (scale, y0))) for s in (1, -1)]
        assert grad.sum().item() == pytest.approx(((ends[0] - ends[1]) / 2e-5).item(), rel=1e-6)


def test_auto_and_what_it_is_made_of():
    assert isinstance(METHODS["auto"], Auto)
    assert BOUNDARY < 1
    with pytest.raises(ValueError, match="options for method 'auto' may be"):
        hbodeint(heat(), hot(), [0.0, 1.0], method="auto", options={"coupling": 0.9})
