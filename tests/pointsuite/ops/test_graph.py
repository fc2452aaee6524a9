import math
from inspect import signature

import pytest
import torch

from pointsuite.ops import graph

SIZES_X, SIZES_Y = [7, 0, 80, 1, 12], [3, 4, 20, 5, 0]  # examples without points, and too few for k


def batch_of(sizes):
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def points(count, dims=3, dtype=torch.float32, seed=0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


@pytest.fixture(params=[3, 2, 1, 8], ids="{}D".format)
def ragged(request):
    x, y = points(sum(SIZES_X), request.param), points(sum(SIZES_Y), request.param, seed=1)
    return x, y, batch_of(SIZES_X), batch_of(SIZES_Y)


def brute_force(x, y, k, batch_x=None, batch_y=None, limit=math.inf):
    """[(y index, x index)], by ascending y and (distance, x)."""
    batch_x = torch.zeros(len(x)).long() if batch_x is None else batch_x
    batch_y = torch.zeros(len(y)).long() if batch_y is None else batch_y
    distance = (y[:, None] - x).square().sum(-1)
    distance[(distance >= limit) | (batch_y[:, None] != batch_x)] = math.inf
    value, order = distance.sort(stable=True)
    value, order = value[:, :k], order[:, :k]
    rows = torch.arange(len(y))[:, None].expand_as(order)
    return list(zip(rows[value < math.inf].tolist(), order[value < math.inf].tolist(), strict=True))


def pairs(edge_index):
    assert edge_index.dtype == torch.int64 and edge_index.ndim == 2
    return list(map(tuple, edge_index.T.tolist()))


@pytest.mark.parametrize("k", [1, 9])
def test_knn(ragged, k):
    x, y, batch_x, batch_y = ragged
    assert pairs(graph.knn(x, y, k, batch_x, batch_y)) == brute_force(x, y, k, batch_x, batch_y)


def test_knn_of_the_documentation():
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    y = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert graph.knn(x, y, 2, torch.zeros(4).long(), torch.zeros(2).long()).tolist() == [
        [0, 0, 1, 1],
        [0, 1, 2, 3],
    ]
    assert graph.radius(x, y, 1.5).tolist() == [[0, 0, 1, 1], [0, 1, 2, 3]]
    assert graph.nearest(x, y).tolist() == [0, 0, 1, 1]
    assert graph.knn_graph(x, 2).tolist() == [[1, 2, 0, 3, 0, 3, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]]
    assert graph.radius_graph(x, 2.5).tolist() == [[1, 2, 0, 3, 0, 3, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]]
    assert graph.fps(x, ratio=0.5, random_start=False).tolist() == [0, 3]


def test_cosine_ignores_lengths():
    x, y = points(50), points(9, seed=1)
    unit = torch.nn.functional.normalize
    assert pairs(graph.knn(x * 3, y, 4, cosine=True)) == brute_force(unit(x * 3), unit(y), 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_dtypes(dtype):
    x = (10 * points(40)).to(dtype)
    wide = x if dtype == torch.float64 else x.float()
    assert pairs(graph.knn(x, x, 5)) == brute_force(wide, wide, 5)


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("loop", [False, True])
def test_knn_graph(ragged, loop, flow):
    x, _, batch, _ = ragged
    wanted = [(i, j) for i, j in brute_force(x, x, 4 + (not loop), batch, batch) if loop or i != j]
    found = graph.knn_graph(x, 4, batch, loop, flow)
    assert pairs(found.flip(0) if flow == "source_to_target" else found) == wanted


def test_copies_of_a_point_keep_the_number_of_neighbours():
    found = graph.knn_graph(torch.ones(6, 3), 2)
    assert found[1].bincount().tolist() == [2] * 6 and bool((found[0] != found[1]).all())
    found = graph.radius_graph(torch.ones(6, 3), 1.0, max_num_neighbors=3)
    assert found[1].bincount().tolist() == [3] * 6 and bool((found[0] != found[1]).all())


@pytest.mark.parametrize("most", [3, 32, None])
def test_radius(ragged, most):
    x, y, batch_x, batch_y = ragged
    wanted = brute_force(x, y, most, batch_x, batch_y, limit=1.4**2)
    assert pairs(graph.radius(x, y, 1.4, batch_x, batch_y, most)) == wanted
    wanted = [e for e in brute_force(x, x, most and most + 1, batch_x, batch_x, 1.4**2) if e[0] != e[1]]
    assert (
        pairs(graph.radius_graph(x, 1.4, batch_x, max_num_neighbors=most, flow="target_to_source")) == wanted
    )


def test_the_radius_itself_is_outside():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    assert graph.radius(x, x[:1], 1.0).tolist() == [[0], [0]]


def test_nearest():
    x, y = points(30), points(12, seed=1)
    batch_x, batch_y = batch_of([10, 0, 20]), batch_of([4, 2, 6])
    wanted = [j for _, j in brute_force(y, x, 1, batch_y, batch_x)]
    assert graph.nearest(x, y, batch_x, batch_y).tolist() == wanted
    with pytest.raises(ValueError, match=r"found none in that of x\[10\]"):
        graph.nearest(x, y, batch_x, batch_of([12]))


@pytest.mark.parametrize("ratio", [0.1, 0.34, 1.0, torch.tensor([1.0, 0.5, 0.01, 0.5, 0.3])])
def test_fps_of_each_cloud(ratio):
    x, batch = points(sum(SIZES_X)), batch_of(SIZES_X)
    found, first, wanted = graph.fps(x, batch, ratio, random_start=False), 0, []
    for example, size in enumerate(SIZES_X):
        share = ratio[example].item() if isinstance(ratio, torch.Tensor) else ratio
        cloud, chosen, nearest = x[first : first + size], [], torch.full((size,), torch.inf)
        for _ in range(math.ceil(round(share * size, 4))):
            chosen.append(int(nearest.argmax()) if chosen else 0)
            nearest = torch.minimum(nearest, (cloud - cloud[chosen[-1]]).square().sum(-1))
        wanted += [first + i for i in chosen]
        first += size
    assert found.tolist() == wanted


def test_fps_starts_at_random():
    torch.manual_seed(0)
    x, batch = points(60), batch_of([20, 40])
    runs = torch.stack([graph.fps(x, batch, 0.1) for _ in range(20)])
    assert runs.shape == (20, 6)
    assert bool((batch[runs] == batch_of([2, 4])).all())
    assert len(runs[:, 0].unique()) > 5 and len(runs[:, 2].unique()) > 5


def test_no_points_at_all():
    empty, batch = torch.zeros(0, 3), torch.zeros(0).long()
    assert graph.knn(empty, empty, 3, batch, batch).shape == (2, 0)
    assert graph.knn_graph(empty, 3).shape == graph.radius_graph(empty, 1.0).shape == (2, 0)
    assert graph.radius(empty, empty, 1.0, max_num_neighbors=None).shape == (2, 0)
    assert graph.fps(empty).shape == graph.nearest(empty, empty).shape == (0,)


def test_padding_at_most_doubles_what_is_held():
    sizes = torch.tensor([5] * 100 + [10_000] + [5] * 100)
    groups = list(graph._groups(sizes))
    assert torch.equal(torch.cat(groups), torch.arange(201))
    assert sum(len(g) * int(sizes[g].max()) for g in groups) <= 2 * sizes.sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: graph.knn(x, x, -1), "k must not be negative, found -1"),
        (lambda x: graph.knn_graph(x, -2), "k must not be negative, found -2"),
        (lambda x: graph.knn(x, x[:, :2].repeat(1, 4), 1), "one width and device"),
        (lambda x: graph.knn(x, x[:, :2], 1), r"one width and device, found \(4, 3\) on cpu and \(4, 2\)"),
        (lambda x: graph.knn(x, x, 1, torch.tensor([1, 0, 0, 0])), "batch_x must be ascending"),
        (
            lambda x: graph.knn(x, x, 1, None, torch.zeros(3).long()),
            r"batch_y must be integers of shape \(4,\)",
        ),
        (lambda x: graph.knn(x, x, 1, None, torch.zeros(4)), "batch_y must be integers"),
        (lambda x: graph.knn(x * math.nan, x, 1), r"x must be finite, found \[nan, nan, nan\] at point 0"),
        (lambda x: graph.knn(x.repeat(1, 3), x.repeat(1, 3) / 0, 1), "y must be finite"),
        (lambda x: graph.nearest(x, x * math.nan), "y must be finite"),
        (lambda x: graph.fps(x / 0), "x must be finite"),
        (lambda x: graph.knn(x + 1j, x, 1), "x must hold real numbers"),
        (lambda x: graph.knn(x.double() + 1e200, x, 1), r"x and y must lie between .* found 1e\+200"),
        (lambda x: graph.knn_graph(x, 1, flow="up"), "flow must be .* found 'up'"),
        (lambda x: graph.radius(x, x, -1), "r must not be negative, found -1.0"),
        (lambda x: graph.radius_graph(x, math.nan), "r must not be negative, found nan"),
        (lambda x: graph.radius(x, x, 1, max_num_neighbors=-1), "max_num_neighbors must not be negative"),
        (lambda x: graph.fps(x, ratio=1.5), r"ratio must lie in \(0, 1\], found 1.5"),
        (lambda x: graph.fps(), "wants points as x or as src, found none"),
        (lambda x: graph.fps(x, src=x), "found both"),
        (lambda x: graph.fps(x, ptr=[0, 5]), r"ptr must ascend from 0 to 4 points, found \[0, 5\]"),
        (lambda x: graph.fps(x, ptr=[0, 3, 2]), "ptr must ascend"),
        (lambda x: graph.fps(x, ptr=torch.zeros(2)), r"ptr must be integers \(B \+ 1,\)"),
        (
            lambda x: graph.fps(x, torch.tensor([0, 0, 1, 1]), ptr=[0, 1, 4]),
            "batch and ptr must say the same",
        ),
        (lambda x: graph.fps(x, torch.arange(4), torch.ones(3)), "found 3 for 4"),
        (lambda x: graph.knn(torch.zeros(4, 0), x, 1), r"x must hold real numbers of shape \(N, D >= 1\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 3))


class TestAgainstTorchCluster:
    """Without ties: the edges agree as sets, and as sequences where the order is fixed."""

    @pytest.fixture(autouse=True)
    def cluster(self):
        self.cluster = pytest.importorskip("torch_cluster")
        self.x, self.y = points(90), points(40, seed=1)
        self.of_x, self.of_y = batch_of([50, 3, 37]), batch_of([10, 10, 20])

    def same(self, name, *arguments, **options):
        theirs, ours = getattr(self.cluster, name), getattr(graph, name)
        found, wanted = ours(*arguments, **options), theirs(*arguments, **options)
        assert found.shape == wanted.shape
        assert sorted(pairs(found)) == sorted(pairs(wanted))

    @pytest.mark.parametrize("batched", [False, True])
    @pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
    @pytest.mark.parametrize("loop", [False, True])
    def test_graphs(self, batched, flow, loop):
        batch = self.of_x if batched else None
        self.same("knn_graph", self.x, 6, batch, loop=loop, flow=flow)
        self.same("radius_graph", self.x, 0.8, batch, loop=loop, flow=flow)

    def test_searches(self):
        for batch in ((None, None), (self.of_x, self.of_y)):
            self.same("knn", self.x, self.y, 5, *batch)
            self.same("radius", self.x, self.y, 0.9, *batch)
            assert torch.equal(
                graph.nearest(self.x, self.y, *batch), self.cluster.nearest(self.x, self.y, *batch)
            )
        self.same("knn", self.x[:, :2], self.y[:, :2], 5)
        self.same("knn", points(60, 9), points(20, 9, seed=1), 5)

    @pytest.mark.parametrize("r", [1.0, 2.0, 2**0.5])
    def test_points_at_the_radius(self, r):
        grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3)
        self.same("radius", grid, grid[:5], r, max_num_neighbors=64)

    @pytest.mark.parametrize("ratio", [0.1, 0.5, 1 / 3])
    def test_fps(self, ratio):
        for batch in (None, self.of_x):
            options = {"ratio": ratio, "random_start": False}
            assert torch.equal(
                graph.fps(self.x, batch, **options), self.cluster.fps(self.x, batch, **options)
            )


SEARCH = ("num_workers", "batch_size")
SIGNATURES = {  # argument names of PyTorch Geometric, then those that torch-cluster 1.6.3 has besides
    "knn": ("x", "y", "k", "batch_x", "batch_y", "cosine", *SEARCH),
    "knn_graph": ("x", "k", "batch", "loop", "flow", "cosine", *SEARCH),
    "radius": ("x", "y", "r", "batch_x", "batch_y", "max_num_neighbors", *SEARCH, "ignore_same_index"),
    "radius_graph": ("x", "r", "batch", "loop", "max_num_neighbors", "flow", *SEARCH),
    "nearest": ("x", "y", "batch_x", "batch_y"),
    "fps": ("x", "batch", "ratio", "random_start", "batch_size", "ptr", "src"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert tuple(signature(getattr(graph, name)).parameters) == SIGNATURES[name]
    pool = pytest.importorskip("torch_geometric.nn.pool")
    theirs = tuple(signature(getattr(pool, name)).parameters)
    assert SIGNATURES[name][: len(theirs)] == theirs


def test_fps_takes_the_calls_of_torch_cluster():
    x, batch = points(sum(SIZES_X)), batch_of(SIZES_X)
    ptr = [0, *torch.tensor(SIZES_X).cumsum(0).tolist()]
    wanted = graph.fps(x, batch, 0.3, False)
    for bounds in (ptr, torch.tensor(ptr), torch.tensor(ptr).int()):
        assert torch.equal(graph.fps(x, ratio=0.3, random_start=False, ptr=bounds), wanted)
    assert torch.equal(graph.fps(x, batch, 0.3, False, ptr=ptr), wanted)
    assert torch.equal(graph.fps(src=x, batch=batch, ratio=0.3, random_start=False, batch_size=9), wanted)
    assert torch.equal(graph.fps(x, ratio=None, random_start=False), graph.fps(x, random_start=False))
    assert len(graph.fps(x)) == 50 and len(graph.fps(x, ratio=1)) == 100
    assert graph.fps(x, ptr=[7, 17], ratio=1.0).sort().values.tolist() == list(range(7, 17))


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float32, 7), (torch.float64, 8)])
def test_the_share_of_fps_is_rounded_in_the_type_of_the_points(dtype, wanted):
    """0.07 * 100 is 7 in float32 and above 7 in float64; torch-cluster multiplies in the points' type."""
    assert len(graph.fps(points(100, dtype=dtype), ratio=0.07)) == wanted


