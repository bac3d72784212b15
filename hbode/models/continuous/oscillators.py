"""Linear oscillators, solved exactly: the linear part of a model, or a layer for sequences."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from ..scan import linear_recurrence
from .networks import before_softplus

TERMS = 18
"""Terms of the power series: where γ Δ and √κ Δ are at most one half, what is left out is some 0.81¹⁸ / 18! = 4e-18."""


class Oscillators(nn.Module):
    """γ and κ of D channels h'' + γ h' + κ h = u, trainable, and the exact solution over a time.

    Parameters
    ----------
    gamma, kappa
        Damping in 1/time and stiffness in 1/time² at the start, shape (D,), positive; softplus of a parameter each.

    Raises
    ------
    ValueError
        If one is not positive.
    """

    def __init__(self, gamma: Tensor, kappa: Tensor) -> None:
        super().__init__()
        for name, value in (("kappa", kappa), ("gamma", gamma)):
            if not bool((value > 0).all()):
                raise ValueError(f"{name} must be positive, got {value.tolist()}")
        self.raw_gamma = nn.Parameter(before_softplus(gamma))
        self.raw_kappa = nn.Parameter(before_softplus(kappa))

    @property
    def gamma(self) -> Tensor:
        """γ, shape (D,)."""
        return F.softplus(self.raw_gamma)

    @property
    def kappa(self) -> Tensor:
        """κ, shape (D,)."""
        return F.softplus(self.raw_kappa)

    def propagator(self, dt: Tensor, ramp: bool = False) -> tuple[Tensor, Tensor]:
        """Return E and G of z⁺ = E z + G u for z = (h, m) over times dt (...), float64: (D, ..., 2, 2), (D, ..., 2, 1).

        The input is held; with `ramp` G is (D, ..., 2, 2), of the input at the start and of its rise over the time.
        """
        gamma, kappa = (x.double().view(-1, *[1] * dt.ndim) for x in (self.gamma, self.kappa))
        s, p, r = (x.movedim(-1, 0) for x in self._responses(dt.unsqueeze(-1)))
        stays = 1 - kappa * p
        E = torch.stack((stays, s, -kappa * s, stays - gamma * s), -1).unflatten(-1, (2, 2))
        gains = [torch.stack((p, s), -1)]
        if ramp:
            gains.append(torch.stack((r, p), -1) / torch.where(dt > 0, dt, 1.0).unsqueeze(-1))
        return E, torch.stack(gains, -1)

    def _responses(self, dt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return S, P and R over times dt (..., 1) in float64: by their power series over a part of the time, then
        doubling the time. That loses no digits where closed forms do, near γ² = 4 κ and for short times.
        """
        gamma, kappa = self.gamma.double(), self.kappa.double()
        scale = float((torch.maximum(gamma.max(), kappa.max().sqrt()) * dt.max()).detach()) if dt.numel() else 0.0
        doublings = max(0, math.ceil(math.log2(2 * scale))) if scale > 0 else 0
        dt = dt / 2.0**doublings
        damped, stiff = gamma * dt, kappa * dt * dt
        term, following = torch.ones_like(stiff), -damped  # Δ^k times the derivatives of S at 0, of order k + 1
        s, p, r = dt * term, dt**2 / 2 * term, dt**3 / 6 * term
        for k in range(2, TERMS):
            weight = following * dt / math.factorial(k)
            s, p, r = s + weight, p + weight * dt / (k + 1), r + weight * dt * dt / ((k + 1) * (k + 2))
            term, following = following, -damped * following - stiff * term
        for _ in range(doublings):
            r = 2 * r + dt * p - kappa * p * r + s * p
            s, p = _composed(torch.stack((s, p)), torch.stack((s, p)), gamma, kappa)
            dt = 2 * dt
        return s, p, r


