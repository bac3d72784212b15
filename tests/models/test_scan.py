"""Linear recurrences: against a loop, in all shapes, with derivatives of first and second order."""

import pytest
import torch

from hbode.models.scan import CHUNK, SHORT, decaying_sums, linear_recurrence

EPS = torch.finfo(torch.float64).eps


def loop(A, u, B=None, C=None, z0=None):
    """The recurrence step by step."""
    S, b, T, _ = u.shape
    n = A.shape[-1]
    z = u.new_zeros(S, b, n) if z0 is None else z0
    found = []
    for k in range(T):
        step = A if A.ndim == 3 else A[:, :, k]
        moved = z @ A.mT if A.ndim == 3 else (step @ z.unsqueeze(-1)).squeeze(-1)
        z = moved + (u[:, :, k] if B is None else u[:, :, k] @ B.mT)
        found.append(z if C is None else z @ C.mT)
    return torch.stack(found, 2), z


def problem(S, b, T, n, p=None, q=None, varying=None, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype).requires_grad_()

    A = draw(*((S, n, n) if varying is None else (*varying, T, n, n)))
    # Contractions: what is rounded in one step does not grow in later ones.
    A = (0.9 * A / torch.linalg.matrix_norm(A, 2, keepdim=True)).detach().requires_grad_()
    B, C = (None if p is None else draw(S, n, p)), (None if q is None else draw(S, q, n))
    return A, draw(S, b, T, p or n), B, C, draw(S, b, n)


SHAPES = [
    (1, 1, 1, 1, None, None),
    (3, 2, CHUNK, 2, 1, 1),
    (2, 3, CHUNK + 1, 2, None, 1),
    (2, 1, 5, 3, 2, None),
    (4, 2, CHUNK**2 + 3, 1, None, None),
    (2, 2, 3 * CHUNK**2 + 7, 2, 1, 2),
]


def close(found, expected, scale=1.0):
    """Sums of at most 1/(1 - 0.9) = 10 times what one step adds; products of some 10 factors."""
    bound = 1000 * EPS * scale * max(1.0, float(expected.detach().abs().max()))
    assert float((found - expected).abs().max()) < bound


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("varying", [False, True])
def test_whole_sequences_equal_single_steps(shape, varying):
    given = problem(*shape, varying=(shape[0], shape[1]) if varying else None)
    A, u, B, C, z0 = given
    y, z = linear_recurrence(A, u, B=B, C=C, z0=z0)
    y_loop, z_loop = loop(*given)
    close(y, y_loop)
    close(z, z_loop)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    inputs = [x for x in given if x is not None]
    grads = torch.autograd.grad((y * weights).sum() + z.sum(), inputs)
    expected = torch.autograd.grad((y_loop * weights).sum() + z_loop.sum(), inputs)
    for one, other in zip(grads, expected, strict=True):
        close(one, other, scale=y.numel() ** 0.5)


@pytest.mark.parametrize("varying", [None, (1, 1), (2, 1), (1, 3), (2, 3)])
def test_second_derivatives(varying):
    A, u, _, C, z0 = problem(2, 3, CHUNK + 4 if varying is None else 6, 2, None, 1, varying)
    assert torch.autograd.gradgradcheck(
        lambda A, u, C, z0: linear_recurrence(A, u, C=C, z0=z0), (A, u, C, z0), fast_mode=True
    )


def test_a_sequence_in_parts_equals_one_in_a_piece():
    A, u, B, C, z0 = problem(3, 2, 100, 2, 1, 1)
    whole, end = linear_recurrence(A, u, B=B, C=C, z0=z0)
    parts, z = [], z0
    for piece in u.split([1, 40, 7, 52], 2):
        y, z = linear_recurrence(A, piece, B=B, C=C, z0=z)
        parts.append(y)
    close(torch.cat(parts, 2), whole)
    close(z, end)


