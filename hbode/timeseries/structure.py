"""A made-up vibration record: three masses in a row on springs, one of them cubic, driven at the free end.

    wall --k1, k3-- mass 1 --k2-- mass 2 --k3-- mass 3 <- force

With damping in proportion to the masses this is a heavy ball itself, x'' + γ x' = -K x - κ x₁³ e₁ + F(t) e₃.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..integrate import hbodeint
from .records import Channel, Records, Run


@dataclass(frozen=True)
class Structure:
    """The structure, for unit masses (1 kg), and how it is driven and measured.

    Examples
    --------
    >>> from hbode.timeseries import Structure
    >>> Structure().frequencies().shape
    torch.Size([3])
    """

    springs: tuple[float, ...] = (900.0, 700.0, 500.0)
    """Stiffness in N/m from the wall outwards."""
    cubic: float = 2e4
    """Stiffness of the cubic spring between the wall and mass 1, in N/m³."""
    damping: float = 0.4
    """γ, in 1/s."""
    band: tuple[float, float] = (0.5, 9.0)
    """The lowest and the highest frequency of the force, in Hz."""
    tones: int = 24
    """Sines in the force, with random phases."""
    amplitude: float = 4.0
    """Of each sine, in N."""
    rate: float = 64.0
    """Samples per second."""
    noise: float = 0.02
    """Standard deviation of the measurement noise, as a share of each channel's own."""

    def stiffness(self) -> Tensor:
        """Return K, shape (n, n), in N/m, float64."""
        k = torch.tensor([*self.springs, 0.0], dtype=torch.float64)
        return torch.diag(k[:-1] + k[1:]) - torch.diag(k[1:-1], 1) - torch.diag(k[1:-1], -1)

    def frequencies(self) -> Tensor:
        """Return the natural frequencies without the cubic spring, in Hz, increasing."""
        squares: Tensor = torch.linalg.eigvalsh(self.stiffness())
        return squares.sqrt() / (2 * math.pi)

    def energy(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the energy in J at positions and velocities (..., n): kinetic, elastic and of the cubic spring."""
        elastic = 0.5 * torch.einsum("...i,ij,...j", x, self.stiffness(), x)
        return 0.5 * v.square().sum(-1) + elastic + 0.25 * self.cubic * x[..., 0] ** 4

    def restoring(self, x: Tensor) -> Tensor:
        """Return the acceleration by the springs alone, shape of x, in m/s²."""
        pull = -x @ self.stiffness()
        return torch.cat((pull[..., :1] - self.cubic * x[..., :1] ** 3, pull[..., 1:]), -1)

    def motion(
        self, t: Tensor, phases: Tensor, x0: Tensor | None = None, v0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return force (N,), positions and velocities (N, n) at the times t (N,) in s, from rest by default.

        Parameters
        ----------
        t
            Times, float64.
        phases
            Phases of the sines in the force, shape (tones,); empty for a free motion.
        x0, v0
            Start, shape (n,).
        """
        omega = 2 * math.pi * torch.linspace(*self.band, self.tones, dtype=torch.float64)[: len(phases)]
        end = torch.zeros(len(self.springs), dtype=torch.float64)
        end[-1] = self.amplitude
        pull = -self.stiffness()
        cubic = torch.zeros_like(end)
        cubic[0] = self.cubic

        def field(now: Tensor, x: Tensor) -> Tensor:
            drive = torch.sin(torch.addcmul(phases, omega, now)).sum()
            return torch.addcmul(torch.mv(pull, x), end, drive) - cubic * x**3

        start = torch.zeros_like(end) if x0 is None else x0
        with torch.no_grad():
            moved = hbodeint(field, start, t, m0=v0, gamma=self.damping, method="dprkn8", rtol=1e-4, atol=1e-4)
        force = self.amplitude * torch.sin(omega * t[:, None] + phases).sum(1)
        return force, moved.h, torch.zeros_like(moved.h) if moved.m is None else moved.m


def structure_records(samples: int, seed: int, structure: Structure | None = None) -> Records:
    """Return force and displacements of the driven structure, with noise, as input and outputs; by the seed alone.

    Parameters
    ----------
    samples
        Rows of the record. The first seconds, in which the structure starts from rest, are left out.
    seed
        Of the phases of the force and of the noise.
    structure
        Another structure than the default.

    Examples
    --------
    >>> from hbode.timeseries import structure_records
    >>> records = structure_records(100, seed=0)
    >>> records.total_rows
    100
    """
    structure = structure or Structure()
    generator = torch.Generator().manual_seed(seed)
    phases = 2 * math.pi * torch.rand(structure.tones, generator=generator, dtype=torch.float64)
    settle = int(3.0 / structure.damping * structure.rate)
    t = torch.arange(settle + samples, dtype=torch.float64) / structure.rate
    force, x, _ = (part[settle:] for part in structure.motion(t, phases))
    clean = torch.cat((force[:, None], 1e3 * x), 1)
    noisy = clean + structure.noise * clean.std(0) * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    values = noisy.numpy()
    count = len(structure.springs)
    return Records(
        (Run(np.arange(samples) / structure.rate, values[:, 1:], values[:, :1]),),
        tuple(Channel(f"Displacement{i + 1}", "mm") for i in range(count)),
        (Channel("Force", "N"),),
        source=f"made-up structure of {count} masses with a cubic spring, seed {seed}",
    )
