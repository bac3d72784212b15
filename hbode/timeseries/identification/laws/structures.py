"""Model structures by name: what `SystemIdentifier` builds its models from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ....models.continuous import Limited, LinearReadout, NeuralStateSpace, PositionReadout
from ....setup.arguments import check_at_least
from ....systems import FirstOrder, SecondOrder, System
from . import port

STRUCTURES = ("hbnode", "node", "port")
"""Second-order models, h'' = f(h, h', u), first-order ones, h' = f(h, u), and those with an energy."""
NETWORK, LAST = ("inner", "outer", "network"), ("outer", "network.2")
"""Parts of the names of what a network that corrects a law has, and of its last layer."""
READOUTS = ("position", "absolute", "linear", "square")
UNITS = ("tanh", "relu")


class Force(nn.Module):
    """f = A z + b + Σ_k c_k h^k + W₂ σ(W₁ z + b₁) of z = (h, m, u), or (h, u) where there is no momentum.

    A linear law with a polynomial stiffness, and a small network that corrects both. Units of tanh are bounded: far
    from the data the network adds a constant, and the law goes on as its polynomial. In its linear part alone,
    h'' = -K h - D h' + B u, the diagonal of D is the damping γ of a heavy ball. Units "relu", ½(z + √(z² + 0.01)), fit
    what has kinks, such as a tank that overflows.

    Parameters
    ----------
    size, inputs
        Channels D of h and C of u.
    degree
        The highest power of h, of each channel by itself; 1: none.
    hidden
        Units of the network, or of each of its layers; 0: none.
    momentum
        Whether f is a function of m as well.
    known
        A further term, f(t, h, m, u) or f(t, h, u), which is added.
    unit
        "tanh" or "relu".

    Examples
    --------
    >>> from hbode.timeseries.identification import Force
    >>> force = Force(2, 1, degree=3)
    """

    def __init__(
        self,
        size: int,
        inputs: int,
        degree: int = 3,
        hidden: int | tuple[int, ...] = 8,
        momentum: bool = True,
        known: Callable[..., Tensor] | None = None,
        unit: str = "tanh",
    ) -> None:
        super().__init__()
        self.sigma = torch.tanh if unit == "tanh" else smooth_relu
        total = size * (1 + momentum) + inputs
        self.size, self.known = size, known
        self.linear = nn.Linear(total, size)
        self.powers = nn.Parameter(torch.zeros(max(degree - 1, 0), size))
        layers = layers_of(hidden)
        self.inner = self.outer = None
        if layers:
            self.inner = nn.Linear(total, layers[0]) if len(layers) == 1 else Layers(total, layers, self.sigma)
            self.outer = nn.Linear(layers[-1], size, bias=False)
        eye = torch.eye(size)
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.weight[:, :size] = -eye
            if momentum:
                self.linear.weight[:, size : 2 * size] = -0.2 * eye

    def forward(self, t: Tensor, *state: Tensor) -> Tensor:
        """Return f, shape of h."""
        h = state[0]
        z = torch.cat(state, -1)
        out: Tensor = self.linear(z)
        power = h
        for c in self.powers.unbind():  # iterated over, its rows would be inputs of a compiled loop that share memory
            power = power * h
            out = out + c * power
        if self.inner is not None and self.outer is not None:
            out = out + self.outer(self.sigma(self.inner(z)))
        return out if self.known is None else out + self.known(t, *state)


class Layers(nn.Module):
    """Dense layers with σ between them, and none behind the last.

    The first has its weight as (inputs, units): compiled, a layer of few inputs is then a sum within the kernel of σ.
    """

    def __init__(self, inputs: int, layers: tuple[int, ...], sigma: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        first = nn.Linear(inputs, layers[0])
        self.sigma = sigma
        self.weight = nn.Parameter(first.weight.detach().T.contiguous())
        self.bias = first.bias
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))

    def forward(self, z: Tensor) -> Tensor:
        """Return the last layer of z (..., inputs), before σ."""
        out = z @ self.weight + self.bias
        for layer in self.dense:
            out = layer(self.sigma(out))
        return out


def layers_of(hidden: int | Sequence[int]) -> tuple[int, ...]:
    """Return the units of each layer, none for 0."""
    layers = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    return () if layers == (0,) else layers


def smooth_relu(z: Tensor) -> Tensor:
    """Return ½(z + √(z² + 0.01))."""
    return (z + (z * z + 0.01).sqrt()) / 2


@dataclass(frozen=True)
class Structure:
    """What a model is made of; see `SystemIdentifier`.

    Examples
    --------
    >>> from hbode.timeseries.identification import Structure
    >>> Structure(2, 1, "hbnode").model
    'hbnode'
    """

    outputs: int
    inputs: int
    model: str = "hbnode"
    states: int | None = None
    degree: int = 3
    hidden: int | tuple[int, ...] = 8
    readout: str = "position"
    method: str = "rk4"
    substeps: int = 2
    unit: str = "tanh"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    corrected: tuple[str, ...] = ("potential", "damping")

    def __post_init__(self) -> None:
        choices = ("model", self.model, STRUCTURES), ("readout", self.readout, READOUTS), ("unit", self.unit, UNITS)
        for name, given, allowed in choices:
            if given not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")
        check_at_least(degree=self.degree, hidden=min(layers_of(self.hidden), default=1), substeps=self.substeps)
        if not set(self.corrected) <= set(port.CORRECTED):
            raise ValueError(f"corrected must be among {', '.join(port.CORRECTED)}, got {', '.join(self.corrected)}")
        if self.model == "port" and self.unit != "tanh":
            raise ValueError(f"unit must be 'tanh' for model='port', whose network is a potential, got {self.unit!r}")
        if self.size < self.outputs and not self.combined:
            raise ValueError(f"states must be at least {self.outputs}, one for each output, got {self.size}")

    @property
    def size(self) -> int:
        """Channels of h."""
        return self.outputs if self.states is None else self.states

    @property
    def combined(self) -> bool:
        """Whether outputs are combinations of the state that are learned."""
        return self.readout in ("linear", "square")

    @property
    def hidden_state(self) -> bool:
        """Whether the state is not seen in the outputs and their slopes."""
        return self.readout != "position" or self.size != self.outputs or bool(self.low or self.high)

    @property
    def momentum(self) -> bool:
        """Whether the state has a momentum."""
        return self.model != "node"

    def build(self, known: Callable[..., Tensor] | None = None) -> NeuralStateSpace:
        """Return an untrained model in float64; weights are drawn from torch's generator."""
        system = LAWS[self.model].system(self, known)
        readout: nn.Module = PositionReadout(self.outputs, self.readout == "absolute")
        if self.combined:
            total = self.size * (1 + self.momentum)
            readout = LinearReadout(self.outputs, total, self.inputs, self.readout == "square")
        if self.low or self.high:
            none = [float("inf")] * self.outputs
            low, high = self.low or [-x for x in none], self.high or none
            readout = Limited(readout, torch.tensor(low), torch.tensor(high))
        model = NeuralStateSpace(system, readout, self.size, method=self.method, substeps=self.substeps)
        return model.double()

    def linear_start(self, model: NeuralStateSpace, y: Tensor, slopes: Tensor, curvatures: Tensor, u: Tensor) -> None:
        """Set all but the networks of a model by least squares on smoothed derivatives, all (N, C)."""
        LAWS[self.model].linear_start(model, y, slopes, curvatures, u)

    def random_start(self, model: NeuralStateSpace) -> None:
        """Set all but the networks of a model at random."""
        LAWS[self.model].random_start(model)


def linear_start(model: NeuralStateSpace, y: Tensor, slopes: Tensor, curvatures: Tensor, u: Tensor) -> None:
    """Set the linear law and the polynomial of a model by least squares on smoothed derivatives, all (N, C)."""
    force: Any = model.system.f
    size, momentum = force.size, model.system.second_order
    if y.shape[1] != size:
        return
    degree = len(force.powers) + 1
    z = torch.cat((y, slopes, u) if momentum else (y, u), 1)
    target = curvatures if momentum else slopes
    with torch.no_grad():
        if force.known is not None:
            state = (y, slopes, u) if momentum else (y, u)
            target = target - force.known(torch.zeros((), dtype=y.dtype), *state)
        for i in range(size):
            powers = [y[:, i : i + 1] ** k for k in range(2, degree + 1)]
            features = torch.cat((z, torch.ones_like(y[:, :1]), *powers), 1)
            found = torch.linalg.lstsq(features, target[:, i : i + 1], driver="gelsd").solution[:, 0]
            force.linear.weight[i] = found[: z.shape[1]]
            force.linear.bias[i] = found[z.shape[1]]
            force.powers[:, i] = found[z.shape[1] + 1 :]


def random_start(model: NeuralStateSpace) -> None:
    """Set the linear law at random: stable, with rates around one in the unit of time."""
    force: Any = model.system.f
    size, momentum = force.size, model.system.second_order
    with torch.no_grad():
        weight = force.linear.weight
        weight.normal_(0.0, 0.3)
        rates = torch.exp(torch.empty(size).uniform_(-1.5, 0.7))
        if momentum:
            weight[:, :size] = -torch.diag(rates.square())
            weight[:, size : 2 * size] = -torch.diag(2 * rates * torch.empty(size).uniform_(0.05, 0.7))
        else:
            drift = torch.randn(size, size) * 0.5
            weight[:, :size] = (drift - drift.T) / 2 - torch.diag(rates)


def _force(structure: Structure, known: Callable[..., Tensor] | None) -> System:
    of = structure
    force = Force(of.size, of.inputs, of.degree, of.hidden, of.momentum, known, of.unit)
    return SecondOrder(force) if of.momentum else FirstOrder(force)


def _port(structure: Structure, known: Callable[..., Tensor] | None) -> System:
    if known is not None:
        raise ValueError("known must be None for model='port', whose energy would leave it out; take model='hbnode'")
    of = structure
    if not isinstance(of.hidden, int):
        raise ValueError(f"hidden must be one number for model='port', got {of.hidden}")
    # a read-out that combines positions has what masses would say
    return port.port_system(of.size, of.inputs, of.degree, of.hidden, of.corrected, masses=not of.combined)


class Law(NamedTuple):
    """How the systems of one kind are made, and where their fit starts."""

    system: Callable[[Structure, Callable[..., Tensor] | None], System]
    linear_start: Callable[[NeuralStateSpace, Tensor, Tensor, Tensor, Tensor], None]
    random_start: Callable[[NeuralStateSpace], None]


LAWS = {
    "hbnode": Law(_force, linear_start, random_start),
    "node": Law(_force, linear_start, random_start),
    "port": Law(_port, port.linear_start, port.random_start),
}
