"""`model="port"`: laws with an energy are found again, in physical units, and never gain energy by themselves."""

import numpy as np
import pytest
import torch
from torch.func import vmap

from hbode import CubicInput, SecondOrder, hbodeint
from hbode.timeseries import Records
from hbode.timeseries.identification import SystemIdentifier
from hbode.timeseries.identification.port import CorrectedPotential
from hbode.timeseries.identification.structures import Structure

MASSES = np.array([1.0, 2.5])
SPRINGS, CUBICS = (9.0, 6.0), (4.0, 8.0)
DAMPING = np.array([[0.5, -0.2], [-0.2, 0.3]])
MEAN, UNITS = np.array([1.0, -2.0]), np.array([1.0, 20.0])


def potential(x):
    """Of two masses in a row: the first hangs on a wall, the second on the first, both by springs that harden."""
    stretched = (x[..., 0], x[..., 1] - x[..., 0])
    return sum(k * s**2 / 2 + c * s**4 / 4 for k, c, s in zip(SPRINGS, CUBICS, stretched, strict=True))


def chain(rows, seed=0):
    """Return a record of both masses, pushed at the second, the first in m around 1, the other in 5 cm around -2."""
    rng, t = np.random.default_rng(seed), np.arange(rows) / 20
    u = np.convolve(rng.normal(size=rows + 100), np.ones(8) / 8, "same")[:rows] * 6
    push = CubicInput(torch.from_numpy(t), torch.from_numpy(u).unsqueeze(1))
    damping, masses = torch.from_numpy(DAMPING), torch.from_numpy(MASSES)

    def law(t, h, m, u):
        inner, outer = (k * s + c * s**3 for k, c, s in zip(SPRINGS, CUBICS, (h[0], h[1] - h[0]), strict=True))
        return (torch.stack((outer - inner, u[0] - outer)) - damping @ m) / masses

    h0 = torch.zeros(2, dtype=torch.float64)
    sol = hbodeint(SecondOrder(law), h0, torch.from_numpy(t), inputs=push, rtol=1e-9, atol=1e-9, method="dopri8")
    y = MEAN + UNITS * sol.h.numpy()
    return Records.from_arrays(t, y, u, outputs=["a (m)", "b (5 cm)"], inputs=["F (N)"])


@pytest.fixture(scope="module")
def fitted():
    records = chain(400)
    settings = {"initial": 20, "seeds": 1, "evaluations": 25, "substeps": 3}
    return SystemIdentifier("port", degree=3, hidden=0, **settings).fit(records.rows(0, 300)), records


def test_a_chain_of_masses_is_found_again(fitted):
    model, records = fitted
    law, found = model.describe().energy, model.describe()
    print(found, model.score(records.rows(300, None)))
    x = (found.equilibrium - MEAN) / UNITS
    scale = np.outer(UNITS, UNITS)
    print(law.masses * UNITS**2 / MASSES - 1, law.damping * scale / DAMPING - 1, law.gain)
    for i in range(2):
        at = np.tile(x, (201, 1))
        at[:, i] = (found.curves[i].position - MEAN[i]) / UNITS[i]
        mean = float(model.scaling_.inputs.mean[0])
        exact = potential(at) - potential(x) - mean * (at[:, 1] - x[1])
        print(np.abs(exact - law.potentials[i]).max() / exact.max())
    assert 0
