"""Systems side by side: right-hand sides against formulas, numbers against closed forms and separate calls."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.analysis import Inputs, compare, gradient_decay, gradient_flow, profile, same_field, stiffness

QUICK = {"tolerance": 1e-3, "repeats": 1}
FOUR = ["node", "sonode", "hbnode", "ghbnode"]
SIGMOID = 1 / (1 + math.exp(3))
TIMES = torch.linspace(0, 1, 5, dtype=torch.float64)


class Potential(nn.Module):
    """f = -∇V for V = Σ cos(h W) + ‖h‖², with the gradient written out."""

    def __init__(self, dim=3, width=4):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(dim, width, generator=rng, dtype=torch.float64))

    def forward(self, t, h):
        return torch.sin(h @ self.w) @ self.w.T - 2.0 * h


def blows_up(t, h):
    """h' = 10 h³: infinite before t = 0.2 from h = 1."""
    return 10 * h**3


def squares(h, m):
    return (h**2).sum()


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


@pytest.fixture(scope="module")
def inputs():
    rng = torch.Generator().manual_seed(2)
    h0, m0 = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    return Inputs(h0, TIMES, m0)


@pytest.fixture(scope="module")
def compared(inputs):
    return compare(Potential(), inputs, unit="s", **QUICK)


@pytest.fixture(scope="module")
def with_failure():
    systems = {"good": HeavyBall(lambda t, h: -h, 0.2, trainable=False), "bad": FirstOrder(blows_up)}
    return compare(systems, (ones(2, 3), TIMES), unit="ms", **QUICK)


# The four systems


@pytest.mark.parametrize("gamma, xi", [(0.3, 0.8), (None, None)])
def test_the_four_systems_have_one_field_and_their_own_equations(net, draw, gamma, xi):
    f = net(3, 5)
    systems = same_field(f, gamma, xi)
    gamma, xi = (SIGMOID, math.log(2.0)) if gamma is None else (gamma, xi)
    t, h, m = torch.tensor(0.6, dtype=torch.float64), draw(2, 3), draw(2, 3)
    force = f(t, h)
    known = {
        "node": force,
        "sonode": torch.stack((m, force)),
        "hbnode": torch.stack((m, force - gamma * m)),
        "ghbnode": torch.stack((torch.tanh(m), force - gamma * m - xi * h)),
    }
    assert list(systems) == FOUR
    for name, system in systems.items():
        state = torch.stack((h, m)) if system.second_order else h
        assert torch.allclose(system.rhs(t, state, *system.coefficients()), known[name], rtol=1e-14, atol=1e-14)
        assert not [p for p in system.parameters() if not any(p is q for q in f.parameters())]


def test_damping_per_channel_reaches_both_heavy_balls():
    gamma, xi = torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.6])
    systems = same_field(lambda t, h: -h, gamma, xi)
    assert torch.equal(systems["hbnode"].gamma, gamma) and torch.equal(systems["ghbnode"].gamma, gamma)
    assert torch.equal(systems["ghbnode"].xi, xi)


def test_a_bare_field_is_compared_as_the_four_systems(compared):
    assert [row.name for row in compared.rows] == FOUR
    kinds = [FirstOrder, SecondOrder, HeavyBall, GeneralizedHeavyBall]
    assert [type(row.system) for row in compared.rows] == kinds
    assert [row.run.method for row in compared.rows] == ["dopri5", "dopri5", "dprkn6", "dopri5"]
    assert compared["hbnode"] is compared.rows[2]
    with pytest.raises(KeyError, match="name must be one of node, sonode, hbnode, ghbnode, got 'other'"):
        compared["other"]


# Numbers


