"""Growth of linear modes in a step: against the theory of every method, and against what solves do.

Bars: growth near one is a few operations from exact, 1e-12. What a solve shows has the inner solver of implicit methods
in it, whose tolerance is a tenth of 1e-10, and the parasitic roots of BDF, which have gone to the power of 40: 1e-7.
"""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch

from hbode import METHODS, FirstOrder, HeavyBall, hbodeint
from hbode.analysis.stiffness.stability import amplification

SUPPORTED = [name for name in METHODS if "adams" not in name]
DAMPED = [name for name in SUPPORTED if METHODS[name].damped]
FIRST = [name for name in SUPPORTED if not METHODS[name].damped]
SYMMETRIC = ["implicit_midpoint", "trapezoid", "prox_cn", "gl4", "gl6"]
L_STABLE = ["implicit_euler", "prox_euler", "sdirk2", "trbdf2", "kvaerno3", "kvaerno5", "radauIIA3", "radauIIA5"]
L_STABLE += ["prox_multistage3", "prox_bdf2"]
ROUNDING = 1e-12


def growth(name, z, gamma=None, dt=1.0):
    """Of one mode or of an array of them."""
    found = amplification(name, torch.as_tensor(np.asarray(z)), dt, gamma).numpy()
    return float(found) if found.ndim == 0 else found


def plane(n=40, left=-6.0):
    """Points of the left half-plane, the imaginary axis included."""
    x, y = np.meshgrid(np.linspace(left, 0, n), np.linspace(-8, 8, n))
    return x + 1j * y


# Stability functions


@pytest.mark.parametrize(
    "name, degree",
    [
        *[("euler", 1), ("midpoint", 2), ("heun2", 2), ("ralston", 2), ("adaptive_heun", 2)],
        *[("heun3", 3), ("bosh3", 3), ("rk4", 4), ("rk38", 4)],
    ],
)
def test_as_many_stages_as_orders_leave_the_truncated_exponential(name, degree):
    z = plane()
    known = abs(sum(z**k / math.factorial(k) for k in range(degree + 1)))
    assert growth(name, z) == pytest.approx(known, rel=ROUNDING)


def test_known_polynomials_of_higher_order():
    """DOPRI5 has z⁶/600 after the exponential's terms up to five: Hairer, Wanner, IV.2."""
    z = plane()
    known = abs(sum(z**k / math.factorial(k) for k in range(6)) + z**6 / 600)
    assert growth("dopri5", z) == pytest.approx(known, rel=1e-11)


RATIONAL = {
    "implicit_euler": lambda z: 1 / (1 - z),
    "prox_euler": lambda z: 1 / (1 - z),
    "implicit_midpoint": lambda z: (1 + z / 2) / (1 - z / 2),
    "trapezoid": lambda z: (1 + z / 2) / (1 - z / 2),
    "prox_cn": lambda z: (1 + z / 2) / (1 - z / 2),
    "radauIIA3": lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6),
    "radauIIA5": lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60),
    "gl4": lambda z: (1 + z / 2 + z**2 / 12) / (1 - z / 2 + z**2 / 12),
    "gl6": lambda z: (1 + z / 2 + z**2 / 10 + z**3 / 120) / (1 - z / 2 + z**2 / 10 - z**3 / 120),
}


@pytest.mark.parametrize("name", RATIONAL)
def test_known_rational_functions(name):
    """Padé approximations of the exponential: Hairer, Wanner, IV.3 and IV.5; the right half-plane is in as well."""
    z = np.concatenate((plane(), 0.37 - plane(left=-5)))
    assert growth(name, z) == pytest.approx(abs(RATIONAL[name](z)), rel=1e-10, abs=ROUNDING)


def test_a_pole_is_infinite():
    assert growth("implicit_euler", 1.0) == math.inf
    assert growth("trapezoid", 2.0) == math.inf
    assert growth("prox_bdf2", 1.5) == math.inf
    assert growth("rk4", 1e200) == math.inf  # overflow, not NaN


# Order


@pytest.mark.parametrize("name", SUPPORTED)
def test_growth_agrees_with_the_exponential_to_the_stated_order(name):
    """|e^(dt λ)| + O(dt^(p+1)), the largest error over a fan of λ; of a damped pair, the larger of both.

    The measured order is above the stated one by almost one where the leading term is small, as in dopri8.
    """
    gamma = 0.4 if METHODS[name].damped else None
    order = METHODS[name].order
    rates = np.exp(1j * np.linspace(0.5, 1, 9) * math.pi)
    errors = []
    for dt in (0.2, 0.1) if order < 7 else (0.5, 0.25):
        exact = abs(np.exp(dt * rates))
        if gamma is not None:
            exact = np.maximum(exact, np.exp(dt * (-gamma - rates.real)))
        errors.append(np.abs(growth(name, rates, gamma, dt) - exact).max())
    assert errors[1] > 1e-15  # more than rounding
    assert order + 0.6 < math.log2(errors[0] / errors[1]) < order + 2.2


