"""Reading, the made-up structure, and the protocol that makes windows."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hbode.timeseries import DataError, Protocol, Series, Structure, make_dataset, read_csv, structure_series

RECORD = Path(__file__).parents[2] / "../shared/data/plane_vibration.csv"
PROTOCOL = Protocol(observed=12, forecast=4, max_train=40)


def wave(rows: int = 800) -> Series:
    t = np.arange(rows) / 50.0
    values = np.stack((np.sin(3 * t), 5 + 2 * np.cos(5 * t) + 0.01 * t), 1)
    return Series(t, values, ("a", "b"), ("N", ""), "s", "waves")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_rate_and_trailing_column(tmp_path: Path) -> None:
    series = read_csv(written(tmp_path, '"Force (N)","x [mm]","Fs",\n1,2,400,\n3,4,,\n5,6,,\n'))
    assert series.names == ("Force", "x") and series.units == ("N", "mm") and series.time_unit == "s"
    np.testing.assert_array_equal(series.t, [0, 1 / 400, 2 / 400])
    np.testing.assert_array_equal(series.values, [[1, 2], [3, 4], [5, 6]])
    assert series.label(0) == "Force (N)"


def test_csv_with_times_and_a_column_of_text(tmp_path: Path) -> None:
    series = read_csv(written(tmp_path, "Time [ms],note,y\n0,start,1\n1.5,,2\n4,end,3\n"))
    assert series.names == ("y",) and series.time_unit == "ms"
    np.testing.assert_array_equal(series.t, [0, 1.5, 4])


def test_csv_without_times(tmp_path: Path) -> None:
    assert read_csv(written(tmp_path, "y\n1\n2\n")).time_unit == "sample"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("y,z\n", "no rows after the header"),
        ("1,2\n3,4\n", "first line must be a header"),
        ("y,z\na,b\nc,d\n", "no numeric column"),
        ("t\n1\n2\n", "no numeric column beside the times"),
        ("y\n1\nnan\n", "line 3: column 'y' must hold a finite number, got 'nan'"),
        ("y,z\n1,2\n\n3,\n", "line 4: column 'z' must hold a finite number, got ''"),
        ("y\n1\ninf\n", "line 3: column 'y'"),
        ("t,y\n0,1\n2,1\n1,1\n", "line 4: times must increase, 1 follows 2"),
        ("y,Fs\n1,0\n2,\n", "line 2: column 'Fs' must hold a positive sampling rate"),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(written(tmp_path, text))


def test_csv_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_csv(tmp_path / "binary.csv")


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
    series = wave()
    changed = series.values.copy()
    changed[int(0.53 * len(changed)) :] += 1e3
    other = Series(series.t, changed, series.names, series.units, series.time_unit, series.source)
    a, b = make_dataset(series, PROTOCOL, 0), make_dataset(other, PROTOCOL, 0)
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_array_equal(a.std, b.std)
    assert torch.equal(a.train.x, b.train.x)
    assert not torch.equal(a.test.x, b.test.x)


def test_windows_are_the_record_standardised() -> None:
    series = wave()
    data = make_dataset(series, PROTOCOL, 0)
    back = data.test.x.double().numpy() * data.std + data.mean
    # float32 rounding of numbers of size 10.
    np.testing.assert_allclose(back, series.values[data.test.rows.numpy()], atol=1e-5)
    t = data.test.t.numpy() * data.time_unit
    rows = data.test.rows.numpy()
    np.testing.assert_allclose(t, series.t[rows] - series.t[rows[:, :1]], atol=1e-12)


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
    series = wave()
    flat = series.values.copy()
    flat[:, 1] = 3.0
    with pytest.raises(DataError, match="column 'b' does not vary"):
        make_dataset(Series(series.t, flat, ("a", "b"), ("", ""), "s", "flat"), PROTOCOL, 0)


def test_structure_is_reproducible_by_seed() -> None:
    a, b, c = (structure_series(64, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.values, b.values) and not np.array_equal(a.values, c.values)
    assert a.values.shape == (64, 4) and a.names[0] == "Force" and a.units[1] == "m/s²"


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
    series = read_csv(RECORD)
    assert series.values.shape == (73_728, 5)
    assert series.names == ("Force", "Voltage", "Acceleration1", "Acceleration2", "Acceleration3")
    assert series.t[1] == 1 / 400
    data = make_dataset(series, Protocol(max_train=64), 0)
    assert data.train.x.shape == (64, 72, 5)
    # The mean gap of a grid that lost a tenth of its samples.
    assert data.time_unit == pytest.approx(1 / 400 / 0.9, rel=1e-3)
