"""Every model of an experiment from every seed: trained, tested once, compared."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models import parameter_count
from ..progress.jobs import Board, Reporter, run_all
from ..reporting.results_folder import results_in
from ..reporting.tables import aligned
from ..solution import SolverError
from ..timeseries import DataError
from ..training import Diverged, History, train
from ..training.batches import Means
from ..training.checkpoint import read_state
from .experiment import Experiment, Settings, Splits, Trial
from .figures import save_figures
from .report import MADE_BY, NUMBERS, Report


def reproduce(
    experiment: Experiment,
    settings: Settings,
    out: Path,
    *,
    data: Path | None = None,
    models: Sequence[str],
    seed: int = 0,
    code: bool = False,
    jobs: int = 1,
    device: str = "cpu",
    engine: str = "plain",
    devices: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run an experiment and write its results folder.

    Parameters
    ----------
    experiment, settings
        What, and how long. Seeds are `seed`, `seed` + 1, …, of weights and batches; the data are the same for all.
    out
        The results folder. Trainings under way are kept in ``OUT.unfinished``, where the same call goes on from them,
        until all are done.
    data
        What `Experiment.takes` says.
    models
        Out of `Experiment.looks`.
    code
        Take the systems of the published code in the place of the formulas.
    jobs
        Trainings at a time, in processes with one thread each; 1 where runs are timed in turn (`Experiment.peer`).
    device
        Of the models and the data.
    engine, devices
        Of `hbode.training.train`: what makes the steps, and how many processes share each batch; one job then.
    say
        Takes lines of text for the user.

    Returns
    -------
    dict
        What results.json holds.

    Raises
    ------
    DataError
        If the data are missing or cannot be used, or runs that are timed in turn are asked for otherwise.
    OutputError, CheckpointError
        If the folder cannot be written, or an unfinished training cannot be read.
    RuntimeError
        If no model could be trained.

    Examples
    --------
    >>> from pathlib import Path
    >>> from dataclasses import replace
    >>> from hbode.experiments import EXPERIMENTS, reproduce
    >>> experiment = EXPERIMENTS["point-cloud"]
    >>> short = experiment.settings["short"]
    >>> short = replace(short, seeds=1, training=replace(short.training, epochs=1))
    >>> found = reproduce(experiment, short, Path("result"), models=("hbnode",), say=lambda line: None)
    >>> Path("result/summary.md").is_file()
    True
    """
    if devices > 1 and jobs > 1:
        raise ValueError(f"jobs must be 1 where {devices} devices share a training, got {jobs}")
    if experiment.peer is not None and jobs > 1:
        raise DataError(f"--jobs must be 1 in {experiment.name}, whose runs are timed in turn, got {jobs}")
    if experiment.peer is not None and device != "cpu":
        raise DataError(f"--device must be cpu in {experiment.name}, got {device}")
    if data is None and experiment.needed:
        raise DataError(f"{experiment.name} needs --data: {experiment.takes}")
    if data is not None and not experiment.takes:
        raise DataError(f"{experiment.name} takes no --data, got {data}")
    splits = experiment.load(data, settings)
    moved = (tuple(x.to(device) for x in part) for part in (*splits.parts, splits.shared))
    splits = Splits(*moved, notes=splits.notes)
    kept = out.with_name(f"{out.name}.unfinished")
    started = time.perf_counter()
    with results_in(out, MADE_BY, NUMBERS) as folder:
        seeds = range(seed, seed + settings.seeds)
        tasks = [
            (experiment, name, one, splits, settings, code, kept, engine, devices) for one in seeds for name in models
        ]
        say(f"{experiment.title}: {len(models)} models, {len(seeds)} {experiment.repeats}, {jobs} at a time.")
        try:
            total, unit = (1, "runs") if settings.training is None else (settings.training.epochs, "epochs")
            with Board([f"{name} {one}" for one in seeds for name in models], total, unit) as board:
                trials = run_all(learn, [(*task, board.reporter(n)) for n, task in enumerate(tasks)], jobs)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; trainings under way are in {kept}, the same command goes on from them"
            ) from None
        if all(one.failure for one in trials):
            raise RuntimeError("; ".join(sorted({f"{one.model}: {one.failure}" for one in trials})))
        seconds = time.perf_counter() - started
        report = Report(experiment, settings, splits, trials, experiment.baselines(splits), code, seconds)
        figures = save_figures(folder, experiment, splits, trials)
        found = report.numbers()
        (folder / NUMBERS).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "summary.md").write_text(report.markdown(figures), encoding="utf-8")
    shutil.rmtree(kept, ignore_errors=True)
    say("\n".join(["", *aligned(report.rows()), "", *report.remarks()]))
    say(f"Results: {out}/ ({', '.join([NUMBERS, 'summary.md', *figures])}), after {seconds:.0f} s.")
    return found


