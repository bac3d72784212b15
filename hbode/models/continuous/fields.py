"""Fields with structure, for systems with measured inputs: f(t, h, u) or f(t, h, m, u).

All act on the last axis: h (..., D), m (..., D), u (..., C), whose other axes broadcast. The time is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...gradients.captured import reachable
from ...setup.arguments import check_at_least
from .networks import concatenated, correction
from .potentials import Potential

SPRING, FRICTION = 1.0, 0.2


class DrivenField(nn.Module):
    """f = A z + b + N(z) of z = (h, u) or (h, m, u): what a linear model has, and a network that corrects it.

    At the start A has -1 for h and -0.2 for m on the diagonal, a damped spring in normalised time, so that
    untrained models stay bounded over long records; its part for u is random, and N a tenth of its usual size.

    Parameters
    ----------
    size, inputs
        Channels D of h and C of u; no u with C = 0.
    hidden, depth
        Units of each hidden layer of N, and its dense layers in all.
    activation
        Module class of the activation.
    momentum
        Whether f depends on m: f(t, h, m, u), for `SecondOrder`; else f(t, h, u), for `HeavyBall` and `FirstOrder`.

    Raises
    ------
    ValueError
        For sizes below 1; when called, for tensors that are not h, m and u of these sizes.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, LinearInput, hbodeint
    >>> from hbode.models.continuous import DrivenField
    >>> system = HeavyBall(DrivenField(2, inputs=1, hidden=16))
    >>> t = torch.linspace(0, 10, 101, dtype=torch.float64)
    >>> u = LinearInput(t, torch.sin(t).float().unsqueeze(-1))
    >>> hbodeint(system, torch.zeros(8, 2), t, inputs=u).h.shape
    torch.Size([101, 8, 2])
    """

    def __init__(
        self,
        size: int,
        inputs: int,
        hidden: int,
        depth: int = 3,
        activation: Callable[[], nn.Module] = nn.Tanh,
        *,
        momentum: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(size=size, hidden=hidden, depth=depth)
        check_at_least(0, inputs=inputs)
        self.widths = [size] * (2 if momentum else 1) + [inputs] * (inputs > 0)
        total = sum(self.widths)
        self.linear = nn.Linear(total, size)
        self.network = correction([total, *[hidden] * (depth - 1), size], activation)
        eye = torch.eye(size)
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.weight[:, : total - inputs] = torch.cat((-SPRING * eye, -FRICTION * eye), 1)[
                :, : total - inputs
            ]

    def forward(self, t: Tensor, *state_and_input: Tensor) -> Tensor:
        """Return f(t, h, u) or f(t, h, m, u), shape (..., D)."""
        z = concatenated(state_and_input, self.widths)
        out: Tensor = self.linear(z) + self.network(z)
        return out


class InputGain(nn.Module):
    """G(h) u: a constant matrix G, and a network of h that corrects it where it has hidden units.

    Parameters
    ----------
    size, inputs
        Channels D of h and C of u.
    hidden
        Units of the one hidden layer, of tanh, so that G is bounded; 0: G is constant.

    Examples
    --------
    >>> from hbode.models.continuous import InputGain
    >>> gain = InputGain(3, 1)
    """

    def __init__(self, size: int, inputs: int, hidden: int = 0) -> None:
        super().__init__()
        check_at_least(size=size, inputs=inputs)
        check_at_least(0, hidden=hidden)
        self.constant = nn.Linear(inputs, size, bias=False)
        self.network = correction([size, hidden, size * inputs]) if hidden else None

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        """Return G(h) u of h (..., D) and u (..., C), shape (..., D)."""
        out: Tensor = self.constant(u)
        if self.network is not None:
            out = out + (self.network(h).unflatten(-1, (h.shape[-1], -1)) @ u.unsqueeze(-1)).squeeze(-1)
        return out


class PotentialField(nn.Module):
    """f = -∇V(h), or -∇V(h) + G(h) u.

    Parameters
    ----------
    potential
        V: `NetworkPotential`, `PolynomialPotential`, `SplinePotential`, or another `Potential`.
    inputs
        Channels C of u; 0: f is a function of h alone.
    gain_hidden
        Hidden units of a G that depends on h; 0: G is constant.

    Raises
    ------
    TypeError
        If `potential` is none; when called, with an input where there is none to be, or without one.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.models.continuous import PolynomialPotential, PotentialField
    >>> system = HeavyBall(PotentialField(PolynomialPotential(3, 4)))
    >>> sol = hbodeint(system, torch.ones(3), [0.0, 10.0], method="leapfrog", options={"step_size": 0.1})
    """

    def __init__(self, potential: Potential, inputs: int = 0, gain_hidden: int = 0) -> None:
        super().__init__()
        if not isinstance(potential, Potential):
            raise TypeError(f"potential must be a Potential, got {type(potential).__name__}")
        check_at_least(0, inputs=inputs)
        self.potential = potential
        self.gain = InputGain(potential.size, inputs, gain_hidden) if inputs else None

    def forward(self, t: Tensor, h: Tensor, *u: Tensor) -> Tensor:
        """Return the force, shape of h."""
        if len(u) != (self.gain is not None):
            expected = "f(t, h)" if self.gain is None else "f(t, h, u)"
            raise TypeError(f"this field is {expected} and got {len(u)} inputs; `inputs` at its making says how many")
        force = -self.potential.gradient(h)
        return force if self.gain is None else force + self.gain(h, *u)


class Sum(nn.Module):
    """f = f₁ + f₂ + ...: known physics and a learned term, for example; the parameters of all are trained.

    Parameters
    ----------
    *terms
        Callables with the same arguments, modules or functions.

    Raises
    ------
    TypeError
        For a term that is not callable.
    ValueError
        For a function that uses tensors to be trained: copies of the sum would not have copies of them.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall
    >>> from hbode.models.continuous import DrivenField, Sum
    >>> pendulum = lambda t, h, u: u - torch.sin(h)
    >>> system = HeavyBall(Sum(pendulum, DrivenField(1, inputs=1, hidden=16)))
    """

    def __init__(self, *terms: Callable[..., Tensor]) -> None:
        super().__init__()
        for term in terms:
            if not callable(term):
                raise TypeError(f"terms must be callable as f(t, h, ...), got {type(term).__name__}")
            if not isinstance(term, nn.Module) and reachable(term).leaves:
                raise ValueError(
                    f"terms that train tensors must be torch.nn.Modules that hold them, got "
                    f"{getattr(term, '__name__', type(term).__name__)}"
                )
        self.terms = terms
        self.trained = nn.ModuleList(term for term in terms if isinstance(term, nn.Module))

    def forward(self, t: Tensor, *args: Any) -> Tensor:
        """Return the sum of the terms."""
        first, *others = self.terms
        total = first(t, *args)
        for term in others:
            total = total + term(t, *args)
        return total
