"""Continuous flows against the Gaussian of a linear field, integrals that are known, and estimates whose mean is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from hbode import FirstOrder, hbodeint
from hbode.models import SolverSettings
from hbode.models.flows import ConcatSquashField, ContinuousFlow

TIGHT = SolverSettings("dopri8", rtol=1e-12, atol=1e-12)
A = torch.tensor([[-0.5, 0.9], [-0.3, 0.4]], dtype=torch.float64)
SPAN = (0.5, 2.0)
LENGTH = SPAN[1] - SPAN[0]


def linear_field(matrix: Tensor):
    return lambda t, h: h @ matrix.mT


def gaussian_of_linear_flow() -> MultivariateNormal:
    propagator = torch.linalg.matrix_exp(LENGTH * A)
    return MultivariateNormal(A.new_zeros(2), precision_matrix=propagator.mT @ propagator)


def network_flow(context: int = 0, **settings) -> ContinuousFlow:
    torch.manual_seed(1)
    return ContinuousFlow(ConcatSquashField(2, 8, context=context), 2, context=context, **settings).double()


@pytest.mark.parametrize(
    "solver", [TIGHT, SolverSettings("radauIIA5", rtol=1e-10, atol=1e-10)], ids=["dopri8", "radauIIA5"]
)
def test_log_density_of_a_linear_flow_is_that_of_its_gaussian(solver, draw):
    h = draw(3, 5, 2)
    flow = ContinuousFlow(linear_field(A), 2, t=SPAN, solver=solver).double()
    # The bar; tolerances of 1e-10 and less over a span of 1.5.
    torch.testing.assert_close(flow.log_prob(h), gaussian_of_linear_flow().log_prob(h), rtol=0, atol=1e-8)


def jointly_solved(flow: ContinuousFlow, h: Tensor) -> Tensor:
    """Return the log-density of points from one solve of (h, ∫ tr ∂f/∂h dt), the trace by `torch.func`."""

    def joint(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x: flow.f(t, x.unsqueeze(0))[0]))(state[0])
        return flow.f(t, state[0]), jacobian.diagonal(dim1=1, dim2=2).sum(-1)

    with torch.no_grad():
        solution = hbodeint(FirstOrder(joint), (h, h[:, 0] * 0), flow.t, method="dopri8", rtol=1e-12, atol=1e-12)
    z, log_det = (x[-1] for x in solution.h)
    return flow.base.log_prob(z) + log_det


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "radauIIA5", "auto"])
def test_log_density_of_a_network_is_that_of_a_joint_solve(method, draw):
    flow = network_flow(solver=SolverSettings(method, rtol=1e-8, atol=1e-8))
    h = draw(6, 2)
    # The tolerance, over some ten steps of a field that amplifies by e at most.
    torch.testing.assert_close(flow.log_prob(h), jointly_solved(flow, h), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4), ("dopri5", 5)])
def test_log_density_has_the_order_of_the_method(method, order, draw):
    h = draw(6, 2)
    exact = jointly_solved(network_flow(), h)
    errors = []
    for steps in (4, 8):
        flow = network_flow(solver=SolverSettings(method, gradient="backprop"), steps=steps)
        errors.append(float((flow.log_prob(h) - exact).detach().abs().max()))
    assert np.log2(errors[0] / errors[1]) > order - 0.6


def test_energies_of_a_linear_flow(draw):
    h = draw(5, 2)
    flow = ContinuousFlow(linear_field(A), 2, t=SPAN, solver=TIGHT).double()
    found = flow.regularised(h)
    nodes, weights = np.polynomial.legendre.leggauss(30)  # exact to rounding for these exponentials
    kinetic = sum(
        w * LENGTH / 2 * (h @ (A @ torch.linalg.matrix_exp(A * LENGTH * (x + 1) / 2)).mT).square().sum(-1)
        for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)
    )
    torch.testing.assert_close(found.kinetic, kinetic, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.jacobian, (LENGTH * A.square().sum()).expand(5), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.log_prob, flow.log_prob(h), rtol=0, atol=1e-8)


def test_signs_have_no_variance_for_a_diagonal_jacobian(draw):
    h, field = draw(5, 2), linear_field(A.diag().diag())
    exact, estimated = (
        ContinuousFlow(field, 2, solver=TIGHT, trace=trace).double() for trace in ("exact", "rademacher")
    )
    torch.testing.assert_close(estimated.log_prob(h), exact.log_prob(h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_estimates_have_the_exact_mean(trace, draw):
    torch.manual_seed(0)
    n = 4000
    h = draw(1, 2).expand(n, 2)
    flow = ContinuousFlow(linear_field(A), 2, t=SPAN, trace=trace, solver=SolverSettings("rk4"), steps=8).double()
    estimates = flow.regularised(h)
    exact = ContinuousFlow(linear_field(A), 2, t=SPAN, solver=SolverSettings("rk4"), steps=8).double().regularised(h)
    for key in ("log_prob", "jacobian"):
        x, mean = getattr(estimates, key), getattr(exact, key)[0]
        assert x.std() > 0.1
        assert abs(x.mean() - mean) < 5 * x.std() / n**0.5, key
    if trace == "rademacher":  # v·Av = tr A ± (a₁₂ + a₂₁)
        off = (estimates.log_prob - exact.log_prob).abs()
        torch.testing.assert_close(off, (LENGTH * (A[0, 1] + A[1, 0]).abs()).expand(n), rtol=0, atol=1e-12)


def test_density_integrates_to_one():
    flow = network_flow(solver=SolverSettings("dopri8", rtol=1e-9, atol=1e-9))
    x = torch.linspace(-12.0, 12.0, 161, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    with torch.no_grad():
        total = float(flow.log_prob(grid).exp().sum()) * float(x[1] - x[0]) ** 2
    # The trapezoidal rule for an analytic density, and the tolerance.
    assert abs(total - 1) < 1e-7


def test_inverse_and_samples(draw):
    flow = network_flow(solver=TIGHT)
    h = draw(8, 2)
    torch.testing.assert_close(flow.from_base(flow.to_base(h)), h, rtol=0, atol=1e-10)
    torch.manual_seed(0)
    points = ContinuousFlow(linear_field(A), 2, t=SPAN).double().sample(20000)
    cov = gaussian_of_linear_flow().covariance_matrix
    error = 5 * ((cov.square() + cov.diagonal().outer(cov.diagonal())) / 20000).sqrt()
    assert bool(((points.mT.cov() - cov).abs() < error).all())
    assert flow.sample((2, 3)).shape == (2, 3, 2) and flow.sample().shape == flow.event_shape == (2,)


def test_gradients_are_exact(draw):
    flow = ContinuousFlow(ConcatSquashField(2, 3, depth=2), 2, solver=SolverSettings("rk4"), steps=2).double()
    h = draw(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, *_: tuple(flow.regularised(h)), (h, *flow.parameters()))


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_gradients_reach_all_parameters_and_the_cost_is_told(trace, draw):
    flow = network_flow(trace=trace, solver=SolverSettings("dopri5", 1e-5, 1e-5))
    out = flow.regularised(draw(8, 2))
    (out.kinetic + out.jacobian - out.log_prob).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert flow.stats.nfe > 0 and flow.stats.nfe_backward > 0
    flow.zero_grad()
    flow.rsample(8).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in flow.parameters())
    assert not flow.sample(8).requires_grad


def test_a_base_of_the_users(draw):
    base = Independent(Normal(torch.ones(2, dtype=torch.float64), 2.0), 1)
    flow = ContinuousFlow(linear_field(A), 2, t=SPAN, base=base).double()
    h = draw(5, 2)
    expected = base.log_prob(flow.to_base(h)) + LENGTH * A.trace()
    torch.testing.assert_close(flow.log_prob(h), expected, rtol=0, atol=1e-4)


def test_a_flow_with_context_is_one_flow_for_each_context(draw):
    flow = network_flow(context=3, solver=SolverSettings("rk4"), steps=4)
    h, context = draw(6, 2), draw(6, 3)
    rows = flow.log_prob(h, context)
    each = [flow.log_prob(*row) for row in zip(h, context, strict=True)]
    torch.testing.assert_close(rows, torch.stack(each), rtol=0, atol=1e-12)
    assert (flow.log_prob(h, context[0]) - rows).abs()[1:].min() > 1e-4
    assert flow.log_prob(h[0], context.view(2, 3, 3)).shape == (2, 3)
    assert flow.sample((5, 4), context).shape == (5, 4, 6, 2)
    context.requires_grad_()
    flow.log_prob(h, context).sum().backward()
    assert context.grad.abs().sum() > 0


def test_what_does_not_fit_is_told(draw):
    f = ConcatSquashField(2, 4)
    with pytest.raises(TypeError, match="f must be callable"):
        ContinuousFlow(None, 2)
    with pytest.raises(ValueError, match="trace"):
        ContinuousFlow(f, 2, trace="hutchinson")
    with pytest.raises(ValueError, match="compile"):
        ContinuousFlow(f, 2, solver=SolverSettings(compile=True))
    with pytest.raises(ValueError, match="size"):
        ContinuousFlow(f, 0)
    with pytest.raises(ValueError, match="base"):
        ContinuousFlow(f, 2, base=Normal(torch.zeros(2), 1.0))
    for name in ("size", "hidden", "depth"):
        with pytest.raises(ValueError, match=name):
            ConcatSquashField(**{"size": 2, "hidden": 4, name: 0})
    flow = network_flow()
    with pytest.raises(ValueError, match="h must have shape"):
        flow.log_prob(draw(4, 3))
    with pytest.raises(ValueError, match="context must be None"):
        flow.sample(4, draw(4, 1))
    wrong = ContinuousFlow(lambda t, h: torch.cat((h, h), -1), 2).double()
    with pytest.raises(ValueError, match="must return the shape of h"):
        wrong.log_prob(draw(4, 2))
