"""What a recurrent cell accumulates of its input: momentum, and the averages of Adam and RMSProp.

Nguyen, Baraniuk, Bertozzi, Osher, Wang, "MomentumRNN: integrating momentum into recurrent neural networks", NeurIPS
2020: the pre-activation W x is treated as a gradient, and the gates see what an optimiser would make of it. None of it
depends on h, so it is computed for a whole sequence at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scan import decaying_sums, linear_recurrence

Weights = Mapping[str, Tensor]
"""Parameters of a layer and direction, by torch's names without the suffix: weight_ih, weight_hh, bias_ih, …"""

Memory = tuple[Tensor, ...]


class Driven(NamedTuple):
    """What takes the place of x (T, N, ·), and of parameters; and what is remembered behind each step, (T, N, ·)."""

    input: Tensor
    weights: Weights
    memory: Memory


@dataclass(frozen=True)
class Accumulation:
    """Nothing is accumulated, and the cell sees x. Others derive from it: they hold settings, and no tensors."""

    names: ClassVar[tuple[str, ...]] = ()
    """Of what is remembered."""
    wide: ClassVar[bool] = False
    """Whether it is as wide as the gates."""

    def widths(self, inputs: int, gates: int, bias: bool) -> tuple[int, ...]:
        """Return the widths of what is remembered, for W of shape (gates, inputs), with a bias or without."""
        return ()

    def start(self, inputs: int, gates: int, bias: bool) -> dict[str, Tensor]:
        """Return the start of parameters that torch's cells do not have, by name."""
        return {}

    def __call__(self, x: Tensor, memory: Memory, w: Weights) -> Driven:
        """Return the input side for x (T, N, C) and the memory before it, (N, ·) each; empty for zero."""
        return Driven(x, w, ())


@dataclass(frozen=True)
class _Stepping(Accumulation):
    """What all have that follow: a step size s, which parameters are trained, and whether the bias is accumulated."""

    step_size: float = 1.0
    trainable: Literal["layer", "unit"] | None = None
    bias_in_momentum: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if self.trainable not in (None, "layer", "unit"):
            raise ValueError(f"trainable must be None, 'layer' or 'unit', got {self.trainable!r}")

    def start(self, inputs: int, gates: int, bias: bool) -> dict[str, Tensor]:
        if self.trainable is None:
            return {}
        shape = self.widths(inputs, gates, bias)[:1] if self.trainable == "unit" else ()
        return {name: torch.full(shape, value) for name, value in self._starts().items()}

    def _starts(self) -> dict[str, float]:
        return {"log_step_size": math.log(self.step_size)}

    def _times_step_size(self, x: Tensor, w: Weights) -> Tensor:
        if self.trainable:
            return x * w["log_step_size"].exp()
        return x if self.step_size == 1 else x * self.step_size


@dataclass(frozen=True)
class _WithMomentum(_Stepping):
    """What those have that have a μ."""

    momentum: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.trainable and self.momentum == 0:
            raise ValueError("momentum must be above 0 to be trained, where it is a sigmoid, got 0")

    def _starts(self) -> dict[str, float]:
        return super()._starts() | {"logit_momentum": math.log(self.momentum / (1 - self.momentum))}

    def _mu(self, w: Weights) -> float | Tensor:
        return w["logit_momentum"].sigmoid().view(1, 1, -1) if self.trainable else self.momentum


@dataclass(frozen=True)
class _InFront(_Stepping):
    """v_t = μ_t v_{t-1} + s W x_t as s W m_t with m_t = μ_t m_{t-1} + x_t: W is linear, and m is narrower than v."""

    def widths(self, inputs: int, gates: int, bias: bool) -> tuple[int, ...]:
        return (inputs + (bias and self.bias_in_momentum),)

    def __call__(self, x: Tensor, memory: Memory, w: Weights) -> Driven:
        weight, changed = w["weight_ih"], dict(w)
        if self.bias_in_momentum and "bias_ih" in w:  # the weight of a channel that is always one
            x, weight = F.pad(x, (0, 1), value=1.0), torch.cat((weight, w["bias_ih"].unsqueeze(1)), 1)
            changed["bias_ih"] = torch.zeros_like(w["bias_ih"])
        changed["weight_ih"] = self._times_step_size(weight, w)
        decay, others = self._decay(x, memory, w)
        m = _sums(decay, x, memory[0] if memory else None)
        return Driven(m, changed, (m, *others))

    def _decay(self, x: Tensor, memory: Memory, w: Weights) -> tuple[float | Tensor, Memory]:
        """Return μ, or μ_t (T or 1, N or 1, C or 1), and what is remembered beside m."""
        raise NotImplementedError


