"""The latent ODE: its bound, what it infers in a linear system, gaps, and whether it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall
from hbode.models import ODERNN, DenseField, LatentODE, ODERNNRecognition, SolverSettings

TIGHT = SolverSettings("dopri8", 1e-11, 1e-11)


def series() -> tuple[Tensor, Tensor, Tensor]:
    """Return t, x and mask of four samples: whole, with gaps, padded at either end, and with two rows at one time."""
    generator = torch.Generator().manual_seed(5)
    t = torch.rand(4, 6, generator=generator, dtype=torch.float64).cumsum(1)
    x = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones(4, 6, 2, dtype=torch.bool)
    mask[1, 2], x[1, 3, 0] = False, math.nan
    mask[2, 0] = mask[2, 5] = False
    t[2, 5] = math.nan
    t[3, 3] = t[3, 2]
    return t, x, mask


def model(recognition: str = "gru", **options: object) -> LatentODE:
    """Return a heavy ball with smooth fields, which its solver can be exact for."""
    torch.manual_seed(0)
    reader: object = recognition
    if recognition == "ode_rnn":
        own = FirstOrder(DenseField(5, 5, activation=nn.Tanh))
        reader = ODERNNRecognition(ODERNN(own, 5, 2, TIGHT, cell="gru", missing="mask", outputs=12))
    system = GeneralizedHeavyBall(DenseField(3, 5, activation=nn.Tanh))
    return LatentODE(system, 3, 2, hidden=5, recognition=reader, solver=TIGHT, **options).double()  # type: ignore[arg-type]


def without_noise(learner: LatentODE) -> LatentODE:
    """Make the posterior variance e^-60."""
    read = learner.recognition.read if hasattr(learner.recognition, "read") else learner.recognition.model.decode
    with torch.no_grad():
        half = len(read.bias) // 2
        read.weight[half:] = 0.0
        read.bias[half:] = -60.0
    return learner


def test_the_divergence_is_that_of_draws():
    t, x, mask = series()
    learner = model()
    with torch.no_grad():
        kl = learner.elbo(t, x, mask).kl
        mean, sd = learner.posterior(t, x, mask)
        q, p = Normal(mean, sd), Normal(torch.zeros_like(mean), torch.ones_like(sd))
        z = q.sample((100_000,))
        ratio = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    assert ((kl - ratio.mean(0)).abs() < 5 * ratio.std(0) / math.sqrt(len(z))).all()


def test_a_bound_of_draws_is_what_it_says():
    t, x, mask = series()
    learner = without_noise(model(noise=0.5))
    bound = learner.elbo(t, x, mask, kl_weight=0.25, samples=2)
    torch.testing.assert_close(bound.loss, (0.25 * bound.kl - bound.log_likelihood).mean())
    whole = learner.predict(t[:1], x[:1], t[:1])[0]
    expected = Normal(whole, 0.5).log_prob(x[0]).sum()
    # log_noise is a float32 log(0.5) turned to float64
    torch.testing.assert_close(bound.log_likelihood[0], expected, rtol=1e-6, atol=0)


def test_a_linear_system_has_the_posterior_of_least_squares():
    """x = h(t) + noise with h'' + γ h' + k h = 0: the best mean of z₀ is the exact posterior mean."""
    gamma, k, noise = 0.3, 2.0, 0.4
    system = HeavyBall(lambda t, h: -k * h, gamma, trainable=False)
    learner = LatentODE(
        system, 1, 1, decoder=nn.Identity(), noise=noise, solver=SolverSettings(None, 1e-11, 1e-11)
    ).double()
    t, x, _ = series()
    t, x = t[:1], x[:1, :, :1]
    mask = torch.tensor([[1, 1, 0, 1, 1, 1]]).bool()

    class Free(nn.Module):
        def __init__(self, mean: Tensor) -> None:
            super().__init__()
            self.mean = nn.Parameter(mean)

        def forward(self, *series: Tensor) -> Tensor:
            return torch.cat((self.mean, torch.full_like(self.mean, -60.0)), -1)

    def slope(mean: Tensor) -> Tensor:
        learner.recognition = Free(mean.unsqueeze(0))
        (grad,) = torch.autograd.grad(learner.elbo(t, x, mask).loss, learner.recognition.mean)
        return grad[0]

    # The loss is quadratic in the mean. Not at 0, where nothing keeps the steps short that the derivative needs.
    base = torch.ones(2, dtype=torch.float64)
    at_base = slope(base)
    hessian = torch.stack([slope(base + row) - at_base for row in torch.eye(2)])
    found = base - torch.linalg.solve(hessian, at_base)
    matrix = torch.tensor([[0.0, 1.0], [-k, -gamma]], dtype=torch.float64)
    seen = mask[0].nonzero().flatten()
    rows = torch.stack([torch.linalg.matrix_exp(matrix * (t[0, i] - t[0, 0]))[0] for i in seen])
    sigma = learner.log_noise.detach().exp()
    precision = torch.eye(2, dtype=torch.float64) + rows.T @ rows / sigma**2
    exact = torch.linalg.solve(precision, rows.T @ x[0, seen, 0] / sigma**2)
    # tolerance of the solver times the condition of the precision, some ten
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(hessian, precision, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("recognition", "start"),
    [("gru", None), ("ode_rnn", None), ("gru", -0.5), pytest.param("ode_rnn", -0.5, marks=pytest.mark.slow)],
)
def test_a_batch_with_gaps_is_each_sample_alone(recognition, start):
    t, x, mask = series()
    learner = without_noise(model(recognition, start=start))
    new = t[:, :1] + torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)
    together = [*learner.posterior(t, x, mask), learner.predict(t, x, new, mask), *learner.elbo(t, x, mask)[1:]]
    parameters = [p for p in learner.parameters() if p.requires_grad]
    total = sum(part.square().sum() for part in together)
    grads = torch.autograd.grad(total, parameters)
    sums = [torch.zeros_like(p) for p in parameters]
    for b in range(4):
        keep = (mask & ~x.isnan())[b].any(-1)
        own = t[b : b + 1, keep], x[b : b + 1, keep]
        seen = mask[b : b + 1, keep]
        alone = [*learner.posterior(*own, seen), learner.predict(*own, new[b], seen), *learner.elbo(*own, seen)[1:]]
        for one, all_ in zip(alone, together, strict=True):
            # as in test_irregular.py, with tolerances of 1e-11
            torch.testing.assert_close(one[0], all_[b], rtol=1e-8, atol=1e-8)
        loss = sum(part.square().sum() for part in alone)
        for into, grad in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            into += grad
    for a, b in zip(sums, grads, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-7 * float(a.abs().max()))


