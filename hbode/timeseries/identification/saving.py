"""Fitted models on disk: weights as safetensors, everything else as JSON; no code is run to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...lazy import MissingExtra, optional
from ...models.continuous import NeuralStateSpace, StateBank, StateEncoder
from ..records import Channel, DataError, Scaling
from .bands import Bands
from .fitting.member import Fitted
from .laws.structures import Structure

FORMAT = "hbode system identifier 2"
MODEL, WEIGHTS = "model.json", "weights.safetensors"


def save(identifier: Any, folder: Path) -> None:
    """Write a fitted identifier; a former model there is replaced, other files are left alone."""
    given = identifier.law_.get_params(deep=False)
    known = given.pop("known")
    given["checkpoint"] = None
    found = {
        "format": FORMAT,
        "parameters": {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
        "known": None if known is None else getattr(known, "__name__", type(known).__name__),
        "outputs": [vars(c) for c in identifier.outputs_],
        "inputs": [vars(c) for c in identifier.inputs_],
        "time": vars(identifier.time_),
        "scaling": identifier.scaling_.as_json(),
        "seen": identifier.seen_.tolist(),
        "bands": identifier.bands_.as_json(),
        "penalty": identifier.penalty_,
        "longest": identifier.longest_,
        "members": [
            {"seed": one.seed, "validation": one.validation, "seconds": one.seconds} for one in identifier.fits_
        ],
    }
    weights = {
        f"{i}.{name}": x.contiguous()
        for i, model in enumerate(identifier.members_)
        for name, x in model.state_dict().items()
    }
    write_files(folder, found, weights)


def write_files(folder: Path, found: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write what a model is, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{WEIGHTS}.part", folder / f"{MODEL}.part"
    optional("safetensors.torch").save_file(weights, made[0])
    made[1].write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(made[0], folder / WEIGHTS)
    os.replace(made[1], folder / MODEL)


def read_files(folder: Path, form: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_files` wrote, of this format; a DataError for anything else."""
    for name in (MODEL, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: no model, {name} is missing")
    try:
        found = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        weights = optional("safetensors.torch").load_file(folder / WEIGHTS)
    except MissingExtra:
        raise
    except Exception as error:
        raise DataError(f"{folder}: the model cannot be read, it is not whole or not one ({error})") from None
    if not isinstance(found, dict) or found.get("format") != form:
        raise DataError(f"{folder}: not a model of this version of hbode, and of this kind")
    return found, weights


def load(kind: Any, folder: Path, known: Callable[..., Tensor] | None) -> Any:
    """Return the identifier that `save` wrote."""
    found, weights = read_files(folder, FORMAT)
    if (found["known"] is None) != (known is None):
        what = f"give its known part {found['known']!r} again by known=" if known is None else "known= is no part of it"
        raise DataError(f"{folder}: {what}")
    try:
        given = {
            k: tuple(v) if k in ("limits", "hidden", "corrected") and isinstance(v, list) else v
            for k, v in found["parameters"].items()
        }
        identifier = kind(**given, known=known)
        identifier.outputs_, identifier.inputs_ = (
            tuple(Channel(**c) for c in found[side]) for side in ("outputs", "inputs")
        )
        identifier.time_ = Channel(**found["time"])
        identifier.scaling_ = Scaling.from_json(found["scaling"])
        identifier.seen_, identifier.bands_ = np.array(found["seen"]), Bands.from_json(found["bands"])
        identifier.penalty_, identifier.validation_error_ = found["penalty"], identifier.bands_.floor
        identifier.longest_ = float(found["longest"])
        identifier.members_ = []
        term = identifier._known()
        structure = identifier._structure()
        count = 1 + max(int(name.split(".")[0]) for name in weights)
        for i in range(count):
            model = structure.build(term)
            put(model, {n.split(".", 1)[1]: x for n, x in weights.items() if n.split(".")[0] == str(i)}, structure)
            identifier.members_.append(model)
        identifier.fits_ = [
            Fitted(model, one["seed"], one["validation"], {}, one["seconds"])
            for model, one in zip(identifier.members_, found["members"], strict=False)
        ]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: the model is not whole ({error})") from None
    return identifier


def put(model: NeuralStateSpace, weights: dict[str, Tensor], structure: Structure) -> None:
    """Give a model its weights, and its bank of states and its encoder if they have one."""
    if "encoder.linear.weight" in weights:
        count = weights["encoder.linear.weight"].shape[1] // (structure.outputs + structure.inputs)
        units = len(weights["encoder.network.0.weight"])
        kind = structure.outputs, structure.inputs, structure.size, units, structure.momentum
        model.encoder = StateEncoder(count, *kind).double()
    if "bank.states" in weights:
        model.bank = StateBank(weights["bank.states"], weights["bank.outputs"])
    model.load_state_dict(weights)
