"""Potentials V(h), of which the force of a conservative system is -∇V."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from .networks import SMALL, before_softplus, lower_triangular, scaled_identity

MOST_MONOMIALS = 10_000


class Potential(nn.Module):
    """A scalar function of the position: a subclass gives `forward`, and `gradient` where it has a closed form.

    Parameters
    ----------
    size
        Channels D of the position.

    Examples
    --------
    >>> from hbode.models.continuous import PolynomialPotential, Potential
    >>> issubclass(PolynomialPotential, Potential)
    True
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_at_least(size=size)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """Return V(h) of positions (..., D), shape (...), in units of h²/time²."""
        raise NotImplementedError

    def gradient(self, h: Tensor) -> Tensor:
        """Return ∇V(h), shape of h."""
        gradient: Tensor = torch.func.grad(lambda x: self(x).sum())(h)
        return gradient


class NetworkPotential(Potential):
    """V(h) = ½ hᵀK h + N(h): a linear spring, and a network N of softplus units.

    N has bounded slopes: far away the force is that of the spring and a constant.

    Parameters
    ----------
    size, hidden
        Channels D, and units of each hidden layer.
    depth
        Dense layers in all, at least 2. Each sees h besides the layer before it.
    convex
        V is convex: weights from layer to layer are positive, as softplus is convex and increasing (Amos, Xu, Kolter,
        "Input Convex Neural Networks", 2017), and K is positive definite.
    bounded
        V is bounded from below, because K is positive definite. So is every convex V of this kind.

    Raises
    ------
    ValueError
        For sizes that are too small.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.models.continuous import NetworkPotential, PotentialField
    >>> system = HeavyBall(PotentialField(NetworkPotential(2, 16, bounded=True)))
    >>> sol = hbodeint(system, torch.ones(2), [0.0, 10.0])
    """

    def __init__(self, size: int, hidden: int, depth: int = 2, *, convex: bool = False, bounded: bool = False) -> None:
        super().__init__(size)
        check_at_least(hidden=hidden)
        check_at_least(2, depth=depth)
        self.convex, self.definite = convex, convex or bounded
        self.spring = nn.Parameter(scaled_identity(size, 1.0) if self.definite else torch.eye(size))
        self.direct = nn.ModuleList(nn.Linear(size, hidden) for _ in range(depth - 1))
        self.slope = nn.Parameter(torch.zeros(size))
        widths = [hidden] * (depth - 2) + [1]
        self.passing = nn.ModuleList(nn.Linear(hidden, width, bias=False) for width in widths)
        with torch.no_grad():
            last = _weight(self.passing[-1])
            last.sub_(-math.log(SMALL)) if convex else last.mul_(SMALL)

    @property
    def stiffness(self) -> Tensor:
        """K, symmetric, shape (D, D), in 1/time²."""
        if not self.definite:
            return (self.spring + self.spring.T) / 2
        factor = lower_triangular(self.spring)
        return factor @ factor.T

    def forward(self, h: Tensor) -> Tensor:
        weights = self._weights()
        network = F.linear(_softplus(self._layers(h, weights)[-1]), weights[-1]).squeeze(-1)
        return network + h @ self.slope + (h @ self.stiffness * h).sum(-1) / 2

    def gradient(self, h: Tensor) -> Tensor:
        weights = self._weights()
        total = h @ self.stiffness + self.slope
        bar = torch.ones_like(self.slope[:1])
        for a, weight, direct in reversed([*zip(self._layers(h, weights), weights, self.direct, strict=True)]):
            bar = bar @ weight * torch.sigmoid(a)
            total = total + bar @ _weight(direct)
        return total

    def _weights(self) -> list[Tensor]:
        """Return the weights from layer to layer; where they are positive, those of a unit have a mean for a sum."""
        given: list[Tensor] = [_weight(layer) for layer in self.passing]
        return [F.softplus(weight) / weight.shape[-1] for weight in given] if self.convex else given

    def _layers(self, h: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return what enters the units of each hidden layer."""
        entering: list[Tensor] = [self.direct[0](h)]
        for direct, weight in zip(list(self.direct)[1:], weights[:-1], strict=True):
            entering.append(F.linear(_softplus(entering[-1]), weight) + direct(h))
        return entering


def _weight(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.weight)  # not get_parameter: compiled solves put tensors in the place of parameters


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40.0)  # torch's own threshold cuts off 2e-9, by which V and ∇V would then differ


class PolynomialPotential(Potential):
    """V(h) = Σ c_α h^α over the monomials of degree 1 to `degree`; a unit spring, ½ |h|², at the start.

    Parameters
    ----------
    size, degree
        Channels D, and the highest degree, at least 2.
    separable
        Powers of single channels alone: V(h) = Σ_i V_i(h_i).

    Attributes
    ----------
    monomials
        The channels that each monomial is a product of: (0, 0, 1) stands for h₀² h₁.
    coefficients
        One for each of them, trainable.

    Raises
    ------
    ValueError
        For sizes that are too small, and for more than 10,000 monomials.

    Examples
    --------
    A Duffing oscillator, h'' + γ h' = -h - 2 h³ + g u, whose stiffness, damping and gain can be trained:

    >>> import torch
    >>> from hbode import HeavyBall
    >>> from hbode.models.continuous import PolynomialPotential, PotentialField
    >>> V = PolynomialPotential(1, 4)
    >>> V.monomials
    ((0,), (0, 0), (0, 0, 0), (0, 0, 0, 0))
    >>> V.coefficients.data[3] = 0.5
    >>> system = HeavyBall(PotentialField(V, inputs=1))
    """

    parent: Tensor
    last: Tensor
    above: Tensor
    multiplicity: Tensor

    def __init__(self, size: int, degree: int, *, separable: bool = False) -> None:
        super().__init__(size)
        check_at_least(2, degree=degree)
        if not separable and math.comb(size + degree, degree) > MOST_MONOMIALS:
            raise ValueError(
                f"size and degree must give no more than {MOST_MONOMIALS} monomials, got "
                f"{math.comb(size + degree, degree)} of {size} and {degree}; take separable=True, or a network"
            )
        levels: list[list[tuple[int, ...]]] = [
            [(i,) * k for i in range(size)] if separable else list(combinations_with_replacement(range(size), k))
            for k in range(1, degree + 1)
        ]
        self.monomials = tuple(monomial for level in levels for monomial in level)
        self.widths = [len(level) for level in levels]
        place = {monomial: i for i, monomial in enumerate(self.monomials)}
        start = {(): 0} | {monomial: i for level in levels for i, monomial in enumerate(level)}
        lower = ((), *self.monomials[: -self.widths[-1]])
        raised = [[tuple(sorted((*monomial, j))) for j in range(size)] for monomial in lower]
        tables = {
            "parent": torch.tensor([start[monomial[:-1]] for monomial in self.monomials]),
            "last": torch.tensor([monomial[-1] for monomial in self.monomials]),
            "above": torch.tensor([[place.get(monomial, 0) for monomial in row] for row in raised]),
            "multiplicity": torch.tensor(
                [[float(m.count(j)) if m in place else 0.0 for j, m in enumerate(row)] for row in raised]
            ),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.coefficients = nn.Parameter(
            torch.tensor([0.5 if len(m) == 2 and m[0] == m[1] else 0.0 for m in self.monomials])
        )

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat(list(self._levels(h, len(self.widths)))[1:], -1) @ self.coefficients

    def gradient(self, h: Tensor) -> Tensor:
        lower = torch.cat(list(self._levels(h, len(self.widths) - 1)), -1)
        return lower @ (self.multiplicity * self.coefficients[self.above])

    def gradients(self, h: Tensor) -> Tensor:
        """Return the gradients of all K monomials, (..., D, K)."""
        lower = torch.cat(list(self._levels(h, len(self.widths) - 1)), -1)
        weights = F.one_hot(self.above, len(self.monomials)) * self.multiplicity.unsqueeze(-1)
        return torch.einsum("...l,ldk->...dk", lower, weights)

    def _levels(self, h: Tensor, degree: int) -> Iterator[Tensor]:
        """Yield the monomials of degree 0, 1, ...: each is one of the degree before, times a channel."""
        level = torch.ones_like(h[..., :1])
        yield level
        tables = zip(self.parent.split(self.widths), self.last.split(self.widths), strict=True)
        for _, (parent, last) in zip(range(degree), tables, strict=False):
            level = level.index_select(-1, parent) * h.index_select(-1, last)
            yield level


class SplinePotential(Potential):
    """V(h) = Σ_i V_i(h_i) with cubic splines V_i, which go on as parabolas: the force goes on as straight lines.

    A cubic spline is two constants and its second derivative, which is linear between the knots: the parameters are
    the stiffness V_i'' at the knots, 1 at the start, and the slope V_i' at the middle knot. V_i is 0 at the first one.

    Parameters
    ----------
    size
        Channels D.
    knots
        Increasing, shape (K,), the same for all channels, in units of h; K at least 2.
    convex
        V is convex: the stiffness at the knots is positive.

    Raises
    ------
    ValueError
        For knots that do not increase.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import SplinePotential
    >>> V = SplinePotential(1, torch.linspace(-2, 2, 9))
    >>> V.gradient(torch.tensor([[0.5], [3.0]]))
    tensor([[0.5000],
            [3.0000]], grad_fn=<AddBackward0>)
    """

    knots: Tensor

    def __init__(self, size: int, knots: Tensor | Sequence[float], *, convex: bool = False) -> None:
        super().__init__(size)
        knots = torch.as_tensor(knots, dtype=torch.get_default_dtype())
        if knots.ndim != 1 or len(knots) < 2 or not bool((knots.diff() > 0).all() & knots.isfinite().all()):
            raise ValueError(f"knots must be at least 2 numbers that increase, shape (K,), got {knots.tolist()}")
        self.convex = convex
        self.register_buffer("knots", knots.clone())
        start = torch.ones(size, len(knots))
        self.curvature = nn.Parameter(before_softplus(start) if convex else start)
        self.slope = nn.Parameter(knots[len(knots) // 2].repeat(size))

    @property
    def stiffness(self) -> Tensor:
        """V_i'' at the knots, shape (D, K), in 1/time²."""
        return F.softplus(self.curvature) if self.convex else self.curvature

    def forward(self, h: Tensor) -> Tensor:
        r, force, stiffness, change = self._pieces(h)
        return (r * (force + r * (stiffness / 2 + r * change / 6))).sum((-1, -2))

    def gradient(self, h: Tensor) -> Tensor:
        r, force, stiffness, change = self._pieces(h)
        return force[:, 0] + (r * (stiffness + r * change / 2)).sum(-1)

    def _pieces(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how far h (..., D) goes into each of the K + 1 pieces, and V', V'' and V''' where these begin.

        The piece before the first knot begins there, and is gone into backwards. At a knot, `minimum` and `maximum`
        give either piece half of the derivative, which `clamp` would give to both.
        """
        stiffness, lengths = self.stiffness, self.knots.diff()
        rise = F.pad((lengths * (stiffness[:, 1:] + stiffness[:, :-1]) / 2).cumsum(-1), (1, 0))
        middle = len(self.knots) // 2
        force = rise - rise[:, middle : middle + 1] + self.slope.unsqueeze(-1)
        change = F.pad(stiffness.diff() / lengths, (1, 1))
        low, high = F.pad(self.knots, (1, 0), value=-math.inf), F.pad(self.knots, (0, 1), value=math.inf)
        begin = torch.cat((self.knots[:1], self.knots))
        r = torch.minimum(torch.maximum(h.unsqueeze(-1), low), high) - begin
        return r, torch.cat((force[:, :1], force), -1), torch.cat((stiffness[:, :1], stiffness), -1), change
