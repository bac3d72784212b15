"""The problems of DETEST, the nonstiff test set, all from t = 0 to 20.

Hull, Enright, Fellen, Sedgwick, Comparing numerical methods for ordinary differential equations (SIAM J. Numer. Anal.
9, 1972); Enright, Pryce, Two FORTRAN packages for assessing initial value methods (ACM TOMS 13, 1987). Classes: A
single equations, B small systems, C moderate systems, D Kepler orbits, E equations of second order.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import OdeSolution, solve_ivp
from torch import Tensor

END = 20.0


class Problem(NamedTuple):
    """y' = f(t, y) from y(0) = start."""

    f: Callable[[Tensor, Tensor], Tensor]
    start: Tensor

    def rates(self, t: float, y: np.ndarray) -> np.ndarray:
        """Return f for arrays."""
        return self.f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()

    def reference(self) -> OdeSolution:
        """Return the solution by DOP853 to thirteen digits, for any times."""
        call = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13, "dense_output": True}
        return solve_ivp(self.rates, (0, END), self.start.numpy(), **call).sol


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def a1(t: Tensor, y: Tensor) -> Tensor:
    """Decay."""
    return -y


def a2(t: Tensor, y: Tensor) -> Tensor:
    """A special case of Riccati's equation."""
    return -(y**3) / 2


def a3(t: Tensor, y: Tensor) -> Tensor:
    """A rate that oscillates."""
    return y * torch.cos(t)


def a4(t: Tensor, y: Tensor) -> Tensor:
    """A logistic curve."""
    return y / 4 * (1 - y / 20)


def a5(t: Tensor, y: Tensor) -> Tensor:
    """A spiral."""
    return (y - t) / (y + t)


def b1(t: Tensor, y: Tensor) -> Tensor:
    """Two populations in conflict."""
    met = y[0] * y[1]
    return torch.stack((2 * (y[0] - met), met - y[1]))


def b2(t: Tensor, y: Tensor) -> Tensor:
    """A linear reaction of three species."""
    return torch.stack((y[1] - y[0], y[0] - 2 * y[1] + y[2], y[1] - y[2]))


def b3(t: Tensor, y: Tensor) -> Tensor:
    """A nonlinear reaction of three species."""
    lost = y[1] ** 2
    return torch.stack((-y[0], y[0] - lost, lost))


def b4(t: Tensor, y: Tensor) -> Tensor:
    """A curve on a torus."""
    r = torch.hypot(y[0], y[1])
    return torch.stack((-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r))


def b5(t: Tensor, y: Tensor) -> Tensor:
    """A rigid body without forces: Euler's equations."""
    return torch.stack((y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]))


def linear(rates: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the field y' = rates y."""
    return lambda t, y: rates @ y


def chain(rates: Tensor) -> Tensor:
    """Return the matrix of a chain of decays at these rates, the last of which is stable."""
    last = torch.zeros_like(rates[:1])
    return torch.diag(rates, -1) - torch.diag(torch.cat((rates, last)))


def diffusion(n: int) -> Tensor:
    """Return the second difference of n nodes, whose neighbours on both ends are held at zero."""
    near = torch.ones(n - 1, dtype=torch.float64)
    return torch.diag(near, 1) + torch.diag(near, -1) - 2 * torch.eye(n, dtype=torch.float64)


def first(n: int) -> Tensor:
    """Return the start (1, 0, ..., 0)."""
    return torch.eye(n, dtype=torch.float64)[0]


NINE = torch.arange(1, 10, dtype=torch.float64)
GRAVITY, SUN = 2.95912208286, 1.00000597682
PLANETS = double(9.54786104043e-4, 2.85583733151e-4, 4.37273164546e-5, 5.17759138449e-5, 2.77777777778e-6)


def c5(t: Tensor, y: Tensor) -> Tensor:
    """The five outer planets about the sun, which also moves: places (5, 3), and then velocities (100 days, AU)."""
    place, velocity = y.view(2, 5, 3)
    pull = place / torch.linalg.vector_norm(place, dim=1, keepdim=True) ** 3  # towards the sun, by unit mass
    apart = place - place.unsqueeze(1)  # from each to each other
    far = torch.linalg.vector_norm(apart, dim=2) + torch.eye(5, dtype=y.dtype)
    between = (apart * (PLANETS / far**3).unsqueeze(2)).sum(1)
    moved = -SUN * pull - (PLANETS.unsqueeze(1) * pull).sum(0) + between
    return torch.cat((velocity.reshape(15), GRAVITY * moved.reshape(15)))


OUTER = double(
    *(3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def kepler(t: Tensor, y: Tensor) -> Tensor:
    """An orbit of two bodies."""
    place, velocity = y.view(2, 2)
    return torch.cat((velocity, -place / torch.linalg.vector_norm(place) ** 3))


def perihelion(e: float) -> Tensor:
    """Return where an orbit of eccentricity e starts."""
    return double(1 - e, 0, 0, ((1 + e) / (1 - e)) ** 0.5)


def e1(t: Tensor, y: Tensor) -> Tensor:
    """Bessel's equation of order one half, from 1 on."""
    x = t + 1
    return torch.stack((y[1], -y[1] / x - (1 - 0.25 / x**2) * y[0]))


def e2(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's oscillator."""
    return torch.stack((y[1], (1 - y[0] ** 2) * y[1] - y[0]))


def e3(t: Tensor, y: Tensor) -> Tensor:
    """Duffing's oscillator."""
    return torch.stack((y[1], y[0] ** 3 / 6 - y[0] + 2 * torch.sin(2.78535 * t)))


def e4(t: Tensor, y: Tensor) -> Tensor:
    """A body that falls in air."""
    return torch.stack((y[1], 0.032 - 0.4 * y[1] ** 2))


def e5(t: Tensor, y: Tensor) -> Tensor:
    """A linear pursuit."""
    return torch.stack((y[1], torch.sqrt(1 + y[1] ** 2) / (25 - t)))


PROBLEMS = {
    "A1": Problem(a1, double(1)),
    "A2": Problem(a2, double(1)),
    "A3": Problem(a3, double(1)),
    "A4": Problem(a4, double(1)),
    "A5": Problem(a5, double(4)),
    "B1": Problem(b1, double(1, 3)),
    "B2": Problem(b2, double(2, 0, 1)),
    "B3": Problem(b3, double(1, 0, 0)),
    "B4": Problem(b4, double(3, 0, 0)),
    "B5": Problem(b5, double(0, 1, 1)),
    "C1": Problem(linear(chain(torch.ones_like(NINE))), first(10)),
    "C2": Problem(linear(chain(NINE)), first(10)),
    "C3": Problem(linear(diffusion(10)), first(10)),
    "C4": Problem(linear(diffusion(51)), first(51)),
    "C5": Problem(c5, OUTER),
    **{f"D{i + 1}": Problem(kepler, perihelion(e)) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))},
    "E1": Problem(e1, double(0.6713967071418030, 0.09540051444747446)),
    "E2": Problem(e2, double(2, 0)),
    "E3": Problem(e3, double(0, 0)),
    "E4": Problem(e4, double(30, 0)),
    "E5": Problem(e5, double(0, 0)),
}
