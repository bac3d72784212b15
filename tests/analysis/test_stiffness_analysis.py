"""Eigenvalues along trajectories against closed forms, matrices against products, and what is made of them."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from torch import nn

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.analysis import stiffness, stiffness_at
from hbode.analysis.stiffness import jacobian
from hbode.analysis.stiffness.eigenvalues import quadratic_roots

TIMES = [0.0, 0.4, 1.0]


def matched(found, known):
    """Return the largest distance between two sets of numbers in the best matching, relative to the largest number."""
    from scipy.optimize import linear_sum_assignment

    found, known = np.asarray(found).ravel(), np.asarray(known).ravel()
    apart = np.abs(found[:, None] - known[None])
    return apart[linear_sum_assignment(apart)].max() / max(np.abs(known).max(), 1e-300)


def states(draw, *shape):
    return draw(len(TIMES), *shape)


def laplacian(n):
    def f(t, h):
        z = nn.functional.pad(h, (1, 1))
        return (z[..., 2:] - 2 * h + z[..., :-2]) * (n + 1) ** 2

    return f


def heat_rates(n):
    k = np.arange(1, n + 1)
    return -4 * (n + 1) ** 2 * np.sin(0.5 * np.pi * k / (n + 1)) ** 2


def roots(mu, gamma):
    return np.concatenate([np.roots([1.0, gamma, -x]) for x in mu])


class Wavy(nn.Module):
    """f = -∇V, nonlinear and driven, with a Jacobian known in closed form."""

    def __init__(self, n, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(n, n, generator=rng, dtype=torch.float64) / n**0.5)

    def forward(self, t, h):
        return -torch.sin(h @ self.w.mT + t) @ self.w

    def jacobian(self, t, h):
        return -(self.w.mT * torch.cos(self.w @ h + t)) @ self.w


# ---- closed forms


@pytest.mark.parametrize("kind", ["first", "heavy ball", "second"])
def test_a_linear_system_has_the_eigenvalues_of_its_matrix(draw, kind):
    k = draw(5, 5)
    gamma = 0.3
    eye, zero = np.eye(5), np.zeros((5, 5))
    system, matrix = {
        "first": (FirstOrder(lambda t, h: h @ k.mT), k.numpy()),
        "heavy ball": (
            HeavyBall(lambda t, h: h @ k.mT, gamma, trainable=False),
            np.block([[zero, eye], [k.numpy(), -gamma * eye]]),
        ),
        "second": (
            SecondOrder(lambda t, h, m: h @ k.mT - 0.7 * m),
            np.block([[zero, eye], [k.numpy(), -0.7 * eye]]),
        ),
    }[kind]
    found = stiffness_at(system, TIMES, states(draw, 4, 5))
    known = np.linalg.eigvals(matrix)
    assert found.eigenvalues.shape == (3, 4, len(known))
    assert max(matched(x, known) for x in found.eigenvalues.reshape(12, -1)) < 1e-12
    assert found.largest == pytest.approx(np.full((3, 4), np.abs(known).max()), rel=1e-12)
    assert found.ratio == pytest.approx(np.full((3, 4), np.abs(known.real).max() / np.abs(known.real).min()), rel=1e-9)
    norm = np.linalg.eigvalsh(0.5 * (matrix + matrix.T)).max()
    assert found.log_norm == pytest.approx(np.full((3, 4), norm), rel=1e-10)
    assert found.abscissa == pytest.approx(np.full((3, 4), known.real.max()), rel=1e-10)


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 4.0, 40.0])
def test_damped_oscillators(draw, gamma, closed_form):
    """Under-, over- and undamped: λ = -γ/2 ± √(γ²/4 - ω²)."""
    omega = torch.tensor([0.01, 0.5, 3.0, 1000.0], dtype=torch.float64)
    ball = HeavyBall(lambda t, h: -(omega**2) * h, gamma, trainable=False)
    found = stiffness_at(ball, TIMES, states(draw, 2, 4), closed_form=closed_form)
    known = roots(-(omega.numpy() ** 2), gamma)
    assert matched(found.eigenvalues[1, 0], known) < (1e-12 if closed_form else 1e-8)
    assert float(found.largest[0, 0]) == pytest.approx(np.abs(known).max(), rel=1e-10)
    if gamma == 0:
        assert bool((found.neutral == 8).all()) and bool((found.growing == 0).all())
        assert bool(found.ratio.isnan().all())
    elif gamma == 0.1:
        slowest = -np.roots([1.0, gamma, 1e-4]).real.max()
        assert float(found.slowest[0, 0]) == pytest.approx(slowest, rel=1e-8)


@pytest.mark.parametrize("closed_form", [True, False])
def test_the_heat_equation(draw, closed_form):
    """First order, and as a heavy ball."""
    n = 40
    known = heat_rates(n)
    node = stiffness_at(FirstOrder(laplacian(n)), TIMES, states(draw, 2, n))
    assert matched(node.eigenvalues[2, 1], known) < 1e-12
    assert node.ratio == pytest.approx(np.full((3, 2), known.min() / known.max()), rel=1e-8)
    ball = HeavyBall(laplacian(n), 0.2, trainable=False)
    found = stiffness_at(ball, TIMES, states(draw, 2, n), closed_form=closed_form)
    assert matched(found.eigenvalues[2, 1], roots(known, 0.2)) < 1e-10
    assert found.ratio == pytest.approx(np.ones((3, 2)), rel=1e-8)
    assert found.index == pytest.approx(np.full((3, 2), np.sqrt(-known.min())), rel=1e-8)


def test_small_eigenvalues_keep_their_digits(draw):
    """λ² + γ λ = μ with |μ| far below γ²: of the root μ / γ, a difference of two large numbers keeps nothing."""
    rates = torch.tensor([1e-9, 1e-5, 1.0], dtype=torch.float64)
    ball = HeavyBall(lambda t, h: -rates * h, 50.0, trainable=False)
    found = stiffness_at(ball, TIMES, states(draw, 2, 3))
    slow = 1e-9 / (25 + math.sqrt(625 - 1e-9))
    assert float(found.slowest[0, 0]) == pytest.approx(slow, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, -0.4, 1e6])
def test_both_roots_satisfy_the_quadratic(draw, gamma):
    mu = torch.complex(draw(50), draw(50)) * torch.logspace(-12, 12, 50, dtype=torch.float64)
    both = quadratic_roots(mu, torch.tensor(gamma, dtype=torch.float64))
    assert ((both.sum(-1) + gamma).abs() <= 1e-15 * both.abs().amax(-1)).all()
    product = both.prod(-1)
    assert ((product + mu).abs() / mu.abs()).max() < 1e-14


@pytest.mark.parametrize("sigma", ["tanh", None, lambda m: -m])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("xi", [0.4, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)])
def test_the_closed_form_of_a_generalised_heavy_ball_agrees_with_the_direct_one(draw, sigma, gradient, xi):
    f = Wavy(4) if gradient else (lambda t, h: torch.tanh(h @ k))
    k = draw(4, 4)
    ball = GeneralizedHeavyBall(f, 0.2, xi, sigma, trainable=False)
    h, m = states(draw, 3, 4), states(draw, 3, 4)
    half = stiffness_at(ball, TIMES, h, m)
    whole = stiffness_at(ball, TIMES, h, m, closed_form=False)
    assert "λ² + γ λ = μ" in half.how and "λ²" not in whole.how
    for a, b in zip(half.eigenvalues.reshape(9, -1), whole.eigenvalues.reshape(9, -1), strict=True):
        assert matched(a, b) < 1e-8
    assert half.log_norm == pytest.approx(whole.log_norm, rel=1e-9)
    assert bool((half.growing == whole.growing).all()) and bool((half.neutral == whole.neutral).all())


def test_damping_per_channel_is_looked_at_as_a_whole(draw):
    gamma = torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64)
    omega = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ball = HeavyBall(lambda t, h: -(omega**2) * h, gamma, trainable=False)
    found = stiffness_at(ball, TIMES, states(draw, 2, 3))
    known = np.concatenate([roots([-(w**2)], g) for w, g in zip(omega.tolist(), gamma.tolist(), strict=True)])
    assert "λ²" not in found.how and found.gamma is None
    assert matched(found.eigenvalues[0, 0], known) < 1e-12


def test_every_time_and_sample_has_the_jacobian_of_its_own_state(draw):
    f = Wavy(4)
    h = states(draw, 3, 4)
    found = stiffness_at(FirstOrder(f), TIMES, h)
    for n, t in enumerate(TIMES):
        for b in range(3):
            known = torch.linalg.eigvalsh(f.jacobian(t, h[n, b]).detach())
            assert matched(found.eigenvalues[n, b], known) < 1e-12


def test_times_of_each_sample_reach_the_field(draw):
    f = Wavy(3)
    t = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    sol = hbodeint(HeavyBall(f, 0.1, trainable=False), draw(2, 3), t)
    found = stiffness(HeavyBall(f, 0.1, trainable=False), sol)
    for b, end in enumerate((1.0, 2.0)):
        mu = torch.linalg.eigvalsh(f.jacobian(end, sol.h[1, b].detach()).detach())
        assert matched(found.eigenvalues[1, b], roots(mu, 0.1)) < 1e-12
    assert found.span.tolist() == [1.0, 2.0]
    assert found.index[0].tolist() == pytest.approx((found.largest[0] * torch.tensor([1.0, 2.0])).tolist())


# ---- edge cases of the definitions


def test_modes_that_do_not_move_are_counted_and_left_out_of_the_ratio(draw):
    rates = torch.tensor([0.0, -1.0, -50.0], dtype=torch.float64)
    found = stiffness_at(FirstOrder(lambda t, h: rates * h), TIMES, states(draw, 2, 3))
    assert bool((found.ratio == 50).all()) and bool((found.neutral == 1).all())
    nothing = stiffness_at(FirstOrder(lambda t, h: 0 * h), TIMES, states(draw, 2, 3))
    assert bool(nothing.ratio.isnan().all()) and bool((nothing.neutral == 3).all())
    assert bool((nothing.index == 0).all())


def test_a_rotation_is_neutral_but_fast(draw):
    turn = torch.tensor([[0.0, 7.0], [-7.0, 0.0]], dtype=torch.float64)
    found = stiffness_at(FirstOrder(lambda t, h: h @ turn), TIMES, states(draw, 2, 2))
    assert bool((found.neutral == 2).all()) and bool(found.ratio.isnan().all())
    assert found.largest == pytest.approx(np.full((3, 2), 7.0), rel=1e-12)


def test_growing_modes_count(draw):
    rates = torch.tensor([2.0, -4.0, -5.0], dtype=torch.float64)
    found = stiffness_at(FirstOrder(lambda t, h: rates * h), TIMES, states(draw, 2, 3))
    assert bool((found.growing == 1).all()) and bool((found.abscissa == 2).all()) and bool((found.ratio == 2.5).all())


@pytest.mark.parametrize("n", [0, 1])
def test_a_state_without_finite_jacobian_is_unknown_and_spoils_no_other(draw, n):
    h = states(draw, 2, 3).abs() + 0.5
    h[n, 0, 2] = 0.0  # d√h/dh is infinite
    found = stiffness_at(HeavyBall(lambda t, h: -h.sqrt(), 0.1, trainable=False), TIMES, h)
    assert bool(found.largest[n, 0].isnan()) and int(found.neutral[n, 0]) == -1
    assert int(found.largest.isnan().sum()) == 1
    json.dumps(found.as_json(), allow_nan=False)
    assert "stiffest" in found.summary()


# ---- dtype, device, shapes, fields that resist


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_keep_the_dtype_of_the_state(draw, dtype):
    f = Wavy(6).to(dtype)
    h = states(draw, 3, 6).to(dtype)
    found = stiffness_at(HeavyBall(f, 0.1, trainable=False), TIMES, h)
    assert found.largest.dtype == dtype and found.eigenvalues.dtype == dtype.to_complex()
    known = stiffness_at(HeavyBall(Wavy(6), 0.1, trainable=False), TIMES, h.double())
    assert found.largest.double() == pytest.approx(known.largest, rel=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dense_limit", [512, 0])
def test_values_on_a_gpu_are_those_on_the_cpu(draw, dense_limit):
    h = states(draw, 3, 6)
    cpu = stiffness_at(HeavyBall(Wavy(6), 0.1, trainable=False), TIMES, h, dense_limit=dense_limit)
    gpu = stiffness_at(HeavyBall(Wavy(6).cuda(), 0.1, trainable=False), TIMES, h.cuda(), dense_limit=dense_limit)
    assert gpu.largest.is_cuda
    for name, values in cpu.quantities().items():
        assert gpu.quantities()[name].cpu() == pytest.approx(values, rel=1e-8, nan_ok=True)


def test_without_a_batch_axis_the_whole_state_is_one_sample(draw):
    f = Wavy(6)
    h = states(draw, 6)
    one = stiffness_at(FirstOrder(f), TIMES, h)
    assert one.largest.shape == (3,) and one.eigenvalues.shape == (3, 6)
    grid = stiffness_at(FirstOrder(lambda t, h: f(t, h.flatten()).view(2, 3)), TIMES, h.view(3, 2, 3), batch=False)
    assert grid.largest == pytest.approx(one.largest, rel=1e-12)
    assert one.stiffest()[1] is None


def test_states_with_many_axes(draw):
    """A batch of images under a convolution, against the same as a heavy ball of vectors."""
    kernel = draw(2, 2, 3, 3)
    h = states(draw, 3, 2, 4, 4)
    found = stiffness_at(FirstOrder(lambda t, h: torch.conv2d(h, kernel, padding=1)), TIMES, h)
    eye = torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)
    matrix = torch.conv2d(eye, kernel, padding=1).reshape(32, 32).mT
    assert matched(found.eigenvalues[0, 0], torch.linalg.eigvals(matrix)) < 1e-10


class Roundabout(torch.autograd.Function):
    """Sine through numpy: neither vmap nor forward mode know it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, bar):
        (x,) = ctx.saved_tensors
        return bar * torch.from_numpy(np.cos(x.detach().numpy()))


