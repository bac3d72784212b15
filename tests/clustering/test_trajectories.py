"""Runs, windows and channels as points, and the figure of their tree."""

import numpy as np
import pytest

from hbode.clustering import KernelTreelets, trajectory_features, tree_figure, windows
from hbode.timeseries import DataError, Records

T = np.linspace(0, 10, 101)


def records(*runs, t=None, **kwargs) -> Records:
    return Records.from_arrays(t or [T] * len(runs), list(runs), **kwargs)


def test_distance_of_paths_is_the_root_mean_square_difference():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 101, 3)) * [1, 10, 100]
    x = trajectory_features(records(one, other))
    deviation = np.concatenate((one, other)).std(0)
    assert np.isclose(np.linalg.norm(x[0] - x[1]), np.sqrt(np.mean(((one - other) / deviation) ** 2)), rtol=1e-12)
    channels = trajectory_features(records(one, other), of="channels")
    assert channels.shape == (3, 202)
    both = np.concatenate((one, other))
    assert np.allclose(channels @ channels.T, np.corrcoef(both.T), atol=1e-12, rtol=0)


def test_times_may_differ_and_values_be_missing():
    late = np.sort(np.random.default_rng(0).uniform(5, 17, 80))
    line = T.copy()
    line[[0, 40, 100]] = np.nan
    x = trajectory_features(records(T, line, late - late[0], t=[T, T + 3, late]))
    assert np.linalg.norm(x[0] - x[2]) < 1e-12
    # the first missing value takes the next one, .1 off; of a deviation of 2.9, at one of 80 times
    assert 0 < np.linalg.norm(x[0] - x[1]) < 0.15 / 2.9 / np.sqrt(80) * 2


def test_spectrum_does_not_know_the_phase():
    runs = [np.sin(rate * T + phase) for rate in (2, 5) for phase in range(5)]
    path, spectrum = (trajectory_features(records(*runs), by=by) for by in ("path", "spectrum"))
    far = np.linalg.norm(path[0] - path[3])
    assert np.linalg.norm(spectrum[0] - spectrum[3]) < 0.1 * far
    assert np.linalg.norm(spectrum[0] - spectrum[5]) > 0.7 * far
    assert KernelTreelets(2).fit_predict(spectrum).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("length", [100, 101])
def test_spectrum_has_the_mean_square_of_the_path(length):
    noise = list(np.random.default_rng(0).normal(size=(400, length)))
    t = [np.arange(length)] * 400
    path, spectrum = (trajectory_features(records(*noise, t=t), by=by) for by in ("path", "spectrum"))
    # means of 400 × 100 squares, each of deviation √2; a run's own mean takes 1/100 of it
    ratio = np.square(spectrum).sum() / np.square(path - path.mean(1, keepdims=True)).sum()
    assert abs(ratio - 1) < 0.03


def test_regimes_of_a_record():
    t = np.arange(1200) / 100
    rate = np.where((t > 4) & (t < 8), 40, 15)
    record = Records.from_arrays(t, np.sin(np.cumsum(rate) / 100))
    cut = windows(record, 100)
    labels = KernelTreelets(2).fit_predict(trajectory_features(cut, by="spectrum"))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [0] * 4


def test_sensors_of_two_modes():
    rng = np.random.default_rng(0)
    modes = np.stack((np.sin(3 * T), np.sin(7 * T + 1)), 1)
    y = modes @ [[1, -2, 0, 0], [0, 0, 1, -0.5]] + 0.05 * rng.normal(size=(101, 4))
    x = trajectory_features(records(y), of="channels")
    assert KernelTreelets(2, kernel="linear").fit_predict(x).tolist() == [0, 0, 1, 1]


def test_windows():
    two = records(np.arange(101.0), np.arange(101.0))
    cut = windows(two, 50)
    assert [len(run) for run in cut] == [50] * 4
    assert [run.y[0, 0] for run in cut] == [0, 50, 0, 50]
    assert len(windows(two, 50, step=1)) == 2 * 52
    assert len({run.name for run in cut[:2]}) == 2


def test_figure_of_runs_and_of_channels():
    runs = [np.stack((np.sin(k * T + i), np.cos(k * T + i)), 1) for k in (2, 5) for i in range(4)]
    given = records(*runs)
    model = KernelTreelets(2).fit(trajectory_features(given, by="spectrum"))
    figure = tree_figure(given, model)
    assert [len(axes.lines) >= 8 for axes in figure.axes[1:]] == [True, True]
    colors = [trace.get_color() for trace in figure.axes[1].lines[:8]]
    assert colors[:4] == [colors[0]] * 4 and colors[4:] == [colors[4]] * 4 and colors[0] != colors[4]
    channels = KernelTreelets(2, kernel="linear").fit(trajectory_features(given, of="channels"))
    figure = tree_figure(given, channels, of="channels")
    assert sorted(label.get_text() for label in figure.axes[1].get_yticklabels()) == ["y1", "y2"]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="model"):
        tree_figure(given, channels)


def test_figure_of_many_windows():
    record = Records.from_arrays(None, np.sin(np.arange(2000.0)))
    cut = windows(record, 20)
    model = KernelTreelets(2, n_samples=80, random_state=0).fit(trajectory_features(cut))
    tree_figure(cut, model).canvas.draw()


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: trajectory_features(records(T), of="sensors"), "of"),
        (lambda: trajectory_features(records(T), by="phase"), "by"),
        (lambda: windows(records(T), 1), "rows"),
        (lambda: windows(records(T), 102), "rows"),
        (lambda: windows(records(T), 10, step=0), "step"),
    ],
)
def test_wrong_arguments(call, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        call()


def test_too_little_data():
    with pytest.raises(DataError, match="two rows"):
        trajectory_features(records(np.ones(1), t=[np.zeros(1)]))
    y = np.full((101, 2), np.nan)
    y[:, 0], y[3, 1] = T, 1.0
    with pytest.raises(DataError, match="'y2'"):
        trajectory_features(records(y))
