"""Heavy balls (Xia et al., "Heavy Ball Neural Ordinary Differential Equations", 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coefficients import Activation, OfTime, as_activation, as_value, at_time, shortened
from .system import System, VectorField


class HeavyBall(System):
    """h' = m, m' = -γ m + f(t, h): a heavy-ball neural ODE (HBNODE), h'' + γ h' = f.

    Parameters
    ----------
    f
        ``f(t, h, *args)``, shape of h.
    gamma
        Damping at the start, in 1/time: a number, or a tensor per channel, shape (C,) against the last axis of h,
        or any shape that broadcasts to h without its batch. Default: ε sigmoid(-3) ≈ 0.0474 ε.
        Or a function γ(t) of such values, such as `NesterovDamping`: a callable of a time of shape (), or
        (B, 1, …, 1) against h (B, ...) where samples step by themselves. A module is trained by its own parameters.
    epsilon
        Upper bound ε of a trainable γ = ε sigmoid(ω); not for a γ(t).
    trainable
        Whether γ is learned, through ω. A fixed γ may have any value.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> system = HeavyBall(lambda t, h: -h, gamma=0.1)
    >>> sol = hbodeint(system, torch.ones(3), [0.0, 1.0])
    >>> sol.h[-1].sum().backward()
    >>> system.omega.grad is not None
    True
    """

    damped = True

    def __init__(
        self,
        f: VectorField,
        gamma: float | Tensor | OfTime | None = None,
        *,
        epsilon: float = 1.0,
        trainable: bool = True,
    ) -> None:
        super().__init__(f)
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.epsilon = float(epsilon)
        self.trainable = trainable
        if callable(gamma):
            self.gamma_of_time = gamma
            if epsilon != 1.0:
                raise ValueError(
                    f"epsilon must not be given with a gamma that is a function of the time, got {epsilon}"
                )
            return
        if gamma is None:
            gamma = self.epsilon / (1.0 + math.exp(3.0))
        value = as_value(gamma, trainable)
        if trainable:
            share = value.detach() / self.epsilon
            if not bool(((share > 0) & (share < 1)).all()):
                raise ValueError(
                    f"gamma must lie strictly between 0 and epsilon={self.epsilon:g} to be trainable as "
                    f"epsilon * sigmoid(omega), got {shortened(value)}; set trainable=False or raise epsilon"
                )
            self.omega = nn.Parameter(torch.logit(share.double()).to(value.dtype))
        else:
            self.register_buffer("fixed_gamma", value)

    @property
    def gamma(self) -> Tensor | OfTime:
        """The damping γ, shape () or per channel, or a function of the time."""
        if self.gamma_of_time is not None:
            return self.gamma_of_time
        if self.trainable:
            return self.epsilon * torch.sigmoid(self.omega)
        return torch.as_tensor(self.fixed_gamma)

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        return at_time("gamma", self.gamma, t), None

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        h, m = y.unbind()
        change = self.force(t, h, *args)
        if gamma is not None:
            change = torch.addcmul(change, gamma, m, value=-1)
        if xi is not None:
            change = torch.addcmul(change, xi, h, value=-1)
        return torch.stack((m if self.activation is None else self.activation(m), change))


class GeneralizedHeavyBall(HeavyBall):
    """h' = σ(m), m' = -γ m + f(t, h) - ξ h: a generalised heavy-ball neural ODE (GHBNODE).

    Parameters
    ----------
    f, gamma, epsilon, trainable
        As for `HeavyBall`; `trainable` holds for ξ too.
    xi
        Restoring coefficient at the start, in 1/time²: a number or per channel, like `gamma`. Trainable as
        ξ = softplus(χ), for which it must be positive. Default: softplus(0) = ln 2. Or a function ξ(t), as for γ.
    activation
        σ: "tanh", "hardtanh" (between -5 and 5), any elementwise callable, or None for the identity.

    Examples
    --------
    >>> import torch
    >>> from hbode import GeneralizedHeavyBall, hbodeint
    >>> system = GeneralizedHeavyBall(lambda t, h: torch.sin(h), gamma=0.1, xi=1.0)
    >>> sorted(dict(system.named_parameters()))
    ['chi', 'omega']
    >>> hbodeint(system, torch.ones(3), [0.0, 1.0]).h.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        f: VectorField,
        gamma: float | Tensor | OfTime | None = None,
        xi: float | Tensor | OfTime | None = None,
        activation: str | Activation | None = "tanh",
        *,
        epsilon: float = 1.0,
        trainable: bool = True,
    ) -> None:
        super().__init__(f, gamma, epsilon=epsilon, trainable=trainable)
        self.activation = as_activation(activation)
        if callable(xi):
            self.xi_of_time = xi
            return
        xi = math.log(2.0) if xi is None else xi
        value = as_value(xi, trainable)
        if trainable:
            start = value.detach().double()
            if not bool((start > 0).all()):
                raise ValueError(
                    f"xi must be positive to be trainable as softplus(chi), got {shortened(value)}; set trainable=False"
                )
            self.chi = nn.Parameter((start + torch.log(-torch.expm1(-start))).to(value.dtype))
        else:
            self.register_buffer("fixed_xi", value)

    @property
    def xi(self) -> Tensor | OfTime:
        """The restoring coefficient ξ, shape () or per channel, or a function of the time."""
        if self.xi_of_time is not None:
            return self.xi_of_time
        if self.trainable:
            return F.softplus(self.chi)
        return torch.as_tensor(self.fixed_xi)

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        return at_time("gamma", self.gamma, t), at_time("xi", self.xi, t)
