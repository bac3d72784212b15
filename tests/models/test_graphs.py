"""Graph layers against dense matrices: attention, diffusion, coupled heavy balls."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hbode import GeneralizedHeavyBall, hbodeint
from hbode.models import SolverSettings
from hbode.models.graphs import Graph, GraphAttention, GraphDiffusion, GraphHeavyBall

EXACT = SolverSettings("dopri8", 1e-10, 1e-10)
NODES = 12
"""The last one is isolated, the one before has a self-loop."""


@pytest.fixture
def edges() -> Tensor:
    rng = torch.Generator().manual_seed(3)
    pairs = torch.randint(NODES - 2, (2, 25), generator=rng)
    pairs = pairs[:, pairs[0] != pairs[1]].unique(dim=1)  # directed: not every edge has its reverse
    return torch.cat((pairs, torch.tensor([[NODES - 2, 0], [NODES - 2, NODES - 2]])), 1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(NODES, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def dense(graph: Graph, weights: Tensor) -> Tensor:
    """The matrix whose row i holds the weights of the edges into node i."""
    return weights.new_zeros(NODES, NODES).index_put((graph.targets, graph.sources), weights, accumulate=True)


def dense_attention(attention: GraphAttention, x: Tensor, edges: Tensor) -> Tensor:
    """The attention of one node to another by a masked softmax over all pairs, written from the formula."""
    allowed = torch.eye(NODES, dtype=torch.bool)
    allowed[edges[1], edges[0]] = True
    q, k = (part(x).unflatten(1, (attention.heads, -1)).transpose(0, 1) for part in (attention.query, attention.key))
    scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(2).mean(0)


def made(kind: type, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = kind(6, 2, t=(0.0, 3.0), solver=options.pop("solver", EXACT), **options).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "query" in name or "key" in name:
                parameter.mul_(2.0)  # attention that is far from even
    return layer


# the graph -----------------------------------------------------------------------------------------------------------


def test_each_node_gets_the_self_loop_that_it_lacks(edges):
    graph = Graph(edges, NODES)
    loops = graph.sources[graph.sources == graph.targets]
    assert loops.tolist() == list(range(NODES)) and len(graph.sources) == edges.shape[1] + NODES - 1
    bare = Graph(edges, NODES, self_loops=False)
    assert sorted(zip(bare.sources.tolist(), bare.targets.tolist(), strict=True)) == sorted(
        map(tuple, edges.T.tolist())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_and_products_are_those_of_matrices(edges, x, dtype):
    x, y = x.to(dtype), x.flip(0).to(dtype)
    graph = Graph(torch.cat((edges, edges[:, :3]), 1), NODES, self_loops=False)  # three edges twice, a node without
    weights = torch.randn(len(graph.sources), dtype=dtype, generator=torch.Generator().manual_seed(0))
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(dtype).eps}  # sums of some ten products of size one
    torch.testing.assert_close(graph.propagate(weights, x), dense(graph, weights) @ x, **tolerance)
    torch.testing.assert_close(graph.dots(x, y), (x @ y.T)[graph.targets, graph.sources], **tolerance)


def test_derivatives_of_sums_and_products(edges, x):
    graph = Graph(edges, NODES, self_loops=False)
    weights = torch.randn(len(graph.sources), dtype=torch.float64, requires_grad=True)
    x, y = x[:, :2].clone().requires_grad_(), x[:, 2:4].clone().requires_grad_()
    for function, inputs in ((graph.propagate, (weights, x)), (graph.dots, (x, y))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_softmax_of_large_scores(edges):
    graph = Graph(edges, NODES)
    scores = torch.full((len(graph.sources), 1), 1e4, dtype=torch.float64)
    sums = dense(graph, graph.softmax(scores)[:, 0]).sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-14)


def test_attention_is_that_of_a_dense_softmax(edges, x):
    attention, graph = made(GraphDiffusion).attention, Graph(edges, NODES)
    matrix = dense(graph, attention(x, graph))
    torch.testing.assert_close(matrix.sum(1), torch.ones(NODES).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(matrix, dense_attention(attention, x, edges), rtol=0, atol=1e-13)
    assert matrix[-1, -1] == 1  # a node without neighbours attends to itself


# the layers ----------------------------------------------------------------------------------------------------------


def test_linear_diffusion_is_the_matrix_exponential(edges, x):
    layer = made(GraphDiffusion)
    a = dense_attention(layer.attention, x, edges)
    exact = torch.linalg.matrix_exp(3.0 * (a - torch.eye(NODES))) @ x
    got = layer(x, edges)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-8)  # some tens of local errors of 1e-10
    torch.testing.assert_close(got[-1], x[-1], rtol=0, atol=1e-12)  # an isolated node stays
    assert layer.stats.nfe > 0 and (got.std(0) < x.std(0)).all()


def test_diffusion_with_a_source_is_the_matrix_exponential(edges, x):
    """Of [[A - I, β I], [0, 0]], which carries the start along."""
    layer, x = made(GraphDiffusion, source=0.3), x.requires_grad_()
    A = dense_attention(layer.attention, x, edges)
    eye = torch.eye(NODES, dtype=torch.float64)
    both = torch.cat((torch.cat((A - eye, 0.3 * eye), 1), x.new_zeros(NODES, 2 * NODES)))
    expected = (torch.matrix_exp(3.0 * both) @ torch.cat((x, x)))[:NODES]
    got = layer(x, edges)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)  # some tens of local errors of 1e-10
    (by_layer,), (by_formula,) = (torch.autograd.grad(h.square().sum(), x) for h in (got, expected))
    torch.testing.assert_close(by_layer, by_formula, rtol=0, atol=1e-6)


def test_a_heavy_ball_with_a_source_comes_to_rest_at_a_pagerank(edges, x):
    layer = made(GraphHeavyBall, gamma=0.9, xi=1.3, source=0.3, activation=None, mix=False)
    A = dense_attention(layer.attention, x, edges)
    rest = torch.linalg.solve(1.3 * torch.eye(NODES, dtype=torch.float64) - A, 0.3 * x)
    # the slowest of h'' + γ h' + (ξ - λ) h, λ ≤ 1, falls as e^{-.45 t}: 1e-16 after 80
    h = layer(x, edges, torch.tensor([0.0, 80.0, 160.0]))
    # at rest steps grow to the edge of stability, where errors of 1e-10 a step add up
    torch.testing.assert_close(h[1:], rest.expand(2, -1, -1), rtol=0, atol=3e-6)


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("kind", [GraphDiffusion, GraphHeavyBall])
def test_layers_are_the_dense_equation(edges, x, kind, nonlinear):
    """Values and all gradients, of the sparse layer and of the same equation on dense matrices."""
    options = {"gamma": 0.3, "xi": 0.8} if kind is GraphHeavyBall else {}
    layer = made(kind, nonlinear=nonlinear, **options)
    attention, inputs, found = layer.attention, [], []
    parameters = dict(layer.named_parameters())

    def field(t, h, a):
        a = dense_attention(attention, h, edges) if nonlinear else a
        return a @ h - h if kind is GraphDiffusion else torch.tanh(layer.layer.system.f.mix(a @ h))

    for sparse in (True, False):
        start = x.clone().requires_grad_()
        if sparse:
            h = layer(start, edges)
        else:
            system = layer.layer.system
            args = (dense_attention(attention, start, edges),)
            if kind is GraphDiffusion:
                h = hbodeint(type(system)(field), start, (0.0, 3.0), args=args, **EXACT.arguments).h[-1]
            else:
                given = {"gamma": system.gamma, "xi": system.xi}
                other = GeneralizedHeavyBall(field, **given, activation=None, trainable=False)
                h = hbodeint(other, start, (0.0, 3.0), args=args, **EXACT.arguments).h[-1]
        inputs.append(h)
        found.append(torch.autograd.grad(h.square().sum(), [start, *parameters.values()], allow_unused=not sparse))
    torch.testing.assert_close(*inputs, rtol=0, atol=1e-8)
    for name, a, b in zip(("x", *parameters), *found, strict=True):
        if b is not None or name not in ("layer.system.omega", "layer.system.chi"):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("method", ["dprkn6", "dopri5", "prox_bdf3", "kvaerno5", "auto", "leapfrog"])
def test_methods_agree_on_a_heavy_ball(edges, x, method):
    exact = made(GraphHeavyBall, activation=None, mix=False)(x, edges)
    layer = made(GraphHeavyBall, activation=None, mix=False, solver=SolverSettings(method, 1e-5, 1e-5))
    t = torch.linspace(0, 3, 301 if method == "leapfrog" else 2)  # steps of a hundredth: errors of 1e-4
    torch.testing.assert_close(layer(x, edges, t)[-1], exact, rtol=0, atol=1e-2)


def test_without_coupling_nodes_are_damped_oscillators(x):
    """No edges and the identity as σ: x'' + γ x' + (ξ - 1) x = 0, from x and momentum x."""
    layer = GraphHeavyBall(
        6, gamma=0.4, xi=2.0, activation=None, mix=False, momentum=torch.nn.Identity(), t=(0.0, 3.0), solver=EXACT
    ).double()
    got = layer(x, torch.zeros(2, 0, dtype=torch.int64))
    omega = (1.0 - 0.2**2) ** 0.5
    cosine, sine = (torch.tensor(3.0 * omega).double().cos(), torch.tensor(3.0 * omega).double().sin())
    factor = torch.exp(torch.tensor(-0.6).double()) * (cosine + (1 + 0.2) / omega * sine)
    torch.testing.assert_close(got, factor * x, rtol=0, atol=1e-6)  # γ and ξ are held in float32


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("kind", [GraphDiffusion, GraphHeavyBall])
def test_nodes_in_another_order(edges, x, kind, nonlinear):
    layer, order = made(kind, nonlinear=nonlinear), torch.randperm(NODES, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    torch.testing.assert_close(layer(x[order], place[edges]), layer(x, edges)[order], rtol=0, atol=1e-9)


def test_second_derivatives(edges, x):
    """The norm of a gradient, through the discrete adjoint and by backpropagation."""
    found = []
    for gradient in ("discrete_adjoint", "backprop"):
        layer = made(GraphDiffusion, nonlinear=True, solver=SolverSettings("dopri5", 1e-6, 1e-6, gradient))
        start = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(start, edges).square().sum(), start, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [start, *layer.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_what_holds_a_graph_as_pytorch_geometric_does(edges, x):
    data, layer = SimpleNamespace(x=x, edge_index=edges), made(GraphDiffusion)
    path = layer(data.x, data.edge_index, torch.linspace(0, 3, 4))
    assert path.shape == (4, NODES, 6)
    prepared = Graph(edges.int(), NODES)
    torch.testing.assert_close(layer(data.x, prepared), path[-1], rtol=0, atol=1e-9)
    assert not prepared.state_dict() and not list(prepared.parameters())


@pytest.mark.parametrize("kind", [GraphDiffusion, GraphHeavyBall])
def test_mixed_precision(edges, x, kind):
    layer = made(kind, nonlinear=True, solver=SolverSettings(None, 1e-3, 1e-3)).float()
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x.float(), edges)
        got.square().mean().backward()
    assert got.dtype == torch.float32 and all(p.grad is not None for p in layer.parameters())
    torch.testing.assert_close(got, layer(x.float(), edges), rtol=0, atol=0.1)  # roundings of 0.004 in the attention


# errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edge_index, nodes, error, match",
    [
        (torch.zeros(2, 3), 2, TypeError, "edge_index must be a tensor of whole numbers"),
        ([[0], [1]], 2, TypeError, "edge_index must be a tensor of whole numbers.*list"),
        (torch.zeros(3, 2, dtype=torch.int64), 2, ValueError, r"edge_index must have shape \(2, E\)"),
        (torch.tensor([[0], [2]]), 2, ValueError, "edge_index must name nodes from 0 to 1, got 0 to 2"),
        (torch.zeros(2, 0, dtype=torch.int64), 0, ValueError, "nodes must be at least 1"),
    ],
)
def test_errors_of_a_graph(edge_index, nodes, error, match):
    with pytest.raises(error, match=match):
        Graph(edge_index, nodes)


def test_errors_of_layers(edges, x):
    with pytest.raises(ValueError, match="heads must be at least 1"):
        GraphDiffusion(6, heads=0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        GraphHeavyBall(0)
    with pytest.raises(ValueError, match="channels must be a multiple of heads=4, got 6"):
        GraphDiffusion(6, channels=6)
    with pytest.raises(ValueError, match="activation must be one of"):
        GraphHeavyBall(6, activation="sine")
    with pytest.raises(ValueError, match=r"source must be at least 0, got -1\.0"):
        GraphDiffusion(6, source=-1.0)
    layer = made(GraphDiffusion)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 6\), got \(12, 5\)"):
        layer(x[:, :5], edges)
    with pytest.raises(ValueError, match="x must have a row for each of the 12 nodes"):
        layer(x[:3], Graph(edges, NODES))
    with pytest.raises(ValueError, match=r"t must have shape \(T,\)"):
        layer(x, edges, torch.zeros(NODES, 2))
