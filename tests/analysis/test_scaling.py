"""How rates and evaluations grow with L: the valley against the gradient of its potential, powers that are known."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from hbode import FirstOrder, SolverError, hbodeint
from hbode.analysis import Inputs, Scaling, Valley, scaling

COARSE = {"tolerance": 1e-3}


def by_hand(**changes):
    """Return a `Scaling` with exact powers: rates L and 5 √L, evaluations 3 L^0.9 and 7 L^0.4."""
    sizes = (10.0, 40.0, 160.0)
    fields = {
        "sizes": sizes,
        "rate": {"node": sizes, "hbnode": tuple(5 * x**0.5 for x in sizes)},
        "nfe": {"node": tuple(3 * x**0.9 for x in sizes), "hbnode": tuple(7 * x**0.4 for x in sizes)},
        "nfe_backward": {"node": tuple(2 * x**0.8 for x in sizes), "hbnode": (6.0, 6.0, 6.0)},
        "tolerance": 1e-3,
        "unit": "s",
    }
    return Scaling(**{**fields, **changes})


def linear(rate):
    """f(t, h) = -diag(1, rate) h."""
    rates = torch.tensor([1.0, rate], dtype=torch.float64)
    return lambda t, h: -rates * h


def start(draw):
    return draw(2, 2), [0.0, 0.5, 1.0]


# The valley


def potential(valley, steepness, size, t, h):
    """V as the docstring has it, in the turned coordinates."""
    x = h @ valley.turn
    away = x - torch.cos(t + torch.arange(size, dtype=torch.float64))
    rates = steepness ** (torch.arange(size, dtype=torch.float64) / (size - 1))
    return 0.5 * (rates * away**2).sum() + 0.5 * torch.log(torch.cosh(away)).sum()


@pytest.mark.parametrize("steepness, size, seed", [(1.0, 2, 0), (50.0, 5, 1), (1000.0, 16, 0)])
def test_the_valley_is_minus_the_gradient_of_its_potential(draw, steepness, size, seed):
    valley = Valley(steepness, size, seed)
    h = draw(3, size, grad=True)
    t = torch.tensor(0.7, dtype=torch.float64)
    (known,) = torch.autograd.grad(potential(valley, steepness, size, t, h), h)
    assert torch.allclose(valley(t, h), -known, rtol=1e-10, atol=1e-10 * steepness)


def test_its_coordinates_are_turned_by_a_rotation(draw):
    turn = Valley(10.0, 6).turn
    assert torch.allclose(turn.mT @ turn, torch.eye(6, dtype=torch.float64), atol=1e-12)
    assert float(turn.abs().max()) < 0.99
    assert torch.equal(turn, Valley(500.0, 6).turn)
    assert not torch.equal(turn, Valley(10.0, 6, seed=1).turn)


@pytest.mark.parametrize("steepness", [1.0, 30.0, 1000.0])
def test_its_jacobian_is_symmetric_with_a_spectrum_within_the_bounds(draw, steepness):
    valley = Valley(steepness, 8)
    for h in 3 * draw(20, 8):
        jacobian = torch.autograd.functional.jacobian(lambda x: valley(torch.tensor(0.3).double(), x), h)
        assert torch.allclose(jacobian, jacobian.mT, atol=1e-10 * steepness)
        values = torch.linalg.eigvalsh(jacobian)
        assert float(values[0]) >= -(steepness + 0.5) - 1e-9
        assert float(values[0]) <= -steepness
        assert float(values[-1]) <= -1.0 + 1e-9


def test_it_keeps_dtype_and_shape_and_takes_times_of_samples(draw):
    valley, h = Valley(20.0, 4), draw(3, 5, 4)
    t = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    out = valley(t, h)
    assert out.shape == h.shape
    for row, time, one in zip(h, t.flatten(), out, strict=True):
        assert torch.allclose(valley(time, row), one, rtol=1e-12)
    single = valley(t.float(), h.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        ((0.5,), "steepness must be at least 1 and finite, got 0.5"),
        ((math.inf,), "steepness must be at least 1"),
        ((math.nan,), "steepness must be at least 1"),
        ((10.0, 1), "size must be at least 2, got 1"),
    ],
)
def test_valleys_that_are_none(call, message):
    with pytest.raises(ValueError, match=message):
        Valley(*call)


# What is measured


@pytest.mark.slow
def test_rates_and_evaluations_of_the_valley_grow_by_the_known_powers(draw):
    """Over a decade of L: those of a NODE as L, those of a heavy ball as √L."""
    found = scaling(lambda size: Valley(size, 8), (100, 316, 1000), (draw(2, 8), [0.0, 1.0, 2.0]), **COARSE)
    assert list(found.rate) == ["node", "hbnode"]
    for name, power in (("node", 1.0), ("hbnode", 0.5)):
        assert found.slope(name) == pytest.approx(power, abs=0.05)
        assert found.slope(name, "nfe") == pytest.approx(power, abs=0.1)
        assert found.slope(name, "nfe_backward") == pytest.approx(power, abs=0.1)
    assert found.rate["node"] == pytest.approx((100, 316, 1000), rel=0.01)
    assert found.rate["hbnode"] == pytest.approx((10, 316**0.5, 1000**0.5), rel=0.01)


def test_rates_of_a_linear_field_are_its_eigenvalues(draw):
    sizes, gamma = (4.0, 9.0, 400.0), 0.5
    found = scaling(linear, sizes, start(draw), systems=("node", "sonode", "hbnode"), gamma=gamma, **COARSE)
    assert found.sizes == sizes
    assert found.rate["node"] == pytest.approx(sizes, rel=1e-12)
    for name, damping in (("sonode", 0.0), ("hbnode", gamma)):
        known = [np.abs(np.roots([1.0, damping, size])).max() for size in sizes]
        assert found.rate[name] == pytest.approx(known, rel=1e-10)


def test_damping_reaches_the_heavy_balls(draw):
    """Overdamped, the fastest mode is near -γ, whatever L: that of the slowest rate, one."""
    found = scaling(linear, (1.0, 4.0), start(draw), systems=("hbnode",), gamma=100.0, **COARSE)
    known = np.abs(np.roots([1.0, 100.0, 1.0])).max()
    assert found.rate["hbnode"] == pytest.approx((known, known), rel=1e-10)


def test_a_generalised_heavy_ball_is_measured_as_it_is(draw):
    """At rest, λ² + γ λ = -(L + ξ) with ξ = ln 2."""
    at_rest = torch.zeros(2, 2, dtype=torch.float64), [0.0, 1.0]
    found = scaling(linear, (4.0, 100.0), at_rest, systems=["ghbnode"], gamma=0.5, **COARSE)
    known = [np.abs(np.roots([1.0, 0.5, size + math.log(2)])).max() for size in (4.0, 100.0)]
    assert found.rate["ghbnode"] == pytest.approx(known, rel=1e-10)


def test_evaluations_are_those_that_the_field_counts(draw, counted):
    """In a solve of the same, forward and backward."""
    h0, t = draw(2, 2, grad=True), [0.0, 0.5, 1.0]
    found = scaling(linear, (2.0, 50.0), (h0, t), systems=("node",), **COARSE)
    for i, size in enumerate((2.0, 50.0)):
        field = counted(linear(size))
        sol = hbodeint(FirstOrder(field), h0, t, rtol=1e-3, atol=1e-3)
        forward = field.calls
        torch.autograd.grad(sol.h[-1].sum(), h0)
        assert (found.nfe["node"][i], found.nfe_backward["node"][i]) == (forward, field.calls - forward)


def test_start_momentum_and_arguments_are_used(draw):
    h0, m0 = draw(2, 2), draw(2, 2)

    def make(size):
        return lambda t, h, k: -k * size * h

    inputs = Inputs(h0, [0.0, 1.0], m0, (torch.tensor(4.0, dtype=torch.float64),))
    found = scaling(make, (2.0, 8.0), inputs, systems=("node", "sonode"), **COARSE)
    assert found.rate["node"] == pytest.approx((8.0, 32.0), rel=1e-12)
    assert found.rate["sonode"] == pytest.approx((8**0.5, 32**0.5), rel=1e-10)
    other = scaling(make, (2.0, 8.0), inputs._replace(m0=100 * m0), systems=("sonode",), **COARSE)
    assert other.nfe["sonode"] != found.nfe["sonode"]


def test_each_system_is_measured_once_and_nothing_of_the_user_changes(draw):
    class Learned(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(size, dtype=torch.float64))

        def forward(self, t, h):
            return -self.rate * h

    fields = {size: Learned(size) for size in (1.0, 5.0)}
    h0 = draw(2, 2, grad=True)
    found = scaling(fields.__getitem__, (1, 5), (h0, [0.0, 1.0]), systems=("node", "hbnode", "node"), **COARSE)
    assert {name: len(rates) for name, rates in found.rate.items()} == {"node": 2, "hbnode": 2}
    assert h0.grad is None and all(f.rate.grad is None and f.rate.requires_grad for f in fields.values())


def test_without_gradients_around_it_and_without_a_batch(draw):
    h0 = draw(2)
    known = scaling(linear, (2.0, 8.0), (h0, [0.0, 1.0]), **COARSE)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = scaling(linear, (2.0, 8.0), (h0, [0.0, 1.0]), **COARSE)
        assert (found.rate, found.nfe, found.nfe_backward) == (known.rate, known.nfe, known.nfe_backward)


def test_other_methods_and_gradients(draw):
    call = {"method": "rk4", "gradient": "backprop", "systems": ("node",)}
    found = scaling(linear, (2.0, 3.0), (draw(2, 2), torch.linspace(0, 1, 11)), **call, **COARSE)
    assert found.nfe["node"][0] == found.nfe["node"][1] >= 40 and found.nfe_backward["node"] == (0, 0)
    assert found.slope("node", "nfe") == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(found.slope("node", "nfe_backward"))
    assert found.table()[-1][-1] == "–" and "nan" not in found.summary()
    assert found.as_json()["systems"]["node"]["powers of L"]["nfe_backward"] is None


# What it shows


def test_slopes_of_exact_powers():
    found = by_hand()
    for name, powers in {"node": (1.0, 0.9, 0.8), "hbnode": (0.5, 0.4, 0.0)}.items():
        slopes = [found.slope(name, quantity) for quantity in ("rate", "nfe", "nfe_backward")]
        assert slopes == pytest.approx(powers, abs=1e-12)
    assert found.slope("node") == found.slope("node", "rate")


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_slopes_of_what_is_not_known(bad):
    found = by_hand(rate={"node": (1.0, bad, 3.0), "hbnode": (1.0, 2.0, 4.0)})
    assert math.isnan(found.slope("node")) and found.slope("hbnode") == pytest.approx(0.5)
    json.dumps(found.as_json(), allow_nan=False)
    found.plot().savefig(io.BytesIO())


def test_table():
    found = by_hand()
    head, *rows = found.table()
    assert head == ("system", "L", "max |λ|", "NFE forward", "NFE backward")
    assert [row[0] for row in rows] == ["node"] * 4 + ["hbnode"] * 4
    assert rows[0] == ("node", "10", "10", f"{3 * 10**0.9:.0f}", f"{2 * 10**0.8:.0f}")
    assert rows[3] == ("node", "power of L", "1.00", "0.90", "0.80")
    assert rows[7][:4] == ("hbnode", "power of L", "0.50", "0.40")
    assert "tol = 0.001" in found.summary() and repr(found) == found.summary()
    assert all(cell in found.summary() for row in rows for cell in row)


def test_rows_of_the_markdown_table_have_as_many_cells():
    lines = [line for line in by_hand().markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 10
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert r"max \|λ\|" in lines[0]


def test_json_has_the_numbers():
    found = by_hand()
    read = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert read["L"] == [10.0, 40.0, 160.0] and read["tolerance"] == 1e-3 and read["unit"] == "s"
    ball = read["systems"]["hbnode"]
    assert ball["max |λ|"] == list(found.rate["hbnode"]) and ball["nfe"] == list(found.nfe["hbnode"])
    assert ball["nfe backward"] == [6.0, 6.0, 6.0]
    assert ball["powers of L"]["rate"] == pytest.approx(0.5) and ball["expected power of the rate"] == 0.5
    assert read["systems"]["node"]["expected power of the rate"] == 1.0


def test_figure_has_the_powers_in_its_title_and_units_on_its_axes():
    found = by_hand()
    figure = found.plot()
    assert figure.get_suptitle() == (
        "The fastest mode grows: NODE as $L^{1.00}$, HBNODE as $L^{0.50}$\n"
        "Evaluations: NODE as $L^{0.90}$, HBNODE as $L^{0.40}$"
    )
    rate, nfe = figure.axes
    assert "(1 / s)" in rate.get_ylabel() and "evaluations" in nfe.get_ylabel()
    for panel, values in ((rate, found.rate), (nfe, found.nfe)):
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log") and "$L$" in panel.get_xlabel()
        assert [line.get_xydata().T.tolist() for line in panel.lines] == [
            [list(found.sizes), list(values[name])] for name in ("node", "hbnode")
        ]
        assert len({line.get_color() for line in panel.lines}) == 2
    labels = [text.get_text() for text in nfe.get_legend().get_texts()]
    assert labels == ["NODE: $L^{0.90}$", "HBNODE: $L^{0.40}$"]


def test_the_legend_covers_no_data():
    """Of four systems, also where the values fall."""
    names = "node", "sonode", "hbnode", "ghbnode"
    falling, near = ({name: (a + i, 100.0, b) for i, name in enumerate(names)} for a, b in ((9e4, 3.0), (105.0, 90.0)))
    for values in (falling, near):
        found = by_hand(rate=values, nfe=values, nfe_backward=values)
        figure = found.plot()
        figure.savefig(io.BytesIO())
        for panel in figure.axes:
            box = panel.get_legend().get_window_extent()
            for line in panel.lines:
                for x, y in panel.transData.transform(line.get_xydata()):
                    assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def test_axes_over_less_than_two_decades_have_labels():
    figure = by_hand(sizes=(10.0, 12.0, 13.0)).plot()
    figure.savefig(io.BytesIO())
    for axis in (figure.axes[0].xaxis, figure.axes[1].yaxis):
        low, high = axis.get_view_interval()
        shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        assert len(shown) >= 2 and high >= 4.99 * low


# Errors


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"sizes": [3.0]}, ValueError, "sizes must be two positive numbers or more"),
        ({"sizes": [3.0, 3.0]}, ValueError, "sizes must be two positive numbers or more"),
        ({"sizes": []}, ValueError, "sizes must be two positive numbers or more"),
        ({"sizes": [0.0, 1.0]}, ValueError, "sizes must be two positive numbers or more"),
        ({"sizes": [1.0, math.nan]}, ValueError, "sizes must be two positive numbers or more"),
        ({"sizes": [1.0, math.inf]}, ValueError, "sizes must be two positive numbers or more"),
        ({"systems": ("node", "other")}, ValueError, "systems must be some of node, sonode, hbnode, ghbnode"),
        ({"systems": ()}, ValueError, "systems must be some of"),
        ({"inputs": torch.ones(2)}, TypeError, "inputs must be Inputs or a tuple"),
        ({"field": lambda size: 3.0}, TypeError, "f must be callable"),
        ({"tolerance": -1.0}, ValueError, "rtol must be zero or positive"),
        ({"method": "nothing"}, ValueError, "method must be one of"),
        ({"field": lambda size: lambda t, h: size * h**3}, SolverError, "blow up"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    inputs = torch.full((2, 2), 3.0, dtype=torch.float64), [0.0, 1.0]
    with pytest.raises(error, match=message):
        scaling(**{"field": linear, "sizes": (1.0, 5.0), "inputs": inputs, **COARSE, **call})


def test_samples_that_interact_need_batch_false(draw):
    def make(size):
        return lambda t, h: -size * (h - 0.5 * h.mean(0))

    with pytest.raises(ValueError, match="must not interact"):
        scaling(make, (1.0, 2.0), start(draw), systems=("node",), **COARSE)
    found = scaling(make, (1.0, 2.0), start(draw), systems=("node",), batch=False, **COARSE)
    assert found.rate["node"] == pytest.approx((1.0, 2.0), rel=1e-10)
