"""The treelet algorithm, against the definition and its invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

from hbode.clustering import jacobi_tree

ROUNDOFF = 1e-12
"""A few hundred rotations of entries of order one, each of 2e-16, leave 1e-14; the bar is 1e-12."""


def positive(n: int, seed: int, rank: int | None = None) -> np.ndarray:
    """Return a random positive semi-definite matrix of trace about n, with correlations of both signs."""
    factor = np.random.default_rng(seed).normal(size=(n, rank or n)) / np.sqrt(rank or n)
    return factor @ factor.T


def by_definition(a: np.ndarray, lambda_: float) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Return merges (kept, dropped), basis and rotated matrix, by whole matrices and the eigenvectors of each two."""
    a, basis = a.copy(), np.eye(len(a))
    active, merges = list(range(len(a))), []
    while len(active) > 1:
        pairs = [(i, j) for i in active for j in active if i < j]
        m = [np.sqrt(a[i, j] ** 2 / (a[i, i] * a[j, j])) + lambda_ * abs(a[i, j]) for i, j in pairs]
        p, q = pairs[int(np.argmax(m))]
        kept, dropped = (p, q) if a[p, p] >= a[q, q] else (q, p)
        _, vectors = np.linalg.eigh(a[np.ix_([kept, dropped], [kept, dropped])])
        principal = vectors[:, 1] * np.sign(vectors[0, 1])
        rotation = np.eye(len(a))
        rotation[kept, [kept, dropped]] = principal
        rotation[dropped, [kept, dropped]] = -principal[1], principal[0]
        a, basis = rotation @ a @ rotation.T, rotation @ basis
        active.remove(dropped)
        merges.append((kept, dropped))
    return merges, basis, a


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition(seed, lambda_):
    a = positive(12 + seed, seed, rank=40)
    tree = jacobi_tree(a, lambda_)
    merges, basis, rotated = by_definition(a, lambda_)
    assert list(zip(tree.kept.tolist(), tree.dropped.tolist(), strict=True)) == merges
    assert (tree.angle < 0).any() and (tree.angle > 0).any()
    assert abs(tree.forward(np.eye(len(a)), len(tree)).T - basis).max() < ROUNDOFF
    assert abs(tree.variance - rotated.diagonal()).max() < ROUNDOFF


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0, 5))
def test_rotations_keep_what_rotations_keep(n, seed, lambda_):
    a = positive(n, seed, rank=max(n // 2, 1))
    tree = jacobi_tree(a, lambda_)
    level = seed % n
    basis = tree.forward(np.eye(n), level).T
    rotated = basis @ a @ basis.T
    size = np.trace(a)
    assert abs(basis @ basis.T - np.eye(n)).max() < ROUNDOFF
    assert abs(rotated - rotated.T).max() < ROUNDOFF * size
    assert abs(np.trace(rotated) - size) < ROUNDOFF * size
    assert abs(tree.variance.sum() - size) < ROUNDOFF * size
    assert abs(np.linalg.eigvalsh(rotated) - np.linalg.eigvalsh(a)).max() < ROUNDOFF * size
    assert sorted([*tree.dropped, tree.kept[-1]]) == list(range(n))
    x = np.random.default_rng(seed).normal(size=(3, n))
    assert abs(tree.backward(tree.forward(x, level), level) - x).max() < ROUNDOFF


def test_each_rotation_zeroes_its_entry_and_its_matrix_stays():
    a = positive(30, 1)
    before = a.copy()
    tree = jacobi_tree(a)
    assert np.array_equal(a, before)
    for level in range(1, 30):
        basis = tree.forward(np.eye(30), level).T
        rotated = basis @ a @ basis.T
        k, d = tree.kept[level - 1], tree.dropped[level - 1]
        assert abs(rotated[k, d]) < ROUNDOFF
        assert rotated[k, k] >= rotated[d, d]


def test_similarity_is_the_largest_of_all_active_pairs_in_a_large_matrix():
    n, lambda_ = 150, 0.1
    a = positive(n, 3)
    tree = jacobi_tree(a, lambda_)
    active = np.ones(n, bool)
    for level in range(n - 1):
        basis = tree.forward(np.eye(n), level).T
        rotated = basis @ a @ basis.T
        scale = np.sqrt(rotated.diagonal())
        m = abs(rotated) * (1 / np.outer(scale, scale) + lambda_)
        np.fill_diagonal(m, 0)
        best = m[np.ix_(active, active)].max()
        assert abs(best - tree.similarity[level]) < ROUNDOFF * 10
        active[tree.dropped[level]] = False


def test_scales_of_variables_do_not_matter_without_lambda():
    a = positive(20, 5, rank=60)
    scale = np.diag(4.0 ** np.arange(-10, 10))
    one, other = jacobi_tree(a), jacobi_tree(scale @ a @ scale)
    assert abs(one.correlation[0] - other.correlation[0]) < ROUNDOFF
    assert {one.kept[0], one.dropped[0]} == {other.kept[0], other.dropped[0]}


def test_what_is_uncorrelated_comes_last_the_smallest_first():
    one = np.full((2, 2), 0.5) + 0.5 * np.eye(2)
    tree = jacobi_tree(block_diag(2 * one, 0.9 * one, 0.25, 0.0))
    assert np.allclose(tree.correlation, [0.5, 0.5, 0, 0, 0], atol=ROUNDOFF, rtol=0)
    assert tree.kept.tolist()[2:] == [0, 0, 0]
    assert tree.dropped.tolist()[2:] == [5, 4, 2]
    assert tree.angle[2:].tolist() == [0, 0, 0]


def test_copies_of_one_variable_merge_into_it():
    tree = jacobi_tree(np.ones((5, 5)))
    assert np.allclose(tree.correlation, 1, atol=ROUNDOFF, rtol=0)
    assert np.allclose(sorted(tree.variance), [0, 0, 0, 0, 5], atol=ROUNDOFF, rtol=0)


def test_a_single_variable_needs_no_rotation():
    tree = jacobi_tree(np.array([[2.0]]))
    assert len(tree) == 0
    assert tree.variance.tolist() == [2.0]
    assert tree.forward(np.array([[3.0]]), 0).tolist() == [[3.0]]