def test_a_field_that_cannot_be_vectorised(draw):
    h = states(draw, 3, 2)
    known = stiffness_at(FirstOrder(lambda t, h: torch.sin(h)), TIMES, h)
    found = stiffness_at(FirstOrder(lambda t, h: Roundabout.apply(h)), TIMES, h)
    looks = stiffness_at(FirstOrder(lambda t, h: torch.sin(h) if h.max() > -9 else h), TIMES, h)
    assert torch.equal(found.largest, known.largest) and torch.equal(looks.largest, known.largest)


def test_small_chunks_change_nothing(draw, monkeypatch):
    h = states(draw, 3, 4)
    ball = HeavyBall(Wavy(4), 0.1, trainable=False)
    whole = stiffness_at(ball, TIMES, h)
    monkeypatch.setattr(jacobian, "CPU_ENTRIES", 10)
    parts = stiffness_at(ball, TIMES, h)
    assert parts.largest == pytest.approx(whole.largest, rel=1e-13)


def test_arguments_and_parameters_are_left_alone(draw):
    f = Wavy(4)
    system = HeavyBall(f)
    h = states(draw, 3, 4).requires_grad_()
    with torch.inference_mode():
        found = stiffness_at(system, TIMES, h, args=())
    assert f.w.grad is None and h.grad is None and not found.largest.requires_grad


