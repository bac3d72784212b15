"""Extreme eigenvalues from products with vectors, against closed forms and dense eigenvalues.

A value that counts as converged must have the relative error that was asked for, in its score at least. Where the
tolerance is below rounding, the bar is 1e-12 of the largest eigenvalue in double precision, 1e-5 in single precision.
"""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch

from hbode.analysis.krylov import _restart, arnoldi, lanczos

F64, F32 = torch.float64, torch.float32


def right(z):
    return z.real


def left(z):
    return -z.real


def size(z):
    return z.abs()


def frequency(z):
    return z.imag.abs()


def dense(a):
    return lambda v: (a @ v.unsqueeze(-1)).squeeze(-1)


def heat(n):
    """Second differences on a grid of n points with spacing 1 / (n + 1), and their eigenvalues, increasing."""

    def product(v):
        w = -2 * v
        w[:, 1:] += v[:, :-1]
        w[:, :-1] += v[:, 1:]
        return (n + 1) ** 2 * w

    k = torch.arange(n, 0, -1, dtype=F64)
    return product, -4 * (n + 1) ** 2 * torch.sin(k * math.pi / (2 * (n + 1))) ** 2


def convection(nx, ny, speed):
    """Δu + speed (∂x + ∂y) u on nx × ny points by central differences, not normal, and its (real) eigenvalues."""
    sides, ends = [], []
    for n in (nx, ny):
        lower, upper = (n + 1) ** 2 - speed * (n + 1) / 2, (n + 1) ** 2 + speed * (n + 1) / 2
        k = torch.arange(1, n + 1, dtype=F64)
        sides.append((lower, upper))
        ends.append(-2 * (n + 1) ** 2 + 2 * math.sqrt(lower * upper) * torch.cos(k * math.pi / (n + 1)))

    def product(v):
        x = v.reshape(-1, nx, ny)
        w = -2 * ((nx + 1) ** 2 + (ny + 1) ** 2) * x
        w[:, 1:] += sides[0][0] * x[:, :-1]
        w[:, :-1] += sides[0][1] * x[:, 1:]
        w[:, :, 1:] += sides[1][0] * x[:, :, :-1]
        w[:, :, :-1] += sides[1][1] * x[:, :, 1:]
        return w.reshape(v.shape)

    return product, (ends[0].unsqueeze(1) + ends[1]).flatten().to(torch.complex128).unsqueeze(0)


def oscillators(squares, gamma):
    """(h, m)' = (m, -squares h - gamma m) for gamma (B, 1), and the eigenvalues (B, 2 N)."""

    def product(v):
        h, m = v.chunk(2, -1)
        return torch.cat((m, -squares * h - gamma * m), -1)

    root = (gamma * gamma / 4 - squares).to(torch.complex128).sqrt()
    return product, torch.cat((-gamma / 2 + root, -gamma / 2 - root), -1)


def misses(found, truth, keys):
    """Distance of each value to the nearest eigenvalue, and of its score to the best, relative to the value: (B, K)."""
    values = found.values.to(torch.complex128)
    nearest = (truth.unsqueeze(1) - values.unsqueeze(-1)).abs().amin(-1)
    best = torch.stack([key(truth).amax(-1).expand(len(values)) for key in keys], -1)
    scores = torch.stack([key(values[:, k]) for k, key in enumerate(keys)], -1)
    return nearest / values.abs(), (scores - best).abs() / values.abs()


# Lanczos' method


@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_lanczos_finds_both_ends_of_the_stiff_heat_equation(draw, tol):
    """Two thousand points, a ratio of 1.6e6: copies of the large eigenvalues appear long before the small one does."""
    product, truth = heat(2000)
    found = lanczos(product, draw(1, 2000), tol, 20_000)
    assert found.converged.all() and found.products <= 4000
    assert (found.values.real / truth[[0, -1]] - 1).abs().max() <= tol
    assert found.values.dtype == torch.complex128 and (found.values.imag == 0).all()


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_lanczos_finds_the_small_end_of_a_graded_spectrum(draw, tol):
    """Fifty eigenvalues over eight decades take several hundred products, most of which go into copies."""
    scales = 10 ** torch.linspace(-2, 6, 50, dtype=F64)
    truth = torch.stack((scales, -scales.flip(0)))
    found = lanczos(lambda v: truth * v, draw(2, 50), tol, 20_000)
    assert found.converged.all()
    assert (found.values.real / truth[:, [0, -1]] - 1).abs().max() <= tol


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("n", [1, 2, 3, 20, 300])
def test_lanczos_agrees_with_dense_eigenvalues_for_every_matrix_of_a_batch(draw, n, dtype):
    """Indefinite, positive, zero, a multiple of the identity and of rank one, in one batch."""
    a = draw(n, n)
    ones = torch.ones(n, n, dtype=F64)
    matrices = torch.stack((a + a.mT, a @ a.mT, 0 * a, -3 * torch.eye(n, dtype=F64), ones / n)).to(dtype)
    truth = torch.linalg.eigvalsh(matrices.double())[:, [0, -1]]
    found = lanczos(dense(matrices), draw(5, n).to(dtype), 1e-10, 2000)
    assert found.converged.all()
    bar = (1e-12 if dtype == F64 else 1e-5) * truth.abs().amax(-1, keepdim=True) + 1e-10 * truth.abs()
    assert ((found.values.real - truth).abs() <= bar).all()
    assert found.values.dtype == dtype.to_complex()


