"""What is refused of states of several tensors: which part of which argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hbode import FirstOrder, HeavyBall, hbodeint
from hbode.analysis import gradient_decay, gradient_flow


def never(t: Tensor, h: Any) -> Any:
    raise AssertionError("the field must not be evaluated before the arguments are checked")


X, Y, S = torch.ones(4, 3), torch.ones(4, 2), torch.ones(4)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no tensor": ({"h0": {"a": []}}, ValueError, "h0 must hold at least one tensor, got {'a': []}"),
    "number": ({"h0": {"a": (X, 1.0)}}, TypeError, "h0['a'][1] must be a floating or complex tensor, or a tuple, "),
    "none": ({"h0": [X, None]}, TypeError, "h0[1] must be a floating or complex tensor"),
    "integers": ({"h0": [X, X.long()]}, TypeError, "h0[1] must be a floating or complex tensor, or a tuple, list or "),
    "device": ({"h0": [X, Y.to("meta")]}, ValueError, "h0[1] must be on the device of h0[0], cpu, got meta"),
    "complex": ({"h0": {"a": X, "b": Y * 1j}}, TypeError, "h0['b'] must have the dtype of h0['a'], torch.float32, got"),
    "complex of two": ({"h0": [X * 1j, Y.double() * 1j]}, TypeError, "h0[1] must have the dtype of h0[0]"),
    "batch axis": (
        {"h0": {"a": [torch.ones(())], "b": X}, "per_sample": True},
        ValueError,
        "h0['a'][0] must have a batch axis for times or steps per sample, got shape ()",
    ),
    "samples": (
        {"h0": {"a": [X], "b": torch.ones(3)}, "t": [[0.0, 1.0]] * 4},
        ValueError,
        "h0['b'] must have as many samples as h0['a'][0], 4, got 3",
    ),
    "times": ({"h0": [X], "t": [[0.0, 1.0]] * 3}, ValueError, "t has times for 3 samples, h0 has 4"),
    "m0 type": ({"h0": {"a": [X]}, "m0": {"a": (X,)}}, TypeError, "m0['a'] must be a list as in h0, got tuple"),
    "m0 of one tensor": ({"h0": (X, Y), "m0": X}, TypeError, "m0 must be a tuple as in h0, got Tensor"),
    "m0 entries": (
        {"h0": {"a": X, "b": Y}, "m0": {"a": X, "c": Y}},
        ValueError,
        "m0 must have the entries ['a'], ['b'] as in h0, got ['a'], ['c']",
    ),
    "m0 length": ({"h0": [[X, Y]], "m0": [[X]]}, ValueError, "m0[0] must have the entries [0], [1] as in h0, got [0]"),
    "m0 shape": (
        {"h0": [X, Y], "m0": [X, X]},
        ValueError,
        "m0[1] must have the shape and dtype of h0[1], (4, 2), torch.float32; got (4, 3), torch.float32",
    ),
    "m0 dtype": ({"h0": [X], "m0": [X.double()]}, ValueError, "torch.float32; got (4, 3), torch.float64"),
    "m0 part": ({"h0": [X], "m0": [0.0]}, ValueError, "m0[0] must have the shape and dtype of h0[0], "),
    "m0 of a first-order system": ({"func": FirstOrder(never), "h0": [X], "m0": [X]}, ValueError, "m0 must not be"),
    "rtol tensor": ({"rtol": torch.ones(3)}, ValueError, "rtol must be one number, or numbers and tensors in the "),
    "atol form": ({"atol": {"a": 1e-3}}, ValueError, "atol must have the entries ['a'], ['b'] as in h0, got ['a']"),
    "rtol type": ({"rtol": "tight"}, TypeError, "rtol must be a dict as in h0, got str"),
    "rtol part": ({"rtol": {"a": "tight", "b": 1.0}}, TypeError, "rtol['a'] must be a number or a tensor, got str"),
    "rtol shape": (
        {"rtol": {"a": torch.ones(2), "b": 1.0}},
        ValueError,
        "rtol['a'] must broadcast to h0['a'], (4, 3), got shape (2,)",
    ),
    "rtol negative": ({"rtol": {"a": -1.0, "b": 1.0}}, ValueError, "rtol must be zero or positive"),
    "tolerances of zero": ({"rtol": {"a": 0.0, "b": 1.0}, "atol": 0.0}, ValueError, "rtol and atol must not both be"),
    "gamma": (
        {"gamma": torch.ones(3)},
        ValueError,
        "gamma must be one number, or numbers and tensors in the structure",
    ),
    "xi": ({"xi": [1.0, 2.0]}, TypeError, "xi must be a dict as in h0, got list"),
    "gamma of a system": (
        {"func": HeavyBall(never, torch.full((3,), 0.1))},
        ValueError,
        "γ and ξ must broadcast to h0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case: str) -> None:
    call, error, message = REFUSED[case]
    call = {"func": never, "h0": {"a": X, "b": Y}, "t": [0.0, 1.0], **call}
    with pytest.raises(error) as caught:
        hbodeint(call.pop("func"), call.pop("h0"), call.pop("t"), **call)
    assert message in str(caught.value)


RETURNED: dict[str, tuple[Any, type[Exception], str]] = {
    "one tensor": (X, TypeError, "func(t, h) must be a dict as in h0, got Tensor"),
    "list": ({"a": [X, Y], "b": S}, TypeError, "func(t, h)['a'] must be a tuple as in h0, got list"),
    "entries": ({"a": (X, Y)}, ValueError, "func(t, h) must have the entries ['a'], ['b'] as in h0, got ['a']"),
    "shape": ({"a": (X, X), "b": S}, ValueError, "func must return the shape of h['a'][1], (4, 2), got (4, 3)"),
    "dtype": ({"a": (X, Y), "b": S.double()}, TypeError, "func must return the dtype of h['b'], torch.float32, got"),
    "number": ({"a": (X, Y), "b": 0.0}, TypeError, "func must return a tensor for h['b'], got float"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_field_returns_is_checked(case: str) -> None:
    out, error, message = RETURNED[case]
    with pytest.raises(error) as caught:
        hbodeint(lambda t, h: out, {"a": (X, Y), "b": S}, [0.0, 1.0])
    assert message in str(caught.value)


def test_coefficients_of_a_system_are_numbers() -> None:
    with pytest.raises(TypeError, match="gamma and xi of a system must be numbers or tensors, got dict"):
        HeavyBall(never, {"a": 0.1})  # type: ignore[arg-type]


@pytest.mark.parametrize("analyse", [gradient_flow, gradient_decay])
def test_analyses_that_need_one_tensor_say_so(analyse: Callable[..., Any]) -> None:
    system = HeavyBall(lambda t, h: tree_map(torch.neg, h))
    sol = hbodeint(system, {"a": X, "b": Y}, [0.0, 1.0], dense=True)
    arguments = (system, sol) if analyse is gradient_flow else (sol, lambda h, m: h.sum())
    with pytest.raises(TypeError, match="sol must have a state of one tensor, got dict"):
        analyse(*arguments)