def test_numbers_are_those_of_separate_calls(compared, inputs):
    for row in compared.rows:
        own = inputs if row.system.second_order else inputs._replace(m0=None)
        call = {"method": row.run.method, "rtol": 1e-3, "atol": 1e-3, "dense": True}
        sol = hbodeint(row.system, own.h0, own.t, m0=own.m0, **call)
        rates = stiffness(row.system, sol)
        for name, values in rates.quantities().items():
            assert torch.equal(row.stiffness.quantities()[name].nan_to_num(-1.0), values.nan_to_num(-1.0))
        assert torch.equal(row.gradient.norm, gradient_decay(sol, squares).norm)
        measured = {"methods": [row.run.method], "tolerances": [1e-3], "repeats": 1, "memory": False}
        (run,) = profile(row.system, own, **measured).runs
        for key in ("nfe", "nfe_backward", "accepted", "rejected", "error"):
            assert getattr(row.run, key) == getattr(run, key)
        if row.name in ("hbnode", "ghbnode"):
            flow = gradient_flow(row.system, sol, node=False)
            assert row.certificate.residuals == flow.residuals and row.certificate.holds == flow.holds
        else:
            assert row.certificate is None
        numbers = row.numbers()
        ratio = rates.ratio[rates.ratio.isfinite()].numpy()
        assert numbers["stiffness ratio"] == pytest.approx(np.median(ratio) if ratio.size else math.nan, nan_ok=True)
        assert numbers["max |λ|"] == pytest.approx(np.median(rates.largest.numpy()))
        assert numbers["stiffness index"] == pytest.approx(np.median(rates.index.numpy()))
        assert numbers["gradient decay"] == pytest.approx(np.median(row.gradient.decay.numpy()))
        assert (numbers["nfe"], numbers["nfe backward"], numbers["error"]) == (run.nfe, run.nfe_backward, run.error)


def test_numbers_of_a_linear_field_are_known(draw):
    """Rates 1, 4 and 25: max |λ| is 25 for the NODE, 5 for heavy balls; the gradients are matrix exponentials'."""
    rates, gamma = torch.tensor([1.0, 4.0, 25.0], dtype=torch.float64), 0.4
    systems = same_field(lambda t, h: -rates * h, gamma)
    del systems["ghbnode"]
    h0 = draw(3, 3)
    found = compare(systems, (h0, [0.0, 0.5, 2.0]), tolerance=1e-8, repeats=1)
    eye, zero, k = np.eye(3), np.zeros((3, 3)), -np.diag(rates)
    matrices = {
        "node": k,
        "sonode": np.block([[zero, eye], [k, zero]]),
        "hbnode": np.block([[zero, eye], [k, -gamma * eye]]),
    }
    for name, matrix in matrices.items():
        numbers = found[name].numbers()
        values = np.linalg.eigvals(matrix)
        assert numbers["max |λ|"] == pytest.approx(np.abs(values).max(), rel=1e-10)
        assert numbers["stiffness index"] == pytest.approx(2 * np.abs(values).max(), rel=1e-10)
        flow = expm(2 * matrix)
        start = np.pad(h0.numpy(), ((0, 0), (0, len(matrix) - 3)))
        end = np.pad(2 * (start @ flow.T)[:, :3], ((0, 0), (0, len(matrix) - 3)))
        decay = np.linalg.norm(end @ flow, axis=1) / np.linalg.norm(end, axis=1)
        assert numbers["gradient decay"] == pytest.approx(np.median(decay), rel=1e-5)
        assert 0 < numbers["error"] < 1e-6
    assert found["node"].numbers()["stiffness ratio"] == pytest.approx(25.0, rel=1e-10)
    assert math.isnan(found["sonode"].numbers()["stiffness ratio"])  # its modes do not decay
    assert found["hbnode"].numbers()["stiffness ratio"] == pytest.approx(1.0, rel=1e-8)
    assert found["hbnode"].certificate.holds


def test_evaluations_are_those_that_the_field_counts(counted, draw):
    h0, field = draw(2, 3, grad=True), counted(lambda t, h: -4 * h)
    found = compare(lambda t, h: -4 * h, (h0, TIMES), **QUICK)
    for name, system in same_field(field).items():
        field.calls = 0
        sol = hbodeint(system, h0, TIMES, rtol=1e-3, atol=1e-3)
        assert found[name].run.nfe == field.calls
        torch.autograd.grad(squares(sol.h[-1], None), h0)
        assert found[name].run.nfe + found[name].run.nfe_backward == field.calls


def test_certificates_hold_for_gradient_fields(compared):
    flow = compared["hbnode"].certificate
    assert flow.gradient_field and flow.holds and flow.residuals["singular_value_pairing"] is not None
    assert compared["ghbnode"].certificate.holds
    assert [row[-1] for row in compared.table()[1:]] == ["–", "–", "holds", "holds"]


def test_certificates_are_asked_for_up_to_the_limit(draw):
    ball = {"ball": HeavyBall(lambda t, h: -h, trainable=False)}
    for limit, batch, known in ((6, None, True), (5, None, False), (6, False, False), (12, False, True)):
        found = compare(ball, (draw(2, 3), [0.0, 1.0]), dense_limit=limit, batch=batch, **QUICK)
        assert (found["ball"].certificate is not None) == known


# Arguments