@pytest.mark.parametrize("dims", [4, 6, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fps_in_more_than_three_dimensions(dims, dtype):
    x, batch = points(60, dims, dtype), batch_of([25, 0, 35])
    wanted = []
    for first, size, count in ((0, 25, 10), (25, 35, 14)):
        cloud, chosen = x[first : first + size].double(), [0]
        while len(chosen) < count:
            chosen.append(int(torch.cdist(cloud, cloud[chosen]).amin(1).argmax()))
        wanted += [first + i for i in chosen]
    assert graph.fps(x, batch, 0.4, random_start=False).tolist() == wanted


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("offset", [0, 2**24, 2**40, 2**62])
@pytest.mark.parametrize("spread", [2**5, 2**27, 2**31, 2**61])
def test_integers_are_exact(dims, offset, spread):
    """By Python's integers: neighbours, radius and farthest points, wherever float32 or int64 would round."""
    generator = torch.Generator().manual_seed(dims)
    x = offset + torch.randint(-spread, spread, (40, dims), generator=generator)
    x[1] = x[0] + 1
    rows = x.tolist()

    def squared(i, j):
        return sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))

    near = [sorted(range(40), key=lambda j: (squared(i, j), j))[:5] for i in range(40)]
    assert graph.knn(x, x, 5)[1].tolist() == sum(near, [])
    others = [sorted(set(range(40)) - {i}, key=lambda j: (squared(i, j), j))[0] for i in range(40)]
    assert graph.knn_graph(x, 1)[0].tolist() == others
    assert graph.nearest(x[:1] + 1, x).tolist() == [1]
    r = float(2 ** (spread.bit_length() - 1))
    wanted = [(i, j) for i in range(40) for j in range(40) if squared(i, j) < r**2]
    assert sorted(pairs(graph.radius(x, x, r, max_num_neighbors=None))) == wanted
    chosen, least = [0], [squared(0, j) for j in range(40)]
    while len(chosen) < 20:
        chosen.append(least.index(max(least)))
        least = [min(d, squared(chosen[-1], j)) for j, d in enumerate(least)]
    assert graph.fps(x, random_start=False).tolist() == chosen


