"""The made-up structure, and the protocol that makes windows."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hbode.timeseries import DataError, Protocol, Records, Structure, make_dataset, read_records, structure_records

RECORD = Path(__file__).parents[2] / "../shared/data/plane_vibration.csv"
PROTOCOL = Protocol(observed=12, forecast=4, max_train=40)


def wave(rows: int = 800) -> Records:
    t = np.arange(rows) / 50.0
    values = np.stack((np.sin(3 * t), 5 + 2 * np.cos(5 * t) + 0.01 * t), 1)
    return Records.from_arrays(t, values, outputs=["a (N)", "b"])


def test_windows_have_the_shapes_of_the_protocol() -> None:
    data = make_dataset(wave(), PROTOCOL, 0)
    assert data.train.x.shape == (40, 16, 2) and data.train.x.dtype == torch.float32
    assert data.train.t.shape == (40, 16)
    assert len(data.validation) == len(data.test) == 20
    assert bool((data.train.t[:, 0] == 0).all()) and bool((data.train.t.diff(dim=1) > 0).all())


def test_grid_is_irregular_and_its_mean_gap_is_one() -> None:
    data = make_dataset(wave(), Protocol(observed=12, forecast=4, max_train=10**6), 0)
    gaps = data.train.t.diff(dim=1)
    assert len(gaps.mul(1000).round().unique()) >= 2
    # Windows overlap, so that the mean over windows weighs the ends of the part less: a few per cent.
    assert float(gaps.mean()) == pytest.approx(1.0, abs=0.05)
    kept = torch.cat([part.rows.flatten() for part in (data.train, data.validation, data.test)]).unique()
    assert len(kept) == 720


def test_parts_are_in_time_order_and_disjoint() -> None:
    data = make_dataset(wave(), PROTOCOL, 3)
    assert data.train.rows.max() < data.validation.rows.min()
    assert data.validation.rows.max() < data.test.rows.min()
    kept = 720
    assert (data.train.rows.max() < 0.53 * 800) and (data.train.rows.max() > 0.47 * 800), kept


def test_nothing_of_the_test_part_leaks_into_the_scaling() -> None:
    records = wave()
    (run,) = records
    changed = run.y.copy()
    changed[int(0.53 * len(changed)) :] += 1e3
    a, b = make_dataset(records, PROTOCOL, 0), make_dataset(Records.from_arrays(run.t, changed), PROTOCOL, 0)
    assert a.scaling.as_json() == b.scaling.as_json()
    assert torch.equal(a.train.x, b.train.x)
    assert not torch.equal(a.test.x, b.test.x)


def test_windows_are_the_record_standardised() -> None:
    (run,) = wave()
    data = make_dataset(wave(), PROTOCOL, 0)
    back = data.scaling.outputs.from_standard(data.test.x.double().numpy())
    # float32 rounding of numbers of size 10.
    np.testing.assert_allclose(back, run.y[data.test.rows.numpy()], atol=1e-5)
    t = data.test.t.numpy() * data.scaling.time_unit
    rows = data.test.rows.numpy()
    np.testing.assert_allclose(t, run.t[rows] - run.t[rows[:, :1]], atol=1e-12)


def test_batches_cover_every_window_once_and_by_seed() -> None:
    part = make_dataset(wave(), PROTOCOL, 0).train
    first = [x for _, x in part.batches(16, torch.Generator().manual_seed(0))]
    again = [x for _, x in part.batches(16, torch.Generator().manual_seed(0))]
    assert [len(x) for x in first] == [16, 16, 8]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.cat(first).flatten().sort().values, part.x.flatten().sort().values)


def test_dataset_errors() -> None:
    with pytest.raises(DataError, match="too short: 60 rows, needs at least 76"):
        make_dataset(wave(60), PROTOCOL, 0)
    make_dataset(wave(76), PROTOCOL, 0)
    flat, holed = wave(), wave()
    flat[0].y[:, 1] = 3.0
    holed[0].y[[5, 700], 1] = np.nan
    with pytest.raises(DataError, match="column 'b' does not vary"):
        make_dataset(flat, PROTOCOL, 0)
    with pytest.raises(DataError, match="column 'b' misses 2 values"):
        make_dataset(holed, PROTOCOL, 0)


def test_no_window_spans_a_long_gap_or_two_runs() -> None:
    (run,) = wave()
    t = run.t + 3600.0 * (run.t > 4.0)
    with pytest.warns(UserWarning, match="windows with long gaps in them are left out"):
        gapped = make_dataset(Records.from_arrays(t, run.y), PROTOCOL, 0)
    assert gapped.scaling.time_unit == pytest.approx(0.02 / 0.9, rel=0.05)
    whole = make_dataset(wave(), PROTOCOL, 0)
    assert float(gapped.train.t.max()) <= 1.5 * float(whole.train.t.max()) and len(gapped.train) < len(whole.train)
    pieces = [slice(a, a + 100) for a in range(0, 800, 100)]
    several = Records.from_arrays([run.t[:100]] * 8, [run.y[p] for p in pieces])
    with pytest.warns(UserWarning, match="are left out"):
        rows = make_dataset(several, PROTOCOL, 0).train.rows
    assert bool((rows[:, 0] // 100 == rows[:, -1] // 100).all())
    with pytest.raises(DataError, match="no window of 16 samples lies between gaps"):
        make_dataset(
            Records.from_arrays([run.t[:10]] * 80, [run.y[10 * k : 10 * k + 10] for k in range(80)]), PROTOCOL, 0
        )


def test_structure_is_reproducible_by_seed() -> None:
    a, b, c = (structure_records(64, seed) for seed in (0, 0, 1))
    assert np.array_equal(a[0].y, b[0].y) and not np.array_equal(a[0].y, c[0].y)
    assert a[0].y.shape == (64, 3) and str(a.inputs[0]) == "Force (N)" and str(a.outputs[1]) == "Displacement2 (mm)"
    assert a.step == 1 / 64


def test_energy_of_the_free_structure_balances() -> None:
    """Without force the energy falls by the work of the damping, dE/dt = -γ |v|²."""
    structure = Structure()
    t = torch.linspace(0, 2, 2001, dtype=torch.float64)
    x0 = torch.tensor([0.1, 0.2, 0.25], dtype=torch.float64)
    _, x, v = structure.motion(t, torch.zeros(0, dtype=torch.float64), x0)
    energy = structure.energy(x, v)
    lost = torch.trapezoid(structure.damping * v.square().sum(-1), t)
    # The solver's tolerance is 1e-4, the trapezoid's error is of order (ω h)² / 12 with ω h = 0.05.
    assert float(energy[0] - energy[-1]) == pytest.approx(float(lost), rel=2e-3)
    assert bool((energy.diff() <= 1e-3 * energy[0]).all())


def test_restoring_force_is_the_gradient_of_the_energy() -> None:
    structure = Structure()
    x = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(structure.energy(x, torch.zeros_like(x)), x)
    torch.testing.assert_close(structure.restoring(x), -slope)


def test_small_motion_has_the_natural_frequency() -> None:
    structure = Structure(damping=1e-9, cubic=0.0)
    mode = torch.linalg.eigh(structure.stiffness())[1][:, 0]
    omega = 2 * math.pi * structure.frequencies()[0]
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    _, x, _ = structure.motion(t, torch.zeros(0, dtype=torch.float64), mode)
    # Tolerance 1e-4 a step over two periods.
    torch.testing.assert_close(x, torch.cos(omega * t)[:, None] * mode, rtol=0, atol=1e-3)


@pytest.mark.skipif(not RECORD.exists(), reason="the aircraft record is not beside the project")
def test_aircraft_record() -> None:
    data = make_dataset(read_records(RECORD), Protocol(max_train=64), 0)
    assert data.train.x.shape == (64, 72, 5)
    # The mean gap of a grid that lost a tenth of its samples.
    assert data.scaling.time_unit == pytest.approx(1 / 400 / 0.9, rel=1e-3)
