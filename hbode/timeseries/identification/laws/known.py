"""A known part of a law, in physical units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...records import Scaling


class Known(torch.nn.Module):
    """A known law in physical units, as a term of the standardised one."""

    def __init__(self, law: Callable[..., Tensor], scaling: Scaling, momentum: bool) -> None:
        super().__init__()
        self.law, self.momentum = law, momentum
        self.outputs, self.inputs, self.unit = scaling.outputs, scaling.inputs, scaling.time_unit

    def forward(self, t: Tensor, h: Tensor, *others: Tensor) -> Tensor:
        """Return the term, shape of h."""
        *m, u = others
        std = h.new_tensor(self.outputs.std)
        physical = [self.outputs.from_standard(h), *(x * std / self.unit for x in m), self.inputs.from_standard(u)]
        made: Tensor = self.law(t * self.unit, *physical) * self.unit ** (2 if self.momentum else 1) / std
        return made
