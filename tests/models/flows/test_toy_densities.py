"""The toy densities are where they should be."""

from __future__ import annotations

import math

import pytest
import torch

from hbode.models.flows import TOY_DENSITIES, toy_density


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_points_are_of_a_few_units_and_repeat_with_a_seed(name):
    x, again = (toy_density(name, 1000, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert x.shape == (1000, 2) and x.dtype == torch.float32 and torch.equal(x, again)
    assert 0.5 < float(x.std()) < 3 and float(x.abs().max()) < 6
    assert toy_density(name, 0, dtype=torch.float64).shape == (0, 2)


def test_points_lie_where_the_density_does():
    torch.manual_seed(0)
    x, y = (toy_density("checkerboard", 1000) / 2).floor().unbind(-1)
    assert bool(((x + y) % 2 == 0).all()) and set(x.tolist()) == {-2.0, -1.0, 0.0, 1.0}
    radius = torch.linalg.vector_norm(toy_density("rings", 1000), dim=-1)
    assert float((radius - 0.75 * (radius / 0.75).round().clamp(1, 4)).abs().max()) < 5 * 0.08
    centres = 4 / math.sqrt(2) * torch.polar(torch.ones(8), torch.arange(8) * math.pi / 4)
    distance = (torch.view_as_complex(toy_density("8gaussians", 1000)).unsqueeze(-1) - centres).abs()
    assert float(distance.min(-1).values.max()) < 5 * 0.5 / math.sqrt(2)
    assert len(distance.argmin(-1).unique()) == 8


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="name"):
        toy_density("torus", 10)
    with pytest.raises(ValueError, match="n must"):
        toy_density("moons", -1)
