"""RelationNet++: location embedding and attention against naive references."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from dense.detection.networks.relationnet2 import transformer as transformer_module
from dense.detection.networks.relationnet2.points import Keys
from dense.detection.networks.relationnet2.transformer import BVRTransformer, LocationEmbedding


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_embedding(embedding, x, y):
    """The published map of each head, whole, sampled by PyTorch: (B, heads, n) of offsets (B, n)."""
    (width, height), channels = embedding.base_size, embedding.proj.in_features
    rows, columns = (
        torch.arange(-(height // 2), height // 2 + 1, dtype=torch.float64),
        torch.arange(-(width // 2), width // 2 + 1, dtype=torch.float64),
    )
    encodings = torch.empty(len(rows), len(columns), channels, dtype=torch.float64)
    quarter = channels // 4
    for r in range(quarter):
        period = 1000 ** (4 * r / channels)
        for axis, z in enumerate((columns[None], rows[:, None])):
            encodings[..., 2 * axis * quarter + r] = (z / period).sin()
            encodings[..., (2 * axis + 1) * quarter + r] = (z / period).cos()
    maps = embedding.proj(encodings).permute(2, 0, 1)[None].expand(len(x), -1, -1, -1)
    quirks = embedding.reference_quirks
    reach = (width / 2, height / 2) if quirks else (width // 2, height // 2)
    grid = torch.stack((x / reach[0], y / reach[1]), -1)[:, None]
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=not quirks)[:, :, 0]
    return found.clamp(min=1e-6).log() if embedding.log_scale else found


def make_embedding(base_size=(10, 7), quirks=False, log_scale=True):
    embedding = LocationEmbedding(16, 4, base_size, log_scale, quirks).double()
    nn.init.normal_(embedding.proj.weight)
    nn.init.normal_(embedding.proj.bias)
    return embedding


@pytest.mark.parametrize("quirks", [False, True])
@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("base_size", [(10, 7), (2, 2), (5, 12)])
def test_location_embedding_against_naive(base_size, log_scale, quirks):
    embedding = make_embedding(base_size, quirks, log_scale)
    x, y = torch.randn(2, 3, 200, dtype=torch.float64) * 6  # some beyond the border
    torch.testing.assert_close(embedding(x, y), naive_embedding(embedding, x, y))


def test_quirk_stretches_offsets():
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    right, quirky = make_embedding(), make_embedding(quirks=True)
    quirky.load_state_dict(right.state_dict())
    found, stretched = right(x, 0 * x), quirky(x, 0 * x)
    torch.testing.assert_close(found[..., 0], stretched[..., 0])  # the centre
    assert not torch.allclose(found[..., 1], stretched[..., 1])
    torch.testing.assert_close(right(x * 11 / 10, 0 * x), stretched)  # even size: 11 cells for 10
    torch.testing.assert_close(right(0 * x, x), quirky(0 * x, x))  # odd: none
    # the centre is the map's value of encodings sin 0, cos 0
    encoding = torch.tensor([0.0] * 4 + [1.0] * 4, dtype=torch.float64).repeat(2)
    torch.testing.assert_close(found[0, :, 0], right.proj(encoding).clamp(min=1e-6).log())


def test_gradient_of_location_embedding():
    embedding = make_embedding(log_scale=False)
    x, y = (torch.randn(2, 1, 5, dtype=torch.float64) * 3).requires_grad_().unbind(0)
    assert torch.autograd.gradcheck(lambda x, y, *_: embedding(x, y), (x, y, *embedding.parameters()))
    embedding = make_embedding()
    assert torch.autograd.gradcheck(lambda x, y: embedding(x, y), (x, y))


def test_location_embedding_arguments():
    with pytest.raises(ValueError, match="multiple of 4, found 6"):
        LocationEmbedding(6, 2)
    with pytest.raises(ValueError, match=r"both 2 at least, found \(1, 8\)"):
        LocationEmbedding(8, 2, (1, 8))
    with pytest.raises(ValueError, match="multiple of num_heads 3, found 8"):
        BVRTransformer(8, 1, 3)


def make_transformer(groups=2, **kwargs):
    transformer = BVRTransformer(16, groups, 4, base_size=(10, 8), **kwargs).double()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return transformer


def make_keys(groups=2, count=7, channels=16):
    xy = torch.rand(groups, 2, count, 2, dtype=torch.float64) * 8 - 1
    features = torch.randn(groups, 2, count, channels, dtype=torch.float64)
    return [Keys(*group) for group in zip(xy, features, strict=True)]


def grid():
    x, y = torch.arange(4, dtype=torch.float64) * 2 + 1, torch.arange(3, dtype=torch.float64)[:, None] * 2 + 1
    return torch.randn(2, 3, 4, 16, dtype=torch.float64), x, y


def naive_attention(attention, queries, keys, bias):
    """PyTorch's module with the same weights: (B, n, C) and weights (B, heads, n, K)."""
    module = nn.MultiheadAttention(16, attention.num_heads, batch_first=True).double()
    state = {
        f"in_proj_{p}": torch.cat((attention.query.state_dict()[p], attention.key_value.state_dict()[p]))
        for p in ("weight", "bias")
    }
    state |= {f"out_proj.{p}": value for p, value in attention.out_proj.state_dict().items()}
    module.load_state_dict(state)
    options = {"attn_mask": bias.flatten(0, 1), "average_attn_weights": False}
    return module(queries, keys.features, keys.features, **options)


