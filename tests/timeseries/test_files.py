"""Files as people have them, each read right or refused by name."""

import builtins
import gzip
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hbode.timeseries import Channel, DataError, MissingExtra, Records, read_records

DATA = Path(__file__).parents[2] / "../shared/data"
beside = pytest.mark.skipif(not DATA.exists(), reason="the data sets are not beside the project")


def written(folder: Path, text: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def values(records: Records) -> list[list[float]]:
    (run,) = records
    return np.concatenate((run.u, run.y), 1).tolist()


def test_rate_column_units_and_an_empty_trailing_column(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, '"Force (N)","x [mm]","Fs",\n1,2,400,\n3,4,,\n5,6,,\n'), inputs=["Force"])
    assert records.inputs == (Channel("Force", "N"),) and records.outputs == (Channel("x", "mm"),)
    np.testing.assert_array_equal(records[0].t, [0, 1 / 400, 2 / 400])
    assert values(records) == [[1, 2], [3, 4], [5, 6]] and records.time.unit == "s"
    assert any("column 4 has no name and no value: left out" in note for note in records.notes)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1.5,-20\n.25,3e2\n",
        "\ufeffa,b\r\n1.5, -20 \r\n\r\n0.25,3E+2\r\n",
        "a\tb\n1,5\t-20\n,25\t300\n",
        "a;b\n1,5;-20\n0,25;3e2\n",
        'a,b\n1.5,-20\n0.25,"300.0"\n',
        "a|b\n1.50|-20.0\n+0.250|300.\n",
        'a,b\n"1,5","-20"\n"0,25","300"',
    ],
)
def test_the_same_numbers_in_many_hands(tmp_path: Path, text: str) -> None:
    assert values(read_records(written(tmp_path, text))) == [[1.5, -20], [0.25, 300]]
    assert values(read_records(written(tmp_path, gzip.compress(text.encode()), "data.csv.gz"))) == [
        [1.5, -20],
        [0.25, 300],
    ]


@pytest.mark.parametrize(
    "text, number",
    [
        ('a,b\n1,"1,234.5"\n', 1234.5),
        ("a;b\n1;1.234,5\n", 1234.5),
        ("a;b\n0,5;1.234\n", 1234.0),
        ('a,b\n0.5,"1,234"\n', 1234.0),
        ("a;b\n0.5;1.234\n", 1.234),
        ("a,b\n1,1.234\n", 1.234),
        ("a;b\n1;12.345.678\n", 12345678.0),
        ("a\tb\n1\t-1,234,567\n", -1234567.0),
        ("a;b\n1;0,125\n", 0.125),
    ],
)
def test_thousands_where_the_file_leaves_no_doubt(tmp_path: Path, text: str, number: float) -> None:
    assert values(read_records(written(tmp_path, text)))[0][1] == number


