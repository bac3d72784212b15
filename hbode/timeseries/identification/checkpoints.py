"""Models that are done, kept while others are fitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lazy import optional
from ...reporting.results_folder import written_whole
from ..records import Records
from .fitting.least_squares import LeastSquaresResult
from .fitting.member import Fitted, fit_member
from .laws.known import Known
from .laws.structures import Structure
from .saving import put


def place(checkpoint: str | Path | None, task: Any, known: Callable[..., Tensor] | None) -> Path | None:
    """Return where a finished model is kept: by everything that it depends on."""
    if checkpoint is None:
        return None
    structure, settings, train, held, seed = task
    digest = hashlib.sha256(repr((structure, settings, seed, known)).encode())
    digest.update(str(held).encode() if isinstance(held, str) else b"")
    for records in (train, held):
        for run in records if isinstance(records, Records) else ():
            for x in (run.t, run.y, run.u):
                digest.update(np.ascontiguousarray(x).tobytes())
    return Path(checkpoint) / f"{digest.hexdigest()[:20]}.safetensors"


def write_member(path: Path, fitted: Fitted) -> None:
    """Keep one fitted model."""
    told = {
        "seed": fitted.seed,
        "validation": fitted.validation,
        "seconds": fitted.seconds,
        "stages": {n: {"train": x.train, "validation": x.validation} for n, x in fitted.stages.items()},
    }
    weights = {name: x.contiguous() for name, x in fitted.model.state_dict().items()}
    with written_whole(path) as part:
        optional("safetensors.torch").save_file(weights, part, metadata={"hbode": json.dumps(told)})


def read_member(path: Path, structure: Structure, known: torch.nn.Module | None) -> Fitted:
    """Return the model that `write_member` kept."""
    with optional("safetensors").safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["hbode"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = structure.build(known)
    put(model, weights, structure)
    stages: dict[str, Any] = {name: LeastSquaresResult(**stage) for name, stage in told["stages"].items()}
    return Fitted(model, told["seed"], told["validation"], stages, told["seconds"])


def fit_or_read(task: Any, known: Known | None, path: Path | None, verbose: bool) -> Fitted:
    """Fit one model, or take it from where it was kept."""
    structure, settings, train, held, seed = task
    if path is not None and path.exists():
        return read_member(path, structure, known)

    def tell(stage: str, number: int, error: float, against: float) -> None:
        print(f"seed {seed}, {stage}, {number}: training {error**0.5:.4g}, validation {against**0.5:.4g}", flush=True)

    training = None if path is None else path.with_suffix(".training")
    fitted = fit_member(structure, settings, train, held, seed, known, tell if verbose else None, training)
    if path is not None:
        write_member(path, fitted)
        path.with_suffix(".training").unlink(missing_ok=True)
    return fitted
