"""The latent ODE: a distribution of initial states read off a series, an ODE that goes on from them, a decoder.

Source: Rubanova, Chen, Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019; with heavy-ball
dynamics Xia et al., NeurIPS 2021, where the momentum is a part of the latent initial state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..integrate import hbodeint
from ..setup.arguments import check_at_least
from ..solution import Stats
from ..systems import System
from .fields import make_system
from .observations import check_order, latest_before, observed_channels
from .ode_rnn import ODERNN
from .recognition import GRURecognition, ODERNNRecognition
from .solver import SolverSettings


class Bound(NamedTuple):
    """A variational bound. The loss is the mean over samples of kl_weight · kl - log_likelihood.

    Attributes
    ----------
    loss
        Shape ().
    log_likelihood
        Of what was observed of each sample, in expectation over its latent initial state, (B,).
    kl
        Divergence of the posterior of the initial state from its prior, a standard normal, and of that of the noise of
        a `LatentSDE`, (B,).

    Examples
    --------
    >>> import torch
    >>> from hbode.models import Bound
    >>> float(Bound(torch.tensor(3.0), torch.tensor(-2.0), torch.tensor(1.0)).loss)
    3.0
    """

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor


class Reading(NamedTuple):
    """A series (x is 0 where it was not observed), the time (B, 1) and the distribution of its z₀."""

    t: Tensor
    x: Tensor
    observed: Tensor
    start: Tensor
    mean: Tensor
    sd: Tensor

    def draw(self, samples: int) -> Tensor:
        """Return draws of z₀, (samples, B, S)."""
        return self.mean + self.sd * torch.randn(samples, *self.mean.shape, dtype=self.sd.dtype, device=self.sd.device)


class Decoded(NamedTuple):
    """The decoder's means (N, B, H, C), and the divergence of the path that they came from, (B,)."""

    means: Tensor
    kl: Tensor | float = 0.0