@pytest.mark.parametrize(
    "text, message",
    [
        ("a;b\n1;1.234\n", "column 'b': '1.234' can be read in two ways; say which by decimal="),
        ("a\tb\n1\t1,234\n", "column 'b': '1,234' can be read in two ways"),
        ("a;b\n0,5;0.5\n", "numbers of 'b' have decimal points, of 'a' commas"),
        ("a;b,c\n1;2,3\n", "cells may be split at a comma or a semicolon: say which by delimiter="),
        ("y,z\n1,2\n3,4,5\n", "line 3: 3 cells where the header has 2, split at a comma"),
        ("y,z\n\n1,2\n3\n", "line 4: 1 cells where the header has 2"),
        ("y\n1\n0,5\n", "line 3: 2 cells where the header has 1"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("y,z\n", "no rows after the header"),
        ("1,2\n3,4\n", "first line must be a header"),
        ("y,z\na,b\nc,d\n", "column 'y' holds text, line 2: 'a'"),
        ("y,z\n1,2\n\n3,x\n", "column 'z' holds text, line 4: 'x'"),
        ("y;z\n0,5;0,5\n0,5;0.5.5\n", "column 'z' holds text, line 3: '0.5.5'"),
        ("y\n1\ninf\n", "column 'y', line 3: inf is not a finite number"),
        ("y,z\n1,2\n3,true\n", "column 'z' holds text, line 3: 'true'"),
        ("t\n1\n2\n", "no column is left for an output"),
        ("y,y\n1,2\n", "two columns are called 'y'"),
        ("y,\n1,2\n", "column 2 has no name"),
        (
            "t,y\n0,1\n2,1\n1,1\n",
            "line 4: times must increase, 1 follows 2 .out of order.; if rows are of several runs",
        ),
        ("t,y\n0,1\n\n2,1\n2,1\n", "line 5: times must increase, 2 follows 2 .repeated"),
        ("t,y\n0,1\n,1\n", "column 't', line 3: the time is missing"),
        ("y,Fs\n1,0\n2,\n", "sampling rate must be positive, got 0"),
        ("y,Fs\n1,100\n2,200\n", "column 'Fs' must hold one sampling rate"),
        ("t,time,y\n0,0,1\n1,1,2\n", "'t' and 'time' may be the times: say which by time="),
        (
            "time,y\n03/04/2026,1\n04/04/2026,2\n",
            "column 'time', line 2: '03/04/2026' is no number and no date such as",
        ),
        ("time,y\n2026-01-01,1\n12,2\n2026-02-30,2\n", "column 'time', line 3: '12' is no number"),
        ("time,y\n2026-01-01T00:00:00Z,1\n2026-01-01T00:00:01,2\n", "line 3: some times name their zone"),
        ("timestamp,y\n0,1\n10,2\n", "column 'timestamp' holds numbers that are no time stamps since 1970"),
        ("date,y\n20260101,1\n20260102,2\n", "column 'date' holds numbers that are no time stamps"),
    ],
)
def test_what_would_be_a_guess_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"data.csv: .*{message}") as caught:
        read_records(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_the_user_decides(tmp_path: Path) -> None:
    path = written(tmp_path, "a;b\n1;1.234\n")
    assert values(read_records(path, decimal=",")) == [[1, 1234]]
    assert values(read_records(path, decimal=".")) == [[1, 1.234]]
    path = written(tmp_path, "a;b,c\n1;2,3\n")
    assert [c.name for c in read_records(path, delimiter=";").outputs] == ["a", "b,c"]
    path = written(tmp_path, "t,time,note,y\n0,5,x,1\n1,6,y,2\n")
    records = read_records(path, time="time", columns=["y"])
    assert records[0].t.tolist() == [5, 6] and values(records) == [[1], [2]]
    records = read_records(path, outputs=["time"], inputs=["y"])
    assert records[0].t.tolist() == [0, 1] and values(records) == [[1, 5], [2, 6]]
    with pytest.raises(DataError, match="no column 'q'; there are t, time, note, y"):
        read_records(path, outputs=["q"])
    with pytest.raises(DataError, match="rate= must not be given beside times in 't'"):
        read_records(path, outputs=["y", "time"], rate=5)


@pytest.mark.parametrize("name", ["t", "time", "Time", "time_s", "time [s]", "Time (s)", "t_s"])
def test_elapsed_times_in_seconds(tmp_path: Path, name: str) -> None:
    records = read_records(written(tmp_path, f"y,{name}\n1,3\n2,4.5\n"))
    assert records[0].t.tolist() == [3, 4.5] and records.time.unit == "s" and records.epoch is None
    assert bool(records.notes) == (name.lower() in ("t", "time"))


def test_elapsed_times_in_other_units_stay_in_them(tmp_path: Path) -> None:
    for name in ("time [ms]", "time_ms", "timestamp_ms", "t (ms)"):
        records = read_records(written(tmp_path, f"{name},y\n0,1\n1.5,2\n4,3\n"))
        assert records.time.unit == "ms" and records[0].t.tolist() == [0, 1.5, 4]


@pytest.mark.parametrize("name", ["timestamp", "time", "t", "date", "datetime", "Timestamp [{}]", "time_{}"])
@pytest.mark.parametrize("unit, scale", [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_epoch_numbers_of_every_unit(tmp_path: Path, name: str, unit: str, scale: int) -> None:
    start = 1_780_000_000
    rows = "".join(f"{start * scale + k * scale},{k}\n" for k in range(3))
    records = read_records(written(tmp_path, f"{name.format(unit)},y\n{rows}"))
    assert records[0].t.tolist() == [0, 1, 2] and records.time.unit == "s"
    assert records.epoch == "2026-05-28T20:26:40+00:00"
    assert any(f"counts {unit} since 1970" in note for note in records.notes) and f"counts {unit}" in repr(records)


def test_numbers_that_look_like_stamps_are_numbers_elsewhere(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, "t,serial\n0,1780000000\n1,1780000001\n"))
    assert values(records) == [[1_780_000_000], [1_780_000_001]] and records.epoch is None
    assert values(read_records(written(tmp_path, "y\n1e17\n9.5e15\n"))) == [[1e17], [9.5e15]]


def test_nanoseconds_since_1970_are_exact(tmp_path: Path) -> None:
    """A double near 1.8e18 is a multiple of 256 ns."""
    stamps = [1_780_000_000_000_000_000 + k for k in (0, 1, 100)]
    records = read_records(written(tmp_path, "timestamp,y\n" + "".join(f"{k},1\n" for k in stamps)))
    np.testing.assert_allclose(records[0].t, [0, 1e-9, 1e-7], rtol=1e-15)


@pytest.mark.parametrize("zone, said", [("", ""), ("Z", "+00:00"), ("+02:00", "+00:00")])
def test_iso_stamps(tmp_path: Path, zone: str, said: str) -> None:
    text = f"y,timestamp\n1,2026-03-01 23:59:59.9{zone}\n2,2026-03-02T00:00:00{zone}\n3,2026-03-02 00:01{zone}\n"
    records = read_records(written(tmp_path, text))
    np.testing.assert_allclose(records[0].t, [0, 0.1, 60.1], rtol=1e-14)
    hour = "21" if zone == "+02:00" else "23"
    assert records.epoch == f"2026-03-01T{hour}:59:59.900000{said}" and "epoch    t = 0 is 2026" in repr(records)


def test_missing_values_are_a_mask_and_no_row_is_dropped(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, "t,a,b\n0,1,\n1,NaN,2\n2,NA,3\n3,,\n4,5,n/a\n"))
    (run,) = records
    assert run.y_mask.tolist() == [[True, False], [False, True], [False, True], [False, False], [True, False]]
    assert records.missing() == {"a": 3, "b": 3} and "missing  3 of a, 3 of b" in repr(records)
    assert read_records(written(tmp_path, "t,a,b\n0,1,\n1,2,\n")).missing() == {"b": 2}


def test_booleans_become_numbers_with_a_note(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, "t,on,y\n0,True,1\n1,false,2\n"))
    assert values(records) == [[1, 1], [0, 2]] and "'on' is true or false: 1 or 0" in records.notes


