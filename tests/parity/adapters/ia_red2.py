"""IA-RED2: classifiers of DeiT's kind and single interpreters."""

from torch import Tensor, nn

from dense.adaptation import IARED2
from dense.adaptation.ia_red2 import Interpreter
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("blocks.") else interpreter)(pack)


def network(pack: Pack) -> Case:
    words = pack.words
    depth, dims = pack.count(r"blocks\.(\d+)\."), pack.shapes["cls_token"][-1]
    size = pack.inputs["x"].shape[-1]
    words.agree(depth=depth, embed_dim=dims, img_size=size, qkv_bias=pack.has("blocks.0.attn.qkv.bias"))
    count = pack.count(r"groups\.(\d+)\.")
    groups = words.get("group_size", [pack.count(rf"groups\.{i}\.block_list\.(\d+)\.") for i in range(count)])
    arch = {
        **IARED2.archs["deit_small"],
        "embed_dims": dims,
        "depth": depth,
        "num_heads": words["num_heads"],
        "img_size": size,
        "patch_size": pack.shapes["patch_embed.proj.weight"][-1],
        "groups": tuple(groups),
        "interpreter_heads": words.get("interpreter_heads", 6),
    }
    options = {"threshold": words.get("threshold", 0.5), "qkv_bias": pack.has("blocks.0.attn.qkv.bias")}

    def taps(backbone: IARED2) -> dict[str, nn.Module]:
        ends = [sum(groups[: i + 1]) - 1 for i in range(len(groups))]
        return {f"group{i}": backbone.blocks[end] for i, end in enumerate(ends)}

    case = backbone_case(IARED2, pack, arch, taps, options)
    backbone, head = case.model.backbone, case.model.head

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        backbone.drop_tokens = False  # hooks keep the first outputs, which are published with masks
        masked, _ = backbone.decide(inputs["x"])
        backbone.drop_tokens = True
        tokens, policy = backbone.decide(inputs["x"])
        logits = head(tokens)
        assert (logits - head(masked)).abs().max() < 1e-4 * logits.abs().max()
        found = {"logits": logits, "flops_ratio": backbone.cost(policy)}
        return found | {f"probs{i}": p for i, p in enumerate(policy.probabilities)}

    case.run = run
    return case


def interpreter(pack: Pack) -> Case:
    words, channels = pack.words, pack.shapes["agent.qk.weight"][1]
    words.skip("module")
    words.agree(dim=channels, qkv_bias=pack.has("agent.qk.bias"))
    heads = words.get("num_heads", words.get("interpreter_heads", 6))
    model = Interpreter(channels, heads)
    state = strip_prefix(pack.weights, "agent.")

    def run(inputs: dict[str, Tensor]) -> Tensor:
        policy = inputs.get("policy")
        return model(inputs["x"], None if policy is None else policy.bool())

    return Case(model, state, run=run)
