"""Potentials and their gradients: closed forms against autograd, and the shapes that were promised."""

import math

import pytest
import torch

from hbode.models.continuous import NetworkPotential, PolynomialPotential, Potential, SplinePotential

KNOTS = torch.linspace(-1.5, 1.5, 7)
MAKERS = {
    "network": lambda: NetworkPotential(3, 8, depth=3),
    "convex": lambda: NetworkPotential(3, 8, depth=4, convex=True),
    "bounded": lambda: NetworkPotential(3, 8, depth=2, bounded=True),
    "polynomial": lambda: PolynomialPotential(3, 5),
    "separable": lambda: PolynomialPotential(3, 4, separable=True),
    "spline": lambda: SplinePotential(3, KNOTS),
    "convex spline": lambda: SplinePotential(3, KNOTS, convex=True),
}


def made(name, spread=1.0):
    """Return a potential in float64 whose parameters are all random."""
    torch.manual_seed(3)
    potential = MAKERS[name]().double()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return potential


@pytest.fixture(params=MAKERS)
def potential(request):
    return made(request.param)


def test_gradient_is_that_of_the_potential_for_any_batch(potential, draw):
    for shape in [(3,), (5, 3), (4, 5, 3)]:
        h = 2 * draw(*shape, grad=True)
        value, gradient = potential(h), potential.gradient(h)
        assert value.shape == shape[:-1] and gradient.shape == shape
        expected = torch.autograd.grad(value.sum(), h)[0]
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


def test_the_default_gradient_of_a_potential_is_the_closed_form(potential, draw):
    h = draw(4, 3)
    expected = potential.gradient(h)
    with torch.no_grad():  # as a solver has it
        torch.testing.assert_close(Potential.gradient(potential, h), expected, rtol=1e-12, atol=1e-12)


def test_forward_mode_and_vmap_go_through_the_gradient(potential, draw):
    h, v = draw(4, 3), draw(4, 3)
    dense = torch.func.vmap(torch.func.jacrev(potential.gradient))(h)
    torch.testing.assert_close(dense, dense.mT, rtol=1e-11, atol=1e-11)  # a Hessian
    tangent = torch.func.jvp(potential.gradient, (h,), (v,))[1]
    torch.testing.assert_close(tangent, (dense @ v.unsqueeze(-1)).squeeze(-1), rtol=1e-11, atol=1e-11)


def test_every_parameter_has_a_part_in_the_force(potential, draw):
    grads = torch.autograd.grad(potential.gradient(draw(50, 3)).square().sum(), list(potential.parameters()))
    assert all(bool(g.abs().max() > 0) for g in grads)


