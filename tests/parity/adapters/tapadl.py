"""TAP and ADL: RVT and FAN classifiers, the pooling and the loss alone."""

import torch

from dense.backbones import FAN, RVT
from dense.classification.losses import AttentionDiversificationLoss
from dense.layers import TokenAwarePooling, record_attention
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    if pack.has("transformers."):
        return rvt(pack)
    if pack.has("blocks."):
        return fan(pack)
    return pooling(pack) if pack.weights else loss(pack)


def rvt(pack: Pack) -> Case:
    words, blocks = pack.words, "transformers.{}.blocks."
    depths = pack.depths(blocks)
    dims = [pack.shapes[f"{blocks.format(i)}0.norm1.weight"][0] for i in range(len(depths))]
    masks = [shape for key, shape in pack.shapes.items() if key.endswith("att_mask")]
    words.skip("model")
    words.agree(use_mask=bool(masks), img_size=pack.inputs["x"].shape[-1])
    if masks:
        words.agree(masked_block=len(masks))
    words.get("masked_block")
    depth = words.get("depth", depths)
    if depth not in (depths, sum(depths)):
        raise ValueError(f"word 'depth' is {depth}, but the pack shows {depths}")
    width = 32 if "tiny" in words.get("model", "") else 64
    if "base_dims" in words:
        heads = [d // base for d, base in zip(dims, words["base_dims"], strict=True)]
        words.agree(heads=heads)
    else:
        heads = words.get("heads", words.get("num_heads", [d // width for d in dims]))
    heads = [heads] if isinstance(heads, int) else list(heads)
    words.agree(embed_dim=dims[0] if len(dims) == 1 else dims)
    arch = {**RVT.archs["tiny"], "embed_dims": dims, "depths": depths, "num_heads": heads}
    arch["num_masked"] = len(masks)

    def taps(backbone):
        found = {"stem": backbone.downsamples[0], "block0": backbone.stages[0][0].mlp}
        found |= {f"stage{i + 1}": stage[-1] for i, stage in enumerate(backbone.stages)}
        return found | ({"pool": backbone.downsamples[1]} if len(dims) > 1 else {})

    options = {"num_scales": scales(pack), "reference_quirks": True}
    case = backbone_case(RVT, pack, arch, taps, options)
    case.taps = {**case.taps, "norm": case.model.head.norm}
    return with_attention(case, case.model.backbone.stages[-1][-1])


def fan(pack: Pack) -> Case:
    words = pack.words
    name = words.get("model", "")
    dims = pack.shapes["norm.weight"][0]
    depth = pack.count(r"blocks\.(\d+)\.")
    heads = pack.shapes["blocks.0.mlp.temperature"][0]
    words.skip("model")
    words.agree(embed_dim=dims, depth=depth, num_heads=heads, img_size=pack.inputs["x"].shape[-1])
    hybrid = pack.has("patch_embed.backbone.")
    if name and hybrid != ("hybrid" in name):
        raise ValueError(f"word 'model' is {name!r}, but the pack's stem says otherwise")
    arch = {**FAN.archs["tiny_12_p16"], "embed_dims": dims, "depth": depth, "num_heads": heads}
    arch["stem"] = "hybrid" if hybrid else "conv"

    def taps(backbone):
        grid = (pack.inputs["x"].shape[2] // 16, pack.inputs["x"].shape[3] // 16)
        as_map = lambda y, *_: y.mT.unflatten(2, grid)  # noqa: E731
        found = {f"block{i}": (block, as_map) for i, block in enumerate(backbone.blocks)}
        found["block0_attn"] = backbone.blocks[0].attn
        if hybrid:
            found["backbone"] = backbone.patch_embed.proj.stages[-1]
        return found

    case = backbone_case(FAN, pack, arch, taps, {"num_scales": scales(pack), "reference_quirks": True})
    model = case.model
    case.taps = {**case.taps, **{f"cls{i}": block for i, block in enumerate(model.head.blocks)}}
    return with_attention(case, model.backbone.blocks[-1])


def scales(pack: Pack) -> int | None:
    found = [
        shape[0] for key, shape in pack.shapes.items() if key.endswith("dilation_predictor.proj.0.weight")
    ]
    pack.words.agree(num_scales=found[0] if found else pack.words.get("num_scales"))
    return found[0] if found else None


def with_attention(case: Case, block: torch.nn.Module) -> Case:
    """The same, with the attention weights of a block among the outputs."""

    def run(inputs):
        with record_attention(block) as found:
            logits = case.model(inputs["x"])
        return {"logits": logits, "attn_last": next(iter(found.values()))[0]}

    case.run = run
    return case


def pooling(pack: Pack) -> Case:
    words = pack.words
    words.skip("operator")
    words.only("layout", "NCHW", "NHWC")
    last = words.get("layout", "NCHW") == "NHWC"
    count, channels = pack.shapes["predictor.proj.0.weight"][:2]
    words.agree(dim=channels, num_scales=count)
    model = TokenAwarePooling(channels, count)

    def run(inputs):
        x = inputs["x"].permute(0, 3, 1, 2) if last else inputs["x"]
        y = model(x)
        weights = model.weights(x).permute(0, 2, 3, 1)[:, None]
        return {"pooled": y.permute(0, 2, 3, 1) if last else y, "weights": weights}

    return Case(model, strip_prefix(pack.weights, "predictor."), run=run)


def loss(pack: Pack) -> Case:
    pack.words.skip("operator")
    model = AttentionDiversificationLoss(pack.words.get("threshold", 2))

    def run(inputs):
        attention = (inputs["scores"] + 2 * inputs["columns"]).softmax(-1)
        return {"loss": 1000 * model(list(attention))[None]}

    return Case(model, run=run)
