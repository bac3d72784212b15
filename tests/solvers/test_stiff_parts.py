"""Methods for stiff parts: Runge-Kutta-Chebyshev steps, and additive methods for fields in two parts."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, SolverError, SplitField, Status, hbodeint
from hbode.solvers import METHODS, Field
from hbode.solvers.implicit.dirk import DirkTableau
from hbode.solvers.implicit.imex import ImexTableau
from hbode.solvers.implicit.tables import IMEX
from hbode.solvers.methods.explicit.chebyshev import most, weights

F64 = torch.float64
START = torch.ones(1, dtype=F64)
NEW = ("rkc", "imex_ark3", "imex_ark4")


def driven(rate):
    """y' = k y + (1 - k) cos t - (1 + k) sin t in two parts, whose solution from 1 is sin t + cos t."""
    return SplitField(
        stiff=lambda t, y: rate * (y - torch.cos(t) - torch.sin(t)),
        nonstiff=lambda t, y: torch.cos(t) - torch.sin(t) + torch.zeros_like(y),
    )


def heat(n=32):
    """u_t = u_xx on n points inside the unit interval; the rates of its modes are at most 4 (n + 1)²."""

    def field(t, u):
        padded = nn.functional.pad(u, (1, 1))
        return (padded[..., 2:] - 2 * u + padded[..., :-2]) * (n + 1) ** 2

    return field


def sine(n=32):
    return torch.sin(math.pi * torch.linspace(0, 1, n + 2, dtype=F64)[1:-1])


def slope(counts, errors):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


# Runge-Kutta-Chebyshev


def growth(s, z):
    """Return by what the step of s stages multiplies y' = -z y, dt = 1, for many z, with no estimate of the radius."""
    z = torch.as_tensor(z, dtype=F64)
    field = Field(lambda t, y: -z * y, F64)
    radius = torch.tensor(0.65 * (s**2 - 1) / 1.1 * (1 - 1e-9), dtype=F64)  # of which s stages follow
    t, y = torch.zeros((), dtype=F64), torch.ones_like(z)
    (y1, *_), stages = METHODS["rkc"].step(field, t, t + 1, (y, -z * y, torch.ones_like(z), radius))
    assert field.calls == s + 1  # s - 1 stages, the slope at the end, one power iteration
    return y1


@pytest.mark.parametrize("s", [2, 3, 5, 10, 41, 150])
def test_the_interval_of_stability_is_that_of_theory(s):
    """2/3 (s² - 1) (1 - 2ε/15) with ε = 2/13 (Sommeijer, Shampine, Verwer 1998, (2.7)), to 5 %, and damped inside."""
    z = torch.linspace(0, 1.2 * (s**2 - 1), 200 * s, dtype=F64)
    stable = growth(s, z).abs() <= 1 + 1e-9
    measured = z[int(stable.long().cumprod(0).sum()) - 1].item()
    theory = 2 / 3 * (s**2 - 1) * (1 - 2 / 15 * 2 / 13)
    assert weights(s).interval <= 1.001 * measured and 0.98 * theory < measured
    if s % 2 == 0 or s > 9:  # the last dip of an odd polynomial reaches further, the less the more stages there are
        assert abs(measured / theory - 1) < 0.05
    inside = growth(s, torch.linspace(3.0, weights(s).interval, 2000, dtype=F64)) if s > 3 else torch.zeros(1)
    assert inside.abs().max() < 1 - 2 / 13 / 3 + 0.03


