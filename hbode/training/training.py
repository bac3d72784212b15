"""`train`: the front door of the room."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from .batches import Batch, Samples
from .objective import Loss
from .plain import Plain
from .processes import joined, start_alike
from .run import Engine, Progress, Run
from .settings import History, TrainingSettings


def train(
    model: nn.Module,
    loss: Loss,
    batches: Batch,
    settings: TrainingSettings,
    *,
    validation: Batch | None = None,
    seed: int = 0,
    engine: str | Engine = "plain",
    devices: int = 1,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a model in place. It ends with the weights of the best validation, or the last without validation.

    The result depends on the arguments alone, not on the engine, and on the number of processes only where the loss
    does: noise differs, and so do steps that are chosen for a batch as a whole.

    Parameters
    ----------
    model
        Any module, on the device it is to be trained on.
    loss
        ``loss(model, batch)`` returns the mean loss of the samples of a batch, one real number; or a pair of it and a
        dict of further numbers to measure by name, each a number, a tensor with one, or a function that returns it
        after the backward pass (`solver_costs` makes such). Called with the model in the modes train and eval.
    batches
        The training data: a tensor (N, ...), or a tuple or dict of such, which `loss` gets in the same form with some
        samples each time. The seed decides their order.
    settings
        How long, and how.
    validation
        Data of the same form, which choose the weights that are kept and stop early.
    seed
        Of the order of the samples and of `torch.random` inside, whose state outside stays as it was. Initial weights
        are the caller's.
    engine
        "plain", or "lightning", which needs ``pip install 'hbode[train]'``; or one made with options, such as
        ``hbode.training.Lightning(logger=...)``.
    devices
        Processes on this machine, each with its part of every batch and, with a model on a GPU, a GPU of its own. With
        torchrun leave it at 1: a process that belongs to a group trains with the others.
    checkpoint
        A file that is written after each epoch; if it exists, the training goes on from it as if it had never stopped.
        Reading it runs no code.
    progress
        ``progress(epoch, history)``, called after each epoch, in the first process.

    Returns
    -------
    History
        Losses, what was measured and seconds, one entry an epoch; those of all processes together.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    CheckpointError
        For a checkpoint of another model, other settings, another seed or another number of samples.
    MissingExtra
        If the engine is not installed.
    Diverged
        If the loss or its gradient is not finite.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import HBNODE, DenseField
    >>> from hbode.training import TrainingSettings, solver_costs, train
    >>> def loss(model, batch):
    ...     x, y = batch
    ...     return torch.nn.functional.mse_loss(model(x), y), solver_costs(model.stats)
    >>> x = torch.randn(64, 2)
    >>> settings = TrainingSettings(epochs=5, batch=16, learning_rate=1e-2)
    >>> history = train(HBNODE(DenseField(2, 16)), loss, (x, x.sin()), settings)
    >>> sorted(history.train)
    ['loss', 'nfe', 'nfe_backward', 'rejected']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have parameters that require gradients, got none")
    if not callable(loss):
        raise TypeError(f"loss must be callable as loss(model, batch), got {type(loss).__name__}")
    if not isinstance(settings, TrainingSettings):
        raise TypeError(f"settings must be TrainingSettings, got {type(settings).__name__}")
    if validation is None and (settings.patience is not None or settings.monitor != "loss"):
        raise ValueError("patience and monitor need validation data, got none")
    samples = Samples("batches", batches)
    others = None if validation is None else Samples("validation", validation)
    chosen = _engine(engine)
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"devices must be a whole number, at least 1, got {devices!r}")
    file = None if checkpoint is None else Path(checkpoint)
    also = partial(train, validation=validation, seed=seed, engine=engine, checkpoint=file)
    with joined(devices, next(model.parameters()).device, partial(also, model, loss, batches, settings)) as device:
        start_alike(model.to(device))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            run = Run(model, loss, samples, others, settings, seed, file, progress)
            if run.goes_on:
                chosen.run(run)
            run.finish()
    return run.history


def _engine(engine: str | Engine) -> Engine:
    if engine == "plain":
        return Plain()
    if engine == "lightning":
        from .lightning_engine import Lightning

        return Lightning()
    if isinstance(engine, str):
        raise ValueError(f"engine must be 'plain' or 'lightning', got {engine!r}")
    return engine
