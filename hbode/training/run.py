"""A training under way: what an engine needs for its steps, and what a checkpoint keeps between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .batches import Means, Number, Samples, Shard
from .checkpoint import check_same, read_state, write_state
from .objective import Loss, Objective
from .processes import of_first, rank
from .settings import Diverged, History, TrainingSettings

Progress = Callable[[int, History], None]


class Engine(Protocol):
    """What makes the steps of a training."""

    def run(self, run: Run) -> None:
        """Go on until `run.goes_on` is false, through the epochs that `run` starts and ends."""


class Run:
    """A training under way.

    Attributes
    ----------
    objective
        The loss as a module.
    parameters, optimizer, schedule
        What is trained, and by what. The schedule makes a step after each of the optimizer.
    steps, validation_steps
        Batches an epoch.
    history
        What was measured so far.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        samples: Samples,
        validation: Samples | None,
        settings: TrainingSettings,
        seed: int,
        checkpoint: Path | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.samples, self.validation, self.settings, self.seed = model, samples, validation, settings, seed
        self.checkpoint, self.progress, self.mode = checkpoint, progress, model.training
        self.objective = Objective(model, loss, settings.precision)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.optimizer = settings.optimizer(self.parameters, lr=settings.learning_rate)
        self.steps = math.ceil(len(samples) / settings.batch)
        self.validation_batch = settings.validation_batch or settings.batch
        self.validation_steps = 0 if validation is None else math.ceil(len(validation) / self.validation_batch)
        self.schedule = LambdaLR(self.optimizer, lambda step: settings.rate(step / self.steps) / settings.learning_rate)
        self.history = History()
        self.best: dict[str, Tensor] | None = None
        self.generator = torch.Generator().manual_seed(seed)
        if checkpoint is not None:
            own = self.state()
            state = of_first(read_state(checkpoint, own) if rank() == 0 else None)
            if state is not None:
                check_same(checkpoint, *({kind: s[kind] for kind in ("settings", "shapes")} for s in (state, own)))
                self.restore(state)

    # an epoch -------------------------------------------------------------------------------------------------------

    @property
    def goes_on(self) -> bool:
        """Whether there is another epoch."""
        done, patience = self.history.epochs, self.settings.patience
        return done < self.settings.epochs and (patience is None or done - (self.history.best or 0) < patience)

    def start_epoch(self) -> None:
        """Draw the order of the samples, and seed the noise of the model, which differs among processes."""
        self.order = torch.randperm(len(self.samples), generator=self.generator)
        noise = np.random.SeedSequence((self.seed, self.history.epochs, rank()))
        torch.manual_seed(int(noise.generate_state(1)[0]))
        self.train_means, self.validation_means = Means(), Means()
        self.rate = float(self.optimizer.param_groups[0]["lr"])
        self.started = time.perf_counter()
        self.model.train()

    def train_shards(self) -> Iterator[Shard]:
        """Yield what this process takes of the training steps of the epoch."""
        return self.samples.shards(self.order, self.settings.batch, self.device)

    def check_and_clip(self, loss: float) -> None:
        """Limit the gradient, after the backward pass. All processes see the same gradient, so all stop where one does.

        Raises
        ------
        Diverged
            If the loss or the gradient is not finite.
        """
        limit = math.inf if self.settings.clip is None else self.settings.clip
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"the loss became {loss:g}, the norm of its gradient {norm:g} in epoch {self.history.epochs + 1}; "
                "try a smaller learning rate, a smaller tolerance of the solver or another seed"
            )

    def measured(self, measured: Mapping[str, Number], shard: Shard) -> None:
        """Take what a training step measured, after its backward pass."""
        self.train_means.add(measured, shard.samples)

    def start_validation(self) -> None:
        """End the training steps of the epoch."""
        self.seconds = time.perf_counter() - self.started
        self.model.eval()

    def validation_shards(self) -> Iterator[Shard]:
        """Yield what this process takes of the validation; nothing where there is none."""
        if self.validation is None:
            return iter(())
        order = torch.arange(len(self.validation))
        return self.validation.shards(order, self.validation_batch, self.device)

    def validated(self, measured: Mapping[str, Number], shard: Shard) -> None:
        """Take what a batch of the validation measured."""
        self.validation_means.add(measured, shard.samples)

    def end_epoch(self) -> None:
        """Write down the epoch, keep its weights if they are the best, and write the checkpoint."""
        validation = self.validation_means.result()
        history, monitor = self.history, self.settings.monitor
        history.append(self.train_means.result(), validation, self.rate, self.seconds)
        if self.validation is None:
            history.best = history.epochs
        else:
            if monitor not in validation:
                raise ValueError(f"monitor must be what the loss measures, out of {[*validation]}, got {monitor!r}")
            column = history.validation[monitor]
            if column[-1] < (math.inf if history.best is None else column[history.best - 1]):
                history.best = history.epochs
                self.best = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
        if rank() == 0:
            if self.checkpoint is not None:
                write_state(self.checkpoint, self.state())
            if self.progress is not None:
                self.progress(history.epochs, history)

    def finish(self) -> None:
        """Leave the best weights in the model, and the mode that it came in."""
        self.model.train(self.mode)
        if self.best is not None:
            self.model.load_state_dict(self.best)

    # a checkpoint ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return tensors, numbers, texts, and lists and dicts of them."""
        data = {"samples": len(self.samples), "validation": self.validation and len(self.validation), "seed": self.seed}
        weights = self.model.state_dict()
        return {
            "settings": {**self.settings.as_text(), **{name: str(value) for name, value in data.items()}},
            "shapes": {name: f"{tuple(x.shape)} {x.dtype}" for name, x in weights.items()},
            "model": weights,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.generator.get_state(),
            "history": asdict(self.history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["order"])
        self.history = History(**state["history"])
