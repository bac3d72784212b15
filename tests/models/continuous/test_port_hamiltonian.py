"""Port-Hamiltonian systems: the energy never rises without input, and its balance closes with one."""

import warnings

import pytest
import torch
from matplotlib.figure import Figure
from scenarios import assert_same

from hbode import Event, HeavyBall, HoldInput, LinearInput, Update, hbodeint
from hbode.models.continuous import (
    DampingMatrix,
    NetworkPotential,
    PolynomialPotential,
    PortHamiltonian,
    PotentialField,
)

TIMES = torch.linspace(0, 2, 9, dtype=torch.float64)
KINDS = ("scalar", "matrix", "network")


def made(damping, inputs=0, gamma=0.1, spread=0.3, masses=False):
    torch.manual_seed(4)
    potential, gain = NetworkPotential(2, 8, bounded=True), 4 if inputs else 0
    system = PortHamiltonian(potential, inputs, damping, gamma=gamma, hidden=6, gain_hidden=gain, masses=masses)
    system = system.double()
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if name != "raw_gamma":
                parameter.add_(spread * torch.randn_like(parameter))
    return system


def pushed(draw, channels=1, kind=LinearInput):
    return kind(TIMES, draw(3, len(TIMES), channels))


@pytest.mark.parametrize("damping", KINDS)
def test_the_energy_never_rises_without_input(damping, draw):
    """Adaptive, to tight tolerance, whatever the parameters."""
    system, rtol = made(damping, spread=1.0), 1e-9
    h0, m0, t = 2 * draw(3, 2), 2 * draw(3, 2), torch.linspace(0, 4, 81, dtype=torch.float64)
    with torch.no_grad():
        h, m = hbodeint(system, h0, t, m0=m0, method="dopri5", rtol=rtol, atol=rtol)
        energy = system.energy(h, m)
    assert bool((energy.diff(dim=0) < 0).all())  # 0.05 apart, much more is lost than 1e-9
    assert bool((energy[-1] < energy[0]).all())


@pytest.mark.parametrize("method, order", [("leapfrog", 2), ("yoshida4", 4)])
def test_with_fixed_steps_it_rises_by_the_energy_error_of_the_method(method, order, draw):
    """By O(s^order); all but without damping, which would hide the rise."""
    system, rises = made("scalar", gamma=1e-9), []
    h0 = draw(2)
    for step in (0.2, 0.1):
        t = torch.arange(0, 12 + step / 2, step, dtype=torch.float64)
        with torch.no_grad():
            energy = system.energy(*hbodeint(system, h0, t, method=method, options={"step_size": step}))
        rises.append(float((energy - energy.cummin(0).values).max()))
    assert 0 < rises[1] < 0.01 * float(energy[0].abs() + 1)
    assert 0.6 * 2**order < rises[0] / rises[1] < 1.7 * 2**order


def test_scalar_damping_is_that_of_a_heavy_ball(draw):
    system = made("scalar", inputs=1)
    ball = HeavyBall(system.f, system.coefficients()[0].detach(), trainable=False)
    inputs, h0 = pushed(draw), draw(3, 2)
    with torch.no_grad():
        for call in (
            {"method": "dprkn6"},
            {"method": "dopri5"},
            {"method": "leapfrog", "options": {"step_size": 0.25}},
        ):
            ours, theirs = (hbodeint(s, h0, TIMES[[0, 4]], inputs=inputs, **call) for s in (system, ball))
            torch.testing.assert_close(ours.h, theirs.h, rtol=1e-12, atol=1e-12)


