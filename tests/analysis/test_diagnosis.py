"""A diagnosis: what it measures by default, and that its sentences say what its numbers are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, SolverError
from hbode.analysis.cost.run import Run
from hbode.analysis.reports.comparison_result import Comparison
from hbode.analysis.reports.diagnosis import diagnose
from hbode.analysis.reports.diagnosis_result import MADE_BY, Diagnosis

H = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
QUICK = {"methods": ["dopri5"], "tolerances": [1e-3], "repeats": 1}


def swing(t: Tensor, h: Tensor) -> Tensor:
    return -torch.sin(h)


def stiff(t: Tensor, h: Tensor) -> Tensor:
    return -300.0 * (h - torch.cos(t))


@pytest.fixture(scope="module")
def ball() -> Diagnosis:
    inputs = (H, torch.linspace(0.0, 4.0, 3))
    return diagnose(HeavyBall(swing, 0.5), inputs, tolerances=[1e-3, 1e-5], tolerance=1e-4, repeats=1, unit="s")


@pytest.fixture(scope="module")
def steep() -> Diagnosis:
    inputs = (torch.ones(1, dtype=torch.float64), torch.linspace(0.0, 0.5, 3))
    return diagnose(FirstOrder(stiff), inputs, tolerance=1e-4, **QUICK)


def run(method: str, tolerance: float, **numbers: object) -> Run:
    none = torch.zeros(0, dtype=torch.float64)
    given: dict[str, object] = {"nfe": 10, "nfe_backward": 10, "error": tolerance, "stiffness": 0.0, **numbers}
    return Run(method=method, tolerance=tolerance, t=none, dt=none, **given)  # type: ignore[arg-type]


def with_runs(found: Diagnosis, *runs: Run) -> Diagnosis:
    return replace(found, profile=replace(found.profile, runs=runs))


def said(found: Diagnosis, start: str) -> list[str]:
    return [line for line in found.findings() if line.startswith(start)]


def test_a_stiff_field_is_called_stiff(steep: Diagnosis) -> None:
    (line,) = said(steep, "Stiff for dopri5: stability, not accuracy, sets up to ")
    share = round(100 * steep.profile.runs[0].stiffness)
    assert f"{share} % of the steps" in line and share >= 50
    assert not said(steep, "Not stiff")


def test_a_field_that_is_not_stiff_is_not_called_so(ball: Diagnosis) -> None:
    assert said(ball, "Not stiff for dopri5 and dprkn6: stability holds back 0 % of the steps.")
    assert not said(ball, "Stiff")


def test_the_fastest_mode_is_the_known_one(steep: Diagnosis, ball: Diagnosis) -> None:
    (line,) = said(steep, "The fastest mode")  # of h' = -300 h: 300, over a span of 0.5
    assert "|λ| = 300 / time units, at t = " in line and "stiffness index 150." in line
    (line,) = said(ball, "The fastest mode")
    assert f"{float(ball.stiffness.largest.max()):#.3g} / s" in line and ", sample " in line


def test_an_unknown_spectrum_is_said_to_be_unknown(steep: Diagnosis) -> None:
    found = replace(steep, stiffness=steep.stiffness.each(lambda x: x * math.nan))
    assert found.findings()[0] == "No mode is known: the Jacobian is not finite anywhere."


def test_only_the_tolerances_at_which_a_method_is_stiff_are_named(ball: Diagnosis) -> None:
    runs = (run("tsit5", 1e-3, stiffness=0.9), run("tsit5", 1e-6, stiffness=0.1), run("bosh3", 1e-3, stiffness=0.6))
    (line,) = said(with_runs(ball, *runs), "Stiff for")
    assert line.startswith("Stiff for tsit5 at tolerance 0.001 and bosh3: ") and "90 %" in line


def curve(method: str, nfe: int, **numbers: object) -> tuple[Run, ...]:
    """Two runs, at errors of 1e-3 and 1e-5."""
    return tuple(run(method, tolerance, nfe=nfe, **numbers) for nfe, tolerance in ((nfe, 1e-3), (2 * nfe, 1e-5)))


def test_a_stiff_field_is_profiled_by_methods_for_it_by_itself(steep: Diagnosis, ball: Diagnosis) -> None:
    assert steep.profile.methods == ("dopri5", "auto", "kvaerno5")
    assert ball.profile.methods == ("dopri5", "dprkn6")


@pytest.mark.parametrize(
    "auto, advice",
    [
        (
            100,
            ' Take method="auto": 141 evaluations against 1,410 of dopri5 at an error of 0.0001, with the gradient '
            "152 against 1,420.",
        ),
        (1000, " There is no clear difference to auto: 1,410 evaluations against 1,410 of dopri5"),
        (9000, " Stay with dopri5 at such errors: auto takes 12,700 evaluations against 1,410 of dopri5"),
    ],
)
def test_the_advice_follows_from_what_was_measured(ball: Diagnosis, auto: int, advice: str) -> None:
    """Curves from 1e-3 to 1e-5 that double: √2 times the first count at 1e-4; 10 more backward at either end."""
    runs = (*curve("dopri5", 1000, stiffness=0.8), *curve("auto", auto, stiffness=1.0))
    (line,) = said(with_runs(ball, *runs), "Stiff for dopri5: ")
    assert f"sets up to 80 % of the steps.{advice}" in line


def test_advice_without_measurements_is_none_or_to_measure(ball: Diagnosis) -> None:
    (line,) = said(with_runs(ball, run("dopri5", 1e-3, stiffness=0.8)), "Stiff for")
    assert line.endswith('method="auto" or an implicit method may take longer ones.')
    alone = with_runs(ball, run("dopri5", 1e-3, stiffness=0.8, error=math.nan), run("auto", 1e-3, error=math.nan))
    assert said(alone, "Stiff for")[0].endswith("80 % of the steps.")


def test_nothing_is_said_of_steps_that_were_not_looked_at(ball: Diagnosis) -> None:
    found = with_runs(ball, run("dopri5", 1e-3, stiffness=math.nan))
    assert not said(found, "Stiff") and not said(found, "Not stiff")


def test_methods_are_ranked_at_equal_error(ball: Diagnosis) -> None:
    """The curves are read at 1e-4, between their points at 1e-3 and 1e-5."""
    found = with_runs(ball, *curve("dopri5", 1000), *curve("dprkn6", 500), *curve("tsit5", 800))
    (line,) = said(found, "At an error of")
    assert line == (
        "At an error of 0.0001, dprkn6 needs the fewest evaluations: dprkn6 707, tsit5 1,130, dopri5 1,410."
    )


def test_no_winner_is_named_without_a_clear_difference(ball: Diagnosis) -> None:
    """Two per cent apart, and curves that cross."""
    near = with_runs(ball, *curve("dopri5", 1000), *curve("dprkn6", 980))
    assert said(near, "At an error of 0.0001 there is no clear difference between dprkn6 and dopri5: ")
    steep = (run("dprkn6", 1e-3, nfe=100), run("dprkn6", 1e-5, nfe=4000))
    crossing = with_runs(ball, *curve("dopri5", 1000), *steep)
    assert said(crossing, "At an error of 0.0001 there is no clear difference between dprkn6 and dopri5: ")


def test_errors_that_no_two_methods_share_have_no_winner(ball: Diagnosis) -> None:
    found = with_runs(ball, run("dopri5", 1e-4, error=5e-4), run("dprkn6", 1e-4, error=1e-6))
    assert said(found, "The least error is 1.0e-06, of dprkn6, which takes 10 evaluations forward and 10 backward")
    assert not said(found, "At an error of")


def test_failures_are_told_and_do_not_win(ball: Diagnosis) -> None:
    failed = run("dopri5", 1e-3, nfe=None, nfe_backward=None, error=math.nan, failure="MAX_STEPS at t = 1: raise it")
    found = with_runs(ball, failed, run("tsit5", 1e-4))
    assert said(found, "dopri5 failed at tolerance 0.001: MAX_STEPS at t = 1.")
    assert said(found, "The least error is 1.0e-04, of tsit5")
    assert not said(with_runs(ball, failed), "The least error")


def test_momentum_and_gradients_are_told_as_in_the_table(ball: Diagnosis) -> None:
    (line,) = said(ball, "With this f")
    node, own = ball.comparison["node"], ball.comparison["hbnode"]
    assert f"takes {node.run.nfe} evaluations (dopri5)" in line and f"and {own.run.nfe} (dprkn6)" in line
    assert f"max |λ| = {node.numbers()['max |λ|']:#.3g} (median)" in line
    (line,) = said(ball, "A gradient")
    assert f"{own.numbers()['gradient decay']:#.3g} in HBNODE" in line and " in SONODE" in line


def test_a_comparison_that_failed_is_told_in_the_report(ball: Diagnosis) -> None:
    row = ball.comparison["node"]
    broken = replace(row, run=run("dopri5", 1e-4, failure="MAX_STEPS at t = 1: raise it"), stiffness=None)
    found = replace(ball, comparison=Comparison((replace(broken, notes=("a note",)),), 1e-4, "s"))
    page = found.markdown()
    assert "- node failed: MAX_STEPS at t = 1: raise it" in page and "- note: node: a note" in page
    assert not said(found, "With this f")


def test_the_report_is_strict_json_and_its_tables_render(ball: Diagnosis, tmp_path: Path) -> None:
    names = ball.save(tmp_path, ("svg",), {"target": "a:b", "until": 1.0})
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert report["made_by"] == MADE_BY and report["asked"] == {"target": "a:b", "until": 1.0}
    assert report["findings"] == ball.findings()
    assert report["solve"] == {"method": "dprkn6", "tolerance": 1e-4, "unit": "s"}
    assert set(report["comparison"]["systems"]) == {"node", "sonode", "hbnode", "ghbnode"}
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("stiffness", "spectrum", "cost", "comparison"):
        assert f"![{name}]({name}.svg)" in page and (tmp_path / f"{name}.svg").stat().st_size > 0
    table = [line.replace("\\|", "") for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 6 and len({line.count("|") for line in table}) == 1
    assert "Asked for: target `a:b`, until `1.0`." in page


def test_each_stage_is_told() -> None:
    heard: list[str] = []
    diagnose(FirstOrder(swing), (H, torch.linspace(0.0, 1.0, 2)), tolerance=1e-3, say=heard.append, **QUICK)
    assert heard == [
        "Solving by dopri5 at tolerance 0.001 …",
        "Measuring stiffness at 2 times …",
        "Profiling dopri5 at tolerances 0.001 …",
        "Comparing with the same field in other systems …",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, tolerance, ladder",
    [
        (torch.float32, 50 * 2.0**-23, [1e-3, 1e-4, 1e-5]),
        (torch.float64, 1e-6, [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]),
    ],
)
def test_default_tolerances_stay_above_rounding(dtype: torch.dtype, tolerance: float, ladder: list[float]) -> None:
    inputs = (H.to(dtype), torch.linspace(0.0, 0.5, 2))
    found = diagnose(FirstOrder(swing), inputs, methods=["dopri5"], repeats=1)
    assert found.tolerance == found.comparison.tolerance == tolerance
    assert [run.tolerance for run in found.profile.runs] == ladder


def test_a_field_of_the_momentum_is_compared_with_nothing() -> None:
    system = SecondOrder(lambda t, h, m: -h - 0.1 * m)
    found = diagnose(system, (H[0], torch.linspace(0.0, 1.0, 3), H[1]), tolerance=1e-3, **QUICK)
    assert [row.name for row in found.comparison.rows] == ["sonode"]
    assert found.stiffness.largest.shape == (3,)
    assert not said(found, "With this f")


def test_the_system_itself_is_in_its_place_among_the_four() -> None:
    system = GeneralizedHeavyBall(swing, activation="hardtanh")
    found = diagnose(system, (H, torch.linspace(0.0, 1.0, 2)), tolerance=1e-3, **QUICK)
    assert found.comparison["ghbnode"].system is system
    assert found.method == "dopri5"


@pytest.mark.parametrize(
    "system, inputs, options, error, message",
    [
        (swing, (H, [0.0, 1.0]), {}, TypeError, "system must be a System"),
        (FirstOrder(swing), H, {}, TypeError, "inputs must be Inputs or a tuple"),
        (FirstOrder(swing), (H, [0.0, 1.0], H), {}, ValueError, "m0 must not be given"),
        (FirstOrder(swing), (H.to(torch.complex128), [0.0, 1.0]), {}, TypeError, "h0 must be real"),
        (FirstOrder(swing), (H, [[0.0, 1.0], [0.0, 2.0]]), {}, ValueError, "t of inputs must have shape"),
        (FirstOrder(swing), (H, [0.0, 1.0]), {"methods": ["dprkn6"]}, ValueError, "needs another"),
        (FirstOrder(swing), (H, [0.0, 1.0]), {"tolerances": []}, ValueError, "tolerances must be positive"),
        (FirstOrder(lambda t, h: h**3), (H, [0.0, 9.0]), {}, SolverError, "STEP_UNDERFLOW"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(
    system: object, inputs: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        diagnose(system, inputs, **options)  # type: ignore[arg-type]
