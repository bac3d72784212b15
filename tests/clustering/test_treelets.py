"""Treelets of variables."""

import numpy as np
import pytest
from scipy.cluster import hierarchy

from hbode.clustering import Treelets


@pytest.fixture(scope="module")
def sensors():
    """Two sources, three sensors each, of both signs and different gains."""
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(400, 2))
    gains = np.array([[1, -2, 0.5, 0, 0, 0], [0, 0, 0, 1, -1, 3]])
    return sources @ gains + 0.1 * rng.normal(size=(400, 6)) + 5


def test_negative_correlation_is_correlation(sensors):
    model = Treelets(2).fit(sensors)
    assert model.labels_.tolist() == [0, 0, 0, 1, 1, 1]
    assert hierarchy.is_valid_linkage(model.linkage_)


@pytest.mark.parametrize("level", [0, 3, None])
def test_coordinates_and_back(level, sensors):
    model = Treelets(2).fit(sensors)
    found = model.transform(sensors, level)
    assert np.allclose(found, (sensors - sensors.mean(0)) @ model.basis(level).T, atol=1e-12, rtol=0)
    assert np.allclose(model.inverse_transform(found, level), sensors, atol=1e-12, rtol=0)


def test_coordinates_have_the_variances_of_the_tree(sensors):
    model = Treelets(2).fit(sensors)
    assert np.allclose(model.transform(sensors).var(0, ddof=1), model.rotations_.variance, atol=1e-11, rtol=0)
    kept = np.sort(model.rotations_.variance)[-2:]
    assert kept.sum() > 0.99 * sensors.var(0, ddof=1).sum()  # noise: 6 × .01 of 15.3


def test_a_constant_column_belongs_to_nothing():
    t = np.linspace(0, 1, 20)
    assert Treelets(2).fit(np.stack((t, np.ones(20), -t), 1)).labels_.tolist() == [0, 1, 0]


def test_wrong_arguments(sensors):
    with pytest.raises(ValueError, match="n_clusters"):
        Treelets(7).fit(sensors)
    with pytest.raises(TypeError, match="n_clusters"):
        Treelets("two").fit(sensors)
    with pytest.raises(ValueError, match="lambda_"):
        Treelets(lambda_=-1.0).fit(sensors)
    with pytest.raises(ValueError, match="level"):
        Treelets(2).fit(sensors).transform(sensors, 6)
