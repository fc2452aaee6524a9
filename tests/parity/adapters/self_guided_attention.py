"""Self-guided attention: the network in evaluation and in training, and single operators."""

from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import nn
from torch.nn import functional as F

from dense.registry import MODELS
from dense.segmentation.self_guided_attention import (
    ChannelAttention,
    PositionAttention,
    SemanticModule,
    attention_layer,
    attention_rules,
    core_rules,
    semantic_rules,
)
from pointsuite.engine.checkpoint import rename_keys

SOURCE = "sinAshish/Multi-Scale-Attention"
CONFIG = Path(__file__).parents[3] / "configs/self_guided_attention/self-guided-attention_x101_chaos.py"


def outputs(pack, weights, inputs):
    if pack["name"].startswith("op_"):
        return operators(pack, weights, inputs)
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.in_channels = weights["resnext.layer0.0.weight"].shape[1]
    cfg.decode_head.num_classes = weights["predict1.weight"].shape[0]
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg)
    load(model, model.convert_official(weights))
    if "y" in inputs:
        return training(model.train(), inputs)
    # Activations reach 1e4 and logits of attention 1e6: the pack's gradient, of float32, is 2.9e-3 from that
    # of float64, and the order in which threads share sums moves it as far. One thread has but one order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return evaluation(pack, model.eval(), inputs["x"])
    finally:
        torch.set_num_threads(threads)


def load(model, state):
    """The packs leave the counters of batch norms out."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)


def evaluation(pack, model, x):
    head, x = model.decode_head, x.requires_grad_()
    taps = {}

    def tap(name, module, change=lambda y: y):
        module.register_forward_hook(lambda _, __, y: taps.__setitem__(f"tap.{name}", change(y)))

    tap("layer1", model.backbone.layer1)
    tap("layer4", model.backbone.layer4)
    tap("fuse1", head.fuse)
    tap("semantic_level4", head.first_stage, lambda y: y[1][3].flatten())
    tap("pam4", head.first_stage.position[3])
    tap("cam4", head.first_stage.channel[3])
    tap("guided4", head.first_stage.project[3])
    tap("refined1", head.second_stage.project[0])
    logits = F.interpolate(model(x), x.shape[2:], mode="bilinear", align_corners=False)
    (grad,) = torch.autograd.grad((logits * pack["probe"](logits.shape)).sum(), x)
    return {"logits": logits, "grad.x.of.logits": grad, **taps}


def training(model, inputs):
    x, head = inputs["x"], model.decode_head
    features = model.extract_feat(x)
    samples = [SimpleNamespace(gt_sem_seg=PixelData(data=y[None])) for y in inputs["y"]]
    predictions = {}
    for i, predict in enumerate(head.first_predict):
        predict.register_forward_hook(
            lambda _, __, y, i=i: predictions.__setitem__(
                f"predict{i + 1}", F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=False)
            )
        )
    losses = head.loss(features, samples, {})
    entropy = losses["loss_ce"]
    guidance, reconstruction = losses["loss_guidance"], losses["loss_reconstruction"]
    parts = [entropy, guidance / head.guidance_weight, reconstruction / head.reconstruction_weight]
    return {"losses": torch.stack([*parts, entropy + guidance + reconstruction]), **predictions}


def operators(pack, weights, inputs):
    channels = pack["build"]["channels"]
    model = nn.ModuleDict(
        {
            "pam": attention_layer(channels, PositionAttention(channels)),
            "cam": attention_layer(channels, ChannelAttention()),
            "sem": SemanticModule(2 * channels),
            "pam_core": PositionAttention(channels),
            "cam_core": ChannelAttention(),
        }
    )
    rules = [rule for name in ("pam", "cam") for rule in attention_rules(name, name)]
    rules += [rule for name in ("pam_core", "cam_core") for rule in core_rules(name, name)]
    load(model, rename_keys(weights, rules + semantic_rules("sem", "sem")))
    model.eval()
    x, x2 = inputs["x"], inputs["x2"].requires_grad_()
    pam = model["pam"](x2)
    (grad,) = torch.autograd.grad((pam * pack["probe"](pam.shape)).sum(), x2)
    code, decoded = model["sem"](x2)
    return {
        "pam": pam,
        "grad.x2.of.pam": grad,
        "cam": model["cam"](x2),
        "sem_code": code.flatten(),
        "sem_decoded": decoded,
        "pam_core": model["pam_core"](x),
        "cam_core": model["cam_core"](0.2 * x),
    }