def test_stages_stay_within_what_is_stable():
    """.65 (s² - 1), from which the number of stages is taken, lies inside the interval; nodes lie within the step."""
    for s in (*range(2, 30), 100, most(F64)):
        assert 0.65 * (s**2 - 1) < weights(s).interval
        c = weights(s).c
        assert np.all(np.diff(c) > 0) and c[0] > 0 and c[-1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("s", [3, 4, 9])
def test_the_order_of_chebyshev_steps_is_two_with_any_number_of_stages(s):
    """R(z) = 1 + z + z²/2 + O(z³)."""
    z = torch.tensor([1e-2, 2e-2], dtype=F64)
    left = (growth(s, z) - (1 - z + z**2 / 2)).abs()
    assert left[1] / left[0] == pytest.approx(8.0, rel=0.1)


def test_stages_grow_with_the_root_of_the_step():
    """One mode of the heat equation has a solution that steps of any length follow: only stability counts."""
    u0, rate = sine(64), 4 * 65**2 * math.sin(math.pi / 130) ** 2
    spent = {}
    for steps in (4, 64):
        options = {"step_size": 0.1 / steps}
        sol = hbodeint(FirstOrder(heat(64)), u0, [0.0, 0.1], method="rkc", options=options)
        assert torch.allclose(sol.h[-1], math.exp(-0.1 * rate) * u0, rtol=0, atol=1e-2)
        spent[steps] = sol.stats.nfe
    assert 2 < spent[64] / spent[4] < 5  # the root of 16 is 4; the first estimate costs up to 30


def test_the_radius_is_found_where_the_slope_does_not_show_it():
    """From the smoothest mode, f has no part in the stiff ones; rounding in these would grow without bound."""
    sol = hbodeint(FirstOrder(heat(100)), sine(100), [0.0, 0.2], method="rkc", rtol=1e-6, atol=1e-9)
    decay = math.exp(-0.2 * 4 * 101**2 * math.sin(math.pi / 202) ** 2)
    assert torch.allclose(sol.h[-1], decay * sine(100), rtol=0, atol=1e-5) and sol.stats.rejected < 5
    assert sol.stats.nfe < 0.2 * 6 * 0.2 * 4 * 101**2 / 3.3  # dopri5: six for each 3.3 over the radius


def test_the_radius_is_followed():
    """Rates that grow from 1 to 1e4 on the way, of a solution that stays smooth."""

    def field(t, y):
        rates = torch.logspace(0, 1, 4, dtype=F64) ** (4 * t)
        return -rates * (y - torch.cos(t)) - torch.sin(t)

    sol = hbodeint(FirstOrder(field), torch.ones(4, dtype=F64), [0.0, 1.0], method="rkc", rtol=1e-6, atol=1e-6)
    assert (sol.h[-1] - math.cos(1.0)).abs().max() < 1e-4
    assert sol.stats.rejected <= 5


def test_samples_have_stages_of_their_own():
    """Two rates, 1e3 apart: each sample is what it is alone, to rounding."""
    rates = torch.tensor([[10.0], [1e4]], dtype=F64)
    y0 = torch.ones(2, 3, dtype=F64)

    def solve(rates, y0):
        field = FirstOrder(lambda t, y: -rates * (y - torch.cos(t)))
        return hbodeint(field, y0, [0.0, 1.0], method="rkc", rtol=1e-6, atol=1e-6, per_sample=True)

    both = solve(rates, y0)
    for i in range(2):
        one = solve(rates[i : i + 1], y0[i : i + 1])
        assert both.stats.accepted[i] == one.stats.accepted[0]
        assert torch.allclose(both.h[:, i], one.h[:, 0], rtol=1e-9, atol=1e-9)


def test_more_stages_than_rounding_allows_end_a_fixed_grid_and_shorten_a_chosen_step():
    rate = 2.0 * most(torch.float32) ** 2
    field, y0 = FirstOrder(lambda t, y: -rate * (y - torch.cos(t)) - torch.sin(t)), torch.ones(2)
    with pytest.raises(SolverError, match="more stages than the rounding of its dtype allows"):
        hbodeint(field, y0, [0.0, 1.0], method="rkc", options={"step_size": 1.0})
    sol = hbodeint(field, y0, [0.0, 1.0], method="rkc", rtol=1e-2, atol=1e-2)
    assert sol.stats.status is Status.SUCCESS and sol.stats.accepted >= 4
    assert (sol.h[-1] - math.cos(1.0)).abs().max() < 0.05


# Fields in two parts


@pytest.mark.parametrize("name, order", [("imex_ark3", 3), ("imex_ark4", 4)])
def test_conditions_of_additive_methods(name, order):
    """Σ b = 1, b c = 1/2, …, for every combination of both matrices (Kennedy, Carpenter 2003, section 2)."""
    table = IMEX[name]
    size = len(table.c)
    a, e = (np.array([[*row, *[0.0] * (size - len(row))] for row in rows]) for rows in (table.a, table.explicit))
    c, b = np.array(table.c), np.array(table.b)
    left = [b @ c**2 - 1 / 3, *(b @ m @ c - 1 / 6 for m in (a, e))]
    if order == 4:
        left += [b @ c**3 - 1 / 4, *(b @ (c * (m @ c)) - 1 / 8 for m in (a, e))]
        left += [b @ m @ c**2 - 1 / 12 for m in (a, e)] + [b @ m @ n @ c - 1 / 24 for m in (a, e) for n in (a, e)]
    assert np.abs(left).max() < 1e-13


@pytest.mark.parametrize("name, order", [("imex_ark3", 3), ("imex_ark4", 4)])
@pytest.mark.parametrize("inside", [False, True], ids=["steps", "interpolant"])
def test_order_in_two_parts(name, order, inside):
    """y' = -y² + y cos t, both parts nonlinear or depending on time; y = e^{sin t} / (1 + ∫ e^{sin})."""
    field = SplitField(stiff=lambda t, y: -(y**2), nonstiff=lambda t, y: y * torch.cos(t))
    counts, errors = (10, 16, 24), []
    exact = hbodeint(FirstOrder(field), START, [0.0, 2.0], method="dopri8", rtol=1e-13, atol=1e-13, dense=True)
    for n in counts:
        options = {"step_size": 2.0 / n, "inner_share": 1.0}
        sol = hbodeint(
            FirstOrder(field), START, [0.0, 2.0], method=name, rtol=0.0, atol=1e-13, options=options, dense=True
        )
        t = (torch.arange(n) + 0.4).double() * (2.0 / n) if inside else torch.tensor([2.0], dtype=F64)
        errors.append((sol(t)[0] - exact(t)[0]).abs().max().item())
    assert slope(counts, errors) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("name", ["imex_ark3", "imex_ark4"])
def test_stability_is_that_of_the_nonstiff_part(name):
    """Steps of 0.25 at a rate of 1e6 in the implicit part."""
    options = {"step_size": 0.25}
    sol = hbodeint(FirstOrder(driven(-1e6)), START, [0.0, 10.0], method=name, rtol=1e-5, atol=1e-5, options=options)
    assert sol.h[-1].item() == pytest.approx(math.sin(10.0) + math.cos(10.0), abs=0.03)


@pytest.mark.parametrize(
    "system",
    [
        lambda f: HeavyBall(f, 0.3, trainable=False),
        lambda f: GeneralizedHeavyBall(f, 0.3, 0.5, trainable=False),
        lambda f: GeneralizedHeavyBall(f, 0.3, 0.5, None, trainable=False),
        lambda f: HeavyBall(f, lambda t: 3 / (3 + t)),
    ],
    ids=["heavy ball", "activation", "restoring", "damping of the time"],
)
def test_second_order_systems_in_two_parts(system):
    """The forces add up; damping and ξ h count once."""
    f = SplitField(stiff=lambda t, h: -50 * h, nonstiff=lambda t, h: torch.sin(h.flip(-1) + t))
    call = {"m0": torch.tensor([0.3, -0.2], dtype=F64), "rtol": 1e-8, "atol": 1e-8}
    h0 = torch.tensor([1.0, -0.5], dtype=F64)
    exact = hbodeint(system(f), h0, [0.0, 1.0], method="dopri8", **call)
    sol = hbodeint(system(f), h0, [0.0, 1.0], method="imex_ark4", **call)
    assert torch.allclose(sol.h, exact.h, atol=1e-5) and torch.allclose(sol.m, exact.m, atol=1e-4)


def test_a_field_of_both_position_and_momentum_in_two_parts():
    f = SplitField(stiff=lambda t, h, m: -40 * h - 20 * m, nonstiff=lambda t, h, m: torch.cos(m) * h)
    h0 = torch.tensor([1.0, -0.5], dtype=F64)
    ends = [hbodeint(SecondOrder(f), h0, [0.0, 1.0], method=m, rtol=1e-8, atol=1e-8).h for m in ("dopri8", "imex_ark4")]
    assert torch.allclose(*ends, atol=1e-5)


def test_states_of_several_tensors_in_two_parts():
    f = SplitField(
        stiff=lambda t, h: {"a": -100 * h["a"], "b": -h["b"]},
        nonstiff=lambda t, h: {"a": h["b"].sum() + 0 * h["a"], "b": torch.sin(h["b"])},
    )
    h0 = {"a": torch.ones(2, dtype=F64), "b": torch.ones(3, dtype=F64)}
    ends = [hbodeint(FirstOrder(f), h0, [0.0, 0.3], method=m, rtol=1e-6, atol=1e-6).h for m in ("dopri8", "imex_ark4")]
    assert all(torch.allclose(ends[0][key], ends[1][key], atol=1e-4) for key in "ab")


def test_parts_are_evaluated_apart_and_each_counts():
    calls = {"stiff": 0, "nonstiff": 0}

    def part(name, f):
        def counted(t, y):
            calls[name] += 1
            return f(t, y)

        return counted

    f = driven(-100.0)
    f = SplitField(stiff=part("stiff", f.stiff), nonstiff=part("nonstiff", f.nonstiff))
    sol = hbodeint(FirstOrder(f), START, [0.0, 1.0], method="imex_ark4", options={"step_size": 0.1})
    assert sol.stats.nfe == sum(calls.values())
    assert calls["nonstiff"] == 1 + 6 * 10


def test_a_field_in_one_part_is_stiff_as_a_whole():
    field = FirstOrder(lambda t, y: -50 * (y - torch.cos(t)))
    sols = [hbodeint(field, START, [0.0, 1.0], method=m, rtol=1e-6, atol=1e-6) for m in ("imex_ark4", "esdirk4")]
    assert torch.allclose(sols[0].h, sols[1].h, atol=1e-6)


def test_other_methods_take_the_sum():
    sol = hbodeint(FirstOrder(driven(-20.0)), START, [0.0, 1.0], rtol=1e-8, atol=1e-8)
    assert sol.h[-1].item() == pytest.approx(math.sin(1.0) + math.cos(1.0), abs=1e-6)


# Gradients


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", NEW)
def test_gradients_are_exact(name, per_sample, draw):
    """The discrete adjoint against finite differences of the solve, and against backpropagation, to rounding.

    Steps are given: chosen ones, and with them the number of stages, would change with the difference quotient.
    """
    h0, w, rate = (draw(2, 3, grad=True), draw(3, 3, grad=True), torch.tensor(8.0, dtype=F64, requires_grad=True))
    t = torch.tensor([0.0, 0.35, 0.7], dtype=F64, requires_grad=True)
    f = SplitField(
        stiff=lambda t, h: -rate * (h + 0.3 * h.sin()), nonstiff=lambda t, h: torch.cos(t) * torch.tanh(h @ w)
    )

    def solve(gradient, *_):
        options = {"step_size": 0.2}
        call = {"method": name, "rtol": 1e-11, "atol": 1e-11, "gradient": gradient, "per_sample": per_sample}
        return hbodeint(FirstOrder(f), h0, t, options=options, **call).h

    inputs = (h0, w, rate, t)
    if not per_sample:
        assert gradcheck(lambda *_: solve("discrete_adjoint"), inputs, atol=1e-6, rtol=1e-5, fast_mode=True)
    weights = draw(3, 2, 3)
    both = [torch.autograd.grad((weights * solve(g)).sum(), inputs) for g in ("discrete_adjoint", "backprop")]
    for one, other in zip(*both, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("checkpoints", [None, 2])
def test_a_replay_takes_the_stages_that_the_solve_took(checkpoints):
    """Chosen steps with two to a dozen stages: the adjoint is that of backpropagation."""
    u0, scale = sine().requires_grad_(), torch.tensor(0.5, dtype=F64, requires_grad=True)
    field, grads = heat(), []
    system = FirstOrder(lambda t, u: scale * field(t, u) + torch.sin(u))
    for gradient, options in (("discrete_adjoint", {"checkpoints": checkpoints}), ("backprop", {})):
        sol = hbodeint(system, u0, [0.0, 0.05, 0.2], method="rkc", gradient=gradient, options=options)
        grads.append(torch.autograd.grad(sol.h[1:].square().sum(), (u0, scale)))
    assert sol.stats.accepted > 5
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_modules_of_both_parts_are_trained():
    torch.manual_seed(0)
    f = SplitField(stiff=OfState(nn.Linear(2, 2)), nonstiff=OfState(nn.Linear(2, 2)))
    assert len(list(FirstOrder(f).parameters())) == 4
    hbodeint(FirstOrder(f), torch.ones(1, 2), [0.0, 1.0], method="imex_ark3").h[-1].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in f.parameters())


class OfState(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, h):
        return self.net(h)


# Errors


@pytest.mark.parametrize("name", ["stiff", "nonstiff"])
def test_parts_must_be_callable(name):
    with pytest.raises(TypeError, match=f"{name} must be callable"):
        SplitField(**{"stiff": torch.sin, "nonstiff": torch.sin, name: 3.0})


@pytest.mark.parametrize("name", ["stiff", "nonstiff"])
def test_parts_must_return_the_shape_of_the_state(name):
    parts = {"stiff": lambda t, h: -h, "nonstiff": lambda t, h: -h, name: lambda t, h: -h.sum()}
    with pytest.raises(ValueError, match="must return the shape of h"):
        hbodeint(FirstOrder(SplitField(**parts)), torch.ones(2), [0.0, 1.0], method="imex_ark3")


def test_rkc_has_no_inner_solver():
    with pytest.raises(ValueError, match="options for method 'rkc' may be"):
        hbodeint(FirstOrder(driven(-1.0)), START, [0.0, 1.0], method="rkc", options={"inner": "anderson"})


@pytest.mark.parametrize(
    "explicit, match", [(((), (0.5,)), "explicit"), (((0.0,), (1.0,)), "row 0 of explicit"), (((),), "explicit")]
)
def test_tables_of_additive_methods_are_checked(explicit, match):
    rows = ((0.0,), (0.5, 0.5))
    assert DirkTableau(2, (0.0, 1.0), rows, (0.5, 0.5)).order == 2
    with pytest.raises(ValueError, match=match):
        ImexTableau(2, (0.0, 1.0), rows, (0.5, 0.5), explicit=explicit)