# Known boundaries


@pytest.mark.parametrize(
    "name, z",
    [
        *[("rk4", -2.785), ("rk4", 2.828j), ("dopri5", -3.3066), ("bosh3", -2.5127), ("heun3", 1.7321j)],
        *[("euler", -2.0), ("leapfrog", 2.0j), ("yoshida4", 1.5734j)],
    ],
)
def test_known_ends_of_the_region(name, z):
    assert growth(name, 0.999 * z) <= 1 + ROUNDING
    assert growth(name, 1.001 * z) > 1.0005


def test_undamped_leapfrog_is_stable_up_to_two_and_conserves():
    inside = growth("leapfrog", 1j * np.linspace(0.01, 19.99, 500), dt=0.1)
    assert inside == pytest.approx(np.ones(500), abs=1e-7)  # a double root near two
    assert (growth("leapfrog", 1j * np.linspace(20.01, 100, 50), dt=0.1) > 1).all()


@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_damped_leapfrog_loses_what_the_determinant_says(name):
    """An oscillation of a map with the determinant e^(-γ dt) has the growth e^(-γ dt / 2), at any step size."""
    gamma, dt = 0.6, 0.25
    rates = -gamma / 2 + 1j * np.linspace(0.5, 5.0, 20)
    assert growth(name, rates, gamma, dt) == pytest.approx(np.full(20, math.exp(-gamma * dt / 2)), rel=1e-10)


@pytest.mark.parametrize("name", DAMPED)
def test_the_region_of_a_damped_method_knows_pairs_only(name):
    rates, gamma = plane(10), 0.7
    assert growth(name, rates, gamma) == pytest.approx(growth(name, -gamma - rates, gamma), rel=1e-10)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_methods_conserve_on_the_imaginary_axis(name):
    assert growth(name, 1j * np.linspace(-50, 50, 101)) == pytest.approx(np.ones(101), abs=ROUNDING)


@pytest.mark.parametrize("name", [*SYMMETRIC, *L_STABLE])
def test_a_stable_methods_amplify_nothing_in_the_left_half_plane(name):
    z = np.concatenate((plane(), 100 * plane()))
    assert growth(name, z).max() <= 1 + 1e-11


@pytest.mark.parametrize("name", [*L_STABLE, "prox_bdf3", "prox_bdf4"])
def test_stiff_modes_die_out_in_one_step(name):
    """R(-∞) = 0; the roots of BDF k fall like |z|^(-1/k)."""
    factors = growth(name, np.array([-1e2, -1e4, -1e8]))
    assert (np.diff(factors) < 0).all()
    assert factors[-1] < {"prox_bdf2": 1e-4, "prox_bdf3": 2e-3, "prox_bdf4": 1e-2}.get(name, 1e-6)


def test_symmetric_methods_leave_stiff_modes_as_they_are():
    for name in SYMMETRIC:
        assert growth(name, -1e8) == pytest.approx(1, abs=1e-6)


# Multistep methods


def test_known_points_of_bdf2():
    """2.5 ζ² - 2 ζ + 0.5 at z = -1 has |ζ|² = 0.2; on the curve z = 3/2 - 2 e^(-iθ) + e^(-2iθ) / 2 it is one."""
    assert growth("prox_bdf2", -1.0) == pytest.approx(math.sqrt(0.2), rel=ROUNDING)
    w = np.exp(-1j * np.linspace(0.3, math.pi, 30))
    assert growth("prox_bdf2", 1.5 - 2 * w + w**2 / 2) == pytest.approx(np.ones(30), abs=1e-10)


@pytest.mark.parametrize("name, degrees", [("prox_bdf3", 86.03), ("prox_bdf4", 73.35)])
def test_bdf_leaves_out_the_known_sector(name, degrees):
    """A(α)-stability: Hairer, Wanner, V.2, with α in degrees from the negative real axis."""
    sizes = np.geomspace(0.01, 100, 2000)
    inside, outside = (growth(name, sizes * -cmath.exp(-1j * math.radians(degrees + d))) for d in (-0.05, 0.05))
    assert inside.max() < 1
    assert outside.max() > 1