@pytest.mark.parametrize("name", MAKERS)
def test_a_potential_is_its_state_dict_in_any_precision(name, draw):
    given, again, h = made(name), MAKERS[name]().double(), draw(4, 3)
    again.load_state_dict(given.state_dict())
    expected = given.gradient(h)
    assert torch.equal(again.gradient(h), expected)
    single = given.float().gradient(h.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", ["convex", "convex spline"])
def test_convex_potentials_are_convex(name, draw):
    potential = made(name, 2.0)
    a, b = 5 * draw(200, 3), 5 * draw(200, 3)
    ends = (potential(a) + potential(b)) / 2
    assert bool((potential((a + b) / 2) <= ends + 1e-12 * ends.abs()).all())
    hessian = torch.func.vmap(torch.func.jacfwd(potential.gradient))(a)
    least = torch.linalg.eigvalsh(hessian).amin(-1)
    assert bool((least >= -1e-13 * torch.linalg.matrix_norm(hessian)).all())


@pytest.mark.parametrize("name", ["convex", "bounded", "convex spline"])
def test_bounded_potentials_rise_far_away(name, draw):
    potential = made(name, 2.0)
    far = torch.nn.functional.normalize(draw(500, 3), dim=-1)
    near = potential(draw(500, 3)).min()
    assert bool((potential(1e6 * far) > near).all())
    assert bool(((potential.gradient(1e6 * far) * far).sum(-1) > 0).all())  # the force points back


def test_a_bounded_network_need_not_be_convex():
    potential = NetworkPotential(1, 2, bounded=True).double()
    with torch.no_grad():
        potential.direct[0].weight.fill_(8.0)
        potential.direct[0].bias.copy_(torch.tensor([2.0, -2.0]))
        potential.passing[0].weight.copy_(torch.tensor([[-1.0, 1.0]]))
        potential.slope.fill_(4.0)
    places = torch.linspace(-1, 1, 101, dtype=torch.float64).unsqueeze(-1)
    hessian = torch.func.vmap(torch.func.jacrev(potential.gradient))(places).detach()
    assert float(hessian.min()) < 0 < float(hessian.max())


def test_a_network_potential_pushes_back_like_a_spring_far_away(draw):
    potential = made("network")
    far = 1e6 * draw(10, 3)
    spring = far @ potential.stiffness
    slopes = potential.gradient(far) - spring
    torch.testing.assert_close(potential.gradient(2 * far) - 2 * spring, slopes, rtol=0, atol=1e-8)


def test_polynomials_have_all_monomials_and_start_as_a_spring(draw):
    potential = PolynomialPotential(3, 4).double()
    assert len(potential.monomials) == len(set(potential.monomials)) == math.comb(7, 4) - 1
    h = draw(6, 3)
    torch.testing.assert_close(potential(h), h.square().sum(-1) / 2, rtol=1e-14, atol=0)
    with torch.no_grad():
        potential.coefficients.copy_(torch.arange(1.0, 35.0))
    x = h.T
    expected = sum(c * math.prod(x[i] for i in m) for c, m in enumerate(potential.monomials, 1))
    torch.testing.assert_close(potential(h), expected, rtol=1e-12, atol=1e-11)


def test_separable_polynomials_are_sums_over_channels(draw):
    potential = made("separable")
    assert len(potential.monomials) == 12
    hessian = torch.func.vmap(torch.func.jacrev(potential.gradient))(draw(5, 3))
    torch.testing.assert_close(hessian, torch.diag_embed(hessian.diagonal(dim1=-2, dim2=-1)), rtol=0, atol=0)


def test_splines_are_smooth_and_go_on_as_parabolas():
    potential = made("spline")
    second = torch.func.vmap(torch.func.jacrev(potential.gradient))
    knots = potential.knots.unsqueeze(-1).expand(-1, 3)
    at = second(knots).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(at, potential.stiffness.T, rtol=1e-13, atol=1e-13)  # at the knots themselves
    beside = [second(knots + side).diagonal(dim1=-2, dim2=-1) for side in (-1e-9, 1e-9)]
    for values in beside:
        torch.testing.assert_close(values, potential.stiffness.T, rtol=0, atol=1e-7)  # of slope 20 at the most
    for end, far in ((0, -50.0), (-1, 50.0)):
        outside = second(knots[end] + torch.tensor([[far], [far / 7]], dtype=torch.float64)).diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(outside, potential.stiffness[:, end].expand(2, 3), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(potential(knots[:1]), torch.zeros(1).double(), rtol=0, atol=0)
    torch.testing.assert_close(potential.gradient(knots[3]), potential.slope, rtol=1e-13, atol=1e-13)


def test_splines_reproduce_a_natural_cubic_spline(draw):
    """One that scipy fits: cubic in V, as the stiffness is linear between knots."""
    from scipy.interpolate import CubicSpline

    knots = torch.tensor([-2.0, -0.7, 0.1, 0.9, 2.5], dtype=torch.float64)
    given = CubicSpline(knots.numpy(), [3.0, 0.2, -0.4, 0.5, 1.0])
    potential = SplinePotential(1, knots.float()).double()
    potential.knots.copy_(knots)
    with torch.no_grad():
        potential.curvature.copy_(torch.from_numpy(given(knots.numpy(), 2)))
        potential.slope.fill_(float(given(float(knots[2]), 1)))
    x = torch.linspace(-2, 2.5, 50, dtype=torch.float64)
    expected = torch.from_numpy(given(x.numpy()))
    torch.testing.assert_close(potential(x.unsqueeze(-1)), expected - 3.0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NetworkPotential(0, 4), "size must be at least 1, got 0"),
        (lambda: NetworkPotential(1, 4, depth=1), "depth must be at least 2, got 1"),
        (lambda: PolynomialPotential(1, 1), "degree must be at least 2, got 1"),
        (lambda: PolynomialPotential(30, 6), "size and degree .* separable=True"),
        (lambda: SplinePotential(1, [0.0, 0.0, 1.0]), "knots must be"),
        (lambda: SplinePotential(1, [0.0]), "knots must be"),
    ],
)
def test_what_makes_no_potential_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