def test_a_column_says_which_run_a_row_belongs_to(tmp_path: Path) -> None:
    path = written(tmp_path, "run,t,y\nb,0,1\nb,1,2\na,0,3\nb,2,4\na,0.5,5\n")
    records = read_records(path, run="run")
    assert [(r.name, r.t.tolist(), r.y[:, 0].tolist()) for r in records] == [
        ("b", [0, 1, 2], [1, 2, 4]),
        ("a", [0, 0.5], [3, 5]),
    ]
    with pytest.raises(DataError, match="line 4: times must increase"):
        read_records(written(tmp_path, "run,t,y\nb,0,1\na,1,2\nb,0,3\n"), run="run")
    with pytest.raises(DataError, match="column 'run', line 3: the run is missing"):
        read_records(written(tmp_path, "run,t,y\nb,0,1\n,1,2\n"), run="run")
    counted = read_records(written(tmp_path, "id,y\n1,1\n1,2\n2,3\n"), run="id", rate=2.0)
    assert [r.t.tolist() for r in counted] == [[0, 0.5], [0]]


def test_a_gap_of_an_hour_is_kept_and_warned_of(tmp_path: Path) -> None:
    stamps = [k / 10 for k in range(50)] + [3600 + k / 10 for k in range(50)]
    with pytest.warns(UserWarning, match=r"a gap of 3595.1 s after line 51, where rows are 0.1 s apart"):
        records = read_records(written(tmp_path, "t,y\n" + "".join(f"{t},1\n" for t in stamps)))
    assert records.total_rows == 100 and records[0].t.tolist() == stamps


