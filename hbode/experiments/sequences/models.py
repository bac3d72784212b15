"""Recurrent cells, oscillators and attention as networks over sequences, of equal size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...models import parameter_count, width_of_size
from ...models.attention import MomentumTransformerEncoder, MomentumTransformerEncoderLayer
from ...models.recurrent import HeavyBallSequenceModel, MomentumLSTM, published_recurrent, start_as_published
from ...reporting.style import LINES

HEADS, LAYERS = 4, 2
RECURRENT_LOOKS: dict[str, dict[str, Any]] = {
    "lstm": LINES[0],
    "gru": LINES[0] | {"color": LINES[5]["color"]},
    "momentum-lstm": LINES[1],
    "adam-lstm": LINES[2],
    "rmsprop-lstm": LINES[4],
    "nesterov-lstm": LINES[6],
    "heavy-ball": LINES[3],
}
ATTENTION_LOOKS: dict[str, dict[str, Any]] = {
    "softmax-attention": LINES[0] | {"linestyle": "solid", "marker": "<"},
    "linear-attention": LINES[1] | {"linestyle": "solid", "marker": ">"},
    "momentum-attention": LINES[4] | {"linestyle": "solid", "marker": "*"},
}


def recurrent(name: str, inputs: int, width: int, task: str) -> nn.Module:
    """Return a recurrent layer as published for "mnist" or "permuted-mnist" (Nguyen et al., 2020); a GRU is torch's."""
    if name == "gru":
        return nn.GRU(inputs, width, batch_first=True)
    if name == "lstm":
        return start_as_published(MomentumLSTM(inputs, width, batch_first=True, momentum=0.0, step_size=1.0))
    return published_recurrent(f"{task}-{name.removesuffix('-lstm')}", inputs, width, batch_first=True)


class RecurrentNetwork(nn.Module):
    """A recurrent layer and a linear read-out of every sample, (B, T, out), or of the last, (B, out)."""

    def __init__(self, core: nn.Module, outputs: int, width: int, last: bool) -> None:
        super().__init__()
        self.core, self.read, self.last = core, nn.Linear(width, outputs), last

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.core(x)
        return torch.as_tensor(self.read(h[:, -1] if self.last else h))


class CausalTransformer(nn.Module):
    """A linear map, sines and cosines of positions, encoder layers that see no later sample, and a read-out.

    `attention` is "softmax", "linear" or "momentum".
    """

    def __init__(self, attention: str, inputs: int, outputs: int, width: int, last: bool) -> None:
        super().__init__()
        size = HEADS * width
        self.encode, self.last = nn.Linear(inputs, size), last
        self.masked = attention == "softmax"  # the others see no later sample by themselves
        given: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        if self.masked:
            layer = nn.TransformerEncoderLayer(size, HEADS, 2 * size, **given)
            self.layers: nn.Module = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        else:
            momentum = 0.6 if attention == "momentum" else 0.0
            one = MomentumTransformerEncoderLayer(size, HEADS, 2 * size, momentum=momentum, step_size=1.0, **given)
            self.layers = MomentumTransformerEncoder(one, LAYERS)
        self.read = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        T, size = h.shape[1:]
        place = torch.arange(T, device=x.device).unsqueeze(1)
        angle = place * torch.exp(torch.arange(0, size, 2, device=x.device) * (-math.log(10_000.0) / size))
        h = h + torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=x.device) if self.masked else None
        h = self.layers(h, mask, is_causal=True)
        return torch.as_tensor(self.read(h[:, -1] if self.last else h))


def network(name: str, inputs: int, outputs: int, width: int, last: bool, task: str = "permuted-mnist") -> nn.Module:
    """Return a model with about as many numbers as an LSTM of `width` units.

    `last` asks for one output a sequence, of the last sample; oscillators give that of the mean over samples, as their
    papers do.
    """

    def build(width: int, name: str = name) -> nn.Module:
        if name == "heavy-ball":
            pooling = "mean" if last else "none"
            return HeavyBallSequenceModel(inputs, outputs, width, width, LAYERS, pooling=pooling)
        if name in ATTENTION_LOOKS:
            return CausalTransformer(name.removesuffix("-attention"), inputs, outputs, width, last)
        return RecurrentNetwork(recurrent(name, inputs, width, task), outputs, width, last)

    with torch.random.fork_rng(devices=()):
        reference = parameter_count(build(width, "lstm"))
    return build(width_of_size(build, reference, 4 * width))
