"""Made-up sequences that are only to be understood by remembering."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from ...training import TrainingSettings
from ..baselines import constant
from ..experiment import Experiment, Measured, Part, Settings, Splits
from .models import ATTENTION_LOOKS, RECURRENT_LOOKS, network

COUNTS = (10_000, 1_000, 2_000)
"""Sequences for training, validation and test."""
SYMBOLS, REMEMBERED = 8, 10
ALIKE = "the same for all models, momentum and step size those published for permuted MNIST"
EQUAL = "All models have about as many trainable numbers as the LSTM."


def lengths(full: int, short: int) -> dict[str, Settings]:
    """Return settings for sequences of these lengths."""
    return {
        "full": Settings(TrainingSettings(30, 50, 2e-3, "cosine", 1.0), None, 3, width=64, length=full),
        "short": Settings(TrainingSettings(10, 50, 2e-3, "cosine", 1.0), None, 1, width=32, length=short),
    }


class Drawn(Experiment):
    """Sequences that are drawn, of the length that the settings say, from the same seed for all models."""

    goal = 0.01
    chosen = ALIKE

    @abstractmethod
    def draw(self, count: int, length: int, rng: torch.Generator) -> Part:
        """Return so many sequences, and what is wanted of them."""

    def load(self, data: Path | None, settings: Settings) -> Splits:
        rng = torch.Generator().manual_seed(0)
        return Splits(*(self.draw(count, settings.length, rng) for count in COUNTS))


class Adding(Drawn):
    """Two rows a sequence, of numbers from 0 to 1 and of marks; the sum of the two numbers with a mark is wanted."""

    name, title = "adding", "Adding problem"
    looks = RECURRENT_LOOKS
    settings = lengths(1000, 200)
    notes = (
        "Hochreiter and Schmidhuber (1997), one mark in each half. The mean guess has an error of 1/6. "
        "Solved: an error below 0.01.",
        EQUAL,
    )

    def draw(self, count: int, length: int, rng: torch.Generator) -> Part:
        return sums(count, length, rng)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        return network(name, 2, 1, settings.width, True)

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        return mse_loss(model(batch[0]), batch[1]), {}

    def baselines(self, data: Splits) -> dict[str, float]:
        return {"mean": constant(data)}


class Recall(Drawn):
    """Symbols that come again; cross-entropy of those that are to be said, in natural units, chance at log 8."""

    label = "cross-entropy"
    goal = 0.02
    looks: ClassVar[Mapping[str, dict[str, Any]]] = RECURRENT_LOOKS | ATTENTION_LOOKS

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        return network(name, SYMBOLS + 2, SYMBOLS, settings.width, False)

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        tokens, wanted = batch
        said = model(one_hot(tokens, SYMBOLS + 2).float())[:, -wanted.shape[1] :]
        right = (said.argmax(-1) == wanted).double().mean()
        return cross_entropy(said.flatten(0, 1), wanted.flatten()), {"accuracy": right}

    def baselines(self, data: Splits) -> dict[str, float]:
        return {"chance": math.log(SYMBOLS)}


class Copying(Recall):
    """Ten symbols, a long blank, a mark, and the ten symbols are to be said again."""

    name, title = "copy", "Copy memory"
    settings = lengths(1000, 200)
    notes = (
        "Hochreiter and Schmidhuber (1997) as in Arjovsky et al. (2016): eight symbols, ten of them a sequence, "
        "`length` blanks. The error is of the ten symbols that are to be said; that of chance is log 8 = 2.079.",
        EQUAL,
    )

    def draw(self, count: int, length: int, rng: torch.Generator) -> Part:
        return memories(count, length, rng)


class Duplication(Recall):
    """The copy task of linear transformers: a mark, a word, a mark, and the word again, the next symbol to be said."""

    name, title = "duplication", "Copy task of linear transformers"
    settings = lengths(512, 64)
    notes = (
        "Katharopoulos et al. (2020), section 4.1: `length` is of both words with their marks; eight symbols here, the "
        "error is of the second word. That of chance is log 8 = 2.079.",
        EQUAL,
    )

    def draw(self, count: int, length: int, rng: torch.Generator) -> Part:
        return words(count, length // 2 - 1, rng)


def sums(count: int, length: int, rng: torch.Generator) -> Part:
    """Return rows (count, length, 2) of numbers and marks, and the sums (count, 1)."""
    half = length // 2
    numbers, marks = torch.rand(count, length, generator=rng), torch.zeros(count, length)
    first = torch.randint(half, (count, 1), generator=rng)
    second = torch.randint(half, length, (count, 1), generator=rng)
    marks.scatter_(1, torch.cat((first, second), 1), 1.0)
    return torch.stack((numbers, marks), -1), (numbers * marks).sum(1, keepdim=True)


def memories(count: int, blanks: int, rng: torch.Generator) -> Part:
    """Return tokens (count, 20 + blanks) and the ten to be said at the end: 0 to 7 symbols, 8 blank, 9 the mark."""
    said = torch.randint(SYMBOLS, (count, REMEMBERED), generator=rng)
    blank = torch.full((count, blanks + REMEMBERED), SYMBOLS)
    blank[:, blanks - 1] = SYMBOLS + 1
    return torch.cat((said, blank), 1), said


def words(count: int, size: int, rng: torch.Generator) -> Part:
    """Return tokens (count, 2 size + 1), a mark, a word, a mark and all but the last of the word, and the word."""
    said = torch.randint(SYMBOLS, (count, size), generator=rng)
    mark = torch.full((count, 1), SYMBOLS + 1)
    return torch.cat((mark, said, mark, said[:, :-1]), 1), said
