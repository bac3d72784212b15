"""Stiff problems at an equal error: exact solutions, the rule for the tolerance, the table and the command."""

import io
import json
import logging
import math
import sys
from dataclasses import replace

import pytest
import torch

from hbode import SolverError, Status
from hbode.cli import main
from hbode.experiments import EXPERIMENTS, Trial, reproduce
from hbode.experiments.report import cheapest, ratios, spread
from hbode.experiments.stiff.equal_error import PEER, EqualError
from hbode.experiments.stiff.problems import error_of, heat, stiff_scalar
from hbode.experiments.stiff.solves import (
    ERROR,
    TOLERANCES,
    GivenUp,
    Point,
    gradient_error,
    ladder,
    loosest,
    mean_output,
    ours,
    theirs,
)
from hbode.timeseries import DataError


def small() -> object:
    return heat(end=0.02, n=8)


class Small(EqualError):
    name, title = "small", "Heat on 8 points"
    problem = staticmethod(small)


def run(tmp_path, *models: str, seeds: int = 2, **options: object) -> dict:
    settings = replace(Small.settings["full"], seeds=seeds)
    return reproduce(Small(), settings, tmp_path / "out", models=models, say=lambda _: None, **options)


# problems ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [1.0, 1.7])
def test_scalar_solution_satisfies_its_equation(a):
    """y' = k y + a ((1 - k) cos t - (1 + k) sin t); terms of up to 3e3 round to 1e-12."""
    problem, k = stiff_scalar(), -1e3
    with torch.no_grad():
        problem.parameter.fill_(a)
    t = torch.linspace(0, 3, 40, dtype=torch.float64, requires_grad=True)
    y = problem.exact(t).flatten()
    (slope,) = torch.autograd.grad(y.sum(), t)
    torch.testing.assert_close(problem.whole(t, y), slope, rtol=0, atol=1e-10)
    field = k * y + a * ((1 - k) * t.cos() - (1 + k) * t.sin())
    torch.testing.assert_close(field, slope, rtol=0, atol=1e-10)
    assert float(problem.solution()[0]) == 1


def test_heat_solution_is_the_matrix_exponential():
    problem = heat(rate=0.7, n=16)
    with torch.no_grad():
        matrix = problem.whole(torch.zeros(()), torch.eye(16, dtype=torch.float64))
        exact = torch.stack([problem.y0 @ torch.linalg.matrix_exp(matrix * t) for t in problem.times])
    # Entries of up to 80 in the exponent, halved and squared seven times: 2^7 roundings.
    torch.testing.assert_close(problem.solution(), exact, rtol=0, atol=1e-11)


def test_error_of_is_relative_to_the_largest_values():
    problem = small()
    exact = problem.solution()
    assert error_of(problem)(exact) == 0
    assert error_of(problem)(exact + 0.01 * exact.abs().amax(0)) == pytest.approx(0.01)
    given = replace(problem, exact=None)  # by dopri8 at 1e-12
    assert error_of(given)(exact) < 1e-9