def test_bdf4_blows_up_an_oscillation_that_bdf2_damps():
    assert growth("prox_bdf4", 2j) > 1.05
    assert growth("prox_bdf2", 2j) < 0.8


# What solves do


def steps(name, rate):
    """Return by what a long solve of a rotation with eigenvalues `rate` and its conjugate grows in its last step."""
    dt, count = 0.25, 40
    a = torch.tensor([[rate.real, -rate.imag], [rate.imag, rate.real]], dtype=torch.float64)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    t = dt * torch.arange(count + 1, dtype=torch.float64)
    options = {"step_size": dt}
    h = hbodeint(FirstOrder(lambda t, h: h @ a.T), y0, t, method=name, rtol=1e-10, atol=1e-14, options=options).h
    return float(h[-1].norm() / h[-2].norm())


@pytest.mark.parametrize("name", [name for name in FIRST if name != "auto"])
def test_solves_of_a_first_order_system_grow_as_told(name):
    for rate in (complex(-0.3, 2.0), complex(0.1, 1.0)):
        assert steps(name, rate) == pytest.approx(growth(name, rate, dt=0.25), rel=1e-7)


@pytest.mark.parametrize("name", [*DAMPED, "implicit_midpoint", "gl4", "kvaerno5", "prox_multistage3", "rk4"])
@pytest.mark.parametrize("omega", [1.0, 6.0], ids=["slow", "fast"])
def test_solves_of_a_heavy_ball_grow_as_told(name, omega):
    """The largest eigenvalue of ten steps, which is the tenth power, inside and outside of regions.

    The modes of h'' + γ h' = -ω² h are a conjugate pair, for which one-step methods of first order grow alike.
    """
    gamma, dt, count = 0.5, 0.5, 10
    h0, m0 = torch.eye(2, dtype=torch.float64)
    system = HeavyBall(lambda t, h: -(omega**2) * h, gamma, trainable=False)
    call = {"method": name, "rtol": 1e-10, "atol": 1e-14, "options": {"step_size": dt}}
    sol = hbodeint(system, h0, [0.0, count * dt], m0=m0, **call)
    ends = torch.stack((sol.h[-1], sol.m[-1]))
    measured = float(torch.linalg.eigvals(ends).abs().max()) ** (1 / count)
    rate = complex(-gamma / 2, math.sqrt(omega**2 - gamma**2 / 4))
    told = growth(name, rate, gamma, dt)
    assert measured == pytest.approx(told, rel=1e-7)
    assert (told > 1) == (omega > 1 and name in ("leapfrog", "yoshida4", "rk4"))


def test_a_damped_pair_grows_as_its_faster_mode_does():
    """λ = -2 belongs to λ = 1 where γ is one: the solution grows, whatever the method, as e^(dt λ)."""
    for name in DAMPED:
        assert growth(name, -2.0, gamma=1.0, dt=0.01) == pytest.approx(math.exp(0.01), rel=1e-5)


def test_auto_has_the_region_of_its_explicit_method():
    z = plane(8)
    assert (growth("auto", z) == growth("dopri5", z)).all()
    assert (growth("auto", z, 0.3) == growth("dprkn6", z, 0.3)).all()


# Arguments and shapes


def test_shape_dtype_and_scale():
    rates = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = amplification("rk4", rates, 0.5)
    assert found.shape == (2, 3, 4)
    assert found.dtype == torch.float64
    assert torch.equal(found, amplification("rk4", 0.5 * rates.to(torch.complex128), 1.0))
    assert amplification("gl6", torch.zeros(0), 0.5).shape == (0,)
    assert amplification("prox_bdf4", torch.tensor(-1j), 0.5).shape == ()


@pytest.mark.parametrize("name", ["explicit_adams", "implicit_adams", "scipy:RK45", "torchdiffeq:dopri5", "rk5"])
def test_methods_without_a_region_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"method must be one of euler, .*auto; got '{name}'") as caught:
        amplification(name, torch.zeros(1), 0.1)
    assert ("Adams" in str(caught.value)) == ("adams" in name)


@pytest.mark.parametrize("dt", [0.0, -0.1, math.inf, math.nan])
def test_steps_must_have_a_length(dt):
    with pytest.raises(ValueError, match="dt must be positive"):
        amplification("rk4", torch.zeros(1), dt)


def test_values_must_be_finite():
    with pytest.raises(ValueError, match="rates"):
        amplification("rk4", torch.tensor([math.nan]), 0.1)
    with pytest.raises(ValueError, match="gamma"):
        amplification("leapfrog", torch.zeros(1), 0.1, math.inf)
