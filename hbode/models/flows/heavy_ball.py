"""Densities by the heavy ball, which needs no trace: log|det ∂(h, m)_T/∂(h, m)₀| = -T Σγ, whatever f is.

The trace of the Jacobian of (m, -γ m + f(t, h) - ξ h) is -Σγ (Liouville's theorem), and that of σ(m) in the place of m
the same; a damped leapfrog, of shears and scalings, has this determinant at any step, and an inverse in closed form.
Where γ depends on h, the logarithm is -∫Σγ along the path: a sum over the steps of a leapfrog, of scalings that the
positions set, as in coupling layers (Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017).
The momentum is a variable that the density of h is augmented by: Huang, Dinh, Courville, "Augmented normalizing flows",
arXiv 2002.07101, 2020. Importance weights: Burda, Grosse, Salakhutdinov, ICLR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from ...setup.arguments import check_at_least
from ...systems import HeavyBall, Lienard, VectorField, join, split
from ..continuous.networks import correction
from ..solver import SolverSettings
from .flow import Flow, Shape


class GaussianMomentum(nn.Module):
    """q(m | h) or q(m | h, context), normal, its means and covariances a network's, and near N(0, 1) at the start.

    Covariances are full: where points lie thin across a direction that turns with h, momenta spread along it.

    Parameters
    ----------
    size, hidden
        Channels D of h and m, and units of each of two hidden layers, of tanh.
    context
        Channels C of the context; 0: none.

    Raises
    ------
    ValueError
        For sizes below 1.

    Examples
    --------
    >>> from hbode.models.flows import GaussianMomentum
    >>> momentum = GaussianMomentum(2, 8)
    """

    def __init__(self, size: int, hidden: int, context: int = 0) -> None:
        super().__init__()
        check_at_least(size=size, hidden=hidden)
        check_at_least(0, context=context)
        self.size = size
        self.network = correction([size + context, hidden, hidden, size * (size + 3) // 2])

    def forward(self, h: Tensor, *context: Tensor) -> Distribution:
        """Return the distribution of m for h (N, D) and context (N, C), batch_shape (N,), event_shape (D,)."""
        size = self.size
        mean, log_scale, below = self.network(torch.cat((h, *context), -1)).split(
            (size, size, size * (size - 1) // 2), -1
        )
        root = torch.diag_embed(log_scale.exp())
        row, column = torch.tril_indices(size, size, -1, device=h.device)
        root[:, row, column] = below
        return MultivariateNormal(mean, scale_tril=root, validate_args=False)


class HeavyBallFlow(Flow):
    """A density of (h, m), h'' + γ h' = f(t, h), and through q(m | h) one of h.

    Parameters
    ----------
    system
        `HeavyBall` or `GeneralizedHeavyBall` around ``f(t, h)``, or ``f(t, h, context)``, of points (N, D), with a
        constant γ, of one number or one for each channel. Or a `Lienard` system, such as one around a `LienardField`:
        its damping depends on the position, and with it the flow learns thin densities in a fraction of the steps.
    size
        Channels D of a point.
    t, context
        Start and end of the flow; channels C of the context, 0: none.
    momentum
        A module that returns q(m | h), a `torch.distributions.Distribution`, of h (N, D), or of h and context (N, C).
        Default: `GaussianMomentum` of `hidden` units.
    hidden
        Units of the default `momentum`.
    base
        Distribution of (h, m) at the end, joined, with event_shape (2 D,). Default: standard normal.
    solver, steps
        Default: leapfrog in 16 equal steps, with ``gradient="backprop"``, the fastest where the graph of all steps fits
        in memory. With ``steps=n`` any method takes n; with None, one that is given takes steps of its own choice.

    Raises
    ------
    TypeError
        If `system` is neither a heavy ball nor a `Lienard` system.
    ValueError
        For sizes below 1, a γ that depends on the time or has a shape of its own, a span that does not go forwards, a
        base of another shape; when called, for points, contexts or counts that do not fit.

    Notes
    -----
    With leapfrog or yoshida4, in steps of any length, the log-density of (h, m) is exact for the map that is computed,
    and `from_base` its inverse, both up to rounding, which the way back amplifies by up to e^{γT}. With other methods
    the determinant is that of the solution, to which their error is that of the points.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall
    >>> from hbode.models import DenseField
    >>> from hbode.models.flows import HeavyBallFlow, toy_density
    >>> flow = HeavyBallFlow(HeavyBall(DenseField(2, 32, activation=torch.nn.Tanh), gamma=0.5), size=2)
    >>> x = toy_density("pinwheel", 64)
    >>> loss = -flow.bound(x).mean()
    >>> flow.log_prob(x, samples=10).shape, flow.sample(5).shape
    (torch.Size([64]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        system: HeavyBall | Lienard,
        size: int,
        *,
        t: Sequence[float] = (0.0, 1.0),
        context: int = 0,
        momentum: nn.Module | None = None,
        hidden: int = 64,
        base: Distribution | None = None,
        solver: SolverSettings | None = None,
        steps: int | None = None,
    ) -> None:
        if not isinstance(system, HeavyBall | Lienard):
            raise TypeError(f"system must be a heavy ball or a Lienard system, got {type(system).__name__}")
        if solver is None:
            solver, steps = SolverSettings("leapfrog", gradient="backprop"), 16 if steps is None else steps
        super().__init__(size, t=t, context=context, base=base, solver=solver, steps=steps, width=2 * size)
        if system.varying[0] is not None:
            raise ValueError("system must have a constant gamma, got one that is a function of the time")
        self.system = system
        gamma = torch.as_tensor(system.gamma) if isinstance(system, HeavyBall) else torch.zeros(())
        if gamma.shape not in ((), (1,), (size,)):
            raise ValueError(f"system must have a gamma of shape () or ({size},), got {tuple(gamma.shape)}")
        self.momentum = GaussianMomentum(size, hidden, context) if momentum is None else momentum

    def log_det(self, h: Tensor, m: Tensor, context: Tensor | None = None) -> Tensor:
        """Return log|det ∂(h, m)_T/∂(h, m)₀| from (h, m) on, (..., D) each, shape (...): -T Σγ, or -∫Σγ(t, h) dt."""
        return self._moved(h, m, context, back=False)[2]

    def to_base(self, h: Tensor, m: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return position and momentum at the end of the flow for those at its start, (..., D) each."""
        return self._moved(h, m, context, back=False)[:2]

    def from_base(self, h: Tensor, m: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return position and momentum at the start of the flow for those at its end: the inverse of `to_base`."""
        return self._moved(h, m, context, back=True)[:2]

    def log_prob_joint(self, h: Tensor, m: Tensor, context: Tensor | None = None) -> Tensor:
        """Return log p(h, m), or log p(h, m | context).

        Parameters
        ----------
        h, m
            Position and momentum, shape (..., D).
        context
            Shape (..., C); all three broadcast.

        Returns
        -------
        Tensor
            Shape (...).
        """
        h, m, log_det = self._moved(h, m, context, back=False)
        log_prob: Tensor = self.base.log_prob(join(h, m))
        return log_prob + log_det

    def bound(self, h: Tensor, context: Tensor | None = None, *, samples: int = 1) -> Tensor:
        """Return an estimate of E_q[log p(h, m) - log q(m | h)] ≤ log p(h) by so many momenta, shape (...)."""
        return self._log_weights(h, context, samples).mean(0)

    def log_prob(self, h: Tensor, context: Tensor | None = None, *, samples: int = 100) -> Tensor:
        """Return log of the mean of p(h, m) / q(m | h) over so many momenta of q, shape (...).

        In the mean it is a lower bound of log p(h) that rises with `samples` and tends to it.
        """
        return self._log_weights(h, context, samples).logsumexp(0) - math.log(samples)

    def rsample(self, sample_shape: Shape = (), context: Tensor | None = None) -> Tensor:
        return self.rsample_joint(sample_shape, context)[0]

    def rsample_joint(self, sample_shape: Shape = (), context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return points as `rsample` does, and their momenta."""
        return self.from_base(*split(self.base_points(sample_shape, context)), context)

    def _moved(self, h: Tensor, m: Tensor, context: Tensor | None, *, back: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return position and momentum at the other end, and the logarithm of the determinant of the way there."""
        batch, (h, m), args = self.flattened(context, h=h, m=m)
        system, size = self.system, h.shape[-1]
        if isinstance(system, Lienard):
            system, h, m = system.around(with_volume(system)), F.pad(h, (0, 1)), F.pad(m, (0, 1))
        solution = self.solve(system, h, args, m0=m, back=back)
        h, m = (torch.as_tensor(x)[-1].view(*batch, -1) for x in (solution.h, solution.m))
        if isinstance(system, Lienard):
            return h[..., :size], m[..., :size], m[..., size]
        span = self.t[1] - self.t[0] if back else self.t[0] - self.t[1]
        return h, m, (span * torch.as_tensor(system.gamma).expand(size).sum()).expand(batch)

    def _log_weights(self, h: Tensor, context: Tensor | None, samples: int) -> Tensor:
        """Return log p(h, m) - log q(m | h) for momenta of q, shape (samples, ...)."""
        check_at_least(samples=samples)
        batch, (h,), args = self.flattened(context, h=h)
        q = self.momentum(h, *args)
        m = q.rsample((samples,))
        weights: Tensor = self.log_prob_joint(h, m, *args) - q.log_prob(m)
        return weights.view(samples, *batch)


def with_volume(system: Lienard) -> VectorField:
    """Return the field of a system with one more channel, whose momentum is the logarithm of the determinant so far."""

    def field(t: Tensor, h: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        force, damping = system.forces(t, h[..., :-1], *args)
        return torch.cat((force, -damping.sum(-1, keepdim=True)), -1), F.pad(damping, (0, 1))

    return field
