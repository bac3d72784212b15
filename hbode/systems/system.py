"""What a system is: an equation around a user's field, and its forms for other libraries."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..gradients.captured import reachable
from ..solvers.field import checked
from ..solvers.warning import warn
from .coefficients import Activation, OfTime, shortened

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
    damped_by_position = False
    """Whether f returns a pair, force and damping (`Lienard`)."""
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
