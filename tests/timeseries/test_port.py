"""`model="port"`: laws with an energy are found again, in physical units, and never gain energy by themselves."""

import copy

import numpy as np
import pytest
import torch

from hbode import CubicInput, HeavyBall, SecondOrder, hbodeint
from hbode.timeseries import Records
from hbode.timeseries.identification import SystemIdentifier
from hbode.timeseries.identification.laws.port import LEAST_DAMPING, CorrectedPotential
from hbode.timeseries.identification.laws.structures import Structure

SPRINGS, CUBICS = (9.0, 6.0), (4.0, 8.0)
MASSES, DAMPING = np.array([1.0, 2.5]), np.array([[0.5, -0.2], [-0.2, 0.3]])
MEAN, UNITS = np.array([1.0, -2.0]), np.array([1.0, 20.0])
FIT = {"initial": 20, "seeds": 1, "substeps": 3, "hidden": 0}


def pushed(system, size, rows, sigma):
    """Return t, u and the solution for a smooth force, to rounding between the samples."""
    t = np.arange(rows) / 20
    u = sigma * np.convolve(np.random.default_rng(0).normal(size=rows + 100), np.ones(8) / 8, "same")[:rows]
    push = CubicInput(torch.from_numpy(t), torch.from_numpy(u).unsqueeze(1))
    h0 = torch.zeros(size, dtype=torch.float64)
    sol = hbodeint(system, h0, torch.from_numpy(t), inputs=push, rtol=1e-9, atol=1e-9, method="dopri8")
    return t, u, sol.h.numpy(), sol.m.numpy()


@pytest.fixture(scope="module")
def one():
    """A mass on a spring that hardens, x in mm around 3, with its velocity; and what was fitted to it."""
    ball = HeavyBall(lambda t, h, u: 4 * u - 9 * h - 5 * h**3, gamma=0.4, trainable=False)
    t, u, x, v = pushed(ball, 1, 100, 5.0)
    records = Records.from_arrays(t, 3 + x, u, outputs=["x (mm)"], inputs=["F (N)"])
    return SystemIdentifier("port", degree=3, evaluations=6, **FIT).fit(records), records, x[:, 0], v[:, 0]


def test_the_gradient_of_the_potential_is_that_of_its_values(draw):
    torch.manual_seed(0)
    potential, h = CorrectedPotential(3, 4, hidden=5).double(), 3 * draw(20, 3)
    potential.polynomial.coefficients.data.normal_()
    expected = torch.func.grad(lambda x: potential(x).sum())(h)
    torch.testing.assert_close(potential.gradient(h), expected, rtol=1e-11, atol=1e-11)
    monomials = potential.polynomial.gradients(h) @ potential.polynomial.coefficients
    torch.testing.assert_close(monomials, potential.polynomial.gradient(h), rtol=1e-11, atol=1e-11)


def test_the_start_is_exact_where_the_derivatives_are(draw):
    """Springs to the walls harden, that between the masses is linear: laws for which the masses are exact too."""
    y, m, u = draw(400, 2), draw(400, 2), draw(400, 2)
    masses, damping = torch.tensor([1.0, 3.0]).double(), torch.from_numpy(DAMPING)
    gain = torch.tensor([[2.0, 0.0], [0.5, -1.0]]).double()
    stiffness = torch.tensor([[3.0, -1.0], [-1.0, 2.0]]).double()
    force = 0.7 - y @ stiffness - torch.tensor([0.2, 0.9], dtype=torch.float64) * y**3 - m @ damping + u @ gain.T
    model = Structure(2, 2, "port", hidden=0).build()
    Structure(2, 2, "port", hidden=0).linear_start(model, y, m, force / masses, u)
    system = model.system
    zero = torch.zeros(2, dtype=torch.float64)
    # Regressions of condition < 100 in products of three normal numbers.
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(system.masses, masses, **close)
    torch.testing.assert_close(system.friction(zero, torch.eye(2).double()), damping, **close)
    torch.testing.assert_close(system.f.gain.constant.weight, gain, **close)
    torch.testing.assert_close(torch.func.jacrev(system.f.potential.gradient)(zero), stiffness, **close)
    torch.testing.assert_close(
        system.f.potential.gradient(zero), torch.tensor([-0.7, -0.7], dtype=torch.float64), **close
    )


