"""The loss of a model as a module of its own, which every engine runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.cost.recorder import Cost
from ..solution import of_batch
from .batches import Number

Loss = Callable[[Any, Any], Tensor | tuple[Tensor, Mapping[str, Number]]]
"""loss(model, batch): the model and the data come as they were given to `train`."""


class Objective(nn.Module):
    """``loss(model, batch)`` as the forward pass of a module: DistributedDataParallel watches the whole of it."""

    def __init__(self, model: nn.Module, loss: Loss, precision: str) -> None:
        super().__init__()
        self.model, self.loss, self.mixed = model, loss, precision == "bf16-mixed"

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Number]]:
        """Return the loss, and it among all that is measured, without a graph."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if self.mixed else nullcontext():
            found = self.loss(self.model, batch)
        value, measured = found if isinstance(found, tuple) else (found, {})
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"loss must return a tensor with one real number, got {got}")
        if "loss" in measured:
            raise ValueError("loss must not measure anything called 'loss': that is its own value")
        plain = {name: x.detach() if isinstance(x, Tensor) else x for name, x in measured.items()}
        return value, {"loss": value.detach(), **plain}


def solver_costs(*costs: Cost) -> dict[str, Number]:
    """Return evaluations forward and backward and rejected steps, for a loss to measure.

    Parameters
    ----------
    costs
        Of all solves in the loss, such as ``solution.stats``, ``layer.stats`` or ``prediction.cost``; they are summed.

    Examples
    --------
    >>> def loss(layer, batch):
    ...     x, y = batch
    ...     return torch.nn.functional.mse_loss(layer(x), y), solver_costs(layer.stats)
    """

    def total(name: str) -> Callable[[], float]:
        return lambda: sum(of_batch(getattr(cost, name)) for cost in costs)

    return {name: total(name) for name in ("nfe", "nfe_backward", "rejected")}
