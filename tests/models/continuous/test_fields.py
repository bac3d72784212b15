"""Fields with structure: what they are at the start, what they refuse, and that everything in them is trained."""

import warnings

import pytest
import torch
from scenarios import assert_same
from torch import nn

from hbode import FirstOrder, HeavyBall, LinearInput, SecondOrder, hbodeint
from hbode.models.continuous import (
    DrivenField,
    NetworkPotential,
    PolynomialPotential,
    PotentialField,
    SplinePotential,
    Sum,
)

TIMES = torch.linspace(0, 2, 9, dtype=torch.float64)


def driven(batch=(), channels=1):
    generator = torch.Generator().manual_seed(5)
    return LinearInput(TIMES, torch.randn(*batch, len(TIMES), channels, generator=generator, dtype=torch.float64))


def randomised(module):
    generator = torch.Generator().manual_seed(6)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


class Pendulum(nn.Module):
    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(1.5))

    def forward(self, t, h, u):
        return u.sum(-1, keepdim=True) - self.stiffness * torch.sin(h)


SYSTEMS = {
    "driven": lambda: HeavyBall(DrivenField(2, 1, 8)),
    "first order": lambda: FirstOrder(DrivenField(2, 1, 8)),
    "momentum": lambda: SecondOrder(DrivenField(2, 1, 8, momentum=True)),
    "network": lambda: HeavyBall(PotentialField(NetworkPotential(2, 8, convex=True), 1, gain_hidden=4)),
    "polynomial": lambda: HeavyBall(PotentialField(PolynomialPotential(2, 4), 1)),
    "spline": lambda: HeavyBall(PotentialField(SplinePotential(2, torch.linspace(-1, 1, 5)), 1)),
    "sum": lambda: HeavyBall(Sum(Pendulum(), DrivenField(2, 1, 8))),
}


RK4 = {"method": "rk4", "options": {"step_size": 0.25}}


def solved(system, h0, **call):
    call = {"inputs": driven((len(h0),) if h0.ndim > 1 else ()), **call}
    return hbodeint(system, h0, TIMES[[0, 4]], **call)


def gradients(system, h0, **call):
    sol = solved(system, h0, **call)
    return sol.h, torch.autograd.grad(sol.h[-1].square().sum(), list(system.parameters()))


