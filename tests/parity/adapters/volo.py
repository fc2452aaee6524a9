"""VOLO: classifiers, single blocks and attentions."""

from collections.abc import Callable

from torch import Tensor, nn

from dense.backbones import VOLO
from dense.backbones.vit import Block
from dense.backbones.volo import EPS, ClassBlock, OutlookAttention
from dense.layers import MLP, ClassAttention, SelfAttention
from dense.layers.attention import join_qkv

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else operator)(pack)


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    words.skip("op", "variant")
    stages = (0, 2, 3, 4)
    depths = [pack.count(rf"network\.{i}\.(\d+)\.") for i in stages]
    dims = [shapes[f"network.{i}.0.norm1.weight"][0] for i in stages]
    hidden = shapes["network.0.0.mlp.fc1.weight"][0]
    grid = shapes["pos_embed"][1:3]
    name, first = words.get("variant", ""), shapes["network.0.0.attn.attn.weight"][0] // 81
    known = [spec for spec in VOLO.archs.values() if list(spec["embed_dims"]) == dims]
    heads = known[0]["num_heads"] if known else [first, *(d // 32 for d in dims[1:])]
    named = words.get("num_heads", list(heads))
    heads = [named] * 4 if isinstance(named, int) else named
    if heads[0] != first:
        raise ValueError(f"the first stage of {name!r} has {heads[0]} heads, but the pack shows {first}")
    words.agree(img_size=pack.inputs["x"].shape[-1])
    arch = {
        "embed_dims": dims,
        "depths": depths,
        "num_heads": heads,
        "mlp_ratio": hidden / dims[0],
        "stem_dims": shapes["patch_embed.conv.0.weight"][0],
        "class_depth": pack.count(r"post_network\.(\d+)\."),
        "img_size": tuple(16 * side for side in grid),
    }
    for layer, value in (("kernel_size", 3), ("padding", 1), ("stride", 2)):
        words.only(layer, value)
    biased = pack.has("network.0.0.attn.v.bias")
    words.agree(qkv_bias=biased, return_dense=pack.has("aux_head."))
    words.skip("mix_token")  # of training
    output = "dense" if pack.has("aux_head.") else "class" if pack.has("cls_token") else "mean"

    def taps(backbone):
        first, second, third, last = (stage[-1] for stage in backbone.stages)
        return {
            "stem": backbone.downsamples[0],
            "stage1_outlooker": first,
            "down": backbone.downsamples[1].proj,
            "stage2a": second,
            "stage2b": third,
            "stage2c": last,
        }

    options = {"output": output, "qkv_bias": biased, "reference_quirks": True}
    case = backbone_case(VOLO, pack, arch, taps, options)
    head = case.model.head
    case.taps = {**case.taps, **{f"class_block{i}": block for i, block in enumerate(head.blocks)}}
    if "aux_logits" in pack.facts:

        def run(inputs):
            tokens = head.norm(head.tokens(case.model.forward_features(inputs["x"])))
            return {"cls_logits": head.fc(tokens[:, 0]), "aux_logits": head.aux.fc(tokens[:, 1:])}

        case.run = run
    return case


def operator(pack: Pack) -> Case:
    """A block has "mlp." and its attention at "attn."; an attention has the same keys without."""
    words, shapes, block = pack.words, pack.shapes, pack.has("mlp.")
    words.skip("op")
    start = "attn." if block else ""
    channels = shapes[f"{start}proj.weight"][0]
    words.agree(dim=channels)
    layer = next(name for name in ("v", "qkv", "kv") if pack.has(f"{start}{name}.weight"))
    biased = pack.has(f"{start}{layer}.bias")
    words.agree(qkv_bias=biased)
    if layer == "v":
        model = outlook(pack, start, channels, biased)
    elif layer == "qkv":
        model = SelfAttention(channels, words["num_heads"], qkv_bias=biased)
    else:
        model = ClassAttention(channels, words["num_heads"], qkv_bias=biased)
    state = pack.weights if layer != "kv" else join_qkv(pack.weights, ("q", "kv"))
    if block:
        hidden = shapes["mlp.fc1.weight"][0]
        if layer == "kv":
            model = ClassBlock(channels, words["num_heads"], hidden, biased)
        else:
            model = Block(channels, model, MLP(channels, hidden), norm_eps=EPS)
    return Case(model, state, run=of_maps(pack, model))


def outlook(pack: Pack, start: str, channels: int, biased: bool) -> OutlookAttention:
    words = pack.words
    size, rows = words.get("kernel_size", 3), pack.shapes[f"{start}attn.weight"][0]
    heads = words.get("num_heads", rows // size**4)
    if heads * size**4 != rows:
        raise ValueError(f"{heads} heads and a kernel of {size} give {heads * size**4} logits, found {rows}")
    padding, stride = words.get("padding", 1), words.get("stride", 2 if start else 1)
    return OutlookAttention(channels, heads, size, padding, stride, biased)


def of_maps(pack: Pack, model: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
    """Maps come as (B, H, W, C) or (B, C, H, W); tokens (B, N, C) as they are."""
    layout = pack.words.get("layout", "BHWC")
    pack.words.only("layout", "BHWC", "BCHW", "BNC")

    def run(inputs):
        (x,) = inputs.values()
        if x.ndim == 3:
            of_map = isinstance(getattr(model, "attn", model), SelfAttention)
            return model(x[:, None])[:, 0] if of_map else model(x)
        if layout == "BCHW":
            return model(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return model(x)

    return run