def test_further_arguments_of_f_are_passed_on(draw):
    found = stiffness_at(FirstOrder(lambda t, h, k: -k * h), TIMES, states(draw, 2, 3), args=(3.0,))
    assert bool((found.largest == 3).all())


# ---- products in place of matrices


@pytest.mark.parametrize(
    "kind", ["first", "first, not symmetric", "heavy ball", "generalised", "not symmetric", "second"]
)
def test_products_find_what_matrices_find(draw, kind):
    k = draw(12, 12)
    turned = 0.3 * (k - k.mT)
    f = Wavy(12)
    stable = lambda t, h: f(t, h) - 3 * h
    system = {
        "first": FirstOrder(stable),
        "first, not symmetric": FirstOrder(lambda t, h: stable(t, h) + h @ turned),
        "heavy ball": HeavyBall(stable, 0.1, trainable=False),
        "generalised": GeneralizedHeavyBall(stable, 3.0, 0.4, "tanh", trainable=False),
        "not symmetric": HeavyBall(lambda t, h: stable(t, h) + h @ turned, 5.0, trainable=False),
        "second": SecondOrder(lambda t, h, m: stable(t, h) - m),
    }[kind]
    h = states(draw, 3, 12)
    m = states(draw, 3, 12) if system.second_order else None
    dense = stiffness_at(system, TIMES, h, m)
    free = stiffness_at(system, TIMES, h, m, dense_limit=0)
    assert free.eigenvalues is None and free.growing is None
    by = "Arnoldi" if kind in ("first, not symmetric", "not symmetric", "second") else "Lanczos"
    assert by in free.how
    for name in ("fastest", "largest", "abscissa", "log_norm"):
        assert getattr(free, name) == pytest.approx(getattr(dense, name), rel=1e-6), name
    stable_everywhere = bool((dense.abscissa < 0).all())
    assert stable_everywhere
    assert free.ratio == pytest.approx(dense.ratio, rel=1e-6) and free.notes == ()


