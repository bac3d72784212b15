"""What an experiment is: data in three parts, models, a loss, errors, and what was published."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ..models import SolverSettings
from ..reporting.style import LINES, SYSTEM_LINES, Picture
from ..training import History, Number, TrainingSettings

MODELS = ("node", "anode", "sonode", "hbnode", "ghbnode")
"""The systems that are compared, in the order of Xia et al. (2021)."""
LOOKS: dict[str, dict[str, Any]] = {name: SYSTEM_LINES.get(name, LINES[4]) for name in MODELS}
"""How they are drawn."""
Part = tuple[Tensor, ...]
"""Tensors whose first axis are the samples; what a model is given, then what is compared with."""
Measured = tuple[Tensor, dict[str, Number]]
"""A loss, and what is measured beside it, by name."""


@dataclass(frozen=True)
class Splits:
    """The data: `shared` is what belongs to all samples, such as the graph whose nodes they are; `notes` say what is
    not as published, one sentence each.

    Examples
    --------
    >>> import torch
    >>> from hbode.experiments import Splits
    >>> part = torch.zeros(4, 2), torch.zeros(4, 1)
    >>> len(Splits(part, part, part).train[0])
    4
    """

    train: Part
    validation: Part
    test: Part
    shared: Part = ()
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test


@dataclass(frozen=True)
class Settings:
    """How long and how exactly: those of the paper, or shorter ones.

    Examples
    --------
    >>> from hbode.experiments import EXPERIMENTS
    >>> EXPERIMENTS["point-cloud"].settings["short"].seeds > 0
    True
    """

    training: TrainingSettings | None
    """None where nothing is trained."""
    solver: SolverSettings | None
    """None where nothing is solved."""
    seeds: int
    width: int = 0
    """Units of the one model, where an experiment sets the others by it."""
    length: int = 0
    """Samples of a sequence, where an experiment draws them."""
    span: float = 0.0
    """The time over which a layer is solved, where it is an experiment's to choose."""
    nystrom: str | None = None
    """The method of the models of `Experiment.damped`; None for that of all."""


@dataclass(frozen=True)
class Trial:
    """One model trained from one seed; one with a `failure` has no errors.

    Attributes
    ----------
    history
        Of the training; None where nothing is trained.
    chosen, last
        What was measured on the test part, by name, with the weights with the least validation error and with those of
        the last epoch.
    nfe, nfe_backward
        Evaluations of the field in a batch, means over the last epoch.
    seconds
        Wall time.
    shown
        What the figure of the experiment draws.

    Examples
    --------
    >>> from hbode.experiments import Trial
    >>> Trial("hbnode", 0, 100, 1.5).failure
    ''
    """

    model: str
    seed: int
    parameters: int
    seconds: float
    history: History | None = None
    chosen: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    nfe: float = math.nan
    nfe_backward: float = math.nan
    shown: Tensor | None = None
    failure: str = ""


class Experiment(ABC):
    """An experiment: a subclass is all that there is to know about one.

    Attributes
    ----------
    name, title
        On the command line, and in reports.
    takes, needed
        What `--data` names, and whether it must be named; empty where nothing can be.
    metric, label, higher
        The error that counts: its name among what the loss measures, in words, and whether more of it is better.
    goal
        A validation error at which a task counts as solved; the table says after how many steps. None for no such.
    looks
        The models by name, in their order, and how each is drawn: keywords of `matplotlib.axes.Axes.plot`.
    columns
        More columns of the table, by their heads: what the loss measures, by name.
    repeats
        What the runs of a model are, in words.
    peer
        Where a model gives the same numbers in every run and only times differ: the model whose times those of the
        others are divided by, run by run. Runs then take turns. None where seeds differ.
    damped
        The models whose momentum is damped linearly, which Nyström methods solve.
    chosen
        Where the hyperparameters are from, in words.
    settings
        By "full", the published length, and "short".
    published
        Columns of the published table, by their heads: numbers by model, as they are written.
    code
        The systems of the published code (`hbode.models.PUBLISHED`) by model, where they are not the formulas.
    notes
        What a reader of the table must know.

    Examples
    --------
    >>> from hbode.experiments import EXPERIMENTS
    >>> experiment = EXPERIMENTS["point-cloud"]
    >>> experiment.name, sorted(experiment.settings)
    ('point-cloud', ['full', 'short'])
    """

    name: ClassVar[str]
    title: ClassVar[str]
    takes: ClassVar[str] = ""
    needed: ClassVar[bool] = False
    metric: ClassVar[str] = "loss"
    label: ClassVar[str] = "MSE"
    higher: ClassVar[bool] = False
    goal: ClassVar[float | None] = None
    looks: ClassVar[Mapping[str, dict[str, Any]]] = LOOKS
    columns: ClassVar[Mapping[str, str]] = {}
    repeats: ClassVar[str] = "seeds"
    peer: ClassVar[str | None] = None
    damped: ClassVar[Sequence[str]] = ("hbnode",)
    chosen: ClassVar[str] = "the published ones"
    settings: ClassVar[Mapping[str, Settings]]
    published: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    code: ClassVar[Mapping[str, str]] = {}
    notes: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def load(self, data: Path | None, settings: Settings) -> Splits:
        """Return the data; `DataError` where they cannot be had."""

    def settings_of(self, name: str, settings: Settings) -> Settings:
        """Return the settings of one model: where it is damped, with the Nyström method if one was asked for."""
        if name not in self.damped or settings.nystrom is None or settings.solver is None:
            return settings
        return replace(settings, solver=replace(settings.solver, method=settings.nystrom))

    @abstractmethod
    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        """Return an untrained model; `code`: as the published code has it."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Part) -> Measured:
        """Return the loss and what is measured beside it, the evaluations among it."""

    @abstractmethod
    def baselines(self, data: Splits) -> dict[str, float]:
        """Return the test errors of the naive guess and of a linear model."""

    def shown(self, name: str) -> str:
        """Return the name of a model as the table has it."""
        return name.upper()

    def settle(self, model: nn.Module, data: Splits) -> None:  # noqa: B027
        """Choose by the validation what is not trained: once the weights are there, before the test."""

    def show(self, model: nn.Module, data: Splits) -> Tensor | None:
        """Return what `figure` draws of a trained model."""
        return None

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture | None:
        """Draw what is particular to the experiment; trials without failure."""
        return None


def first_of_each(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Return the first trial of each model, by name, in the order of the trials."""
    found: dict[str, Trial] = {}
    for one in trials:
        found.setdefault(one.model, one)
    return found
