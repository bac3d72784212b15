"""States of several tensors: tuples, lists and dicts of them, and the one tensor in which a solver steps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path, tree_structure

from ..solvers.field import checked
from ..systems import System, VectorField
from ..systems.split_field import SplitField
from .arguments import not_a_state

State: TypeAlias = Tensor | Any
"""A tensor, or a tuple, list or dict of states."""


@dataclass(frozen=True)
class StateTree:
    """Where the parts of a state lie in one tensor: flat, one after the other on its last axis.

    The tensor has shape (N,), or (B, N) where samples have times or steps of their own, and the dtype to which those of
    the parts are promoted.

    Attributes
    ----------
    spec
        How tuples, lists and dicts hold the parts.
    plain
        Type and keys of a state that is one tuple, list or dict of tensors: most are, and need no walk over a tree.
    paths
        How each part is reached, as ``['a'][0]``.
    shapes, dtypes
        Those of the parts; of shapes, without the batch axis of samples.
    batch
        () or (B,).
    device
        Where all of them are.
    """

    spec: TreeSpec
    plain: tuple[Any, tuple[Any, ...]] | None
    paths: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    batch: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, h0: State, samples: bool) -> StateTree:
        """Return where the parts of h0 lie; `samples` says whether each must have the batch axis."""
        entries, spec = tree_flatten_with_path(h0)
        if not entries:
            raise ValueError(f"h0 must hold at least one tensor, got {h0!r}")
        paths, parts = tuple(keystr(path) for path, _ in entries), [part for _, part in entries]
        for path, part in zip(paths, parts, strict=True):
            _check_part(f"h0{path}", part, f"h0{paths[0]}", parts[0])
            if samples and part.ndim == 0:
                raise ValueError(f"h0{path} must have a batch axis for times or steps per sample, got shape ()")
            if samples and len(part) != len(parts[0]):
                raise ValueError(
                    f"h0{path} must have as many samples as h0{paths[0]}, {len(parts[0])}, got {len(part)}"
                )
        plain = type(h0) in (tuple, list, dict) and len(h0) == sum(len(path) == 1 for path, _ in entries)
        return cls(
            spec,
            (type(h0), tuple(h0) if isinstance(h0, dict) else tuple(range(len(h0)))) if plain else None,
            paths,
            tuple(part.shape[1:] if samples else part.shape for part in parts),
            tuple(part.dtype for part in parts),
            (len(parts[0]),) if samples else (),
            parts[0].device,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, with a tree of numbers for the spec, which torch would warn of in a copy."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return own | {"spec": self.spec.unflatten(range(self.spec.num_leaves))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"spec": tree_structure(state["spec"])})

    def join(self, name: str, state: State) -> Tensor:
        """Return a state, the argument `name`, as one tensor."""
        parts = self._parts(name, state)
        for path, shape, dtype, part in zip(self.paths, self.shapes, self.dtypes, parts, strict=True):
            whole = (*self.batch, *shape)
            if not isinstance(part, Tensor) or part.shape != whole or part.dtype != dtype:
                got = f"{tuple(part.shape)}, {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(f"{name}{path} must have the shape and dtype of h0{path}, {whole}, {dtype}; got {got}")
        return self._joined(parts)

    def split(self, y: Tensor) -> State:
        """Return a state (N,) or (B, N), or several, (..., N), in the user's form."""
        return self._tree(self._divided(y))

    def numbers(self, name: str, value: Any) -> Any:
        """Return an argument that is a number, or a tree of numbers and tensors that broadcast to the parts of h0.

        A function of the time, whose values are numbers, stays what it is.
        """
        if value is None or callable(value) or isinstance(value, int | float):
            return value
        if isinstance(value, Tensor) and value.numel() == 1:
            return value
        if isinstance(value, Tensor):
            raise ValueError(
                f"{name} must be one number, or numbers and tensors in the structure of h0, got a tensor of shape "
                f"{tuple(value.shape)}"
            )
        wide = []
        for path, shape, part in zip(self.paths, self.shapes, self._parts(name, value), strict=True):
            if not isinstance(part, int | float | Tensor):
                raise TypeError(f"{name}{path} must be a number or a tensor, got {type(part).__name__}")
            entries, whole = torch.as_tensor(part, dtype=torch.float64, device=self.device), (*self.batch, *shape)
            try:
                wide.append(entries.expand(whole))
            except RuntimeError:
                raise ValueError(
                    f"{name}{path} must broadcast to h0{path}, {whole}, got shape {tuple(entries.shape)}"
                ) from None
        return self._joined(wide)

    def options(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return options whose functions of states get them in the user's form."""
        own = dict(options or {})
        norm, grid = own.get("norm"), own.get("grid_constructor")
        if norm is not None:
            own["norm"] = lambda y: norm(self.split(y))
        if grid is not None:
            own["grid_constructor"] = lambda func, h0, t: grid(func, self.split(h0), t)
        return own

    def system(self, system: System, further: int) -> System:
        """Return a system whose field, of so many further arguments, works on one tensor; it shares all else."""
        return system.around(self._field(system.f, further, system.damped_by_position))

    def _field(self, f: VectorField, further: int, pair: bool = False) -> VectorField:
        if isinstance(f, SplitField):
            return SplitField(stiff=self._field(f.stiff, further), nonstiff=self._field(f.nonstiff, further))

        def field(t: Tensor, *rest: Any) -> Any:
            count = len(rest) - further  # of states: h, or h and m
            out = f(t, *map(self.split, rest[:count]), *rest[count:])
            if pair and isinstance(out, tuple) and len(out) == 2:
                return tuple(self._returned("func(t, h)", state) for state in out)
            return out if pair else self._returned("func(t, h)", out)

        return field

    def replacing(self, name: str, fn: Any, second_order: bool) -> Callable[..., Any]:
        """Return the function `name`, which replaces a state, as one of states in one tensor."""
        count = 2 if second_order else 1

        def updated(t: Tensor, *rest: Any) -> Any:
            out = fn(t, *map(self.split, rest[:count]), *rest[count:])
            if second_order and isinstance(out, tuple) and len(out) == 2:
                return tuple(self._returned(name, state) for state in out)
            return out if second_order else self._returned(name, out)

        return updated

    def _returned(self, name: str, state: Any) -> Tensor:
        """Return what the user's function `name` returned, as one tensor, if its parts fit those of a state."""
        function = name.partition("(")[0]
        parts = zip(self._parts(name, state), self._like, self.paths, strict=True)
        return self._joined([checked(part, like, path, function) for part, like, path in parts])

    @cached_property
    def _like(self) -> list[Tensor]:
        """Tensors of the shapes and dtypes of the parts, with the batch axis of samples, that take no memory."""
        parts = zip(self.shapes, self.dtypes, strict=True)
        return [torch.zeros((), dtype=x, device=self.device).expand((*self.batch, *shape)) for shape, x in parts]

    @cached_property
    def _uniform(self) -> bool:
        """Whether a state is its parts one after the other, so that one call of the library divides and joins them."""
        return not self.batch and len(set(self.dtypes)) == 1

    def _divided(self, y: Tensor) -> Sequence[Tensor]:
        if self._uniform and y.ndim == 1:
            return torch._C._nn.unflatten_dense_tensors(y, self._like)
        pieces = y.split([shape.numel() for shape in self.shapes], -1)
        return [
            piece.reshape((*y.shape[:-1], *shape)).to(dtype)
            for piece, shape, dtype in zip(pieces, self.shapes, self.dtypes, strict=True)
        ]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if self._uniform:
            return torch._C._nn.flatten_dense_tensors(parts)
        sizes = (shape.numel() for shape in self.shapes)
        return torch.cat([x.reshape((*self.batch, size)) for x, size in zip(parts, sizes, strict=True)], -1)

    def _tree(self, parts: Sequence[Tensor]) -> State:
        if self.plain is None:
            return self.spec.unflatten(parts)
        kind, keys = self.plain
        return dict(zip(keys, parts, strict=True)) if kind is dict else kind(parts)

    def _parts(self, name: str, tree: Any) -> list[Any]:
        """Return the parts of a tree that has the structure of h0."""
        if self.plain is not None:
            kind, keys = self.plain
            same = type(tree) is kind and len(tree) == len(keys)
            if same and (kind is not dict or all(map(tree.__contains__, keys))):
                return [tree[key] for key in keys]
        try:
            return self.spec.flatten_up_to(tree)
        except ValueError:
            _raise_difference(name, self.spec.unflatten(self.paths), tree)
            raise


def replaced(name: str, out: Any, y: Tensor, second_order: bool) -> Tensor:
    """Return what the function `name` returned in place of a state y, if it fits: h, or (h, m)."""
    if not second_order:
        return checked(out, y, name=name)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{name} must return (h, m), got {told(out)}")
    return torch.stack([checked(state, y[0], name=name) for state in out])


def told(x: Any) -> str:
    """Return what a value is, for a message."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def halves(y: Tensor, second_order: bool, axis: int, tree: StateTree | None) -> tuple[State, State | None]:
    """Return position and momentum in the user's form; the momentum of a first-order system is None."""
    h, m = (y.select(axis, 0), y.select(axis, 1)) if second_order else (y, None)
    return (h, m) if tree is None else (tree.split(h), None if m is None else tree.split(m))


def _check_part(name: str, part: Any, first_name: str, first: Any) -> None:
    if not isinstance(part, Tensor) or not (part.is_floating_point() or part.is_complex()):
        raise not_a_state(name, part)
    if part.device != first.device:
        raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {part.device}")
    if part.dtype != first.dtype and (part.is_complex() or first.is_complex()):
        raise TypeError(
            f"{name} must have the dtype of {first_name}, {first.dtype}, got {part.dtype}: real dtypes may differ, "
            "complex ones may not"
        )


def _raise_difference(name: str, expected: Any, tree: Any) -> None:
    """Raise where a tree first differs from the expected one, whose parts are any objects but trees."""
    wanted, got = _entries(expected), _entries(tree)
    if not wanted:
        return
    if type(expected) is not type(tree) and not (isinstance(expected, dict) and isinstance(tree, dict)):
        raise TypeError(f"{name} must be a {type(expected).__name__} as in h0, got {type(tree).__name__}")
    if wanted.keys() != got.keys():
        listed = (", ".join(entries) or "none" for entries in (wanted, got))
        raise ValueError("{} must have the entries {} as in h0, got {}".format(name, *listed))
    for key, part in wanted.items():
        _raise_difference(f"{name}{key}", part, got[key])


def _entries(tree: Any) -> dict[str, Any]:
    """Return what a tuple, list or dict holds, by its keys; nothing of others."""
    found, _ = tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    return {keystr(path): part for path, part in found if path}
