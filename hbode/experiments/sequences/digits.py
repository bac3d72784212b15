"""Images pixel by pixel, in rows or in a random order that is the same for all."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...training import TrainingSettings
from ..baselines import logistic
from ..experiment import Experiment, Measured, Part, Settings, Splits
from ..images import CLASSES, digits, mnist
from .models import RECURRENT_LOOKS, network

FULL = TrainingSettings(100, 50, 1e-3, "cosine", 1.0)
SHORT = TrainingSettings(20, 32, 3e-3, "cosine", 1.0)


class PixelDigits(Experiment):
    """A pixel at a time; cross-entropy of a linear read-out of the last state (oscillators: of the mean)."""

    name, title = "pixel-digits", "Digits pixel by pixel"
    takes = "an .npz file of MNIST (default: scikit-learn's digits)"
    metric, label = "loss", "cross-entropy"
    looks = RECURRENT_LOOKS
    chosen = "the same for all models, momentum and step size the published ones"
    settings = {
        "full": Settings(FULL, None, 3, width=64),
        "short": Settings(SHORT, None, 2, width=24),
    }
    permuted = False
    notes = (
        "Published (Nguyen et al., 2020): mean best test loss on full MNIST, 60,000 images; the epoch was chosen on "
        "the test images, here on others. In rows momentum brought no gain there.",
        "All models have about as many trainable numbers as the LSTM.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        found = digits() if data is None else mnist(data)
        pixels = found.train[0].shape[2:].numel()
        order = torch.randperm(pixels, generator=torch.Generator().manual_seed(0)) if self.permuted else slice(None)
        parts = ((x.flatten(1)[:, order].unsqueeze(-1), y) for x, y in found.parts)
        return Splits(*parts, notes=found.notes)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        return network(name, 1, CLASSES, settings.width, True, "permuted-mnist" if self.permuted else "mnist")

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        scores = model(batch[0])
        right = (scores.argmax(1) == batch[1]).double().mean()
        return cross_entropy(scores, batch[1]), {"accuracy": right}

    def baselines(self, data: Splits) -> dict[str, float]:
        return {"chance": math.log(CLASSES), "logistic regression": logistic(data)[1]}


class PermutedDigits(PixelDigits):
    """The same, pixels in one random order."""

    name, title = "permuted-digits", "Digits pixel by pixel, permuted"
    published = {
        "MNIST, published": {
            "lstm": ".275",
            "momentum-lstm": ".236",
            "adam-lstm": ".212",
            "rmsprop-lstm": ".199",
            "nesterov-lstm": ".286",
        }
    }
    permuted = True
