"""Linear oscillators, solved exactly: the linear part of a model, or a layer for sequences."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import before_softplus, check_sizes

TERMS = 18
"""Terms of the power series: where γ Δ and √κ Δ are at most one half, what is left out is some 0.81¹⁸ / 18! = 4e-18."""


class LinearOscillators(nn.Module):
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
    involving the matrix exponential", 1978). Two numbers so stand for a propagator; E - I, which they give without
    cancellation, has all its digits for samples however short, whatever the damping. Records are composed in pairs,
    pairs of pairs, and so on (Blelloch, "Prefix sums and their applications", 1990): ⌈log₂ T⌉ passes of O(T) work in
    all, without a loop over samples.

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
        super().__init__()
        check_sizes(size=size, inputs=inputs)
        if kappa is None:
            kappa = torch.logspace(math.log10(0.3), math.log10(3.0), size) ** 2
        stiffness = torch.as_tensor(kappa, dtype=torch.get_default_dtype()).expand(size)
        damping = (
            0.4 * stiffness.sqrt() if gamma is None else torch.as_tensor(gamma, dtype=stiffness.dtype).expand(size)
        )
        for name, value in (("kappa", stiffness), ("gamma", damping)):
            if not bool((value > 0).all()):
                raise ValueError(f"{name} must be positive, got {value.tolist()}")
        self.raw_gamma = nn.Parameter(before_softplus(damping))
        self.raw_kappa = nn.Parameter(before_softplus(stiffness))
        self.gain = nn.Linear(inputs, size, bias=False)

    @property
    def gamma(self) -> Tensor:
        """γ, shape (D,)."""
        return F.softplus(self.raw_gamma)

    @property
    def kappa(self) -> Tensor:
        """κ, shape (D,)."""
        return F.softplus(self.raw_kappa)

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
        own, batch = lengths.shape[:-1], u.shape[:-2]
        if lengths.ndim and (lengths.shape[-1] != u.shape[-2] - 1 or own != batch[len(batch) - len(own) :]):
            raise ValueError(
                f"dt must be a number, or have shape ({u.shape[-2] - 1},) or {(*batch, u.shape[-2] - 1)}, "
                f"got {tuple(lengths.shape)}"
            )
        if not bool(((lengths >= 0) & lengths.isfinite()).all()):
            raise ValueError("dt must be finite and not negative")
        lengths = lengths.reshape(*[1] * (len(batch) - len(own)), *own, -1, 1)
        s, p, r = self._responses(lengths)
        push = self.gain(u)
        forced = torch.stack((p, s)).to(u.dtype) * push[..., :-1, :]
        if interpolation == "linear":
            slope = torch.stack((r, p)) / torch.where(lengths > 0, lengths, 1.0)
            forced = forced + slope.to(u.dtype) * push.diff(dim=-2)
        zero = torch.zeros_like(push[..., :1, :])
        start = torch.stack([zero if x is None else zero + x.unsqueeze(-2) for x in (h0, m0)])
        steps = torch.stack((s, p)).to(u.dtype).expand(2, *s.shape[:-2], u.shape[-2] - 1, -1)
        h, m = _scan(torch.cat((start, forced), -2), F.pad(steps, (0, 0, 1, 0)), self.gamma, self.kappa)
        return h, m

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


def _composed(one: Tensor, other: Tensor, gamma: Tensor, kappa: Tensor) -> Tensor:
    """Return S and P over the sum of two times, (2, ...); propagators of one oscillator commute."""
    (s, p), (x, y) = one, other
    return torch.stack((s + x - kappa * (p * x + s * y) - gamma * s * x, p + y - kappa * p * y + s * x))


def _moved(state: Tensor, step: Tensor, gamma: Tensor, kappa: Tensor) -> Tensor:
    """Return E z of states z = (h, m), (2, ...)."""
    (h, m), (s, p) = state, step
    return torch.stack((h - kappa * p * h + s * m, m - kappa * (s * h + p * m) - gamma * s * m))


def _scan(forced: Tensor, steps: Tensor, gamma: Tensor, kappa: Tensor) -> Tensor:
    """Return z_k = E_k z_(k-1) + b_k, (2, ..., T, D), for all k on the axis before the last, from z_(-1) = 0."""
    count = forced.shape[-2]
    if count == 1:
        return forced
    whole = count // 2
    even, odd, to_even, to_odd = forced[..., ::2, :], forced[..., 1::2, :], steps[..., ::2, :], steps[..., 1::2, :]
    pairs = _moved(even[..., :whole, :], to_odd, gamma, kappa) + odd
    at_odd = _scan(pairs, _composed(to_even[..., :whole, :], to_odd, gamma, kappa), gamma, kappa)
    before = F.pad(at_odd, (0, 0, 1, 0))[..., : count - whole, :]
    at_even = _moved(before, to_even, gamma, kappa) + even
    both = torch.stack((at_even[..., :whole, :], at_odd), -2).flatten(-3, -2)
    return torch.cat((both, at_even[..., whole:, :]), -2)
