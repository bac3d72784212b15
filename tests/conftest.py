"""Small problems that several test files share. All of them are in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from hbode import METHODS

KINDS = {"dopri5", "dprkn6", "rk4", "leapfrog", "explicit_adams", "prox_bdf3", "esdirk4", "radauIIA3", "auto"}
"""One method of each kind of step."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one method of each kind in the fast lane of what is tested with all."""
    lanes: dict[str, list[tuple[bool, pytest.Item]]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("slow") is not None:
            continue
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = {name for name in params if isinstance(name, str) and name in METHODS}
        if names:
            lanes.setdefault(item.nodeid.partition("[")[0], []).append((names <= KINDS, item))
    for tests in lanes.values():
        one_stays = any(kind for kind, _ in tests)
        for n, (kind, item) in enumerate(tests):
            if not kind and (one_stays or n):
                item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Manufactured:
    """h'' + γ h' + ξ h = f(t, h), nonlinear, coupled and driven, made so that h(t) = a sin(ω t + φ) solves it.

    f(t, h) = N(h) - N(h(t)) + h''(t) + γ h'(t) + ξ h(t) with N(h) = -sin(A h): the solution is known in closed
    form, and errors of a method are felt through N.
    """

    gamma: float
    xi: float
    a = torch.tensor([1.0, 0.7], dtype=torch.float64)
    omega = torch.tensor([1.3, 0.9], dtype=torch.float64)
    phi = torch.tensor([0.4, 1.1], dtype=torch.float64)
    matrix = torch.tensor([[1.2, 0.5], [-0.4, 0.9]], dtype=torch.float64)
    scale: float = 1.0

    def h(self, t: Tensor | float) -> Tensor:
        return self.a * torch.sin(self.omega * t + self.phi)

    def m(self, t: Tensor | float) -> Tensor:
        return self.a * self.omega * torch.cos(self.omega * t + self.phi)

    def _restoring(self, h: Tensor) -> Tensor:
        return -torch.sin(h @ self.matrix)

    def __call__(self, t: Tensor, h: Tensor) -> Tensor:
        exact = self.h(t)
        drive = -(self.omega**2) * exact + self.gamma * self.m(t) + self.xi * exact
        return self._restoring(h) - self._restoring(exact) + drive

    def start(self, t: float = 0.0) -> tuple[Tensor, Tensor]:
        return self.h(t), self.m(t)


@pytest.fixture
def manufactured() -> Callable[[float, float], Manufactured]:
    return Manufactured


class Net(nn.Module):
    """f(t, h) = tanh(h W + b cos t) V: smooth, nonlinear, non-autonomous, with three parameters."""

    def __init__(self, dim: int = 2, width: int = 3, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=rng, dtype=torch.float64) / math.sqrt(shape[0]))

        self.w, self.b, self.v = draw(dim, width), draw(width), draw(width, dim)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.w + self.b * torch.cos(t)) @ self.v


@pytest.fixture
def net() -> Callable[..., Net]:
    return Net


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Standard normal tensors from a generator of their own: draw(*shape, grad=False, dtype=torch.float64)."""
    rng = torch.Generator().manual_seed(1)

    def numbers(*shape: int, grad: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=dtype).requires_grad_(grad)

    return numbers


class Counted:
    """A field that counts its own evaluations."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Tensor, h: Tensor, *args: Tensor) -> Tensor:
        self.calls += 1
        return self.f(t, h, *args)


@pytest.fixture
def counted() -> Callable[[Callable[..., Tensor]], Counted]:
    return Counted
