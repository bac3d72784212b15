"""Several processes that train one model, each with a part of every batch."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def distributed(objective: nn.Module) -> nn.Module:
    """Return a module whose backward pass averages gradients over the processes, if there are several."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return objective
    return DistributedDataParallel(objective, find_unused_parameters=True)
