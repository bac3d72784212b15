"""Flows of heavy balls against the Gaussian of a linear field, and against determinants by autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from hbode import GeneralizedHeavyBall, HeavyBall, Lienard, SecondOrder
from hbode.models import DenseField, SolverSettings
from hbode.models.continuous import DrivenField
from hbode.models.flows import ConcatSquashField, GaussianMomentum, HeavyBallFlow, LienardField, toy_density

TIGHT = SolverSettings("dprkn8", rtol=1e-12, atol=1e-12)
A = torch.tensor([[-1.5, 0.4], [-0.7, 0.3]], dtype=torch.float64)
GAMMA = torch.tensor([0.3, 0.8], dtype=torch.float64)
SPAN = (0.5, 2.0)


def linear_flow(**settings) -> HeavyBallFlow:
    system = HeavyBall(lambda t, h: h @ A.mT, GAMMA, trainable=False)
    return HeavyBallFlow(system, 2, t=SPAN, **{"solver": TIGHT, **settings}).double()


def gaussian_of_linear_flow() -> MultivariateNormal:
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    generator = torch.cat((torch.cat((zero, eye), 1), torch.cat((A, -GAMMA.diag()), 1)))
    propagator = torch.linalg.matrix_exp((SPAN[1] - SPAN[0]) * generator)
    return MultivariateNormal(zero.new_zeros(4), precision_matrix=propagator.mT @ propagator)


class ExactMomentum(nn.Module):
    """p(m | h) of a Gaussian of (h, m)."""

    def forward(self, h: Tensor) -> MultivariateNormal:
        precision = gaussian_of_linear_flow().precision_matrix
        mean = -h @ torch.linalg.solve(precision[2:, 2:], precision[2:, :2]).mT
        return MultivariateNormal(mean, precision_matrix=precision[2:, 2:])


def network_flow(size: int = 2, gamma=None, generalized: bool = False, **settings) -> HeavyBallFlow:
    torch.manual_seed(1)
    f = DenseField(size, 8, activation=nn.Tanh).double()
    for parameter in f.parameters():
        parameter.data.mul_(3)
    system = GeneralizedHeavyBall(f, gamma) if generalized else HeavyBall(f, gamma)
    return HeavyBallFlow(system, size, hidden=8, **settings).double()


def lienard_flow(size: int = 2, **settings) -> HeavyBallFlow:
    torch.manual_seed(1)
    f = LienardField(size, 8).double()
    for parameter in f.parameters():
        parameter.data.mul_(2)
    return HeavyBallFlow(Lienard(f), size, hidden=8, **{"t": (0.0, 2.0), **settings}).double()


def test_log_density_of_a_linear_flow_is_that_of_its_gaussian(draw):
    h, m = draw(3, 5, 2), draw(3, 5, 2)
    expected = gaussian_of_linear_flow()
    found = linear_flow().log_prob_joint(h, m)
    # The bar; tolerances of 1e-12 over a span of 1.5.
    torch.testing.assert_close(found, expected.log_prob(torch.cat((h, m), -1)), rtol=0, atol=1e-8)


def test_with_the_exact_momentum_one_sample_gives_the_marginal(draw):
    h = draw(7, 2)
    marginal = MultivariateNormal(h.new_zeros(2), gaussian_of_linear_flow().covariance_matrix[:2, :2])
    flow = linear_flow(momentum=ExactMomentum())
    for found in (flow.log_prob(h, samples=1), flow.bound(h, samples=3)):
        torch.testing.assert_close(found, marginal.log_prob(h), rtol=0, atol=1e-8)


def test_importance_weights_raise_the_bound_to_the_marginal(draw):
    torch.manual_seed(0)
    h = draw(1, 2).expand(400, 2)
    marginal = MultivariateNormal(h.new_zeros(2), gaussian_of_linear_flow().covariance_matrix[:2, :2])
    flow = linear_flow(solver=SolverSettings("dprkn6", rtol=1e-6, atol=1e-6))
    exact = float(marginal.log_prob(h[0]))
    with torch.no_grad():
        estimates = [flow.log_prob(h, samples=k) for k in (1, 5, 50, 500)]
    means = [float(x.mean()) for x in estimates]
    assert means[0] < exact - 0.1 and means[:3] == sorted(means[:3])
    # Five standard errors of the mean, and the bias, which is half the variance at many samples.
    spread = float(estimates[-1].std())
    assert abs(means[-1] - exact) < 5 * spread / 20 + spread**2 < 0.05
    torch.manual_seed(0)
    one = flow.bound(h, samples=1)
    torch.manual_seed(0)
    torch.testing.assert_close(one, flow.log_prob(h, samples=1))


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("kind", ["heavy ball", "generalised", "liénard"])
def test_joint_log_density_is_exact_at_any_step(method, steps, kind, draw):
    gamma = torch.tensor([0.1, 0.7], dtype=torch.float64)
    settings = {"t": (0.0, 2.0), "solver": SolverSettings(method, gradient="backprop"), "steps": steps}
    flow = (
        lienard_flow(**settings)
        if kind == "liénard"
        else network_flow(gamma=gamma, generalized=kind == "generalised", **settings)
    )
    for z in draw(3, 4):
        moved = flow.to_base(z[:2], z[2:])
        jacobian = torch.autograd.functional.jacobian(lambda z: torch.cat(flow.to_base(z[:2], z[2:])), z)
        expected = flow.base.log_prob(torch.cat(moved)) + torch.linalg.slogdet(jacobian).logabsdet
        # Rounding: some 4e-14 were seen.
        torch.testing.assert_close(flow.log_prob_joint(z[:2], z[2:]), expected, rtol=0, atol=1e-12)
    if kind != "liénard":
        assert math.isclose(flow.log_det(z[:2], z[2:]).item(), -2 * 0.8, rel_tol=1e-12)


def test_other_methods_tend_to_the_density_of_fine_leapfrog_steps(draw):
    h, m = draw(2, 5, 2)
    fine = lienard_flow(solver=SolverSettings("yoshida4"), steps=200).log_prob_joint(h, m)
    # yoshida4 is off by some 1e-7 there.
    found = lienard_flow(solver=SolverSettings("dopri8", 1e-9, 1e-9)).log_prob_joint(h, m)
    torch.testing.assert_close(found, fine, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [network_flow, lienard_flow])
@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_inverse_undoes_coarse_steps(method, make, draw):
    flow = make(t=(-1.0, 1.0), solver=SolverSettings(method), steps=3)
    h, m = draw(2, 64, 2)
    there = flow.to_base(h, m)
    back = flow.from_base(*there)
    assert (there[0] - h).abs().max() > 0.5
    torch.testing.assert_close(torch.stack(back), torch.stack((h, m)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [network_flow, lienard_flow])
@pytest.mark.parametrize("steps", [2, 16])
def test_joint_density_integrates_to_one(steps, make):
    flow = make(1, t=(0.0, 1.0), solver=SolverSettings("leapfrog"), steps=steps)
    x = torch.linspace(-12.0, 12.0, 401, dtype=torch.float64)
    h, m = (y.unsqueeze(-1) for y in torch.meshgrid(x, x, indexing="ij"))
    with torch.no_grad():
        total = float(flow.log_prob_joint(h, m).exp().sum()) * float(x[1] - x[0]) ** 2
    # The trapezoidal rule for an analytic density, whose tails end 6 standard deviations inside the square.
    assert abs(total - 1) < 1e-8


@pytest.mark.parametrize("make", [network_flow, lienard_flow])
@pytest.mark.parametrize("gradient", ["discrete_adjoint", "reversible", "backprop"])
def test_gradients_are_exact(gradient, make, draw):
    flow = make(solver=SolverSettings("leapfrog", gradient=gradient), steps=3)
    h, m = (x.requires_grad_() for x in draw(2, 2, 2))
    assert torch.autograd.gradcheck(lambda h, m, *_: flow.log_prob_joint(h, m), (h, m, *flow.system.parameters()))
    base = draw(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, *_: flow.from_base(*z.split(2, -1))[0], (base, *flow.system.parameters()))


@pytest.mark.parametrize("estimate", ["bound", "log_prob"])
def test_gradients_reach_all_parameters(estimate, draw):
    flow = network_flow()
    getattr(flow, estimate)(draw(8, 2), samples=4).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert flow.stats.nfe == 17 and flow.stats.nfe_backward == 0
    flow.zero_grad()
    flow.rsample(8).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in flow.system.parameters())


def test_samples_have_the_density():
    torch.manual_seed(0)
    flow = linear_flow(steps=20, solver=SolverSettings("dprkn6"))
    points = torch.cat(flow.rsample_joint(20000), -1)
    cov = gaussian_of_linear_flow().covariance_matrix
    # Five standard errors of a covariance.
    error = 5 * ((cov.square() + cov.diagonal().outer(cov.diagonal())) / 20000).sqrt()
    assert bool(((points.mT.cov() - cov).abs() < error).all())
    assert flow.sample((2, 3)).shape == (2, 3, 2) and flow.sample().shape == flow.event_shape == (2,)
    assert not network_flow().sample(4).requires_grad


def test_a_base_of_the_users(draw):
    base = Independent(Normal(torch.arange(4.0, dtype=torch.float64), 2 * torch.ones(4, dtype=torch.float64)), 1)
    flow = network_flow(base=base)
    h, m = draw(2, 5, 2)
    expected = base.log_prob(torch.cat(flow.to_base(h, m), -1)) + flow.log_det(h, m)
    torch.testing.assert_close(flow.log_prob_joint(h, m), expected)


@pytest.mark.parametrize("lienard", [False, True])
def test_a_flow_with_context_is_one_flow_for_each_context(lienard, draw):
    torch.manual_seed(2)
    system = Lienard(LienardField(2, 8, context=3)) if lienard else HeavyBall(DrivenField(2, inputs=3, hidden=8))
    flow = HeavyBallFlow(system, 2, context=3, hidden=8).double()
    h, m, context = draw(6, 2), draw(6, 2), draw(6, 3)
    rows = flow.log_prob_joint(h, m, context)
    each = [flow.log_prob_joint(*row) for row in zip(h, m, context, strict=True)]
    torch.testing.assert_close(rows, torch.stack(each), rtol=0, atol=1e-12)
    assert (flow.log_prob_joint(h, m, context[0]) - rows).abs()[1:].min() > 1e-4
    assert flow.log_prob(h, context[0], samples=3).shape == (6,)
    assert flow.log_prob(h[0], context.view(2, 3, 3), samples=3).shape == (2, 3)
    assert flow.sample((5, 4), context).shape == (5, 4, 6, 2)
    context.requires_grad_()
    flow.bound(h, context).sum().backward()
    assert context.grad.abs().sum() > 0


def test_training_raises_the_bound():
    torch.manual_seed(0)
    flow = HeavyBallFlow(HeavyBall(DenseField(2, 32, activation=nn.Tanh), 0.5), 2, steps=6, hidden=32)
    x = toy_density("8gaussians", 256)
    optimizer = torch.optim.Adam(flow.parameters(), 0.01)
    bounds = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = -flow.bound(x).mean()
        loss.backward()
        optimizer.step()
        bounds.append(-loss.item())
    assert bounds[-1] > bounds[0] + 0.5


def test_what_does_not_fit_is_told(draw):
    f = DenseField(2, 4)
    with pytest.raises(TypeError, match="system"):
        HeavyBallFlow(SecondOrder(f), 2)
    with pytest.raises(ValueError, match="gamma"):
        HeavyBallFlow(HeavyBall(f, lambda t: 1 + t), 2)
    with pytest.raises(ValueError, match="gamma"):
        HeavyBallFlow(HeavyBall(f, torch.full((3,), 0.5)), 2)
    system = HeavyBall(f)
    for name, wrong in (("size", 0), ("steps", 0), ("context", -1), ("hidden", 0)):
        with pytest.raises(ValueError, match=name):
            HeavyBallFlow(system, **{"size": 2, name: wrong})
    with pytest.raises(ValueError, match="hidden"):
        GaussianMomentum(2, 0)
    with pytest.raises(ValueError, match="xi"):
        LienardField(2, 4, xi=0.0)
    with pytest.raises(ValueError, match="outputs"):
        ConcatSquashField(2, 4, outputs=0)
    for t in [(0.0,), (1.0, 0.0), (0.0, math.inf)]:
        with pytest.raises(ValueError, match="t must be"):
            HeavyBallFlow(system, 2, t=t)
    with pytest.raises(ValueError, match="base"):
        HeavyBallFlow(system, 2, base=Independent(Normal(torch.zeros(2), 1.0), 1))
    flow = network_flow()
    with pytest.raises(ValueError, match="h must have shape"):
        flow.log_prob(draw(4, 3))
    with pytest.raises(ValueError, match="m must have shape"):
        flow.log_prob_joint(draw(4, 2), draw(4, 1))
    with pytest.raises(ValueError, match="samples"):
        flow.log_prob(draw(4, 2), samples=0)
    with pytest.raises(ValueError, match="context must be None"):
        flow.log_prob(draw(4, 2), draw(4, 1))
    conditional = HeavyBallFlow(HeavyBall(DrivenField(2, inputs=3, hidden=8)), 2, context=3).double()
    with pytest.raises(ValueError, match="context must be given"):
        conditional.sample(4)
    with pytest.raises(ValueError, match="context must be of shape"):
        conditional.log_prob(draw(4, 2), draw(4, 2))


def test_momenta_have_full_covariances(draw):
    torch.manual_seed(0)
    momentum = GaussianMomentum(3, 8).double()
    with torch.no_grad():
        momentum.network[-1].weight.normal_()
    h = draw(2, 3)
    q = momentum(h)
    assert q.batch_shape == (2,) and q.event_shape == (3,)
    n = 20_000
    m = q.sample((n,))
    for i in range(2):
        cov = m[:, i].mT.cov()
        off = cov / cov.diagonal().outer(cov.diagonal()).sqrt() - torch.eye(3)
        assert off.abs().max() > 0.1  # correlated
        # Entropy of a normal distribution with this covariance; the mean of -log q has a deviation of √(3 / 2n).
        entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * cov)
        assert abs(entropy + q.log_prob(m)[:, i].mean()) < 10 * (3 / (2 * n)) ** 0.5
