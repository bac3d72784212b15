"""BAOAB: the splitting of the Langevin equation that takes damping and noise together exactly."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..field import Field, damped_slope
from ..method import Carry, Invertible
from .brownian import BrownianPath
from .weights import OrnsteinUhlenbeck


class Ends(NamedTuple):
    """The states at both ends of a step."""

    y0: Tensor
    y1: Tensor


class Baoab(Invertible):
    """Steps of dh = σ_h(m) dt, dm = (f - γ m - ξ h) dt + σ(t, h) dW along a Brownian path.

    Half a kick by f - ξ h, half a drift, damping and noise exactly, half a drift, half a kick (Leimkuhler, Matthews,
    Appl. Math. Res. Express, 2013). Weak order 2, also for σ(t, h), which is constant while damping and noise act, and
    for γ(t), of which the value in the middle counts; strong order 1. A step costs one evaluation of f, and can be
    taken back. The carry is (y, f(t, h)) with y = (h, m) stacked.

    Parameters
    ----------
    path
        The Brownian path.
    nodes
        The times between steps, increasing, shape (N,), or (B, N) for samples with times of their own.
    """

    damped = True
    numbers = True
    order = 2

    def __init__(self, path: BrownianPath, nodes: Tensor) -> None:
        middles = 0.5 * (nodes[..., :-1] + nodes[..., 1:])
        self.path, self.middles = path, middles.tolist() if middles.ndim == 1 else middles

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y[0])

    def step(self, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, Ends]:
        y, force = carry
        h, m = y.unbind()
        half, xi, exact = self._weights(field, t, dt, h)
        m = _kicked(half, xi, h, m, force)
        h = _drifted(field, half, h, m)
        m = torch.addcmul(self._noise(field, t, dt, h, exact), m, exact.decay)
        h = _drifted(field, half, h, m)
        force = field(t + dt, h)
        m = _kicked(half, xi, h, m, force)
        carry1 = torch.stack((h, m)), force
        return carry1, Ends(y, carry1[0])

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        y, force = carry
        h, m = y.unbind()
        half, xi, exact = self._weights(field, t, dt, h)
        m = _kicked(-half, xi, h, m, force)
        h = _drifted(field, -half, h, m)
        m = (m - self._noise(field, t, dt, h, exact)) / exact.decay
        h = _drifted(field, -half, h, m)
        force = field(t, h)
        m = _kicked(-half, xi, h, m, force)
        return torch.stack((h, m)), force

    def slope(self, field: Field, carry: Carry) -> Tensor:
        """Return the drift, shape (2, *h)."""
        return damped_slope(field, carry)

    def interpolate(self, stages: Ends, theta: Tensor) -> Tensor:
        """Return the states on the line between the ends, which is where they are asked for."""
        y0, y1 = stages
        theta = theta.reshape(-1, *[1] * y0.ndim) if theta.ndim == 1 else theta.unsqueeze(1)
        return torch.lerp(y0, y1, theta.to(y0.dtype))

    def _weights(self, field: Field, t: Any, dt: Any, h: Tensor) -> tuple[Any, Tensor | None, OrnsteinUhlenbeck]:
        """Return half the length of a step, ξ, and the weights of damping and noise over it."""
        middle = (
            field.damping_at(torch.as_tensor(t + 0.5 * dt, dtype=torch.float64)) if field.varying else field.damping
        )
        if isinstance(dt, Tensor) or field.varying:
            half = 0.5 * (dt.to(h.dtype) if isinstance(dt, Tensor) else dt)
            return half, middle.xi_h, OrnsteinUhlenbeck.over(middle.gamma, dt, h.dtype)
        mantissa, exponent = math.frexp(dt)
        length = math.ldexp(round(math.ldexp(mantissa, 40)), exponent - 40)  # equal but for the rounding of the time
        made = field.prepared((type(self), length), lambda: OrnsteinUhlenbeck.over(middle.gamma, length, h.dtype))
        return 0.5 * dt, middle.xi_h, made

    def _noise(self, field: Field, t: Any, dt: Any, h: Tensor, exact: OrnsteinUhlenbeck) -> Tensor:
        """Return what the noise adds to the momentum over a step, at a position in the middle."""
        w, n = self._normals(t, dt, h).unbind()
        return field.noise_at(t + 0.5 * dt, h) * torch.addcmul(exact.of_increment * w, exact.of_area, n)

    def _normals(self, t: Any, dt: Any, h: Tensor) -> Tensor:
        """Return those of the steps that start at t, whatever its rounding, shape (2, *h)."""
        if not isinstance(self.middles, Tensor):
            return self.path.pair(bisect_left(self.middles, float(t.detach()) if isinstance(t, Tensor) else t))
        number = (self.middles < t.detach().reshape(-1, 1)).sum(1)
        moves = (dt.detach() != 0).reshape(-1)
        first, *others = sorted(set(number[moves].tolist()))
        normals = self.path.pair(first)
        for k in others:  # samples that repeat a time are ahead
            normals = torch.where((number == k).view(-1, *[1] * (h.ndim - 1)), self.path.pair(k), normals)
        return normals


def _kicked(s: Any, xi: Tensor | None, h: Tensor, m: Tensor, force: Tensor) -> Tensor:
    return torch.add(m, s * (force if xi is None else force - xi * h))


def _drifted(field: Field, s: Any, h: Tensor, m: Tensor) -> Tensor:
    return torch.add(h, s * (m if field.sigma is None else field.sigma(m)))
