"""Operators and layers of PyTorch Geometric, which has no pyg-lib here."""

import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Optional

import pytest
import torch

import pointsuite  # noqa: F401  gives PyTorch Geometric its operators
from pointsuite.compat.pyg import OPERATORS, offer_operators
from pointsuite.datasets.examples import example_clouds
from pointsuite.datasets.pyg import PyGDataset
from pointsuite.ops import graph
from pointsuite.transforms import NormalizeUnitSphere, PackPoints
from pointsuite.transforms import SamplePoints as Sample

pytest.importorskip("torch_geometric")
from torch_geometric import nn as gnn
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import KNNGraph, RadiusGraph, SamplePoints
from torch_geometric.utils import to_undirected

pytestmark = pytest.mark.skipif(find_spec("pyg_lib") is not None, reason="pyg-lib has the operators")

SIZES = [30, 12, 50]


def clouds(dims=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(SIZES), dims, generator=generator)
    return x, torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))


@pytest.mark.parametrize("dims", [2, 3, 7])
def test_operators_are_ours(dims):
    x, batch = clouds(dims)
    y, of_y = x[::3].contiguous() + 0.1, batch[::3].contiguous()
    wanted = graph.knn(x, y, 4, batch, of_y)
    assert torch.equal(gnn.knn(x, y, 4, batch, of_y), wanted) and wanted.shape == (2, 4 * len(y))
    assert torch.equal(gnn.knn_graph(x, 4, batch), graph.knn_graph(x, 4, batch))
    assert torch.equal(gnn.knn_graph(x, 4), graph.knn_graph(x, 4))
    assert torch.equal(gnn.radius(x, y, 0.9, batch, of_y), graph.radius(x, y, 0.9, batch, of_y))
    assert torch.equal(gnn.radius_graph(x, 0.9, batch), graph.radius_graph(x, 0.9, batch))
    assert torch.equal(gnn.nearest(x, y, batch, of_y), graph.nearest(x, y, batch, of_y))
    assert torch.equal(
        gnn.fps(x, batch, 0.3, random_start=False), graph.fps(x, batch, 0.3, random_start=False)
    )


def test_all_neighbours_within_a_radius():
    x, batch = clouds()
    many = gnn.radius(x, x, 10.0, batch, batch, max_num_neighbors=None)
    assert many.shape[1] == sum(size * size for size in SIZES)


def test_voxels():
    """Hand-counted: 3 x 2 voxels of side 5; with a batch, another layer of them for each example."""
    pos = torch.tensor([[0.0, 0], [12, 7], [3, 9], [1, 1], [9, 4]])
    batch = torch.tensor([0, 0, 0, 1, 1])
    assert gnn.voxel_grid(pos, 5).tolist() == [0, 5, 3, 0, 1]
    assert gnn.voxel_grid(pos, 5, batch).tolist() == [0, 5, 3, 6, 7]
    # from -1 to 19 there are 5 x 4 of them
    assert gnn.voxel_grid(pos, [5.0, 5.0], batch, start=-1.0, end=[19, 14]).tolist() == [0, 7, 10, 20, 27]


def test_points_outside_a_grid_share_no_voxel():
    pos = torch.tensor([[-6.0, 0], [-1, 0], [0, 0], [11, 0], [-6, 5], [11, 5], [-1, 5]])
    assert len(gnn.voxel_grid(pos, 5, start=0.0, end=4.0).unique()) == len(pos)


def test_bad_input():
    x, batch = clouds()
    with pytest.raises(ValueError, match="size must be positive in every dimension"):
        gnn.voxel_grid(x, 0.0, batch)
    x[40, 1] = float("nan")
    for call in (
        lambda: gnn.knn_graph(x, 3, batch),
        lambda: gnn.fps(x, batch, 0.5),
        lambda: gnn.voxel_grid(x, 1.0),
    ):
        with pytest.raises(ValueError, match="x must be finite, found .* at point 40"):
            call()
    with pytest.raises(ValueError, match="ptr_x must ascend from 0 to 92 points"):
        torch.ops.pyg.knn(x, x, torch.tensor([0, 50]), None, 3, False, 1)


