"""How a model is trained, and what came out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch.optim import Optimizer


class Diverged(RuntimeError):
    """Training that reached a loss or a gradient that is not finite.

    Examples
    --------
    >>> from hbode.training import Diverged
    >>> issubclass(Diverged, RuntimeError)
    True
    """


@dataclass(frozen=True)
class TrainingSettings:
    """How `train` goes about it. Two trainings of equal settings, data and seed are the same.

    Parameters
    ----------
    epochs
        Passes over the training data.
    batch
        Samples a step, over all processes.
    learning_rate
        Of the first step.
    schedule
        "cosine" down to zero over all steps, "constant", or pairs (epoch, learning rate): ``((50, 1e-4),)`` takes 1e-4
        once 50 epochs are done.
    clip
        Largest norm of the gradient; None for no limit.
    patience
        Stop after so many epochs in a row without a better validation; None for never.
    monitor
        What the validation compares: "loss", or a number that the loss measures beside. Lower is better.
    optimizer
        ``optimizer(parameters, lr=...)``; others than the default, and further arguments, as in
        ``functools.partial(torch.optim.AdamW, weight_decay=1e-3)``.
    precision
        "full" for the dtype of model and data, "bf16-mixed" to compute the loss under `torch.autocast` in bfloat16:
        fields then run in half precision, solvers in that of the state. Half precision with a scaled loss (fp16) is not
        offered, since adaptive steps underflow in it.
    validation_batch
        Samples a batch of the validation; None for `batch`.

    Raises
    ------
    ValueError
        For a number or a name that is not allowed.

    Examples
    --------
    >>> from hbode.training import TrainingSettings
    >>> TrainingSettings(epochs=100, learning_rate=1e-3, schedule=((50, 1e-4),), clip=1.0).rate(60.0)
    0.0001
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    schedule: str | tuple[tuple[int, float], ...] = "cosine"
    clip: float | None = None
    patience: int | None = None
    monitor: str = "loss"
    optimizer: Callable[..., Optimizer] = torch.optim.Adam
    precision: str = "full"
    validation_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "validation_batch"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
        rates = [] if isinstance(self.schedule, str) else [rate for _, rate in self.schedule]
        for name, value in (
            ("learning_rate", self.learning_rate),
            ("clip", self.clip),
            *(("schedule", r) for r in rates),
        ):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if isinstance(self.schedule, str) and self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine', 'constant' or pairs (epoch, rate), got {self.schedule!r}")
        epochs = [] if isinstance(self.schedule, str) else [epoch for epoch, _ in self.schedule]
        if epochs != sorted(set(epochs)):
            raise ValueError(f"schedule must name later and later epochs, got {epochs}")
        if self.precision not in ("full", "bf16-mixed"):
            raise ValueError(f"precision must be 'full' or 'bf16-mixed', got {self.precision!r}")

    def rate(self, epochs: float) -> float:
        """Return the learning rate after a number of epochs, which need not be whole."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(epochs / self.epochs, 1.0)))
        pairs = () if isinstance(self.schedule, str) else self.schedule
        return ([self.learning_rate] + [rate for epoch, rate in pairs if epoch <= epochs])[-1]

    def as_text(self) -> dict[str, str]:
        """Return all that decides what a training does, in words that are the same in every process."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: getattr(value, "__qualname__", None) or repr(value) for name, value in values.items()}


@dataclass
class History:
    """What `train` measured: lists with one entry an epoch.

    Attributes
    ----------
    train
        "loss" and what else the loss measured, by name: means over the training samples, each in the step it was used
        in. A count of a solver, such as nfe, is thus the mean over samples, and over all processes.
    validation
        The same after the epoch, over the validation data; empty without any.
    learning_rate
        At the start of the epoch.
    seconds
        Of the training alone.
    best
        The epoch, from 1, whose weights the model has; None before the first.

    Examples
    --------
    >>> from hbode.training import History
    >>> History().epochs
    0
    """

    train: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: int | None = None

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.seconds)

    def append(
        self, train: Mapping[str, float], validation: Mapping[str, float], learning_rate: float, seconds: float
    ) -> None:
        """Add an epoch."""
        for columns, values in ((self.train, train), (self.validation, validation)):
            if self.epochs and columns.keys() != values.keys():
                raise ValueError(f"loss must measure the same in every epoch, got {[*values]} after {[*columns]}")
            for name, value in values.items():
                columns.setdefault(name, []).append(value)
        self.learning_rate.append(learning_rate)
        self.seconds.append(seconds)
