"""Lightning attention: the operator, its norm, the example's attention and language models."""

import torch
from torch import Tensor

from dense.layers import RMSNorm
from dense.ops import head_slopes, lightning_attention
from dense.sequence.networks.transnormer import ExampleAttention, TransNormer

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    if pack.has("model.embed_tokens."):
        return language_model(pack)
    if pack.has("q_proj."):
        return example(pack)
    return (operator if "q" in pack.inputs else norm)(pack)


def operator(pack: Pack) -> Case:
    words, heads = pack.words, pack.inputs["q"].shape[1]
    words.agree(heads=heads)
    decays = "without decay" not in words["operator"]
    slopes = words.get("slopes", head_slopes(heads).tolist() if decays else [0.0] * heads)
    slopes = torch.tensor(slopes).flatten()

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        y, _ = lightning_attention(inputs["q"], inputs["k"], inputs["v"], slopes)
        return [y]

    return Case(run=run, once=True)


def norm(pack: Pack) -> Case:
    pack.words.skip("operator")
    width = pack.inputs["x"].shape[-1]
    return Case(RMSNorm(width, pack.words.get("eps", 1e-6), elementwise_affine=False))


def example(pack: Pack) -> Case:
    words = pack.words
    words.skip("module")
    dims, bias = pack.shapes["q_proj.weight"][0], pack.has("q_proj.bias")
    heads = dims // pack.shapes["output_gate.0.weight"][0]
    words.agree(embed_dim=dims, num_heads=heads, bias=bias)
    return Case(
        ExampleAttention(dims, heads, words["layer_idx"], words["num_layers"], bias=bias), pack.weights
    )


def language_model(pack: Pack) -> Case:
    words = pack.words
    depth = pack.count(r"model\.layers\.(\d+)\.")
    first = "model.layers.0."
    vocab_size, dims = pack.shapes["model.embed_tokens.weight"]
    hidden = pack.shapes[f"{first}token_mixer.out_proj.weight"][1]
    glu_dims, bias = (
        pack.shapes[f"{first}channel_mixer.l1.weight"][0],
        pack.has(f"{first}channel_mixer.l1.bias"),
    )
    themes = [pack.shapes.get(f"model.layers.{i}.token_mixer.lrpe.theta") for i in range(depth)]
    lrpe = [i for i, theta in enumerate(themes) if theta is not None]
    words.agree(
        vocab_size=vocab_size,
        decoder_embed_dim=dims,
        embed_dim=dims,
        decoder_layers=depth,
        num_layers=depth,
        hidden_dim=hidden,
        glu_dim=glu_dims,
        bias=bias,
        linear_use_lrpe_list=[int(i in lrpe) for i in range(depth)],
    )
    words.skip("module")
    heads = themes[lrpe[0]][0] if lrpe else 8
    heads = words.get("decoder_attention_heads", words.get("num_heads", heads))
    arch = {
        "embed_dims": dims,
        "hidden_dims": hidden,
        "glu_dims": glu_dims,
        "depth": depth,
        "num_heads": heads,
        "vocab_size": vocab_size,
    }
    tied = "lm_head.weight" not in pack.weights
    model = TransNormer(arch, lrpe=lrpe, bias=bias, eps=words.get("eps", 1e-6), tied=tied)
    taps = {"norm": model.norm}

    def first(output: tuple, *_) -> Tensor:  # the other is the state
        return output[0]

    for i, layer in enumerate(model.layers):
        taps |= {f"layer{i}": (layer, first), f"layer{i}_mixer": (layer.token_mixer, first)}
        taps[f"layer{i}_glu"] = layer.channel_mixer
    return Case(model, model.convert_official(pack.weights), taps)
