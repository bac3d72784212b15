"""The demo: four systems that start alike, fitted and measured side by side."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hbode.models import SYSTEMS, parameter_count
from hbode.timeseries import DemoSettings, Structure, run_demo, structure_records
from hbode.timeseries.demo.systems import (
    GAMMA,
    SystemRun,
    build,
    fit_system,
    fit_systems,
    linear_law,
    scaled,
    start_linear,
    verdict,
)


def system_at_start(name: str):
    """Return a system of the law h'' = K h - γ h' + B u + c with its network at zero."""
    generator = torch.Generator().manual_seed(0)
    k, b, c = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (3, 2), (3,)))
    system = build(name, 4, 3, 2).double().system
    start_linear(system, k, b, c)
    for x in system.f.network[-1].parameters():
        x.data.zero_()
    return system, k, b, c


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_start_from_one_law(name: str) -> None:
    system, k, b, c = system_at_start(name)
    h, m, u = 0.3 * torch.ones(3).double(), 1e-5 * torch.tensor([1.0, -2.0, 3.0]).double(), torch.ones(2).double()
    state = torch.stack((h, m)) if system.second_order else torch.cat((h, m))
    slope = system.rhs(torch.zeros(()), state, *system.coefficients(), u).detach().reshape(2, 3)
    # tanh(m) = m - m³/3; γ and ξ are made from float32 numbers.
    torch.testing.assert_close(slope[0], m, rtol=1e-9, atol=0)
    torch.testing.assert_close(slope[1], k @ h - GAMMA * m + b @ u + c, rtol=1e-6, atol=1e-6)


def test_the_linear_law_has_the_natural_frequencies() -> None:
    structure = Structure(cubic=0.0, noise=0.0, damping=0.2)
    scaling, fitted, _ = scaled(structure_records(768, 0, structure))
    rates = np.sqrt(-np.sort(np.linalg.eigvals(linear_law(fitted)[0].numpy()).real)[::-1]) / scaling.time_unit
    # The cubics through five samples flatten the fastest mode, at 7 Hz of 64, by some per cent.
    np.testing.assert_allclose(rates / (2 * math.pi), structure.frequencies().numpy(), rtol=0.1)


def test_a_system_is_fitted_and_measured() -> None:
    train, test = structure_records(200, 0), structure_records(120, 1)
    run = fit_system("ghbnode", 4, train, test, 0, 1)
    assert run.parameters == parameter_count(build("ghbnode", 4, 3, 1))
    assert len(run.validation) == 1 and run.simulated.shape == (120, 3) and np.isfinite(run.error)
    assert run.largest.shape == run.ratio.shape == (120,) and bool((run.ratio >= 1).all())
    assert run.nfe is not None and run.nfe >= 7 and run.gamma is not None and run.xi is not None
    json.dumps(run.as_json(), allow_nan=False)
    clear = replace(run, name="node", scores=replace(run.scores, joined_nrmse=3 * run.scores.joined_nrmse))
    assert "no ranking" in verdict([run, replace(run, name="node")]) and "no ranking" not in verdict([run, clear])
    assert verdict([clear, run]).startswith("GHBNODE")


def test_parameters_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, int] = {}

    def told_only(name: str, hidden: int, *rest: object) -> SystemRun:
        told[name] = parameter_count(build(name, hidden, 3, 1))
        return None  # type: ignore[return-value]

    monkeypatch.setattr("hbode.timeseries.demo.systems.fit_system", told_only)
    list(fit_systems(structure_records(100, 0), structure_records(100, 1), tuple(SYSTEMS), 0, 1, 1))
    assert list(told) == list(SYSTEMS) and max(told.values()) <= 1.04 * min(told.values())


@pytest.mark.slow
def test_a_whole_demo(tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    found = run_demo(DemoSettings(("node", "hbnode"), out, seed=1, jobs=2, evaluations=3), said.append)
    figures = {"systems.png", "comparison.png", "scaling.png"}
    assert {p.name for p in out.iterdir()} == {"metrics.json", "summary.md", "simulation", *figures}
    assert (out / "simulation" / "report.md").exists()
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["systems"].keys() == {"node", "hbnode"}
    assert found["settings"]["seed"] == 1 and found["simulation"]["models"].keys() > {"linear state space"}
    page = (out / "summary.md").read_text(encoding="utf-8")
    assert "| NODE |" in page and all(f"({name})" in page for name in figures)
    assert "single run" in said[-2]
