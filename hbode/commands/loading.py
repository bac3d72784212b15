"""Systems and states that are named on a command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..systems import FAMILY, System


class LoadError(ValueError):
    """Something named on the command line that cannot be used, with a message of one line."""


STATES = "numbers 1,0.5,…, a size 64x2, or a file .npy, .csv, .txt or .pt"
TABLES = (".csv", ".txt")


def described(error: BaseException) -> str:
    """Return the type of an error and what it says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


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
        The system around a bare field, a key of `FAMILY`.

    Raises
    ------
    LoadError
        If it cannot be found, is none of these, or the weights do not fit.
    """
    found = _exported(target) if target.endswith(".pt2") else _named(target)
    if isinstance(found, type) and _required(found):
        raise LoadError(f"TARGET {target}: its class needs arguments; name an object, or a function that makes one")
    if not isinstance(found, nn.Module) and callable(found) and not _required(found):
        try:
            found = found()
        except Exception as error:
            raise LoadError(f"TARGET {target}: calling it raised {described(error)}") from error
    if not callable(found) or isinstance(found, type):
        raise LoadError(f"TARGET {target}: must be a System or a field f(t, h), got {_kind(found)}")
    if weights is not None:
        if not isinstance(found, nn.Module):
            raise LoadError(f"--weights {weights}: needs a TARGET that is a module, got {_kind(found)}")
        _load_weights(found, weights, target)
    return found if isinstance(found, System) else FAMILY[kind](found)


def load_state(text: str, dtype: torch.dtype | None, option: str = "--state", seed: int = 0) -> Tensor:
    """Return the state that a text names.

    Parameters
    ----------
    text
        A file: .npy, .csv or .txt (numbers, one sample a line, under a line of names or not), or .pt with one tensor.
        A size such as ``64x2``, for standard normal numbers. Or the numbers of one state, separated by commas.
    dtype
        Of the result; None: that of the file, or float64.
    option
        What the text was given for, for messages.
    seed
        Of the normal numbers.

    Raises
    ------
    LoadError
        If it is none of these.
    """
    path = Path(text)
    size = re.fullmatch(r"\d+(x\d+)+", text)
    try:
        if path.suffix in (*TABLES, ".npy", ".pt"):
            state = _read(path)
        elif size:
            rng = torch.Generator().manual_seed(seed)
            state = torch.randn([int(part) for part in text.split("x")], generator=rng, dtype=torch.float64)
        else:
            state = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
    except FileNotFoundError:
        raise LoadError(f"{option} {text}: there is no such file") from None
    except pickle.UnpicklingError:
        raise LoadError(f"{option} {text}: must hold one tensor, got other objects, which are not unpickled") from None
    except (ValueError, TypeError, OSError, RuntimeError, EOFError, MemoryError) as error:
        why = described(error) if path.suffix or size else repr(text)
        raise LoadError(f"{option} {text}: must be {STATES}; got {why}") from None
    if state.is_complex() or state.dtype == torch.bool:
        raise LoadError(f"{option} {text}: must hold real numbers, got {str(state.dtype).removeprefix('torch.')}")
    if not state.is_floating_point():
        state = state.double()
    if not state.numel() or not bool(state.isfinite().all()):
        got = "NaN or Inf" if state.numel() else "none"
        raise LoadError(f"{option} {text}: must hold finite numbers, got {got}")
    return state if dtype is None else state.to(dtype)


def _named(target: str) -> Any:
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise LoadError(f"TARGET {target}: must be package.module:name, file.py:name or a file .pt2")
    if where.endswith(".py") and not Path(where).is_file():
        raise LoadError(f"TARGET {target}: there is no file {where}")
    try:
        found: Any = _file(Path(where)) if where.endswith(".py") else _module(where)
    except (Exception, SystemExit) as error:
        raise LoadError(f"TARGET {target}: {where} cannot be imported, {described(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise LoadError(f"TARGET {target}: there is no {part} in {where}")
        found = getattr(found, part)
    return found


def _file(path: Path) -> ModuleType:
    """Import a file, beside which it finds others, as it would if it was run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)  # dataclasses look up the module they are made in
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the command is not run from the current folder, its user is
    return importlib.import_module(name)


def _exported(target: str) -> nn.Module:
    if not Path(target).is_file():
        raise LoadError(f"TARGET {target}: there is no such file")
    if not zipfile.is_zipfile(target):
        raise LoadError(f"TARGET {target}: must be an exported program, from torch.export.save")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs a traceback of what it raises
    try:
        return torch.export.load(target).module()
    except Exception as error:
        raise LoadError(
            f"TARGET {target}: torch {torch.__version__} cannot read it as an exported program ({type(error).__name__})"
        ) from error
    finally:
        logging.disable(before)


def _required(found: Callable[..., Any]) -> int:
    """Return how many arguments a callable needs."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _kind(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__


def _load_weights(found: nn.Module, path: Path, target: str) -> None:
    state, own = _read_weights(path), found.state_dict()
    wrong = [f"misses {_few(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    wrong += [f"has {_few(state.keys() - own.keys())}, which the model has not"] if state.keys() - own.keys() else []
    for name in own.keys() & state.keys():
        here, there = (getattr(x, "shape", None) for x in (own[name], state[name]))
        if here != there and here is not None:
            got = "no tensor" if there is None else f"shape {tuple(there)}"
            wrong.append(f"has {got} for {name}, which is {tuple(here)}")
    if not wrong:
        try:
            found.load_state_dict(state)
        except Exception as error:
            wrong = [described(error)]
    if wrong:
        raise LoadError(f"--weights {path}: does not fit {target}: it {_few(wrong, '; ')}")


def _read_weights(path: Path) -> Mapping[str, Any]:
    need = "must be a state dict, from torch.save or safetensors"
    if not path.is_file():
        raise LoadError(f"--weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            found: Any = importlib.import_module("safetensors.torch").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise LoadError(f"--weights {path}: reading it needs safetensors: pip install safetensors") from None
    except pickle.UnpicklingError:
        raise LoadError(f"--weights {path}: {need}, got other objects, which are not unpickled") from None
    except Exception as error:
        raise LoadError(f"--weights {path}: {need}, got {described(error)}") from None
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise LoadError(f"--weights {path}: {need}, got {_kind(found)}")
    return found


def _few(names: Iterable[str], between: str = ", ") -> str:
    some = sorted(names)
    return between.join(some[:4]) + (f"{between}… ({len(some)} in all)" if len(some) > 4 else "")


def _read(path: Path) -> Tensor:
    if path.suffix == ".pt":
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Tensor):
            raise TypeError(f"a {type(found).__name__}, not a tensor")
        return found.detach()
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [line.split("," if path.suffix == ".csv" else None) for line in lines if line.strip()]
    if rows and not any(map(_is_number, rows[0])):
        del rows[0]  # a head of names
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different length")
    return torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