@pytest.mark.parametrize("T", [1, CHUNK, 37, 128, SHORT, SHORT + 1])
@pytest.mark.parametrize("a", [0.0, 0.6, 1.0])
def test_sums_that_decay_by_one_number(a, T):
    rng = torch.Generator().manual_seed(T)
    u = torch.randn(T, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    z0 = torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True)
    A = torch.full((1, 1, 1), a, dtype=torch.float64)
    for start in (None, z0):
        found = decaying_sums(a, u, start)
        expected, _ = loop(A, u.t()[None, :, :, None], z0=None if start is None else start.view(1, 3, 1))
        expected = expected[0, :, :, 0].t()
        close(found, expected)
        given = [u] if start is None else [u, z0]
        weights = torch.randn(T, 3, generator=rng, dtype=torch.float64)
        grads = [torch.autograd.grad((z * weights).sum(), given) for z in (found, expected)]
        for one, other in zip(*grads, strict=True):
            close(one, other, scale=T**0.5)


@pytest.mark.parametrize("T", [5, 40])
def test_layouts_of_the_input_do_not_matter(T):
    A, u, _, _, z0 = problem(3, 4, T, 2, varying=(1, 4))
    step_by_step = u.detach().permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    for one, other in zip(linear_recurrence(A, step_by_step, z0=z0), linear_recurrence(A, u, z0=z0), strict=True):
        close(one, other)


def test_the_gain_may_change_with_the_matrix():
    A, u, _, _, z0 = problem(2, 3, 30, 2, 1, varying=(2, 1))
    B = torch.randn(2, 1, 30, 2, 1, dtype=A.dtype, generator=torch.Generator().manual_seed(2))
    forced = (B * u.unsqueeze(-2)).sum(-1)
    close(linear_recurrence(A, u, B=B, z0=z0)[0], loop(A, forced, z0=z0)[0])


def test_complex_numbers():
    given = problem(2, 2, 40, 1, dtype=torch.complex128)
    close(linear_recurrence(given[0], given[1])[0], loop(*given[:2])[0])


def test_a_wide_dtype_of_the_matrix_keeps_digits_of_short_steps():
    """A turn by 1e-4 a step: 1 - cos is 5e-9, less than float32 can tell from nothing; the radius must stay 1."""
    angle = torch.tensor(1e-4, dtype=torch.float64)
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))[None]
    T = 200_000
    u = torch.zeros(1, 1, T, 2)
    start = torch.tensor([[[1.0, 0.0]]])
    y, _ = linear_recurrence(turn, u, z0=start)
    exact = torch.stack(((k := angle * torch.arange(1, T + 1)).cos(), k.sin()), -1)
    # One rounding of a coefficient and of a sum for each of log(T) / log(CHUNK) levels.
    assert float((y[0, 0].double() - exact).abs().max()) < 100 * torch.finfo(torch.float32).eps
    coarse, _ = linear_recurrence(turn.float(), u, z0=start)
    assert float((coarse[0, 0].double() - exact).abs().max()) > 1e-4


@pytest.mark.parametrize(
    "given, message",
    [
        ({"u": (2, 3, 4)}, "u must have shape"),
        ({"u": (2, 3, 0, 2)}, "u must have shape"),
        ({"A": (3, 2, 2)}, "A must have shape"),
        ({"A": (2, 2, 3)}, "A must have shape"),
        ({"A": (2, 3, 5, 2, 2)}, "A must have shape"),
        ({"B": (2, 2, 3)}, "B must have shape"),
        ({"C": (2, 1, 3)}, "C must have shape"),
        ({"z0": (3, 2)}, "z0 must have shape"),
        ({"u": (2, 3, 4, 1)}, "u must have as many inputs as states"),
    ],
    ids=str,
)
def test_shapes_are_checked(given, message):
    shapes = {"A": (2, 2, 2), "u": (2, 3, 4, 2)} | given
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        linear_recurrence(**{name: torch.zeros(shape) for name, shape in shapes.items()})
