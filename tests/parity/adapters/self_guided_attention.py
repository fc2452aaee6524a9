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
from dense.segmentation.networks.self_guided_attention import (
    ChannelAttention,
    PositionAttention,
    SemanticModule,
    attention_layer,
    attention_rules,
    core_rules,
    semantic_rules,
)
from pointsuite.engine.checkpoint import rename_keys

from ..adapt import Case, Pack

CONFIG = Path(__file__).parents[3] / "configs/self_guided_attention/self-guided-attention_x101_chaos.py"


def adapt(pack: Pack) -> Case:
    if not pack.has("resnext."):
        return operators(pack)
    pack.words.skip("text")  # "published network ..."; inputs tell whether it trains
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.in_channels = pack.shapes["resnext.layer0.0.weight"][1]
    cfg.decode_head.num_classes = pack.shapes["predict1.weight"][0]
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg)
    return (training if "y" in pack.inputs else evaluation)(model, model.convert_official(pack.weights))


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def evaluation(model: nn.Module, state: dict) -> Case:
    backbone, head = model.backbone, model.decode_head
    taps = {f"layer{i}": getattr(backbone, f"layer{i}") for i in range(1, 5)} | {"fuse1": head.fuse}
    for name, stage in (("1", head.first_stage), ("2", head.second_stage)):
        for kind, layers in (("pam", stage.position), ("cam", stage.channel), ("out", stage.project)):
            taps |= {f"{kind}{name}_{i + 1}": layer for i, layer in enumerate(layers)}
    for i in range(4):
        taps |= {f"{kind}{i + 1}": taps[f"{kind}1_{i + 1}"] for kind in ("pam", "cam")}
        taps |= {f"guided{i + 1}": taps[f"out1_{i + 1}"], f"refined{i + 1}": taps[f"out2_{i + 1}"]}
        taps[f"semantic_level{i + 1}"] = (head.first_stage, lambda y, *_, i=i: y[1][i].flatten())
    # Activations reach 1e4 and logits of attention 1e6: in float32 the gradient is what the processor's order
    # of sums makes of it, up to 2e-2 from one machine to the next. The pack's is 2.9e-3 from that of float64,
    # which is the same everywhere.
    tolerances = {"grad.x.of.logits": 4e-3}
    return Case(
        model,
        state,
        taps,
        lambda inputs: resize(model(inputs["x"]), inputs["x"]),
        double=True,
        tolerances=tolerances,
    )


def training(model: nn.Module, state: dict) -> Case:
    head, found = model.decode_head, {}

    def run(inputs):
        x = inputs["x"]
        for i, predict in enumerate(head.first_predict):

            def keep(module, args, y, i=i):
                found[f"predict{i + 1}"] = resize(y, x)

            predict.register_forward_hook(keep)
        samples = [SimpleNamespace(gt_sem_seg=PixelData(data=y[None])) for y in inputs["y"]]
        losses = head.loss(model.extract_feat(x), samples, {})
        entropy = losses["loss_ce"]
        guidance, reconstruction = losses["loss_guidance"], losses["loss_reconstruction"]
        parts = [entropy, guidance / head.guidance_weight, reconstruction / head.reconstruction_weight]
        return {"losses": torch.stack([*parts, entropy + guidance + reconstruction]), **found}

    return Case(model, state, run=run, train=True)


def operators(pack: Pack) -> Case:
    """The operators whose weights there are; the cores take `x`, the others `x2` of twice its channels."""
    channels = pack.words.get("channels") or pack.inputs["x"].shape[1]
    model = nn.ModuleDict(
        {
            "pam": attention_layer(channels, PositionAttention(channels)),
            "cam": attention_layer(channels, ChannelAttention()),
            "sem": SemanticModule(2 * channels),
            "pam_core": PositionAttention(channels),
            "cam_core": ChannelAttention(),
        }
    )
    for name in [name for name in model if not pack.has(f"{name}.")]:
        del model[name]
    rules = [rule for name in ("pam", "cam") for rule in attention_rules(name, name)]
    rules += [rule for name in ("pam_core", "cam_core") for rule in core_rules(name, name)]

    def run(inputs):
        found = {}
        for name, module in model.items():
            x = inputs["x" if name.endswith("core") else "x2"]
            found[name] = module(0.2 * x if name == "cam_core" else x)
        if "sem" in found:
            code, found["sem_decoded"] = found.pop("sem")
            found["sem_code"] = code.flatten()
        return found

    return Case(model, rename_keys(pack.weights, rules + semantic_rules("sem", "sem")), run=run, once=True)