def learn(
    experiment: Experiment,
    name: str,
    seed: int,
    data: Splits,
    settings: Settings,
    code: bool,
    kept: Path,
    engine: str = "plain",
    devices: int = 1,
    report: Reporter | None = None,
) -> Trial:
    """Train one model from one seed, and test it at the end; `report` is told the epochs."""
    began = time.perf_counter()
    settings = experiment.settings_of(name, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = experiment.model(name, data, settings, code).to(data.train[0].device)
    trial = Trial(name, seed, parameter_count(model), math.nan)
    path = kept / f"{name}-{seed}-{digest(settings, data, code)}.pt"
    try:
        if settings.training is not None:
            history = train(
                model,
                experiment.loss,
                data.train,
                settings.training,
                validation=data.validation,
                seed=seed,
                engine=engine,
                devices=devices,
                checkpoint=path,
                progress=None if report is None else partial(_tell, report),
            )
            nfe, back = (history.train.get(key, [math.nan])[-1] for key in ("nfe", "nfe_backward"))
            trial = replace(trial, history=history, seconds=sum(history.seconds), nfe=nfe, nfe_backward=back)
        chosen, shown = test(experiment, model, data, settings), experiment.show(model, data)
        last = chosen
        if trial.history is None:
            nfe, back = (chosen.get(key, math.nan) for key in ("nfe", "nfe_backward"))
            seconds = chosen.get("seconds", time.perf_counter() - began)
            trial = replace(trial, nfe=nfe, nfe_backward=back, seconds=seconds)
            if report is not None:
                report(1)
        elif trial.history.best != trial.history.epochs:
            model.load_state_dict((read_state(path, ["model"]) or {})["model"])
            last = test(experiment, model, data, settings)
    except (Diverged, SolverError) as error:
        return replace(trial, failure=str(error))
    return replace(trial, chosen=chosen, last=last, shown=None if shown is None else shown.cpu())


def _tell(report: Reporter, epoch: int, history: History) -> None:
    report(epoch, f"validation loss {history.validation['loss'][-1]:.3g}")


@torch.no_grad()
def test(experiment: Experiment, model: nn.Module, data: Splits, settings: Settings) -> dict[str, float]:
    """Return means over the test part of what the loss measures, in batches as those of the validation."""
    model.eval()
    experiment.settle(model, data)
    means, training, part = Means(), settings.training, data.test
    size = len(part[0]) if training is None else training.validation_batch or training.batch
    for batch in zip(*(x.split(size) for x in part), strict=True):
        loss, measured = experiment.loss(model, batch)
        means.add({"loss": loss, **measured}, len(batch[0]))
    return means.result()


def digest(settings: Settings, data: Splits, code: bool) -> str:
    """Return a name for everything but model and seed that a training depends on."""
    found = hashlib.sha256(repr((replace(settings, seeds=1), code)).encode())
    for x in (*data.train, *data.validation, *data.shared):
        found.update(x.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