class LinearOscillators(Oscillators):
    """h'' + γ h' + κ h = (B u)(t) in each channel, over a whole record at once, by the exact solution.

    Parameters
    ----------
    size, inputs
        Channels D of h and C of u.
    gamma, kappa
        Damping in 1/time and stiffness in 1/time² at the start, positive: numbers, or shape (D,). Trainable as
        softplus of a parameter. By default, angular frequencies √κ from 0.3 to 3, evenly on a log scale, at damping
        ratios γ / (2 √κ) of 0.2.

    Raises
    ------
    ValueError
        For sizes below 1, γ or κ that are not positive; when called, for shapes that do not fit.

    Notes
    -----
    The propagator over a time Δ is E(Δ) = I + [[-κ P, S], [-κ S, -κ P - γ S]], where S(Δ) is the response of h to an
    impulse, P = ∫S that to a step and R = ∫P that to a ramp: with an input held over a sample, z⁺ = E z + (P, S) B u,
    and (R, P) times the slope of B u comes to it where the input is a straight line (Van Loan, "Computing integrals
    involving the matrix exponential", 1978). All three are made in float64 and without cancellation, whatever the
    damping, and `linear_recurrence` runs through the record without a loop over samples.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import LinearOscillators
    >>> layer = LinearOscillators(8, inputs=1)
    >>> layer(torch.randn(4, 1000, 1), dt=0.1).shape
    torch.Size([4, 1000, 8])
    """

    def __init__(
        self,
        size: int,
        inputs: int,
        gamma: float | Tensor | None = None,
        kappa: float | Tensor | None = None,
    ) -> None:
        check_at_least(size=size, inputs=inputs)
        if kappa is None:
            kappa = torch.logspace(math.log10(0.3), math.log10(3.0), size) ** 2
        stiffness = torch.as_tensor(kappa, dtype=torch.get_default_dtype()).expand(size)
        damping = (
            0.4 * stiffness.sqrt() if gamma is None else torch.as_tensor(gamma, dtype=stiffness.dtype).expand(size)
        )
        super().__init__(damping, stiffness)
        self.gain = nn.Linear(inputs, size, bias=False)

    def forward(self, u: Tensor, dt: float | Tensor, *, interpolation: str = "hold") -> Tensor:
        """Return the positions (..., T, D) that follow from rest; arguments as for `simulate`."""
        return self.simulate(u, dt, interpolation=interpolation)[0]

    def simulate(
        self,
        u: Tensor,
        dt: float | Tensor,
        *,
        h0: Tensor | None = None,
        m0: Tensor | None = None,
        interpolation: str = "hold",
    ) -> tuple[Tensor, Tensor]:
        """Return h and m at the times of the samples, (..., T, D) each.

        Parameters
        ----------
        u
            Samples of the input, (..., T, C).
        dt
            Time from each sample to the next, not negative: a number, or (T - 1,), or (..., T - 1).
        h0, m0
            State at the first sample, (..., D) or (D,). Default: zero.
        interpolation
            "hold": u keeps the value of a sample until the next one (`hbode.HoldInput`); the last has no effect then.
            "linear": u is a straight line between samples (`hbode.LinearInput`).
        """
        if interpolation not in ("hold", "linear"):
            raise ValueError(f"interpolation must be 'hold' or 'linear', got {interpolation!r}")
        if u.ndim < 2 or u.shape[-1] != self.gain.in_features or not u.shape[-2]:
            raise ValueError(f"u must have shape (..., T, {self.gain.in_features}), got {tuple(u.shape)}")
        lengths = torch.as_tensor(dt, dtype=torch.float64, device=u.device)
        batch, T = u.shape[:-2], u.shape[-2]
        own = lengths.shape[:-1]
        if lengths.ndim and (lengths.shape[-1] != T - 1 or own != batch[len(batch) - len(own) :]):
            raise ValueError(
                f"dt must be a number, or have shape ({T - 1},) or {(*batch, T - 1)}, got {tuple(lengths.shape)}"
            )
        if not bool(((lengths >= 0) & lengths.isfinite()).all()):
            raise ValueError("dt must be finite and not negative")
        if lengths.ndim:
            lengths = lengths.expand(*(batch if own else [1]), T - 1).reshape(math.prod(batch) if own else 1, T - 1)
        push = (self.gain.weight @ u.reshape(-1, u.shape[-1]).mT).view(self.gain.out_features, -1, T)
        zero = push.new_zeros(*batch, len(push))
        start = torch.stack([zero if x is None else zero + x for x in (h0, m0)], -1)
        start = start.view(-1, len(push), 2).movedim(1, 0)
        z = start.unsqueeze(2)
        if T > 1:
            ramp = interpolation == "linear"
            E, G = self.propagator(lengths, ramp)
            force = push[:, :, :-1]
            forces = torch.stack((force, push.diff()) if ramp else (force,), -1)
            z = torch.cat((z, linear_recurrence(E, forces, B=G, z0=start)[0]), 2)
        h, m = z.permute(3, 1, 2, 0)
        return h.reshape(*batch, T, -1), m.reshape(*batch, T, -1)


def _composed(one: Tensor, other: Tensor, gamma: Tensor, kappa: Tensor) -> Tensor:
    """Return S and P over the sum of two times, (2, ...); propagators of one oscillator commute."""
    (s, p), (x, y) = one, other
    return torch.stack((s + x - kappa * (p * x + s * y) - gamma * s * x, p + y - kappa * p * y + s * x))
