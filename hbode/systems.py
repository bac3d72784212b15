"""Systems with learned or given fields (Xia et al., "Heavy Ball Neural Ordinary Differential Equations", 2021)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coefficients import Activation, OfTime, as_activation, as_value, at_time, shortened
from .gradients.captured import reachable
from .solvers.field import checked
from .solvers.warning import warn

VectorField = Callable[..., Any]


class System(nn.Module):
    """A differential equation around a user's field.

    Subclasses set `second_order` (the state is a pair of position and momentum) and `damped` (the momentum enters
    its own equation through linear damping alone), and give the right-hand side of the first-order form, in which
    a second-order state is (h, m) stacked on a new first axis. Where there is a `diffusion`, it is the strength of the
    noise on the momentum, of which only `sdeint` knows.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, HeavyBall, System
    >>> issubclass(HeavyBall, System), HeavyBall.second_order, FirstOrder.second_order
    (True, True, False)
    """

    second_order = True
    damped = False
    activation: Activation | None = None
    takes: tuple[str, ...] = ("t", "h")
    """What f is called with before the further arguments of a solve; empty where a subclass calls it otherwise."""

    def __init__(self, f: VectorField) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be callable as f(t, h), got {type(f).__name__}")
        self.f = f
        self.gamma_of_time: OfTime | None = None
        self.xi_of_time: OfTime | None = None
        self.diffusion: Callable[[Tensor, Tensor], Tensor] | None = None

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the parameters of the system, and of f if it is a module; a warning says which modules f uses besides.

        A module that asks its parts for their parameters, as one does that holds a system and the network of its field,
        does not come by here.
        """
        own = {id(parameter) for _, parameter in self.named_parameters()}
        functions = zip(("f", "gamma", "xi"), (self.f, *self.varying), strict=True)
        for name, function in functions if recurse else ():
            for module in [] if isinstance(function, nn.Module) else reachable(function).modules:
                if any(x.requires_grad and id(x) not in own for _, x in module.named_parameters()):
                    warn(
                        f"the parameters of this {type(self).__name__} are not those of the {type(module).__name__} "
                        f"that {name} uses, which an optimiser over them will not train. Give {name} as a "
                        "torch.nn.Module that holds it, or give its parameters to the optimiser as well"
                    )
        return super().parameters(recurse)

    @property
    def varying(self) -> tuple[OfTime | None, OfTime | None]:
        """γ and ξ where they are functions of the time; None where they are not."""
        return self.gamma_of_time, self.xi_of_time

    def coefficients(self, t: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return γ and ξ, shape () or per channel; None where the system has none.

        Where they are functions of the time, their values at t, without which there are none: `ValueError`.
        """
        return None, None

    def force(self, t: Tensor, h: Tensor, *args: Any) -> Tensor:
        """Return f(t, h, *args), checked to have the shape and dtype of h."""
        return checked(self.f(t, h, *args), h)

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        """Return dy/dt of the first-order form; γ and ξ broadcast to h."""
        raise NotImplementedError

    def around(self, f: VectorField) -> Self:
        """Return the same system around another field; it shares all else."""
        other = copy.copy(self)
        other._modules = {name: module for name, module in self._modules.items() if name != "f"}
        other.f = f
        return other

    def as_ode(self) -> JoinedField:
        """Present the system as one first-order field on the joined state, for torchdiffeq and scipy.

        The joined state of a second-order system is h and m concatenated along the last axis, shape (..., 2 D);
        see `join` and `split`.
        """
        return JoinedField(self)

    def as_sde(self, noise: float | Tensor | VectorField, noise_type: str = "diagonal") -> LangevinField:
        """Present the system with noise on the momentum, for `torchsde.sdeint`; see `sdeint` for our own solver.

        dh = σ(m) dt, dm = (f(t, h) - γ m - ξ h) dt + noise dW: with f = -∇V this is Langevin dynamics, at
        temperature noise² / (2 γ). The state is the joined one, shape (B, 2 D).

        Parameters
        ----------
        noise
            Standard deviation of the noise per square root of time: a number, shape (D,), or ``noise(t, h)`` of shape
            (B, D).
        noise_type
            "diagonal": each momentum has a noise of its own. "general": ``noise(t, h)``, of shape (B, D, M), mixes M.
        """
        return LangevinField(self, noise, noise_type)


class FirstOrder(System):
    """h' = f(t, h): a neural ODE (NODE; ANODE where h has been given extra zero channels).

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, hbodeint
    >>> sol = hbodeint(FirstOrder(lambda t, h: -h), torch.ones(3), [0.0, 1.0])
    >>> round(sol.h[-1, 0].item(), 4)
    0.3679
    """

    second_order = False

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        return self.force(t, y, *args)


class SecondOrder(System):
    """h' = m, m' = f(t, h, m): a second-order neural ODE (SONODE).

    Examples
    --------
    >>> import torch
    >>> from hbode import SecondOrder, hbodeint
    >>> system = SecondOrder(lambda t, h, m: -h - 0.1 * m)
    >>> hbodeint(system, torch.ones(3), [0.0, 1.0]).m.shape
    torch.Size([2, 3])
    """

    takes = ("t", "h", "m")

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        h, m = y.unbind()
        return torch.stack((m, checked(self.f(t, h, m, *args), h)))


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


FAMILY: dict[str, Callable[..., System]] = {
    "node": FirstOrder,
    "sonode": SecondOrder,
    "hbnode": HeavyBall,
    "ghbnode": GeneralizedHeavyBall,
}
"""The four systems that are compared, by the names that commands, comparisons and figures know them by."""


class JoinedField(nn.Module):
    """A system as ``field(t, y)`` on the joined state y = (h, m) concatenated along the last axis."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shape of y."""
        gamma, xi = self.system.coefficients(t)
        if not self.system.second_order:
            return self.system.rhs(t, y, gamma, xi)
        return join(*self.system.rhs(t, torch.stack(split(y)), gamma, xi).unbind())


class LangevinField(nn.Module):
    """A second-order system with noise on its momentum, in torchsde's form (Ito)."""

    sde_type = "ito"

    def __init__(self, system: System, noise: float | Tensor | VectorField, noise_type: str = "diagonal") -> None:
        super().__init__()
        if not system.second_order:
            raise ValueError(f"as_sde needs a second-order system, got {type(system).__name__}")
        if noise_type not in ("diagonal", "general") or (noise_type == "general" and not callable(noise)):
            raise ValueError(f"noise_type must be diagonal, or general with noise(t, h), got {noise_type!r}")
        self.noise_type = noise_type
        self.drift = system.as_ode()
        if callable(noise):
            self.noise = noise
            return
        value = torch.as_tensor(noise, dtype=torch.get_default_dtype() if isinstance(noise, float | int) else None)
        if not bool((value >= 0).all()):
            raise ValueError(f"noise must be zero or positive, got {shortened(value)}")
        self.register_buffer("noise", value)

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the drift, shape (B, 2 D)."""
        return torch.as_tensor(self.drift(t, y))

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the diffusion, zero on the positions and `noise` on the momenta: shape (B, 2 D), or (B, 2 D, M)."""
        h, m = split(y)
        noise = self.noise(t, h) if callable(self.noise) else torch.as_tensor(self.noise).to(m)
        if self.noise_type == "general":
            return torch.cat((torch.zeros_like(noise), noise), -2)
        return join(torch.zeros_like(h), noise.expand_as(m))


def join(h: Tensor, m: Tensor) -> Tensor:
    """Concatenate position and momentum, each (..., D), along the last axis.

    Examples
    --------
    >>> import torch
    >>> from hbode import join
    >>> join(torch.zeros(3, 2), torch.ones(3, 2)).shape
    torch.Size([3, 4])
    """
    return torch.cat((h, m), -1)


def split(y: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `join`: return position and momentum of a joined state (..., 2 D).

    Examples
    --------
    >>> import torch
    >>> from hbode import split
    >>> h, m = split(torch.zeros(3, 4))
    >>> h.shape
    torch.Size([3, 2])
    """
    if y.ndim == 0 or y.shape[-1] % 2:
        raise ValueError(f"y must have an even number of entries on its last axis, got shape {tuple(y.shape)}")
    h, m = y.chunk(2, -1)
    return h, m
