"""The same training by PyTorch Lightning, of the extra ``hbode[train]``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ..lazy import MissingExtra
from .batches import Shard
from .processes import world
from .run import Run

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy
except ImportError as error:
    raise MissingExtra("engine='lightning' needs lightning: pip install 'hbode[train]'") from error


class Lightning:
    """A `lightning.pytorch.Trainer` as the engine of `train`, to the losses of the plain loop.

    The trainer runs the steps, on its strategy (DDP for several processes), with its loggers and callbacks. Loggers
    get the epoch's means as "train_loss", "validation_loss" and so on. The order of the samples, the schedule,
    clipping, early stopping and the checkpoint are those of `train`; the checkpoint is of either engine.

    Parameters
    ----------
    options
        Of the trainer, such as ``logger=CSVLogger("logs")``, ``callbacks=[...]``, ``strategy=...``,
        ``precision="16-mixed"``. Those that `train` decides, such as ``max_epochs``, are refused.

    Raises
    ------
    MissingExtra
        If lightning is not installed: on import.
    ValueError
        For an option that `train` decides.

    Examples
    --------
    >>> from hbode.training import Lightning
    >>> from lightning.pytorch.loggers import CSVLogger
    >>> engine = Lightning(logger=CSVLogger("logs"))
    """

    def __init__(self, **options: Any) -> None:
        own = {"max_epochs", "devices", "num_nodes", "gradient_clip_val", "accumulate_grad_batches"} & options.keys()
        if own:
            raise ValueError(f"options must not hold what train decides, got {sorted(own)}")
        self.options = options

    def run(self, run: Run) -> None:
        """Train until the run has its epochs."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
        group: dict[str, Any] = {"devices": 1 if run.device.index is None else [run.device.index]}
        if world() > 1:
            strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment())
            group = {"devices": here, "num_nodes": world() // here, "strategy": strategy}
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        fixed: dict[str, Any] = {
            "max_epochs": run.settings.epochs - run.history.epochs,
            "accelerator": "gpu" if run.device.type == "cuda" else run.device.type,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "inference_mode": False,  # solvers make tensors that later gradients may need
        }
        trainer = Trainer(**(dict.fromkeys(quiet, False) | {"log_every_n_steps": 1} | fixed | group | self.options))
        module = _Module(run)
        trainer.fit(module, _Shards(run.train_shards, run.steps), _Shards(run.validation_shards, run.validation_steps))
        run.model.to(run.device)  # the trainer leaves it on the CPU


class _Shards:
    """Shards that are asked for when the first is needed, anew in each epoch. With a length, none is fetched ahead."""

    def __init__(self, shards: Callable[[], Iterator[Shard]], length: int) -> None:
        self.shards, self.length = shards, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Shard]:
        yield from self.shards()


class _Module(LightningModule):  # type: ignore[misc]
    """A run, in the hooks that a trainer calls."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.objective: nn.Module = run.objective
        self.run_under_way = run

    def configure_optimizers(self) -> dict[str, Any]:
        run = self.run_under_way
        return {"optimizer": run.optimizer, "lr_scheduler": {"scheduler": run.schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Shard, device: Any, dataloader_idx: int) -> Shard:
        return batch  # a shard is where it is needed

    def on_train_epoch_start(self) -> None:
        self.run_under_way.start_epoch()

    def training_step(self, shard: Shard) -> Tensor:
        loss, self.measured = self.objective(shard.data)
        self.value, self.shard = loss.detach(), shard
        scaled: Tensor = loss * (shard.share * world())  # DDP takes the mean over processes
        return scaled

    def on_after_backward(self) -> None:
        self.run_under_way.measured(self.measured, self.shard)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        self.run_under_way.check_and_clip(float(self.value))

    def on_validation_epoch_start(self) -> None:
        self.run_under_way.start_validation()

    def validation_step(self, shard: Shard) -> None:
        self.run_under_way.validated(self.objective(shard.data)[1], shard)

    def on_train_epoch_end(self) -> None:
        run = self.run_under_way
        if run.validation is None:
            run.start_validation()
        run.end_epoch()
        for part, columns in (("train", run.history.train), ("validation", run.history.validation)):
            self.log_dict({f"{part}_{name}": column[-1] for name, column in columns.items()}, rank_zero_only=False)
        if not run.goes_on:
            self.trainer.should_stop = True
