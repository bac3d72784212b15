"""Stochastic heavy balls: exact moments, orders, pathwise gradients, paths from seeds."""

import math
from itertools import pairwise

import pytest
import torch

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, SolverError, sdeint
from hbode.gradients import DiscreteAdjoint
from hbode.solvers.stochastic.brownian import BrownianPath
from hbode.solvers.stochastic.weights import OrnsteinUhlenbeck

F64 = torch.float64
GRADIENTS = ["discrete_adjoint", "reversible", DiscreteAdjoint(checkpoints=3), "backprop"]


def harmonic(t, h):
    return -1.3 * h


def one_step(dt, gamma, noise, count):
    """Return the states, (2, count), after one step from zero, and the matrix (2, 2) of the step without noise."""
    options = {"gamma": gamma, "step_size": dt, "seed": 0}
    zero = torch.zeros(count, dtype=F64)
    h, m = sdeint(harmonic, noise, zero, [0.0, dt], **options)
    start = torch.eye(2, dtype=F64)
    columns = sdeint(harmonic, 0.0, start[0], [0.0, dt], m0=start[1], **options)
    return torch.stack((h[-1], m[-1])), torch.stack((columns.h[-1], columns.m[-1]))


def stationary(step, noise):
    """Return P = step P stepᵀ + noise."""
    eye = torch.eye(4, dtype=F64)
    return torch.linalg.solve(eye - torch.kron(step, step), noise.reshape(4)).reshape(2, 2)


@pytest.mark.parametrize("dt", [0.02, 0.5, 1.5])
@pytest.mark.parametrize("gamma", [0.05, 1.3, 8.0])
def test_positions_of_a_harmonic_well_have_the_exact_variance(dt, gamma):
    """BAOAB samples σ² / (2 γ k) at any stable step (Leimkuhler and Matthews 2013), by the noise of the exact law.

    One step from zero gives one direction; its size is that of the Ornstein-Uhlenbeck law. P solves equations whose
    conditioning is that of the decay in a step.
    """
    states, step = one_step(dt, gamma, 0.7, 100_000)
    after = states / states[1]
    assert torch.allclose(after, after[:, :1].expand_as(after), rtol=1e-9)
    size = 0.49 * -math.expm1(-2 * gamma * dt) / (2 * gamma) * (1 - 1.3 * dt * dt / 4) ** 2
    assert states[1].square().mean().item() == pytest.approx(size, rel=5 * math.sqrt(2 / 100_000))
    covariance = stationary(step, size * torch.outer(after[:, 0], after[:, 0]))
    assert covariance[0, 0].item() == pytest.approx(0.49 / (2 * gamma * 1.3), rel=1e-9)


def test_weak_order_two_for_additive_noise():
    """The covariance at t = 1, by the moments of the steps: its error falls by four as the step is halved."""

    def covariance(dt):
        states, step = one_step(dt, 0.8, 0.7, 1)
        size = 0.49 * -math.expm1(-1.6 * dt) / 1.6 * (1 - 1.3 * dt * dt / 4) ** 2
        direction = states[:, 0] / states[1, 0]
        moments = torch.tensor([[0.4, 0.1], [0.1, 0.2]], dtype=F64)
        for _ in range(round(1 / dt)):
            moments = step @ moments @ step.T + size * torch.outer(direction, direction)
        return moments

    finest = covariance(1 / 1024)
    errors = [(covariance(1 / n) - finest).abs().max().item() for n in (4, 8, 16, 32)]
    ratios = [a / b for a, b in pairwise(errors)]
    assert all(3.7 < ratio < 4.3 for ratio in ratios)


def pendulum(t, h):
    return -2 * torch.sin(h)


def test_strong_order_one_along_one_path():
    h0 = torch.zeros(2000, dtype=F64)
    runs = [
        sdeint(pendulum, 0.8, h0, [0.0, 2.0], gamma=0.7, step_size=0.25, halvings=k, seed=2) for k in (0, 1, 2, 3, 7)
    ]
    for state in ("h", "m"):
        finest = getattr(runs[-1], state)[-1]
        errors = [(getattr(run, state)[-1] - finest).square().mean().sqrt().item() for run in runs[:-1]]
        assert all(1.7 < a / b < 2.4 for a, b in pairwise(errors))


@pytest.mark.parametrize("halvings", [1, 2, 5])
def test_halvings_keep_the_path(halvings):
    """Without force and damping m = σ W, whatever the steps."""
    h0 = torch.zeros(50, 2, dtype=F64)
    still = HeavyBall(lambda t, h: torch.zeros_like(h), 0.0, trainable=False)
    noise = torch.tensor([0.5, 2.0], dtype=F64)
    whole, halved = (
        sdeint(still, noise, h0, [0.0, 0.5, 2.0], step_size=0.5, seed=5, halvings=k) for k in (0, halvings)
    )
    assert torch.allclose(whole.m, halved.m, rtol=0, atol=1e-12)
    assert not torch.allclose(whole.h, halved.h, rtol=0, atol=1e-3)


