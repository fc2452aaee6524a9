import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import nn
from torch.nn import functional as F

from dense.registry import MODELS, ZOO
from dense.segmentation.networks import self_guided_attention
from dense.segmentation.networks.self_guided_attention import (
    ChannelAttention,
    GuidedStage,
    PositionAttention,
    SelfGuidedAttention,
    SelfGuidedHead,
    SemanticModule,
    initialise,
)
from pointsuite.engine.checkpoint import CheckpointError

ROOT = Path(__file__).parents[4]
CONFIG = ROOT / "configs/self_guided_attention/self-guided-attention_x101_chaos.py"
PACK = ROOT / "tests/parity/packs/self_guided_attention/daf_stack.json"


def awaken(module):
    """Switch the attentions on."""
    for part in module.modules():
        if hasattr(part, "gamma"):
            nn.init.constant_(part.gamma, 0.7)
    return module


def build(cfg):
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(cfg)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return awaken(SelfGuidedHead([8, 12, 16], channels=16, num_classes=3)).eval()


def features(batch=2, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = zip((8, 12, 16), (size, size // 2, size // 4), strict=True)
    return [torch.randn(batch, c, s, s, generator=generator) for c, s in sizes]


# --------------------------------------------------------------------------------------------- attentions


@pytest.mark.parametrize("core", [PositionAttention(16), ChannelAttention()], ids=["position", "channel"])
def test_attention_starts_as_the_identity(core):
    x = torch.randn(2, 16, 6, 8)
    assert torch.equal(core(x), x)


def test_position_attention_equals_the_written_out_one():
    torch.manual_seed(0)
    core = awaken(PositionAttention(16)).double()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    q, k, v = (conv(x).flatten(2) for conv in (core.query, core.key, core.value))
    weights = torch.einsum("bcn,bcm->bnm", q, k).softmax(-1)  # rows sum to 1
    wanted = 0.7 * torch.einsum("bnm,bcm->bcn", weights, v).view(x.shape) + x
    torch.testing.assert_close(core(x), wanted)
    order = torch.randperm(35)
    permuted = core(x.flatten(2)[..., order].view(x.shape)).flatten(2)
    torch.testing.assert_close(permuted, wanted.flatten(2)[..., order])


@pytest.mark.parametrize("size", [2, 1000])
def test_attention_by_rows_has_the_written_out_gradients(monkeypatch, size):
    """Whole numbers, whose products are exact; those of 1000 reach millions, and every key is there twice."""
    monkeypatch.setattr(self_guided_attention, "ROWS_TIMES_KEYS", 7 * 40)  # 7 rows at a time
    torch.manual_seed(0)
    q, k = (torch.randint(-size, size, (2, n, 8)).float() for n in (33, 20))
    k = torch.cat((k, k), 1)
    v = torch.randn(2, 40, 16)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    probe = torch.randn(2, 33, 16)
    wanted = torch.autograd.grad(((q @ k.mT).softmax(-1) @ v * probe).sum(), (q, k, v))
    found = torch.autograd.grad((self_guided_attention.attend(q, k, v) * probe).sum(), (q, k, v))
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, atol=1e-5 * size, rtol=1e-4)
    with torch.no_grad():
        found = self_guided_attention.attend(q, k, v)
        torch.testing.assert_close(found, (q @ k.mT).softmax(-1) @ v)


def test_channel_attention_equals_the_written_out_one():
    core = awaken(ChannelAttention()).double()
    x = 0.3 * torch.randn(2, 16, 5, 7, dtype=torch.float64)
    rows = x.flatten(2)
    energy = rows @ rows.mT
    weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
    wanted = 0.7 * (weights @ rows).view(x.shape) + x
    torch.testing.assert_close(core(x), wanted)
    positions, channels = torch.randperm(35), torch.randperm(16)
    permuted = core(rows[..., positions].view(x.shape)).flatten(2)
    torch.testing.assert_close(permuted, wanted.flatten(2)[..., positions])
    torch.testing.assert_close(core(x[:, channels]), wanted[:, channels])


def test_channel_attention_keeps_its_products_in_float32():
    core = awaken(ChannelAttention())
    x = torch.randn(1, 8, 40, 40).bfloat16()
    x[:, 1] = x[:, 0] + 2**-6  # two channels whose products differ by less than bfloat16 resolves
    wanted = core.double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = core.float()(x)
    torch.testing.assert_close(found.double(), wanted, atol=0.05, rtol=0.05)


# ------------------------------------------------------------------------------------------------ modules


@pytest.mark.parametrize(
    "size", [(8, 12), (6, 10)]
)  # (6, 10): the inner map is odd, what is decoded is resized
def test_semantic_module(size):
    module = SemanticModule(4)
    code, decoded = module(torch.randn(2, 4, *size))
    assert code.shape == (2, 16, size[0] // 4, size[1] // 4) and decoded.shape == (2, 4, *size)


@pytest.mark.parametrize("size", [(7, 8), (8, 9), (2, 8)])
def test_semantic_module_refuses_odd_sides(size):
    with pytest.raises(ValueError, match=rf"even sides of 4 or more, found {size[0]} x {size[1]}"):
        SemanticModule(4)(torch.randn(1, 4, *size))


def test_scales_are_batched_in_evaluation_and_apart_in_training():
    torch.manual_seed(0)
    stage = GuidedStage(8, 3)
    maps = [torch.randn(2, 16, 8, 8) + i for i in range(3)]
    stage.train()(maps)  # statistics
    stage.eval()
    codes, decoded = stage._encode(maps)
    for i, x in enumerate(maps):
        code, y = stage.semantic(x)
        torch.testing.assert_close(codes[i], code)
        torch.testing.assert_close(decoded[i], y)
    alone = copy.deepcopy(stage.semantic).train()
    stage.train()(maps)
    for x in maps[::-1]:  # the coarsest first
        alone(x)
    for name, value in stage.semantic.named_buffers():
        torch.testing.assert_close(alone.get_buffer(name), value, msg=name)


# --------------------------------------------------------------------------------------------------- head


def test_prediction_is_the_mean_of_the_second_stage(head):
    x = features()
    maps = head.guide(x)
    wanted = sum(p(r) for p, r in zip(head.second_predict, maps.refined, strict=True)) / 3
    torch.testing.assert_close(head(x), wanted)
    assert wanted.shape == (2, 3, 16, 16)


@torch.no_grad()
def test_a_sample_alone_equals_it_in_a_batch(head):
    x = features(4)
    whole = head(x)
    for i in range(4):
        torch.testing.assert_close(head([m[i : i + 1] for m in x]), whole[i : i + 1], atol=1e-4, rtol=1e-4)


def samples(batch=2, size=64):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (batch, 1, size, size), generator=generator)
    labels[:, :, :3] = 255
    return labels[:, 0], [SimpleNamespace(gt_sem_seg=PixelData(data=y)) for y in labels]


def test_losses_are_the_published_sum(head):
    x, (labels, data) = features(), samples()
    losses = head.loss(x, data, {})
    maps = head.guide(x)
    predictions = [p(m) for p, m in zip(head.first_predict, maps.reduced, strict=True)]
    predictions += [p(m) for p, m in zip(head.second_predict, maps.refined, strict=True)]
    entropy = 0
    for logits in predictions:
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        entropy += F.cross_entropy(logits, labels, ignore_index=255, reduction="sum") / labels.numel()
    torch.testing.assert_close(losses["loss_ce"], entropy)
    guidance = sum((a - b).square().mean() for a, b in zip(maps.first_codes, maps.second_codes, strict=True))
    torch.testing.assert_close(losses["loss_guidance"], 0.25 * guidance)
    given, decoded = maps.first + maps.second, maps.first_decoded + maps.second_decoded
    reconstruction = sum((a - b).square().mean() for a, b in zip(given, decoded, strict=True))
    torch.testing.assert_close(losses["loss_reconstruction"], 0.1 * reconstruction)


def test_every_parameter_gets_a_gradient(head):
    losses = head.train().loss(features(), samples()[1], {})
    sum(value for name, value in losses.items() if "loss" in name).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # batch statistics take out what the biases before them add
        assert parameter.grad.abs().max() > 0 or name.endswith("conv.bias"), name


def test_weights_start_as_published():
    torch.manual_seed(0)
    head = SelfGuidedHead([64, 64], channels=64, num_classes=5)
    weight = head.fuse[0].conv.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9 + 128 * 9)) ** 0.5, rel=0.02)
    scales = torch.cat([m.weight for m in head.modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.01) and 0.015 < scales.std().item() < 0.025


# ---------------------------------------------------------------------------------------------- segmentor


def test_published_network():
    with torch.device("meta"):
        model = build(Config.fromfile(CONFIG).model)
    assert sum(p.numel() for p in model.parameters()) == 104_511_475 - 955_412
    assert SelfGuidedAttention.num_parameters == {"x101": 104_511_475 - 955_412}
    assert sum(p.numel() for p in model.backbone.parameters()) == 86_736_064
    pack = json.loads(PACK.read_text())
    published = {key: torch.empty(shape, device="meta") for key, shape, _ in pack["state_dict"]}
    converted = model.convert_official(published)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == wanted
    with pytest.raises(CheckpointError, match=r"1 keys that no rule names: down5\.0\.weight"):
        model.convert_official({"down5.0.weight": torch.empty(1)})


@pytest.mark.parametrize(("classes", "channels"), [(5, 1), (2, 3)])
def test_published_files_are_identified(classes, channels):
    pack = json.loads(PACK.read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in pack["state_dict"]}
    for key in [key for key in state if key.startswith("predict")]:
        state[key] = state[key].new_empty(classes, *state[key].shape[1:])
    state["resnext.layer0.0.weight"] = torch.empty(64, channels, 7, 7, device="meta")
    found = ZOO.identify(state)
    assert found.name == "self_guided_attention_x101"
    assert found.options == ({} if classes == 5 else {"num_classes": 2, "backbone.in_channels": 3})


@pytest.mark.parametrize("overwrite", [False, True])
def test_xavier_over_backbone(overwrite):
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone = {
        "type": "ResNet",
        "depth": 18,
        "in_channels": 1,
        "norm_cfg": {"type": "BN"},
        "init_cfg": {"type": "Constant", "layer": "Conv2d", "val": 0.5},  # stands for pretrained weights
    }
    cfg.decode_head.in_channels, cfg.decode_head.channels = [64, 128, 256, 512], 8
    model = build({**cfg, "xavier_over_backbone": overwrite})
    model.init_weights()
    kept = (model.backbone.conv1.weight == 0.5).all().item()
    assert kept is not overwrite
    assert not (model.decode_head.fuse[0].conv.weight == 0.5).any()


def test_initialise_reaches_transposed_convolutions():
    module = SemanticModule(4)
    before = module.decoder1[4].weight.clone()
    initialise(module)
    assert not torch.equal(module.decoder1[4].weight, before)
