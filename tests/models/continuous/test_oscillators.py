"""Linear oscillators against solves to 1e-12, closed forms of step responses, and their own determinants."""

import math

import pytest
import torch

from hbode import HoldInput, LinearInput, hbodeint
from hbode.models.continuous import LinearOscillators

# Under-, over- and critically damped, close to critical on both sides, a slow mode beside a fast one, and hardly any.
GAMMA = [0.05, 3.0, 2.0, 2.0 * (1 + 1e-9), 2.0 * (1 - 1e-9), 10.0, 1e-8]
KAPPA = [4.0, 1.0, 1.0, 1.0, 1.0, 0.01, 1e-10]


def made(inputs=2):
    torch.manual_seed(0)
    layer = LinearOscillators(len(GAMMA), inputs).double()
    with torch.no_grad():
        for raw, value in ((layer.raw_gamma, GAMMA), (layer.raw_kappa, KAPPA)):
            value = torch.tensor(value, dtype=torch.float64)
            raw.copy_(value + torch.log(-torch.expm1(-value)))
    return layer


@pytest.mark.parametrize("own_times", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind, input_class", [("hold", HoldInput), ("linear", LinearInput)])
def test_records_are_those_of_a_solve(kind, input_class, own_times, draw):
    layer, batch, count = made(), 3, 6
    dt = 0.02 + 0.3 * draw(*[batch] * own_times, count - 1).abs()
    u, h0, m0 = draw(batch, count, 2), draw(batch, 7), draw(batch, 7)
    h, m = layer.simulate(u, dt, h0=h0, m0=m0, interpolation=kind)
    t = torch.nn.functional.pad(dt.cumsum(-1), (1, 0))

    def force(time, position, value):
        return layer.gain(value) - layer.kappa * position

    with torch.no_grad():
        sol = hbodeint(
            force, h0, t, m0=m0, inputs=input_class(t, u), gamma=layer.gamma, method="dprkn8", rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(h, sol.h.transpose(0, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(m, sol.m.transpose(0, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_the_scan_is_the_loop_over_samples(count, lead, draw):
    layer, u = made(), draw(*lead, count, 2)
    h0, m0 = draw(7), draw(*lead, 7)
    h, m = layer.simulate(u, 0.3, h0=h0, m0=m0, interpolation="linear")
    assert h.shape == m.shape == (*lead, count, 7)
    state = h0.expand(*lead, 7), m0
    for k in range(count):
        torch.testing.assert_close((h[..., k, :], m[..., k, :]), state, rtol=1e-13, atol=1e-13)
        pair = u[..., k : k + 2, :]
        if k + 1 < count:
            step = layer.simulate(
                pair, torch.tensor([0.3], dtype=torch.float64), h0=state[0], m0=state[1], interpolation="linear"
            )
            state = step[0][..., 1, :], step[1][..., 1, :]
    torch.testing.assert_close(
        layer(u, torch.full((count - 1,), 0.3, dtype=torch.float64)), layer(u, 0.3), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("dt", [1e-6, 1e-3, 0.1, 3.0, 40.0])
def test_responses_have_all_their_digits(dt):
    """Against the reference's closed forms, in multiple precision."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    layer = made()
    found = torch.stack(layer._responses(torch.tensor([[dt]], dtype=torch.float64)))[:, 0].detach()
    for channel, (gamma, kappa) in enumerate(zip(layer.gamma.tolist(), layer.kappa.tolist(), strict=True)):
        g, k, d = mpmath.mpf(gamma), mpmath.mpf(kappa), mpmath.mpf(dt)
        omega = mpmath.sqrt(k - g * g / 4 + mpmath.mpf(10) ** -40)
        s, c, q = mpmath.sin(omega * d) / omega, mpmath.cos(omega * d), mpmath.exp(-g * d / 2)
        impulse, step = q * s, (1 - q * (c + g / 2 * s)) / k
        exact = [mpmath.re(x) for x in (impulse, step, (d - impulse - g * step) / k)]
        natural = [1 / mpmath.sqrt(k), 1 / k, d / k]  # what they are compared with where they oscillate
        scale = max(1.0, math.sqrt(kappa) * dt, gamma * dt)  # the condition of a phase
        for value, wanted, size in zip(found[:, channel].tolist(), exact, natural, strict=True):
            assert abs(value - wanted) < 1e-14 * scale * min(size, max(abs(wanted), 1e-3 * size)), (channel, value)


def test_the_propagator_shrinks_areas_by_the_damping(draw):
    """det E = exp(-γ Δ), and a held input has its static response for a fixed point."""
    layer, dt = made(1), 0.7
    u = torch.zeros(2, 1).double()
    e = torch.stack([torch.stack([x[1] for x in layer.simulate(u, dt, h0=h0, m0=1 - h0)]) for h0 in _unit()], 1)
    det = e[0, 0] * e[1, 1] - e[0, 1] * e[1, 0]
    torch.testing.assert_close(det, torch.exp(-layer.gamma * dt), rtol=1e-13, atol=1e-15)
    push = torch.ones(500, 1).double()
    static = layer.gain(push[0]) / layer.kappa
    h, m = layer.simulate(push, dt, h0=static)
    assert float(((h - static) / static).detach().abs().max()) < 1e-13


def _unit():
    return torch.ones(7).double(), torch.zeros(7).double()


def test_long_fast_records_in_single_precision_keep_phase_and_decay():
    """20,000 samples, 300 to a period: rounding E would spoil the phase, so it is kept in float64."""
    layer = LinearOscillators(1, 1, gamma=1e-3, kappa=1.0)
    dt, count = 2 * math.pi / 300, 20_000
    h, _ = layer.simulate(torch.zeros(count, 1), dt, h0=torch.ones(1))
    h64, _ = layer.double().simulate(torch.zeros(count, 1).double(), dt, h0=torch.ones(1).double())
    assert float((h.double() - h64).detach().abs().max()) < 3e-4


def test_gradients_are_those_of_finite_differences(draw):
    layer = made()
    u = draw(2, 6, 2, grad=True)
    dt = (0.1 + draw(2, 5).abs()).requires_grad_()
    h0, m0 = draw(2, 7, grad=True), draw(2, 7, grad=True)
    names = ["raw_gamma", "raw_kappa", "gain.weight"]
    values = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]
    with torch.no_grad():  # of logarithms of 1e-10, differences would be as small
        values[0][-1], values[1][-1] = -3.0, -2.0

    def simulate(u, dt, h0, m0, *values):
        given = dict(zip(names, values, strict=True))

        class Simulation(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = layer

            def forward(self):
                return self.layer.simulate(u, dt, h0=h0, m0=m0, interpolation="linear")

        return torch.func.functional_call(Simulation(), {f"layer.{k}": v for k, v in given.items()}, ())

    assert torch.autograd.gradcheck(simulate, (u, dt, h0, m0, *values), fast_mode=True)


def test_defaults_are_stable_and_spread_over_a_decade():
    layer = LinearOscillators(9, 1)
    torch.testing.assert_close(layer.kappa.sqrt()[[0, -1]], torch.tensor([0.3, 3.0]))
    torch.testing.assert_close(layer.gamma / (2 * layer.kappa.sqrt()), torch.full((9,), 0.2))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: LinearOscillators(2, 1, gamma=0.0), "gamma must be positive"),
        (lambda: LinearOscillators(2, 1, kappa=torch.tensor([1.0, -1.0])), "kappa must be positive"),
        (lambda: LinearOscillators(2, 0), "inputs must be at least 1"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(5, 2), 0.1), r"u must have shape \(..., T, 1\)"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(5, 1), torch.ones(5)), "dt must be a number"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(3, 5, 1), torch.ones(2, 4)), "dt must be a number"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(5, 1), -0.1), "dt must be finite and not negative"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(5, 1), math.inf), "dt must be finite and not negative"),
        (lambda: LinearOscillators(2, 1)(torch.zeros(5, 1), 0.1, interpolation="cubic"), "interpolation must be"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
