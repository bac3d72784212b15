"""The state of the random number generators, for steps to be run again with the numbers that they drew."""

from __future__ import annotations

import torch
from torch import Tensor

Noise = tuple[Tensor, ...]
"""The states of the generator of the CPU and, for a state there, of its CUDA device."""


def noise_state(device: torch.device) -> Noise:
    """Return the states of the generators that a field on a device draws from."""
    on_cpu = torch.get_rng_state()
    return (on_cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (on_cpu,)


def restore_noise(noise: Noise, device: torch.device) -> None:
    """Put the generators in a state."""
    torch.set_rng_state(noise[0])
    if len(noise) > 1:
        torch.cuda.set_rng_state(noise[1], device)


def same_noise(a: Noise, b: Noise) -> bool:
    """Return whether nothing was drawn between two states."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