def test_integers_of_every_type():
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool):
        x = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 1]]).to(dtype)
        assert graph.knn(x, x, 2)[1].tolist() == [0, 1, 1, 0, 2, 1]
    x = torch.tensor([[0, 0, 0], [255, 0, 0], [128, 0, 0]], dtype=torch.uint8)
    assert graph.knn(x, x[:1], 3)[1].tolist() == [0, 2, 1]  # as bytes, the square of 128 is 0


def test_what_float32_cannot_square_is_computed_in_float64():
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [6, 0, 0]])
    for scale in (1e30, 1e-30):
        assert graph.knn_graph(x * scale, 1)[0].tolist() == [1, 0, 1, 2]
        assert graph.radius(x * scale, x[:1] * scale, 2 * scale)[1].tolist() == [0, 1]
        assert graph.fps(x * scale, ratio=0.75, random_start=False).tolist() == [0, 3, 2]


@pytest.mark.parametrize("dims", [2, 7])
def test_no_radius_or_no_neighbours_is_no_edge(dims):
    x = points(6, dims)
    assert graph.radius(x, x, 0).shape == graph.radius_graph(x, 0.0, loop=True).shape == (2, 0)
    for loop in (False, True):
        assert graph.radius_graph(x, 9.0, loop=loop, max_num_neighbors=0).shape == (2, 0)
    assert graph.radius(x, x, 9.0, max_num_neighbors=0).shape == graph.knn(x, x, 0).shape == (2, 0)
    assert graph.knn_graph(x, 0).shape == (2, 0) and graph.knn_graph(x, 0, loop=True).shape == (2, 0)
    assert graph.radius(x, x, math.inf).shape == (2, 36)


