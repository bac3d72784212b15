"""The module of several heads: against the function, against softmax attention's habits, streaming, errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from hbode.models.attention import MomentumAttention, attention_weights, momentum_attention

EPS = torch.finfo(torch.float64).eps
E, H, L, B = 12, 3, 40, 2
# Projections of 12 channels and sums over 40 positions, ten times over.
CLOSE = {"rtol": 0, "atol": 10 * L * 10 * EPS}


def attention(**options):
    torch.manual_seed(0)
    module = MomentumAttention(E, H, batch_first=True, dtype=torch.float64, **options)
    with torch.no_grad():
        for bias in (module.in_proj_bias, module.out_proj.bias):
            if bias is not None:
                bias.normal_()
    return module


def sequence(length=L, seed=1):
    return torch.randn(B, length, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def causal_mask(length=L):
    return nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)


def by_heads(module, query, key, value, mu, gamma, **options):
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    parts = [
        (x @ w.T + b).unflatten(-1, (H, E // H)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]
    out = momentum_attention(*parts, mu, gamma, form="quadratic", **options)
    return module.out_proj(out.transpose(1, 2).flatten(2)), parts


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("mu, gamma", [(0.9, 0.3), ([0.1, 0.5, 0.99], [1.0, 0.5, 2.0])], ids=str)
def test_heads_are_attended_to_one_by_one(mu, gamma, trainable):
    module = attention(momentum=mu, step_size=gamma, trainable=trainable)
    x = sequence()
    expected, _ = by_heads(
        module, x, x, x, torch.tensor(mu, dtype=torch.float64), torch.tensor(gamma, dtype=torch.float64), causal=True
    )
    found, weights = module(x, x, x, is_causal=True)
    assert weights is None
    assert torch.allclose(found, expected, **CLOSE)
    assert torch.allclose(module(x, x, x, attn_mask=causal_mask())[0], found, **CLOSE)
    assert torch.allclose(module(x, x, x, attn_mask=causal_mask().isinf())[0], found, **CLOSE)


def test_queries_may_be_of_another_sequence():
    module, x, other = attention(momentum=0.9), sequence(7), sequence(25, seed=2)
    mask = torch.zeros(B, 25, dtype=torch.bool)
    mask[0, 20:] = True
    expected, _ = by_heads(module, x, other, other, 0.9, 0.6, causal=False, key_padding_mask=mask)
    assert torch.allclose(module(x, other, other, key_padding_mask=mask)[0], expected, **CLOSE)
    value = sequence(25, seed=3)
    expected, _ = by_heads(module, x, other, value, 0.9, 0.6, causal=False)
    assert torch.allclose(module(x, other, value)[0], expected, **CLOSE)


@pytest.mark.parametrize("causal", [False, True])
def test_layouts_are_those_of_softmax_attention(causal):
    first, x = attention(momentum=0.9), sequence()
    second = copy.deepcopy(first)
    second.batch_first = False
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[1, 30:] = True
    expected, weights = first(x, x, x, mask, True, is_causal=causal)
    assert weights.shape == (B, L, L)
    y = x.transpose(0, 1)
    found, again = second(y, y, y, mask, True, is_causal=causal)
    assert torch.allclose(found.transpose(0, 1), expected, **CLOSE)
    assert torch.allclose(again, weights, **CLOSE)
    for module in (first, second):
        alone, again = module(x[1], x[1], x[1], mask[1], True, is_causal=causal)
        assert torch.allclose(alone, expected[1], **CLOSE)
        assert torch.allclose(again, weights[1], **CLOSE)
    softmax = nn.MultiheadAttention(E, H, batch_first=True, dtype=torch.float64)
    for options in ({}, {"average_attn_weights": False}):
        shapes = [
            tuple(part.shape for part in module(x, x, x, need_weights=True, **options)) for module in (first, softmax)
        ]
        assert shapes[0] == shapes[1]


def test_weights_are_those_of_the_heads():
    module, x = attention(momentum=0.9), sequence()
    _, (q, k, _) = by_heads(module, x, x, x, 0.9, 0.6)
    weights = module(x, x, x, need_weights=True, average_attn_weights=False, is_causal=True)[1]
    assert torch.allclose(weights, attention_weights(q, k, 0.9, 0.6), **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
def test_parameters_are_those_of_softmax_attention(bias):
    softmax = nn.MultiheadAttention(E, H, bias=bias)
    module = MomentumAttention(E, H, bias=bias)
    assert module.load_state_dict(softmax.state_dict()) == ([], [])
    assert module(*[sequence().float()] * 3)[0].shape == (B, L, E)


def test_coefficients_are_trained():
    module, x = attention(momentum=[0.2, 0.5, 0.9], step_size=0.3, trainable=True), sequence()
    assert set(dict(module.named_parameters())) - {
        "in_proj_weight",
        "in_proj_bias",
        "out_proj.weight",
        "out_proj.bias",
    } == {
        "momentum_logit",
        "step_size",
    }
    assert torch.allclose(module.momentum, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), atol=10 * EPS)
    before = float(module(x, x, x, is_causal=True)[0].detach().square().mean())
    optimizer = torch.optim.SGD([module.momentum_logit, module.step_size], lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(x, x, x, is_causal=True)[0].square().mean()
        loss.backward()
        assert bool((module.momentum_logit.grad != 0).all())
        optimizer.step()
    assert float(loss.detach()) < before
    assert bool(((module.momentum > 0) & (module.momentum < 1)).all())


def test_fixed_coefficients_keep_their_digits():
    module = MomentumAttention(E, H, momentum=1 - 1e-12)
    assert module.half().momentum == 1 - 1e-12
    assert MomentumAttention(E, H, momentum=[0.1, 0.2, 0.3]).momentum.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_a_stream_equals_a_sequence(mu, batch_first):
    module, x = attention(momentum=mu), sequence()
    module.batch_first = batch_first
    x = x if batch_first else x.transpose(0, 1)
    axis = 1 if batch_first else 0
    whole = module(x, x, x, is_causal=True)[0]
    found, state = [], None
    for part in x.split([10, 1, 1, 28], axis):
        out, state = module.stream(part, state)
        found.append(out)
    assert torch.allclose(torch.cat(found, axis), whole, **CLOSE)


def test_published_weighting():
    module, x = attention(momentum=0.9, weighting="published"), sequence()
    expected, _ = by_heads(module, x, x, x, 0.9, 0.6, weighting="published")
    assert torch.allclose(module(x, x, x, is_causal=True)[0], expected, **CLOSE)
    with pytest.raises(ValueError, match="weighting must be 'exact' to stream"):
        module.stream(x)


def test_autocast():
    module = MomentumAttention(E, H, momentum=0.9, batch_first=True)
    x = sequence().float()
    expected = module(x, x, x, is_causal=True)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x, x, x, is_causal=True)[0]
        found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    # Two projections in 8 bits.
    assert float((found - expected).detach().abs().max()) < 0.05 * float(expected.detach().abs().max())
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"embed_dim": 0}, "embed_dim must be at least"),
        ({"num_heads": 0}, "num_heads must be at least"),
        ({"num_heads": 5}, "embed_dim must be a multiple"),
        ({"momentum": 1.1}, "momentum must be in"),
        ({"momentum": [0.1, 0.2]}, "momentum must be one finite number, or one for each of 3 heads"),
        ({"step_size": math.nan}, "step_size must be one finite number"),
        ({"momentum": 0.0, "trainable": True}, "momentum must be between 0 and 1 to be trained"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MomentumAttention(**({"embed_dim": E, "num_heads": H} | options))


def test_inputs_are_checked():
    module, x = attention(), sequence()
    for wrong in (x[..., :5], x[0, 0], x[None]):
        with pytest.raises(ValueError, match="query must have shape"):
            module(wrong, x, x)
    with pytest.raises(ValueError, match="key must have shape"):
        module(x, x[0], x)
    with pytest.raises(ValueError, match="value must have shape"):
        module(x, x, x[:, :3])
    with pytest.raises(ValueError, match="key must have as many positions"):
        module(x[:, :3], x, x, is_causal=True)
    for mask in (torch.zeros(L, L), torch.ones(L, L, dtype=torch.bool), causal_mask(L + 1), causal_mask().T):
        with pytest.raises(ValueError, match="attn_mask must be None or the causal mask"):
            module(x, x, x, attn_mask=mask)
    with pytest.raises(ValueError, match="key_padding_mask must have shape"):
        module(x, x, x, torch.zeros(B, L + 1, dtype=torch.bool))
