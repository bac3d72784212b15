"""The linear heavy ball as a sequence layer: h'' + γ h' + κ h = B u, solved exactly from sample to sample.

Related layers: LinOSS (Rusch, Rus, ICLR 2025), undamped, and D-LinOSS (Boyer et al., arXiv 2505.12171), damped, both
with an implicit-explicit Euler step in the place of the exact one; the start from a ring of eigenvalues is that of
Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from ..continuous.oscillators import Oscillators
from ..scan import linear_recurrence

State = tuple[Tensor, Tensor]
"""h and m behind a sample, shape (B, N) each."""


class HeavyBallLayer(Oscillators):
    """y_k = C h(t_k) + D u_k, where h'' + γ h' + κ h = B u in each of N channels and u_k is held up to t_k.

    Parameters
    ----------
    input_size, state_size
        Channels of u, and oscillators N.
    output_size
        Channels of y; default: as many as of u.
    dt
        Time between samples where none is given to `forward`. γ and κ are in units of it and its inverse.
    complex
        Let h be complex, with complex B and C and the real part read out: each oscillator moves two states.
    radius, max_phase
        At the start the eigenvalues of the steps over `dt` are e^{-γΔ/2 ± iφ}, even in area over a ring of radii and up
        to a phase. A wave of phase φ has 2π/φ samples a period, and lasts for some 1/(1 - radius) samples.

    Attributes
    ----------
    gamma, kappa
        Damping in 1/time and stiffness in 1/time², (N,), positive: softplus of parameters.
    batch_first
        True: as of `torch.nn.LSTM`.

    Raises
    ------
    ValueError
        For sizes below 1, `dt` that is not positive, radii not in 0 < r₀ ≤ r₁ < 1, a phase not in (0, π]; when called,
        for shapes that do not fit.

    Notes
    -----
    The step z⁺ = E z + G B u of z = (h, m) is exact for an input that is held, whatever the time between samples, and
    det E = e^{-γΔ}: the geometric mean of its singular values is known and never far below one, so neither states nor
    gradients vanish faster than e^{-γt/2} in the mean. `linear_recurrence` does all samples at once. The start of B
    makes h of size one for an input of white noise of size one.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import HeavyBallLayer
    >>> layer = HeavyBallLayer(input_size=3, state_size=16)
    >>> y, state = layer(torch.randn(8, 100, 3))
    >>> y.shape, layer(torch.randn(8, 1, 3), state)[0].shape
    (torch.Size([8, 100, 3]), torch.Size([8, 1, 3]))
    """

    batch_first = True

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        dt: float = 1.0,
        complex: bool = False,
        radius: tuple[float, float] = (0.9, 0.999),
        max_phase: float = math.pi,
    ) -> None:
        output_size = input_size if output_size is None else output_size
        check_at_least(input_size=input_size, state_size=state_size, output_size=output_size)
        if not (math.isfinite(dt) and dt > 0):
            raise ValueError(f"dt must be positive, got {dt}")
        if not 0 < radius[0] <= radius[1] < 1:
            raise ValueError(f"radius must be two numbers 0 < r0 <= r1 < 1, got {radius}")
        if not 0 < max_phase <= math.pi:
            raise ValueError(f"max_phase must be in (0, pi], got {max_phase}")
        modulus = torch.empty(state_size).uniform_(radius[0] ** 2, radius[1] ** 2).sqrt()
        gamma = -2 * modulus.log() / dt
        kappa = (max_phase / dt * torch.rand(state_size)).square() + gamma.square() / 4
        super().__init__(gamma, kappa)
        self.dt = dt
        r = 2 if complex else 1  # copies of each oscillator: real and imaginary part
        self.gain = nn.Parameter(torch.randn(state_size, r, input_size))
        self.read = nn.Parameter(torch.randn(output_size, state_size, r))
        self.skip = nn.Linear(input_size, output_size)
        with torch.no_grad():
            # White noise held over Δ is one of intensity Δ, in which the variance of h is Δ / (2 γ κ).
            self.gain.mul_((2 * gamma * kappa / dt / input_size).sqrt()[:, None, None])
            self.read.div_(math.sqrt(state_size * r))

    def forward(
        self, u: Tensor, state: State | None = None, *, dt: float | Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return y and the state behind the last sample.

        Parameters
        ----------
        u
            Shape (B, T, C), or (T, C) for one sequence.
        state
            h and m as returned by the call before, to go on from there. Default: rest.
        dt
            Time from the sample before to each, not negative; the first from `state`. A number, (T,), or (B, T).

        Returns
        -------
        y, (h, m)
            Shapes (B, T, output_size), (B, N) and (B, N), the latter complex in a complex layer; without B as u.
        """
        inputs, (N, r, _) = self.skip.in_features, self.gain.shape
        if u.ndim not in (2, 3) or u.shape[-1] != inputs or not u.shape[-2]:
            raise ValueError(f"u must have shape (B, T, {inputs}) or (T, {inputs}), got {tuple(u.shape)}")
        *batch, T, _ = u.shape
        B = math.prod(batch)
        E, G = self.propagator(self._lengths(u, dt))
        flat = u.reshape(B * T, inputs)
        force = (self.gain.flatten(0, 1) @ flat.mT).view(N, r * B, T, 1)
        only_h = E.new_tensor([[[1.0, 0.0]]]).expand(N, 1, 2)
        h, z = linear_recurrence(E, force, B=G, C=only_h, z0=None if state is None else self._packed(state, batch))
        y = torch.addmm(self.skip(flat), h.reshape(N * r, B * T).mT, self.read.flatten(1).mT)
        return y.view(*batch, T, -1), self._unpacked(z, batch)

    def gradient_bound(self, samples: Tensor) -> Tensor:
        """Return what the root mean square of ‖∂L/∂z_t‖ over unit vectors ∂L/∂z_T is at least, for T - t samples (...).

        It is that of e^{-γ(T-t)Δ/2} over the oscillators: two singular values of product e^{-γ(T-t)Δ} have a
        mean square that is no smaller.
        """
        decay = self.gamma.detach().double() * self.dt
        return (-decay * samples.to(decay).unsqueeze(-1)).exp().mean(-1).sqrt()

    def _lengths(self, u: Tensor, dt: float | Tensor | None) -> Tensor:
        """Return the times between samples, float64: (), (1, T), or (r B, T)."""
        lengths = torch.as_tensor(self.dt if dt is None else dt, dtype=torch.float64, device=u.device)
        if lengths.ndim and lengths.shape not in (u.shape[-2:-1], u.shape[:-1]):
            raise ValueError(f"dt must be a number, or have shape {tuple(u.shape[:-1])}, got {tuple(lengths.shape)}")
        if not bool(((lengths >= 0) & lengths.isfinite()).all()):
            raise ValueError("dt must be finite and not negative")
        if not lengths.ndim:
            return lengths
        return lengths.unsqueeze(0) if lengths.ndim == 1 else lengths.repeat(self.gain.shape[1], 1)

    def _packed(self, state: State, batch: list[int]) -> Tensor:
        """Return z (N, r B, 2) of h and m (B, N)."""
        shape, is_complex = (*batch, len(self.gain)), self.gain.shape[1] == 2
        if len(state) != 2 or any(x.shape != shape or x.is_complex() != is_complex for x in state):
            got = [(tuple(x.shape), x.dtype) for x in state]
            kind = "complex" if is_complex else "real"
            raise ValueError(f"state must be h and m of shape {shape}, {kind}, got {got}")
        z = torch.stack([torch.view_as_real(x) if is_complex else x.unsqueeze(-1) for x in state], -1)  # (B, N, r, 2)
        return z.reshape(-1, *z.shape[-3:]).permute(1, 2, 0, 3).flatten(1, 2)

    def _unpacked(self, z: Tensor, batch: list[int]) -> State:
        """Return h and m (B, N) of z (N, r B, 2)."""
        N, r, _ = self.gain.shape
        parts = z.view(N, r, -1, 2).permute(3, 2, 0, 1).reshape(2, *batch, N, r)
        h, m = torch.view_as_complex(parts.contiguous()) if r == 2 else parts.squeeze(-1)
        return h, m

    def extra_repr(self) -> str:
        N, r, inputs = self.gain.shape
        return f"{inputs}, {N}, {len(self.read)}, dt={self.dt}" + (", complex=True" if r == 2 else "")