def test_lanczos_ends_at_an_invariant_subspace_while_other_samples_go_on(draw):
    a = draw(50, 50)
    values, vectors = torch.linalg.eigh(a + a.mT)
    start = torch.stack((vectors[:, 7], vectors[:, 3] + vectors[:, 20], draw(50)))
    found = lanczos(dense((a + a.mT).expand(3, -1, -1)), start, 1e-10, 1000)
    assert found.converged.all()
    expected = values[torch.tensor([[7, 7], [3, 20], [0, 49]])]
    assert torch.allclose(found.values.real, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("most", [1, 2, 10, 100])
def test_lanczos_says_when_the_products_did_not_suffice(draw, most):
    product, truth = heat(2000)
    found = lanczos(product, draw(1, 2000), 1e-6, most)
    assert found.products == most and not found.converged.any()
    low, high = found.values.real[0]
    assert truth[0] <= low <= high <= truth[-1]


def test_lanczos_keeps_a_fixed_number_of_vectors(draw):
    """A million unknowns: neither the tensors that live on nor the products grow with the count of vectors."""
    n, calls, live = 1_000_000, [], []
    values = torch.linspace(-1, 2, n, dtype=F64)
    values[0], values[-1] = -1.2, 2.3

    def product(v):
        calls.append(None)
        if len(calls) in (5, 30):
            live.append(sum(t.numel() >= n for t in gc.get_objects() if type(t) is torch.Tensor))
        return values * v

    found = lanczos(product, draw(1, n), 1e-4, 100)
    assert found.converged.all() and found.products > 30
    assert torch.allclose(found.values.real, torch.tensor([[-1.2, 2.3]], dtype=F64), rtol=1e-4)
    assert live[0] == live[1] <= 6


# Arnoldi's method


@pytest.mark.parametrize("kept", [15, 24, 48])
@pytest.mark.parametrize("speed", [1.0, 10.0, 25.0])
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_arnoldi_finds_both_ends_of_a_convection_diffusion_operator(draw, tol, speed, kept):
    """The condition of the eigenvalues is up to 7e5, and the norm 850 times the rightmost one."""
    product, truth = convection(40, 50, speed)
    keys = [right, left, size]
    found = arnoldi(product, draw(1, 2000), keys, tol, kept, 3000)
    assert found.converged.all()
    assert max(part.max() for part in misses(found, truth, keys)) <= tol


@pytest.mark.parametrize("dtype, tol", [(F64, 1e-4), (F64, 1e-10), (F32, 1e-4)])
def test_arnoldi_agrees_with_dense_eigenvalues_of_different_matrices(draw, dtype, tol):
    """A disc of random eigenvalues with outliers: real ones, pairs, and one sample with a zero matrix."""
    n = 400
    a = draw(3, n, n) / math.sqrt(n)
    a[0, 0, 0] += 2.0
    a[0, 1, 1] -= 3.0
    a[0, 2:4, 2:4] += torch.tensor([[1.5, 2.5], [-2.5, 1.5]], dtype=F64)
    a[1, 2:4, 2:4] += torch.tensor([[1.2, 2.0], [-2.0, 1.2]], dtype=F64)
    a[1, 5, 5] -= 1.6
    a[2] = 0.0
    keys = [right, left, size, frequency]
    found = arnoldi(dense(a.to(dtype)), draw(3, n).to(dtype), keys, tol, 24, 1000)
    assert found.converged.all() and (found.values[2] == 0).all()
    assert max(part[:2].max() for part in misses(found, torch.linalg.eigvals(a), keys)) <= tol
    assert found.values.dtype == dtype.to_complex() and (found.values.imag >= 0).all()


@pytest.mark.slow
def test_arnoldi_agrees_with_dense_eigenvalues_of_a_large_random_matrix(draw):
    """N = 2000: the edge of a disc of random eigenvalues, without outliers."""
    n = 2000
    a = draw(n, n) / math.sqrt(n)
    edge = torch.linalg.eigvals(a).unsqueeze(0)
    keys = [right, size, frequency]
    found = arnoldi(dense(a), draw(1, n), keys, 1e-4, 48, 1500)
    assert found.converged.all()
    assert max(part.max() for part in misses(found, edge, keys)) <= 1e-4


def test_arnoldi_finds_the_ends_of_overdamped_and_underdamped_oscillators(draw):
    """Real and complex spectra in one batch. All real parts tie in the last sample, so these are not looked for."""
    gamma = torch.tensor([[2.5], [4.0], [0.3]], dtype=F64)
    squares = torch.linspace(1, 100, 1000, dtype=F64)
    product, truth = oscillators(squares, gamma)
    keys = [size, frequency]
    found = arnoldi(product, draw(3, 2000), keys, 1e-4, 24, 2000)
    assert found.converged.all()
    assert max(part.max() for part in misses(found, truth, keys)) <= 1e-4
    keys = [right, left, size]
    found = arnoldi(oscillators(squares, gamma[:2])[0], draw(2, 2000), keys, 1e-4, 24, 4000)
    assert found.converged.all()
    assert max(part.max() for part in misses(found, truth[:2], keys)) <= 1e-4


def test_arnoldi_takes_a_converged_value_where_scores_tie(draw):
    """Eight frequencies of one damping: all real parts are -0.15, and any of the 16 eigenvalues is rightmost."""
    squares = torch.linspace(1, 4, 8, dtype=F64).repeat(100)
    product, truth = oscillators(squares, torch.tensor([[0.3]], dtype=F64))
    keys = [right, left]
    found = arnoldi(product, draw(1, 1600), keys, 1e-8, 12, 4000)
    nearest, score = misses(found, truth, keys)
    assert found.converged.all() and max(nearest.max(), score.max()) <= 1e-8


def test_arnoldi_is_at_home_with_defective_eigenvalues(draw):
    """Half of the oscillators are damped critically: their double eigenvalue -1 has a single eigenvector each."""
    squares = torch.cat((torch.ones(500, dtype=F64), torch.linspace(0.1, 1, 500, dtype=F64)))
    product, truth = oscillators(squares, torch.tensor([[2.0]], dtype=F64))
    keys = [right, left, size]
    found = arnoldi(product, draw(1, 2000), keys, 1e-6, 24, 2000)
    assert found.converged.all()
    assert max(part.max() for part in misses(found, truth, keys)) <= 1e-6


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
def test_arnoldi_is_exact_where_the_vectors_span_the_space(draw, n, dtype):
    a = draw(4, n, n)
    a[1], a[2] = 0.0, -2 * torch.eye(n)
    a[3] = torch.outer(a[3, 0], a[3, 0])
    keys = [right, left, size]
    found = arnoldi(dense(a.to(dtype)), draw(4, n).to(dtype), keys, 1e-4, 16, 100)
    assert found.converged.all() and found.products == n
    truth = torch.linalg.eigvals(a)
    for k, key in enumerate(keys):
        bar = (1e-12 if dtype == F64 else 1e-5) * truth.abs().amax(-1)
        assert ((key(found.values[:, k]) - key(truth).amax(-1)).abs() <= bar).all()


def test_arnoldi_ends_at_an_invariant_subspace_while_other_samples_go_on(draw):
    a = torch.diag(torch.arange(1.0, 101.0, dtype=F64))
    a[:2, :2] = torch.tensor([[1.0, 2.0], [-2.0, 1.0]])
    start = torch.zeros(3, 100, dtype=F64)
    start[0, 0] = start[1, [10, 20]] = 1.0
    start[2] = draw(100)
    found = arnoldi(dense(a.expand(3, -1, -1)), start, [right, left], 1e-8, 12, 1000)
    assert found.converged.all()
    expected = torch.tensor([[1 + 2j, 1 + 2j], [21, 11], [100, 1 + 2j]], dtype=torch.complex128)
    assert torch.allclose(found.values, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "key, sign", [(right, 1), (size, 1), (frequency, 1), (lambda z: z.imag, 1), (lambda z: -z.imag, -1)]
)
def test_arnoldi_returns_the_upper_value_of_a_pair_unless_the_key_tells_them_apart(draw, key, sign):
    a = draw(60, 60) / 8
    a[:2, :2] += torch.tensor([[3.0, 5.0], [-5.0, 3.0]])
    truth = torch.linalg.eigvals(a)
    top = truth[truth.imag.argmax()]
    for _ in range(5):
        found = arnoldi(dense(a), draw(1, 60), [key], 1e-10, 12, 500)
        assert found.converged.all()
        assert abs(complex(found.values[0, 0]) - complex(top.real, sign * top.imag)) <= 1e-9


def test_arnoldi_says_that_it_did_not_find_the_slow_end_of_a_stiff_spectrum(draw):
    """The heat equation again: the fast end is found in a moment, the slow one would take thousands of vectors."""
    product, truth = heat(2000)
    found = arnoldi(product, draw(1, 2000), [left, right], 1e-4, 24, 1000)
    assert found.products == 1000 and found.converged.tolist() == [[True, False]]
    assert float(found.values[0, 0].real) == pytest.approx(float(truth[0]), rel=1e-4)
    assert truth[0] <= found.values[0, 1].real <= truth[-1]


def test_arnoldi_says_that_it_did_not_find_the_rightmost_of_a_thousand_oscillators(draw):
    """All real parts are -0.05, among Ritz values that scatter far more: no tolerance hides this."""
    product, truth = oscillators(torch.linspace(1, 100, 1000, dtype=F64), torch.tensor([[0.1]], dtype=F64))
    found = arnoldi(product, draw(1, 2000), [right, size], 1e-4, 24, 500)
    assert found.converged.tolist() == [[False, True]]
    assert misses(found, truth, [right, size])[0][0, 1] <= 1e-4


def test_arnoldi_takes_a_million_unknowns(draw):
    values = torch.linspace(-1, 2, 1_000_000, dtype=F64)
    values[5], values[6] = -4.0, 7.0
    found = arnoldi(lambda v: values * v, draw(1, 1_000_000), [right, left], 1e-6, 20, 60)
    assert found.converged.all() and found.products <= 60
    assert torch.allclose(found.values, torch.tensor([[7.0, -4.0]], dtype=torch.complex128), rtol=1e-6)


@pytest.mark.parametrize("keep", [2, 4, 6])
@pytest.mark.parametrize("reals", [(), (5.0,), (5.0, -5.0), (0.1, 0.2, 0.3), (4.0, 3.0, 2.0, -2.0)])
def test_a_restart_keeps_an_invariant_subspace_whatever_its_pairs(draw, reals, keep):
    """Single real values and pairs must fill an even number of places, which one real value and pairs cannot."""
    blocks = [torch.tensor([[re, im], [-im, re]]) for re, im in [(1.0, 1.0), (0.5, 2.0), (-1.0, 0.5), (-2.0, 3.0)]]
    form = torch.block_diag(*(torch.tensor([[x]]) for x in reals), *blocks).double()
    n = len(form)
    turn = draw(n, n)
    square = turn @ form @ torch.linalg.inv(turn)
    matrix = torch.cat((square, 2.0 * torch.eye(n, dtype=F64)[-1:])).numpy()
    kept = _restart(matrix, [right, left], keep)
    assert np.allclose(kept.T @ kept, np.eye(keep), rtol=0, atol=1e-12)
    assert np.allclose(square.numpy() @ kept, kept @ matrix[:keep, :keep], rtol=0, atol=1e-9)
    assert np.allclose(matrix[keep, :keep], 2.0 * kept[-1], rtol=0, atol=1e-12)
    assert (matrix[:, keep:] == 0).all() and (matrix[keep + 1 :] == 0).all()


def test_too_few_vectors_are_refused(draw):
    with pytest.raises(ValueError, match="kept must be at least 6 for 2 keys, got 5"):
        arnoldi(lambda v: v, draw(1, 10), [right, left], 1e-4, 5, 100)


# Both


METHODS = {
    "lanczos": lambda product, start: lanczos(product, start, 1e-8, 300),
    "arnoldi": lambda product, start: arnoldi(product, start, [left, right], 1e-8, 12, 300),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [0, 5, 11])
@pytest.mark.parametrize("method", METHODS)
def test_a_product_that_is_not_finite_spoils_its_own_sample_only(draw, method, when, bad):
    values, calls = torch.linspace(-1, 1, 40, dtype=F64) ** 3, []

    def product(v):
        calls.append(v)
        w = values * v
        if len(calls) > when:
            w[0, 3] = bad
        return w

    found = METHODS[method](product, draw(2, 40))
    assert found.values[0].isnan().all() and found.converged.tolist() == [[False, False], [True, True]]
    assert torch.allclose(found.values[1].real, torch.tensor([-1.0, 1.0], dtype=F64), rtol=1e-8)
    assert all(v.isfinite().all() for v in calls)


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_start_finds_nothing(method):
    found = METHODS[method](lambda v: 2 * v, torch.zeros(1, 20, dtype=F64))
    assert found.values.isnan().all() and not found.converged.any()


@pytest.mark.parametrize("method", METHODS)
def test_results_repeat_and_leave_random_numbers_and_graphs_alone(draw, method):
    a, start = draw(80, 80, grad=True), draw(2, 80)
    state = torch.get_rng_state()
    first, second = (METHODS[method](dense(a + a.mT), start) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.values, second.values) and first.products == second.products
    assert first.converged.all() and not first.values.requires_grad
    truth = torch.linalg.eigvalsh(a + a.mT)[[0, -1]].expand(2, -1)
    assert torch.allclose(first.values.real, truth, rtol=1e-8)