def test_a_spectrum_on_both_sides_has_no_known_ratio_without_matrices(draw):
    rates = torch.linspace(-5, 5, 30, dtype=torch.float64)
    found = stiffness_at(FirstOrder(lambda t, h: rates * h), TIMES, states(draw, 2, 30), dense_limit=0)
    assert bool(found.ratio.isnan().all()) and "inside the spectrum" in found.notes[0]
    assert found.fastest == pytest.approx(np.full((3, 2), 5.0), rel=1e-6)


def test_too_few_products_are_owned_up_to(draw):
    found = stiffness_at(FirstOrder(laplacian(600)), [0.0], draw(1, 600), dense_limit=0, most=30)
    assert any("not found to" in note for note in found.notes) and bool(found.ratio.isnan().all())
    assert float(found.largest) <= -heat_rates(600).min()


@pytest.mark.slow
def test_the_heat_equation_with_two_thousand_nodes_by_products(draw):
    n = 2000
    rates = heat_rates(n)
    h = draw(1, 1, n)
    node = stiffness_at(FirstOrder(laplacian(n)), [0.0], h, most=20_000)
    assert float(node.ratio) == pytest.approx(rates.min() / rates.max(), rel=1e-4)
    ball = stiffness_at(HeavyBall(laplacian(n), 10.0, trainable=False), [0.0], h, most=20_000)
    known = roots([rates.min(), rates.max()], 10.0)
    assert float(ball.largest) == pytest.approx(np.abs(known).max(), rel=1e-4)
    assert float(ball.slowest) == pytest.approx(np.abs(known.real).min(), rel=1e-4)