def test_a_hundred_rows_and_two_hundred_channels(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((100, 200))
    header = ",".join(f"c{i}" for i in range(200))
    records = read_records(
        written(tmp_path, header + "\n" + "\n".join(",".join(map(repr, row.tolist())) for row in table))
    )
    np.testing.assert_array_equal(records[0].y, table)
    assert "rows are counted" in " ".join(records.notes) and records.time.unit == "sample"


def test_the_line_of_a_bad_row_far_down(tmp_path: Path) -> None:
    """Beyond the first block of a reader, which is of a megabyte."""
    path = written(tmp_path, "a,b\n" + "1.25,2.5\n" * 200_000 + "1,2,3\n")
    with pytest.raises(DataError, match="line 200002: 3 cells"):
        read_records(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content, message in [
        ("a.csv", b"\xff\xfe\x00\x01", "cannot be read as text in utf-8-sig"),
        ("a.csv", "Temp (°C)\n1\n".encode("latin-1"), "name its encoding="),
        ("a.csv.gz", b"a,b\n1,2\n", "a.csv.gz: "),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99)[:-9], "a.csv.gz: "),
        ("a.parquet", b"PAR1 not quite", "a.parquet: "),
        ("a.npz", b"PK not quite", "a.npz: "),
    ]:
        with pytest.raises(DataError, match=message):
            read_records(written(tmp_path, content, name))
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_records(tmp_path)
    path = written(tmp_path, "Temp (°C);y\n1,5;2\n".encode("latin-1"))
    assert read_records(path, encoding="latin-1").outputs[0] == Channel("Temp", "°C")
    with pytest.raises(DataError, match="encoding must be one that Python knows"):
        read_records(path, encoding="latin-one")


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, y=np.arange(6.0), u=np.arange(12.0).reshape(6, 2), fs_Hz=2.0, parts=[4, 2], est=[0, 1])
    records = read_records(path, outputs=["y"], inputs=["u"], run="parts")
    assert [r.t.tolist() for r in records] == [[0, 0.5, 1, 1.5], [0, 0.5]] and records.inputs[1].name == "u[1]"
    assert read_records(path, outputs=["u[1]"])[0].y[:, 0].tolist() == [1, 3, 5, 7, 9, 11]
    with pytest.raises(DataError, match="arrays of several lengths, name the outputs"):
        read_records(path)
    with pytest.raises(DataError, match=r"no array 'q'; there are y \(6,\)"):
        read_records(path, outputs=["q"])
    np.savez(path, y=np.zeros((4, 2, 2)))
    with pytest.raises(DataError, match="y must have shape"):
        read_records(path)
    np.savez(path, y=np.array([None, {}]))
    with pytest.raises(DataError, match="allow_pickle"):
        read_records(path)


