"""The published stiff test set by the stiff methods: they finish, and are as exact as is written here.

Largest relative error at the end. Wanted: 1e-4 and 1e-6, which radauIIA5 reaches on all problems but E5. Of the others,
the worst of auto, esdirk4, kvaerno5, prox_bdf3 and prox_bdf4 at 1e-4, and of esdirk4 and prox_bdf4 at 1e-7 and of
medazko and e5; and of scipy's BDF and Radau with the exact Jacobian.

              1e-4                                  1e-7
              radauIIA5 others   BDF      Radau     radauIIA5 others   BDF      Radau
    hires     7.9e-5    1.5e-3   1.2e-3   1.5e-5    1.6e-8    1.7e-6   1.3e-6   5.1e-9
    rober     2.0e-7    1.9e-4   4.5e-5   8.0e-7    1.8e-10   7.2e-7   2.6e-7   2.2e-10
    orego     2.9e-6    1.7e-2   3.8e-4   1.1e-5    3.3e-9    3.3e-5   1.0e-5   2.7e-9
    vdpol     5.1e-7    2.6e-4   5.7e-4   4.7e-7    2.5e-10   1.1e-6   1.2e-6   2.7e-10
    pollu     9.9e-6    1.9e-4   2.6e-5   1.8e-6    8.8e-9    4.2e-7   8.0e-8   1.9e-9
    ring      4.1e-6    2.8e-5   1.3e-4   2.7e-6    1.6e-8    5.8e-5   7.5e-8   3.9e-10
    medazko             2.8e-5   2.2e-5   4.8e-7                       1.0e-7   6.8e-10
    e5        1.5e-18   5.1e-17  2.7e-20  1.4e-20   1.1e-20, absolute

The others fall short on hires, orego, and, by a factor of two or three, on rober, vdpol, pollu at 1e-4 (scipy's BDF
on hires, orego, vdpol); on hires, orego and ring at 1e-7 (its BDF on hires, orego, vdpol). The Oregonator does by
most: while it rests, errors of y2 add up, and its next pulse makes them eight times as large. The ring modulator is
solved over its first 1e-5; prox_bdf4, which is not stable near the imaginary axis, has errors of 6e-7 to 4e-4 of its
oscillation at tolerances of 1e-6 to 3e-8, in no order. E5 has y2 = y3 + y4, which is all that holds y2 at the end: an
inner solver keeps that to its tolerance of what y2 was before, Newton's method with the exact Jacobian to rounding.
"""

import pytest
import torch
from stiff_set import PROBLEMS

from hbode import FirstOrder, hbodeint

MARGIN = 10.0
"""Between what is measured and what is asserted: the last bit of an evaluation changes where steps end."""
WORST = {
    ("hires", 1e-4): 1.5e-3,
    ("rober", 1e-4): 1.9e-4,
    ("orego", 1e-4): 1.7e-2,
    ("vdpol", 1e-4): 2.6e-4,
    ("pollu", 1e-4): 1.9e-4,
    ("ring", 1e-4): 2.8e-5,
    ("e5", 1e-4): 3e3,
    ("medazko", 1e-4): 2.8e-5,
    ("hires", 1e-7): 1.7e-6,
    ("rober", 1e-7): 7.2e-7,
    ("vdpol", 1e-7): 1.1e-6,
    ("pollu", 1e-7): 4.2e-7,
    ("ring", 1e-7): 5.8e-5,
}
"""The errors of the table, those of E5 in units of 1.7e-20."""
EXACT = ("hires", "rober", "orego", "vdpol", "pollu", "ring")


def cases():
    for problem, rtol in WORST:
        few = rtol < 1e-4 or problem in ("e5", "medazko")
        for name in ("esdirk4", "prox_bdf4") if few else ("auto", "esdirk4", "kvaerno5", "prox_bdf3", "prox_bdf4"):
            yield problem, rtol, name


def solved(problem, rtol, name):
    """Return the error of a solve."""
    chosen = PROBLEMS[problem]
    options = {} if chosen.jump is None else {"jump_ts": [chosen.jump]}
    call = {"method": name, "rtol": rtol, "atol": chosen.share * rtol, "options": options}
    with torch.no_grad():
        sol = hbodeint(FirstOrder(chosen.f), chosen.start, [0.0, chosen.end], **call)
    return chosen.error(sol.h[-1])


@pytest.mark.slow  # 1 to 45 s each
@pytest.mark.parametrize("rtol", [1e-4, 1e-7])
@pytest.mark.parametrize("problem", EXACT)
def test_radau_is_as_exact_as_one_would_like(problem, rtol):
    """What is measured, 7.9e-5 of hires at 1e-4 and else a tenth of what is wanted, has a factor of ten."""
    wanted = 1e-4 if rtol == 1e-4 else 1e-6
    assert solved(problem, rtol, "radauIIA5") <= (MARGIN * wanted if (problem, rtol) == ("hires", 1e-4) else wanted)


@pytest.mark.slow  # 1 to 10 s each at 1e-4, and up to 20 s of pollu, medazko and e5 and at 1e-7
@pytest.mark.parametrize(("problem", "rtol", "name"), list(cases()))
def test_a_problem_of_the_set(problem, rtol, name):
    assert solved(problem, rtol, name) <= MARGIN * WORST[problem, rtol]
