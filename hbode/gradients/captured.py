"""Finds the tensors that a vector field differentiates through without being told.

A field may hold parameters, and intermediate results such as the output of an encoder. Both are inputs of a solve. The
graph behind an intermediate result is not the solve's: while steps are run again it is exchanged for a copy without
history, whose cotangent autograd then takes back through that graph, once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
NAMES = 3
"""Through how many global names, one after the other, a function is followed."""


class Reachable(NamedTuple):
    """The tensors that need gradients, and the modules that are no parts of others, that a function can reach."""

    tensors: list[Tensor]
    modules: list[nn.Module]

    @property
    def leaves(self) -> list[Tensor]:
        """Those of the tensors that no operation made."""
        return [x for x in self.tensors if x.is_leaf]


def reachable(func: Any) -> Reachable:
    """Return what is found in the modules, closures, defaults, global names, partials and methods of `func`.

    Objects that are not called are looked into if they are lists, tuples, dicts or dataclasses. An intermediate result
    is left out if it is an attribute of a module: most are kept there from an earlier call.
    """
    found: dict[int, Tensor] = {}
    modules: list[nn.Module] = []
    inner: set[int] = set()
    seen: set[int] = set()
    stack: list[tuple[Any, int, bool]] = [(func, 0, False)]  # with how many global names led to it
    while stack:
        item, names, of_module = stack.pop()
        if type(item) in _PLAIN or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            if item.requires_grad and (item.is_leaf or not of_module):
                found[id(item)] = item
        elif isinstance(item, nn.Module):
            if id(item) not in inner:
                modules.append(item)
                inner.update(id(part) for part in item.modules() if part is not item)
            stack += [(parameter, names, True) for _, parameter in item.named_parameters()]
            stack += [(value, names, True) for value in vars(item).values()]
        elif isinstance(item, list | tuple | dict):
            parts = item.values() if isinstance(item, dict) else item
            stack += [(part, names, of_module) for part in parts if type(part) not in _PLAIN]
        elif names <= NAMES:
            stack += [(part, names, False) for part in _held(item)]
            if isinstance(item, FunctionType):
                found_there = (item.__globals__.get(name) for name in item.__code__.co_names)
                stack += [(part, names + 1, False) for part in found_there]
    return Reachable(list(found.values()), [module for module in modules if id(module) not in inner])


def _held(item: Any) -> Iterator[Any]:
    """Yield what a callable object, or a dataclass, holds."""
    if isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, FunctionType):
        yield from map(_contents, item.__closure__ or ())
        yield from (item.__defaults__, item.__kwdefaults__)
    elif isinstance(item, MethodType | BuiltinMethodType):
        yield item.__self__
        yield getattr(item, "__func__", None)
    elif not isinstance(item, type | ModuleType) and (callable(item) or is_dataclass(item)):
        yield from getattr(item, "__dict__", {}).values()
        if is_dataclass(item) and not hasattr(item, "__dict__"):
            yield from (getattr(item, entry.name) for entry in fields(item))


class Ends(NamedTuple):
    """What graphs end in: leaf tensors that need gradients, and nodes, with a number of output, made before a time."""

    leaves: list[Tensor]
    older: set[tuple[Any, int]]


def now() -> int:
    """Return a time by which the nodes of graphs that this thread made can be told from those it will make."""
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True).view(()).grad_fn
    number: int = node._sequence_nr()
    return number


def graph_ends(outputs: Iterable[Tensor], since: int) -> Ends:
    """Return what the graphs of `outputs` end in; nodes older than `since` are not looked behind.

    Looking at a node gives it a Python object for as long as it lives, and a long chain of these cannot be freed: no
    graph is looked at that outlives the run of one step.
    """
    leaves: dict[int, Tensor] = {}
    older: set[tuple[Any, int]] = set()
    stack: list[Any] = []
    seen: set[Any] = set()

    def enter(node: Any, number: int) -> None:
        if node is None or node in seen:
            return
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = variable
        elif node._sequence_nr() < since:
            older.add((node, number))
        else:
            seen.add(node)
            stack.append(node)

    for output in outputs:
        if output.grad_fn is not None:
            enter(output.grad_fn, output.output_nr)
        elif output.requires_grad:
            leaves[id(output)] = output
    while stack:
        for following in stack.pop().next_functions:
            enter(*following)
    return Ends(list(leaves.values()), older)


class Watch(TorchFunctionMode):
    """Sees the tensors that a computation takes from elsewhere, and exchanges some of them.

    Parameters
    ----------
    instead
        What to take in place of which tensor, given by its id.

    Attributes
    ----------
    taken
        Tensors that need gradients, were not made in the computation, and entered an operation with a gradient.
    """

    def __init__(self, instead: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self.instead = instead or {}
        self.taken: dict[int, Tensor] = {}
        self._results: set[int] = set()
        self._memory: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.instead:
            args, kwargs = self._exchanged(args), self._exchanged(kwargs)
        out = func(*args, **kwargs)
        made, given = list(_tensors(out)), list(_tensors((args, kwargs)))
        if any(x.requires_grad for x in made):
            self.taken.update((id(x), x) for x in given if x.requires_grad and not self.made(x))
        self._results.update(map(id, made))
        self._memory.update(set(map(_memory, made)).difference(map(_memory, given), (0,)))
        return out

    def made(self, x: Tensor) -> bool:
        """Return whether the computation made `x`: as a result, or as a parameter around new memory.

        What is alive from before the computation has an id and memory that nothing made in it can have.
        """
        return id(x) in self._results or _memory(x) in self._memory

    def _exchanged(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return self.instead.get(id(item), item)
        if type(item) in (tuple, list):
            return type(item)(map(self._exchanged, item))
        if type(item) is dict:
            return {key: self._exchanged(value) for key, value in item.items()}
        return item


class Guard:
    """Runs parts of a solve again: with intermediate results exchanged, and no tensor lost that needs a gradient.

    Parameters
    ----------
    known
        The tensors whose gradients are taken.
    instead
        What to take in place of which intermediate result, given by its id.
    strict
        Whether to raise where another tensor that needs a gradient is used.
    in_one_graph
        Whether all that is run makes one graph, which is then not looked at.
    """

    def __init__(
        self, known: Iterable[Tensor], instead: dict[int, Tensor], strict: bool, in_one_graph: bool = False
    ) -> None:
        self.known = {id(x) for x in known}
        self.instead, self.strict = instead, strict
        self.watching = bool(instead)
        self.whole = Watch(instead) if in_one_graph else None
        self.since = now()

    def run(self, compute: Callable[[], T], outputs: Callable[[T], Sequence[Tensor]], own: Iterable[Tensor]) -> T:
        """Return `compute()`, whose `outputs` may depend on what is known and on its `own` arguments."""
        allowed = self.known | {id(x) for x in own}
        if self.whole is not None:
            with self.whole as watch:
                result = compute()
            if self.strict:
                _refuse(x for x in watch.taken.values() if id(x) not in allowed)
            return result
        if not self.watching:
            result = compute()
            if not self.strict or self._settled(outputs(result), allowed):
                return result
            self.watching = True  # it may be a leaf that the field makes itself: see what the operations give
        with Watch(self.instead) as watch:
            result = compute()
        if self.strict:
            self._settled(outputs(result), allowed, watch)
        return result

    def _settled(self, outputs: Sequence[Tensor], allowed: set[int], watch: Watch | None = None) -> bool:
        """Return whether the graphs end in what is allowed; raise if they do not, and it was watched what was made."""
        ends = graph_ends(outputs, self.since)
        strangers = [x for x in ends.leaves if id(x) not in allowed and (watch is None or not watch.made(x))]
        if watch is not None:
            _refuse(strangers)
            if ends.older:
                raise RuntimeError(_LOST.format("a tensor that other operations made"))
        return not strangers and not ends.older


def _refuse(strangers: Iterable[Tensor]) -> None:
    for x in strangers:
        raise RuntimeError(_LOST.format(f"a tensor of shape {tuple(x.shape)}"))


_LOST = (
    "the field, a reset or an update used {} that needs a gradient and that could not be found before the solve, "
    "because none holds it and the field does not use it at the first time. Pass it through args= or Update.data, make "
    "it a parameter of the module, or solve with gradient='backprop'"
)


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, dict):
        for part in item.values():
            yield from _tensors(part)


def _memory(x: Tensor) -> int:
    """Return the number of the memory that `x` lies in, or 0 if it has none that can be told."""
    try:
        number: int = x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper of torch.func
        return 0
    return number


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
