"""Sparsifiner: classifiers of DeiT's kind and single mask predictors."""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from dense.adaptation import Sparsifiner
from dense.adaptation.sparsifiner import MaskPredictor
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack, backbone_case

PREDICTOR = "blocks.0.attn.mask_predictor."


def adapt(pack: Pack) -> Case:
    return (network if pack.has("blocks.") else predictor)(pack)


def mask_options(pack: Pack, prefix: str) -> dict:
    words = pack.words
    tokens, rank = pack.shapes[prefix + "proj_n"]
    words.agree(num_tokens=tokens, share_inout_proj=not pack.has(prefix + "proj_back_n"))
    words.only("attn_score", "topk", "threshold")
    if "reduce_n_factor" in words and tokens // words["reduce_n_factor"] != rank:
        raise ValueError(f"word 'reduce_n_factor' does not make {rank} of {tokens}")
    topk = words.get("basis_coef_topk", None if "basis_coef_threshold" in words else 8)
    score = words.get("attn_score_threshold")
    return {
        "keep_rate": words.get("attn_keep_rate", 0.25),
        "basis_topk": topk,
        "basis_threshold": words.get("basis_threshold", 0.02),
        "coefficient_threshold": words.get("basis_coef_threshold", 0.0),
        "score_threshold": None if words.get("attn_score") == "topk" else score,
        "share_basis": not pack.has(prefix + "proj_back_n"),
    }


def network(pack: Pack) -> Case:
    words, depth = pack.words, pack.count(r"blocks\.(\d+)\.")
    dims, size = pack.shapes["cls_token"][-1], pack.inputs["x"].shape[-1]
    head_dims, narrow = pack.shapes[PREDICTOR + "proj_c_q.weight"][::-1]
    tokens, rank = pack.shapes[PREDICTOR + "proj_n"]
    words.agree(embed_dim=dims, depth=depth, num_heads=dims // head_dims, img_size=size)
    words.skip("module", "prune_attn_matrix_row")  # rows of tokens that are gone
    if "reduce_c_factor" in words and head_dims // words["reduce_c_factor"] != narrow:
        raise ValueError(f"word 'reduce_c_factor' does not make {narrow} of {head_dims}")
    lvvit = pack.has("patch_embed.conv1.")
    arch = {
        **Sparsifiner.archs["lvvit_small" if lvvit else "deit_small"],
        "embed_dims": dims,
        "depth": depth,
        "num_heads": dims // head_dims,
        "img_size": size,
        "reduce_n": words.get("reduce_n_factor", tokens // rank),
        "reduce_c": words.get("reduce_c_factor", head_dims // narrow),
        "mlp_ratio": pack.shapes["blocks.0.mlp.fc1.weight"][0] / dims,
        "qkv_bias": pack.has("blocks.0.attn.qkv.bias"),
    }
    pruned = words.get("token_pruning_layers", [])
    rates = words.get("token_keep_rate", [1] * depth)
    options = mask_options(pack, PREDICTOR)
    options |= {"pruning_blocks": pruned, "token_keep_rates": [rates[i] for i in pruned]}

    def taps(backbone: Sparsifiner) -> dict:
        return {f"block{i}": block.mlp for i, block in enumerate(backbone.blocks)}

    case = backbone_case(Sparsifiner, pack, arch, taps, options)
    case.taps = {**case.taps, "norm": case.model.backbone.norm}
    backbone, head = case.model.backbone, case.model.head
    keep = options["keep_rate"]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        masks, approximations, places = {}, {}, {}

        def note(index):
            def hook(module, args, mask):
                q, k, grid, *rest = args
                places[index] = rest[0] if rest else None
                masks[index] = q.new_ones(*q.shape[:3], q.shape[2]) if mask is None else mask.to(q.dtype)
                approximations[index] = module.approximate(q, k, grid, places[index])[0]

            return hook

        hooks = [
            block.attn.mask_predictor.register_forward_hook(note(i))
            for i, block in enumerate(backbone.blocks)
        ]
        features = backbone.forward_features(inputs["x"])
        for hook in hooks:
            hook.remove()
        sums, last = masks[depth - 1].sum(-1), places[depth - 1]
        alive = features.new_ones(len(features), tokens)
        if last is not None:  # rows of pruned tokens, which are gone here, have as many ones
            budget = min(ceil(keep * tokens), last.shape[1] - 1)
            sums = sums.new_full((*sums.shape[:2], tokens), budget).scatter(
                2, last[:, None].expand_as(sums), sums
            )
            sums[:, :, 0] = tokens  # the class token sees what is gone, as zeros
            alive = torch.zeros_like(alive).scatter(1, last, 1.0)
        final = features
        if pruned and pruned[-1] == depth - 1:
            count = ceil(rates[depth - 1] * (tokens - 1))
            alive = alive if count >= alive[:, 1:].sum(1).max() else alive_after(backbone, inputs["x"])
        return {
            "logits": head(final),
            "features": final[:, 1:],
            "mask0": masks[0],
            "approx0": approximations[0],
            "mask_rowsum_last": sums,
            "token_mask_last": alive[:, 1:],
        }

    case.run = run
    return case


def alive_after(backbone: Sparsifiner, x: Tensor) -> Tensor:
    """Which tokens are left after the last block: (B, N)."""
    *_, (tokens, _) = backbone.iterate_blocks(x)
    return (tokens != 0).any(-1).to(tokens.dtype)


def predictor(pack: Pack) -> Case:
    words, prefix = pack.words, "mask_predictor."
    tokens, rank = pack.shapes[prefix + "proj_n"]
    narrow, head_dims = pack.shapes[prefix + "proj_c_q.weight"]
    heads = words["num_heads"]
    words.skip("module")
    words.agree(dim=heads * head_dims)
    options = mask_options(pack, prefix)
    reduce_c = words.get("reduce_c_factor", head_dims // narrow)
    reduce_n = words.get("reduce_n_factor", tokens // rank)
    grid = (1, tokens - 1)
    model = MaskPredictor(grid, heads, head_dims, reduce_n=reduce_n, reduce_c=reduce_c, **options)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        q, k = inputs["q"], inputs["k"]
        approximation, coefficients = model.approximate(q, k, grid)
        mask = model(q, k, grid).to(q.dtype)
        return {"basis_coef": coefficients, "approx_attn": approximation, "attn_mask": F.pad(mask, (0, 0))}

    return Case(model, strip_prefix(pack.weights, prefix), run=run)