def test_batch_vectors():
    """Strided ones are taken right, and those that do not ascend refused: PyG makes wrong bounds of both."""
    x, batch = clouds()
    strided = torch.stack([batch, batch], 1)[:, 0]
    assert not strided.is_contiguous()
    assert torch.equal(gnn.knn_graph(x, 3, strided), graph.knn_graph(x, 3, batch))
    for call in (
        lambda: gnn.knn_graph(x, 3, batch.flip(0)),
        lambda: gnn.radius(x, x, 0.5, batch, batch.flip(0)),
        lambda: gnn.fps(x, batch.flip(0)),
        lambda: gnn.nearest(x, x, batch.flip(0), batch),
    ):
        with pytest.raises(ValueError, match=r"batch must be ascending, found \[2, 2, 2"):
            call()


LAYERS = pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda: gnn.DynamicEdgeConv(torch.nn.Linear(6, 4), 5), lambda x, batch: (x, batch)),
        (lambda: gnn.XConv(3, 4, 3, 5, hidden_channels=2), lambda x, batch: (x, x, batch)),
        (lambda: gnn.GravNetConv(3, 4, 2, 3, 5), lambda x, batch: (x, batch)),
    ],
    ids=["DynamicEdgeConv", "XConv", "GravNetConv"],
)


@LAYERS
def test_layers_that_search_neighbours(make, arguments):
    """An example alone equals it among others, and the layer's parameters get gradients."""
    x, batch = clouds()
    layer = make().eval()
    whole = layer(*arguments(x, batch))
    alone = layer(*arguments(x[30:42], torch.zeros(12, dtype=torch.long)))
    torch.testing.assert_close(whole[30:42], alone)
    whole.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters() if p.ndim > 1)


@LAYERS
def test_layers_take_batch_vectors_right(make, arguments):
    x, batch = clouds()
    layer = make().eval()
    strided = torch.stack([batch, batch], 1)[:, 0]
    assert torch.equal(layer(*arguments(x, strided)), layer(*arguments(x, batch)))
    with pytest.raises(ValueError, match=r"batch must be ascending, found \[2, 2, 2"):
        layer(*arguments(x, batch.flip(0)))


@LAYERS
def test_scripted_layers(make, arguments):
    x, batch = clouds()
    layer = make().eval()
    scripted = torch.jit.script(layer)
    for of in (batch, None):
        torch.testing.assert_close(scripted(*arguments(x, of)), layer(*arguments(x, of)))
    with pytest.raises(torch.jit.Error, match="batch must be ascending"):
        scripted(*arguments(x, batch.flip(0)))


class Graphs(torch.nn.Module):
    def forward(self, x: torch.Tensor, batch: Optional[torch.Tensor] = None):  # noqa: UP045  TorchScript's
        first = gnn.fps(x, batch, random_start=False)
        return (
            gnn.radius_graph(x, 0.9, batch),
            gnn.knn_graph(x, 3, batch),
            gnn.nearest(x, x, batch, batch),
            first,
        )


def test_scripted_graphs():
    x, batch = clouds()
    network = Graphs()
    scripted = torch.jit.script(network)
    for of in (batch, None):
        assert all(map(torch.equal, scripted(x, of), network(x, of)))


def test_transforms_and_interpolation():
    x, batch = clouds()
    assert KNNGraph(6)(Data(pos=x)).edge_index.shape[1] == 6 * len(x)
    assert torch.equal(
        RadiusGraph(0.8, max_num_neighbors=100)(Data(pos=x)).edge_index.sort().values,
        graph.radius_graph(x, 0.8, max_num_neighbors=100).sort().values,
    )
    coarse = gnn.fps(x, batch, 0.25, random_start=False)
    # where a fine point is a coarse one, its value comes back
    back = gnn.knn_interpolate(x[coarse], x[coarse], x, batch[coarse], batch, k=3)
    torch.testing.assert_close(back[coarse], x[coarse], rtol=1e-3, atol=1e-3)