def test_systems_have_the_names_that_were_given(draw):
    systems = {"my system": FirstOrder(lambda t, h: -h), "other": SecondOrder(lambda t, h, m: -h - m)}
    found = compare(systems, (draw(2, 3), TIMES), **QUICK)
    assert [row.name for row in found.rows] == ["my system", "other"]
    assert found["other"].system is systems["other"]
    assert [row[0] for row in found.table()] == ["system", "my system", "other"]
    assert list(found.as_json()["systems"]) == ["my system", "other"]
    assert found.rows[0].numbers()["max |λ|"] == 1.0


def test_the_momentum_is_for_second_order_systems(compared, inputs):
    without = compare(Potential(), inputs._replace(m0=None), **QUICK)
    assert torch.equal(without["node"].gradient.norm, compared["node"].gradient.norm)
    for name in FOUR[1:]:
        norms = without[name].gradient.norm, compared[name].gradient.norm
        assert norms[0].shape != norms[1].shape or not torch.allclose(*norms, rtol=1e-3)


def test_arguments_of_the_field_are_passed_on(draw):
    h0, k = draw(2, 3), torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    given = compare(lambda t, h, k, c: -c * k * h, Inputs(h0, TIMES, args=(k, 4.0)), **QUICK)
    closed = compare(lambda t, h: -36.0 * h, (h0, TIMES), **QUICK)
    assert k.grad is None
    for name in FOUR:
        a, b = given[name], closed[name]
        assert a.run.nfe == b.run.nfe and torch.allclose(a.stiffness.largest, b.stiffness.largest, rtol=1e-12)
        assert torch.allclose(a.gradient.norm, b.gradient.norm, rtol=1e-10)
    assert given["node"].numbers()["max |λ|"] == pytest.approx(36.0, rel=1e-12)


def test_losses_gradients_and_methods_are_passed_on(draw):
    h0, system = draw(2, 3), {"ball": HeavyBall(lambda t, h: -h, 0.5, trainable=False)}
    call = {"loss": lambda h, m: m[:, 0].sum(), "gradient": "backprop", "method": "tsit5"}
    row = compare(system, (h0, TIMES), **call, **QUICK)["ball"]
    assert row.run.method == "tsit5" and row.run.nfe_backward == 0
    matrix = np.block([[np.zeros((3, 3)), np.eye(3)], [-np.eye(3), -0.5 * np.eye(3)]])
    known = np.linalg.norm(expm(matrix)[3])
    assert row.numbers()["gradient decay"] == pytest.approx(known, rel=1e-2)
    assert row.gradient.norm[-1].tolist() == [1.0, 1.0]


def test_methods_without_an_error_estimate(draw):
    found = compare({"node": FirstOrder(lambda t, h: -h)}, (draw(2, 3), TIMES), method="rk4", **QUICK)
    assert found["node"].run.accepted == 4 and found["node"].gradient.norm.shape == (5, 2)


def test_without_a_batch_axis_there_is_one_sample(draw):
    found = compare(Potential(), (draw(3), TIMES), **QUICK)
    for row in found.rows:
        assert row.stiffness.largest.shape == (5,) and row.gradient.decay.shape == ()
        assert row.numbers()["gradient decay"] == float(row.gradient.decay)


def test_samples_that_interact_are_one_with_batch_false(draw):
    system = {"node": FirstOrder(lambda t, h: -(h - 0.5 * h.mean(0)))}
    with pytest.raises(ValueError, match="must not interact"):
        compare(system, (draw(3, 2), TIMES), **QUICK)
    found = compare(system, (draw(3, 2), TIMES), batch=False, **QUICK)["node"].numbers()
    assert found["stiffness ratio"] == pytest.approx(2.0) and found["max |λ|"] == pytest.approx(1.0)


def test_float32(compared, inputs):
    single = inputs._replace(h0=inputs.h0.float(), m0=inputs.m0.float())
    found = compare(Potential().float(), single, **QUICK)
    for a, b in zip(found.rows, compared.rows, strict=True):
        assert a.stiffness.largest.dtype == torch.float32 and a.notes == ()
        assert a.numbers()["max |λ|"] == pytest.approx(b.numbers()["max |λ|"], rel=1e-3)
        assert a.numbers()["gradient decay"] == pytest.approx(b.numbers()["gradient decay"], rel=1e-3)
        assert a.run.nfe == b.run.nfe
    assert found["hbnode"].certificate.holds
    json.dumps(found.as_json(), allow_nan=False)
    found.plot().savefig(io.BytesIO())


