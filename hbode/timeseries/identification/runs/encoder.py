"""Initial states that an encoder reads off what was measured before."""

from __future__ import annotations

import torch
from torch import Tensor

from ....models.continuous import NeuralStateSpace, StateEncoder, fixed_step_states
from ...records import DataError
from .stretches import Stretches


def check_for_encoder(name: str, rows: int, samples: int) -> None:
    """Raise `DataError` for a run that has no row behind those that an encoder reads."""
    if rows <= samples:
        raise DataError(
            f"{name} has {rows} rows: the encoder reads {samples}, so that at least {samples + 1} are needed; "
            f"take a smaller initial"
        )


def encoded(model: NeuralStateSpace, given: Stretches, compile: bool = False) -> Tensor:
    """Return the outputs (T - n + 1, B, Cy) from the last of the n rows on that the encoder of a model reads."""
    start, behind = encode(model, given)
    return model.read(fixed_step_states(model, behind.t, behind.u, start, compile), behind.values)


def encode(model: NeuralStateSpace, given: Stretches) -> tuple[Tensor, Stretches]:
    """Return the states at the last of the rows that the encoder of a model reads, and the stretches from there on.

    Missing outputs are read as zero, the mean.
    """
    if model.encoder is None:
        raise ValueError("model must have an encoder: set_encoder, or NeuralStateSpace(encoder=...)")
    n = model.encoder.samples
    start: Tensor = model.encoder(given.y[:, :n].nan_to_num(0.0), given.values[:n].transpose(0, 1))
    return start, given.behind(n - 1)


def set_encoder(model: NeuralStateSpace, samples: int, y: Tensor, u: Tensor, states: Tensor) -> None:
    """Give a model an encoder, whose linear part is the least-squares map from windows to states.

    Parameters
    ----------
    samples
        n.
    y, u
        Windows (N, n, Cy), (N, n, Cu); those with missing values are left out.
    states
        The states at the last row of each, as rows of numbers (N, d).
    """
    parts = 1 + model.system.second_order
    encoder = StateEncoder(samples, y.shape[2], u.shape[2], model.size, momentum=parts == 2).to(states)
    x = torch.cat((y.flatten(1), u.flatten(1), torch.ones_like(y[:, 0, :1])), 1)
    known = x.isfinite().all(1) & states.isfinite().all(1)
    if int(known.sum()) >= 2:
        # Of the maps that fit equally well the smallest: windows of few samples a period are nearly dependent.
        found = torch.linalg.lstsq(x[known], states[known], rcond=1e-8, driver="gelsd").solution
        with torch.no_grad():
            encoder.linear.weight.copy_(found[:-1].T)
            encoder.linear.bias.copy_(found[-1])
    model.encoder = encoder
