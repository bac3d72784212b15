"""What the published code of heavy-ball neural ODEs computes, where it differs from the formulas of the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..systems import GeneralizedHeavyBall, System, VectorField
from ..systems.coefficients import Activation

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class _Reflected:
    """m ↦ σ(-m)."""

    sigma: Activation | None

    def __call__(self, m: Tensor) -> Tensor:
        return -m if self.sigma is None else self.sigma(-m)


class PublishedHeavyBall(GeneralizedHeavyBall):
    """h' = σ(-m), m' = f(t, h) - γ m + ξ h, the published code of Xia et al. (2021).

    With -m for m it is the generalised heavy ball with the force -f: the same restoring ξ, and a field that pushes the
    other way.

    Parameters
    ----------
    f
        ``f(t, h, *args)``, shape of h.
    activation
        σ, as for `GeneralizedHeavyBall`; None for the identity.
    chi
        ξ = softplus(χ) at the start; -100, at which ξ is 4e-44, is the code's way to leave it out.
    train_xi
        Whether ξ is learned. γ = sigmoid(ω) is, from ω = -3.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.models import DenseField, PublishedHeavyBall
    >>> hbodeint(PublishedHeavyBall(DenseField(2, 8)), torch.ones(3, 2), [0.0, 1.0], method="dopri5").h.shape
    torch.Size([2, 3, 2])
    """

    def __init__(
        self, f: VectorField, activation: str | Activation | None = None, *, chi: float = -100.0, train_xi: bool = False
    ) -> None:
        super().__init__(f, activation=activation)
        self.activation = _Reflected(self.activation)
        with torch.no_grad():
            self.chi.fill_(chi)
        self.chi.requires_grad_(train_xi)

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return γ and -ξ: what stands in the place of the restoring coefficient."""
        gamma, xi = super().coefficients(t)
        return gamma, None if xi is None else -xi


PUBLISHED: dict[str, Callable[[VectorField], System]] = {
    "hbnode": PublishedHeavyBall,
    "hbnode-frozen-xi": partial(PublishedHeavyBall, chi=0.0),
    "hbnode-trained-xi": partial(PublishedHeavyBall, chi=0.0, train_xi=True),
    "ghbnode": partial(PublishedHeavyBall, activation="tanh", chi=0.0, train_xi=True),
    "ghbnode-hardtanh": partial(PublishedHeavyBall, activation="hardtanh", chi=0.0, train_xi=True),
}
"""The heavy balls of the published code: ``PUBLISHED[name](f)``.

"hbnode" has no ξ; the HBNODE baselines of plane vibration and Walker2D have one of softplus(0) = 0.693, frozen or
trained.
"""


def published_system(name: str, f: VectorField) -> System:
    """Return a system of `PUBLISHED`.

    Raises
    ------
    ValueError
        If there is no system of that name.

    Examples
    --------
    >>> from hbode.models import DenseField, published_system
    >>> type(published_system("ghbnode", DenseField(2, 8))).__name__
    'PublishedHeavyBall'
    """
    if name not in PUBLISHED:
        raise ValueError(f"name must be one of {', '.join(PUBLISHED)}, got {name!r}")
    return PUBLISHED[name](f)


class UnitInterval(System):
    """y' = Δt F(Δt, y) over 0 ≤ s ≤ 1 in the place of y' = F(t, y) over Δt, for a system y' = F(t, y).

    That is how the published ODE-RNNs let time pass between observations. Where F does not depend on the time it is the
    same map; the step sizes of a solver differ. Solve with ``args=(dt,)``, dt of shape (), or (B, 1, …, 1) against
    h (B, ...).

    Raises
    ------
    ValueError
        If γ or ξ of the system depend on the time.

    Examples
    --------
    >>> from hbode.models import DenseField, PublishedHeavyBall, UnitInterval
    >>> system = UnitInterval(PublishedHeavyBall(DenseField(2, 8)))
    """

    def __init__(self, system: System) -> None:
        super().__init__(system.f)
        if system.varying != (None, None):
            raise ValueError("system must have a constant gamma and xi, got functions of the time")
        self.system = system
        self.second_order = system.second_order

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        return self.system.coefficients(t)

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        elapsed, *others = args
        return torch.as_tensor(elapsed) * self.system.rhs(elapsed, y, gamma, xi, *others)


def scale_parameters(model: M, factor: float = 0.01) -> M:
    """Multiply every parameter by a factor, in place: the initial values of the published script of plane vibration.

    ω is among them: γ then starts at sigmoid(-0.03) = 0.4925.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import scale_parameters
    >>> float(scale_parameters(torch.nn.Linear(2, 2), 0.0).weight.abs().max())
    0.0
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model