@dataclass(frozen=True)
class Momentum(_WithMomentum, _InFront):
    """v = μ v + s W x."""

    names: ClassVar[tuple[str, ...]] = ("m",)

    def _decay(self, x: Tensor, memory: Memory, w: Weights) -> tuple[float | Tensor, Memory]:
        return self._mu(w), ()


@dataclass(frozen=True)
class Nesterov(_InFront):
    """v = μ_t v + s W x with a scheduled restart: μ_t = k / (k + 3), k = t mod F, which is remembered beside m."""

    names: ClassVar[tuple[str, ...]] = ("m", "k")
    restart: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        check_restart(self.restart)

    def widths(self, inputs: int, gates: int, bias: bool) -> tuple[int, ...]:
        return (*super().widths(inputs, gates, bias), 1)

    def _decay(self, x: Tensor, memory: Memory, w: Weights) -> tuple[float | Tensor, Memory]:
        t = torch.arange(len(x), dtype=x.dtype, device=x.device)[:, None, None]
        k = (t + memory[1] if memory else t) % self.restart
        return k / (k + 3), (((k + 1) % self.restart).expand(-1, x.shape[1], -1),)


@dataclass(frozen=True)
class RMSProp(_Stepping):
    """q = β q + (1 - β) (W x)²; the gates see s W x / √(q + ε)."""

    names: ClassVar[tuple[str, ...]] = ("q",)
    wide: ClassVar[bool] = True
    beta: float = 0.9
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {self.beta}")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps must be positive, got {self.eps}")

    def widths(self, inputs: int, gates: int, bias: bool) -> tuple[int, ...]:
        return (gates,) * len(self.names)

    def __call__(self, x: Tensor, memory: Memory, w: Weights) -> Driven:
        changed = dict(w)
        inside = w.get("bias_ih") if self.bias_in_momentum else None
        if inside is not None:
            changed["bias_ih"] = torch.zeros_like(inside)
        a = F.linear(x, w["weight_ih"], inside)
        v = self._accumulated(self._times_step_size(a, w), memory, w)
        q = _sums(self.beta, (1 - self.beta) * a.square(), memory[-1] if memory else None)
        changed["weight_ih"] = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return Driven(v * (q + self.eps).rsqrt(), changed, (v, q)[-len(self.names) :])

    def _accumulated(self, a: Tensor, memory: Memory, w: Weights) -> Tensor:
        """Return v of a = s W x."""
        return a


@dataclass(frozen=True)
class Adam(_WithMomentum, RMSProp):
    """v = μ v + s W x and q = β q + (1 - β) (W x)²; the gates see v / √(q + ε)."""

    names: ClassVar[tuple[str, ...]] = ("v", "q")

    def _accumulated(self, a: Tensor, memory: Memory, w: Weights) -> Tensor:
        return _sums(self._mu(w), a, memory[0] if memory else None)


def check_restart(restart: int) -> None:
    """Raise unless it is a number of steps."""
    if not isinstance(restart, int) or restart < 1:
        raise ValueError(f"restart must be a number of steps, at least 1, got {restart!r}")


def _sums(decay: float | Tensor, u: Tensor, start: Tensor | None) -> Tensor:
    """Return z_t = decay_t z_{t-1} + u_t of u (T, N, C), decay (T or 1, N or 1, C or 1) and start (N, C) or None."""
    if len(u) == 1:
        return u if start is None else u + decay * start
    u = u.contiguous()  # step by step, as torch's kernels go through it
    if not isinstance(decay, Tensor):
        return decaying_sums(float(decay), u.flatten(1), None if start is None else start.flatten()).view_as(u)
    A = decay.permute(2, 1, 0)[..., None, None].expand(-1, -1, len(u), -1, -1)
    z0 = None if start is None else start.t().unsqueeze(-1)
    return linear_recurrence(A, u.permute(2, 1, 0).unsqueeze(-1), z0=z0)[0].squeeze(-1).permute(2, 1, 0)
