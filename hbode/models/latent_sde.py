"""The latent stochastic heavy ball: a latent state that noise moves, and a posterior of that noise.

Source: Li, Wong, Chen, Duvenaud, "Scalable gradients for stochastic differential equations", AISTATS 2020, on the
momentum equation, where the noise of a heavy ball acts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..stochastic import divided, sdeint, step_counts
from ..systems import System
from .continuous.networks import dense_network
from .latent_ode import Decoded, LatentODE, Reading
from .recognition import GRURecognition
from .solver import SolverSettings

Context = tuple[Tensor, Tensor, Tensor]
"""Times of the observations of samples (B, K), in order, infinite behind the last one; contexts there (B, K, E); the
times of their last observations (B, 1)."""


class _GRUContexts(GRURecognition):
    """A `GRURecognition` that also says, at each observation, what is to come from there on."""

    def __init__(self, channels: int, hidden: int, outputs: int, contexts: int) -> None:
        super().__init__(channels, hidden, outputs)
        self.tell = nn.Linear(hidden + 2 * channels + 1, contexts)

    def contexts(self, read: Reading) -> Context:
        """Return the contexts of samples."""
        present = read.observed.any(-1)
        given = self.packed(read.t, read.x, read.observed, read.start)
        unpacked = partial(nn.utils.rnn.pad_packed_sequence, batch_first=True, total_length=present.shape[1])
        (states, lengths), (rows, _) = unpacked(self.gru(given)[0]), unpacked(given)
        place = torch.arange(present.shape[1], device=present.device)
        back = (lengths.to(place).unsqueeze(-1) - 1 - place).clamp(min=0)  # the GRU reads the last observation first
        told = self.tell(torch.cat((states, rows), -1)).gather(
            1, back.unsqueeze(-1).expand(-1, -1, self.tell.out_features)
        )
        times = torch.where(present, read.t, math.inf).sort(-1).values.to(read.x)
        last = torch.where(present, read.t, -math.inf).amax(-1, keepdim=True).to(read.x)
        return times, told, torch.maximum(last, read.start.to(read.x))


class _Control(nn.Module):
    """u of positions and contexts: linear, as where the law is, and a network that corrects it; 0 at the start."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.network = dense_network([inputs, hidden, hidden, outputs], nn.Tanh)
        # the posterior of the noise starts from its prior
        for parameter in (*self.linear.parameters(), *self.network[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """Return u, (..., outputs)."""
        out: Tensor = self.linear(z) + self.network(z)
        return out


class _Controlled(System):
    """A heavy ball that its posterior steers: m' = f - (γ + κ) m - ξ h + σ u(t, h)."""

    damped = True

    def __init__(self, system: System, control: nn.Module, strength: Tensor, friction: Tensor) -> None:
        super().__init__(self._steered)
        self.system, self.control, self.activation = system, control, system.activation
        self.strength, self.friction = strength, friction

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        gamma, xi = self.system.coefficients(t)
        return self.friction if gamma is None else gamma + self.friction, xi

    def _steered(self, t: Tensor, h: Tensor, *context: Tensor) -> Tensor:
        u: Tensor = self.control(torch.cat((h, _between(t, *context)), -1))
        return self.system.force(t, h) + self.strength * u


def _between(t: Tensor, times: Tensor, told: Tensor) -> Tensor:
    """Return the contexts at times () or (B, 1), on lines between observations, constant outside, (B, E)."""
    ahead = (times < t).sum(-1, keepdim=True).clamp(max=times.shape[1] - 1)
    before = (ahead - 1).clamp(min=0)
    t0, t1 = times.gather(1, before), times.gather(1, ahead)
    inside = (t1 > t0) & t1.isfinite()
    share = torch.where(inside, (t - t0) / torch.where(inside, t1 - t0, 1.0), 0.0)
    first, second = (told.gather(1, i.unsqueeze(-1).expand(-1, -1, told.shape[-1])).squeeze(1) for i in (before, ahead))
    return torch.lerp(first, second, share)


class LatentSDE(LatentODE):
    """A generative model of irregular series: z₀ ~ N(0, 1), z moves by a heavy ball with noise, x = decoder(h) + noise.

    Where a `LatentODE` is as sure of the far future as of its initial state, here the process itself is uncertain, and
    forecasts spread with the lead: draws of `predict` are bands that come from process noise. The posterior adds
    σ u(t, h, context) - κ m to the force of the prior up to the last observation of a sample: a network with a context
    that a GRU reads off the observations ahead, and a friction κ of each channel, which lets it follow a path without
    swinging about it. The divergence of the paths is the mean of ∫ |u - κ m / σ|² / 2 dt (Girsanov), by the
    trapezoidal rule over the steps, which is added to that of z₀ in the bound.

    Parameters
    ----------
    system
        The latent dynamics on `size` channels: a `HeavyBall` or `GeneralizedHeavyBall` with constant γ and ξ, shape ()
        or (size,), or their names in `SYSTEMS`.
    size, channels, hidden, decoder, noise, start
        As for `LatentODE`, whose `stats` it has; the control u has `hidden` units too.
    diffusion
        σ at the start, trained for each channel, in units of h / time^(3/2).
    step_size
        Longest step of the solve, in units of t. Default: one step from one time to the next, observed or asked for.
    contexts
        Numbers E of the context.

    Raises
    ------
    ValueError
        If the system is no heavy ball with constant coefficients, or noise or diffusion are not positive.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import LatentSDE
    >>> model = LatentSDE("hbnode", size=4, channels=2)
    >>> t, x = torch.rand(8, 20).cumsum(1), torch.randn(8, 20, 2)
    >>> model.elbo(t, x).loss.backward()
    >>> model.predict(t, x, t[:, -1:] + torch.arange(5.0), samples=10).shape
    torch.Size([10, 8, 5, 2])
    """

    recognition: _GRUContexts

    def __init__(
        self,
        system: System | str,
        size: int,
        channels: int,
        *,
        hidden: int = 32,
        diffusion: float = 0.3,
        step_size: float | None = None,
        contexts: int = 8,
        decoder: nn.Module | None = None,
        noise: float = 0.3,
        start: float | None = None,
    ) -> None:
        if not diffusion > 0:
            raise ValueError(f"diffusion must be positive, got {diffusion}")
        reader = _GRUContexts(channels, hidden, 4 * size, contexts)
        settings = SolverSettings(method="baoab")
        given = {"recognition": reader, "decoder": decoder, "noise": noise, "start": start, "solver": settings}
        super().__init__(system, size, channels, hidden=hidden, **given)  # type: ignore[arg-type]
        if not self.system.damped or self.system.varying != (None, None):
            raise ValueError(f"system must be a heavy ball with constant γ and ξ, got {type(self.system).__name__}")
        self.step_size = step_size
        self.log_diffusion = nn.Parameter(torch.full((size,), math.log(diffusion)))
        self.control = _Control(size + contexts, hidden, size)
        self.friction = nn.Parameter(torch.zeros(size))

    def _decoded(self, z: Tensor, read: Reading, t: Tensor, noisy: bool = True) -> Decoded:
        count = len(z)
        *context, last = (x.repeat(count, *[1] * (x.ndim - 1)) for x in self.recognition.contexts(read))
        start, t = read.start.repeat(count, 1), t.repeat(count, 1)
        h0, m0 = z.flatten(0, 1).chunk(2, -1)
        strength = self.log_diffusion.exp()
        noise = strength if noisy else 0.0
        solve = partial(sdeint, step_size=self.step_size, gradient="backprop")
        # the posterior steps from one observation to the next, whatever is asked for
        seen = torch.minimum(context[0].to(t), last.to(t))
        times, order = torch.cat((start.to(t), seen, torch.minimum(t, last.to(t))), -1).sort(stable=True)
        steps = _shared(times)
        controlled = _Controlled(self.system, self.control, strength, self.friction)
        nodes, places = divided(steps, step_counts(steps, self.step_size))
        nodes = _shared(nodes)
        solution = solve(controlled, noise, h0, nodes, m0=m0, args=tuple(context))
        self.stats = solution.stats
        h, m = (torch.as_tensor(state) for state in solution)
        kl = self._divergence(nodes, h, m, context).unflatten(0, z.shape[:2]).mean(0)
        back = order.argsort()[:, -t.shape[1] :].T.unsqueeze(-1).expand(-1, -1, self.size)
        reached = h[places].gather(0, back)
        if bool((t > last).any()):
            ahead = _shared(torch.cat((last.to(t), torch.maximum(t, last.to(t))), -1))
            free = solve(self.system, noise, h[-1], ahead, m0=m[-1])
            reached = torch.where((t > last).T.unsqueeze(-1), torch.as_tensor(free.h)[1:], reached)
        return Decoded(self.decoder(reached.unflatten(1, z.shape[:2])).movedim(0, 2), kl)

    def _divergence(self, t: Tensor, h: Tensor, m: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Return ∫ |u - κ m / σ|² / 2 dt of paths (N, B, D), by the trapezoidal rule, (B,)."""
        if len(h) < 2:
            return h.new_zeros(h.shape[1])
        at = t.view(-1, 1, 1) if t.ndim == 1 else t.T.unsqueeze(-1)
        told = torch.stack([_between(now, *context) for now in at.to(h)])
        drive = self.control(torch.cat((h, told), -1)) - self.friction / self.log_diffusion.exp() * m
        found: Tensor = torch.trapezoid(0.5 * drive.square().sum(-1), at.squeeze(-1).expand(h.shape[:2]).to(h), dim=0)
        return found


def _shared(times: Tensor) -> Tensor:
    """Return times (B, T), as (T,) where they are the same for all."""
    return times[0] if times.ndim == 2 and bool((times == times[:1]).all()) else times