def test_halves_have_the_law_of_steps():
    """The noise of the eight steps between 0 and 1, of one step halved three times, is independent and of exact size.

    To five standard deviations of N samples, sqrt(2 / N) for variances and 1 / sqrt(N) for correlations; for γ = 0 and
    for a γ that gives weight to the areas.
    """
    count = 40_000
    for gamma in (0.0, 3.0):
        path = BrownianPath(1, torch.zeros(count, dtype=F64), halvings=3)
        law = OrnsteinUhlenbeck.over(torch.tensor(gamma, dtype=F64), 1 / 8, F64)
        moves = torch.stack(
            [law.of_increment * w + law.of_area * n for w, n in (path.pair(k).unbind() for k in range(8))]
        )
        size = -math.expm1(-gamma / 4) / (2 * gamma) if gamma else 1 / 8
        excess = torch.cov(moves) / size - torch.eye(8, dtype=F64)
        assert excess.abs().max().item() < 5 * math.sqrt(2 / count)


def test_noise_that_depends_on_the_position():
    """dm = (-k h - γ m) dt + s h dW has closed equations for its second moments."""
    k, gamma, s, count = 1.3, 0.8, 0.6, 40_000
    rate = torch.tensor([[0, 2, 0], [-k, -gamma, 1], [s * s, -2 * k, -2 * gamma]], dtype=F64)
    exact = torch.linalg.matrix_exp(2 * rate) @ torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    h0 = torch.ones(count, dtype=F64)
    h, m = sdeint(harmonic, lambda t, h: s * h, h0, [0.0, 2.0], gamma=gamma, step_size=0.05, seed=3)
    sampled = torch.stack((h[-1] ** 2, h[-1] * m[-1], m[-1] ** 2))
    error = (sampled.mean(1) - exact).abs()
    assert bool((error < 5 * sampled.std(1) / math.sqrt(count) + 2e-3).all())  # and the bias of the steps


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()

    def forward(self, t, h):
        return self.net(h) * torch.cos(t)


class Strength(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2).double()

    def forward(self, t, h):
        return 0.3 + torch.sigmoid(self.net(h)) * torch.cos(t)


