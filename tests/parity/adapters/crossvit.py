"""CrossViT: classifiers and single multi-scale stages."""

from dense.backbones import CrossViT

from ..adapt import Case, Pack, backbone_case


def adapt(pack: Pack) -> Case:
    return (network if pack.has("patch_embed.") else stage)(pack)


def network(pack: Pack) -> Case:
    shapes, words = pack.shapes, pack.words
    words.skip("op", "variant")
    tables = [shapes[f"pos_embed.{b}"] for b in range(2)]
    multi_conv = pack.has("patch_embed.0.proj.0.")
    patches = words.get("patch_size", [12, 16])
    if not multi_conv:
        patches = [shapes[f"patch_embed.{b}.proj.weight"][-1] for b in range(2)]
    words.agree(patch_size=patches)
    sizes = [round((rows - 1) ** 0.5) * patch for (_, rows, _), patch in zip(tables, patches, strict=True)]
    words.agree(embed_dim=[dims for *_, dims in tables], img_size=sizes)
    arch = {
        **encoders(pack, [f"blocks.{s}." for s in range(pack.count(r"blocks\.(\d+)\."))]),
        "patch_size": tuple(patches),
        "img_size": tuple(sizes),
        "multi_conv": multi_conv,
    }

    def taps(backbone):
        found = {}
        for b, (branch, name) in enumerate(zip(backbone.branches, ("small", "large"), strict=True)):
            found[f"embed{b}"] = branch.patch_embed
            found[f"norm{b}"] = branch.norm
            for s, blocks in enumerate(branch.blocks):
                found[f"s{s}_{name}_branch"] = blocks
            for s, fusion in enumerate(backbone.fusions):
                found[f"s{s}_proj{b}"] = fusion.projs[b]
                found[f"s{s}_fusion{b}"] = fusion.cross[b]
                found[f"s{s}_revert{b}"] = fusion.backs[b]
        return found

    return backbone_case(CrossViT, pack, arch, taps, {**options(pack), "reference_quirks": True})


def stage(pack: Pack) -> Case:
    """The tokens of both branches to the same."""
    pack.words.skip("op")
    arch = {**CrossViT.archs["tiny"], **encoders(pack, [""])}
    pack.words.agree(dim=list(arch["embed_dims"]))
    model = CrossViT(arch, class_output=True, **options(pack))
    state = CrossViT.convert_official({f"blocks.0.{key}": value for key, value in pack.weights.items()})
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    unused = r"branches\.\d\.(cls_token|pos_embed|patch_embed\..*|norm\..*)"
    return Case(
        model,
        state,
        run=lambda inputs: model.run_stage(0, tuple(inputs.values()), [None] * 2),
        constant=unused,
    )


def encoders(pack: Pack, stages: list[str]) -> dict:
    """What the weights of stages, whose keys start so, show of the branches."""
    words, shapes = pack.words, pack.shapes
    depths = []
    for start in stages:
        of_branches = pack.depths(start + "blocks.{}.")
        explicit = pack.count(f"{start}fusion.0.".replace(".", r"\.") + r"(\d+)\.")
        depths.append((*of_branches, explicit))
    words.agree(depth=[list(d) for d in depths] if pack.has("patch_embed.") else list(depths[0]))
    hidden = [shapes[f"{stages[0]}blocks.{b}.0.mlp.fc1.weight"] for b in range(2)]
    ratios = [rows / dims for rows, dims in hidden]
    named = words.get("mlp_ratio", ratios)[:2]  # a third one is unused
    if [int(d * ratio) for (_, d), ratio in zip(hidden, named, strict=True)] != [rows for rows, _ in hidden]:
        raise ValueError(f"word 'mlp_ratio' is {named}, but the pack shows {ratios}")
    dims = tuple(d for _, d in hidden)
    return {
        "embed_dims": dims,
        "depths": tuple(depths),
        "num_heads": tuple(words.get("num_heads", [dims[0] // 32] * 2)),  # as all variants have
        "mlp_ratios": tuple(ratios),
    }


def options(pack: Pack) -> dict:
    biased = any(key.endswith("attn.qkv.bias") for key in pack.shapes)
    pack.words.agree(qkv_bias=biased)
    return {"qkv_bias": biased, "norm_eps": pack.words.get("ln_eps", 1e-6)}
