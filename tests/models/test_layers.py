"""The layers, and what the published code computes, against their formulas solved by scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from hbode import FirstOrder, HeavyBall, hbodeint
from hbode.models import (
    ANODE,
    GHBNODE,
    HBNODE,
    NODE,
    PUBLISHED,
    SONODE,
    SYSTEMS,
    DenseField,
    NesterovNODE,
    ODELayer,
    SolverSettings,
    UnitInterval,
    make_system,
    published_system,
    scale_parameters,
)

TIGHT = SolverSettings("dopri8", rtol=1e-10, atol=1e-10)
# Two solvers, each within some ten tolerances of the exact solution over a span of 1.5; states of size 1.
CLOSE = 1e-8
GAMMA, XI = 1 / (1 + math.exp(3)), math.log(2)
RHS = Callable[[float, Any, Any, Any], tuple[Any, Any]]


class Field(nn.Module):
    """f depends on the time, and on m where there is one."""

    def __init__(self, inputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = DenseField(3, 8, inputs, activation=nn.Tanh).double()

    def forward(self, t: Tensor, *state: Tensor) -> Tensor:
        return 2 * self.net(t, *state) + torch.sin(2 * t)


def by_scipy(f: Field, rhs: RHS, h: Tensor, m: Tensor | None, end: float) -> Tensor:
    """Return h at the end of y' = rhs(t, h, m, f), by DOP853; m stays where it is in a first-order system."""
    shape = h.shape

    @torch.no_grad()
    def force(t: float, *state: np.ndarray) -> np.ndarray:
        return f(torch.tensor(t, dtype=torch.float64), *map(torch.from_numpy, state)).numpy()

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x.ravel() for x in rhs(t, *y.reshape(2, *shape), force)])

    start = torch.stack((h, torch.zeros_like(h) if m is None else m)).numpy().ravel()
    found = solve_ivp(slope, (0.0, end), start, "DOP853", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(found.y[:, -1].reshape(2, *shape)[0].copy())


FORMULAS: dict[str, tuple[Callable[..., ODELayer], int, RHS]] = {
    "NODE": (NODE, 1, lambda t, h, m, f: (f(t, h), 0 * m)),
    "SONODE": (SONODE, 2, lambda t, h, m, f: (m, f(t, h, m))),
    "HBNODE": (HBNODE, 1, lambda t, h, m, f: (m, f(t, h) - GAMMA * m)),
    "GHBNODE": (GHBNODE, 1, lambda t, h, m, f: (np.tanh(m), f(t, h) - GAMMA * m - XI * h)),
    "NesterovNODE": (NesterovNODE, 1, lambda t, h, m, f: (m, f(t, h) - 3 / (t + 1) * m)),
}
REFLECTED: dict[str, RHS] = {
    "hbnode": lambda t, h, m, f: (-m, f(t, h) - GAMMA * m),
    "hbnode-frozen-xi": lambda t, h, m, f: (-m, f(t, h) - GAMMA * m + XI * h),
    "hbnode-trained-xi": lambda t, h, m, f: (-m, f(t, h) - GAMMA * m + XI * h),
    "ghbnode": lambda t, h, m, f: (np.tanh(-m), f(t, h) - GAMMA * m + XI * h),
    "ghbnode-hardtanh": lambda t, h, m, f: (np.clip(-m, -5, 5), f(t, h) - GAMMA * m + XI * h),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_layer_solves_its_formula(name, draw):
    make, inputs, rhs = FORMULAS[name]
    x, f = draw(4, 2), Field(inputs)
    momentum = None if name == "NODE" else nn.Linear(2, 3).double()
    layer = make(f, t=(0.0, 1.5), augment=1, momentum=momentum, solver=TIGHT).double()
    h0 = torch.cat((x, torch.zeros(4, 1, dtype=torch.float64)), 1)
    m0 = None if momentum is None else momentum(x).detach()
    out = layer(x)
    assert float((out - by_scipy(f, rhs, h0, m0, 1.5)).detach().abs().max()) < CLOSE
    out.square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    assert layer.stats.nfe > 0 and layer.stats.nfe_backward > 0


@pytest.mark.parametrize("name", REFLECTED)
def test_a_published_system_solves_the_published_formula(name, draw):
    f, x, m0 = Field(), draw(4, 3), draw(4, 3)
    system = published_system(name, f).double()
    sol = hbodeint(system, x, [0.0, 1.5], m0=m0, rtol=1e-10, atol=1e-10)
    assert float((sol.h[-1] - by_scipy(f, REFLECTED[name], x, m0, 1.5)).detach().abs().max()) < CLOSE
    trained = {key for key, x in system.named_parameters() if x.requires_grad and not key.startswith("f.")}
    assert trained == ({"omega", "chi"} if name not in ("hbnode", "hbnode-frozen-xi") else {"omega"})
    assert set(PUBLISHED) == set(REFLECTED)


@pytest.mark.parametrize("name", ["node", "ghbnode"])
def test_elapsed_time_scales_the_field(name, draw):
    """Of every sample its own, with the field at the elapsed time: sample by sample against scipy."""
    f, x = Field(), draw(3, 3)
    node = name == "node"
    system = UnitInterval((FirstOrder(f) if node else published_system(name, f)).double())
    rhs: RHS = (lambda t, h, m, f: (f(t, h), 0 * m)) if node else REFLECTED[name]
    dt = torch.tensor([[0.3], [1.0], [2.5]], dtype=torch.float64)
    sol = hbodeint(system, x, [0.0, 1.0], args=(dt,), rtol=1e-10, atol=1e-10)
    for b, elapsed in enumerate(dt.flatten().tolist()):
        one = by_scipy(
            f, lambda t, h, m, f, d=elapsed: tuple(d * part for part in rhs(d, h, m, f)), x[b : b + 1], None, 1
        )
        assert float((sol.h[-1, b] - one[0]).detach().abs().max()) < CLOSE
    with pytest.raises(ValueError, match="constant gamma"):
        UnitInterval(HeavyBall(f, lambda t: 1 + t))


def test_scaled_parameters_begin_at_the_published_damping():
    system = scale_parameters(published_system("hbnode", DenseField(3, 4)))
    torch.testing.assert_close(system.coefficients()[0].item(), 1 / (1 + math.exp(0.03)), rtol=1e-6, atol=0)
    assert max(float(x.detach().abs().max()) for x in system.f.parameters()) < 0.01


def test_states_at_times_begin_with_the_input_and_end_at_the_end(draw):
    x = draw(4, 3)
    layer = HBNODE(Field(), t=(0.0, 1.5), solver=TIGHT).double()
    t = torch.linspace(0.0, 1.5, 4, dtype=torch.float64)
    states = layer(x, t)
    assert torch.equal(states[0], x)
    torch.testing.assert_close(states[-1], layer(x), rtol=0, atol=CLOSE)
    own = layer(x, t * torch.tensor([[1.0], [0.5], [2.0], [1.0]], dtype=torch.float64))
    torch.testing.assert_close(own[:, [0, 3]], states[:, [0, 3]], rtol=0, atol=CLOSE)
    assert layer.solve(x).m.shape == (2, 4, 3)


def test_images_are_augmented_on_their_channels(draw):
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(5, 5, 3, padding=1)

        def forward(self, t: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.net(h))

    x = draw(2, 3, 6, 6, dtype=torch.float32, grad=True)
    layer = GHBNODE(Convolution(), augment=2, channel_dim=1, momentum=nn.Conv2d(3, 5, 1))
    out = nn.Sequential(layer, nn.Flatten(), nn.Linear(180, 4))(x)
    assert out.shape == (2, 4)
    out.sum().backward()
    assert x.grad.abs().sum() > 0
    assert torch.equal(layer.solve(x).h[0, :, 3:], torch.zeros(2, 2, 6, 6))


def test_a_layer_is_saved_and_loaded(draw):
    x = draw(4, 4, dtype=torch.float32)
    one, two = (ODELayer(make_system("ghbnode", 4, 8)) for _ in range(2))
    assert not torch.equal(one(x), two(x))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("name", SYSTEMS)
def test_layers_take_every_named_system(name, draw):
    assert ODELayer(make_system(name, 4, 8))(draw(2, 4, dtype=torch.float32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: HBNODE(Field(), t=(0.0, 0.5, 1.0)), "t must be the start and the end"),
        (lambda: HBNODE(Field(), augment=-1), "augment must not be negative"),
        (lambda: ANODE(Field()), "augment must be at least 1"),
        (lambda: NODE(Field(), momentum=nn.Linear(3, 3)), "momentum must be None"),
        (lambda: HBNODE(Field(), momentum=nn.Linear(3, 2).double())(torch.ones(2, 3).double()), "momentum must return"),
        (lambda: ANODE(Field(), augment=1, channel_dim=2)(torch.ones(2, 3)), "x must have an axis 2"),
        (lambda: published_system("node", Field()), "name must be one of hbnode"),
    ],
)
def test_errors_name_the_argument(make, told):
    with pytest.raises(ValueError, match=told):
        make()