def test_frames_with_dates_named_indices_and_odd_dtypes() -> None:
    index = pd.date_range("2026-01-01", periods=3, freq="100ms", tz="Europe/Berlin")
    frame = pd.DataFrame({"y": [1.0, 2, 3], "on": pd.array([True, None, False]), "n": pd.array([1, None, 3])}, index)
    records = Records.from_frame(frame)
    np.testing.assert_allclose(records[0].t, [0, 0.1, 0.2], rtol=1e-14)
    np.testing.assert_array_equal(records[0].y, [[1, 1, 1], [2, np.nan, np.nan], [3, 0, 3]])
    assert records.epoch == "2026-01-01T00:00:00+01:00"
    named = pd.DataFrame({"y": [1, 2]}, pd.Index([0.5, 1.0], name="time_s"))
    assert Records.from_frame(named)[0].t.tolist() == [0.5, 1.0]
    several = pd.MultiIndex.from_product([["a", "b"], [0.0, 1.0]], names=["run", "t"])
    records = Records.from_frame(pd.DataFrame({"y": range(4)}, several), run="run")
    assert [(r.name, r.y[:, 0].tolist()) for r in records] == [("a", [0, 1]), ("b", [2, 3])]
    elapsed = pd.DataFrame({"time": pd.to_timedelta([0, 1500], unit="ms"), "y": [1, 2]})
    assert Records.from_frame(elapsed)[0].t.tolist() == [0, 1.5]
    with pytest.raises(DataError, match="column 'y' must hold numbers"):
        Records.from_frame(pd.DataFrame({"y": pd.to_datetime(["2026-01-01"])}), outputs=["y"])
    with pytest.raises(DataError, match="column 'y', row 1: inf is not a finite number"):
        Records.from_frame(pd.DataFrame({"y": [1, math.inf]}))
    with pytest.raises(DataError, match="column 'y' holds text, row 1: 'x'"):
        Records.from_frame(pd.DataFrame({"y": ["1", "x"]}))
    with pytest.raises(DataError, match="column 'y' holds text, row 2: 'x'"):
        Records.from_frame(pd.DataFrame({"y": [1, None, "x"]}))
    with pytest.raises(DataError, match="column 'y' holds text, row 0: '1'"):
        Records.from_frame(pd.DataFrame({"y": ["1", "2"]}))
    with pytest.raises(DataError, match="no rows"):
        Records.from_frame(pd.DataFrame({"y": []}))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_what_was_written_is_read_again_exactly(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.random(20))
    y = rng.standard_normal((20, 2))
    y[3, 1] = np.nan
    records = Records.from_arrays([t, t[:5]], [y, y[:5]], [t, t[:5]], outputs=["x (mm)", "v"], inputs=["F (N)"])
    path = tmp_path / f"a{suffix}"
    records.write(path)
    again = read_records(path, run="run", inputs=["F"])
    for a, b in zip(again, records, strict=True):
        for name in ("t", "y", "u"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (again.outputs, again.inputs, again.time) == (records.outputs, records.inputs, records.time)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_dates_are_written_as_dates(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, "timestamp,y\n2026-03-01T00:00:00.25,1\n2026-03-01T00:00:01,2\n"))
    records.write(tmp_path / "b.csv")
    again = read_records(tmp_path / "b.csv")
    assert again.epoch == records.epoch and again[0].t.tolist() == records[0].t.tolist() == [0, 0.75]


def test_writing_errors(tmp_path: Path) -> None:
    records = Records.from_arrays(None, np.ones(3))
    with pytest.raises(DataError, match=r"must end in .csv, .csv.gz or .parquet"):
        records.write(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="cannot be written"):
        records.write(tmp_path / "none" / "a.csv")


def test_the_extra_is_named_where_a_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("hbode.lazy.import_module", lambda name: without(name))
    with pytest.raises(MissingExtra, match=r"needs pyarrow: pip install 'hbode\[timeseries\]'"):
        read_records(written(tmp_path, "y\n1\n"))


@beside
@pytest.mark.parametrize(
    "name, options, rows, step, channels",
    [
        ("silverbox.csv", {"rate": 610.35, "inputs": ["V1"]}, 131_072, 1 / 610.35, ["V1", "V2"]),
        (
            "cascaded_tanks.csv",
            {"outputs": ["y_est_V"], "inputs": ["u_est_V"]},
            1024,
            4,
            ["u_est_V", "y_est_V"],
        ),
        ("ced_uniform.csv", {"columns": ["u11_V", "z11_ticks_per_s"]}, 500, 0.02, ["u11_V", "z11_ticks_per_s"]),
        (
            "plane_vibration.csv",
            {},
            73_728,
            1 / 400,
            ["Force", "Voltage", "Acceleration1", "Acceleration2", "Acceleration3"],
        ),
        ("schmidt_spring_mass.csv", {"run": "trial"}, 870, 1 / 30, ["x", "v"]),
        ("schmidt_pendulum.csv", {"run": "trial"}, 556, None, ["theta_rad", "alpha", "omega"]),
        ("wiener_hammerstein.npz", {"outputs": ["y_V"], "inputs": ["u_V"]}, 188_000, 1 / 51_200, ["u_V", "y_V"]),
        ("walker2d_valid.npz", {"outputs": ["x"], "run": "lengths"}, 25_225, 1, [f"x[{i}]" for i in range(17)]),
    ],
)
def test_real_files(name: str, options: dict, rows: int, step: float | None, channels: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read_records(DATA / name, **options)
    assert records.total_rows == rows and [c.name for c in records.channels] == channels and not records.missing()
    # The air-track camera's stamps are rounded to milliseconds over 29 s, and its rate is not exactly 30 Hz.
    assert records.step == (None if step is None else pytest.approx(step, rel=2e-3))


@beside
def test_text_in_a_real_file_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="column 'MouseID' holds text, line 2: '309_1'"):
        read_records(DATA / "mice_protein.csv")