@pytest.mark.parametrize("most", [2, 32, None])
def test_the_same_index_is_left_out_on_request(ragged, most):
    x, _, batch, _ = ragged
    found = graph.radius(x, x, 1.4, batch, batch, most, ignore_same_index=True)
    assert torch.equal(found, graph.radius_graph(x, 1.4, batch, False, most, flow="target_to_source"))
    assert bool((found[0] != found[1]).all()) and found.shape[1] > 0
    moved = graph.radius(x[1:], x, 1.4, batch[1:], batch, most, ignore_same_index=True)
    assert bool((moved[0] != moved[1]).all())


def test_sides_without_points():
    x, none = points(5), torch.zeros(0, 3)
    for empty in (none, torch.zeros(0), none.long(), none.double()):
        assert graph.knn(empty, x, 3).shape == graph.knn(x, empty, 3).shape == (2, 0)
        assert graph.radius(empty, x, 1.0).shape == graph.radius(x, empty, 1.0).shape == (2, 0)
        assert graph.nearest(empty, x).shape == graph.fps(empty).shape == (0,)
    assert graph.fps(none, ptr=[0, 0, 0]).shape == (0,)
    wide = torch.zeros(0, 9)
    assert graph.knn_graph(wide, 3).shape == graph.radius_graph(wide, 1.0).shape == (2, 0)
    assert graph.fps(wide).shape == graph.fps(wide.long()).shape == (0,)


def test_batches_of_any_integer_type():
    x, batch = points(9), batch_of([4, 5])
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(graph.knn_graph(x, 2, batch.to(dtype)), graph.knn_graph(x, 2, batch))
