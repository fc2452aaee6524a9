"""The position relation against its formula, written out."""

import pytest
import torch
from torch.nn import functional as F

from dense.ops import position_relation
from tests.dense.memory import LargestTensor

HEADS = 8


def boxes(count=11, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, count, 4, generator=generator, dtype=torch.float64).to(dtype)


def parameters(heads=HEADS, inputs=64, dtype=torch.float64):
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(heads, inputs, generator=generator, dtype=torch.float64) / 8
    return weight.to(dtype), torch.randn(heads, generator=generator, dtype=torch.float64).to(dtype) / 10


def encode(source, target, eps=1e-5):
    a, b = source[:, :, None], target[:, None]
    centre = (a[..., :2] - b[..., :2]).abs() / (a[..., 2:] + eps) + 1
    size = (a[..., 2:] + eps) / (b[..., 2:] + eps)
    return torch.cat([centre, size], -1).log()  # (B, N1, N2, 4)


def code(number, features, temperature=10000.0, scale=100.0):
    exponent = torch.arange(features // 2, dtype=number.dtype) * 2 / features
    angle = number[..., None] * scale / temperature**exponent
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)


def naive(source, target, weight, bias, eps=1e-5, **options):
    codes = code(encode(source, target, eps), weight.shape[1] // 4, **options)
    return F.linear(codes, weight, bias).relu().permute(0, 3, 1, 2)


@pytest.mark.parametrize("inputs", [8, 24, 64])
@pytest.mark.parametrize("options", [{}, {"temperature": 20.0, "scale": 3.0, "eps": 1e-2}])
def test_formula(inputs, options):
    source, target = boxes(), boxes(7, seed=1)
    weight, bias = parameters(3, inputs)
    found = position_relation(source, target, weight, bias, **options)
    assert found.shape == (2, 3, 11, 7)
    assert (found == 0).any() and (found > 0).any()
    torch.testing.assert_close(found, naive(source, target, weight, bias, **options))


def test_a_case_by_hand():
    """Equal sizes, a box's width apart: the angle of x is 100 log 2, all others are 0."""
    source, target = torch.tensor([[[0.3, 0.5, 0.2, 0.4]]]), torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    identity, bias = torch.eye(8, dtype=torch.float64), torch.ones(8)
    found = position_relation(source, target, identity, bias, eps=0).flatten() - 1
    angle = 100 * torch.tensor(2.0, dtype=torch.float64).log()
    wanted = torch.tensor([angle.sin(), angle.cos(), 0, 1, 0, 1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)  # the boxes are float32


def test_extreme_boxes_in_single_precision():
    """Empty boxes, boxes of invalid proposals, and boxes far apart: angles up to 1200."""
    source = torch.tensor([[[0.5, 0.5, 0, 0], [1, 1, 1, 1], [0, 0, 1e-4, 1], [0.1, 0.9, 0.3, 0.2]]])
    weight, bias = parameters()
    found = position_relation(source, source, weight.float(), bias.float())
    wanted = naive(source.double(), source.double(), weight, bias)
    torch.testing.assert_close(found.double(), wanted, atol=5e-4, rtol=0)


@pytest.mark.parametrize("pairs", [1, 7, 20, 10**6])
def test_pieces_change_nothing(pairs):
    source, target = boxes(), boxes(7, seed=1)
    weight, bias = (x.requires_grad_() for x in parameters())
    grad = torch.randn(2, HEADS, 11, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for count in (None, pairs):
        relation = position_relation(source, target, weight, bias, pairs=count)
        results.append([relation.detach(), *torch.autograd.grad(relation, (weight, bias), grad)])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-13, atol=1e-13)


def test_gradients():
    source, target = boxes(5), boxes(4, seed=1)
    weight, bias = (x.requires_grad_() for x in parameters(3, 16))
    torch.autograd.gradcheck(lambda w, b: position_relation(source, target, w, b, pairs=8), (weight, bias))


def test_gradients_equal_those_of_the_formula():
    source, target = boxes(), boxes(7, seed=1)
    weight, bias = (x.requires_grad_() for x in parameters())
    grad = torch.randn(2, HEADS, 11, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = torch.autograd.grad(naive(source, target, weight, bias), (weight, bias), grad)
    found = torch.autograd.grad(position_relation(source, target, weight, bias), (weight, bias), grad)
    torch.testing.assert_close(found, wanted)


def test_boxes_get_no_gradient():
    source, target = boxes().requires_grad_(), boxes(seed=1).requires_grad_()
    weight, bias = (x.requires_grad_() for x in parameters())
    position_relation(source, target, weight, bias).sum().backward()
    assert source.grad is None and target.grad is None
    assert weight.grad.any() and bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_computes_in_single(dtype):
    source, target = boxes(dtype=dtype), boxes(seed=1, dtype=dtype)
    weight, bias = parameters(dtype=dtype)
    found = position_relation(source, target, weight, bias)
    assert found.dtype == torch.float32
    wanted = naive(*(x.double() for x in (source, target, weight, bias)))
    torch.testing.assert_close(found.double(), wanted, atol=2e-4, rtol=0)


def test_autocast_leaves_it_alone():
    source, target = boxes(dtype=torch.float32), boxes(seed=1, dtype=torch.float32)
    weight, bias = (x.requires_grad_() for x in parameters(dtype=torch.float32))
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            relation = position_relation(source, target, weight, bias)
            results.append((relation.detach(), *torch.autograd.grad(relation.sum(), (weight, bias))))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_memory():
    """Nothing is as large as the codes of all pairs, on the way there or back."""
    source = boxes(64, 1, torch.float32)
    weight, bias = (x.requires_grad_() for x in parameters(dtype=torch.float32))
    with LargestTensor() as largest:
        position_relation(source, source, weight, bias, pairs=512).sum().backward()
    assert largest.numel == max(HEADS * 64 * 64, 32 * 512)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(rows, columns):
    weight, bias = (x.requires_grad_() for x in parameters())
    relation = position_relation(boxes(rows), boxes(columns), weight, bias)
    assert relation.shape == (2, HEADS, rows, columns)
    relation.sum().backward()
    assert not weight.grad.any() and not bias.grad.any()


def test_compiled():
    arguments = (boxes(), boxes(7, seed=1), *parameters())
    compiled = torch.compile(position_relation, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), position_relation(*arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.rand(3, 4)}, r"source must be floating \(B, N, 4\), found torch.float32 \(3, 4\)"),
        ({"target": torch.ones(2, 3, 4).long()}, r"target must be floating .* torch.int64 \(2, 3, 4\)"),
        ({"target": torch.rand(1, 3, 4)}, "of one batch, found 2 and 1"),
        ({"weight": torch.rand(8, 20)}, r"weight must be \(heads, a multiple of 8\), found \(8, 20\)"),
        ({"bias": torch.rand(3)}, r"bias must be \(8,\), found \(3,\)"),
    ],
)
def test_errors(change, message):
    arguments = {"source": boxes(), "target": boxes(), "weight": torch.rand(8, 64), "bias": torch.rand(8)}
    with pytest.raises(ValueError, match=message):
        position_relation(**{**arguments, **change})
