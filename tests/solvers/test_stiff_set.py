"""The published stiff test set by the stiff methods: they finish, and are as exact as is written here.

Largest relative error at the end: of the worst of five methods at 1e-4, of esdirk4 and prox_bdf4 at 1e-7 and of medazko
and e5, and of scipy's BDF and Radau with the exact Jacobian. One would like 1e-4 and 1e-6.

              1e-4    BDF     Radau     1e-7    BDF     Radau
    hires     1.5e-3  1.2e-3  1.5e-5    1.7e-6  1.3e-6  5.1e-9
    rober     1.9e-4  4.5e-5  8.0e-7    6.3e-7  2.6e-7  2.2e-10
    orego     1.7e-2  3.8e-4  1.1e-5    3.3e-5  1.0e-5  2.7e-9
    vdpol     2.6e-4  5.7e-4  4.7e-7    8.7e-7  1.2e-6  2.7e-10
    pollu     1.9e-4  2.6e-5  1.8e-6    4.2e-7  8.0e-8  1.9e-9
    ring      3.4e-5  1.3e-4  2.7e-6    2.7e-6  7.5e-8  3.9e-10
    medazko   2.8e-5  2.2e-5  4.8e-7            1.0e-7  6.8e-10
    e5        5.1e-17 2.7e-20 1.4e-20, absolute

What falls short: hires, orego, and, by a factor of two or three, rober, vdpol, pollu at 1e-4 (scipy's BDF on hires,
orego, vdpol); hires, orego and ring at 1e-7 (its BDF on hires, orego, vdpol); of orego at 1e-7, which takes minutes,
nothing is asserted. The Oregonator does by most: while it rests, errors of y2 add up, and its next pulse makes them
eight times as large. The ring modulator, over its first 1e-5, is solved with inner_share 0.01: what an inner solver
leaves by default rings on in its weakly damped circuits of 30 MHz, and esdirk4 at 1e-4 is 4e-2 off. E5 has y2 = y3 +
y4, which is all that holds y2 at the end: an inner solver keeps that to its tolerance of what y2 was before, Newton's
method with the exact Jacobian to rounding.
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
    ("ring", 1e-4): 3.4e-5,
    ("e5", 1e-4): 3e3,
    ("medazko", 1e-4): 2.8e-5,
    ("hires", 1e-7): 1.7e-6,
    ("rober", 1e-7): 6.3e-7,
    ("vdpol", 1e-7): 8.7e-7,
    ("pollu", 1e-7): 4.2e-7,
    ("ring", 1e-7): 2.7e-6,
}
"""The errors of the table, those of E5 in units of 1.7e-20."""


def cases():
    for problem, rtol in WORST:
        few = rtol < 1e-4 or problem in ("e5", "medazko")
        for name in ("esdirk4", "prox_bdf4") if few else ("auto", "esdirk4", "kvaerno5", "prox_bdf3", "prox_bdf4"):
            yield problem, rtol, name


@pytest.mark.slow  # 1 to 10 s each at 1e-4, and up to 20 s of pollu, medazko and e5 and at 1e-7
@pytest.mark.parametrize(("problem", "rtol", "name"), cases())
def test_a_problem_of_the_set(problem, rtol, name):
    chosen = PROBLEMS[problem]
    options = {} if chosen.jump is None else {"jump_ts": [chosen.jump]}
    if problem == "ring":
        options["inner_share"] = 0.01
    call = {"method": name, "rtol": rtol, "atol": chosen.share * rtol, "options": options}
    with torch.no_grad():
        sol = hbodeint(FirstOrder(chosen.f), chosen.start, [0.0, chosen.end], **call)
    assert chosen.error(sol.h[-1]) <= MARGIN * WORST[problem, rtol]
