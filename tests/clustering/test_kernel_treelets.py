"""Clusters of samples by treelets of a kernel, through scikit-learn's contract."""

import numpy as np
import pytest
from scipy.cluster import hierarchy
from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbode.clustering import KernelTreelets, Treelets, local_gamma

PRECOMPUTED = {
    "check_clustering": "hands over points where a kernel matrix is expected",
    "check_positive_only_tag_during_fit": "hands over a matrix with a negative diagonal",
}


def expected_failures(estimator) -> dict[str, str]:
    return PRECOMPUTED if getattr(estimator, "kernel", "") == "precomputed" else {}


@parametrize_with_checks(
    [
        KernelTreelets(),
        KernelTreelets(kernel="linear", extension="svm"),
        KernelTreelets(kernel="neighbours", n_samples=12, random_state=0),
        KernelTreelets(kernel="precomputed"),
        Treelets(n_clusters=1),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def moons():
    return datasets.make_moons(300, noise=0.05, random_state=0)


def gaussian(x, y):
    return np.exp(-5 * ((x[:, None] - y[None]) ** 2).sum(-1))


@pytest.mark.parametrize("kernel", ["rbf", "neighbours"])
def test_finds_what_is_not_convex(kernel, moons):
    x, y = moons
    assert adjusted_rand_score(y, KernelTreelets(2, kernel=kernel).fit_predict(x)) == 1
    x, y = datasets.make_circles(300, factor=0.5, noise=0.05, random_state=0)
    assert adjusted_rand_score(y, KernelTreelets(2, kernel=kernel).fit_predict(x)) == 1


def test_one_kernel_in_three_ways(moons):
    x, _ = moons
    models = [
        KernelTreelets(4, gamma=5.0).fit(x),
        KernelTreelets(4, kernel=gaussian).fit(x),
        KernelTreelets(4, kernel="precomputed").fit(gaussian(x, x)),
    ]
    new = np.random.default_rng(1).normal(size=(9, 2))
    for model, given in zip(models, (new, new, gaussian(new, x)), strict=True):
        assert np.array_equal(model.labels_, models[0].labels_)
        assert np.array_equal(model.predict(given), models[0].predict(new))
        assert np.allclose(model.transform(given), models[0].transform(new), atol=1e-12, rtol=0)
        assert np.allclose(model.heights_, models[0].heights_, atol=1e-12, rtol=0)


def test_tree_is_one_that_scipy_draws(moons):
    x, _ = moons
    for lambda_ in (0.0, 1.0):
        model = KernelTreelets(3, lambda_=lambda_).fit(x)
        assert hierarchy.is_valid_linkage(model.linkage_)
        assert hierarchy.is_monotonic(model.linkage_)
        assert model.linkage_[-1, 3] == 300
        assert np.array_equal(model.children_, model.linkage_[:, :2])
        assert np.array_equal(model.heights_, model.linkage_[:, 2])
        drawn = hierarchy.dendrogram(model.linkage_, no_plot=True)
        assert sorted(drawn["leaves"]) == list(range(300))


def test_plain_cut_is_the_cut_of_the_tree():
    x = np.random.default_rng(0).normal(size=(60, 3))
    model = KernelTreelets(7, min_share=0).fit(x)
    assert adjusted_rand_score(model.labels_, hierarchy.cut_tree(model.linkage_, 7)[:, 0]) == 1


@pytest.mark.parametrize("n_clusters", [1, 2, 5, 40])
@pytest.mark.parametrize("min_share", [0.0, 0.1, 3.0])
def test_as_many_clusters_as_asked_for_numbered_by_their_first_members(n_clusters, min_share):
    x = np.random.default_rng(0).normal(size=(40, 2))
    labels = KernelTreelets(n_clusters, min_share=min_share).fit_predict(x)
    found, first = np.unique(labels, return_index=True)
    assert found.tolist() == list(range(n_clusters))
    assert sorted(first) == first.tolist() or min_share


def test_outliers_are_no_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate((rng.normal(0, 0.1, (50, 2)), rng.normal(1, 0.1, (50, 2)), [[9.0, 9.0], [-9.0, -9.0]]))
    truth = np.repeat([0, 1, 1, 0], [50, 50, 1, 1])
    assert KernelTreelets(2).fit_predict(x).tolist() == truth.tolist()
    assert np.bincount(KernelTreelets(3, min_share=0).fit_predict(x)).min() == 1


@pytest.mark.parametrize("level", [0, 17, None])
def test_transform_and_back(level, moons):
    x, _ = moons
    model = KernelTreelets(gamma=5.0).fit(x)
    basis, a = model.basis(level), gaussian(x, x)
    assert np.allclose(basis @ basis.T, np.eye(300), atol=1e-12, rtol=0)
    coordinates = model.transform(x, level)
    assert np.allclose(coordinates, a @ basis.T, atol=1e-12, rtol=0)
    assert np.allclose(model.inverse_transform(coordinates, level), a, atol=1e-12, rtol=0)
    if level is None:
        assert np.allclose((basis @ a @ basis.T).diagonal(), model.rotations_.variance, atol=1e-11, rtol=0)


@pytest.mark.parametrize("extension", ["nearest", "svm"])
@pytest.mark.parametrize("kernel", ["rbf", "neighbours", "precomputed"])
def test_sample_is_extended_to_the_rest(kernel, extension):
    x, y = datasets.make_blobs(600, centers=[[0, 0], [5, 0], [0, 5]], cluster_std=0.7, random_state=0)
    given = gaussian(x / 3, x / 3) if kernel == "precomputed" else x
    model = KernelTreelets(3, kernel=kernel, n_samples=120, extension=extension, random_state=0).fit(given)
    assert adjusted_rand_score(y, model.labels_) > 0.98  # of 600, one or two lie between the clusters
    assert model.linkage_.shape == (119, 4)
    assert len(set(model.sample_indices_)) == 120
    assert np.array_equal(model.predict(given), model.labels_)
    assert np.array_equal(clone(model).fit(given).labels_, model.labels_)


def test_no_more_samples_are_drawn_than_there_are(moons):
    x, _ = moons
    assert np.array_equal(KernelTreelets(n_samples=301).fit(x).labels_, KernelTreelets().fit(x).labels_)


def test_default_width_follows_the_data(moons):
    x, _ = moons
    assert np.isclose(local_gamma(10 * x + 3), local_gamma(x) / 100, rtol=1e-9)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    assert np.isclose(local_gamma(x), 0.5 / np.median(np.sort(distance, axis=1)[:, 7] ** 2), rtol=1e-9)
    assert KernelTreelets().fit(x).kernel_.gamma == local_gamma(x)
    assert local_gamma(np.zeros((5, 2))) == 0.5


def test_missing_values_are_a_matter_of_the_kernel():
    x = np.array([[0.0, np.nan, 0.0], [0.1, 0.0, 0.2], [np.nan, 5.0, 5.2], [5.0, 5.1, np.nan]])

    def observed(a, b):
        return np.exp(-np.nanmean((a[:, None] - b[None]) ** 2, axis=-1))

    assert KernelTreelets(2, kernel=observed).fit_predict(x).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="NaN"):
        KernelTreelets(2).fit(x)


def test_a_kernel_keeps_its_matrix(moons):
    x, _ = moons
    a = gaussian(x, x)
    for model in (KernelTreelets(kernel="precomputed").fit(a), KernelTreelets(kernel=lambda *_: a).fit(x)):
        assert np.array_equal(a, gaussian(x, x))
        assert len(model.labels_) == 300


def test_far_from_all_samples_is_nearest_to_something():
    model = KernelTreelets(2).fit([[0.0], [0.1], [1.0], [1.1]])
    assert model.predict([[-1e6], [1e6]]).tolist() == [0, 1]


@pytest.mark.parametrize(
    "arguments, error, name",
    [
        ({"n_clusters": 0}, ValueError, "n_clusters"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters"),
        ({"n_clusters": 11}, ValueError, "n_clusters"),
        ({"n_clusters": 5, "n_samples": 4}, ValueError, "n_clusters"),
        ({"n_samples": 1}, ValueError, "n_samples"),
        ({"kernel": "gauss"}, ValueError, "kernel"),
        ({"kernel": lambda x, y: np.ones(3)}, ValueError, "kernel"),
        ({"kernel": lambda x, y: np.full((len(x), len(y)), np.nan)}, ValueError, "kernel"),
        ({"kernel": lambda x, y: np.triu(np.ones((len(x), len(y))))}, ValueError, "kernel"),
        ({"kernel": lambda x, y: -np.ones((len(x), len(y)))}, ValueError, "kernel"),
        ({"kernel": "precomputed"}, ValueError, "kernel"),
        ({"gamma": 0.0}, ValueError, "gamma"),
        ({"gamma": "scale"}, TypeError, "gamma"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors"),
        ({"kernel": "neighbours", "n_neighbors": 11}, ValueError, "n_neighbors"),
        ({"lambda_": -1.0}, ValueError, "lambda_"),
        ({"lambda_": float("inf")}, ValueError, "lambda_"),
        ({"min_share": -0.1}, ValueError, "min_share"),
        ({"extension": "forest"}, ValueError, "extension"),
    ],
)
def test_wrong_arguments(arguments, error, name):
    with pytest.raises(error, match=name):
        KernelTreelets(**arguments).fit(np.random.default_rng(0).normal(size=(10, 2)))


def test_wrong_levels_and_coordinates(moons):
    model = KernelTreelets().fit(moons[0])
    for level in (-1, 300, 1.5):
        with pytest.raises(ValueError, match="level"):
            model.basis(level)
    with pytest.raises(ValueError, match="X must have shape"):
        model.inverse_transform(np.ones((2, 3)))
    with pytest.raises(NotFittedError):
        KernelTreelets().basis()
