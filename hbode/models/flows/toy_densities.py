"""Densities in the plane that flows are tried on, those of FFJORD (Grathwohl et al., ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Draw = Callable[..., Tensor]


def toy_density(name: str, n: int, *, generator: Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return n independent points of a density of `TOY_DENSITIES`, shape (n, 2), of a few units in size.

    Raises
    ------
    ValueError
        If there is none of that name, or n is negative.

    Examples
    --------
    >>> from hbode.models.flows import toy_density
    >>> toy_density("2spirals", 100).shape
    torch.Size([100, 2])
    """
    if name not in TOY_DENSITIES:
        raise ValueError(f"name must be one of {', '.join(TOY_DENSITIES)}, got {name!r}")
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn(n, 2, generator=generator, dtype=torch.float64)

    return TOY_DENSITIES[name](uniform, normal).to(dtype)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), -1) * torch.as_tensor(radius).unsqueeze(-1)


def _gaussians(uniform: Draw, normal: Draw) -> Tensor:
    return (_polar(4.0, (8 * uniform()).floor() * math.pi / 4) + 0.5 * normal()) / math.sqrt(2)


def _spirals(uniform: Draw, normal: Draw) -> Tensor:
    angle = 3 * math.pi * uniform().sqrt()
    arm = _polar(angle, math.pi - angle) + 0.5 * uniform(2)
    return arm * (2 * (2 * uniform(1)).floor() - 1) / 3 + 0.1 * normal()


def _checkerboard(uniform: Draw, normal: Draw) -> Tensor:
    x = 4 * uniform() - 2
    y = uniform() - 2 * (2 * uniform()).floor() + x.floor() % 2
    return 2 * torch.stack((x, y), -1)


def _pinwheel(uniform: Draw, normal: Draw) -> Tensor:
    radial, tangential = (normal() * torch.tensor([0.3, 0.1], dtype=torch.float64)).unbind(-1)
    angle = (5 * uniform()).floor() * 2 * math.pi / 5 + 0.25 * (1 + radial).exp()
    along, across = _polar(1.0, angle), _polar(1.0, angle + math.pi / 2)
    return 2 * ((1 + radial).unsqueeze(-1) * along + tangential.unsqueeze(-1) * across)


def _rings(uniform: Draw, normal: Draw) -> Tensor:
    radius = 0.75 * (1 + (4 * uniform()).floor())
    return _polar(radius, 2 * math.pi * uniform()) + 0.08 * normal()


def _moons(uniform: Draw, normal: Draw) -> Tensor:
    lower = (2 * uniform()).floor().unsqueeze(-1)
    moon = _polar(1.0, math.pi * uniform()) * (1 - 2 * lower) + lower * torch.tensor([1.0, 0.5], dtype=torch.float64)
    return 2 * (moon + 0.1 * normal()) - torch.tensor([1.0, 0.2], dtype=torch.float64)


def _circles(uniform: Draw, normal: Draw) -> Tensor:
    radius = 0.5 * (1 + (2 * uniform()).floor())
    return 3 * (_polar(radius, 2 * math.pi * uniform()) + 0.08 * normal())


def _swiss_roll(uniform: Draw, normal: Draw) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * uniform())
    return (_polar(angle, angle) + normal()) / 5


TOY_DENSITIES: dict[str, Callable[[Draw, Draw], Tensor]] = {
    "8gaussians": _gaussians,
    "2spirals": _spirals,
    "checkerboard": _checkerboard,
    "pinwheel": _pinwheel,
    "rings": _rings,
    "moons": _moons,
    "circles": _circles,
    "swissroll": _swiss_roll,
}
"""The densities by name."""
