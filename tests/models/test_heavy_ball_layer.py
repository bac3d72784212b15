"""The linear heavy ball as a sequence layer: against matrix exponentials, solves, and itself step by step."""

import math

import pytest
import torch

from hbode import HeavyBall, HoldInput, hbodeint
from hbode.models.recurrent import HeavyBallLayer, HeavyBallSequenceModel

BOUND = 1e-12
"""Roundoff (1e-16) times what states add up over some 1/(1 - radius) = 1,000 samples."""


def made(seed=0, **given):
    torch.manual_seed(seed)
    return HeavyBallLayer(**{"input_size": 3, "state_size": 5, "output_size": 2} | given).double()


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exponentials(layer, u, dt):
    """h of a real layer, (B, T, N), by a matrix exponential of (h, m, B u) a sample."""
    force = u @ layer.gain[:, 0].mT
    A = u.new_zeros(len(layer.gain), 3, 3)
    A[:, 0, 1], A[:, 1, 0], A[:, 1, 1], A[:, 1, 2] = 1, -layer.kappa, -layer.gamma, 1
    z = u.new_zeros(*force[:, 0].shape, 2)
    found = []
    for k in range(u.shape[1]):
        E = torch.linalg.matrix_exp(A * dt[k])
        z = (E[:, :2] @ torch.cat((z, force[:, k, :, None]), -1).unsqueeze(-1)).squeeze(-1)
        found.append(z[..., 0])
    return torch.stack(found, 1)


@pytest.mark.parametrize("irregular", [False, True])
def test_states_are_those_of_matrix_exponentials_and_of_a_solve(irregular):
    layer, u = made(), draw(2, 40, 3)
    dt = 0.1 + draw(40).abs() if irregular else torch.full((40,), 0.7, dtype=torch.float64)
    y, (h, m) = layer(u, dt=dt if irregular else 0.7)
    with torch.no_grad():
        exact = exponentials(layer, u, dt)
        expected = exact @ layer.read[..., 0].mT + layer.skip(u)
        torch.testing.assert_close(y.detach(), expected, rtol=0, atol=BOUND * float(exact.abs().max()))
        t = torch.cat((dt.new_zeros(1), dt.cumsum(0)))
        system = HeavyBall(lambda t, h, u: u @ layer.gain[:, 0].mT - layer.kappa * h, layer.gamma)
        held = HoldInput(t, torch.nn.functional.pad(u, (0, 0, 0, 1)))
        sol = hbodeint(system, u.new_zeros(2, 5), t, inputs=held, method="dprkn8", rtol=1e-11, atol=1e-11)
    for one, other in ((h, sol.h[-1]), (m, sol.m[-1])):
        assert float((one - other).detach().abs().max()) < 1e-7 * float(other.abs().max())  # 40 steps at 1e-11


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("times", ["number", "shared", "own"])
def test_a_sequence_in_parts_is_the_sequence(is_complex, times):
    layer, u = made(complex=is_complex), draw(4, 50, 3)
    dt = {"number": 0.5, "shared": draw(50).abs(), "own": draw(4, 50).abs()}[times]
    whole, end = layer(u, dt=dt)
    state, parts = None, []
    for a, b in ((0, 1), (1, 20), (20, 50)):
        y, state = layer(u[:, a:b], state, dt=dt if times == "number" else dt[..., a:b])
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=BOUND * float(whole.detach().abs().max()))
    for one, other in zip(state, end, strict=True):
        assert one.shape == (4, 5) and one.is_complex() == is_complex
        torch.testing.assert_close(one, other, rtol=0, atol=BOUND * float(other.detach().abs().max()))
    alone, (h, _) = layer(u[2], dt=dt[2] if times == "own" else dt)
    torch.testing.assert_close(alone, whole[2], rtol=0, atol=BOUND * float(whole.detach().abs().max()))
    assert h.shape == (5,)


def test_a_complex_layer_is_a_real_one_with_each_oscillator_twice():
    one, u = made(complex=True), draw(2, 30, 3)
    other = made(state_size=10)
    with torch.no_grad():
        for name in ("raw_gamma", "raw_kappa"):
            getattr(other, name).copy_(getattr(one, name).repeat_interleave(2))
        other.gain.copy_(one.gain.reshape(10, 1, 3))
        other.read.copy_(one.read.reshape(2, 10, 1))
        other.skip.load_state_dict(one.skip.state_dict())
        torch.testing.assert_close(one(u)[0], other(u)[0], rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    layer, u = made(complex=True), draw(2, 18, 3).requires_grad_()
    dt = (0.2 + draw(2, 18).abs()).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(u, dt, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u,), {"dt": dt})[0]

    assert torch.autograd.gradcheck(run, (u, dt, *values), fast_mode=True)
    assert torch.autograd.gradcheck(lambda u, *v: run(u, 0.4, *v), (u, *values), fast_mode=True)


