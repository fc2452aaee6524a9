import pytest
import torch

from dense.classification import ImageClassifier
from dense.classification.losses import AttentionDiversificationLoss


def attention(*shape):
    return (3 * torch.randn(*shape)).softmax(-1)


def test_an_image_alone_is_the_image_beside_others():
    loss, weights = AttentionDiversificationLoss(threshold=1), attention(3, 2, 9, 9)
    alone = torch.stack([loss([image[None]]) for image in weights])
    assert torch.allclose(alone.mean(), loss([weights])) and alone.std() > 0


def test_alike_rows_cost_most_and_uniform_ones_nothing():
    loss = AttentionDiversificationLoss()
    row = torch.zeros(1, 1, 8, 8)
    row[..., 2] = 1
    assert loss([row]) == pytest.approx(1, abs=1e-5)
    uniform = torch.full((1, 1, 8, 8), 1 / 8, requires_grad=True)
    value = loss([uniform])
    value.backward()
    assert value == 0 and not uniform.grad.any()
    weights = attention(2, 3, 9, 9)
    assert torch.allclose(loss([weights]), loss([weights[:, :, torch.randperm(9)]]))
    assert 0 <= loss([weights, weights[:, :, :4, :4]]) <= 1


def test_own_tokens_alone_cost_little():
    value = AttentionDiversificationLoss(threshold=0.5)([torch.eye(16)[None, None]])
    assert value == pytest.approx(0.25, abs=1e-4)  # cosine of a unit vector and the uniform one


def test_bad_requests():
    with pytest.raises(ValueError, match="threshold must not be negative, found -1"):
        AttentionDiversificationLoss(-1)
    with pytest.raises(ValueError, match="found no attention"):
        AttentionDiversificationLoss()([])


def make_classifier(**options):
    arch = {"embed_dims": (32,), "depths": (2,), "num_heads": (2,), "num_masked": 1, "mlp_ratio": 2.0}
    return ImageClassifier(
        {"type": "dense.RVT", "arch": arch, **options},
        num_classes=3,
        attention_loss={"type": "dense.AttentionDiversificationLoss", "threshold": 0.0},
    )


def test_in_a_classifier():
    model = make_classifier()
    sample = model.sample_class()
    sample.gt_label = torch.tensor(1)
    losses = model.loss(torch.randn(2, 3, 64, 64), [sample, sample])
    assert list(losses) == ["loss", "loss_attention"]
    losses["loss_attention"].backward()
    assert model.backbone.stages[0][1].attn.qkv.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="attention_loss needs the attention that with_cp computes anew"):
        make_classifier(with_cp=True)
