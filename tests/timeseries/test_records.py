"""The container of measured runs, and its standardisation."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbode.timeseries import Channel, DataError, Records, Run, Scaling, check_for_training


def driven(rows: int = 100, runs: int = 1) -> Records:
    t = np.arange(rows) / 50
    y = [np.stack((np.sin(3 * t + k), np.cos(t + k)), 1) for k in range(runs)]
    u = [np.cos(5 * t + k) for k in range(runs)]
    names = {"outputs": ["x (mm)", "v"], "inputs": [Channel("F", "N")]}
    return Records.from_arrays(t, y, u, **names) if runs > 1 else Records.from_arrays(t, y[0], u[0], **names)


def test_arrays_of_one_run_keep_their_numbers() -> None:
    records = driven()
    (run,) = records
    assert len(records) == 1 and len(run) == records.total_rows == 100
    assert records.outputs == (Channel("x", "mm"), Channel("v")) and records.inputs == (Channel("F", "N"),)
    np.testing.assert_array_equal(run.u[:, 0], np.cos(5 * run.t))
    assert run.y.dtype == run.u.dtype == run.t.dtype == np.float64


def test_tensors_masked_arrays_and_whole_numbers() -> None:
    t = torch.arange(4, requires_grad=True, dtype=torch.float32)
    y = np.ma.masked_equal([1, 2, 3, 4], 3)
    run = Records.from_arrays(t, y, torch.tensor([True, False, True, True]))[0]
    np.testing.assert_array_equal(run.y[:, 0], [1, 2, np.nan, 4])
    np.testing.assert_array_equal(run.y_mask[:, 0], [True, True, False, True])
    np.testing.assert_array_equal(run.u[:, 0], [1, 0, 1, 1])
    assert run.u_mask.all() and run.t.dtype == np.float64


def test_arrays_are_copied() -> None:
    y = np.ones(3)
    run = Records.from_arrays(None, y)[0]
    y[0] = 5
    assert run.y[0, 0] == 1 and run.u.shape == (3, 0)


def test_a_list_of_arrays_is_many_runs() -> None:
    records = Records.from_arrays([np.arange(3), np.arange(5.0)], [np.ones(3), np.zeros((5, 1))])
    assert [len(run) for run in records] == [3, 5] and [run.name for run in records] == ["0", "1"]
    assert len(records[1:]) == 1 and records[-1].name == "1"
    assert [run.name for run in records.rows(2, 5)] == ["0", "1"] and records.rows(2, 5).total_rows == 3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Records.from_arrays([0, 1, 1], [1, 2, 3]), "row 2: times must increase, 1 follows 1 .repeated"),
        (lambda: Records.from_arrays([0, 2, 1], [1, 2, 3]), "row 2: times must increase, 1 follows 2 .out of order"),
        (lambda: Records.from_arrays([0, np.nan], [1, 2]), "row 1: the time"),
        (lambda: Records.from_arrays([0, 1], [1, np.inf]), r"row 1: y\[1, 0\] must be finite or NaN"),
        (lambda: Records.from_arrays([0, 1], [1, 2], [[0, np.inf], [1, 1]]), r"row 0: u\[0, 1\]"),
        (lambda: Records.from_arrays([0, 1], [1, 2, 3]), "shapes"),
        (lambda: Records.from_arrays(0.0, [1]), "shapes"),
        (lambda: Records.from_arrays(None, np.zeros((0, 2))), "no rows"),
        (lambda: Records.from_arrays(None, np.zeros((2, 2, 2))), "y must have shape"),
        (lambda: Records.from_arrays([0, 1], [1, 2], rate=5), "rate must not be given"),
        (lambda: Records.from_arrays(None, [1, 2], rate=0), "rate must be positive"),
        (lambda: Records.from_arrays(None, [np.ones(2)], np.ones(2)), "y and u must both be lists"),
        (lambda: Records.from_arrays(None, [np.ones(2)] * 2, [np.ones(2)]), "as many runs"),
        (lambda: Records.from_arrays(None, [1, 2], [1, 2], outputs=["a"], inputs=["a (N)"]), "'a' occurs twice"),
        (lambda: Records.from_arrays(None, [1, 2], outputs=["a", "b"]), "names are of"),
        (lambda: Records((), (Channel("y"),)), "at least one run"),
        (lambda: Records((Run(np.zeros(1), np.zeros((1, 0)), np.zeros((1, 0))),), ()), "at least one output"),
        (lambda: driven().select(["x", "q"]), "no channel 'q'; there are F, x, v"),
        (lambda: driven().rows(100, 120), "rows 100:120 are none of the 100"),
        (lambda: driven().split(1.0), "fraction"),
    ],
)
def test_errors(make: Callable[[], Records], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize("values", [["a", "b"], [1 + 1j, 2], torch.zeros(2, dtype=torch.complex64), [None, 1]])
def test_other_things_than_real_numbers_are_refused(values: object) -> None:
    with pytest.raises(TypeError, match="y must hold real numbers"):
        Records.from_arrays(None, values)  # type: ignore[arg-type]


def test_rows_and_split_keep_the_order() -> None:
    records = driven(runs=3)
    first, rest = records.split(0.5)
    assert first.total_rows == 150 and [len(run) for run in first] == [100, 50] and [len(r) for r in rest] == [50, 100]
    joined = np.concatenate([run.y for part in (first, rest) for run in part])
    np.testing.assert_array_equal(joined, np.concatenate([run.y for run in records]))
    assert records.rows(-10).total_rows == 10 and records.rows(None, None).total_rows == 300


def test_select_changes_roles_and_order() -> None:
    records = driven()
    changed = records.select(["v", "F"], ["x"])
    assert changed.outputs == (Channel("v"), Channel("F", "N")) and changed.inputs == (Channel("x", "mm"),)
    np.testing.assert_array_equal(changed[0].y[:, 1], records[0].u[:, 0])
    np.testing.assert_array_equal(changed[0].u[:, 0], records[0].y[:, 0])


@settings(max_examples=60, deadline=None)
@given(
    step=st.floats(1e-5, 1e5),
    start=st.floats(0, 1e3),
    rows=st.integers(3, 400),
    digits=st.integers(1, 6),
    single=st.booleans(),
)
def test_step_is_found_behind_the_rounding_of_the_stamps(
    step: float, start: float, rows: int, digits: int, single: bool
) -> None:
    exact = start * step + step * np.arange(rows)
    quantum = 10.0 ** (np.floor(np.log10(step)) - digits)  # at least a tenth of a step, often much less
    t = np.round(exact / quantum) * quantum
    if single and np.float32(t[-1]) - np.float32(t[0]) > 0 and quantum > 1e-5 * t[-1]:
        t = t.astype(np.float32)
    found = Records.from_arrays(t, t).step
    # Both ends are rounded by half a quantum.
    assert found == pytest.approx(step, abs=1.1 * quantum / (rows - 1) + 1e-6 * step)


def test_step_is_found_behind_significant_digits() -> None:
    """Programs that write numbers by %.9g give small times more decimal places than large ones."""
    t = np.array([float(f"{x:.9g}") for x in 0.0016384 * np.arange(65_000)])
    # The last one is rounded by half of 1e-6.
    assert Records.from_arrays(t, t).step == pytest.approx(0.0016384, abs=1e-6 / 65_000)
    assert Records.from_arrays(t + 1e-4 * np.sin(t), t).step is None


def test_no_step_of_irregular_times() -> None:
    t = np.arange(200) / 50
    rng = np.random.default_rng(0)
    assert Records.from_arrays(np.sort(rng.random(50)), np.ones(50)).step is None
    assert Records.from_arrays(np.delete(t, 70), np.ones(199)).step is None
    assert Records.from_arrays(t + 1e-4 * rng.random(200), np.ones(200)).step is None
    assert Records.from_arrays(t[:1], np.ones(1)).step is None
    assert Records.from_arrays([t, 2 * t], [t, t]).step is None
    assert Records.from_arrays([t, t + 7.3], [t, t]).step == pytest.approx(0.02, rel=1e-12)


def test_runs_are_cut_at_gaps_and_keep_every_row() -> None:
    t = np.arange(300) / 10
    t[100:] += 3600
    records = Records.from_arrays(t, np.sin(t))
    gap, run, row = records.longest_gap
    assert (gap, run, row) == (pytest.approx(3600.1), 0, 99) and records.step is None
    cut = records.cut_at_gaps()
    assert [len(run) for run in cut] == [100, 200] and cut.step == pytest.approx(0.1)
    assert len(records.cut_at_gaps(longest=4000.0)) == 1
    assert len(records.cut_at_gaps(longest=0.05)) == 300
    assert "gap      3600.1 s after row 99" in repr(records)


def test_repr_says_what_a_modeller_asks() -> None:
    records = driven(runs=2)
    records[0].y[3:5, 1] = np.nan
    said = repr(records)
    for words in ("2, 200 rows", "step 0.02 s", "F (N)", "x (mm), v", "missing  2 of v"):
        assert words in said
    assert records.missing() == {"v": 2}
    assert "step 1 sample" in repr(Records.from_arrays(None, np.ones(3)))
    assert "… (30 in all)" in repr(Records.from_arrays(None, np.ones((3, 30))))
    assert "3 rows" in repr(Records.from_arrays(None, np.ones(3))[0])


def test_scaling_by_hand_and_back() -> None:
    records = Records.from_arrays([0, 0.5, 1], np.array([[1, 10], [3, np.nan], [5, 30]]), [7, 8, 9])
    scaling = Scaling.fit(records)
    np.testing.assert_array_equal(scaling.outputs.mean, [3, 20])
    np.testing.assert_allclose(scaling.outputs.std, [np.sqrt(8 / 3), 10], rtol=1e-15)
    assert scaling.time_unit == 0.5
    standard = scaling.to_standard(records)
    np.testing.assert_array_equal(standard[0].t, [0, 1, 2])
    np.testing.assert_array_equal(standard[0].y[:, 1], [-1, np.nan, 1])
    back = scaling.from_standard(standard, like=records)
    # A division and a product, a difference and a sum of numbers below 30: four roundings.
    np.testing.assert_allclose(back[0].y, records[0].y, rtol=0, atol=4 * 30 * 2.3e-16)
    assert back.outputs == records.outputs and back.time == records.time and standard.time.unit == "τ"


def test_scaling_goes_through_json_bit_by_bit_and_takes_tensors() -> None:
    scaling = Scaling.fit(driven())
    again = Scaling.from_json(json.loads(json.dumps(scaling.as_json())))
    for side in ("outputs", "inputs"):
        for number in ("mean", "std"):
            np.testing.assert_array_equal(
                getattr(getattr(again, side), number), getattr(getattr(scaling, side), number)
            )
    assert again.time_unit == scaling.time_unit
    x = torch.ones(5, 2, dtype=torch.float32)
    assert scaling.outputs.to_standard(x).dtype == torch.float32
    torch.testing.assert_close(scaling.outputs.from_standard(scaling.outputs.to_standard(x)), x)


def test_other_channels_than_those_of_the_scaling_are_refused() -> None:
    scaling = Scaling.fit(driven())
    with pytest.raises(DataError, match=r"values must have 1 channels on their last axis, got shape \(5, 2\)"):
        scaling.inputs.to_standard(np.ones((5, 2)))


def test_a_long_gap_is_no_part_of_the_time_unit() -> None:
    t = np.arange(300) / 10
    t[100:] += 3600
    assert Scaling.fit(Records.from_arrays(t, np.sin(t))).time_unit == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(
    "y, message",
    [
        ([[1, np.nan], [2, np.nan]], "column 'y2' has no value"),
        ([[1, 5], [2, 5]], "column 'y2' does not vary"),
        ([[0.1, 1], [0.1, np.nan]], "column 'y1' does not vary"),
        ([[1, 2]], "too few rows, the longest run has 1, needs at least 2"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_name(y: list[list[float]], message: str) -> None:
    records = Records.from_arrays(None, np.array(y))
    with pytest.raises(DataError, match=message):
        check_for_training(records)
    with pytest.raises(DataError, match=message):
        Scaling.fit(records)


def test_a_model_may_ask_for_longer_runs() -> None:
    check_for_training(driven(runs=2), rows=100)
    with pytest.raises(DataError, match="needs at least 101"):
        check_for_training(driven(runs=2), rows=101)