def test_a_start_without_damping_is_made_positive_definite(draw):
    y, m, u = draw(200, 1), draw(200, 1), draw(200, 1)
    structure = Structure(1, 1, "port", hidden=0)
    model = structure.build()
    structure.linear_start(model, y, m, u - y + 0.5 * m, u)
    assert float(model.system.coefficients()[0].detach()) == pytest.approx(LEAST_DAMPING, rel=1e-9)


def test_starts_at_random_are_stable():
    structure = Structure(1, 1, "port", states=3, readout="linear", hidden=0)
    model, zero = structure.build(), torch.zeros(2, 3, dtype=torch.float64)
    rhs = model.system.rhs
    for seed in range(5):
        torch.manual_seed(seed)
        structure.random_start(model)
        jacobian = torch.func.jacrev(lambda y: rhs(zero[0, 0], y, None, None, zero[0, :1]))(zero).reshape(6, 6)
        assert bool((torch.linalg.eigvals(jacobian).real < 0).all())


def test_it_is_described_in_physical_units(one):
    model, records, x, _ = one
    found = model.describe()
    law, rest = found.energy, found.equilibrium[0] - 3
    mean = float(records[0].u.mean())
    # Three steps of rk4 a sample, ω dt = 0.08: see test_identification.
    assert 9 * rest + 5 * rest**3 == pytest.approx(4 * mean, abs=1e-3)
    assert law.masses == pytest.approx([1.0]) and law.gain[0, 0] == pytest.approx(4.0, rel=1e-3)
    assert law.damping[0, 0] == pytest.approx(0.4, rel=1e-3)
    assert law.stiffness[0, 0] == pytest.approx(9 + 15 * rest**2, rel=1e-3)
    at = found.curves[0].position - 3
    exact = [4.5 * z**2 + 1.25 * z**4 - 4 * mean * z for z in (at, rest)]
    assert np.abs(law.potentials[0] - (exact[0] - exact[1])).max() < 1e-3 * exact[0].max()
    assert "damping 0.4 1/" in str(found) and found.as_json()["energy"]["damping"] == law.damping.tolist()


def test_the_energy_balance_of_a_simulation_is_physical(one):
    model, records, x, v = one
    (balance,) = model.energy_balance(records)
    assert balance.t.numpy() == pytest.approx(records[0].t)
    assert float(balance.residual.abs().max()) < 1e-4 * float(balance.work.abs().max())
    mean = float(records[0].u.mean())
    energy = v**2 / 2 + 4.5 * x**2 + 1.25 * x**4 - 4 * mean * x
    lost = np.concatenate(([0.0], np.cumsum(0.4 * (v[1:] ** 2 + v[:-1] ** 2) / 2 * np.diff(records[0].t))))
    # The model is exact to 1e-4; the trapezoidal rule to (2 ω dt)² / 12 of what oscillates with 2 ω: 1 %.
    scale = float(balance.work.abs().max())
    assert np.abs(balance.change.numpy() - (energy - energy[0])).max() < 2e-3 * scale
    assert np.abs(balance.dissipated.numpy() - lost).max() < 2e-2 * scale


def test_without_input_the_energy_of_a_fitted_model_never_rises(one):
    system = one[0].members_[0].system
    h0 = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    still = CubicInput(torch.linspace(0, 10, 5, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64))
    for step in (0.1, 0.05):
        t = torch.arange(0, 10, step, dtype=torch.float64)
        with torch.no_grad():
            exact = system.energy(*hbodeint(system, h0, t, inputs=still, rtol=1e-9, atol=1e-9))
            h, m = hbodeint(system, h0, t, inputs=still, method="leapfrog", options={"step_size": step})
        # Where m is zero nothing is lost, and the tolerance may show.
        assert float(exact.diff(dim=0).max()) < 1e-7 * float(exact.abs().max())
        energy, slope = system.energy(h, m), system.f.potential.gradient(h)
        curvature = torch.func.vmap(torch.func.jacrev(system.f.potential.gradient))(h.reshape(-1, 1)).view_as(h)
        # Leapfrog keeps a modified energy, off by no more than s² (mᵀV''m + |∇V|²) / 12, and higher orders.
        modified = step**2 / 12 * (m.square() * curvature.abs() + slope.square()).sum(-1)
        assert float((energy - energy.cummin(0).values).max()) < 2.2 * float(modified.max())


