"""Recurrent layers and cells with momentum in their input side.

Nguyen, Baraniuk, Bertozzi, Osher, Wang, "MomentumRNN: integrating momentum into recurrent neural networks", NeurIPS
2020.
"""

from __future__ import annotations

from typing import Any

from .accumulation import Adam, Momentum, Nesterov, RMSProp
from .dynamics import Dynamics, joined
from .modules import RecurrentCell, RecurrentLayer
from .recurrences import GRU, LSTM, RNN


class MomentumLSTM(RecurrentLayer):
    """An LSTM with v = μ v + s W x in the place of W x: gates = U h + v + b.

    Arguments are those of `RecurrentLayer`; default: `momentum` 0.6, `step_size` 1. With momentum 0 and step size 1 it
    is `torch.nn.LSTM`. The state is (h, c, m), where v = s W m: m = μ m + x, of the width of the input.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumLSTM
    >>> layer = MomentumLSTM(3, 16, num_layers=2, batch_first=True, momentum=0.9, trainable="unit")
    >>> output, (h, c, m) = layer(torch.randn(8, 100, 3))
    >>> output.shape, h.shape, m.shape
    (torch.Size([8, 100, 16]), torch.Size([2, 8, 16]), torch.Size([2, 8, 16]))
    """

    make = joined(LSTM, Momentum)


class MomentumGRU(RecurrentLayer):
    """A GRU with v = μ v + s W x in the place of W x. As `MomentumLSTM`, with the state (h, m).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumGRU
    >>> output, state = MomentumGRU(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    make = joined(GRU, Momentum)


class MomentumRNN(RecurrentLayer):
    """h = tanh(U h + v + b) with v = μ v + s W x. As `MomentumLSTM`, with the state (h, m), and `nonlinearity`.

    `nonlinearity` is "tanh" or "relu", by keyword.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumRNN
    >>> output, state = MomentumRNN(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    @staticmethod
    def make(nonlinearity: str = "tanh", **settings: Any) -> Dynamics:
        if nonlinearity not in RNN:
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        return Dynamics(RNN[nonlinearity], Momentum(**settings))


class AdamLSTM(RecurrentLayer):
    """An LSTM with v / √(q + ε) in the place of W x: v = μ v + s W x, q = β q + (1 - β) (W x)².

    Arguments are those of `RecurrentLayer`, `beta` in [0, 1) and `eps` > 0; default: `momentum` 0.6, `step_size` 1,
    `beta` 0.9, `eps` 1e-8. The state is (h, c, v, q), the latter of the width of the gates, 4 hidden_size.

    The first steps see (1 - β)^{-1/2} times the sign of W x, for q starts from zero as in the paper. Where W x is zero
    for long, v / √q grows as (μ / √β)^t down to ε; μ² < β keeps it from that.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import AdamLSTM
    >>> output, state = AdamLSTM(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    make = joined(LSTM, Adam)


class RMSPropLSTM(RecurrentLayer):
    """An LSTM with s W x / √(q + ε) in the place of W x: `AdamLSTM` without momentum, with the state (h, c, q).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import RMSPropLSTM
    >>> output, state = RMSPropLSTM(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    make = joined(LSTM, RMSProp)


class NesterovLSTM(RecurrentLayer):
    """An LSTM with v = μ_t v + s W x in the place of W x and a scheduled restart: μ_t = k / (k + 3) with k = t mod F.

    Arguments are those of `RecurrentLayer` but for `momentum`, and `restart`, F ≥ 1; default: `step_size` 1, `restart`
    40. The state is (h, c, m, k): m = μ_t m + x as in `MomentumLSTM`, and the k of the next step. This is the paper's
    cell; that of its code is `hbode.models.recurrent.PublishedNesterovLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import NesterovLSTM
    >>> output, state = NesterovLSTM(3, 8, batch_first=True)(torch.randn(2, 5, 3))
    >>> output.shape
    torch.Size([2, 5, 8])
    """

    make = joined(LSTM, Nesterov)


class MomentumLSTMCell(RecurrentCell):
    """One step of a `MomentumLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumLSTMCell
    >>> state = MomentumLSTMCell(3, 8)(torch.randn(2, 3))
    """

    make = MomentumLSTM.make


class MomentumGRUCell(RecurrentCell):
    """One step of a `MomentumGRU`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumGRUCell
    >>> state = MomentumGRUCell(3, 8)(torch.randn(2, 3))
    """

    make = MomentumGRU.make


class MomentumRNNCell(RecurrentCell):
    """One step of a `MomentumRNN`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import MomentumRNNCell
    >>> state = MomentumRNNCell(3, 8)(torch.randn(2, 3))
    """

    make = MomentumRNN.make


class AdamLSTMCell(RecurrentCell):
    """One step of an `AdamLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import AdamLSTMCell
    >>> state = AdamLSTMCell(3, 8)(torch.randn(2, 3))
    """

    make = AdamLSTM.make


class RMSPropLSTMCell(RecurrentCell):
    """One step of an `RMSPropLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import RMSPropLSTMCell
    >>> state = RMSPropLSTMCell(3, 8)(torch.randn(2, 3))
    """

    make = RMSPropLSTM.make


class NesterovLSTMCell(RecurrentCell):
    """One step of a `NesterovLSTM`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import NesterovLSTMCell
    >>> state = NesterovLSTMCell(3, 8)(torch.randn(2, 3))
    """

    make = NesterovLSTM.make
