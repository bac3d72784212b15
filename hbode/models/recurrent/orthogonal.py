"""The momentum orthogonal RNN: h = σ(B h + v) with an orthogonal B and v = μ v + s W x.

Momentum: Nguyen et al., NeurIPS 2020. B is a fixed orthogonal matrix times the exponential of a skew one: the
trivialisation of Lezcano-Casado, NeurIPS 2019. modReLU: Arjovsky, Shah, Bengio, ICML 2016.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import is_parametrized

from .accumulation import Momentum, Weights
from .dynamics import joined
from .modules import RecurrentCell, RecurrentLayer
from .recurrences import Looped, State


class ModReLU(Looped):
    """h = sign(z) relu(|z| + b) with z = B h + W x: the identity up to a shift, which keeps the size of gradients."""

    mode = "RNN_TANH"
    gates = 1
    names = ("h",)

    def start(self, hidden: int) -> dict[str, Tensor]:
        return {"shift": torch.zeros(hidden)}

    def advance(self, a: Tensor, state: State, w: Weights) -> State:
        z = torch.addmm(a, state[0], w["weight_hh"].t())
        return (z.sign() * F.relu(z.abs() + w["shift"]),)


class MomentumDTRIV(RecurrentLayer):
    """h = modReLU(B h + v), v = μ v + s W x, where B is orthogonal whatever the values of the parameters.

    Arguments are those of `RecurrentLayer`, without `bias`: modReLU has one, ``shift_l0``. The state is (h, m), as of a
    `MomentumRNN`. B starts as turns of planes by angles even over the circle.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumDTRIV
    >>> B = MomentumDTRIV(3, 16, momentum=0.3, step_size=0.3).weight_hh_l0
    >>> bool(torch.allclose(B @ B.T, torch.eye(16), atol=1e-5))
    True
    """

    make = joined(ModReLU(), Momentum)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **settings: Any,
    ) -> None:
        options = (False, batch_first, dropout, bidirectional, 0, device, dtype)
        super().__init__(input_size, hidden_size, num_layers, *options, **settings)
        _parametrize(self)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _start(self)


class MomentumDTRIVCell(RecurrentCell):
    """One step of a `MomentumDTRIV`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumDTRIVCell
    >>> state = MomentumDTRIVCell(3, 8)(torch.randn(2, 3))
    """

    make = MomentumDTRIV.make

    def __init__(
        self, input_size: int, hidden_size: int, device: Any = None, dtype: Any = None, **settings: Any
    ) -> None:
        super().__init__(input_size, hidden_size, False, device, dtype, **settings)
        _parametrize(self)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _start(self)


def _parametrize(module: RecurrentLayer | RecurrentCell) -> None:
    for place in module.places:
        orthogonal(module, place.names["weight_hh"], "matrix_exp")


def _start(module: RecurrentLayer | RecurrentCell) -> None:
    """Put the parameters to the start of the published code."""
    for place in module.places:
        name = place.names["weight_hh"]
        nn.init.kaiming_normal_(getattr(module, place.names["weight_ih"]), nonlinearity="relu")
        nn.init.uniform_(getattr(module, place.names["shift"]), -0.01, 0.01)
        turns = _turns(module.hidden_size).to(getattr(module, name))
        if is_parametrized(module, name):
            setattr(module, name, turns)
        else:
            getattr(module, name).data.copy_(turns)


def _turns(size: int) -> Tensor:
    """Return a matrix that turns planes of two axes each by random angles."""
    turns = torch.eye(size, dtype=torch.float64)
    first = torch.arange(0, size - 1, 2)
    angle = torch.empty(len(first), dtype=torch.float64).uniform_(-math.pi, math.pi)
    turns[first, first] = turns[first + 1, first + 1] = angle.cos()
    turns[first, first + 1] = angle.sin()
    turns[first + 1, first] = -angle.sin()
    return turns
