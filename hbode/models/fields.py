"""Networks that serve as vector fields, and the systems around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..setup.arguments import check_at_least
from ..systems import FAMILY, FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, System
from .continuous.networks import dense_network


class DenseField(nn.Module):
    """An autonomous field of dense layers with activations between them.

    Parameters
    ----------
    size
        Channels D of the result.
    hidden
        Units of each of the hidden layers.
    inputs
        How many tensors (B, D) the field is a function of: 1 for f(t, h), 2 for f(t, h, m).
    depth
        Dense layers in all, 3 in Xia et al. (2021).
    activation
        Module class of the activation, nn.ReLU in Xia et al. (2021).

    Raises
    ------
    ValueError
        If a size is below 1.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import DenseField
    >>> DenseField(2, 8)(torch.tensor(0.0), torch.ones(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        size: int,
        hidden: int,
        inputs: int = 1,
        depth: int = 3,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_at_least(size=size, hidden=hidden, inputs=inputs, depth=depth)
        self.layers = dense_network([inputs * size, *[hidden] * (depth - 1), size], activation)

    def forward(self, t: Tensor, *state: Tensor) -> Tensor:
        """Return f(t, h) or f(t, h, m), shape (B, D); the time is not used."""
        out: Tensor = self.layers(state[0] if len(state) == 1 else torch.cat(state, -1))
        return out


def node(size: int, hidden: int) -> System:
    """Return a NODE, h' = f(h), with `DenseField(size, hidden)`.

    Examples
    --------
    >>> from hbode.models import node
    >>> type(node(2, 8)).__name__
    'FirstOrder'
    """
    return FirstOrder(DenseField(size, hidden))


def sonode(size: int, hidden: int) -> System:
    """Return a SONODE, h' = m, m' = f(h, m), with `DenseField(size, hidden, inputs=2)`.

    Examples
    --------
    >>> from hbode.models import sonode
    >>> type(sonode(2, 8)).__name__
    'SecondOrder'
    """
    return SecondOrder(DenseField(size, hidden, inputs=2))


def hbnode(size: int, hidden: int) -> System:
    """Return an HBNODE, h' = m, m' = -γ m + f(h), with `DenseField(size, hidden)` and a trainable γ.

    Examples
    --------
    >>> from hbode.models import hbnode
    >>> type(hbnode(2, 8)).__name__
    'HeavyBall'
    """
    return HeavyBall(DenseField(size, hidden))


def ghbnode(size: int, hidden: int) -> System:
    """Return a GHBNODE, h' = tanh(m), m' = -γ m + f(h) - ξ h, with trainable γ and ξ.

    Examples
    --------
    >>> from hbode.models import ghbnode
    >>> type(ghbnode(2, 8)).__name__
    'GeneralizedHeavyBall'
    """
    return GeneralizedHeavyBall(DenseField(size, hidden))


SYSTEMS: dict[str, Callable[[int, int], System]] = dict(zip(FAMILY, (node, sonode, hbnode, ghbnode), strict=True))
"""The four systems that are compared, by name: ``SYSTEMS[name](size, hidden)``."""


def make_system(name: str, size: int, hidden: int) -> System:
    """Return a system of `SYSTEMS` with `size` channels and `hidden` units in its field.

    Raises
    ------
    ValueError
        If there is no system of that name.

    Examples
    --------
    >>> from hbode.models import make_system
    >>> type(make_system("sonode", 2, 8)).__name__
    'SecondOrder'
    """
    if name not in SYSTEMS:
        raise ValueError(f"name must be one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name](size, hidden)