def test_areas_shrink_by_the_damping_alone():
    """det E = e^{-γΔ}; so do products over steps, and with them the states' sensitivity to states long before."""
    layer = made()
    for dt in (1e-3, 0.3, 7.0):
        E, _ = layer.propagator(torch.tensor(dt, dtype=torch.float64))
        torch.testing.assert_close(torch.linalg.det(E), (-layer.gamma * dt).exp(), rtol=1e-13, atol=0)


def test_gradients_over_a_thousand_steps_stay_within_their_bound():
    """∂z_T/∂z_t = E^{T-t} has det e^{-γ(T-t)Δ}: its larger singular value is at least e^{-γ(T-t)Δ/2}."""
    layer = made(radius=(0.995, 0.999))
    E, _ = layer.propagator(torch.tensor(1.0, dtype=torch.float64))
    for steps in (1, 10, 100, 1000):
        largest = torch.linalg.matrix_norm(torch.linalg.matrix_power(E, steps), 2)
        assert bool((largest >= (-layer.gamma * steps / 2).exp() * (1 - 1e-10)).all())


def test_the_start_has_states_of_size_one_and_the_eigenvalues_asked_for():
    torch.manual_seed(0)
    layer = HeavyBallLayer(4, 400, radius=(0.8, 0.9), max_phase=1.0, dt=0.5)
    E, _ = layer.propagator(torch.tensor(0.5, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvals(E).detach()
    assert float(eigenvalues.abs().min()) >= 0.8 - 1e-4 and float(eigenvalues.abs().max()) <= 0.9 + 1e-4
    assert 0.9 < float(eigenvalues.angle().abs().max()) <= 1.0 + 1e-4
    h = layer(torch.randn(64, 200, 4))[1][0]
    assert 0.7 < float(h.detach().std()) < 1.4


@pytest.mark.parametrize("pooling", ["none", "mean", "last"])
def test_stacks_stream(pooling):
    torch.manual_seed(0)
    model = HeavyBallSequenceModel(2, 3, size=8, state_size=6, pooling=pooling, complex=True).double().eval()
    u = draw(4, 30, 2)
    whole = model(u)
    assert whole.shape == ((4, 30, 3) if pooling == "none" else (4, 3))
    first, states = model.stream(u[:, :13])
    second, _ = model.stream(u[:, 13:], states=states)
    if pooling == "none":
        torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=1e-12)
    elif pooling == "last":
        torch.testing.assert_close(second, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: HeavyBallLayer(0, 4), "input_size must be at least 1"),
        (lambda: HeavyBallLayer(1, 4, dt=0.0), "dt must be positive"),
        (lambda: HeavyBallLayer(1, 4, radius=(0.5, 1.0)), "radius must be two numbers"),
        (lambda: HeavyBallLayer(1, 4, max_phase=4.0), "max_phase must be in"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 5, 2)), r"u must have shape \(B, T, 1\)"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 0, 1)), r"u must have shape \(B, T, 1\)"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 5, 1), dt=torch.ones(4)), "dt must be a number"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 5, 1), dt=-1.0), "dt must be finite and not negative"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 5, 1), dt=math.nan), "dt must be finite and not negative"),
        (lambda: HeavyBallLayer(1, 4)(torch.zeros(3, 5, 1), state=(torch.zeros(3, 2),) * 2), "state must be h and m"),
        (
            lambda: HeavyBallLayer(1, 4, complex=True)(torch.zeros(3, 5, 1), state=(torch.zeros(3, 4),) * 2),
            "state must be h and m of shape .* complex",
        ),
        (lambda: HeavyBallSequenceModel(1, 1, pooling="max"), "pooling must be"),
        (lambda: HeavyBallSequenceModel(1, 1, num_layers=0), "num_layers must be at least 1"),
        (lambda: HeavyBallSequenceModel(1, 1).stream(torch.zeros(1, 2, 1), states=[]), "states must be 2"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