@pytest.mark.parametrize(
    "make, named", [(lambda: stiff_scalar(1.0), "rate"), (lambda: heat(end=0.0), "end"), (lambda: heat(n=0), "n must")]
)
def test_problems_are_checked(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# solves --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, split, tol", [("prox_bdf4", False, 1e-7), ("imex_ark4", True, 1e-5)])
def test_gradients_are_those_of_the_exact_solution(method, split, tol):
    problem = stiff_scalar(-20.0)
    t = problem.times[1:]
    by_hand = (t.sin() + t.cos() - (-20 * t).exp()).mean()
    assert gradient_error(problem, by_hand) < 1e-12
    states, cost = ours(problem, method, split)(tol)
    (got,) = torch.autograd.grad(mean_output(states), problem.parameter)
    # Some 100 steps of that local error; the mean is a thirtieth of the values.
    assert gradient_error(problem, got) < 1e3 * tol and error_of(problem)(states.detach()) < 100 * tol
    assert cost.nfe > 0 and cost.nfe_backward > 0


def test_gradient_errors_need_an_exact_solution():
    with pytest.raises(ValueError, match="exact solution and a parameter"):
        gradient_error(replace(small(), exact=None), torch.ones(()))


def test_ladder_ends_where_the_error_is_small_enough_and_leaves_failures_out():
    def solved(tol):
        if tol > 0.009:
            raise SolverError(Status.STEP_UNDERFLOW, 0.0, 0.0)
        return torch.tensor(tol), type("Cost", (), {"nfe": 1 / tol})

    points = ladder(solved, lambda states: 2 * float(states), 1e-5)
    assert [point.tol for point in points] == list(TOLERANCES[1 : len(points) + 1])
    assert points[-1].error <= 1e-5 < points[-2].error
    found = loosest(points)
    assert found.error <= ERROR and found.tol == max(p.tol for p in points if p.error <= ERROR)
    assert loosest(points[:2]) is None and loosest([Point(1.0, 2.0, math.nan)]) is None


def test_evaluations_of_the_peer_are_counted_and_its_adjoint_is_given_up():
    calls = []
    problem = small()
    counted = replace(problem, stiff=lambda t, y: calls.append(1) or problem.stiff(t, y))
    states, cost = theirs(counted)(1e-3)
    assert cost.nfe == len(calls) and cost.nfe_backward == 0
    mean_output(states).backward()
    assert cost.nfe_backward == len(calls) - cost.nfe > 0
    states, _ = theirs(problem, most=10)(1e-3)
    with pytest.raises(GivenUp, match="more than 10"):
        mean_output(states).backward()
    with torch.no_grad():
        plain, cost = theirs(replace(problem, parameter=None))(1e-3)
    torch.testing.assert_close(plain, states.detach())


# table ---------------------------------------------------------------------------------------------------------------


def test_equal_numbers_have_no_spread_and_times_are_compared_run_by_run():
    assert spread([2.0, 2.0]) == "2"
    assert ratios({0: 1.0, 1: 3.0, 2: 8.0}, {0: 2.0, 1: 3.0, 2: 4.0}) == "1 (0.500–2)"
    assert ratios({0: 1.0}, {}) == "–"
    trials = [Trial("a", 0, 0, 1.0, nfe=3.0, nfe_backward=math.nan), Trial("b", 0, 0, 2.0, nfe=4.0, nfe_backward=5.0)]
    assert cheapest(trials) == "Fewest evaluations forward: a (3), backward: b (5), in all: b (9)."
    assert cheapest(trials[:1]) == "One model alone: no ranking."


def test_runs_take_turns_and_are_the_same_but_for_their_times(tmp_path):
    found = run(tmp_path, PEER, "rkc", "kvaerno5")
    trials = found["trials"]
    assert [(one["model"], one["seed"]) for one in trials] == [
        (name, seed) for seed in (0, 1) for name in (PEER, "rkc", "kvaerno5")
    ]
    for first, second in zip(trials[:3], trials[3:], strict=True):
        for key in ("error", "nfe", "log_tolerance"):
            assert first["chosen"][key] == second["chosen"][key]
        assert first["chosen"]["error"] <= ERROR and first["seconds"] > 0
    page = (tmp_path / "out/summary.md").read_text()
    for text in ("| timings |", f"s / {PEER} |", "Fewest evaluations forward: ", "1 (1–1)"):
        assert text in page, text
    for text in ("| parameters", "s/epoch", "spread over seeds", "samples for training", "(nan"):
        assert text not in page, text
    assert (tmp_path / "out/small.png").exists()


def test_errors_that_are_not_reached_are_failures(tmp_path, monkeypatch):
    problem = heat(n=3)
    away = replace(problem, exact=lambda t: problem.exact(t) + 1)
    monkeypatch.setattr(Small, "problem", staticmethod(lambda: away))
    with pytest.raises(RuntimeError, match="rkc: no tolerance down to 1e-08"):
        run(tmp_path, "rkc")


def test_progress_of_runs_without_training_is_shown_on_a_terminal(tmp_path, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.getLogger("hbode")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        run(tmp_path, "rkc", seeds=1)
    finally:
        logger.setLevel(level)
    assert "1/1 runs" in stream.getvalue()


# command -------------------------------------------------------------------------------------------------------------


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", "stiff-scalar", "--models", "kvaerno5,prox_bdf4", "--out", str(out)]) == 0
    assert "2 models, 1 timings, 1 at a time" in capsys.readouterr().out
    implicit, other = json.loads((out / "results.json").read_text())["trials"]
    assert all(one["chosen"]["error"] <= ERROR and one["nfe_backward"] > 0 for one in (implicit, other))
    assert all(one["chosen"]["gradient_error"] < 0.1 for one in (implicit, other))


@pytest.mark.parametrize(
    "given, message",
    [
        (["--jobs", "2"], "--jobs must be 1 in stiff-scalar, whose runs are timed in turn, got 2"),
        (["--method", "rkc"], "--method has no meaning in stiff-scalar: its models are the methods"),
        (["--epochs", "2"], "--epochs has no meaning in stiff-scalar: nothing is trained"),
        (["--models", "rk4"], "--models must be some of torchdiffeq-dopri5, dopri5"),
        (["--data", "x.csv"], "stiff-scalar takes no --data"),
    ],
)
def test_what_has_no_meaning_is_refused(given, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["reproduce", "stiff-scalar", *given])
    except SystemExit as exit:
        code = exit.code
    assert code == 2 and message in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_other_devices_are_refused(tmp_path):
    with pytest.raises(DataError, match="--device must be cpu in small, got meta"):
        run(tmp_path, "rkc", device="meta")


def test_all_methods_of_the_problems_are_known():
    for name, count in (("stiff-scalar", 13), ("discrete-laplacian", 11)):
        assert len(EXPERIMENTS[name].looks) == count and EXPERIMENTS[name].peer in EXPERIMENTS[name].looks