@pytest.mark.parametrize("corrected", [("potential",), ("potential", "damping", "gain")])
def test_nor_does_that_of_any_other(corrected, draw):
    """Whatever the weights; masses, and networks that correct everything."""
    torch.manual_seed(0)
    system = Structure(2, 1, "port", degree=1, hidden=4, corrected=corrected).build().system
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        still = CubicInput(torch.linspace(0, 4, 5, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64))
        t = torch.linspace(0, 4, 41, dtype=torch.float64)
        sol = hbodeint(system, draw(3, 2), t, m0=draw(3, 2), inputs=still, rtol=1e-9, atol=1e-9)
        assert bool((system.energy(sol.h, sol.m).diff(dim=0) < 0).all())


def test_saved_and_loaded_it_is_the_same(one, tmp_path):
    model, records, *_ = one
    model.save(tmp_path)
    again = SystemIdentifier.load(tmp_path)
    assert again.get_params() == model.get_params() and str(again.describe()) == str(model.describe())
    assert np.array_equal(again.simulate(records)[0], model.simulate(records)[0])


def test_what_port_does_not_take_is_refused(one):
    _, records, *_ = one
    with pytest.raises(ValueError, match="corrected must be among potential, damping, gain, got mass"):
        Structure(1, 1, "port", corrected=("mass",))
    with pytest.raises(ValueError, match="unit must be 'tanh' for model='port'"):
        Structure(1, 1, "port", unit="relu")
    with pytest.raises(ValueError, match="known must be None for model='port'"):
        SystemIdentifier("port", known=lambda t, y, v, u: u, **FIT).fit(records)


def test_only_models_with_an_energy_have_a_balance(one):
    other = copy.copy(one[0])
    other.members_ = [Structure(1, 1, "hbnode").build()]
    assert other.describe().energy is None
    with pytest.raises(ValueError, match="model must be 'port'"):
        other.energy_balance(one[1])


def potential(x):
    """Of two masses in a row: the first hangs on a wall, the second on the first, both by springs that harden."""
    stretched = (x[..., 0], x[..., 1] - x[..., 0])
    return sum(k * s**2 / 2 + c * s**4 / 4 for k, c, s in zip(SPRINGS, CUBICS, stretched, strict=True))


@pytest.mark.slow
def test_a_chain_of_masses_is_found_again():
    """Pushed at the second mass; the first in m around 1, the other in 5 cm around -2."""
    damping, masses = torch.from_numpy(DAMPING), torch.from_numpy(MASSES)

    def law(t, h, m, u):
        inner, outer = (k * s + c * s**3 for k, c, s in zip(SPRINGS, CUBICS, (h[0], h[1] - h[0]), strict=True))
        return (torch.stack((outer - inner, u[0] - outer)) - damping @ m) / masses

    t, u, x, _ = pushed(SecondOrder(law), 2, 300, 6.0)
    records = Records.from_arrays(t, MEAN + UNITS * x, u, outputs=["a (m)", "b (5 cm)"], inputs=["F (N)"])
    model = SystemIdentifier("port", degree=3, evaluations=20, **FIT).fit(records.rows(0, 240))
    found = model.describe()
    law, scale = found.energy, np.outer(UNITS, UNITS)
    # Three steps of rk4 a sample, ω dt = 0.07, are exact to some 1e-5 over a record.
    np.testing.assert_allclose(law.masses * UNITS**2, MASSES, rtol=1e-3)
    np.testing.assert_allclose(law.damping * scale, DAMPING, rtol=1e-3)
    np.testing.assert_allclose(law.gain[:, 0] * UNITS, [0.0, 1.0], atol=1e-3)
    rest = (found.equilibrium - MEAN) / UNITS
    mean = float(model.scaling_.inputs.mean[0])
    for i, curve in enumerate(found.curves):
        at = np.tile(rest, (len(curve.position), 1))
        at[:, i] = (curve.position - MEAN[i]) / UNITS[i]
        exact = potential(at) - potential(rest) - mean * (at[:, 1] - rest[1])
        assert np.abs(law.potentials[i] - exact).max() < 1e-3 * exact.max()
    assert "mass of b" in str(found)
    assert model.score(records.rows(240, None)) > 99.9