def naive_transformer(transformer, queries, x, y, groups):
    flat = queries.flatten(1, 2)
    place = torch.stack(torch.broadcast_tensors(x, y), -1).view(-1, 2)
    result, looks = flat, []
    for attention, keys in zip(transformer.decoder, groups, strict=True):
        offset = keys.xy[:, None] - place[:, None]  # (B, n, K, 2)
        bias = naive_embedding(transformer.embedding, *offset.flatten(1, 2).unbind(-1))
        bias = bias.unflatten(2, offset.shape[1:3])
        output, weights = naive_attention(attention, flat, keys, bias)
        result = result + output
        looks.append(torch.einsum("bnk,bnkd->bnd", weights.mean(1), offset))
    result = result.relu()
    if transformer.concat_position:
        looks = [layer(look) for layer, look in zip(transformer.position_layers, looks, strict=True)]
        result = transformer.fusion(torch.cat((result, *looks), -1)).relu()
    return result.view_as(queries)


@pytest.mark.parametrize("concat_position", [False, True])
@pytest.mark.parametrize("groups, quirks", [(1, False), (2, True)])
def test_transformer_against_naive(groups, quirks, concat_position, monkeypatch):
    transformer = make_transformer(groups, reference_quirks=quirks, concat_position=concat_position)
    queries, keys = grid(), make_keys(groups)
    wanted = naive_transformer(transformer, *queries, keys)
    torch.testing.assert_close(transformer(*queries, keys), wanted)
    with torch.no_grad():
        torch.testing.assert_close(transformer(*queries, keys), wanted)
        monkeypatch.setattr(transformer_module, "MOST_WEIGHTS", 1)  # one row at a time
        torch.testing.assert_close(transformer(*queries, keys), wanted)
        monkeypatch.setattr(transformer_module, "MOST_WEIGHTS", 2 * 2 * 4 * 4 * 7)  # 2 rows of 3
        torch.testing.assert_close(transformer(*queries, keys), wanted)


def test_transformer_of_single_queries(monkeypatch):
    transformer, keys = make_transformer(), make_keys()
    queries, x, y = grid()
    x, y = (z.flatten() for z in torch.broadcast_tensors(x, y))
    wanted = transformer(*grid_of(queries), keys).flatten(1, 2)
    torch.testing.assert_close(transformer(queries.flatten(1, 2), x, y, keys), wanted)
    monkeypatch.setattr(transformer_module, "MOST_WEIGHTS", 300)
    with torch.no_grad():
        torch.testing.assert_close(transformer(queries.flatten(1, 2), x, y, keys), wanted)


def grid_of(queries):
    _, x, y = grid()
    return queries, x, y


def test_invariances():
    transformer, keys = make_transformer(), make_keys()
    queries, x, y = grid()
    wanted = transformer(queries, x, y, keys)
    order = torch.randperm(7)
    shuffled = [Keys(group.xy[:, order], group.features[:, order]) for group in keys]
    torch.testing.assert_close(transformer(queries, x, y, shuffled), wanted)
    shift = torch.tensor([3.5, -20.25], dtype=torch.float64)
    shifted = [Keys(group.xy + shift, group.features) for group in keys]
    torch.testing.assert_close(transformer(queries, x + shift[0], y + shift[1], shifted), wanted)
    for attention in transformer.decoder:
        nn.init.zeros_(attention.out_proj.weight)
        nn.init.zeros_(attention.out_proj.bias)
    assert torch.equal(transformer(queries, x, y, keys), queries.relu())
    with pytest.raises(ValueError, match="wanted 2 groups of keys, found 1"):
        transformer(queries, x, y, keys[:1])


def test_gradient_of_transformer():
    transformer = make_transformer(1)
    nn.init.ones_(transformer.embedding.proj.bias)  # the logarithm is steep near 0
    nn.init.normal_(transformer.embedding.proj.weight, std=0.05)
    (keys,) = make_keys(1, count=2)
    x, y = torch.tensor([1.0, 3.0]).double(), torch.tensor([1.0]).double()
    queries = torch.randn(2, 2, 16).double()

    def function(queries, xy, features):
        return transformer(queries, x, y.expand(2), [Keys(xy, features)])

    inputs = [z.requires_grad_() for z in (queries, keys.xy, keys.features)]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
