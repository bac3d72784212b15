"""Batches of samples, divided among processes, and means over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .processes import gathered, rank, world

Batch = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""Tensors whose first axis is that of the samples."""
Number = float | Tensor | Callable[[], float]
"""A number, a tensor with one, or a function that returns it once the backward pass is done."""


@dataclass(frozen=True)
class Shard:
    """The part of a batch that one process takes.

    Attributes
    ----------
    data
        The samples.
    samples
        How many they are. Where a batch has fewer samples than there are processes, some get one that counts as none,
        because all have to take part in the step.
    share
        The part of the batch that they are: means times shares, summed over processes, are the mean over the batch.
    """

    data: Any
    samples: int
    share: float


class Samples:
    """Tensors with a common first axis.

    Raises
    ------
    TypeError, ValueError
        If they are not, or have no samples.
    """

    def __init__(self, name: str, data: Batch) -> None:
        parts = [*data.values()] if isinstance(data, Mapping) else [data] if isinstance(data, Tensor) else data
        if not isinstance(parts, list | tuple) or not parts or not all(isinstance(x, Tensor) for x in parts):
            raise TypeError(
                f"{name} must be a tensor, or a tuple or dict of tensors, got {type(data).__name__}; "
                "a TensorDataset has them as .tensors"
            )
        lengths = {len(x) if x.ndim else 0 for x in parts}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"{name} must have one first axis of samples, got shapes {[tuple(x.shape) for x in parts]}"
            )
        self.data, self.length = data, lengths.pop()

    def __len__(self) -> int:
        return self.length

    def take(self, rows: Tensor, device: torch.device) -> Any:
        """Return some samples, in the form of all."""

        def part(x: Tensor) -> Tensor:
            return x[rows.to(x.device)].to(device)

        if isinstance(self.data, Tensor):
            return part(self.data)
        if isinstance(self.data, Mapping):
            return {name: part(x) for name, x in self.data.items()}
        return tuple(part(x) for x in self.data)

    def shards(self, order: Tensor, size: int, device: torch.device) -> Iterator[Shard]:
        """Yield the part of this process of each batch of `size` samples."""
        for batch in order.split(size):
            rows = batch.tensor_split(world())[rank()]
            data = self.take(rows if len(rows) else batch[:1], device)
            yield Shard(data, len(rows), len(rows) / len(batch))


class Means:
    """Means over samples of what a loss measured, over all processes."""

    def __init__(self) -> None:
        self.samples = 0
        self.sums: dict[str, float] = {}

    def add(self, measured: Mapping[str, Number], samples: int) -> None:
        """Add what holds for a number of samples."""
        if self.samples and measured.keys() != self.sums.keys():
            raise ValueError(f"loss must measure the same in every batch, got {[*measured]} after {[*self.sums]}")
        for name, value in measured.items():
            # A tensor is callable for no one, a function is read now: after the backward pass.
            number = float(value() if not isinstance(value, Tensor) and callable(value) else value) if samples else 0.0
            self.sums[name] = self.sums.get(name, 0.0) + samples * number
        self.samples += samples

    def result(self) -> dict[str, float]:
        """Return the means, the same in all processes; empty if nothing was added."""
        every = gathered((self.samples, self.sums))
        samples = sum(count for count, _ in every)
        return {name: math.fsum(sums[name] for _, sums in every) / samples for name in self.sums if samples}