# ---- what is made of them


def decaying_ball():
    return HeavyBall(lambda t, h: Wavy(4)(t, h) - 4 * h, 0.1, trainable=False)


def test_a_solve_is_measured_at_its_times_with_its_steps(draw):
    ball = decaying_ball()
    sol = hbodeint(ball, draw(5, 4), torch.linspace(0, 3, 7))
    found = stiffness(ball, sol)
    again = stiffness_at(ball, sol.t, sol.h, sol.m)
    assert torch.equal(found.largest, again.largest) and found.steps is sol.stats.dt
    assert float(found.span) == 3.0 and torch.equal(found.index, 3 * found.largest)


def test_a_figure_shows_itself_in_a_notebook(draw):
    figure = stiffness_at(decaying_ball(), TIMES, states(draw, 3, 4)).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_summary_says_where_it_is_stiffest(draw):
    h = states(draw, 3, 2).zero_()
    h[1, 2] = 3.0
    found = stiffness_at(FirstOrder(lambda t, h: -(h**3) - h), TIMES, h)
    assert found.stiffest() == (1, 2)
    assert "stiffest at t = 0.4, sample 2: max |λ| = 28" in found.summary()
    assert found.as_json()["stiffest"] == {"t": 0.4, "sample": 2}


def test_dataframe_has_one_row_a_time_and_sample(draw):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    found = stiffness_at(decaying_ball(), TIMES, states(draw, 3, 4))
    table = found.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and len(table) == 9
    assert table["max |λ|"].to_numpy() == pytest.approx(found.largest.flatten().numpy())


