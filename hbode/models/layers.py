"""Neural ODEs as layers: a tensor in, the state at the end or at given times out.

Sources: Chen et al., NeurIPS 2018 (NODE); Dupont, Doucet, Teh, NeurIPS 2019 (ANODE); Norcliffe et al., NeurIPS 2020
(SONODE); Xia et al., NeurIPS 2021 (HBNODE, GHBNODE); Nguyen et al., AAAI 2022 (Nesterov NODE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ..integrate import hbodeint
from ..solution import Solution, Stats
from ..systems import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, System, VectorField
from ..systems.coefficients import Activation, OfTime
from ..systems.damping import NesterovDamping
from .solver import SolverSettings


class LayerOptions(TypedDict, total=False):
    """Keyword arguments of `ODELayer`, which all layers take."""

    t: Sequence[float]
    augment: int
    channel_dim: int
    momentum: nn.Module | None
    solver: SolverSettings | None


class ODELayer(nn.Module):
    """The solve of a system as a layer: its input is the initial position, its output the position at the end.

    Parameters
    ----------
    system
        A `System`: ``HeavyBall(field)``, ``make_system("hbnode", 8, 32)``, ``published_system("ghbnode", field)``.
    t
        Start and end of the layer, where no times are asked for.
    augment
        Extra channels p of the state, which start at zero.
    channel_dim
        Axis of the input that they extend: -1 for (B, C), 1 for (B, C, H, W).
    momentum
        A module that makes the initial momentum of the input x: for (B, C, ...) it returns (B, C + p, ...). None: zero.
    solver
        Method, tolerances, gradient mode, and whether to compile. Default: the method of `hbodeint` for the system, at
        tolerances of 1e-3.

    Attributes
    ----------
    stats
        `Stats` of the last solve: evaluations forward and, after it, backward; None before the first.

    Raises
    ------
    ValueError
        If `t` is not two times, `augment` is negative, or a momentum is given to a first-order system.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import HBNODE, DenseField
    >>> layer = HBNODE(DenseField(size=6, hidden=32), augment=2, momentum=torch.nn.Linear(4, 6))
    >>> layer(torch.randn(8, 4)).shape
    torch.Size([8, 6])
    >>> layer(torch.randn(8, 4), torch.linspace(0, 1, 5)).shape
    torch.Size([5, 8, 6])
    """

    def __init__(
        self,
        system: System,
        *,
        t: Sequence[float] = (0.0, 1.0),
        augment: int = 0,
        channel_dim: int = -1,
        momentum: nn.Module | None = None,
        solver: SolverSettings | None = None,
    ) -> None:
        super().__init__()
        if len(t) != 2:
            raise ValueError(f"t must be the start and the end of the layer, got {len(t)} times")
        if augment < 0:
            raise ValueError(f"augment must not be negative, got {augment}")
        if momentum is not None and not system.second_order:
            raise ValueError(f"momentum must be None: a {type(system).__name__} has none")
        self.system = system
        self.t = (float(t[0]), float(t[1]))
        self.augment, self.channel_dim = augment, channel_dim
        self.momentum = momentum
        self.solver = SolverSettings(method=None) if solver is None else solver
        self.stats: Stats | None = None

    def forward(self, x: Tensor, t: Tensor | Sequence[float] | None = None, args: tuple[Any, ...] = ()) -> Tensor:
        """Return the position at the end of the layer, or at times.

        Parameters
        ----------
        x
            Initial position, shape (B, C, ...), or with its channels on the axis `channel_dim`.
        t
            Times (T,), or (B, T) for times per sample; x is the position at the first. The result is then
            (T, B, C + p, ...), and (B, C + p, ...) without.
        args
            Further arguments of the field, as for `hbodeint`.

        Raises
        ------
        ValueError
            If x has no axis `channel_dim`, or the initial momentum has not the shape of the state.
        """
        h = self.solve(x, t, args).h
        return torch.as_tensor(h if t is not None else h[-1])

    def solve(self, x: Tensor, t: Tensor | Sequence[float] | None = None, args: tuple[Any, ...] = ()) -> Solution:
        """Return the whole solution, with momenta; arguments as for a call, at `t` of the layer if None."""
        h0, m0 = self.initial(x)
        if m0 is not None and m0.shape != h0.shape:
            raise ValueError(f"momentum must return the shape of the state, {tuple(h0.shape)}, got {tuple(m0.shape)}")
        solution = hbodeint(self.system, h0, self.t if t is None else t, m0=m0, args=args, **self.solver.arguments)
        self.stats = solution.stats
        return solution

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the initial position and momentum, None for zero: what a subclass replaces to start otherwise."""
        h0 = x
        if self.augment:
            if not -x.ndim <= self.channel_dim < x.ndim:
                raise ValueError(f"x must have an axis {self.channel_dim} of channels, got shape {tuple(x.shape)}")
            shape = list(x.shape)
            shape[self.channel_dim] = self.augment
            h0 = torch.cat((x, x.new_zeros(shape)), self.channel_dim)
        return h0, None if self.momentum is None else self.momentum(x)

    def extra_repr(self) -> str:
        return f"t={self.t}, augment={self.augment}"


