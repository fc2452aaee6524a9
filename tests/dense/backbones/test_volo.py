"""VOLO: its attention, boxes, token labels, sizes of images, and weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import VOLO
from dense.backbones.volo import OutlookAttention, draw_box, swap_box, token_label_loss
from dense.classification.model import ImageClassifier
from dense.classification.sample import ImageDataSample
from dense.registry import ZOO

from ..noise import noisy

SMALL = {
    "embed_dims": (8, 12, 12, 12),
    "depths": (2, 1, 1, 1),
    "num_heads": (2, 3, 3, 3),
    "mlp_ratio": 2.0,
    "stem_dims": 4,
    "class_depth": 2,
    "img_size": 48,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(height=48, width=48, batch=2):
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------- attention


def test_windows_of_one_pixel_are_a_projection():
    attn = noisy(OutlookAttention(8, 2, kernel_size=1, padding=0, stride=1))
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(attn(x), attn.proj(attn.v(x)))


def test_weights_come_from_the_mean_of_what_a_cell_has():
    attn = noisy(OutlookAttention(8, 2))
    x = torch.randn(1, 5, 7, 8, dtype=torch.float64)
    weights = attn.weigh(x)
    assert weights.shape == (1, 3, 4, 2, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    for a, b, cell in ((0, 0, x[0, :2, :2]), (2, 3, x[0, 4:, 6:]), (1, 3, x[0, 2:4, 6:])):
        logits = attn.attn(cell.mean((0, 1))).unflatten(0, (2, 9, 9)) / 2  # heads are 4 wide
        torch.testing.assert_close(weights[0, a, b], logits.softmax(-1))


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 8, found 3"):
        OutlookAttention(8, 3)


# ------------------------------------------------------------------------------------ boxes and token labels


def test_boxes_lie_on_the_map():
    found = [draw_box(5, 9) for _ in range(300)]
    for top, bottom, left, right in found:
        assert 0 <= top <= bottom <= 5 and 0 <= left <= right <= 9
    areas = [(bottom - top) * (right - left) for top, bottom, left, right in found]
    assert min(areas) == 0 and max(areas) > 20


def test_swapping_a_box():
    x, box = torch.randn(3, 2, 4, 5), (1, 3, 2, 5)
    mixed = swap_box(x, box)
    assert torch.equal(mixed[0, :, 1:3, 2:5], x[2, :, 1:3, 2:5])
    assert torch.equal(mixed[:, :, 0], x[:, :, 0]) and torch.equal(mixed[1], x[1])
    assert torch.equal(swap_box(mixed, box), x)


def test_training_mixes_the_stem_and_restores_the_tokens(monkeypatch):
    """With stages and class blocks that change nothing, patches' logits are those of the unmixed images."""
    net = noisy(VOLO.create(SMALL, num_classes=5))
    for blocks in net.backbone.stages:
        for block in blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    x = images(batch=3)
    net.head.train()
    plain = net(x)[1]
    monkeypatch.setattr("dense.backbones.volo.draw_box", lambda height, width: (0, 2, 1, 3))
    net.backbone.training = True
    features, box = net.forward_features(x)
    logits, tokens, given = net(x)
    assert box == (0, 2, 1, 3) and given.tolist() == [0, 2, 1, 3]
    assert logits.shape == (3, 5) and tokens.shape == (3, 9, 5)
    torch.testing.assert_close(tokens, plain)
    net.backbone.training = False
    own = net.forward_features(x)
    positions = net.backbone.downsamples[1].pos_embed.permute(0, 3, 1, 2)
    torch.testing.assert_close(features - positions, swap_box(own - positions, box))


def test_evaluation_adds_half_the_largest_of_the_patches():
    net = noisy(VOLO.create(SMALL, num_classes=5))
    x = images()
    dense_logits = net(x)
    net.head.train()
    logits, tokens, box = net(x)
    assert box.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(dense_logits, logits + 0.5 * tokens.amax(1))


@pytest.mark.parametrize("output, tokens", [("class", 10), ("mean", 9)])
def test_other_outputs(output, tokens):
    net = noisy(VOLO.create(SMALL, num_classes=5, output=output))
    x = images()
    features = net.forward_features(x)
    found = net.head.norm(net.head.tokens(features))
    assert found.shape == (2, tokens, 12)
    vectors = found.mean(1) if output == "mean" else found[:, 0]
    torch.testing.assert_close(net(x), net.head.fc(vectors))
    assert isinstance(net.train()(x), torch.Tensor)
    names = {name.split(".")[1] for name, _ in net.named_parameters() if name.startswith("head.")}
    assert names == {"norm", "fc"} | ({"cls_token", "blocks"} if output == "class" else set())


