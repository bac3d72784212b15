"""Scores against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from hbode.timeseries.scores import band_scores, simulation_scores


def test_scores_of_a_sine_are_known():
    t = np.arange(100) * 2 * np.pi / 100
    y = np.column_stack((np.sin(t), 3 + 2 * np.cos(t)))
    scores = simulation_scores([y], [y + np.array([0.1, -0.4])])
    # The standard deviations of whole periods are 1/√2 and 2/√2.
    np.testing.assert_allclose(scores.rmse, [0.1, 0.4], rtol=1e-12)
    np.testing.assert_allclose(scores.nrmse, np.sqrt([0.02, 0.08]), rtol=1e-12)
    np.testing.assert_allclose(scores.fit, 100 - 100 * np.sqrt([0.02, 0.08]), rtol=1e-12)
    np.testing.assert_allclose(
        [scores.joined_rmse, scores.joined_nrmse, scores.joined_fit],
        [np.sqrt(0.085), np.sqrt(0.05), 100 - 100 * np.sqrt(0.05)],
        rtol=1e-12,
    )


def test_missing_values_and_first_samples_are_left_out_and_samples_of_all_runs_count_alike():
    y = [np.array([[0.0], [1.0], [np.nan]]), np.array([[0.0], [0.0], [0.0], [3.0]])]
    of_model = [np.array([[99.0], [2.0], [7.0]]), np.array([[99.0], [0.0], [0.0], [1.0]])]
    assert simulation_scores(y, of_model, skip=1).rmse[0] == pytest.approx(np.sqrt(5 / 4), rel=1e-14)


def test_a_simulation_that_is_not_finite_has_an_infinite_error():
    y = np.arange(3.0)[:, None]
    for value in (np.nan, np.inf):
        assert simulation_scores([y], [np.array([[0.0], [value], [2.0]])]).joined_rmse == np.inf


def test_coverage_of_known_bands():
    y = np.column_stack((np.arange(10.0), np.zeros(10)))
    y[0, 1] = np.nan
    lower = np.column_stack((np.full(10, 2.0), np.full(10, -1.0)))
    scores = band_scores([y], [lower], [lower + np.array([4.0, 2.0])])
    np.testing.assert_allclose(scores.coverage, [0.5, 1.0])
    np.testing.assert_allclose(scores.width, [4.0, 2.0])
    assert scores.joined_coverage == pytest.approx(14 / 19)


@pytest.mark.parametrize(
    "measured, simulated, skip, words",
    [
        ([np.zeros((3, 1))], [np.zeros((4, 1))], 0, "simulated"),
        ([np.zeros(3)], [np.zeros(3)], 0, "measured"),
        ([], [], 0, "measured"),
        ([np.zeros((3, 1))], [np.zeros((3, 1))], 3, "output 0"),
        ([np.zeros((3, 1))], [np.zeros((3, 1))], -1, "skip"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(measured, simulated, skip, words):
    with pytest.raises(ValueError, match=words):
        simulation_scores(measured, simulated, skip)
