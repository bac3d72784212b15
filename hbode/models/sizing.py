"""Model sizes of equal parameter count."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import nn

Build = Callable[[str, int, int], nn.Module]
"""``build(name, size, hidden)``: a model with `size` state channels and `hidden` units in its field."""


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable numbers in a model.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import parameter_count
    >>> parameter_count(torch.nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def width_of_size(build: Callable[[int], nn.Module], parameters: int, most: int = 4096) -> int:
    """Return the width, up to `most`, at which ``build(width)`` has nearest to so many trainable numbers.

    They grow with the width. Without effect on the random numbers.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import parameter_count, width_of_size
    >>> width = width_of_size(lambda n: torch.nn.Linear(n, n), 1000)
    >>> parameter_count(torch.nn.Linear(width, width)) <= 1100
    True
    """

    def count(width: int) -> int:
        return parameter_count(build(width))

    with torch.random.fork_rng(devices=()):
        above = bisect_left(range(most), parameters, lo=2, key=count)
        return min((max(above - 1, 1), above), key=lambda width: abs(count(width) - parameters))


def equal_sizes(build: Build, names: list[str], reference: str, size: int) -> dict[str, tuple[int, int]]:
    """Return (size, hidden) for each name so that all models have about as many parameters as the reference.

    The reference has `size` channels and as many units in its field. Every other model gets the sizes, the two of them
    about equal, that bring it within one per cent, or as close as there are any.

    Parameters
    ----------
    build
        ``build(name, size, hidden)``; it is called for many sizes, without effect on the random numbers.
    names
        The models to size.
    reference, size
        The model that sets the count, and its size.

    Raises
    ------
    ValueError
        If `size` is below 2.

    Examples
    --------
    >>> from hbode.models import equal_sizes, make_system
    >>> sorted(equal_sizes(make_system, ["node", "hbnode"], "node", 4))
    ['hbnode', 'node']
    """
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}")

    def count(name: str, channels: int, units: int) -> int:
        with torch.random.fork_rng(devices=()):
            return parameter_count(build(name, channels, units))

    target = count(reference, size, size)

    def mismatch(name: str, channels: int, units: int) -> tuple[float, int]:
        """Order sizes by how far they miss the target, in steps of a per cent, then by how uneven they are."""
        return abs(count(name, channels, units) - target) // (0.01 * target), abs(channels - units)

    sizes = {}
    for name in names:
        even = min(range(2, 4 * size), key=lambda n: abs(count(name, n, n) - target))
        nearby = [(n, w) for n in (even, even + 1, even - 1) if n > 1 for w in range(max(even - 4, 1), even + 5)]
        sizes[name] = min(nearby, key=lambda pair: mismatch(name, *pair))
    return sizes
