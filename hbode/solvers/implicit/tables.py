"""Coefficients of implicit one-step methods."""

from __future__ import annotations

import math
from dataclasses import fields, replace

from .collocation import CollocationTableau
from .dirk import DirkTableau
from .imex import ImexTableau
from .quartic import fourth_power


def _kvaerno3() -> DirkTableau:
    g = 0.43586652150845899941601945
    rows = (
        (0.0,),
        (g, g),
        ((-4 * g * g + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g), g),
        ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g * g + 6 * g - 1) / (6 * g - 3), g),
    )
    return _embedded(3, (0.0, 2 * g, 1.0, 1.0), rows)


def _kvaerno5() -> DirkTableau:
    rows = (
        (0.0,),
        (0.26, 0.26),
        (0.13, 0.84033320996790809, 0.26),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
        (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, 0.26),
        (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26),
        (
            *(0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403),
            *(0.06962479448202728, 0.26),
        ),
    )
    five = _embedded(5, (*(sum(row) for row in rows[:5]), 1.0, 1.0), rows)
    return replace(five, quartic=fourth_power(rows))


def _esdirk4() -> DirkTableau:
    rows = (
        (0.0,),
        (1 / 4, 1 / 4),
        (8611 / 62500, -1743 / 31250, 1 / 4),
        (5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 1 / 4),
        (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912, 1 / 4),
        (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4),
    )
    other = (
        *(4586570599 / 29645900160, 0.0, 178811875 / 945068544, 814220225 / 1159782912),
        *(-3700637 / 11593932, 61727 / 225920),
    )
    error = tuple(x - y for x, y in zip(rows[-1], other, strict=True))
    nodes = (0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0)
    return DirkTableau(4, nodes, rows, rows[-1], error, 3, fourth_power(rows))


def _ark3() -> ImexTableau:
    g = 1767732205903 / 4055673282236
    rows = (
        (0.0,),
        (g, g),
        (2746238789719 / 10658868560708, -640167445237 / 6845629431997, g),
        (1471266399579 / 7840856788654, -4482444167858 / 7529755066697, 11266239266428 / 11593286722821, g),
    )
    explicit: tuple[tuple[float, ...], ...] = (
        (),
        (2 * g,),
        (5535828885825 / 10492691773637, 788022342437 / 10882634858940),
        (
            *(6485989280629 / 16251701735622, -4246266847089 / 9704473918619),
            10755448449292 / 10357097424841,
        ),
    )
    other = (
        *(2756255671327 / 12835298489170, -10771552573575 / 22201958757719),
        *(9247589265047 / 10645013368117, 2193209047091 / 5459859503100),
    )
    error = tuple(x - y for x, y in zip(rows[-1], other, strict=True))
    return ImexTableau(3, (0.0, 2 * g, 3 / 5, 1.0), rows, rows[-1], error, 2, explicit=explicit)


def _ark4() -> ImexTableau:
    explicit: tuple[tuple[float, ...], ...] = (
        (),
        (1 / 2,),
        (13861 / 62500, 6889 / 62500),
        (-116923316275 / 2393684061468, -2731218467317 / 15368042101831, 9408046702089 / 11113171139209),
        (
            *(-451086348788 / 2902428689909, -2682348792572 / 7519795681897),
            *(12662868775082 / 11960479115383, 3355817975965 / 11060851509271),
        ),
        (
            *(647845179188 / 3216320057751, 73281519250 / 8382639484533, 552539513391 / 3454668386233),
            *(3354512671639 / 8306763924573, 4040 / 17871),
        ),
    )
    implicit = _esdirk4()
    own = {entry.name: getattr(implicit, entry.name) for entry in fields(implicit)}
    return ImexTableau(**own, explicit=explicit)


def _with_quartic(tableau: CollocationTableau) -> CollocationTableau:
    """Return the tableau with a quartic on the slopes at both ends and in the stages."""
    rows = ((0.0,), *((0.0, *row) for row in tableau.a), (0.0, *tableau.b, 0.0))
    return replace(tableau, quartic=fourth_power(rows))


def _embedded(order: int, c: tuple[float, ...], rows: tuple[tuple[float, ...], ...]) -> DirkTableau:
    """Return a stiffly accurate method whose last stage but one is the embedded method, of an order less."""
    last, other = rows[-1], (*rows[-2], 0.0)
    error = tuple(x - y for x, y in zip(last, other, strict=True))
    return DirkTableau(order, c, rows, last, error, order - 1)


_G = 1 - 1 / math.sqrt(2)
_W = math.sqrt(2) / 4
DIRK: dict[str, DirkTableau] = {
    "implicit_euler": DirkTableau(1, (1.0,), ((1.0,),), (1.0,)),
    "implicit_midpoint": DirkTableau(2, (0.5,), ((0.5,),), (1.0,)),
    "trapezoid": DirkTableau(2, (0.0, 1.0), ((0.0,), (0.5, 0.5)), (0.5, 0.5)),
    "sdirk2": DirkTableau(2, (_G, 1.0), ((_G,), (1 - _G, _G)), (1 - _G, _G)),
    "trbdf2": DirkTableau(2, (0.0, 2 * _G, 1.0), ((0.0,), (_G, _G), (_W, _W, _G)), (_W, _W, _G)),
    "kvaerno3": _kvaerno3(),
    "esdirk4": _esdirk4(),
    "kvaerno5": _kvaerno5(),
}
"""Alexander's SDIRK2 (SIAM J. Numer. Anal. 14, 1977), TR-BDF2 (Bank et al., IEEE Trans. CAD 4, 1985), ESDIRK 3/2 and
5/4 (Kværnø, BIT 44, 2004), ESDIRK 4/3 (Kennedy, Carpenter, Appl. Numer. Math. 44, 2003). All nodes are within the step,
but one of kvaerno5, at 1.23 of it."""

IMEX: dict[str, ImexTableau] = {"imex_ark3": _ark3(), "imex_ark4": _ark4()}
"""ARK3(2)4L[2]SA and ARK4(3)6L[2]SA (Kennedy, Carpenter, Appl. Numer. Math. 44, 2003)."""

_R6, _R15, _R3 = math.sqrt(6), math.sqrt(15), math.sqrt(3)
COLLOCATION: dict[str, CollocationTableau] = {
    "radauIIA3": CollocationTableau(3, (1 / 3, 1.0), ((5 / 12, -1 / 12), (0.75, 0.25)), (0.75, 0.25)),
    "radauIIA5": _with_quartic(
        CollocationTableau(
            5,
            ((4 - _R6) / 10, (4 + _R6) / 10, 1.0),
            (
                ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
                ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
                ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
            ),
            ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
            filter=1 / (3 + 3 ** (2 / 3) - 3 ** (1 / 3)),
        )
    ),
    "gl4": CollocationTableau(
        4, (0.5 - _R3 / 6, 0.5 + _R3 / 6), ((0.25, 0.25 - _R3 / 6), (0.25 + _R3 / 6, 0.25)), (0.5, 0.5)
    ),
    "gl6": _with_quartic(
        CollocationTableau(
            6,
            (0.5 - _R15 / 10, 0.5, 0.5 + _R15 / 10),
            (
                (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
                (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
                (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
            ),
            (5 / 18, 4 / 9, 5 / 18),
        )
    ),
}
"""Radau IIA and Gauss methods (Hairer, Wanner, Solving Ordinary Differential Equations II, 1996, IV.5). Of radauIIA5
errors are estimated, so that it chooses its steps (IV.8)."""
