"""Encoder layers and encoders: against torch's layer by layer, momentum on the residual path, streams, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hbode.models.attention import (
    MomentumTransformerEncoder,
    MomentumTransformerEncoderLayer,
    Residual,
    adaptive_momentum,
)

EPS = torch.finfo(torch.float64).eps
E, H, L, B = 12, 3, 30, 2
# Some layers of projections and sums over 30 positions, ten times over.
CLOSE = {"rtol": 0, "atol": 1000 * L * EPS}


def layer_of(**options):
    torch.manual_seed(0)
    options = {"batch_first": True, "momentum": 0.9, "dim_feedforward": 20, "dtype": torch.float64} | options
    return MomentumTransformerEncoderLayer(E, H, **options).eval()


def encoder_of(layers=3, norm=False, **options):
    encoder = MomentumTransformerEncoder(layer_of(**options), layers, nn.LayerNorm(E).double() if norm else None)
    for k, parameter in enumerate(encoder.parameters()):  # copies are equal otherwise
        torch.manual_seed(k)
        nn.init.normal_(parameter, 0.1 if parameter.ndim == 1 else 0.0, 0.3)
    return encoder.eval()


def sequence(length=L, seed=1):
    return torch.randn(B, length, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(encoder, x, momentum, step, **masks):
    """v = μ v - g, x = x - s v, then the rest of torch's layer."""
    v, before = torch.zeros_like(x), None
    for layer in encoder.layers:
        y = layer.norm1(x) if layer.norm_first else x
        g = layer.self_attn(y, y, y, **masks)[0]
        mu = momentum
        if momentum == "adaptive":
            mu = 0.0
            if before is not None:
                ratio = (g - before).norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True)
                mu = ((1 - ratio.sqrt()) ** 2).clamp(0, 1 - 1e-4)
        v, before = mu * v - g, g
        x = x - step * v
        x = x if layer.norm_first else layer.norm1(x)
        y = layer.norm2(x) if layer.norm_first else x
        x = x + layer.linear2(layer.activation(layer.linear1(y)))
        x = x if layer.norm_first else layer.norm2(x)
    return x if encoder.norm is None else encoder.norm(x)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("momentum, step", [(0.0, 1.0), (0.7, 0.5), ("adaptive", 0.9)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_the_residual_path_has_momentum(momentum, step, norm_first, causal):
    encoder = encoder_of(
        norm=True, norm_first=norm_first, residual_momentum=momentum, residual_step_size=step, activation="gelu"
    )
    x = sequence()
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[1, 20:] = True
    expected = by_hand(encoder, x, momentum, step, key_padding_mask=mask, is_causal=causal)
    found = encoder(x, src_key_padding_mask=mask, is_causal=causal)
    assert torch.allclose(found, expected, **CLOSE)
    if causal:
        written = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
        assert torch.allclose(encoder(x, written, mask), expected, **CLOSE)


@pytest.mark.parametrize("norm_first", [False, True])
def test_it_works_in_the_encoder_of_torch(norm_first):
    ours = encoder_of(norm=True, norm_first=norm_first)
    theirs = nn.TransformerEncoder(ours.layers[0], 3, nn.LayerNorm(E).double(), enable_nested_tensor=False).eval()
    theirs.load_state_dict(ours.state_dict())
    x = sequence()
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[1, 20:] = True
    written = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    for masks in ({}, {"src_key_padding_mask": mask}, {"mask": written}, {"mask": written, "is_causal": True}):
        with torch.no_grad():
            assert torch.allclose(theirs(x, **masks), ours(x, **masks), **CLOSE)


def test_momentum_of_the_residual_path_stays_in_our_encoder():
    options = {"residual_momentum": 0.9, "residual_step_size": 0.5}
    ours, x = encoder_of(**options), sequence()
    alone = x
    for layer in ours.layers:
        alone = layer(alone)
    theirs = nn.TransformerEncoder(ours.layers[0], 3, enable_nested_tensor=False).eval()
    theirs.load_state_dict(ours.state_dict())
    assert torch.allclose(theirs(x), alone, **CLOSE)
    assert float((ours(x) - alone).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("bias", [False, True])
def test_parameters_are_those_of_torch(bias):
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 20, bias=bias), 2, enable_nested_tensor=False)
    ours = MomentumTransformerEncoder(MomentumTransformerEncoderLayer(E, H, 20, bias=bias), 2)
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    x = torch.randn(L, B, E)
    assert ours(x).shape == theirs(x).shape


def test_options_are_those_of_torch():
    """The same calls make both layers, and what is not attention is the same: zero values in attention leave it out."""
    options = {"dim_feedforward": 20, "dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-3, "norm_first": True}
    options |= {"batch_first": True, "dtype": torch.float64}
    theirs = nn.TransformerEncoderLayer(E, H, **options)
    ours = MomentumTransformerEncoderLayer(E, H, **options)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight[2 * E :].zero_()
    ours.load_state_dict(theirs.state_dict())
    x = sequence()
    assert torch.allclose(ours(x), theirs(x), **CLOSE)
    assert torch.allclose(ours(x[0]), theirs(x[0]), **CLOSE)


def test_adaptive_momentum_is_its_formula():
    v, before, g = (sequence(seed=s) for s in (1, 2, 3))
    found = adaptive_momentum(g, Residual(20 * v, before))
    assert found.shape == (B, L, 1)
    for b, t in ((0, 0), (1, 7)):
        ratio = float((g - before)[b, t].norm() / (20 * v[b, t]).norm())
        assert float(found[b, t]) == pytest.approx((1 - math.sqrt(ratio)) ** 2, rel=1e-12)
    assert bool((adaptive_momentum(g, Residual(v / 100, before)) == 1 - 1e-4).all())  # far beyond a ratio of 4
    assert bool((adaptive_momentum(g, Residual(v, g)) == 1 - 1e-4).all())  # no change
    assert bool((adaptive_momentum(g, Residual(0 * v, before)) == 0).all())


def test_adaptive_momentum_has_finite_gradients():
    v, before = sequence(seed=1), sequence(seed=2)
    g = torch.where(torch.arange(L)[:, None] < 10, before, sequence(seed=3)).requires_grad_()
    v = torch.where(torch.arange(L)[:, None] % 3 == 0, 0, 20 * v).requires_grad_()
    for grad in torch.autograd.grad(adaptive_momentum(g, Residual(v, before)).sum(), (g, v)):
        assert bool(grad.isfinite().all())
    inner = (sequence(3, seed=3).requires_grad_(), (20 * sequence(3)).requires_grad_(), sequence(3, seed=2))
    assert torch.autograd.gradcheck(lambda g, v: adaptive_momentum(g, Residual(v, inner[2])), inner[:2])


@pytest.mark.parametrize("momentum", [0.0, "adaptive"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stream_equals_a_sequence(batch_first, momentum):
    encoder = encoder_of(batch_first=batch_first, residual_momentum=momentum, norm=True, norm_first=True)
    x = sequence() if batch_first else sequence().transpose(0, 1)
    axis = 1 if batch_first else 0
    found, states = [], None
    with torch.no_grad():
        for part in x.split([12, 1, 1, 16], axis):
            out, states = encoder.stream(part, states)
            found.append(out)
        assert torch.allclose(torch.cat(found, axis), encoder(x, is_causal=True), **CLOSE)
    assert len(states) == 3
    assert states[0].S.shape == (B, H, E // H, E // H)


def test_dropout_is_for_training():
    layer, x = layer_of(dropout=0.5), sequence()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_gradients_reach_all_parameters():
    encoder = encoder_of(trainable=True, residual_momentum="adaptive")
    encoder(sequence(), is_causal=True)[:, -1].square().sum().backward()
    assert all(bool((p.grad != 0).any()) for name, p in encoder.named_parameters() if name != "layers.2.norm2.bias")


def test_activations():
    for given, expected in (("relu", F.relu), ("gelu", F.gelu), (torch.tanh, torch.tanh)):
        assert layer_of(activation=given).activation is expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation": "swish"}, "activation must be one of"),
        ({"dim_feedforward": 0}, "dim_feedforward must be at least"),
        ({"residual_momentum": 1.0}, "residual_momentum must be in"),
        ({"residual_momentum": "fast"}, "residual_momentum must be in"),
        ({"residual_step_size": math.inf}, "residual_step_size must be finite"),
        ({"momentum": -1.0}, "momentum must be in"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        layer_of(**options)


def test_an_encoder_is_of_our_layers():
    with pytest.raises(TypeError, match="encoder_layer must be a MomentumTransformerEncoderLayer"):
        MomentumTransformerEncoder(nn.TransformerEncoderLayer(E, H), 2)
    with pytest.raises(ValueError, match="num_layers must be at least"):
        MomentumTransformerEncoder(layer_of(), 0)


def test_masks_are_checked():
    x = sequence()
    with pytest.raises(ValueError, match="attn_mask must be None or the causal mask"):
        layer_of()(x, src_mask=torch.ones(L, L, dtype=torch.bool).tril())
    with pytest.raises(ValueError, match="key_padding_mask must have shape"):
        encoder_of()(x, src_key_padding_mask=torch.zeros(B, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="states must be"):
        encoder_of().stream(x, [])
