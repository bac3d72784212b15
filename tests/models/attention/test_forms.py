"""Momentum attention as functions: three forms against the published weights, their gradients, parts, masks, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbode.models.attention import (
    AttentionState,
    attention_weights,
    continue_attention,
    elu_features,
    momentum_attention,
)

EPS = torch.finfo(torch.float64).eps
MOMENTA = [0.0, 0.5, 0.9, 0.999, 1 - 1e-9, 1.0, torch.tensor([0.3, 0.99, 1.0], dtype=torch.float64)]
# One position, a part of a chunk of 32, one, some and a part, and several blocks of 32 chunks.
LENGTHS = [1, 5, 32, 77, 1100]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(length: int, D: int = 4, M: int = 3, B: int = 2, H: int = 3) -> list[Tensor]:
    return [draw(B, H, length, n, seed=s).requires_grad_() for s, n in enumerate((D, D, M))]


def padding_of(length: int, B: int = 2) -> Tensor:
    """Keys at the start, in between and at the end are not to be read, other ones in each sample."""
    mask = draw(B, length, seed=9) > 0.8
    mask[0, : length // 4] = True
    mask[-1, length - length // 3 :] = True
    mask[:, length // 2] = False
    return mask


def sums(mu: float | Tensor, length: int) -> Tensor:
    """1 + μ + … + μ^(n-1) for n = 0 … length of all heads, (H or 1, length + 1), term by term."""
    each = mu.tolist() if isinstance(mu, Tensor) else [mu]
    return torch.tensor(
        [[math.fsum(m**n for n in range(count)) for count in range(length + 1)] for m in each], dtype=torch.float64
    )


def by_weights(q: Tensor, k: Tensor, v: Tensor, mu: float | Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    """Σ_j γ (1 + μ + … + μ^(i-j)) φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j) over j ≤ i: the formula of the paper."""
    length = q.shape[2]
    lag = torch.arange(length).unsqueeze(1) - torch.arange(length) + 1
    products = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    if mask is not None:
        products = products * ~mask[:, None, None]
    mass = products.sum(-1, keepdim=True)
    return torch.where(mass == 0, 0, (products * gamma * sums(mu, length)[:, lag.clamp(min=0)]) @ v / mass)


def close(found: Tensor, expected: Tensor, terms: int) -> None:
    """Sums of so many terms, each to rounding, ten times over."""
    bound = 10 * max(terms, 10) * EPS * max(1.0, float(expected.detach().abs().max()))
    assert float((found - expected).detach().abs().max()) < bound


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("mu", MOMENTA, ids=str)
def test_three_forms_are_one(mu, length, masked):
    q, k, v = (x.detach() for x in inputs(length))
    mask = padding_of(length) if masked else None
    expected = momentum_attention(q, k, v, mu, 0.7, key_padding_mask=mask, form="quadratic")
    if length < 100:
        close(expected, by_weights(q, k, v, mu, 0.7, mask), length)
    close(momentum_attention(q, k, v, mu, 0.7, key_padding_mask=mask), expected, length)
    if length < 100 or masked:
        close(momentum_attention(q, k, v, mu, 0.7, key_padding_mask=mask, form="recurrent"), expected, length)


def test_without_momentum_it_is_plain_linear_attention():
    q, k, v = (x.detach() for x in inputs(50))
    f, g = F.elu(q) + 1, F.elu(k) + 1
    S, z = torch.einsum("bhld,bhlm->bhldm", g, v).cumsum(2), g.cumsum(2)
    plain = torch.einsum("bhld,bhldm->bhlm", f, S) / (f * z).sum(-1, keepdim=True)
    close(momentum_attention(q, k, v), plain, 50)
    close(momentum_attention(q, k, v, torch.zeros(()), 0.5), 0.5 * plain, 50)


def test_weights_of_momentum_tend_to_the_number_of_positions():
    q, k, v = (x.detach() for x in inputs(40))
    near, limit = (momentum_attention(q, k, v, mu) for mu in (1 - 1e-13, 1.0))
    # Σ μ^m differs from n by at most n² (1 - μ) / 2.
    assert float((near - limit).abs().max()) < 40**2 * 1e-13 * float(v.abs().max())


def test_float32_keeps_its_digits_near_one():
    q, k, v = (x.detach() for x in inputs(1100))
    exact = momentum_attention(q, k, v, 1 - 1e-9, 1e-3)
    found = momentum_attention(q.float(), k.float(), v.float(), 1 - 1e-9, 1e-3)
    assert float((found - exact).abs().max()) < 100 * torch.finfo(torch.float32).eps * float(exact.abs().max())


@pytest.mark.parametrize("parts", [[100], [1, 1, 1, 97], [1, 40, 7, 52]], ids=str)
@pytest.mark.parametrize("mu", [0.0, 0.9, 1.0, MOMENTA[-1]], ids=str)
def test_parts_equal_one_piece(mu, parts):
    q, k, v = (x.detach() for x in inputs(100))
    mask = padding_of(100)
    whole, end = continue_attention(q, k, v, mu, 0.7, key_padding_mask=mask)
    close(whole, momentum_attention(q, k, v, mu, 0.7, key_padding_mask=mask), 100)
    found, state = [], None
    for a, b, c, m in zip(*(x.split(parts, 2) for x in (q, k, v)), mask.split(parts, 1), strict=True):
        out, state = continue_attention(a, b, c, mu, 0.7, state, key_padding_mask=m)
        found.append(out)
    close(torch.cat(found, 2), whole, 100)
    for one, other in zip(state, end, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            close(one, other, 100)


def test_the_state_is_that_of_the_paper():
    """P_i = μ P_{i-1} - γ φ(k_i) v_iᵀ, S_i = S_{i-1} - P_i, z_i = z_{i-1} + φ(k_i); P here is -P there."""
    q, k, v = (x.detach() for x in inputs(9))
    S = P = z = 0.0
    for t in range(9):
        feature = F.elu(k[:, :, t]) + 1
        P = 0.8 * P - 0.5 * feature.unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        S, z = S - P, z + feature
    state = continue_attention(q, k, v, 0.8, 0.5)[1]
    for found, expected in zip(state, (S, -P, z), strict=True):
        close(found, expected, 9)


@pytest.mark.parametrize(
    "length, mu", [*((n, mu) for n in (1, 77) for mu in MOMENTA), (1100, 0.0), (1100, MOMENTA[-1])], ids=str
)
def test_gradients_are_those_of_the_quadratic_form(length, mu):
    given = inputs(length)
    mu = torch.as_tensor(mu, dtype=torch.float64).clone().requires_grad_() if isinstance(mu, Tensor) or mu else 0.0
    gamma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).requires_grad_()
    wanted = [*given, gamma, *([mu] if isinstance(mu, Tensor) else [])]
    mask, weights = padding_of(length), draw(2, 3, length, 3, seed=5)
    found, expected = (
        torch.autograd.grad(
            (momentum_attention(*given, mu, gamma, key_padding_mask=mask, form=form) * weights).sum(), wanted
        )
        for form in ("chunked", "quadratic")
    )
    for one, other in zip(found, expected, strict=True):
        close(one, other, 10 * length)  # sums of sums


@pytest.mark.parametrize("D", [2, 40])  # chunks of 32 and of 64
def test_gradients_against_finite_differences(D):
    q, k, v = inputs(70, D=D, M=2, B=1, H=2)
    mu = torch.tensor([0.5, 0.95], dtype=torch.float64).requires_grad_()
    S, P, z = (
        draw(1, 2, D, 2).requires_grad_(),
        draw(1, 2, D, 2, seed=4).requires_grad_(),
        draw(1, 2, D).abs().requires_grad_(),
    )

    def f(q, k, v, mu, S, P, z):
        out, state = continue_attention(q, k, v, mu, 0.7, AttentionState(S, P, z))
        return out, *state

    assert torch.autograd.gradcheck(f, (q, k, v, mu, S, P, z), fast_mode=True)
    plain = lambda q, k, v, S, z: continue_attention(q, k, v, 0.0, 0.7, AttentionState(S, None, z))[0]
    assert torch.autograd.gradcheck(plain, (q, k, v, S, z), fast_mode=True)


@pytest.mark.parametrize("form", ["chunked", "recurrent", "quadratic"])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_second_derivatives(mu, form):
    given = inputs(40 if form == "chunked" else 4, B=1, H=1)
    if mu:
        given.append(torch.tensor(mu, dtype=torch.float64).requires_grad_())
    f = lambda *x: momentum_attention(*x, form=form)
    assert torch.autograd.gradgradcheck(f, given, fast_mode=True)


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_memory_is_linear_in_the_length(mu):
    """Kept are inputs, result and a state for each chunk of 32: no matrix of weights, no state for each position."""

    def kept(length):
        seen = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: seen.setdefault(x.data_ptr(), x) is None or x, lambda x: x
        ):
            momentum_attention(*inputs(length, D=16, M=16), mu)
        return sum(x.numel() for x in seen.values())

    short, long = kept(1024), kept(4096)
    assert long < 4.1 * short
    states = 2 * 16 * 16 / 32
    assert long < 2 * 3 * 4096 * (6 * 16 + states)


def test_no_position_sees_a_later_one():
    q, k, v = inputs(90)
    out = momentum_attention(q, k, v, 0.9)
    for grad in torch.autograd.grad(out[:, :, :50].sum(), (q, k, v), retain_graph=True):
        assert bool((grad[:, :, 50:] == 0).all())
        assert bool((grad[:, :, :50] != 0).any())
    changed = [torch.cat((x[:, :, :50], 7 * x[:, :, 50:]), 2) for x in (q, k, v)]
    close(momentum_attention(*changed, 0.9)[:, :, :50], out[:, :, :50], 90)


@pytest.mark.parametrize("mu", MOMENTA, ids=str)
def test_without_order_all_queries_read_the_state_at_the_end(mu):
    q, k, v = (x.detach() for x in inputs(40))
    found = momentum_attention(q[:, :, :7], k, v, mu, 0.7, causal=False)
    for i in range(7):
        asked = q[:, :, i : i + 1].expand_as(q)
        close(found[:, :, i], momentum_attention(asked, k, v, mu, 0.7)[:, :, -1], 40)
    weights = attention_weights(q[:, :, :7], k, mu, 0.7, causal=False)
    close(weights @ v, found, 40)
    for form in ("quadratic", "recurrent"):
        close(momentum_attention(q[:, :, :7], k, v, mu, 0.7, causal=False, form=form), found, 40)


@pytest.mark.parametrize("form", ["chunked", "quadratic"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_at_the_end_changes_nothing(causal, form):
    q, k, v = (x.detach() for x in inputs(60))
    mask = torch.zeros(2, 60, dtype=torch.bool)
    mask[0, 45:] = True
    options = {"causal": causal, "form": form}
    found = momentum_attention(q, k, v, 0.9, key_padding_mask=mask, **options)
    close(found[:1, :, :45], momentum_attention(q[:1, :, :45], k[:1, :, :45], v[:1, :, :45], 0.9, **options), 60)
    close(found[1:], momentum_attention(q[1:], k[1:], v[1:], 0.9, **options), 60)
    added = torch.zeros(2, 60).masked_fill(mask, -math.inf)
    assert torch.equal(momentum_attention(q, k, v, 0.9, key_padding_mask=added, **options), found)


@pytest.mark.parametrize("form", ["chunked", "quadratic", "recurrent"])
@pytest.mark.parametrize("causal", [True, False])
def test_where_nothing_is_seen_there_is_zero(causal, form):
    q, k, v = inputs(40)
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0] = True
    mask[1, :10] = True
    out = momentum_attention(q, k, v, 0.9, causal=causal, form=form, key_padding_mask=mask)
    assert bool((out[0] == 0).all())
    assert bool((out[1, :, :10] == 0).all()) == causal
    for grad in torch.autograd.grad(out.sum(), (q, k, v)):
        assert bool(grad.isfinite().all())


@pytest.mark.parametrize("mu", [0.9, MOMENTA[-1]], ids=str)
def test_published_weights_are_right_at_the_last_position_alone(mu):
    q, k, v = (x.detach() for x in inputs(50))
    found = momentum_attention(q, k, v, mu, 0.6, weighting="published")
    close(attention_weights(q, k, mu, 0.6, weighting="published") @ v, found, 50)
    exact = momentum_attention(q, k, v, mu, 0.6)
    close(found[:, :, -1], exact[:, :, -1], 50)
    assert float((found - exact)[:, :, :-1].abs().amax((0, 1, 3)).min()) > 1e-3
    # Each value by γ (1 - μ^(L-j+1)) / (1 - μ), then plain attention.
    scale = 0.6 * sums(mu, 50)[:, 1:].flip(1).unsqueeze(-1)
    close(found, momentum_attention(q, k, v * scale), 50)


def test_weights_are_those_that_make_the_result():
    q, k, v = (x.detach() for x in inputs(30))
    mask = padding_of(30)
    weights = attention_weights(q, k, 0.9, 0.7, key_padding_mask=mask)
    close(weights @ v, momentum_attention(q, k, v, 0.9, 0.7, key_padding_mask=mask), 30)
    assert bool((weights[mask[:, None, None].expand_as(weights)] == 0).all())
    plain = attention_weights(q, k, key_padding_mask=mask)
    seen = ((~mask).cumsum(1) > 0).double()[:, None]
    close(plain.sum(-1), seen.expand(2, 3, 30), 30)


def test_other_feature_maps():
    q, k, v = (x.detach() for x in inputs(40))
    f = lambda x: torch.cat((x.relu(), (-x).relu()), -1)
    found = momentum_attention(q, k, v, 0.9, feature_map=f)
    close(found, momentum_attention(q, k, v, 0.9, feature_map=f, form="quadratic"), 40)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_computed_in_float32(dtype):
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in inputs(300))
    exact = momentum_attention(*(x.detach().double() for x in (q, k, v)), 0.99, 0.01)
    for form in ("chunked", "quadratic"):
        out = momentum_attention(q, k, v, 0.99, 0.01, form=form)
        assert out.dtype == dtype
        # One rounding, of the result.
        assert torch.allclose(out.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert torch.autograd.grad(out.sum(), q)[0].dtype == dtype


def test_autocast_leaves_the_sums_alone():
    q, k, v = (x.detach().float() for x in inputs(100))
    expected = momentum_attention(q, k, v, 0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for form in ("chunked", "quadratic", "recurrent"):
            assert torch.allclose(momentum_attention(q, k, v, 0.9, form=form), expected, rtol=1e-5, atol=1e-5)


def test_layouts_of_memory_do_not_matter():
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs(70))
    out = momentum_attention(q, k, v, 0.9)
    assert torch.equal(out, momentum_attention(*(x.contiguous() for x in (q, k, v)), 0.9))
    weights = draw(*out.shape)
    grads = torch.autograd.grad((out * weights).sum(), (q, k, v))
    again = torch.autograd.grad((momentum_attention(q, k, v, 0.9, form="quadratic") * weights).sum(), (q, k, v))
    for one, other in zip(grads, again, strict=True):
        close(one, other, 700)


def test_features():
    x = torch.linspace(-30, 30, 61, dtype=torch.float64).requires_grad_()
    y = elu_features(x)
    assert torch.allclose(y, F.elu(x) + 1, rtol=0, atol=4 * EPS * 31)
    assert torch.allclose(y[:30], x[:30].exp(), rtol=4 * EPS)
    assert float(elu_features(torch.tensor(-40.0))) == pytest.approx(math.exp(-40), rel=1e-6)
    assert torch.autograd.gradcheck(elu_features, draw(20).requires_grad_())
    assert torch.autograd.gradgradcheck(elu_features, draw(20).requires_grad_())
    assert float(torch.autograd.grad(elu_features(zero := torch.zeros((), requires_grad=True)), zero)[0]) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query": torch.zeros(2, 5, 4)}, "query must have shape"),
        ({"query": torch.zeros(2, 3, 0, 4)}, "query must have shape"),
        ({"key": torch.zeros(2, 3, 5, 6)}, "key must have shape"),
        ({"key": torch.zeros(2, 3, 7, 4)}, "key must have as many positions"),
        ({"value": torch.zeros(2, 3, 7, 4)}, "value must have shape"),
        ({"momentum": 1.5}, "momentum must be in"),
        ({"momentum": -0.1}, "momentum must be in"),
        ({"momentum": math.nan}, "momentum must be in"),
        ({"momentum": torch.zeros(2)}, "momentum must have shape"),
        ({"step_size": math.inf}, "step_size must be finite"),
        ({"step_size": torch.zeros(3, 1)}, "step_size must have shape"),
        ({"key_padding_mask": torch.zeros(2, 4, dtype=torch.bool)}, "key_padding_mask must have shape"),
        ({"form": "fast"}, "form must be one of"),
        ({"weighting": "long"}, "weighting must be one of"),
    ],
    ids=str,
)
def test_arguments_are_checked(change, message):
    call = {name: torch.zeros(2, 3, 5, 4) for name in ("query", "key", "value")} | change
    with pytest.raises(ValueError, match=message):
        momentum_attention(**call)


def test_a_mask_is_boolean_or_floating():
    q = torch.zeros(2, 3, 5, 4)
    with pytest.raises(TypeError, match="key_padding_mask must be boolean"):
        momentum_attention(q, q, q, key_padding_mask=torch.zeros(2, 5, dtype=torch.long))


def test_a_state_must_fit():
    q = torch.zeros(2, 3, 5, 4)
    plain, moving = (continue_attention(q, q, q, mu)[1] for mu in (0.0, 0.5))
    with pytest.raises(ValueError, match="state must have S of shape"):
        continue_attention(q, q, q[..., :3], 0.0, state=plain)
    with pytest.raises(ValueError, match="and P here"):
        continue_attention(q, q, q, 0.5, state=plain)
    with pytest.raises(ValueError, match="and no P here"):
        continue_attention(q, q, q, 0.0, state=moving)
