"""The layers of the published experiments: their settings and start, and the Nesterov cell of the code.

Nguyen, Baraniuk, Bertozzi, Osher, Wang, "MomentumRNN: integrating momentum into recurrent neural networks", NeurIPS
2020, and the code of its authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .accumulation import Accumulation, Weights, check_restart
from .dynamics import Dynamics
from .modules import RecurrentCell, RecurrentLayer
from .momentum import AdamLSTM, MomentumLSTM, RMSPropLSTM
from .orthogonal import MomentumDTRIV
from .recurrences import Looped, State

M = TypeVar("M", RecurrentLayer, RecurrentCell)


@dataclass(frozen=True)
class NesterovOfCode(Looped):
    """An LSTM with gates v + k/(k + 3) (v - v_before), where v = U h + b_hh - s (W x + b_ih) and k = t mod F."""

    step_size: float = 1.0
    restart: int = 40

    mode = "LSTM"
    gates = 4
    names = ("h", "c", "v", "k")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        check_restart(self.restart)

    def widths(self, hidden: int, projected: int) -> tuple[int, ...]:
        if projected:
            raise ValueError(f"proj_size must be 0 in this LSTM, got {projected}")
        return hidden, hidden, 4 * hidden, 1

    def advance(self, a: Tensor, state: State, w: Weights) -> State:
        h, c, before, k = state
        v = F.linear(h, w["weight_hh"], w.get("bias_hh")) - self.step_size * a
        i, f, g, o = (v + k / (k + 3) * (v - before)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c, v, (k + 1) % self.restart


def _of_code(**settings: Any) -> Dynamics:
    return Dynamics(NesterovOfCode(**settings), Accumulation())


class PublishedNesterovLSTM(RecurrentLayer):
    """The LSTM with scheduled restart of the published code, where the paper's is `NesterovLSTM`.

    v = U h + b_hh - s (W x + b_ih), and the gates see v + k/(k + 3) (v - v_before), k = t mod F: U h is within the
    momentum, so that the sequence is run step by step. Arguments are those of `torch.nn.LSTM` without `proj_size`, and
    by keyword `step_size`, s > 0, default 1, and `restart`, F ≥ 1, default 40. The state is (h, c, v, k).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import PublishedNesterovLSTM
    >>> output, state = PublishedNesterovLSTM(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    make = staticmethod(_of_code)


class PublishedNesterovLSTMCell(RecurrentCell):
    """One step of a `PublishedNesterovLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import PublishedNesterovLSTMCell
    >>> state = PublishedNesterovLSTMCell(3, 8)(torch.randn(2, 3))
    """

    make = staticmethod(_of_code)


_LSTM = {"bias_in_momentum": True}
_AVERAGE = {"bias_in_momentum": True, "eps": 1e-16}

PUBLISHED: dict[str, tuple[type[RecurrentLayer], Mapping[str, Any]]] = {
    "mnist-momentum": (MomentumLSTM, _LSTM | {"momentum": 0.6, "step_size": 0.6}),
    "mnist-adam": (AdamLSTM, _AVERAGE | {"momentum": 0.6, "step_size": 0.6, "beta": 0.1}),
    "mnist-rmsprop": (RMSPropLSTM, _AVERAGE | {"step_size": 0.6, "beta": 0.9}),
    "mnist-nesterov": (PublishedNesterovLSTM, {"step_size": 1.0, "restart": 2}),
    "permuted-mnist-momentum": (MomentumLSTM, _LSTM | {"momentum": 0.6, "step_size": 1.0}),
    "permuted-mnist-adam": (AdamLSTM, _AVERAGE | {"momentum": 0.6, "step_size": 1.0, "beta": 0.01}),
    "permuted-mnist-rmsprop": (RMSPropLSTM, _AVERAGE | {"step_size": 1.0, "beta": 0.01}),
    "permuted-mnist-nesterov": (PublishedNesterovLSTM, {"step_size": 0.9, "restart": 40}),
    "permuted-mnist-dtriv-170": (MomentumDTRIV, {"momentum": 0.6, "step_size": 0.9}),
    "permuted-mnist-dtriv": (MomentumDTRIV, {"momentum": 0.3, "step_size": 0.3}),
    "timit-momentum": (MomentumLSTM, _LSTM | {"momentum": 0.3, "step_size": 0.1}),
    "timit-adam": (AdamLSTM, _AVERAGE | {"momentum": 0.3, "step_size": 0.1, "beta": 0.999}),
    "timit-rmsprop": (RMSPropLSTM, _AVERAGE | {"step_size": 0.1, "beta": 0.999}),
    "timit-nesterov": (PublishedNesterovLSTM, {"step_size": 0.1, "restart": 2}),
    "timit-dtriv": (MomentumDTRIV, {"momentum": 0.3, "step_size": 0.1}),
}
"""Layers of the published experiments and their settings, by task and cell.

In the code b_ih is within the momentum, and ε is 1e-16. "permuted-mnist-dtriv-170" is the setting for 170 hidden units,
"permuted-mnist-dtriv" that for 360 and 512.
"""


def published_recurrent(name: str, input_size: int, hidden_size: int, **options: Any) -> RecurrentLayer:
    """Return a layer of `PUBLISHED`, with the published start of its parameters.

    Parameters
    ----------
    name
        A key of `PUBLISHED`.
    input_size, hidden_size, **options
        As for the layer; settings that are given again take the place of the published ones.

    Raises
    ------
    ValueError
        If there is no layer of that name.

    Examples
    --------
    >>> from hbode.models.recurrent import published_recurrent
    >>> published_recurrent("timit-momentum", 129, 158)
    MomentumLSTM(129, 158, bias_in_momentum=True, momentum=0.3, step_size=0.1)
    """
    if name not in PUBLISHED:
        raise ValueError(f"name must be one of {', '.join(PUBLISHED)}, got {name!r}")
    layer, settings = PUBLISHED[name]
    made = layer(input_size, hidden_size, **{**settings, **options})
    return made if isinstance(made, MomentumDTRIV) else start_as_published(made)


def start_as_published(module: M) -> M:
    """Put an LSTM's parameters to the start of the published code, in place, and return it.

    W is orthogonal, U the identity for the input gates and zero for the others, and both biases are zero but for a one
    at the forget gates: together 2, or 1 + s/(1 - μ) after a while where b_ih is within the momentum.

    Raises
    ------
    ValueError
        If it is no LSTM.

    Examples
    --------
    >>> from hbode.models.recurrent import MomentumLSTM, start_as_published
    >>> layer = start_as_published(MomentumLSTM(3, 8))
    """
    recurrence, size = module.dynamics.recurrence, module.hidden_size
    if recurrence.mode != "LSTM":
        raise ValueError(f"module must be an LSTM, got a {type(module).__name__}")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.orthogonal_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.eye_(parameter)
            elif name.startswith("bias"):
                parameter.zero_()[size : 2 * size].fill_(1.0)
    return module