@pytest.mark.parametrize("name", SYSTEMS)
def test_batches_samples_and_single_states_agree(name, draw):
    system, h0 = randomised(SYSTEMS[name]()), draw(3, 2)
    with torch.no_grad():
        whole = solved(system, h0, **RK4).h[-1]
        alone = solved(system, h0, per_sample=True, **RK4).h[-1]
        one = LinearInput(TIMES, driven((3,)).values[1])
        single = solved(system, h0[1], **{**RK4, "inputs": one}).h[-1]
    torch.testing.assert_close(alone, whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(single, whole[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_parameter_gets_its_gradient(name, draw):
    system, h0 = randomised(SYSTEMS[name]()), draw(3, 2)
    _, expected = gradients(system, h0, gradient="backprop", **RK4)
    assert all(bool(g.abs().max() > 0) for g in expected)
    _, found = gradients(system, h0, **RK4)
    assert_same(found, expected, relative=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("mode", ["reversible", "continuous_adjoint"])
def test_modes_agree_on_the_gradients(name, mode, draw):
    system, h0, fine = randomised(SYSTEMS[name]()), draw(3, 2), {"rtol": 1e-9, "atol": 1e-9}
    _, expected = gradients(system, h0, gradient="backprop", **fine)
    _, found = gradients(system, h0, gradient=mode, **fine)
    assert_same(found, expected, relative=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_compiled_solves_are_the_same(name, draw):
    system, h0 = randomised(SYSTEMS[name]()), draw(3, 2)
    h, expected = gradients(system, h0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        compiled, found = gradients(system, h0, compile=True)
    torch.testing.assert_close(compiled, h, rtol=1e-10, atol=1e-12)
    assert_same(found, expected, relative=1e-9)


def test_a_driven_field_starts_as_a_damped_spring(draw):
    h, m, u = draw(5, 2), draw(5, 2), draw(5, 3)
    field = DrivenField(2, 3, 8, momentum=True).double()
    for parameter in field.network.parameters():
        nn.init.zeros_(parameter)
    spring = -h - 0.2 * m + u @ field.linear.weight[:, 4:].T
    torch.testing.assert_close(field(torch.tensor(0.0), h, m, u), spring, rtol=1e-7, atol=1e-7)  # made in float32
    assert DrivenField(2, 0, 8).double()(torch.tensor(0.0), h).shape == (5, 2)


def test_a_correction_is_a_tenth_of_its_usual_size():
    torch.manual_seed(0)
    field = DrivenField(4, 2, 64)
    last = field.network[-1]
    assert 0 < float(last.weight.detach().abs().max()) <= 0.1 / 8 and field.network[0].weight.abs().max() > 0.3


def test_a_potential_field_is_minus_the_gradient_and_the_gain_times_the_input(draw):
    field = PotentialField(PolynomialPotential(2, 3), 3, gain_hidden=4).double()
    h, u = draw(5, 2), draw(5, 3)
    t = torch.tensor(0.0)
    columns = torch.stack([field.gain(h, e) for e in torch.eye(3, dtype=torch.float64)], -1)
    expected = (columns @ u.unsqueeze(-1)).squeeze(-1) - field.potential.gradient(h)
    torch.testing.assert_close(field(t, h, u), expected, rtol=1e-13, atol=1e-13)
    assert float((columns[0] - columns[1]).detach().abs().max()) > 1e-4  # G depends on h
    torch.testing.assert_close(field(t, h, u[0])[0], expected[0], rtol=1e-13, atol=1e-13)  # one input for all


def test_a_sum_of_functions_and_modules_trains_the_modules(draw):
    known = Pendulum().double()
    learned = DrivenField(2, 1, 8).double()
    h, u, t = draw(5, 2), draw(5, 1), torch.tensor(0.0)
    both = Sum(lambda t, h, u: 0.1 * h, known, learned)
    torch.testing.assert_close(both(t, h, u), 0.1 * h + known(t, h, u) + learned(t, h, u), rtol=1e-15, atol=1e-15)
    assert {id(p) for p in both.parameters()} == {id(p) for m in (known, learned) for p in m.parameters()}


@pytest.mark.slow
def test_a_grey_box_is_found_again(draw):
    """h'' + 0.2 h' = -h - h³ + 0.7 u from samples without noise, by Gauss–Newton through the solve."""
    import numpy as np
    from scipy.optimize import least_squares

    inputs = driven()
    truth = HeavyBall(PotentialField(PolynomialPotential(1, 4), 1), 0.2).double()
    with torch.no_grad():
        truth.f.potential.coefficients.copy_(torch.tensor([0.0, 0.5, 0.0, 0.25]))
        truth.f.gain.constant.weight.fill_(0.7)
    model = HeavyBall(PotentialField(PolynomialPotential(1, 4), 1), 0.3).double()
    parameters = list(model.parameters())

    def simulate(system):
        return hbodeint(system, torch.ones(1).double(), TIMES, inputs=inputs, rtol=1e-7, atol=1e-7).h[:, 0]

    measured = simulate(truth).detach()

    def residual(x):
        nn.utils.vector_to_parameters(torch.from_numpy(x), parameters)
        return (simulate(model) - measured).detach().numpy()

    def jacobian(x):
        nn.utils.vector_to_parameters(torch.from_numpy(x), parameters)
        rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in simulate(model)[1:]]
        stacked = torch.stack([nn.utils.parameters_to_vector(r) for r in rows]).numpy()
        return np.vstack((np.zeros_like(stacked[:1]), stacked))

    start = nn.utils.parameters_to_vector(parameters).detach().numpy()
    least_squares(residual, start, jacobian, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert_same(parameters, list(truth.parameters()), relative=1e-4)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: DrivenField(2, 1, 0), ValueError, "hidden must be at least 1"),
        (lambda: DrivenField(2, -1, 4), ValueError, "inputs must be at least 0"),
        (lambda: DrivenField(2, 1, 4)(None, torch.ones(2)), ValueError, r"must have \[2, 1\] channels, got \[2\]"),
        (lambda: DrivenField(2, 1, 4)(None, torch.ones(2), torch.ones(3)), ValueError, r"got \[2, 3\]"),
        (lambda: PotentialField(nn.Linear(1, 1)), TypeError, "potential must be a Potential, got Linear"),
        (lambda: PotentialField(PolynomialPotential(1, 2), 1)(None, torch.ones(1)), TypeError, r"f\(t, h, u\)"),
        (
            lambda: PotentialField(PolynomialPotential(1, 2))(None, torch.ones(1), torch.ones(1)),
            TypeError,
            "got 1 inputs",
        ),
        (lambda: Sum(lambda t, h: h, 3.0), TypeError, "terms must be callable"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_function_that_trains_tensors_is_no_term_of_a_sum():
    stiffness = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="terms that train tensors must be"):
        Sum(lambda t, h, u: -stiffness * h, DrivenField(1, 1, 4))