def test_graclus():
    """A path of heavy and light edges, whose every greedy matching takes the heavy ones; a loner; a loop."""
    path = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 4]])
    edges, weight = torch.cat([path, path.flip(0)], 1), torch.tensor([9.0, 1, 9, 1, 9, 100]).repeat(2)
    for _ in range(5):
        assert gnn.graclus(edges, weight, num_nodes=7).tolist() == [0, 0, 2, 2, 4, 4, 6]
    x, batch = clouds()
    edges = to_undirected(graph.knn_graph(x, 4, batch))
    torch.manual_seed(0)
    pairs = gnn.graclus(edges, num_nodes=len(x))
    torch.manual_seed(0)
    assert torch.equal(gnn.graclus(edges, num_nodes=len(x)), pairs)
    assert pairs.bincount().max() == 2 and torch.equal(pairs[pairs], pairs)  # the smaller number names both
    linked = {frozenset(edge) for edge in edges.T.tolist()}
    assert all(node == pair or {node, pair} in linked for node, pair in enumerate(pairs.tolist()))
    alone = pairs.bincount(minlength=len(x))[pairs] == 1
    assert not alone[edges].all(0).any()  # nothing more can be paired
    with pytest.raises(ValueError, match="weight must be 12 finite numbers"):
        gnn.graclus(edges[:, :12], torch.full((12,), float("nan")), num_nodes=len(x))


def test_compiled():
    x, batch = clouds()
    compiled = torch.compile(lambda x: gnn.knn_graph(x, 3) + 1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), graph.knn_graph(x, 3) + 1)


class SetAbstraction(torch.nn.Module):
    """PointNet++'s, as PyTorch Geometric's examples put it together."""

    def __init__(self, ratio, r, channels):
        super().__init__()
        self.ratio, self.r = ratio, r
        self.conv = gnn.PointNetConv(gnn.MLP(channels), add_self_loops=False)

    def forward(self, x, pos, batch):
        index = gnn.fps(pos, batch, ratio=self.ratio)
        row, column = gnn.radius(pos, pos[index], self.r, batch, batch[index], max_num_neighbors=64)
        of_centres = None if x is None else x[index]
        x = self.conv((x, of_centres), (pos, pos[index]), torch.stack([column, row]))
        return x, pos[index], batch[index]


class PointNet2(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = SetAbstraction(0.5, 0.4, [3, 16, 32])
        self.second = SetAbstraction(0.5, 0.8, [32 + 3, 32, 64])
        self.head = gnn.MLP([64, 32, 2], norm=None)

    def forward(self, data):
        x, pos, batch = self.second(*self.first(None, data.pos, data.batch))
        return self.head(gnn.global_max_pool(x, batch))


class DGCNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = gnn.DynamicEdgeConv(gnn.MLP([6, 32, 32]), 8)
        self.second = gnn.DynamicEdgeConv(gnn.MLP([64, 32]), 8)
        self.head = gnn.MLP([32, 32, 2], norm=None)

    def forward(self, data):
        x = self.second(self.first(data.pos, data.batch), data.batch)
        return self.head(gnn.global_max_pool(x, data.batch))


@pytest.mark.parametrize("network", [PointNet2, DGCNN])
def test_examples_of_pyg_train(network):
    """Flat clouds from round ones."""
    torch.manual_seed(0)
    pos = example_clouds(8, 64)[..., :3]
    pos[::2, :, 2] *= 0.1
    data = Batch.from_data_list([Data(pos=cloud, y=torch.tensor([i % 2])) for i, cloud in enumerate(pos)])
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(data), data.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_meshes_of_pyg_feed_our_pipeline():
    """As GeometricShapes and ModelNet give them: meshes, sampled by PyTorch Geometric."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 0, 0, 1], [1, 2, 3, 2], [2, 3, 1, 3]])
    sample = SamplePoints(64, include_normals=True)
    data = [sample(Data(pos=corners * scale, face=faces, y=torch.tensor([0]))) for scale in (1, 2)]
    dataset = PyGDataset(data, [Sample(32), NormalizeUnitSphere(), PackPoints()], classes=["tetrahedron"])
    item = dataset[1]
    assert item["inputs"].shape == (32, 6) and item["data_samples"].gt_label.item() == 0


def test_what_pyg_lib_brings_stays():
    there = SimpleNamespace(**dict.fromkeys(OPERATORS.values(), True))
    offer_operators(there)
    assert all(vars(there).values())
    old = SimpleNamespace(WITH_TORCH_CLUSTER=False)  # PyTorch Geometric before 2.8
    offer_operators(old)
    assert vars(old) == {"WITH_TORCH_CLUSTER": False}


def test_nothing_happens_until_pyg_is_imported():
    code = (
        "import sys, pointsuite; assert not {'torch', 'torch_geometric'} & set(sys.modules)\n"
        "import torch_geometric.typing as t; print(t.WITH_KNN, t.WITH_GRID_CLUSTER, t.WITH_PYG_LIB)"
    )
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
    assert found.split() == ["True", "True", "False"]
