"""Measured driven systems with their official protocols, from ../shared/data; its README tells their sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbode.timeseries import Records, read_records

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class System:
    """What to train on, what to simulate, and what others have reached.

    Attributes
    ----------
    initial
        Rows whose outputs a model sees; it is scored from there on.
    unit, factor
        Of the reported errors, and how many of them are one unit of the record.
    published
        Errors of each test by the model that reached them; NaN where none was published.
    each
        Whether the error is the mean over outputs and runs of theirs, not that of all samples.
    horizon
        Rows that a subspace method should look ahead: some part of the slowest period.
    """

    name: str
    train: Records
    tests: dict[str, Records]
    initial: int
    unit: str
    factor: float
    published: dict[str, Sequence[float]]
    each: bool = False
    horizon: int = 20


def silverbox(data: Path) -> System:
    """Electronic Duffing oscillator; the first 75 % of the multisine train, the arrow extrapolates."""
    records = read_records(data / "silverbox.csv", ["V2"], ["V1"], rate=610.35)
    train, multisine = records.rows(40650, 127400).split(0.75)
    tests = {"multisine": multisine, "arrow": records.rows(100, 40575), "no extrapolation": records.rows(100, 32100)}
    published = {
        "linear state space": (6.96, 14.4, 6.58),
        "GRU": (1.49, 2.80, 0.947),
        "LSTM": (1.50, 2.68, 0.960),
        "polynomial NARX": (0.640, 2.25, 0.571),
        "DT-SUBNET": (0.36, 1.4, 0.32),
        "GP-NARX": (0.301, 0.60, 0.259),
        "PNLSS": (np.nan, 0.26, np.nan),
    }
    return System("Silverbox", train, tests, 50, "mV", 1e3, published)


def cascaded_tanks(data: Path) -> System:
    """Two water tanks with overflow; the record called est trains, val tests."""
    file = data / "cascaded_tanks.csv"
    train, test = (
        _renamed(read_records(file, [f"y_{part}_V"], [f"u_{part}_V"], time="time_s")) for part in ("est", "val")
    )
    published = {
        "linear": (0.588,),
        "polynomial NARX": (0.413,),
        "GRU": (0.396,),
        "DT-SUBNET": (0.37,),
        "CT-SUBNET": (0.306,),
        "grey box": (0.191,),
    }
    return System("cascaded tanks", train, {"test": test}, 50, "V", 1.0, published)


def coupled_drives(data: Path) -> System:
    """Two belt drives, the speed without its sign; rows 0–399 of both records train, the rest tests."""
    file = data / "ced_uniform.csv"
    both = [
        _renamed(read_records(file, [f"z{part}_ticks_per_s"], [f"u{part}_V"], time="time_s")) for part in ("11", "12")
    ]
    train = _joined([records.rows(0, 400) for records in both])
    tests = {f"test {i}": records.rows(400, 500) for i, records in enumerate(both, 1)}
    published = {"RNN": (0.096, 0.235), "GP-NARX": (0.102, 0.090), "CT-SUBNET": (0.115, 0.074)}
    return System("coupled drives", train, tests, 10, "ticks/s", 1.0, published)


def wiener_hammerstein(data: Path) -> System:
    """Filter, diode, filter."""
    with np.load(data / "wiener_hammerstein.npz", allow_pickle=False) as file:
        y, u, rate = file["y_V"], file["u_V"], float(file["fs_Hz"])
    records = Records.from_arrays(None, y, u, rate=rate, outputs=["y (V)"], inputs=["u (V)"])
    published = {"linear": (43.4,), "GRU": (3.97,), "dynoNet": (0.452,), "DT-SUBNET": (0.241,)}
    train, test = records.rows(5200, 105200), records.rows(105200, 184000)
    return System("Wiener-Hammerstein", train, {"test": test}, 50, "mV", 1e3, published)


def steering_mirror(data: Path) -> System:
    """Piezo mirror with hysteresis, three inputs and outputs; each realisation and period is a run."""
    with np.load(data / "fine_steering_mirror_300mV.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def part(name: str) -> Records:
        y, u = (
            [x[:, :, r, p] for r in range(x.shape[2]) for p in range(2)]
            for x in (arrays[f"y_{name}_m"], arrays[f"u_{name}_V"])
        )
        return Records.from_arrays(None, y, u, rate=float(arrays["fs_Hz"]), source=name)

    published = {"linear": (0.228,), "nonlinear, three amplitudes": (0.169,)}
    return System("steering mirror", part("train"), {"test": part("test")}, 100, "µm", 1e6, published, each=True)


def f16(data: Path) -> System:
    """F-16 on the ground, force in, three accelerations out, at the lowest level; a split of our own.

    The record is nine repeats of one period of 8,192 samples. The first 5,120 samples of periods 2, 4 and 6 train, the
    other 3,072 of periods 3, 5, 7 and 9 test: that part of the waveform is in no training row, nor is the noise. The
    first period, with the transient, is left out. The input is measured, and its spectrum is the same in both parts.
    """
    names = [f"Acceleration{i}" for i in (1, 2, 3)]
    records = read_records(data / "plane_vibration.csv", names, ["Force"])
    period, cut = 8192, 5120
    train = _joined([records.rows(k * period, k * period + cut) for k in (1, 3, 5)])
    test = _joined([records.rows(k * period + cut, (k + 1) * period) for k in (2, 4, 6, 8)])
    return System("F-16, level 1", train, {"new waveform": test}, 100, "mm/s²", 1e3, {}, each=True, horizon=60)


LOADERS: dict[str, Callable[[Path], System]] = {
    "silverbox": silverbox,
    "tanks": cascaded_tanks,
    "drives": coupled_drives,
    "wiener": wiener_hammerstein,
    "mirror": steering_mirror,
    "f16": f16,
}


def _renamed(records: Records) -> Records:
    """Return one run with channels y and u, so that records of several columns are of one system."""
    run = records[0]
    return Records.from_arrays(run.t, run.y, run.u, source=records.source)


def _joined(parts: Sequence[Records]) -> Records:
    """Return the runs of several records of the same channels."""
    runs = [run for records in parts for run in records]
    t, y, u = ([getattr(run, name) for run in runs] for name in ("t", "y", "u"))
    first = parts[0]
    return Records.from_arrays(t, y, u, outputs=first.outputs, inputs=first.inputs, source=first.source)
