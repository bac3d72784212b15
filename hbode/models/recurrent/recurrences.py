"""The hidden side of recurrent cells: a step, and whole sequences by torch's fused kernels or by a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import _VF, Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .accumulation import Weights

TORCH_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
"""Of the parameters of a layer and direction, without suffix, in the order of torch's kernels."""

State = tuple[Tensor, ...]
"""h, and what else the recurrence carries, (N, ·) each."""


class Recurrence:
    """The hidden side of a cell. It holds settings, and no tensors."""

    mode: str
    """torch's name of a layer with the same weights."""
    gates: int
    """Rows of W and U in units of the hidden size."""
    names: tuple[str, ...]
    """Of the tensors of the state, h first."""

    def widths(self, hidden: int, projected: int) -> tuple[int, ...]:
        """Return the widths of the state's tensors; h is projected if `projected` is not 0."""
        return (projected or hidden, hidden)[: len(self.names)]

    def start(self, hidden: int) -> dict[str, Tensor]:
        """Return the start of parameters that torch's cells do not have, by name."""
        return {}

    def step(self, x: Tensor, state: State, w: Weights) -> State:
        """Return the state after the input x (N, ·)."""
        raise NotImplementedError

    def sequence(
        self, x: Tensor, state: State, w: Weights, lengths: Tensor | None, train: bool
    ) -> tuple[Tensor, State]:
        """Return h after each step of x (T, N, ·), zero behind the end of a sequence, and the last states.

        `lengths` are those of the sequences, (N,), not increasing, on the CPU; None if all are T. `train` tells cuDNN
        whether to keep what backpropagation needs.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Fused(Recurrence):
    """A recurrence that torch has kernels for."""

    mode: str
    gates: int
    names: tuple[str, ...]

    def step(self, x: Tensor, state: State, w: Weights) -> State:
        kernel = getattr(_VF, self.mode.lower() + "_cell")
        out = kernel(x, _as_torch(state), w["weight_ih"], w["weight_hh"], w.get("bias_ih"), w.get("bias_hh"))
        return out if isinstance(out, tuple) else (out,)

    def sequence(
        self, x: Tensor, state: State, w: Weights, lengths: Tensor | None, train: bool
    ) -> tuple[Tensor, State]:
        kernel = getattr(_VF, self.mode.lower())
        hx = _as_torch(tuple(s.unsqueeze(0) for s in state))
        options = (_in_order(w), "bias_ih" in w, 1, 0.0, train, False)  # one layer, no dropout, one direction
        if lengths is None:
            out, *end = kernel(x, hx, *options, False)
        else:
            packed = pack_padded_sequence(x, lengths)
            data, *end = kernel(packed.data, packed.batch_sizes, hx, *options)
            out, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes), total_length=len(x))
        return out, tuple(s.squeeze(0) for s in end)


class Looped(Recurrence):
    """A recurrence that torch has no kernel for: the input side at once, and the rest step by step."""

    def input_side(self, x: Tensor, w: Weights) -> Tensor:
        """Return what `advance` needs of the input x (..., N, ·)."""
        return F.linear(x, w["weight_ih"], w.get("bias_ih"))

    def advance(self, a: Tensor, state: State, w: Weights) -> State:
        """Return the state after an input with the input side a (N, ·)."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, w: Weights) -> State:
        return self.advance(self.input_side(x, w), state, w)

    def sequence(
        self, x: Tensor, state: State, w: Weights, lengths: Tensor | None, train: bool
    ) -> tuple[Tensor, State]:
        outputs = []
        for t, a in enumerate(self.input_side(x, w)):
            n = len(a) if lengths is None else int((lengths > t).sum())  # sequences that have this step
            after = self.advance(a[:n], tuple(s[:n] for s in state), w)
            if n < len(a):
                outputs.append(F.pad(after[0], (0, 0, 0, len(a) - n)))
                state = tuple(torch.cat((new, old[n:])) for new, old in zip(after, state, strict=True))
            else:
                outputs.append(after[0])
                state = after
        return torch.stack(outputs), state


def _as_torch(state: State) -> State | Tensor:
    """Return the state as torch's kernels take it: a tensor alone where there is one."""
    return state if len(state) > 1 else state[0]


def _in_order(w: Weights) -> list[Tensor]:
    """Return the weights in the order of torch's kernels; on a GPU in one piece of memory, as cuDNN wants them."""
    weights = [w[name] for name in TORCH_NAMES if name in w]
    if not weights[0].is_cuda:
        return weights
    pieces = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
    return [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]


LSTM = Fused("LSTM", 4, ("h", "c"))
GRU = Fused("GRU", 3, ("h",))
RNN = {"tanh": Fused("RNN_TANH", 1, ("h",)), "relu": Fused("RNN_RELU", 1, ("h",))}