@pytest.mark.parametrize("recognition", ["gru", "ode_rnn"])
def test_a_sample_without_observations_says_nothing(recognition):
    t, x, mask = series()
    mask[1], t[1] = False, math.nan
    learner = model(recognition, start=0.0)
    bound = learner.elbo(t, x, mask)
    assert bound.log_likelihood[1] == 0.0
    bound.loss.backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize("recognition", ["gru", "ode_rnn"])
def test_gradients_are_differences(recognition):
    t, x, mask = series()
    learner = model(recognition)
    parameters = list(learner.parameters())

    def loss() -> Tensor:
        torch.manual_seed(7)
        return learner.elbo(t, x, mask, samples=2).loss

    grads = torch.autograd.grad(loss(), parameters)
    assert all(grad.abs().sum() > 0 for grad in grads)
    torch.manual_seed(1)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    step, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, directions, strict=True):
                p += sign * step * d
            values.append(loss())
    # differences of second order: step² times a third derivative of some thousand
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_it_learns_damped_oscillations():
    generator = torch.Generator().manual_seed(0)
    t = (0.1 + 0.4 * torch.rand(192, 24, generator=generator)).cumsum(1)
    phase, size = 6.3 * torch.rand(192, 1, generator=generator), 0.5 + torch.rand(192, 1, generator=generator)
    x = (size * torch.exp(-0.1 * t) * torch.sin(2 * t + phase)).unsqueeze(-1)
    x = x + 0.05 * torch.randn(x.shape, generator=generator)
    mask = torch.rand(x.shape[:2], generator=generator) < 0.8
    torch.manual_seed(0)
    learner = LatentODE("hbnode", 3, 1, hidden=24)
    optimiser = torch.optim.Adam(learner.parameters(), 1e-2)
    losses = []
    for epoch in range(90):
        bound = learner.elbo(t[:128, :18], x[:128, :18], mask[:128, :18], kl_weight=min(1.0, epoch / 30))
        optimiser.zero_grad()
        bound.loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimiser.step()
        losses.append(float(bound.loss.detach()))
    with torch.no_grad():
        said = learner.predict(t[128:, :18], x[128:, :18], t[128:, 18:], mask[128:, :18])
    error = (said - x[128:, 18:]).square().mean()
    persistence = (x[128:, 17:18] - x[128:, 18:]).square().mean()
    assert losses[-1] < 0.5 * losses[0]
    assert error < 0.5 * persistence


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda t, x, mask: LatentODE("hbnode", 3, 2, recognition="lstm"), "recognition must be"),
        (lambda t, x, mask: LatentODE("lstm", 3, 2), "name must be one of"),
        (lambda t, x, mask: LatentODE("node", 3, 2, noise=0.0), "noise must be positive"),
        (lambda t, x, mask: model().elbo(t, x[..., :1]), "x must have shape"),
        (lambda t, x, mask: model().elbo(t[0], x), "t must have shape"),
        (lambda t, x, mask: model().elbo(t, x, mask, samples=0), "samples must be at least 1"),
        (lambda t, x, mask: model().elbo(t, x), "t must be finite"),
        (lambda t, x, mask: model().elbo(t, x, mask & False), "x must have an observation in each"),
        (lambda t, x, mask: model(start=2.0).elbo(t, x, mask), "t must not lie before start=2"),
        (lambda t, x, mask: model().predict(t, x, torch.zeros(1), mask), "t_new must not lie before"),
        (lambda t, x, mask: model().predict(t, x, torch.zeros(3, 2), mask), "t_new must have shape"),
        (lambda t, x, mask: model().predict(t, x, t, mask, samples=0), "samples must be at least 1"),
    ],
)
def test_errors_name_the_argument(call, told):
    with pytest.raises(ValueError, match=told):
        call(*series())
