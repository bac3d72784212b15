"""Profiles of solves: counts against a field that counts, errors against closed forms, memory against known sizes."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.analysis.cost.measuring import now, peak_memory
from hbode.analysis.cost.profiling import profile
from hbode.analysis.cost.result import Profile
from hbode.analysis.cost.run import Run
from hbode.analysis.inputs import Inputs, as_inputs

CPU = torch.device("cpu")
MIB = 2**20
GAMMA = 0.3
LADDER = (1e-3, 1e-5, 1e-7)
FAST = {"repeats": 1, "memory": False}


def oscillator():
    """h'' + γ h' = -4 h: h = exp(-γt/2) (cos ωt + γ/(2ω) sin ωt) from h = 1, h' = 0."""
    return HeavyBall(lambda t, h: -4 * h, GAMMA, trainable=False)


def exact(t):
    rate, omega = GAMMA / 2, math.sqrt(4 - GAMMA**2 / 4)
    decay = torch.exp(-rate * t)
    h = decay * (torch.cos(omega * t) + rate / omega * torch.sin(omega * t))
    return h, -decay * (omega + rate**2 / omega) * torch.sin(omega * t)


def start():
    return torch.ones(2, 3, dtype=torch.float64), torch.linspace(0, 6, 7, dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)).double()


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, t, h):
        return self.net(h) - h


@pytest.fixture(scope="module")
def ladder():
    return profile(oscillator(), start(), tolerances=LADDER, **FAST)


# Counts


@pytest.mark.parametrize("method", ["dopri5", "dprkn6", "leapfrog"])
@pytest.mark.parametrize("gradient", ["discrete_adjoint", "backprop"])
def test_evaluations_are_those_that_the_field_counts(counted, method, gradient):
    field = counted(lambda t, h: -4 * h)
    seen = {}

    def loss(h, m):
        # between the two passes: forward so far, backward from here on
        seen["forward"] = field.calls - seen.get("before", 0)
        seen["before"] = field.calls
        return h.square().mean()

    system = HeavyBall(field, GAMMA, trainable=False)
    h0, t = start()
    reference = hbodeint(oscillator(), h0, t)
    field.calls = 0
    options = {"step_size": 0.1} if method == "leapfrog" else None
    runs = profile(
        system,
        (h0, t),
        methods=(method,),
        tolerances=(1e-4,),
        gradient=gradient,
        loss=loss,
        repeats=1,
        memory=False,
        reference=reference,
        options=options,
    ).runs
    (run,) = runs
    # the second of two alike runs: its forward pass follows the first one's backward pass
    assert seen["forward"] == run.nfe_backward + run.nfe
    assert field.calls - seen["before"] == run.nfe_backward
    assert (run.nfe_backward == 0) == (gradient == "backprop")
    assert field.calls == 2 * (run.nfe + run.nfe_backward)


def test_steps_are_those_of_the_same_solve(ladder):
    h0, t = start()
    for run in ladder.runs:
        stats = hbodeint(oscillator(), h0, t, method=run.method, rtol=run.tolerance, atol=run.tolerance).stats
        assert (run.nfe, run.accepted, run.rejected) == (stats.nfe, stats.accepted, stats.rejected)
        assert run.products == 0
        assert torch.equal(run.t, stats.t)
        assert torch.equal(run.dt, stats.dt)
        assert run.dt.dtype == torch.float64
        assert float(run.dt.sum()) == pytest.approx(6.0)
        assert run.stiffness == stats.stiffness


def test_every_method_is_run_at_every_tolerance(ladder):
    assert [(run.method, run.tolerance) for run in ladder.runs] == [
        (method, tolerance) for method in ("dopri5", "dprkn6") for tolerance in LADDER
    ]
    assert ladder.methods == ("dopri5", "dprkn6")


def test_methods_without_an_error_estimate_are_run_once():
    found = profile(
        oscillator(),
        start(),
        methods=("dopri5", "leapfrog"),
        tolerances=(1e-3, 1e-4),
        options={"step_size": 0.25, "safety": 0.8},
        **FAST,
    )
    assert [run.method for run in found.runs] == ["dopri5", "dopri5", "leapfrog"]
    assert math.isnan(found.runs[2].tolerance)
    assert found.runs[2].accepted == 24
    assert found.runs[0].accepted != found.runs[1].accepted


@pytest.mark.parametrize(
    "system, methods",
    [
        (FirstOrder(lambda t, h: -h), ("dopri5", "tsit5")),
        (SecondOrder(lambda t, h, m: -h - m), ("dopri5", "tsit5")),
        (HeavyBall(lambda t, h: -h), ("dopri5", "dprkn6")),
        (GeneralizedHeavyBall(lambda t, h: -h, activation="tanh"), ("dopri5", "tsit5")),
        (lambda t, h: -h, ("dopri5", "dprkn6")),
    ],
)
def test_default_methods_fit_the_system(system, methods):
    found = profile(system, (torch.ones(2), [0.0, 1.0]), tolerances=(1e-3,), **FAST)
    assert found.methods == methods


# Errors of the solves


def test_errors_fall_with_the_tolerance_and_are_the_true_ones(ladder):
    """The reference is dprkn8 at 1e-10, whose error is 1e-12 and that of dprkn6 at 1e-7 1e-9: both are known to 1 %."""
    h0, t = start()
    h, m = exact(t)
    for method in ladder.methods:
        errors = [run.error for run in ladder.runs if run.method == method]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-3 * errors[0]
    for run in ladder.runs:
        sol = hbodeint(oscillator(), h0, t, method=run.method, rtol=run.tolerance, atol=run.tolerance)
        miss = torch.stack((sol.h[:, 0, 0] - h, sol.m[:, 0, 0] - m)).square().mean().sqrt()
        true = float(miss / torch.stack((h, m)).square().mean().sqrt())
        assert run.error == pytest.approx(true, rel=0.01)


def test_a_reference_may_be_a_method_or_a_solution(ladder):
    h0, t = start()
    h, m = (x[:, None, None].expand(7, 2, 3) for x in exact(t))
    solution = hbodeint(oscillator(), h0, t)
    solution.h, solution.m = h, m
    middle = [run for run in ladder.runs if run.tolerance == 1e-5]
    for reference, label in (("dprkn6", "dprkn6 at 1e-08"), (solution, "a given solution")):
        found = profile(oscillator(), start(), tolerances=(1e-5,), reference=reference, **FAST)
        assert found.reference == label
        assert not found.notes
        for one, other in zip(found.runs, middle, strict=True):
            assert one.error == pytest.approx(other.error, rel=0.02)


def test_errors_that_may_be_those_of_the_reference_are_noted():
    """dprkn6 at 1e-7 errs by 1e-9, dopri8 at 1e-10 by 3e-9."""
    found = profile(oscillator(), start(), methods=("dprkn6",), tolerances=(1e-7,), reference="dopri8", **FAST)
    assert any("may be those of the reference, dopri8 at 1e-10" in note for note in found.notes)
    assert found.runs[0].error > 1.5e-9


def test_a_reference_that_fails_leaves_errors_unknown_and_says_so():
    stiff = FirstOrder(lambda t, h: torch.where(t > 0.5, h * math.nan, -h))
    found = profile(stiff, (torch.ones(2), [0.0, 1.0]), methods=("dopri5",), tolerances=(1e-3,), **FAST)
    assert any("dopri8" in note and "NON_FINITE" in note for note in found.notes)
    assert math.isnan(found.runs[0].error)


def test_single_precision_is_noted_to_limit_the_errors():
    found = profile(oscillator(), (torch.ones(2), [0.0, 6.0]), tolerances=(1e-3, 1e-7), **FAST)
    assert any("may be those of the reference, dprkn8 at 6e-06" in note for note in found.notes)
    assert found.dtype == "float32"
    assert not profile(oscillator(), start(), tolerances=(1e-3, 1e-7), **FAST).notes


def test_complex_states_are_profiled():
    found = profile(FirstOrder(lambda t, h: 1j * h), (torch.ones(2, dtype=torch.complex128), [0.0, 3.0]), **FAST)
    assert all(run.error < 1e-2 and run.nfe_backward for run in found.runs)


# Failures


def test_a_solve_that_fails_is_recorded_and_the_others_go_on():
    field = FirstOrder(lambda t, h: -1000 * (h - torch.cos(t)))
    found = profile(
        field,
        (torch.ones(2, dtype=torch.float64), [0.0, 1.0]),
        methods=("dopri5", "kvaerno5"),
        tolerances=(1e-4, 1e-5),
        reference="kvaerno5",
        options={"max_steps": 100},
        **FAST,
    )
    lost, good = found.runs[:2], found.runs[2:]
    for run in lost:
        assert "MAX_STEPS" in run.failure
        assert run.nfe is run.nfe_backward is run.peak_bytes is run.accepted is None
        assert math.isnan(run.error) and math.isnan(run.seconds_forward) and math.isnan(run.seconds_backward_range[1])
        assert run.t.shape == run.dt.shape == (0,)
    for run in good:
        assert run.failure is None
        assert run.error < 1e-2
    assert found.curve("dopri5").work == ()
    assert "MAX_STEPS" in found.summary()
    figure = found.plot()
    assert "dopri5 failed" in figure.get_suptitle()
    assert "dopri5 (failed 2 of 2)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_profile_of_nothing_but_failures_is_still_drawn_and_written(tmp_path):
    found = profile(FirstOrder(lambda t, h: h * h), (torch.ones(2), [0.0, 2.0]), tolerances=(1e-3,), **FAST)
    assert all("at t = 1" in run.failure or "at t = 0.99" in run.failure for run in found.runs)
    figure = found.plot()
    figure.savefig(tmp_path / "failed.png")
    assert figure.get_suptitle() == "Every solve failed"
    json.dumps(found.as_json(), allow_nan=False)


# What is the caller's


def test_everything_of_the_caller_stays_as_it_was():
    class Noisy(Learned):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, t, h):
            self.calls += 1
            torch.rand(1)
            return super().forward(t, h)

    system = HeavyBall(Noisy())
    system.eval()
    h0 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    m0 = 0.1 * weight * torch.ones(3, 4, dtype=torch.float64)  # with a graph of the caller's
    given = next(system.parameters())
    given.grad = torch.full_like(given, 7.0)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    rng, h0_before = torch.get_rng_state(), h0.detach().clone()
    with torch.no_grad():
        profile(system, Inputs(h0, [0.0, 1.0], m0), tolerances=(1e-3,), repeats=1)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(h0, h0_before)
    assert h0.grad is None and weight.grad is None
    assert torch.equal(given.grad, torch.full_like(given, 7.0))
    assert all(parameter.grad is None for parameter in list(system.parameters())[1:])
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())
    assert not system.training
    m0.sum().backward()
    assert torch.allclose(weight.grad, torch.full((4,), 0.3, dtype=torch.float64))


def test_the_loss_is_the_one_given():
    seen = []

    def loss(h, m):
        seen.append((h, m))
        return h.sum()

    h0, t = start()
    profile(oscillator(), (h0, t), methods=("dopri5",), tolerances=(1e-3,), loss=loss, repeats=2, memory=False)
    assert len(seen) == 3
    assert all(x.shape == (2, 3) for pair in seen for x in pair)


def test_further_arguments_reach_the_field():
    system = HeavyBall(lambda t, h, k: -k * h, GAMMA, trainable=False)
    h0, t = start()
    k = torch.full((), 4.0, dtype=torch.float64, requires_grad=True)
    one = profile(system, Inputs(h0, t, args=(k,)), tolerances=(1e-5,), **FAST)
    two = profile(oscillator(), (h0, t), tolerances=(1e-5,), **FAST)
    assert [run.nfe for run in one.runs] == [run.nfe for run in two.runs]
    assert k.grad is None


# Time and memory


def test_times_are_medians_within_their_ranges():
    found = profile(oscillator(), start(), tolerances=(1e-3,), repeats=3, memory=False)
    for run in found.runs:
        for median, (least, most) in (
            (run.seconds_forward, run.seconds_forward_range),
            (run.seconds_backward, run.seconds_backward_range),
        ):
            assert 0 < least <= median <= most < 60
        assert run.peak_bytes is None


def bytes_of(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8)


def test_memory_of_a_known_pattern_is_its_peak():
    def pattern():
        x, y = bytes_of(10), bytes_of(20)
        del x
        z = bytes_of(5)
        del y
        return z, bytes_of(7)

    def less():
        bytes_of(3)

    held = [bytes_of(50)]
    # allocations are rounded up, and the profiler makes a tensor of its own: below 64 KiB
    for found, expected in zip(peak_memory([pattern, less, pattern], CPU), (30, 3, 30), strict=True):
        assert 0 <= found - expected * MIB < 2**16
    assert held


def test_memory_within_operators_and_graphs_counts():
    x = torch.ones(MIB // 4, requires_grad=True)  # 1 MiB

    def graph():
        y = x
        for _ in range(8):
            y = torch.sin(y)  # keeps its argument
        torch.autograd.grad(y.sum(), x)

    (found,) = peak_memory([graph], CPU)
    assert 8 * MIB < found < 13 * MIB


@pytest.mark.slow
def test_backpropagation_holds_more_than_the_discrete_adjoint():
    """Backpropagation keeps every stage with its hidden units, the adjoint the states: 16 units over 4 entries."""
    h0 = torch.randn(64, 4, dtype=torch.float64)
    system = HeavyBall(Learned())
    peaks = {}
    for gradient in ("backprop", "discrete_adjoint"):
        (run,) = profile(
            system, (h0, [0.0, 10.0]), methods=("dprkn6",), tolerances=(1e-6,), gradient=gradient, repeats=1
        ).runs
        peaks[gradient] = run.peak_bytes
        states = run.accepted * h0.numel() * 8 * 2
        assert run.peak_bytes > states
    hidden = run.nfe * 64 * 16 * 8
    assert peaks["backprop"] > hidden
    assert peaks["discrete_adjoint"] < 0.4 * peaks["backprop"]


def test_memory_that_cannot_be_measured_is_not_made_up():
    assert "meta" in peak_memory([list], torch.device("meta"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        found = profile(oscillator(), start(), tolerances=(1e-3,), repeats=1)
    assert any("inside torch.profiler" in note for note in found.notes)
    assert all(run.peak_bytes is None for run in found.runs)


def test_an_error_in_a_measured_run_ends_the_measurement():
    with pytest.raises(ZeroDivisionError):
        peak_memory([lambda: 1 / 0], CPU)
    assert peak_memory([lambda: bytes_of(1)], CPU)[0] >= MIB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_profile_on_a_gpu_is_timed_and_weighed_there():
    h0, t = start()
    found = profile(HeavyBall(Learned()).cuda(), (torch.randn(64, 4).double().cuda(), t), tolerances=(1e-4,))
    assert found.device == "cuda:0"
    for run in found.runs:
        assert run.peak_bytes > 0
        assert 0 < run.seconds_forward_range[0] <= run.seconds_forward <= run.seconds_forward_range[1] < 60
        assert run.error < 1e-2
        assert run.t.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_known_pattern_on_a_gpu_is_its_peak():
    device = torch.device("cuda", 0)

    def pattern():
        x = torch.empty(10 * MIB, dtype=torch.uint8, device=device)
        y = torch.empty(20 * MIB, dtype=torch.uint8, device=device)
        del x
        return y, torch.empty(4 * MIB, dtype=torch.uint8, device=device)

    (found,) = peak_memory([pattern], device)
    assert 30 * MIB <= found <= 32 * MIB
    first, second = now(device), now(device)
    assert 0 <= second - first < 1


# Results


def made(curves, **changes):
    """A profile with given points {method: [(tolerance, nfe, error), ...]}."""
    steps = torch.tensor([0.0, 0.5]), torch.tensor([0.5, 0.5])
    runs = [
        Run(method=name, tolerance=tolerance, nfe=nfe, error=error, t=steps[0], dt=steps[1])
        for name, points in curves.items()
        for tolerance, nfe, error in points
    ]
    given = {"notes": (), "device": "cpu", "dtype": "float64", "system": "HeavyBall", "gradient": "backprop"}
    return Profile(runs=tuple(runs), reference="dopri8", **{**given, **changes})


A = [(1e-3, 100, 1e-3), (1e-5, 400, 1e-7)]
HALF = [(1e-3, 50, 1e-3), (1e-5, 200, 1e-7)]


@pytest.mark.parametrize(
    "curves, finding",
    [
        ({"a": A, "b": HALF}, r"b reaches an error of $10^{-5}$ with 0.50 times the evaluations of a"),
        (
            {"a": A, "b": HALF, "c": A},
            r"b reaches an error of $10^{-5}$ with 0.50 times the evaluations of a, the next best",
        ),
        ({"a": A, "b": A}, r"No clear difference between a and b, at errors around $10^{-5}$"),
        ({"a": A}, r"a reaches an error of $10^{-7}$ with 400 evaluations"),
        (
            {"a": A, "b": [(1e-3, 70, 2.5e-9), (1e-5, 90, 1.5e-9)]},
            r"Not comparable at equal error; the least error is that of b, $1.5 \times 10^{-9}$ at 90 evaluations",
        ),
        ({"a": [(1e-3, 70, math.nan)]}, "Evaluations over the tolerance: no errors are known"),
        ({"a": A, "b": [(1e-3, None, math.nan)]}, r"a reaches an error of $10^{-7}$ with 400 evaluations; b failed"),
    ],
)
def test_the_title_of_a_figure_says_what_was_found(curves, finding):
    assert made(curves).plot().get_suptitle() == finding


def test_a_figure_is_drawn_though_errors_are_unknown(tmp_path):
    figure = made({"a": [(1e-3, 70, math.nan), (1e-4, 90, math.nan)]}).plot()
    figure.savefig(tmp_path / "profile.png")
    work = figure.axes[0]
    assert work.get_ylabel() == "tolerance"
    assert list(work.get_lines()[0].get_ydata()) == [1e-3, 1e-4]


def test_a_figure_has_labels_a_legend_and_one_line_a_method(ladder):
    figure = ladder.plot()
    assert isinstance(figure, Figure)
    work, steps = figure.axes
    assert work.get_xlabel() == "evaluations of the field, forward"
    assert work.get_ylabel().startswith("error")
    assert steps.get_xlabel() == "t (time units)"
    assert steps.get_ylabel() == "accepted step (time units)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dopri5", "dprkn6"]
    for panel in (work, steps):
        assert panel.get_yscale() == "log"
        looks = [(drawn.get_color(), drawn.get_linestyle(), drawn.get_marker()) for drawn in panel.get_lines()]
        assert len(set(looks)) == 2
    assert list(work.get_lines()[0].get_xdata()) == [run.nfe for run in ladder.runs[:3]]
    middle = ladder.runs[1]
    assert list(steps.get_lines()[0].get_ydata()) == middle.dt.tolist()
    chosen = ladder.plot(tolerance=1e-7).axes[1]
    assert list(chosen.get_lines()[0].get_ydata()) == ladder.runs[2].dt.tolist()


def test_the_curve_of_a_method_reads_work_at_an_error(ladder):
    curve = ladder.curve("dprkn6")
    assert curve.work == tuple(run.nfe for run in ladder.runs[3:])
    assert curve.error == tuple(run.error for run in ladder.runs[3:])
    assert curve.work[0] < curve.work_at(1e-6) < curve.work[2]


def test_the_summary_is_an_aligned_table(ladder):
    text = ladder.summary()
    assert repr(ladder) == text
    head, *rows = text.splitlines()[1:8]
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(head)}
    assert "note: times are those of single runs" in text
    assert str(ladder.runs[0].nfe) in rows[0]
    assert "HeavyBall on cpu, float64, gradient discrete_adjoint" in text


def test_json_holds_everything_but_no_nan():
    found = profile(
        oscillator(), start(), methods=("dopri5", "leapfrog"), tolerances=(1e-3,), options={"step_size": 0.5}, **FAST
    )
    read = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert read["device"] == "cpu"
    assert read["runs"][0]["dt"] == found.runs[0].dt.tolist()
    assert read["runs"][0]["seconds_forward_range"] == list(found.runs[0].seconds_forward_range)
    assert read["runs"][1]["tolerance"] is None
    assert read["runs"][1]["peak_bytes"] is None


def test_a_data_frame_has_one_row_a_run(ladder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    columns = ladder.to_dataframe()
    assert columns["method"] == [run.method for run in ladder.runs]
    assert columns["seconds_forward_least"] == [run.seconds_forward_range[0] for run in ladder.runs]
    assert {len(column) for column in columns.values()} == {6}
    assert "dt" not in columns


def test_without_pandas_the_error_says_what_to_install(ladder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        ladder.to_dataframe()


def test_a_data_frame_is_one_of_pandas(ladder):
    pandas = pytest.importorskip("pandas")
    assert isinstance(ladder.to_dataframe(), pandas.DataFrame)


# Inputs


def test_inputs_are_made_from_tuples():
    h0, t = start()
    assert as_inputs((h0, t)) == Inputs(h0, t, None, ())
    assert as_inputs((h0, t, h0)).m0 is h0
    given = Inputs(h0, [0.0, 1.0], args=(2,))
    assert as_inputs(given) is given


H0 = torch.ones(2)


@pytest.mark.parametrize(
    "inputs, error, message",
    [
        ([H0, [0.0, 1.0]], TypeError, "inputs must be Inputs or a tuple .* got list"),
        ((H0,), ValueError, "inputs must be .* got 1 entries"),
        ((H0, [0.0], None, ()), ValueError, "inputs must be .* got 4 entries"),
        ((1.0, [0.0, 1.0]), TypeError, "h0 of inputs must be a tensor, got float"),
        ((H0, 1.0), TypeError, "t of inputs must be .* got float"),
        ((H0, "now"), TypeError, "t of inputs must be .* got str"),
        ((H0, [0.0, 1.0], 2.0), TypeError, "m0 of inputs must be a tensor, got float"),
        (Inputs(H0, [0.0, 1.0], args=[1]), TypeError, "args of inputs must be a tuple, got list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        as_inputs(inputs)


# Errors


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"system": 3}, TypeError, "system must be a system or callable"),
        ({"inputs": (H0, [[0.0, 1.0]] * 2)}, ValueError, "t of inputs must have shape"),
        ({"inputs": (H0, [0.0, 1.0], torch.ones(3))}, ValueError, "m0 must have the shape"),
        ({"methods": ("dopri9",)}, ValueError, "methods must be some of .* got dopri9"),
        ({"methods": ()}, ValueError, "methods must be some of .* got none"),
        ({"system": FirstOrder(lambda t, h: -h), "methods": ("dprkn6",)}, ValueError, "'dprkn6' integrates"),
        ({"tolerances": ()}, ValueError, "tolerances must be positive"),
        ({"tolerances": (1e-3, 0.0)}, ValueError, "tolerances must be positive"),
        ({"repeats": 0}, ValueError, "repeats must be a whole number, at least 1, got 0"),
        ({"repeats": 1.5}, ValueError, "repeats must be a whole number"),
        ({"gradient": "none"}, ValueError, "gradient must be one of"),
        ({"reference": 5}, TypeError, "reference must be a method, a Solution or None, got int"),
        ({"reference": "dopri9"}, ValueError, "method must be one of"),
        ({"options": {"step_size": 0.1}}, ValueError, "options must be known to one of dopri5, dprkn6"),
        ({"options": {"max_stepz": 1}}, ValueError, "got max_stepz"),
        ({"loss": lambda h, m: 1.0}, TypeError, "loss must return a tensor with one real number, got float"),
        ({"loss": lambda h, m: h.expand(2, 2)}, TypeError, r"loss must return .* got shape \(2, 2\)"),
        ({"loss": lambda h, m: h.detach().sum()}, ValueError, "loss must depend on h_T or m_T"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, error, message):
    call = {"system": oscillator(), "inputs": (H0, [0.0, 1.0]), "tolerances": (1e-3,), **FAST, **changes}
    with pytest.raises(error, match=message):
        profile(call.pop("system"), call.pop("inputs"), **call)


def test_a_reference_that_does_not_fit_is_refused():
    h0, t = start()
    other = hbodeint(oscillator(), h0, t / 2)
    with pytest.raises(ValueError, match="reference must be solved at the 7 times of inputs"):
        profile(oscillator(), (h0, t), reference=other)
    first = hbodeint(FirstOrder(lambda t, h: -h), h0, t)
    with pytest.raises(ValueError, match=r"reference must have positions of shape .* and momenta"):
        profile(oscillator(), (h0, t), reference=first)
    narrow = hbodeint(oscillator(), h0[:1], t)
    with pytest.raises(ValueError, match="reference must have positions of shape"):
        profile(oscillator(), (h0, t), reference=narrow)


def test_results_refuse_what_was_not_profiled(ladder):
    with pytest.raises(ValueError, match=r"method must be one of dopri5, dprkn6, got 'rk4'"):
        ladder.curve("rk4")
    with pytest.raises(ValueError, match=r"tolerance must be one of 1e-07, 1e-05, 0\.001, got 0\.5"):
        ladder.plot(tolerance=0.5)