def test_dataframe_without_pandas_says_what_to_install(draw, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        stiffness_at(decaying_ball(), TIMES, states(draw, 3, 4)).to_dataframe()


def test_plots_have_labels_with_units_and_a_title(draw):
    ball = decaying_ball()
    sol = hbodeint(ball, draw(5, 4), torch.linspace(0, 3, 7))
    found = stiffness(ball, sol, unit="s")
    figure = found.plot()
    assert "stiffness index" in figure.get_suptitle()
    assert [axes.get_xlabel() for axes in figure.axes] == ["t (s)", "t (s)"] and "1 / s" in figure.axes[0].get_ylabel()
    plane = found.plot_spectrum(method="dprkn6").axes[0]
    assert "1 / s" in plane.get_xlabel() and "dprkn6" in plane.get_title(loc="left")


def test_the_region_of_stability_that_is_drawn_is_that_of_the_method_at_its_step():
    """R(z) of rk4 leaves the unit circle at z = -2.785 and z = ±2.828i; the plane is drawn on a grid of z / 26."""
    turning = torch.tensor([[-12.0, 0.0, 0.0], [0.0, 0.0, 7.0], [0.0, -7.0, 0.0]])
    found = stiffness_at(FirstOrder(lambda t, h: h @ turning), [0.0], torch.ones(1, 1, 3))
    plane = found.plot_spectrum(method="rk4", dt=0.5).axes[0]
    (outline,) = [drawn for drawn in plane.collections if isinstance(drawn, ContourSet) and not drawn.filled]
    x, y = 0.5 * outline.get_paths()[0].vertices.T
    assert x[abs(y) < 0.05].min() == pytest.approx(-2.7853, abs=0.05)
    assert y[abs(x) < 0.05].max() == pytest.approx(2.8284, abs=0.1)


# ---- errors


def linear():
    return FirstOrder(lambda t, h: -h)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda h: stiffness(lambda t, h: h, None), TypeError, "sol must be the Solution"),
        (lambda h: stiffness_at(lambda t, h: h, TIMES, h), TypeError, "system must be a System"),
        (lambda h: stiffness_at(linear(), TIMES, h + 0j), TypeError, "h must be real"),
        (lambda h: stiffness_at(linear(), TIMES, h[0, 0, 0]), ValueError, "h must have shape"),
        (lambda h: stiffness_at(linear(), TIMES[:2], h), ValueError, "t must have one entry"),
        (lambda h: stiffness_at(linear(), TIMES, h, h), ValueError, "m0 must not be given"),
        (lambda h: stiffness_at(linear(), TIMES, h[:, 0, 0], batch=True), ValueError, "batch must be False"),
        (lambda h: stiffness_at(linear(), TIMES, h, dense_limit=-1), ValueError, "dense_limit must be at least 0"),
        (lambda h: stiffness_at(linear(), TIMES, h, most=0), ValueError, "most must be at least 1"),
        (lambda h: stiffness_at(linear(), TIMES, h, tol=0.0), ValueError, "tol must be between"),
        (
            lambda h: stiffness_at(FirstOrder(lambda t, h: h - h.mean(0)), TIMES, h),
            ValueError,
            "samples of h must not interact",
        ),
        (
            lambda h: stiffness_at(HeavyBall(lambda t, h: -h, torch.rand(2, 1), trainable=False), TIMES, h),
            ValueError,
            "gamma must be the same for all samples",
        ),
        (lambda h: stiffness_at(linear(), TIMES, h).plot_spectrum(9), ValueError, "n must be the index"),
        (lambda h: stiffness_at(linear(), TIMES, h).plot_spectrum(method="rk4"), ValueError, "dt must be given"),
        (lambda h: stiffness_at(linear(), TIMES, h, dense_limit=0).plot_spectrum(), ValueError, "raise dense_limit"),
    ],
)
def test_errors_name_the_argument(draw, call, error, match):
    with pytest.raises(error, match=match):
        call(states(draw, 2, 3))
