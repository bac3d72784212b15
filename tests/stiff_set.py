"""The problems of the published stiff test set, with their solutions at the end.

Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.10; Mazzia, Magherini, Test Set for Initial Value
Problem Solvers (Bari, 2008), which prints the solutions, by RADAU in quadruple precision at 1e-18; but of the ring
modulator, which ends sooner here. Absolute tolerances are in units of the relative one, as Hairer and Wanner have them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Problem(NamedTuple):
    """y' = f(t, y) from y(0) = start to the end, where the components `at` are known; atol is `share` times rtol."""

    f: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    end: float
    exact: Tensor
    share: float = 1.0
    at: list[int] | slice = slice(None)
    jump: float | None = None

    def error(self, y: Tensor) -> float:
        """Return the largest relative error of a component; absolute, as the tolerances are, where that is larger."""
        return ((y[self.at] - self.exact) / (self.exact.abs() + self.share)).abs().max().item()


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hires(t: Tensor, y: Tensor) -> Tensor:
    """High irradiance responses of plants: eight reactions."""
    a, b, c, d, e, g, h, i = y
    bound = 280 * g * i - 1.81 * h
    return torch.stack(
        (
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * g + 0.43 * h,
            -280 * g * i + 0.69 * d + 1.71 * e - 0.43 * g + 0.69 * h,
            bound,
            -bound,
        )
    )


def rober(t: Tensor, y: Tensor) -> Tensor:
    """Robertson's reactions."""
    slow, fast, decay = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return torch.stack((fast - slow, slow - fast - decay, decay))


def orego(t: Tensor, y: Tensor) -> Tensor:
    """The Oregonator: a relaxation oscillation."""
    a, b, c = y
    return torch.stack((77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)))


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's oscillator, ε = 1e-6."""
    return torch.stack((y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / 1e-6))


def e5(t: Tensor, y: Tensor) -> Tensor:
    """Pyrolysis: components of 1e-22 over times up to 1e13."""
    first, fast, second, back = 7.89e-10 * y[0], 1.1e7 * y[0] * y[2], 1.13e9 * y[1] * y[2], 1.13e3 * y[3]
    return torch.stack((-first - fast, first - second, first - second - fast + back, fast - back))


REACTIONS = (
    (0.35, (1,), (2, 3)),
    (26.6, (2, 4), (1,)),
    (1.23e4, (5, 2), (1, 6)),
    (8.6e-4, (7,), (5, 5, 8)),
    (8.2e-4, (7,), (8,)),
    (1.5e4, (7, 6), (5, 8)),
    (1.3e-4, (9,), (10, 5, 8)),
    (2.4e4, (9, 6), (11,)),
    (1.65e4, (11, 2), (1, 10, 12)),
    (9e3, (11, 1), (13,)),
    (0.022, (13,), (11, 1)),
    (1.2e4, (10, 2), (14, 1)),
    (1.88, (14,), (7, 5)),
    (1.63e4, (1, 6), (15,)),
    (4.8e6, (3,), (4,)),
    (3.5e-4, (4,), (16,)),
    (0.0175, (4,), (3,)),
    (1e8, (16,), (6, 6)),
    (4.44e11, (16,), (3,)),
    (1.24e3, (17, 6), (18, 5)),
    (2.1, (19,), (2,)),
    (5.78, (19,), (1, 3)),
    (0.0474, (1, 4), (19,)),
    (1.78e3, (19, 1), (20,)),
    (3.12, (20,), (19, 1)),
)
"""Rate, species that react, and those that come of it, counted from one as published."""
RATES = double(*(rate for rate, _, _ in REACTIONS))
LEFT, RIGHT = torch.tensor([(before[0] - 1, before[1] - 1 if before[1:] else 20) for _, before, _ in REACTIONS]).T
BALANCE = torch.zeros(20, 25, dtype=torch.float64)
for _j, (_, _before, _after) in enumerate(REACTIONS):
    for _species in _before:
        BALANCE[_species - 1, _j] -= 1
    for _species in _after:
        BALANCE[_species - 1, _j] += 1


def pollution(t: Tensor, y: Tensor) -> Tensor:
    """Air pollution: 25 reactions of 20 species (Verwer 1994)."""
    known = torch.cat((y, torch.ones_like(y[:1])))
    return BALANCE @ (RATES * known[LEFT] * known[RIGHT])


C, CS, CP, LH, LS1, LS2, LS3 = 1.6e-8, 2e-12, 1e-8, 4.45, 2e-3, 5e-4, 5e-4
LINEAR = torch.zeros(15, 15, dtype=torch.float64)
for _i, _j, _weight in (
    *((1, 8, 1 / C), (1, 10, -0.5 / C), (1, 11, 0.5 / C), (1, 14, 1 / C), (1, 1, -1 / (25e3 * C))),
    *((2, 9, 1 / C), (2, 12, -0.5 / C), (2, 13, 0.5 / C), (2, 15, 1 / C), (2, 2, -1 / (25e3 * C))),
    *((3, 10, 1 / CS), (4, 11, -1 / CS), (5, 12, 1 / CS), (6, 13, -1 / CS), (7, 7, -1 / (50 * CP))),
    *((8, 1, -1 / LH), (9, 2, -1 / LH)),
    *((10, 1, 0.5 / LS2), (10, 3, -1 / LS2), (10, 10, -17.3 / LS2)),
    *((11, 1, -0.5 / LS3), (11, 4, 1 / LS3), (11, 11, -17.3 / LS3)),
    *((12, 2, 0.5 / LS2), (12, 5, -1 / LS2), (12, 12, -17.3 / LS2)),
    *((13, 2, -0.5 / LS3), (13, 6, 1 / LS3), (13, 13, -17.3 / LS3)),
    *((14, 1, -1 / LS1), (14, 14, -(50 + 36.3) / LS1), (15, 2, -1 / LS1), (15, 15, -(600 + 36.3) / LS1)),
):
    LINEAR[_i - 1, _j - 1] = _weight
