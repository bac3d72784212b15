"""Recurrent layers with momentum: torch's without it, the formulas with it, cells in loops, parts of sequences."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from hbode.models.recurrent import (
    AdamLSTM,
    AdamLSTMCell,
    MomentumDTRIV,
    MomentumDTRIVCell,
    MomentumGRU,
    MomentumGRUCell,
    MomentumLSTM,
    MomentumLSTMCell,
    MomentumRNN,
    MomentumRNNCell,
    NesterovLSTM,
    NesterovLSTMCell,
    PublishedNesterovLSTM,
    PublishedNesterovLSTMCell,
    RMSPropLSTM,
    RMSPropLSTMCell,
)

D, H, N, T = 3, 5, 4, 19
LENGTHS = torch.tensor([7, 19, 1, 12])
ROUNDING = 1e-12
"""Some 20 steps of sums of some 10 products of numbers below 10, which round at 1e-16; what is seen is below 1e-14."""

PAIRS = {
    "momentum": (MomentumLSTM, MomentumLSTMCell, {"momentum": 0.7, "step_size": 0.6}),
    "momentum-bias": (MomentumLSTM, MomentumLSTMCell, {"bias_in_momentum": True}),
    "momentum-unit": (MomentumLSTM, MomentumLSTMCell, {"trainable": "unit", "bias_in_momentum": True}),
    "nesterov": (NesterovLSTM, NesterovLSTMCell, {"step_size": 0.8, "restart": 6}),
    "adam": (AdamLSTM, AdamLSTMCell, {"momentum": 0.5, "step_size": 0.3, "beta": 0.8}),
    "adam-unit": (AdamLSTM, AdamLSTMCell, {"trainable": "unit", "bias_in_momentum": True}),
    "rmsprop": (RMSPropLSTM, RMSPropLSTMCell, {"beta": 0.8, "bias_in_momentum": True}),
    "rmsprop-layer": (RMSPropLSTM, RMSPropLSTMCell, {"trainable": "layer", "step_size": 0.5}),
    "gru": (MomentumGRU, MomentumGRUCell, {"momentum": 0.7}),
    "gru-layer": (MomentumGRU, MomentumGRUCell, {"trainable": "layer", "bias_in_momentum": True}),
    "rnn": (MomentumRNN, MomentumRNNCell, {"momentum": 0.7}),
    "rnn-relu": (MomentumRNN, MomentumRNNCell, {"nonlinearity": "relu", "step_size": 0.3}),
    "dtriv": (MomentumDTRIV, MomentumDTRIVCell, {"momentum": 0.7}),
    "published": (PublishedNesterovLSTM, PublishedNesterovLSTMCell, {"step_size": 0.8, "restart": 6}),
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def made(name, *sizes, cell=False, **options):
    layer, a_cell, settings = PAIRS[name]
    module = (a_cell if cell else layer)(*sizes, **settings, **options)
    # Where units have a momentum and a step size of their own, they are not the same.
    for key, parameter in module.named_parameters():
        if key.startswith(("logit_momentum", "log_step_size")):
            parameter.data += 0.5 * torch.randn_like(parameter)
    return module


def close(found, expected, tolerance=ROUNDING):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).detach().abs().max()) < tolerance


def data(output):
    return output.data if isinstance(output, PackedSequence) else output


# Without momentum: torch's layers.

TORCH = {
    "lstm": (nn.LSTM, lambda *sizes, **options: MomentumLSTM(*sizes, momentum=0.0, **options)),
    "lstm-bias": (
        nn.LSTM,
        lambda *sizes, **options: MomentumLSTM(*sizes, momentum=0.0, bias_in_momentum=True, **options),
    ),
    "nesterov": (nn.LSTM, lambda *sizes, **options: NesterovLSTM(*sizes, restart=1, **options)),
    "gru": (nn.GRU, lambda *sizes, **options: MomentumGRU(*sizes, momentum=0, step_size=1, **options)),
    "rnn": (nn.RNN, lambda *sizes, **options: MomentumRNN(*sizes, momentum=0.0, **options)),
    "relu": (
        lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
        lambda *sizes, **options: MomentumRNN(*sizes, momentum=0.0, nonlinearity="relu", **options),
    ),
}
OPTIONS = [
    {},
    {"num_layers": 3, "bidirectional": True},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "proj_size": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "dropout": 0.0, "proj_size": 4},
]
INPUTS = ["batch", "alone", "packed", "packed in order"]


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", TORCH)
def test_without_momentum_it_is_torchs_layer(name, options, given):
    if "proj_size" in options and name not in ("lstm", "lstm-bias", "nesterov"):
        return
    theirs, ours = (make(D, H, **options) for make in TORCH[name])
    ours.load_state_dict(theirs.state_dict(), strict=True)
    batch_first = options.get("batch_first", False)
    places = options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
    x = torch.randn(*((T, D) if given == "alone" else (N, T, D) if batch_first else (T, N, D)), requires_grad=True)
    widths = (options.get("proj_size", H), H) if isinstance(theirs, nn.LSTM) else (H,)
    hx = tuple(torch.randn(places, *(() if given == "alone" else (N,)), width) for width in widths)
    if not isinstance(theirs, nn.LSTM):
        hx = hx[0]

    def run(layer, hx):
        sequence = x
        if given.startswith("packed"):
            lengths = LENGTHS.sort(descending=True).values if given == "packed in order" else LENGTHS
            order = given == "packed in order"
            sequence = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=order)
        output, state = layer(sequence, hx)
        state = (state,) if isinstance(state, torch.Tensor) else state[: len(widths)]
        loss = data(output).square().sum() + sum(s.sum() for s in state)
        grads = torch.autograd.grad(loss, [x, *(p for _, p in sorted(layer.named_parameters()))])
        return output, [data(output), *state, *grads]

    for start in (None, hx):
        (our_output, our_values), (their_output, their_values) = run(ours, start), run(theirs, start)
        close(our_values, their_values)
        if isinstance(our_output, PackedSequence):
            for key in ("batch_sizes", "sorted_indices", "unsorted_indices"):
                one, other = getattr(our_output, key), getattr(their_output, key)
                assert (one is None and other is None) or torch.equal(one, other)


def test_a_seed_gives_the_parameters_of_torchs_layer():
    torch.manual_seed(3)
    theirs = nn.LSTM(D, H, 2, bidirectional=True)
    torch.manual_seed(3)
    ours = MomentumLSTM(D, H, 2, bidirectional=True, trainable="unit")
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


def test_dropout_is_between_layers_in_training():
    layer = MomentumLSTM(D, H, 2, dropout=0.5)
    plain = MomentumLSTM(D, H, 2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(T, N, D)
    assert not torch.allclose(layer(x)[0], layer(x)[0])
    close(layer(x)[1][2][:1], plain(x)[1][2][:1])  # the first layer sees all of its input
    layer.eval()
    close([layer(x)[0]], [plain(x)[0]])


# With it: the formulas of the paper.


def lstm(gates, c):
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def by_formula(name, layer, x):
    """Outputs, one step after the other, from the parameters of a layer without its code."""
    w = {key.removesuffix("_l0"): value for key, value in layer.named_parameters()}
    W, b = w["weight_ih"], w.get("bias_ih", 0.0)
    U, d = layer.weight_hh_l0, w.get("bias_hh", 0.0)
    settings = {"momentum": 0.6, "step_size": 1.0, "beta": 0.9, "eps": 1e-8, "bias_in_momentum": False} | PAIRS[name][2]
    mu, s = settings["momentum"], settings["step_size"]
    if settings.get("trainable"):
        mu, s = w.get("logit_momentum", torch.zeros(())).sigmoid(), w["log_step_size"].exp()
    inside = settings["bias_in_momentum"]
    h = c = v = q = m = x.new_zeros(())
    h = x.new_zeros(x.shape[1], H)
    outputs = []
    for t, x_t in enumerate(x):
        affine = x_t @ W.T + (b if inside else 0.0)
        rest = h @ U.T + d + (0.0 if inside else b)
        if name.startswith(("adam", "rmsprop")):
            v = (0.0 if name.startswith("rmsprop") else mu) * v + s * affine
            q = settings["beta"] * q + (1 - settings["beta"]) * affine**2
            seen = v / (q + settings["eps"]).sqrt()
        elif name in ("nesterov", "published"):
            k = t % settings["restart"]
            v, before = k / (k + 3) * v + s * affine, v
            seen = v
        elif settings.get("trainable") == "unit":  # units are those of the input, the last the constant of the bias
            m = mu * m + torch.cat((x_t, x.new_ones(len(x_t), 1)), -1)
            seen = (s * m) @ torch.cat((W, b.unsqueeze(1)), 1).T
        else:
            v = mu * v + s * affine
            seen = v
        if name == "published":
            v = h @ U.T + d - s * (x_t @ W.T + b)
            h, c = lstm(v + k / (k + 3) * (v - before), c)
        elif name.startswith("gru"):
            r, z, n = seen.chunk(3, -1)
            (hr, hz, hn), (br, bz, bn) = (h @ U.T + d).chunk(3, -1), (b if not inside else 0 * b).chunk(3)
            r, z = (r + br + hr).sigmoid(), (z + bz + hz).sigmoid()
            h = (1 - z) * (n + bn + r * hn).tanh() + z * h
        elif name.startswith("rnn"):
            h = (seen + rest).relu() if name == "rnn-relu" else (seen + rest).tanh()
        elif name == "dtriv":
            z = seen + rest
            h = z.sign() * (z.abs() + w["shift"]).relu()
        else:
            h, c = lstm(seen + rest, c)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("name", PAIRS)
def test_layers_are_the_formulas(name):
    layer = made(name, D, H)
    if name == "dtriv":
        layer.shift_l0.data.uniform_(-0.5, 0.5)
    x = torch.randn(T, N, D)
    close([layer(x)[0]], [by_formula(name, layer, x)])


# Cells.


def cells_of(layer, name):
    """A cell with the parameters of each layer and direction."""
    cells = []
    state = layer.state_dict()
    for place in layer.places:
        cell = made(name, place.inputs, layer.hidden_size, cell=True)
        cell.load_state_dict({key: state[renamed(key, place.suffix)] for key in cell.state_dict()})
        cells.append(cell)
    return cells


def renamed(key, suffix):
    """The name in a layer of a parameter of a cell."""
    if key.startswith("parametrizations."):
        _, weight, *rest = key.split(".")
        return ".".join(("parametrizations", weight + suffix, *rest))
    return key + suffix


@pytest.mark.parametrize("name", PAIRS)
def test_a_sequence_equals_steps_of_a_cell(name):
    layer = made(name, D, H)
    (cell,) = cells_of(layer, name)
    x = torch.randn(300 if name == "adam" else T, N, D)  # one that is read in pieces, too
    output, state = layer(x)
    assert [s.shape for s in state] == [(1, N, s.shape[-1]) for s in state]
    outputs, at = [], None
    for x_t in x:
        at = cell(x_t, at)
        outputs.append(at[0])
    close([output], [torch.stack(outputs)], tolerance=20 * ROUNDING)
    close([s[0] for s in state], at, tolerance=20 * ROUNDING)


@pytest.mark.parametrize("name", PAIRS)
def test_cells_take_single_inputs(name):
    cell = made(name, D, H, cell=True)
    x = torch.randn(N, D)
    state = cell(x, cell(x))
    alone = [cell(one, cell(one)) for one in x]
    close(state, [torch.stack(each) for each in zip(*alone, strict=True)])


def by_cells(layer, cells, x, lengths):
    """Outputs (T, N, ·) of layers and directions, sample by sample, and their states, from loops over cells."""
    outputs, states = [], []
    for sample, length in enumerate(lengths):
        sequence, ends = x[:length, sample], []
        for k in range(layer.num_layers):
            sides = []
            for direction in range(2):
                cell, at, found = cells[2 * k + direction], None, []
                for x_t in sequence.flip(0) if direction else sequence:
                    at = cell(x_t, at)
                    found.append(at[0])
                sides.append(torch.stack(found[::-1] if direction else found))
                ends.append(at)
            sequence = torch.cat(sides, -1)
        outputs.append(torch.cat((sequence, sequence.new_zeros(len(x) - length, sequence.shape[1]))))
        states.append(ends)
    return torch.stack(outputs, 1), states


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_layers_in_both_directions_equal_loops_over_cells(name, packed):
    layer = made(name, D, H, 2, bidirectional=True)
    cells = cells_of(layer, name)
    x = torch.randn(T, N, D)
    lengths = LENGTHS if packed else torch.full((N,), T)
    output, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x)
    if packed:
        output, _ = pad_packed_sequence(output)
    expected, ends = by_cells(layer, cells, x, lengths.tolist())
    close([output], [expected])
    for kind, found in enumerate(state):
        for sample in range(N):
            for place in range(4):
                end = ends[sample][place][kind]
                close([found[place, sample, : len(end)]], [end])
                assert not found[place, sample, len(end) :].any()


# States.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_a_sequence_in_parts_equals_one_in_a_piece(name, packed):
    layer = made(name, D, H, 2)
    x = torch.randn(T, N, D)
    whole, end = layer(x)
    parts, state = [], None
    for part in x.split([1, 7, 11]):
        given = pack_padded_sequence(part, [len(part)] * N) if packed else part
        output, state = layer(given, state)
        parts.append(pad_packed_sequence(output)[0] if packed else output)
    close([torch.cat(parts)], [whole])
    close(state, end)


@pytest.mark.parametrize("name", PAIRS)
def test_states_go_with_their_samples(name):
    """Packed sequences that are not in order get their own initial states, and return their own."""
    layer = made(name, D, H, bidirectional=True)
    x = torch.randn(T, N, D)
    _, start = layer(torch.randn(T, N, D))
    output, state = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), start)
    output, _ = pad_packed_sequence(output)
    for n, length in enumerate(LENGTHS.tolist()):
        alone, end = layer(x[:length, n], [s[:, n] for s in start])
        close([output[:length, n]], [alone])
        close([s[:, n] for s in state], end)


@pytest.mark.parametrize("name", ["momentum", "adam", "nesterov", "gru"])
def test_the_state_of_torchs_layer_is_enough(name):
    layer = made(name, D, H)
    x = torch.randn(T, N, D)
    _, state = layer(x)
    own = len(layer.dynamics.recurrence.names)
    whole = [*state[:own], *(torch.zeros_like(s) for s in state[own:])]
    some = state[0] if own == 1 else state[:own]
    close([layer(x, some)[0]], [layer(x, whole)[0]])


# Parameters of momentum and step size.


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop", "nesterov", "gru", "rnn"])
def test_fixed_settings_are_no_parameters(name):
    layer, _, settings = PAIRS[name]
    fixed, trained = layer(D, H, 2, **settings), layer(D, H, 2, **settings, trainable="layer")
    names = set(trained.state_dict()) - set(fixed.state_dict())
    kinds = {"log_step_size"} | ({"logit_momentum"} if "momentum" in settings else set())
    assert names == {f"{kind}_l{k}" for kind in kinds for k in range(2)}
    trained.load_state_dict(fixed.state_dict(), strict=False)
    x = torch.randn(T, N, D)
    close([fixed(x)[0]], [trained(x)[0]])
    trained.log_step_size_l1.data.fill_(5.0)
    trained.reset_parameters()
    assert torch.equal(trained.log_step_size_l1, trained.log_step_size_l0)


@pytest.mark.parametrize("name, widths", [("momentum", (D, 2 * H)), ("adam", (4 * H, 4 * H))])
def test_units_are_inputs_or_gates(name, widths):
    layer, _, settings = PAIRS[name]
    module = layer(D, H, 2, bidirectional=True, **settings, trainable="unit")
    for k, width in enumerate(widths):
        for kind in ("logit_momentum", "log_step_size"):
            for end in ("", "_reverse"):
                assert getattr(module, f"{kind}_l{k}{end}").shape == (width,)


# Gradients.


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_those_of_finite_differences(name):
    layer = made(name, 2, 2, bidirectional=True)
    names = [key for key, _ in layer.named_parameters()]
    x = torch.randn(5, 2, 2, requires_grad=True)
    _, start = layer(torch.randn(5, 2, 2))
    counted = name in ("nesterov", "published")  # steps, as the last of the state
    start = [s.detach().requires_grad_(not counted or s is not start[-1]) for s in start]

    def run(x, *values):
        states, parameters = values[: len(start)], dict(zip(names, values[len(start) :], strict=True))
        output, state = torch.func.functional_call(layer, parameters, (x, states))
        return output, *state

    assert torch.autograd.gradcheck(run, (x, *start, *layer.parameters()), fast_mode=True)


# As modules.


@pytest.mark.parametrize("name", PAIRS)
def test_layers_are_copied_and_loaded(name):
    layer = made(name, D, H, 2, bidirectional=True)
    other = made(name, D, H, 2, bidirectional=True)
    x = torch.randn(T, N, D)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], layer(x)[0])
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
    single = layer.float()(x.float())
    assert all(value.dtype == torch.float32 for value in (single[0], *single[1]))


def test_settings_are_shown():
    assert str(AdamLSTM(3, 5, 2, beta=0.5)) == "AdamLSTM(3, 5, num_layers=2, beta=0.5)"
    assert str(MomentumGRUCell(3, 5, momentum=0.5)) == "MomentumGRUCell(3, 5, momentum=0.5)"


# What is refused.


@pytest.mark.parametrize(
    "layer, settings, message",
    [
        (MomentumLSTM, {"momentum": 1.0}, "momentum must be in"),
        (MomentumLSTM, {"momentum": -0.1}, "momentum must be in"),
        (MomentumLSTM, {"momentum": 0.0, "trainable": "layer"}, "momentum must be above 0"),
        (AdamLSTM, {"momentum": 1.5}, "momentum must be in"),
        (AdamLSTM, {"momentum": 0.0, "trainable": "unit"}, "momentum must be above 0"),
        (MomentumGRU, {"step_size": 0.0}, "step_size must be positive"),
        (MomentumGRU, {"step_size": float("inf")}, "step_size must be positive"),
        (MomentumRNN, {"trainable": True}, "trainable must be"),
        (MomentumRNN, {"nonlinearity": "sigmoid"}, "nonlinearity must be"),
        (RMSPropLSTM, {"beta": 1.0}, "beta must be in"),
        (RMSPropLSTM, {"eps": 0.0}, "eps must be positive"),
        (NesterovLSTM, {"restart": 0}, "restart must be"),
        (NesterovLSTM, {"restart": 2.5}, "restart must be"),
        (PublishedNesterovLSTM, {"restart": 0}, "restart must be"),
        (PublishedNesterovLSTM, {"step_size": -1.0}, "step_size must be"),
        (MomentumGRU, {"proj_size": 2}, "proj_size must be 0"),
        (MomentumDTRIV, {"momentum": 2.0}, "momentum must be in"),
        (MomentumLSTM, {"dropout": 2.0}, "dropout"),
    ],
    ids=str,
)
def test_settings_are_checked(layer, settings, message):
    with pytest.raises(ValueError, match=message):
        layer(D, H, **settings)


def test_settings_of_others_are_refused():
    with pytest.raises(TypeError, match="beta"):
        MomentumLSTM(D, H, beta=0.5)
    with pytest.raises(TypeError, match="bias"):
        MomentumDTRIV(D, H, bias=False)


def test_a_projection_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="proj_size must be 0"):
        PublishedNesterovLSTM(D, H, proj_size=2)(torch.randn(T, N, D))


@pytest.mark.parametrize(
    "x, hx, message",
    [
        ((T, N, D + 1), None, "input must have shape"),
        ((D,), None, "input must have shape"),
        ((0, N, D), None, "input must have shape"),
        ((T, N, D), [(1, N, H)], "hx must be h, c or h, c, m, got 1"),
        ((T, N, D), [(1, N, H)] * 4, "hx must be h, c or h, c, m, got 4"),
        ((T, N, D), [(1, N, H)] * 3, "m in hx must have shape"),
        ((T, N, D), [(2, N, H)] * 2, "h in hx must have shape"),
        ((T, D), [(1, N, H)] * 2, "h in hx must have shape"),
    ],
    ids=str,
)
def test_inputs_and_states_are_checked(x, hx, message):
    state = None if hx is None else [torch.zeros(shape) for shape in hx]
    with pytest.raises(ValueError, match=message):
        MomentumLSTM(D, H)(torch.zeros(x), state)


def test_dtypes_are_checked():
    with pytest.raises(ValueError, match="input must have the dtype"):
        MomentumLSTM(D, H)(torch.zeros(T, N, D, dtype=torch.float32))


def test_packed_inputs_are_checked():
    packed = pack_padded_sequence(torch.zeros(T, N, D + 1), [T] * N)
    with pytest.raises(ValueError, match="input must have shape"):
        MomentumLSTM(D, H)(packed)


def test_inputs_of_cells_are_checked():
    cell = MomentumGRUCell(D, H)
    with pytest.raises(ValueError, match="input must have shape"):
        cell(torch.zeros(T, N, D))
    with pytest.raises(ValueError, match="h in hx must have shape"):
        cell(torch.zeros(N, D), torch.zeros(N, D))