SYSTEMS = {
    "heavy ball": lambda: HeavyBall(Network(), torch.tensor([0.3, 0.6], dtype=F64)),
    "generalised": lambda: GeneralizedHeavyBall(Network(), 0.4, 0.7).double(),
    "varying": lambda: HeavyBall(Network(), lambda t: 0.3 + 0.1 * torch.sin(t)),
}
NOISES = {
    "channels": lambda: torch.tensor([0.3, 0.5], dtype=F64, requires_grad=True),
    "made by another operation": lambda: torch.tensor([0.3, 0.5], dtype=F64, requires_grad=True) * 2,
    "module": Strength,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("heavy ball", "channels"),
        ("generalised", "module"),
        ("varying", "made by another operation"),
        ("heavy ball", "module"),
    ],
)
def test_gradients(name, kind, draw):
    """All modes agree, and with finite differences along the same path, for states, times, noise and parameters."""
    system, noise = SYSTEMS[name](), NOISES[kind]()
    h0, m0, weight = draw(3, 2, grad=True), draw(3, 2, grad=True), draw(3, 3, 2)
    t = torch.tensor([0.1, 0.57, 1.02], dtype=F64, requires_grad=True)
    leaves = [h0, m0, t, *system.parameters()]
    leaves += list(noise.parameters()) if isinstance(noise, torch.nn.Module) else []
    leaves += [noise] if isinstance(noise, torch.Tensor) else []

    def value(gradient="backprop"):
        run = sdeint(system, noise, h0, t, m0=m0, step_size=0.1, seed=4, halvings=1, gradient=gradient)
        return (run.h * weight).sum() + (run.m.sin() * weight).sum()

    bars = {str(mode): torch.autograd.grad(value(mode), leaves, retain_graph=True) for mode in GRADIENTS}
    for found in bars.values():
        for a, b in zip(found, bars["backprop"], strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    for x, bar in zip(leaves, bars["backprop"], strict=True):
        way = draw(*x.shape)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                x.add_(way, alpha=sign * 1e-5)
                ends.append(value())
                x.sub_(way, alpha=sign * 1e-5)
        difference = (ends[0] - ends[1]).item() / 2e-5
        assert difference == pytest.approx((bar * way).sum().item(), rel=1e-6, abs=1e-6)


def test_second_derivatives_of_damping():
    gamma = torch.tensor(0.3, dtype=F64, requires_grad=True)
    h0 = torch.ones(4, dtype=F64)

    def first(gradient):
        run = sdeint(pendulum, 0.5, h0, [0.0, 1.0], gamma=gamma, step_size=0.1, seed=1, gradient=gradient)
        return torch.autograd.grad(run.h[-1].sum(), gamma, create_graph=True)[0]

    seconds = [torch.autograd.grad(first(mode), gamma)[0] for mode in ("discrete_adjoint", "backprop")]
    with torch.no_grad():
        gamma += 1e-5
    ahead = first("backprop").item()
    with torch.no_grad():
        gamma -= 2e-5
    difference = (ahead - first("backprop").item()) / 2e-5
    assert seconds[0].item() == pytest.approx(seconds[1].item(), rel=1e-10)
    assert seconds[0].item() == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("mode", GRADIENTS, ids=str)
def test_a_path_is_a_function_of_its_seed(mode):
    h0 = torch.zeros(5, 2)

    def run(seed):
        return sdeint(pendulum, 0.5, h0, [0.0, 1.0], step_size=0.1, seed=seed, gradient=mode).h

    state = torch.get_rng_state()
    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    drawn = run(None)
    assert not torch.equal(drawn, run(None))
    torch.manual_seed(7)
    assert torch.equal(drawn, run(None))


def test_the_dtype_does_not_change_the_path():
    runs = [
        sdeint(pendulum, 0.5, torch.zeros(100, dtype=dtype), [0.0, 1.0], step_size=0.1, seed=0)
        for dtype in (torch.float32, F64)
    ]
    assert torch.allclose(runs[0].h.double(), runs[1].h, atol=1e-5)


def test_requested_times_end_steps():
    """More of them between the same steps change nothing, and each sample may have its own."""
    h0 = torch.zeros(3, dtype=F64)
    options = {"step_size": 0.5, "seed": 0, "gamma": 0.3}
    few = sdeint(pendulum, 0.5, h0, [0.0, 2.0], **options)
    many = sdeint(pendulum, 0.5, h0, [0.0, 0.5, 0.5, 1.0, 2.0], **options)
    assert torch.allclose(few.h[-1], many.h[-1], atol=1e-13) and torch.equal(many.h[1], many.h[2])
    assert many.stats.accepted == 4 and many.stats.nfe == 5
    steps = sdeint(pendulum, 0.5, h0, [0.0, 0.5, 1.0, 1.5, 2.0], seed=0, gamma=0.3)
    assert torch.allclose(steps.h[-1], few.h[-1], atol=1e-13)
    own = torch.tensor([[0.0, 0.5, 2.0], [0.0, 0.5, 0.5], [1.0, 2.0, 4.0]], dtype=F64)
    each = sdeint(pendulum, 0.5, h0, own, **options)
    assert each.h.shape == (3, 3) and torch.equal(each.h[1, 1], each.h[2, 1])
    own = own[:1].expand(3, 3)
    same = sdeint(pendulum, 0.5, h0, own, **options), sdeint(pendulum, 0.5, h0, own[0], **options)
    assert torch.allclose(same[0].h, same[1].h, atol=1e-13)


def test_samples_that_repeat_times_keep_their_noise():
    """Without force and damping, m moves by independent normals over each interval, in every sample."""
    still = HeavyBall(lambda t, h: torch.zeros_like(h), 0.0, trainable=False)
    t = torch.tensor([[0.0, 1.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0, 1.0]], dtype=F64)
    t = t.repeat(4000, 1)
    m = sdeint(still, 1.0, torch.zeros(len(t), dtype=F64), t, seed=0).m
    moves, spans = m.diff(dim=0).reshape(4, 4000, 3), t[:3].diff(dim=1).T
    for sample in range(3):
        own = moves[:, :, sample]
        spread = torch.cov(own) - torch.diag(spans[:, sample])
        assert spread.abs().max().item() < 5 * math.sqrt(2 / 4000)
    assert torch.equal(moves[1, :, 0], torch.zeros(4000, dtype=F64))


def test_a_solve_of_no_length_gives_the_start():
    h0 = torch.ones(3)
    assert torch.equal(sdeint(pendulum, 0.5, h0, [1.0, 1.0]).h, torch.stack((h0, h0)))
    assert torch.equal(sdeint(pendulum, 0.5, h0, [1.0]).h, h0.unsqueeze(0))


def test_a_state_that_is_not_finite_fails():
    def explodes(t, h):
        return torch.where(t < 0.5, -h, math.inf)

    with pytest.raises(SolverError):
        sdeint(explodes, 0.5, torch.ones(3), [0.0, 1.0], step_size=0.1)
    assert sdeint(explodes, 0.5, torch.ones(3), [0.0, 1.0], step_size=0.1, throw=False).h[-1].isnan().all()


@pytest.mark.parametrize("method", ["torchsde:euler", "torchsde:srk"])
def test_torchsde_has_the_same_law(method):
    """The mean and variance of the harmonic well at t = 2, to five standard deviations and the bias of Euler, O(dt)."""
    count, h0 = 4000, torch.ones(4000, 1, dtype=F64)
    given = {"gamma": 0.8, "step_size": 0.02, "seed": 0}
    with torch.no_grad():
        ours = sdeint(harmonic, 0.7, h0, [0.0, 1.0, 2.0], **given)
        theirs = sdeint(harmonic, 0.7, h0, [0.0, 1.0, 2.0], method=method, gradient="backprop", **given)
    for a, b in ((ours.h[-1], theirs.h[-1]), (ours.m[-1], theirs.m[-1])):
        assert abs(a.mean() - b.mean()).item() < 5 * math.sqrt(2 / count) * a.std().item() + 0.02
        assert a.var().item() == pytest.approx(b.var().item(), rel=10 / math.sqrt(count) + 0.03)


def test_torchsde_takes_many_steps():
    given = {"step_size": 0.01, "method": "torchsde:euler", "gradient": "backprop"}
    assert sdeint(harmonic, 0.5, torch.zeros(1, 1), [0.0, 15.0], **given).h.isfinite().all()


@pytest.mark.parametrize("gradient", ["backprop", "continuous_adjoint"])
def test_torchsde_gradients_and_noise_that_mixes_channels(gradient, draw):
    system = HeavyBall(Network(), 0.3).double()
    mixing = draw(2, 3, grad=True)
    run = sdeint(
        system,
        lambda t, h: mixing.expand(len(h), 2, 3),
        draw(4, 2),
        [0.0, 0.5],
        step_size=0.1,
        method="torchsde:euler",
        gradient=gradient,
    )
    bars = torch.autograd.grad(run.h[-1].sum(), [mixing, *system.parameters()])
    assert all(bar.isfinite().all() and bar.abs().max() > 0 for bar in bars)


H0 = torch.zeros(3, 2)
ERRORS = {
    "first order": (lambda: sdeint(FirstOrder(pendulum), 1.0, H0, [0.0, 1.0]), ValueError, "func"),
    "force of m": (lambda: sdeint(SecondOrder(lambda t, h, m: m), 1.0, H0, [0.0, 1.0]), ValueError, "func"),
    "complex": (lambda: sdeint(pendulum, 1.0, H0.to(torch.complex64), [0.0, 1.0]), TypeError, "h0"),
    "noise": (lambda: sdeint(pendulum, "1", H0, [0.0, 1.0]), TypeError, "noise"),
    "noise not finite": (lambda: sdeint(pendulum, math.nan, H0, [0.0, 1.0]), ValueError, "noise"),
    "shape of noise": (lambda: sdeint(pendulum, torch.ones(3), H0, [0.0, 1.0]), ValueError, "noise"),
    "shape of noise(t, h)": (
        lambda: sdeint(pendulum, lambda t, h: h.new_ones(4, 3, 2), H0, [0.0, 1.0]),
        ValueError,
        "noise",
    ),
    "type of noise(t, h)": (lambda: sdeint(pendulum, lambda t, h: 1.0, H0, [0.0, 1.0]), TypeError, "noise"),
    "backwards": (lambda: sdeint(pendulum, 1.0, H0, [1.0, 0.0]), ValueError, "t must be increasing"),
    "step size": (lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], step_size=0.0), ValueError, "step_size"),
    "halvings": (lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], halvings=-1), ValueError, "halvings"),
    "seed": (lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], seed=0.5), TypeError, "seed"),
    "method": (lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], method="euler"), ValueError, "method"),
    "gradient": (
        lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], gradient="continuous_adjoint"),
        ValueError,
        "gradient",
    ),
    "shape for torchsde": (
        lambda: sdeint(pendulum, 1.0, H0[0], [0.0, 1.0], method="torchsde:euler", gradient="backprop"),
        ValueError,
        "h0",
    ),
    "gradient of torchsde": (
        lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], method="torchsde:euler"),
        ValueError,
        "gradient",
    ),
    "arguments for torchsde": (
        lambda: sdeint(pendulum, 1.0, H0, [0.0, 1.0], args=(1,), method="torchsde:euler", gradient="backprop"),
        ValueError,
        "args",
    ),
    "noise type": (lambda: HeavyBall(pendulum).as_sde(1.0, "general"), ValueError, "noise_type"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    run, error, words = ERRORS[case]
    with pytest.raises(error, match=words):
        run()
