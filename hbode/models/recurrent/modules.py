"""Recurrent dynamics as modules with torch's interfaces: a layer over sequences, and a cell for single steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .accumulation import Weights
from .dynamics import Dynamics
from .recurrences import TORCH_NAMES, State


class Place(NamedTuple):
    """A layer and direction, or a cell: what its parameters' names end in, its inputs, and the widths of its state."""

    suffix: str
    inputs: int
    widths: tuple[int, ...]
    names: Mapping[str, str]
    """Full names of the parameters, by their names without suffix."""


class RecurrentLayer(nn.RNNBase):
    """Layers of recurrent cells, in one direction or both, with the interface of `torch.nn.LSTM`.

    Subclasses say what the cells compute, and with which settings beside those that are here.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As for `torch.nn.LSTM`; `proj_size` in LSTMs only. Parameters have torch's names, shapes and start.
    momentum, step_size
        μ in [0, 1) and s > 0.
    trainable
        None: μ and s are fixed, and the `state_dict` is that of torch's layer. "layer": each layer and direction trains
        one μ and one s, from these values on. "unit": one for each channel of what is accumulated, which are the inputs
        of the layer in Momentum and Nesterov, and the gates in Adam and RMSProp. The parameters are logit μ and log s,
        ``logit_momentum_l0`` and ``log_step_size_l0``.
    bias_in_momentum
        Whether W x + b_ih is accumulated, as in the published code, in the place of W x.

    Raises
    ------
    ValueError, TypeError
        For arguments that are not as above; when called, for shapes and dtypes that do not fit.

    Notes
    -----
    What is accumulated does not depend on h. It is computed for the whole sequence at once, in each direction from its
    own start, and one of torch's fused kernels does the recurrence.

    Examples
    --------
    >>> from hbode.models.recurrent import MomentumGRU, RecurrentLayer
    >>> issubclass(MomentumGRU, RecurrentLayer)
    True
    """

    make: ClassVar[Callable[..., Dynamics]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **settings: Any,
    ) -> None:
        self.dynamics, self.settings = type(self).make(**settings), settings
        mode, sizes = self.dynamics.recurrence.mode, (input_size, hidden_size, num_layers)
        if proj_size and mode != "LSTM":
            raise ValueError(f"proj_size must be 0 in a {type(self).__name__}, got {proj_size}")
        super().__init__(mode, *sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | Sequence[Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Return the outputs, and the state behind the sequence.

        Parameters
        ----------
        input
            Shape (T, N, input_size), (N, T, input_size) if `batch_first`, or (T, input_size); or a packed sequence.
        hx
            A state as returned, to go on from: a sequence in parts is then as one in a piece. Or the state of torch's
            layer, h or (h, c), before which nothing was accumulated. Default: zero.

        Returns
        -------
        output
            As from torch's layer.
        state
            h, c in LSTMs, and what is accumulated, each of shape (num_layers * directions, N, width), without N as the
            input. The width is that of the widest layer, and a layer with fewer channels has zeros behind them.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        alone = input.ndim == 2
        _check_input(input, (2, 3), self.input_size, self.get_parameter("weight_ih_l0"))
        x = input.unsqueeze(1) if alone else input.transpose(0, 1) if self.batch_first else input
        state = self._start(hx, () if alone else x.shape[1:2])
        if alone:
            state = tuple(s.unsqueeze(1) for s in state)
        out, end = self._run(x, state, None)
        if alone:
            return out.squeeze(1), tuple(s.squeeze(1) for s in end)
        return out.transpose(0, 1) if self.batch_first else out, end

    def _packed(self, input: PackedSequence, hx: Tensor | Sequence[Tensor] | None) -> tuple[PackedSequence, State]:
        _check_input(input.data, (2,), self.input_size, self.get_parameter("weight_ih_l0"))
        x, lengths = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
        state = _permuted(self._start(hx, x.shape[1:2]), input.sorted_indices)
        out, end = self._run(x, state, lengths)
        data = pack_padded_sequence(out, lengths).data
        return input._replace(data=data), _permuted(end, input.unsorted_indices)

    def _run(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Return the outputs and the states of all layers for sequences x (T, N, C), of falling lengths if given."""
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outs = []
            for reverse in range(2 if self.bidirectional else 1):
                k, place = len(ends), self.places[len(ends)]
                start = tuple(s[k, :, :width] for s, width in zip(state, place.widths, strict=False))
                y = _reversed(x, lengths) if reverse else x
                out, end = self.dynamics.sequence(y, start, _weights(self, place), lengths, self.training)
                outs.append(_reversed(out, lengths) if reverse else out)
                ends.append(end)
            x = torch.cat(outs, -1) if self.bidirectional else outs[0]
        return x, tuple(_stacked(each) for each in zip(*ends, strict=True))

    def _start(self, hx: Tensor | Sequence[Tensor] | None, batch: Sequence[int]) -> State:
        widths = [max(each) for each in zip(*(place.widths for place in self.places), strict=True)]
        return self.dynamics.checked(hx, (len(self.places), *batch), widths)

    @cached_property
    def places(self) -> list[Place]:
        """The layers and directions, in torch's order."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        fed_back = (self.proj_size or self.hidden_size) * len(ends)
        inputs = [self.input_size, *[fed_back] * (self.num_layers - 1)]
        return [_place(self, f"_l{k}{end}", inputs[k], self.proj_size) for k in range(self.num_layers) for end in ends]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _reset_own(self)

    def flatten_parameters(self) -> None:
        """Do nothing: a call of a kernel gets the weights of one layer and direction, in one piece on a GPU."""

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown(self.settings)


class RecurrentCell(nn.RNNCellBase):
    """A recurrent cell, with the interface of `torch.nn.LSTMCell`.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As for `torch.nn.LSTMCell`.
    **settings
        Those of the layer of the same name, and what is raised is the same.

    Examples
    --------
    >>> from hbode.models.recurrent import MomentumGRUCell, RecurrentCell
    >>> issubclass(MomentumGRUCell, RecurrentCell)
    True
    """

    make: ClassVar[Callable[..., Dynamics]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **settings: Any,
    ) -> None:
        self.dynamics, self.settings = type(self).make(**settings), settings
        gates = self.dynamics.recurrence.gates
        super().__init__(input_size, hidden_size, bias, gates, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | Sequence[Tensor] | None = None) -> State:
        """Return the state after one input.

        Parameters
        ----------
        input
            Shape (N, input_size) or (input_size,).
        hx
            The state before, as returned, or that of torch's cell, h or (h, c), before which nothing was accumulated.
            Default: zero.

        Returns
        -------
        state
            h, c in LSTMs, and what is accumulated, (N, width) or (width,) each.
        """
        _check_input(input, (1, 2), self.input_size, self.weight_ih)
        (place,) = self.places
        state, w = self.dynamics.checked(hx, tuple(input.shape[:-1]), place.widths), _weights(self, place)
        if input.ndim == 2:
            return self.dynamics.step(input, state, w)
        after = self.dynamics.step(input.unsqueeze(0), tuple(s.unsqueeze(0) for s in state), w)
        return tuple(s.squeeze(0) for s in after)

    @cached_property
    def places(self) -> list[Place]:
        """The one place that parameters are for."""
        return [_place(self, "", self.input_size, 0)]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _reset_own(self)

    def extra_repr(self) -> str:
        return super().extra_repr() + _shown(self.settings)


def _place(module: RecurrentLayer | RecurrentCell, suffix: str, inputs: int, projected: int) -> Place:
    own = module.dynamics.own_names
    names = [*TORCH_NAMES[: 4 if module.bias else 2], *TORCH_NAMES[4 : 5 if projected else 4], *own]
    widths = module.dynamics.widths(inputs, module.hidden_size, module.bias, projected)
    return Place(suffix, inputs, widths, {name: name + suffix for name in names})


def _weights(module: RecurrentLayer | RecurrentCell, place: Place) -> Weights:
    """Return the parameters of a place, by name without suffix."""
    return {name: getattr(module, full) for name, full in place.names.items()}


def _reset_own(module: RecurrentLayer | RecurrentCell) -> None:
    """Put the parameters that torch's modules do not have to their start, or add them."""
    for place in module.places:
        like = getattr(module, place.names["weight_ih"])
        for name, start in module.dynamics.start(place.inputs, module.hidden_size, module.bias).items():
            if hasattr(module, place.names[name]):
                getattr(module, place.names[name]).data.copy_(start)
            else:
                module.register_parameter(place.names[name], nn.Parameter(start.to(like)))


def _check_input(x: Tensor, axes: Sequence[int], inputs: int, weight: Tensor) -> None:
    if x.ndim not in axes or x.shape[-1] != inputs or not all(x.shape[:-1]):
        shapes = " or ".join("(" + "N, T, "[9 - 3 * n :] + f"{inputs})" for n in axes)
        raise ValueError(f"input must have shape {shapes}, with no axis of length 0, got {tuple(x.shape)}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"input must have the dtype of the weights, {weight.dtype}, got {x.dtype}")


def _permuted(state: State, order: Tensor | None) -> State:
    return state if order is None else tuple(s.index_select(1, order) for s in state)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return sequences (T, N, C) from their last step to their first; behind their ends they stay."""
    if lengths is None:
        return x.flip(0)
    t, ends = torch.arange(len(x), device=x.device).unsqueeze(1), lengths.to(x.device)
    return x.take_along_dim(torch.where(t < ends, ends - 1 - t, t).unsqueeze(-1), 0)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors (N, width) on a new first axis, with zeros where one is narrower than the widest."""
    width = max(part.shape[-1] for part in parts)
    return torch.stack([F.pad(part, (0, width - part.shape[-1])) if part.shape[-1] < width else part for part in parts])


def _shown(settings: dict[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in settings.items())