def test_damping_is_positive_definite_and_bounded(draw):
    damping = DampingMatrix(3, 0.1, hidden=5).double()
    torch.testing.assert_close(  # about γ times the identity at the start
        DampingMatrix(3, 0.1)(draw(3).float(), torch.eye(3)), 0.1 * torch.eye(3), rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():
        for parameter in damping.parameters():
            parameter.add_(2 * draw(*parameter.shape))
        h, m = 10 * draw(500, 3), 10 * draw(500, 3)
        factor = damping.factor(h, m)
        matrix = factor @ factor.mT
        assert bool((torch.linalg.eigvalsh(matrix)[:, 0] >= -1e-14 * torch.linalg.matrix_norm(matrix)).all())
        torch.testing.assert_close(damping(h, m), (matrix @ m.unsqueeze(-1)).squeeze(-1), rtol=1e-11, atol=1e-11)
        assert bool((torch.linalg.matrix_norm(matrix - matrix[0])[1:] > 1e-3).any())  # it depends on the state
        assert torch.equal(damping.factor(1e6 * h, 1e6 * m), damping.factor(2e6 * h, 2e6 * m))


def test_power_is_the_rate_of_the_energy(draw):
    """dE/dt by the chain rule through the right-hand side."""
    for damping, masses in (*((kind, False) for kind in KINDS), ("matrix", True), ("network", True)):
        system = made(damping, inputs=2, masses=masses)
        h, m, u = draw(5, 2, grad=True), draw(5, 2, grad=True), draw(5, 2)
        rate = system.rhs(torch.tensor(0.0), torch.stack((h, m)), *system.coefficients(), u)
        slope = torch.autograd.grad(system.energy(h, m).sum(), (h, m))
        expected = (slope[0] * rate[0] + slope[1] * rate[1]).sum(-1)
        torch.testing.assert_close(system.power(h, m, u), expected, rtol=1e-12, atol=1e-12)
        assert bool((system.dissipated(h, m) > 0).all())


@pytest.mark.parametrize("damping, kind", [("scalar", HoldInput), ("network", LinearInput)])
def test_the_balance_closes_to_the_tolerance(damping, kind, draw):
    system, inputs = made(damping, inputs=2), pushed(draw, 2, kind)
    worst = []
    for rtol in (1e-5, 1e-9):
        sol = hbodeint(
            system, draw(3, 2), TIMES[[0, 3, 4]], inputs=inputs, method="dopri5", rtol=rtol, atol=rtol, dense=True
        )
        balance = system.energy_balance(sol, inputs)
        assert balance.work.shape == (3, 3) and not balance.work.requires_grad
        assert bool((balance.dissipated[1:] > 0).all()) and float(balance.work.abs().max()) > 0.05
        worst.append(float(balance.residual.abs().max()))
        assert worst[-1] < 100 * rtol
    figure = balance.plot(sample=1)
    assert isinstance(figure, Figure) and len(figure.axes[0].lines) == 3


def test_the_balance_of_one_state_backwards_and_without_input(draw):
    system = made("matrix")
    sol = hbodeint(system, draw(2), [1.0, 0.5, 0.0], rtol=1e-9, atol=1e-9, dense=True)
    balance = system.energy_balance(sol)
    assert bool((balance.dissipated[1:] < 0).all()) and bool((balance.work == 0).all())
    assert float(balance.residual.abs().max()) < 1e-7


def test_what_has_no_balance_is_refused(draw):
    system, h0 = made("scalar"), draw(3, 2)
    t = TIMES[:3]
    update = Update(t[1:2], lambda t, h, m: (h, m))
    reset = Event(lambda t, h, m: h.sum() - 100.0, reset=lambda t, h, m: (h, m))
    made_without = hbodeint(system, h0, t)
    own_times = hbodeint(system, h0, t.expand(3, -1), dense=True)
    for solution, message in ((made_without, "dense=True"), (own_times, "all samples share")):
        with pytest.raises(ValueError, match=message):
            system.energy_balance(solution)
    for call in ({"updates": update}, {"event": reset}):
        solution = hbodeint(system, h0, t, dense=True, **call)
        with pytest.raises(ValueError, match="updates and resets"):
            system.energy_balance(solution)
    with pytest.raises(ValueError, match="u must be None"):
        system.power(h0, h0, h0)
    with pytest.raises(ValueError, match="u must be given"):
        made("scalar", inputs=1).power(h0, h0)


def test_arguments_that_make_no_system_are_refused():
    potential = PolynomialPotential(1, 4)
    with pytest.raises(ValueError, match="damping must be 'scalar', 'matrix' or 'network', got 'linear'"):
        PortHamiltonian(potential, damping="linear")
    with pytest.raises(ValueError, match="gamma must be positive, got 0"):
        PortHamiltonian(potential, gamma=0.0)
    with pytest.raises(ValueError, match="masses need damping='matrix' or 'network', got 'scalar'"):
        PortHamiltonian(potential, damping="scalar", masses=True)
    with pytest.raises(TypeError, match="potential must be a Potential, got PotentialField"):
        PortHamiltonian(PotentialField(potential))
    with pytest.raises(ValueError, match="leapfrog"):
        hbodeint(PortHamiltonian(potential), torch.ones(1), [0.0, 1.0], method="leapfrog")


def gradients(system, h0, inputs, **call):
    sol = hbodeint(system, h0, TIMES[[0, 4]], inputs=inputs, **call)
    return sol.h, torch.autograd.grad(sol.h[-1].square().sum(), list(system.parameters()))


@pytest.mark.parametrize("damping", KINDS)
def test_every_parameter_gets_its_gradient(damping, draw):
    system, h0, inputs = made(damping, inputs=1), draw(3, 2), pushed(draw)
    call = {"method": "rk4", "options": {"step_size": 0.25}}
    h, expected = gradients(system, h0, inputs, gradient="backprop", **call)
    assert all(bool(g.abs().max() > 0) for g in expected)
    alone, found = gradients(system, h0, inputs, per_sample=True, **call)
    torch.testing.assert_close(alone, h, rtol=1e-13, atol=1e-13)
    assert_same(found, expected, relative=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("damping", KINDS)
def test_modes_and_compiled_code_agree(damping, draw):
    system, h0, inputs, fine = made(damping, inputs=1), draw(3, 2), pushed(draw), {"rtol": 1e-9, "atol": 1e-9}
    h, expected = gradients(system, h0, inputs, **fine)
    for mode in ("backprop", "reversible", "continuous_adjoint"):
        _, found = gradients(system, h0, inputs, gradient=mode, **fine)
        assert_same(found, expected, relative=1e-5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        compiled, found = gradients(system, h0, inputs, compile=True, **fine)
    torch.testing.assert_close(compiled, h, rtol=1e-10, atol=1e-12)
    assert_same(found, expected, relative=1e-9)