class NODE(ODELayer):
    """h' = f(t, h), for a module or function f. Keywords: those of `ODELayer`, for all layers below too.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import NODE, DenseField
    >>> NODE(DenseField(2, 8))(torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, f: VectorField, **layer: Unpack[LayerOptions]) -> None:
        super().__init__(FirstOrder(f), **layer)


class ANODE(NODE):
    """A NODE on [h; 0]: `augment` extra channels, at least one, which f takes and returns as well.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ANODE, DenseField
    >>> ANODE(DenseField(3, 8), augment=1)(torch.randn(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, f: VectorField, **layer: Unpack[LayerOptions]) -> None:
        if layer.get("augment", 0) < 1:
            raise ValueError(f"augment must be at least 1 in an ANODE, got {layer.get('augment', 0)}")
        super().__init__(f, **layer)


class SONODE(ODELayer):
    """h' = m, m' = f(t, h, m).

    Examples
    --------
    >>> import torch
    >>> from hbode import SecondOrder
    >>> from hbode.models import SONODE
    >>> SONODE(lambda t, h, m: -h - m)(torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, f: VectorField, **layer: Unpack[LayerOptions]) -> None:
        super().__init__(SecondOrder(f), **layer)


class HBNODE(ODELayer):
    """h' = m, m' = -γ m + f(t, h); γ as in `HeavyBall`, trainable.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import HBNODE, DenseField
    >>> layer = HBNODE(DenseField(2, 8))
    >>> layer(torch.randn(5, 2)).shape, layer.stats.nfe > 0
    (torch.Size([5, 2]), True)
    """

    def __init__(
        self, f: VectorField, gamma: float | Tensor | OfTime | None = None, **layer: Unpack[LayerOptions]
    ) -> None:
        super().__init__(HeavyBall(f, gamma), **layer)


class GHBNODE(ODELayer):
    """h' = σ(m), m' = -γ m + f(t, h) - ξ h; γ, ξ and σ as in `GeneralizedHeavyBall`, γ and ξ trainable.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import GHBNODE, DenseField
    >>> GHBNODE(DenseField(2, 8))(torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        f: VectorField,
        gamma: float | Tensor | OfTime | None = None,
        xi: float | Tensor | OfTime | None = None,
        activation: str | Activation | None = "tanh",
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(GeneralizedHeavyBall(f, gamma, xi, activation), **layer)


class NesterovNODE(ODELayer):
    """h'' + γ(t) h' = f(t, h) with γ(t) = r / (t + offset), as in `NesterovDamping`.

    The offset keeps γ finite at the start of a layer that begins at t = 0; with ``offset=0, t=(1, 2)`` γ is r/t.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import DenseField, NesterovNODE
    >>> NesterovNODE(DenseField(2, 8))(torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, f: VectorField, r: float = 3.0, offset: float = 1.0, **layer: Unpack[LayerOptions]) -> None:
        super().__init__(HeavyBall(f, NesterovDamping(r, offset)), **layer)