class LatentODE(nn.Module):
    """A generative model of irregular series: z₀ ~ N(0, 1), z moves by an ODE, x = decoder(h) + noise.

    The latent state z is h for a first-order system and (h, m) for a second-order one. A recognition network reads the
    mean and the variance of z₀ off a series; one solve has z at all times of all samples.

    Parameters
    ----------
    system
        The latent dynamics on `size` channels: a `System`, or a name in `SYSTEMS` with `hidden` units in its field.
    size
        Channels D of the latent position h.
    channels
        Channels C of the series.
    hidden
        Units of the recognition network, and of the field of a system by name.
    recognition
        "gru" (`GRURecognition`), one pass of a fused kernel; or "ode_rnn" (`ODERNNRecognition`), a solve with an update
        at every observation, of the same system if it is given by name, else of a NODE. Or a module of their form.
    decoder
        A module (..., D) → (..., C). Default: linear.
    noise
        Standard deviation of the observations at the start, trained for each channel.
    start
        Time of z₀, for all samples. Default: the time of the first observation of each.
    solver
        Method, tolerances, gradient mode, and whether to compile; default as for `ODELayer`.

    Attributes
    ----------
    stats
        `Stats` of the last latent solve.

    Raises
    ------
    ValueError
        If there is no system or recognition network of that name, or the noise is not positive.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import LatentODE
    >>> model = LatentODE("hbnode", size=4, channels=2)
    >>> t, x = torch.rand(8, 20).cumsum(1), torch.randn(8, 20, 2)
    >>> model.elbo(t, x).loss.backward()
    >>> model.predict(t, x, t[:, -1:] + torch.arange(5.0), samples=10).shape
    torch.Size([10, 8, 5, 2])
    """

    def __init__(
        self,
        system: System | str,
        size: int,
        channels: int,
        *,
        hidden: int = 32,
        recognition: str | nn.Module = "gru",
        decoder: nn.Module | None = None,
        noise: float = 0.3,
        start: float | None = None,
        solver: SolverSettings | None = None,
    ) -> None:
        super().__init__()
        if not noise > 0:
            raise ValueError(f"noise must be positive, got {noise}")
        self.system = make_system(system, size, hidden) if isinstance(system, str) else system
        self.size, self.channels, self.start = size, channels, start
        self.solver = SolverSettings(method=None) if solver is None else solver
        outputs = 4 * size if self.system.second_order else 2 * size
        if isinstance(recognition, nn.Module):
            self.recognition = recognition
        elif recognition == "gru":
            self.recognition = GRURecognition(channels, hidden, outputs)
        elif recognition == "ode_rnn":
            own = make_system(system if isinstance(system, str) else "node", hidden, hidden)
            reader = ODERNN(own, hidden, channels, self.solver, cell="gru", missing="mask", outputs=outputs)
            self.recognition = ODERNNRecognition(reader)
        else:
            raise ValueError(f"recognition must be 'gru', 'ode_rnn' or a module, got {recognition!r}")
        self.decoder = nn.Linear(size, channels) if decoder is None else decoder
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(noise)))
        self.stats: Stats | None = None

    def posterior(self, t: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of z₀, (B, D) or (B, 2 D) each; arguments as for `elbo`."""
        read = self._read(t, x, mask)
        return read.mean, read.sd

    def elbo(
        self, t: Tensor, x: Tensor, mask: Tensor | None = None, *, kl_weight: float = 1.0, samples: int = 1
    ) -> Bound:
        """Return a bound of the log-likelihood of series: the loss of training.

        Parameters
        ----------
        t
            Times of the observations, shape (B, K), in the time unit of γ and ξ, which do not decrease from one
            observation of a sample to the next. Anything where an observation is missing entirely.
        x
            Observations, shape (B, K, C), floating; NaN where a channel is missing.
        mask
            What was observed, boolean, shape (B, K, C), or (B, K) for all channels. Default: all that is not NaN.
        kl_weight
            Of the divergence in the loss: less than 1 at the start of a training keeps the latent state in use.
        samples
            Draws of z₀, over which the log-likelihood is averaged.

        Raises
        ------
        ValueError
            If the shapes or the times do not fit.
        """
        check_at_least(samples=samples)
        read = self._read(t, x, mask)
        present = read.observed.any(-1)
        # Where there is no observation the latent state stays at the last one, unseen.
        times = torch.maximum(torch.where(present, t, latest_before(t, present)), read.start)
        predicted, path_kl = self._decoded(read.draw(samples), read, times)
        log_density = -0.5 * ((read.x - predicted) / self.log_noise.exp()).square() - self.log_noise
        log_likelihood = torch.where(read.observed, log_density - 0.5 * math.log(2 * math.pi), 0).sum((-1, -2)).mean(0)
        kl = 0.5 * (read.mean.square() + read.sd.square() - 2 * read.sd.log() - 1).sum(-1) + path_kl
        return Bound((kl_weight * kl - log_likelihood).mean(), log_likelihood, kl)

    def predict(
        self, t: Tensor, x: Tensor, t_new: Tensor, mask: Tensor | None = None, *, samples: int | None = None
    ) -> Tensor:
        """Interpolate between observations and forecast after them: what the decoder makes of z, without noise.

        Parameters
        ----------
        t, x, mask
            The observations, as for `elbo`.
        t_new
            Times (H,), or (B, H) for times per sample, which do not decrease; not before the time of z₀.
        samples
            Draws of z₀. Default: its mean alone.

        Returns
        -------
        Tensor
            Shape (samples, B, H, C), or (B, H, C) from the mean of z₀. ``model.log_noise.exp()`` is the standard
            deviation of observations about it. Raises as `elbo`.
        """
        check_at_least(samples=samples)
        if t_new.ndim not in (1, 2) or (t_new.ndim == 2 and len(t_new) != len(x)):
            raise ValueError(f"t_new must have shape (H,) or ({len(x)}, H), got {tuple(t_new.shape)}")
        read = self._read(t, x, mask)
        t_new = t_new.expand(len(x), -1)
        if bool((t_new < read.start).any()):
            raise ValueError(
                "t_new must not lie before the initial state, which `start` sets, or the first observation"
            )
        if samples is None:
            return self._decoded(read.mean.unsqueeze(0), read, t_new, noisy=False).means[0]
        return self._decoded(read.draw(samples), read, t_new).means

    def _read(self, t: Tensor, x: Tensor, mask: Tensor | None) -> Reading:
        """Check a series and infer its z₀."""
        if x.ndim != 3 or x.shape[2] != self.channels or x.shape[1] < 1:
            raise ValueError(f"x must have shape (B, K, {self.channels}) with K > 0, got {tuple(x.shape)}")
        if t.shape != x.shape[:2]:
            raise ValueError(f"t must have shape {tuple(x.shape[:2])}, got {tuple(t.shape)}")
        observed = observed_channels(x, mask)
        present = observed.any(-1)
        check_order(t, present)
        first = torch.where(present, t, math.inf).amin(-1, keepdim=True)
        start = first if self.start is None else t.new_full(first.shape, self.start)
        if not bool(start.isfinite().all()):
            raise ValueError("x must have an observation in each sample; `start` gives samples without one a time")
        if bool((first < start).any()):
            raise ValueError(f"t must not lie before start={self.start:g}")
        x = torch.where(observed, x, 0)
        mean, log_variance = self.recognition(t, x, observed, start).chunk(2, -1)
        return Reading(t, x, observed, start, mean, (0.5 * log_variance).exp())

    def _decoded(self, z: Tensor, read: Reading, t: Tensor, noisy: bool = True) -> Decoded:
        """Return what the decoder says at times (B, H), from initial states z (N, B, S)."""
        times = torch.cat((read.start, t), -1)
        shared = bool((times == times[:1]).all())
        h0, m0 = z.flatten(0, 1).chunk(2, -1) if self.system.second_order else (z.flatten(0, 1), None)
        asked = times[0] if shared else times.repeat(len(z), 1)
        solution = hbodeint(self.system, h0, asked, m0=m0, **self.solver.arguments)
        self.stats = solution.stats
        h = torch.as_tensor(solution.h)[1:].unflatten(1, z.shape[:2])
        return Decoded(self.decoder(h).movedim(0, 2))
