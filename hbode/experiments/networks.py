"""What the models of several experiments are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..models import ODELayer, published_system
from ..models.continuous.networks import dense_network
from ..solution import Stats
from ..systems import FAMILY, FirstOrder, GeneralizedHeavyBall, System


class Dense(nn.Module):
    """f(t, h), f(t, h, m) or f(t, h, u) of dense layers; `sizes` begin with the channels of all of them together."""

    def __init__(self, sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = dense_network(sizes, activation)

    def forward(self, t: Tensor, *state: Tensor) -> Tensor:
        lead = state[0].shape[:-1]
        return torch.as_tensor(self.layers(torch.cat([x.expand(*lead, -1) for x in state], -1)))


class ResidualDense(nn.Module):
    """The update s + W(s, x) of an ODE-RNN, W of dense layers with tanh between them."""

    def __init__(self, state: int, channels: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.layers = dense_network([state + channels, *hidden, state])

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return s + torch.as_tensor(self.layers(torch.cat((s, x), -1)))


class Padded(nn.Module):
    """Zeros behind what a module returns, on axis 1."""

    def __init__(self, module: nn.Module, zeros: int) -> None:
        super().__init__()
        self.module, self.zeros = module, zeros

    def forward(self, x: Tensor) -> Tensor:
        found = self.module(x)
        return torch.cat((found, found.new_zeros(len(found), self.zeros, *found.shape[2:])), 1)


def is_second_order(name: str) -> bool:
    """Return whether a model of `MODELS` has a momentum."""
    return name not in ("node", "anode")


def make(name: str, f: nn.Module, code: str | None = None, *, xi: float | None = None, sigma: str = "tanh") -> System:
    """Return a system of `MODELS` around a field; `code` names one of `PUBLISHED` to take in its place."""
    if code is not None:
        return published_system(code, f)
    if name == "ghbnode":
        return GeneralizedHeavyBall(f, xi=xi, activation=sigma)
    return FAMILY.get(name, FirstOrder)(f)


def stats_of(model: nn.Module) -> Stats:
    """Return the statistics of the last solve of an `ODELayer` with a read-out behind it."""
    return cast(Stats, cast(ODELayer, cast(nn.Sequential, model)[0]).stats)