def test_token_label_loss_by_hand():
    logits, tokens = torch.randn(3, 4), torch.randn(3, 6, 4)
    targets = torch.rand(3, 4, 8).softmax(1)
    box = (0, 2, 1, 3)  # 4 of 6 tokens

    def entropy(scores, wanted):
        return -(wanted * scores.log_softmax(-1)).sum(-1).mean()

    of_tokens = 0.5 * entropy(tokens, targets[..., 2:].mT)
    soft, true = targets[..., 1], targets[..., 0]
    image = soft / 3 + soft.flip(0) * 2 / 3
    found = token_label_loss(logits, tokens, box, targets)
    torch.testing.assert_close(found, entropy(logits, image) + of_tokens)

    share = torch.tensor(
        [0.5 if a == b else 0.9 for a, b in zip(soft.argmax(1), true.argmax(1), strict=True)]
    )
    mixed = share[:, None] * soft + (1 - share[:, None]) * true
    found = token_label_loss(logits, tokens, (0, 0, 0, 0), targets, ground_truth=True)
    torch.testing.assert_close(found, entropy(logits, mixed) + of_tokens)

    found = token_label_loss(logits, tokens, (0, 0, 0, 0), soft)
    torch.testing.assert_close(found, entropy(logits, soft) + 0.5 * entropy(tokens, soft[:, None]))
    with pytest.raises(ValueError, match=r"targets must be \(3, 4\) or \(3, 4, 8\), found \(3, 4, 7\)"):
        token_label_loss(logits, tokens, box, targets[..., 1:])


@pytest.mark.parametrize("output", ["dense", "class"])
def test_as_an_image_classifier(output):
    model = ImageClassifier(
        {"type": "VOLO", "arch": SMALL, "output": output}, num_classes=5, label_smoothing=0.1
    )
    samples = [ImageDataSample(gt_label=torch.tensor(label)) for label in (0, 3)]
    loss = model.train().loss(images().float(), samples)["loss"]
    loss.backward()
    assert loss.ndim == 0 and model.head.fc.weight.grad.abs().max() > 0
    if output == "dense":
        assert model.head.aux.fc.weight.grad.abs().max() > 0


# ------------------------------------------------------------------------------------ the whole network


@pytest.mark.parametrize("size", [(15, 15), (70, 49), (96, 48)])
def test_sizes(size):
    net = noisy(VOLO(SMALL))
    maps = net(images(*size))
    fine = [-(-side // 2) // 4 for side in size]
    coarse = [side // 2 for side in fine]
    assert [list(y.shape[1:]) for y in maps] == [[8, *fine], *[[12, *coarse]] * 3]
    assert all(y.isfinite().all() for y in maps)


def test_positions_are_resized_bicubically():
    downsample = VOLO(SMALL).downsamples[1]
    nn.init.zeros_(downsample.proj.weight), nn.init.zeros_(downsample.proj.bias)
    found = downsample(torch.zeros(1, 8, 10, 8))
    table = downsample.pos_embed.permute(0, 3, 1, 2)
    torch.testing.assert_close(found, F.interpolate(table, (5, 4), mode="bicubic"))


def test_published_drop_paths():
    for quirks, first in ((False, [0, 0.1]), (True, [0, 0])):
        net = VOLO(SMALL, drop_path_rate=0.4, reference_quirks=quirks)
        rates = [block.drop_path1.rate for blocks in net.stages for block in blocks]
        assert rates == pytest.approx([*first, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output": "token"}, r"output must be one of \('dense', 'class', 'mean'\), found 'token'"),
        ({"output": "class", "mix_token": True}, "mix_token wants output 'dense', found 'class'"),
        ({"arch": {**SMALL, "img_size": 8}}, "img_size must be at least 16, found 8"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        VOLO(**{"arch": SMALL, **options})


def test_small_images():
    with pytest.raises(ValueError, match="images must be at least 15 x 15, found 14 x 20"):
        VOLO(SMALL)(images(14, 20).float())


def published(arch, **options):
    """Weights under their published names."""
    with torch.device("meta"):
        state = VOLO.create(arch, **options).state_dict()
    found = {}
    for key, value in state.items():
        value = torch.zeros(value.shape, dtype=value.dtype)
        key = key.replace("backbone.downsamples.0.", "patch_embed.").replace("head.cls_token", "cls_token")
        key = key.replace("backbone.downsamples.1.pos_embed", "pos_embed")
        key = key.replace("backbone.downsamples.1.", "network.1.").replace("head.blocks", "post_network")
        for i in range(4):
            key = key.replace(f"backbone.stages.{i}.", f"network.{i + (i > 0)}.")
        for i in range(3):
            key = key.replace(f"patch_embed.convs.{i}.conv", f"patch_embed.conv.{3 * i}")
            key = key.replace(f"patch_embed.convs.{i}.norm", f"patch_embed.conv.{3 * i + 1}")
        key = key.replace("head.aux.fc", "aux_head").replace("head.norm", "norm").replace("head.fc", "head")
        if key.startswith("post_network") and ".qkv." in key:
            dims = len(value) // 3
            found[key.replace("qkv", "q")], found[key.replace("qkv", "kv")] = value.split((dims, 2 * dims))
        else:
            found[key] = value
    return found


@pytest.mark.parametrize("arch", ["d1", "d2", "d3_448", "d5_512"])
def test_identification(arch):
    found = ZOO.identify(published(arch))
    assert (found.name, found.options) == (f"volo_{arch}", {"num_classes": 1000})


@pytest.mark.parametrize("output", ["class", "mean"])
def test_identification_of_other_depths_sizes_and_parts(output):
    own = {**VOLO.archs["d1"], "depths": (1, 2, 1, 1), "img_size": (160, 96)}
    found = ZOO.identify(published(own, num_classes=7, output=output, qkv_bias=True))
    assert found.options == {"num_classes": 7, "output": output, "qkv_bias": True, "arch": own}


def test_two_maps_for_a_detector():
    trunk = dense.create_model("volo_d1", features_only=True, out_indices=(0, 3))
    assert trunk.feature_info.channels() == [192, 384] and trunk.feature_info.reduction() == [8, 16]
