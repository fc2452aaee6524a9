"""Combiner: the operator, layers of attention, and the language model."""

from torch import Tensor
from torch.nn import functional as F

from dense.ops import combiner_attention
from dense.sequence.networks.combiner import PUBLISHED, Combiner, CombinerAttention

from ..adapt import Case, Pack

# as the words of packs and the published code call them
NAMES = {
    "fixed": "fixed",
    "sqrt": "fixed",
    "sqrtn": "fixed",
    "mixture": "mixture",
    "logn": "logsparse",
    "logsparse": "logsparse",
    "axial": "rowmajor",
    "rowmajor": "rowmajor",
    "vertical": "vertical",
    "horizontal": "horizontal",
}


def adapt(pack: Pack) -> Case:
    if not pack.weights:
        return operator(pack)
    return (network if "Embed_0.embedding" in pack.shapes else layer)(pack)


def find_factorization(pack: Pack) -> str:
    """Of the word, or of the last words of the name of what it is."""
    words = pack.words
    said = [str(words[name]) for name in ("factorisation", "operator", "module") if name in words]
    found = [NAMES[name] for text in said for name in text.replace("-", " ").split() if name in NAMES]
    found += [ours for key in pack.shapes for name, ours in PUBLISHED.items() if f".{name}." in key]
    if len(set(found)) > 1:  # "axial mixture"
        said = [text.replace("axial", "") for text in said]
        found = [NAMES[name] for text in said for name in text.split() if name in NAMES]
    if not found or len(set(found)) > 1:
        raise ValueError(f"the words {said} must name one factorisation of {sorted(NAMES)}")
    return found[0]


def operator(pack: Pack) -> Case:
    words = pack.words
    factorization = find_factorization(pack)
    words.agree(length=pack.inputs["q"].shape[1], heads=pack.inputs["q"].shape[2])
    segment, causal = words.get("segment"), words.get("causal", True)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
        return {"out": combiner_attention(q, k, v, factorization, segment, causal=causal).transpose(1, 2)}

    return Case(run=run, once=True)


def layer(pack: Pack) -> Case:
    words = pack.words
    dims, heads, width = pack.shapes["query.kernel"]
    words.agree(dim=dims, emb_dim=dims, heads=heads, length=pack.inputs["x"].shape[1])
    model = CombinerAttention(
        dims,
        heads,
        find_factorization(pack),
        words.get("segment"),
        causal=words.get("causal", True),
        head_dims=width,
        qkv_bias="query.bias" in pack.shapes,
        proj_bias=any(key.endswith(".bias") and "DenseGeneral" in key for key in pack.shapes),
    )
    return Case(model, CombinerAttention.convert_official(pack.weights))


def network(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    vocab, dims = shapes["Embed_0.embedding"]
    prefix = "autoreg_model.transformer_layer_"
    depth = pack.count(r"autoreg_model\.transformer_layer_(\d+)\.")
    hidden = shapes[f"{prefix}0.MlpBlock_0.Dense_0.kernel"][1]
    query = next(key for key in shapes if key.startswith(f"{prefix}0.") and key.endswith(".query.kernel"))
    length = pack.inputs["ids"].shape[1]
    words.agree(emb_dim=dims, dim=dims, heads=shapes[query][1], mlp_dim=hidden, vocab=vocab, layers=depth)
    words.agree(length=length)
    words.only("causal", True)
    words.skip("model")
    arch = {
        "embed_dims": dims,
        "depth": depth,
        "num_heads": shapes[query][1],
        "mlp_ratio": hidden / dims,
    }
    factorization = find_factorization(pack)
    model = Combiner(
        arch, vocab, factorization=factorization, segment=words.get("segment"), max_length=length
    )

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = inputs["ids"].long()
        return {"logits": model(F.pad(ids[:, :-1], (1, 0)))}  # the published model shifts them itself

    taps = {f"layer{i}": (layer, lambda y, *_: y[0]) for i, layer in enumerate(model.layers)}
    return Case(model, Combiner.convert_official(pack.weights), taps, run=run)