class Leaving(nn.Module):
    """A field that counts in a buffer and draws a random number at each call."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(ones(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, t, h):
        self.calls += 1
        torch.rand(1)
        return -self.rate * h


def test_nothing_of_the_user_changes(draw):
    field, h0 = Leaving(), draw(2, 3, grad=True)
    field.rate.grad = 7.0 * ones(3)
    before = torch.get_rng_state()
    t = TIMES.clone().requires_grad_()
    found = compare(field, (h0, t), **QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert field.calls == 0 and torch.equal(field.rate, ones(3)) and field.rate.requires_grad
    assert torch.equal(field.rate.grad, 7.0 * ones(3)) and h0.grad is None and t.grad is None
    assert not any(row.gradient.norm.requires_grad or row.stiffness.largest.requires_grad for row in found.rows)
    found.plot()


def test_gradients_are_turned_on_where_they_are_off(compared, inputs):
    field = Potential()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = compare(field, inputs, **QUICK)
        for row in found.rows:
            assert torch.equal(row.gradient.norm, compared[row.name].gradient.norm)
            assert row.run.nfe_backward == compared[row.name].run.nfe_backward


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_numbers_on_a_gpu_are_those_on_the_cpu(compared, inputs):
    moved = Inputs(inputs.h0.cuda(), inputs.t.cuda(), inputs.m0.cuda())
    found = compare(Potential().cuda(), moved, **QUICK)
    for a, b in zip(found.rows, compared.rows, strict=True):
        assert a.numbers() == pytest.approx(b.numbers(), rel=1e-6, nan_ok=True)
    found.plot().savefig(io.BytesIO())


# What cannot be computed


def test_a_system_that_blows_up_is_a_row_with_a_failure(with_failure):
    good, bad = with_failure.rows
    assert bad.stiffness is None and bad.gradient is None and bad.certificate is None
    assert "STEP_UNDERFLOW" in bad.run.failure and bad.run.nfe is None
    assert all(math.isnan(x) for x in bad.numbers().values())
    assert good.run.failure is None and good.numbers()["max |λ|"] == pytest.approx(1.0)
    alone = compare({"good": good.system}, (ones(2, 3), TIMES), **QUICK)["good"]
    assert torch.equal(alone.gradient.norm, good.gradient.norm) and alone.numbers() == good.numbers()


def test_a_random_field_has_no_gradient_but_a_note(draw):
    torch.manual_seed(0)
    noisy = FirstOrder(lambda t, h: -h + 1e-3 * torch.rand_like(h))
    row = compare({"noisy": noisy}, (draw(2, 3), [0.0, 0.5, 1.0]), method="rk4", tolerance=0.1, repeats=1)["noisy"]
    assert row.gradient is None and row.run.failure is None and row.stiffness is not None
    assert any("gradients: " in note and "is it random" in note for note in row.notes)
    assert math.isnan(row.numbers()["gradient decay"])


def test_methods_from_several_states_have_no_gradient_but_a_note(draw):
    found = compare(lambda t, h: -h, (draw(2, 3), [0.0, 1.0]), method="explicit_adams", **QUICK)
    for row in found.rows:
        assert row.gradient is None and row.certificate is None and row.stiffness is not None
        assert any("Adams methods step from several states" in note for note in row.notes)
    assert "note: node: gradients: " in found.summary()


def test_errors_that_are_not_known_have_a_dash(compared):
    """The reference is unstable where the method in question is not."""
    row = compared.rows[0]
    unknown = type(row.run)(**{**vars(row.run), "error": math.nan})
    changed = type(compared)((type(row)(**{**vars(row), "run": unknown}),), 1e-3, "s")
    assert changed.table()[1][6] == "–" and "nan" not in changed.summary()
    changed.plot().savefig(io.BytesIO())


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"systems": FirstOrder(lambda t, h: -h)}, TypeError, "systems must be a mapping .* got a FirstOrder"),
        ({"systems": {}}, TypeError, "systems must map names to systems, at least one"),
        ({"systems": {"f": lambda t, h: -h}}, TypeError, "systems must map names to systems"),
        ({"systems": 5}, TypeError, "f must be callable"),
        ({"inputs": ones(2)}, TypeError, "inputs must be Inputs or a tuple"),
        ({"inputs": (ones(2, 2), TIMES.expand(2, -1))}, ValueError, r"t of inputs must have shape \(T,\)"),
        ({"inputs": (ones(2), [0.0, 1.0], ones(3))}, ValueError, "m0 must have the shape"),
        ({"inputs": (ones(2) + 0j, [0.0, 1.0]), "loss": lambda h, m: h.abs().sum()}, TypeError, "h must be real"),
        ({"method": "nothing"}, ValueError, "methods must be some of"),
        ({"method": "leapfrog"}, ValueError, "'leapfrog' integrates"),
        ({"tolerance": 0.0}, ValueError, "tolerances must be positive"),
        ({"loss": lambda h, m: h}, TypeError, "loss must return a tensor with one real number"),
        ({"loss": lambda h, m: h.detach().sum()}, ValueError, "loss must depend on h_T or m_T"),
        ({"gradient": "nothing"}, ValueError, "gradient must be"),
        ({"repeats": 0}, ValueError, "repeats must be"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        compare(**{"systems": lambda t, h: -h, "inputs": (ones(2, 2), [0.0, 1.0]), **QUICK, **call})


# What it shows


def cells(line):
    return re.split(r"(?<!\\)\|", line)


def test_table_has_the_numbers(compared, with_failure):
    head, *rows = compared.table()
    for row, shown in zip(compared.rows, rows, strict=True):
        table = dict(zip(head, shown, strict=True))
        assert (table["system"], table["method"]) == (row.name, row.run.method)
        assert float(table["max |λ|"]) == pytest.approx(row.numbers()["max |λ|"], rel=5e-3)
        assert float(table["gradient decay"]) == pytest.approx(row.numbers()["gradient decay"], rel=5e-3)
        assert table["NFE f/b"] == f"{row.run.nfe} / {row.run.nfe_backward}"
        assert float(table["error"]) == pytest.approx(row.run.error, rel=0.05)
    assert "rtol = atol = 0.001" in str(compared) and "1 / s" in str(compared)
    for found in (compared, with_failure):
        assert {len(row) for row in found.table()} == {9}
        assert all(cell in found.summary() for row in found.table() for cell in row)
    assert with_failure.table()[2] == ("bad", "dopri5", "failed", *["–"] * 6)
    assert "bad failed: STEP_UNDERFLOW" in with_failure.summary()
    assert "note: bad: no errors are known" in with_failure.summary()


def test_rows_of_the_markdown_table_have_as_many_cells(compared, with_failure):
    for found in (compared, with_failure):
        lines = [line for line in found.markdown().splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(found.rows)
        assert {len(cells(line)) for line in lines} == {11}
        assert cells(lines[0])[4].strip() == r"max \|λ\|"
        assert [cells(line)[1].strip() for line in lines[2:]] == [row.name for row in found.rows]


def test_json_has_the_numbers(compared, with_failure):
    read = json.loads(json.dumps(compared.as_json(), allow_nan=False))
    assert (read["tolerance"], read["unit"], list(read["systems"])) == (1e-3, "s", FOUR)
    for row in compared.rows:
        shown, numbers = read["systems"][row.name], row.numbers()
        for key, value in numbers.items():
            assert shown[key] == (None if math.isnan(value) else value)
        assert shown["system"] == type(row.system).__name__ and shown["accepted"] == row.run.accepted
        assert shown["failure"] is None and shown["notes"] == list(row.notes)
        assert shown["seconds forward"] > 0 and shown["seconds backward"] > 0
    assert read["systems"]["hbnode"]["certificate"] is True and read["systems"]["node"]["certificate"] is None
    bad = json.loads(json.dumps(with_failure.as_json(), allow_nan=False))["systems"]["bad"]
    assert "STEP_UNDERFLOW" in bad["failure"]
    assert bad["max |λ|"] is None and bad["nfe"] is None and bad["certificate"] is None


def test_figure_has_the_numbers_with_titles_and_units(compared):
    figure = compared.plot()
    rates, cost, gradients, errors = figure.axes
    titles = ["Fastest mode", "Evaluations of the field", "Gradient on its way back from T", "Error against cost"]
    assert [panel.get_title(loc="left") for panel in figure.axes] == titles
    assert rates.get_xlabel() == gradients.get_xlabel() == "t (s)" and "(1 / s)" in rates.get_ylabel()
    assert all(panel.get_ylabel() for panel in figure.axes)
    for row, line, back, point in zip(compared.rows, rates.lines, gradients.lines, errors.lines, strict=False):
        assert line.get_ydata() == pytest.approx(np.median(row.stiffness.largest.numpy(), 1))
        assert line.get_xdata().tolist() == TIMES.tolist()
        assert back.get_ydata() == pytest.approx(np.median((row.gradient.norm / row.gradient.norm[-1]).numpy(), 1))
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (row.run.nfe, row.run.error)
        assert line.get_color() == back.get_color() == point.get_color()
    heights = [bar.get_height() for bar in cost.patches]
    assert heights == [n for row in compared.rows for n in (row.run.nfe, row.run.nfe_backward)]
    assert [label.get_text() for label in cost.get_xticklabels()] == ["NODE", "SONODE", "HBNODE", "GHBNODE"]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:4] == ["NODE", "SONODE", "HBNODE", "GHBNODE"] and "5 to 95 %" in labels[4]
    assert errors.lines[-1].get_ydata()[0] == 1e-3  # the tolerance


def finding(systems, inputs=None):
    return compare(systems, inputs or (ones(2, 2), TIMES), unit="s", **QUICK).plot().get_suptitle().replace("\n", " ")


def test_the_title_says_the_finding(with_failure):
    def decay(rate):
        return FirstOrder(lambda t, h: -rate * h)

    text = finding({"slow": decay(1.0), "fast": decay(40.0)})
    ((least, most),) = re.findall(r"(\d+) to (\d+)", text)
    assert text.startswith("fast has the fastest modes (40 / s); slow needs the fewest evaluations, ")
    assert text.endswith("at no larger error than any other") and int(least) < int(most)
    assert finding({"node": decay(4.0)}).startswith(r"NODE: max $|\lambda|$ = 4 / s; ")
    alike = finding({"one": decay(4.0), "two": decay(4.0)})
    assert re.fullmatch(
        r"All have modes as fast \(4 / s\); no clear difference in the fewest evaluations \(\d+ to \d+\)", alike
    )
    tied = finding({"one": decay(4.0), "two": decay(4.0), "slow": decay(1.0)})
    assert tied.startswith("one and two have the fastest modes (4 / s)")
    assert with_failure.plot().get_suptitle().endswith("; bad failed")
    assert finding({"bad": FirstOrder(blows_up)}) == "No system could be solved"


def test_a_mode_that_is_not_known_is_not_the_fastest():
    """d√h/dh is infinite at h = 0, where the first system stays."""
    systems = {"unknown": FirstOrder(lambda t, h: torch.sqrt(h)), "known": FirstOrder(lambda t, h: -3 * h)}
    text = finding(systems, (0 * ones(2), TIMES))
    assert text.startswith("known has the fastest modes (3 / s)")


@pytest.mark.parametrize(
    "systems",
    [
        {"bad": FirstOrder(blows_up)},
        {"still": FirstOrder(lambda t, h: 0 * h)},
        {"turning": FirstOrder(lambda t, h: torch.stack((h[..., 1], -h[..., 0]), -1)), "bad": FirstOrder(blows_up)},
    ],
    ids=["all failed", "nothing moves", "ratio unknown"],
)
@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_figures_of_little_can_be_drawn(systems, shape):
    found = compare(systems, (ones(*shape), TIMES), **QUICK)
    figure = found.plot()
    figure.savefig(io.BytesIO())
    for panel in figure.axes:
        assert panel.lines or panel.patches or panel.texts
    json.dumps(found.as_json(), allow_nan=False)


def test_titles_labels_and_legends_of_long_names_fit(draw):
    systems = {f"a system with a long name, number {i}": FirstOrder(lambda t, h, i=i: -(i + 1) * h) for i in range(5)}
    figure = compare(systems, (draw(2, 2), TIMES), **QUICK).plot()
    figure.savefig(io.BytesIO())
    title = next(text for text in figure.texts if text.get_text() == figure.get_suptitle())
    for box in (title.get_window_extent(), figure.legends[0].get_window_extent()):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    ticks = figure.axes[1].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == list(systems) and all(tick.get_rotation() > 0 for tick in ticks)


def test_no_two_systems_look_alike(draw):
    names = ["mine", "node", "other", "hbnode"]
    found = compare({name: FirstOrder(lambda t, h: -h) for name in names}, (draw(2, 2), TIMES), **QUICK)
    lines = found.plot().axes[0].lines
    assert len({line.get_color() for line in lines}) == 4 and len({line.get_marker() for line in lines}) == 4
    alone = compare({"node": FirstOrder(lambda t, h: -h)}, (draw(2, 2), TIMES), **QUICK).plot()
    assert alone.axes[0].lines[0].get_color() == lines[1].get_color()
