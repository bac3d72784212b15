"""Systems and states that are named on a command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..systems import FirstOrder, GeneralizedHeavyBall, HeavyBall, System


class LoadError(ValueError):
    """Something named on the command line that cannot be used, with a message of one line."""


WRAPPERS: dict[str, Callable[[Callable[..., Tensor]], System]] = {
    "node": FirstOrder,
    "hbnode": HeavyBall,
    "ghbnode": GeneralizedHeavyBall,
}
"""Systems around a bare f(t, h)."""


def load_system(target: str, weights: Path | None, kind: str) -> System:
    """Return the system that `target` names.

    Parameters
    ----------
    target
        ``package.module:name`` or ``file.py:name`` of a `System`, of a field f(t, h), or of a function or class without
        required arguments that returns one of these; or a file ``model.pt2`` that `torch.export.save` wrote of a
        field.
    weights
        A state dict for the module that was found: a file of `torch.save`, read without unpickling code, or of
        safetensors.
    kind
        The system around a bare field, a key of `WRAPPERS`.

    Raises
    ------
    LoadError
        If it cannot be found, is none of these, or the weights do not fit.
    """
    found = _exported(target) if target.endswith(".pt2") else _named(target)
    if not isinstance(found, System | nn.Module) and callable(found) and not _required(found, target):
        try:
            found = found()
        except Exception as error:
            raise LoadError(f"{target}: calling it failed with {type(error).__name__}: {error}") from error
    if not callable(found):
        raise LoadError(f"{target}: must be a System or a field f(t, h), got {type(found).__name__}")
    if weights is not None:
        _load_weights(found, weights, target)
    return found if isinstance(found, System) else WRAPPERS[kind](found)


def load_state(text: str, dtype: torch.dtype | None) -> Tensor:
    """Return the state that a text names.

    Parameters
    ----------
    text
        A file: .npy, .csv or .txt (numbers, one sample a line), or .pt with one tensor. A size such as ``64x2``, for
        standard normal numbers from a fixed seed. Or the numbers of one state, separated by commas.
    dtype
        Of the result; None: that of the file, or float64.

    Raises
    ------
    LoadError
        If it is none of these.
    """
    path = Path(text)
    try:
        if path.suffix in (".npy", ".csv", ".txt", ".pt"):
            state = _read(path)
        elif "x" in text:
            size = [int(part) for part in text.split("x")]
            state = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        else:
            state = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise LoadError(
            f"{text}: must be numbers 1,0.5,…, a size 64x2, or a file .npy, .csv, .txt or .pt ({why})"
        ) from None
    if not state.is_floating_point():
        state = state.double()
    if not bool(state.isfinite().all()) or not state.numel():
        raise LoadError(f"{text}: must hold finite numbers, got NaN, Inf or none")
    return state if dtype is None else state.to(dtype)


def _named(target: str) -> Any:
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise LoadError(f"{target}: must be package.module:name, file.py:name or a file .pt2")
    try:
        if where.endswith(".py"):
            path = Path(where)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise LoadError(f"{where}: there is no such file")
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))  # the command is not run from the current folder, its user is
            module = importlib.import_module(where)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{where}: cannot be imported ({type(error).__name__}: {error})") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise LoadError(f"{target}: there is no {part} in {where}")
        found = getattr(found, part)
    return found


def _exported(target: str) -> nn.Module:
    try:
        return torch.export.load(target).module()
    except Exception as error:
        raise LoadError(f"{target}: cannot be read as an exported program ({type(error).__name__}: {error})") from error


def _required(found: Callable[..., Any], target: str) -> int:
    """Return how many arguments a callable needs."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _load_weights(found: Any, path: Path, target: str) -> None:
    if not isinstance(found, nn.Module):
        raise LoadError(f"{target}: weights are for a module, got {type(found).__name__}")
    try:
        if path.suffix == ".safetensors":
            try:
                load_file = importlib.import_module("safetensors.torch").load_file
            except ImportError:
                raise LoadError(f"{path}: reading it needs safetensors: pip install safetensors") from None
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        found.load_state_dict(state)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{path}: does not fit {target} ({' '.join(str(error).split())})") from error


def _read(path: Path) -> Tensor:
    if path.suffix == ".pt":
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Tensor):
            raise TypeError(f"holds a {type(found).__name__}, not a tensor")
        return found
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    rows = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
    return torch.from_numpy(rows)