DIODES = torch.zeros(4, 15, dtype=torch.float64)  # the voltage at each
for _j, _signs in enumerate(({3: 1, 5: -1, 7: -1}, {4: -1, 6: 1, 7: -1}, {4: 1, 5: 1, 7: 1}, {3: -1, 6: -1, 7: 1})):
    for _i, _sign in _signs.items():
        DIODES[_j, _i - 1] = _sign
CURRENTS = torch.zeros(15, 4, dtype=torch.float64)  # of each
CURRENTS[2:7] = double(-1, 0, 0, 1, 0, 1, -1, 0, 1, 0, -1, 0, 0, -1, 0, 1, 1, 1, -1, -1).reshape(5, 4)
CURRENTS[2:7] /= double(CS, CS, CS, CS, CP).unsqueeze(1)
CARRIER, SOURCE = double(-2, -2, 2, 2), torch.eye(15, dtype=torch.float64)[13] * 0.5 / LS1


def ring_modulator(t: Tensor, y: Tensor) -> Tensor:
    """Four diodes in a ring, which modulate 10 kHz by 1 kHz (Horneber 1976)."""
    u = DIODES @ y + CARRIER * torch.sin(2e4 * torch.pi * t)
    currents = 40.67286402e-9 * torch.expm1(17.7493332 * u)
    return LINEAR @ y + CURRENTS @ currents + SOURCE * torch.sin(2e3 * torch.pi * t)


NODES = torch.arange(1, 201, dtype=torch.float64) / 200


def medazko(t: Tensor, y: Tensor) -> Tensor:
    """Medical Akzo Nobel: an antibody diffuses into tissue and reacts, 200 nodes; the source ends at t = 5."""
    u, v = y.view(200, 2).T
    source = torch.where(t <= 5, 2.0, 0.0).to(u.dtype).reshape(1)
    before, after = torch.cat((source, u[:-1])), torch.cat((u[1:], u[-1:]))
    advected = (NODES - 1) ** 3 / 8 * (after - before) * 100
    diffused = (NODES - 1) ** 4 / 16 * (before - 2 * u + after) * 200**2
    reacted = 100 * u * v
    return torch.stack((advected + diffused - reacted, -reacted), 1).reshape(400)


PROBLEMS = {
    "hires": Problem(
        hires,
        double(1, 0, 0, 0, 0, 0, 0, 0.0057),
        321.8122,
        double(
            *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2),
            *(0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
        ),
        1e-4,
    ),
    "rober": Problem(
        rober,
        double(1, 0, 0),
        1e11,
        double(0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
        1e-6,
    ),
    "orego": Problem(
        orego, double(1, 2, 3), 360.0, double(1.000814870318523, 1228.178521549917, 132.0554942846706), 1e-6
    ),
    "vdpol": Problem(van_der_pol, double(2, 0), 2.0, double(1.706167732170483, -0.8928097010247975)),
    "pollu": Problem(
        pollution,
        double(0, 0.2, 0, 0.04, 0, 0, 0.1, 0.3, 0.01, 0, 0, 0, 0, 0, 0, 0, 0.007, 0, 0, 0),
        60.0,
        double(
            *(0.5646255480022769e-1, 0.1342484130422339, 0.4139734331099427e-8, 0.5523140207484359e-2),
            *(0.2018977262302196e-6, 0.1464541863493966e-6, 0.7784249118997964e-1, 0.3245075353396018),
            *(0.7494013383880406e-2, 0.1622293157301561e-7, 0.1135863833257075e-7, 0.2230505975721359e-2),
            *(0.2087162882798630e-3, 0.1396921016840158e-4, 0.8964884856898295e-2, 0.4352846369330103e-17),
            *(0.6899219696263405e-2, 0.1007803037365946e-3, 0.1772146513969984e-5, 0.5682943292316392e-4),
        ),
        1e-6,
    ),
    "e5": Problem(
        e5,
        double(1.76e-3, 0, 0, 0),
        1e13,
        double(0.1152903278711829e-290, 0.8867655517642120e-22, 0.8854814626268838e-22, 0.0),
        1.7e-20,
    ),
    "ring": Problem(
        ring_modulator,
        torch.zeros(15, dtype=torch.float64),
        1e-5,  # of 1e-3, which takes scipy's BDF 60,000 steps at 1e-4; by scipy's Radau at 1e-11 with the Jacobian
        double(
            *(0.01119026696, -0.0014260066494, 0.22671171534, -0.21997727163, -0.22628512785),
            *(0.22040385912, -0.13505828129, -7.0841608319e-09, 5.3169083575e-10, -0.0015256363669),
            *(-0.0015489194851, 0.0015489161971, 0.001525639655, 5.3931229871e-05, 8.1072501208e-07),
        ),
    ),
    "medazko": Problem(
        medazko,
        double(*(0.0, 1.0) * 200),
        20.0,
        double(0.2339942217046434e-3, 0.3595616017506735e-3, 0.1173741292680200e-3),
        1.0,
        [78, 148, 198],
        5.0,
    ),
}
