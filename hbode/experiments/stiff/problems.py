"""Stiff problems of the proximal paper, and how far a solve is from their exact solutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...integrate import hbodeint
from ...systems import FirstOrder, HeavyBall, System
from ...systems.split_field import SplitField

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """y' = stiff + nonstiff from a start, with outputs at some times.

    Attributes
    ----------
    stiff, nonstiff
        Fields f(t, y), of shape `y0`.
    y0, times
        Shapes (1, n) and (T,), float64.
    exact
        The solution at times (T,), shape (T, 1, n); None for one by dopri8 at 1e-12.
    damping
        γ, where it is y'' + γ y' = stiff + nonstiff, from rest; None for a first-order system.
    parameter
        A number that the fields and the exact solution depend on, and that gradients are asked for; None for no such.

    Examples
    --------
    >>> from hbode.experiments.stiff.problems import stiff_scalar
    >>> problem = stiff_scalar()
    >>> problem.exact(problem.times).shape
    torch.Size([9, 1, 1])
    """

    stiff: Field
    nonstiff: Field
    y0: Tensor
    times: Tensor
    exact: Callable[[Tensor], Tensor] | None = None
    damping: float | None = None
    parameter: Tensor | None = None

    def whole(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the parts."""
        return self.stiff(t, y) + self.nonstiff(t, y)

    def system(self, f: Field | SplitField) -> System:
        """Return the system with a field in the place of the whole."""
        return FirstOrder(f) if self.damping is None else HeavyBall(f, self.damping, trainable=False)

    @torch.no_grad()
    def solution(self) -> Tensor:
        """Return the solution at the times, shape (T, 1, n)."""
        if self.exact is not None:
            return self.exact(self.times)
        tol = 1e-12
        found = hbodeint(self.system(self.whole), self.y0, self.times, rtol=tol, atol=tol, method="dopri8")
        return torch.as_tensor(found.h)


def stiff_scalar(rate: float = -1e3) -> Problem:
    """Return y' = k y + a ((1 - k) cos t - (1 + k) sin t) from y(0) = 1 to t = 10, at a = 1.

    Then y = sin t + cos t, and for every a y = a (sin t + cos t) + (1 - a) e^{k t}. The stiff part is the decay to
    a (sin t + cos t), the other one the slope of that. Baker et al. (2022), arXiv 2204.08621.

    Parameters
    ----------
    rate
        k, negative.

    Raises
    ------
    ValueError
        If the rate is not negative.

    Examples
    --------
    >>> from hbode.experiments.stiff.problems import stiff_scalar
    >>> float(stiff_scalar().solution()[0])
    1.0
    """
    if not rate < 0:
        raise ValueError(f"rate must be negative, got {rate}")
    a = torch.ones((), dtype=torch.float64, requires_grad=True)

    def exact(t: Tensor) -> Tensor:
        return (a * (torch.sin(t) + torch.cos(t)) + (1 - a) * torch.exp(rate * t)).reshape(-1, 1, 1)

    return Problem(
        lambda t, y: rate * (y - a * (torch.cos(t) + torch.sin(t))),
        lambda t, y: a * (torch.cos(t) - torch.sin(t)) + torch.zeros_like(y),
        torch.ones(1, 1, dtype=torch.float64),
        torch.linspace(0, 10.0, 9, dtype=torch.float64),
        exact,
        parameter=a,
    )


def heat(rate: float = 1.0, end: float = 0.1, n: int = 128) -> Problem:
    """Return u' = κ L u for the discrete Laplacian of n points inside the unit interval, zero at both ends.

    L has the eigenvectors sin(j π x) and the eigenvalues -4 (n + 1)² sin²(j π / (2 (n + 1))); the start is of the
    modes 1, 7 and 31, and the solution goes through all of them. Baker et al. (2022), arXiv 2204.08621, n = 128.

    Parameters
    ----------
    rate, end, n
        κ, the last time, and the number of points.

    Raises
    ------
    ValueError
        If one of them is not positive.

    Examples
    --------
    >>> from hbode.experiments.stiff.problems import heat
    >>> heat(n=16).solution().shape
    torch.Size([9, 1, 16])
    """
    for name, value in (("rate", rate), ("end", end), ("n", n)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    kappa = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]
    u0 = (torch.sin(math.pi * x) + 0.5 * torch.sin(7 * math.pi * x) + 0.2 * torch.sin(31 * math.pi * x)).unsqueeze(0)

    def laplacian(t: Tensor, u: Tensor) -> Tensor:
        padded = nn.functional.pad(u, (1, 1))
        return (padded[..., 2:] - 2 * u + padded[..., :-2]) * (kappa * (n + 1) ** 2)

    def exact(t: Tensor) -> Tensor:
        j = torch.arange(1, n + 1, dtype=torch.float64)
        modes = math.sqrt(2 / (n + 1)) * torch.sin(math.pi * j.unsqueeze(1) * x)  # orthogonal and symmetric
        decay = -4 * (n + 1) ** 2 * torch.sin(0.5 * math.pi / (n + 1) * j).square()
        return torch.exp(kappa * decay * t.reshape(-1, 1, 1)) * (u0 @ modes) @ modes

    times = torch.linspace(0, end, 9, dtype=torch.float64)
    return Problem(laplacian, lambda t, u: torch.zeros_like(u), u0, times, exact, parameter=kappa)


def error_of(problem: Problem) -> Callable[[Tensor], float]:
    """Return the error of states at the times of a problem, shape (T, 1, n).

    It is the largest over the outputs of the root-mean-square error relative to the largest values of each component.
    """
    exact = problem.solution()
    size = exact.abs().amax(0).clamp(min=1e-300)
    return lambda states: float(((states - exact) / size)[1:].square().flatten(1).mean(1).sqrt().max())
