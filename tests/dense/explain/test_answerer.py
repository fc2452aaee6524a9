import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dense.explain.answerer import AnswererVLM, recording
from dense.explain.carve import ask
from dense.explain.vlm import last_row
from dense.sequence.answering import Answerer, PictureAnswerer
from dense.sequence.networks.vision_remember import VisionRemember

LANGUAGE = {"embed_dims": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def make_answerer(**options):
    torch.manual_seed(0)
    vision = VisionRemember.archs["tiny"]["vision"]
    arch = {
        "vision": {**vision, "arch": {**vision["arch"], "embed_dims": 16, "num_heads": 2}},
        "language": {"type": "Transformer", "arch": LANGUAGE, "positions": "rotary", **options},
    }
    model = PictureAnswerer({"type": "VisionRemember", "arch": arch, "inner": 8, "heads": 2})
    for parameter in model.parameters():
        if parameter.ndim < 2:
            nn.init.normal_(parameter, 0.5, 0.2)  # gates that start at 0, too
    return Answerer(model, device="cpu")


def make_picture(width=96, height=64):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_rows_are_those_of_the_last_word():
    """Against softmax(q k^T) of the first layer, whose input is the embeddings."""
    provider = AnswererVLM(make_answerer())
    found = provider.attention(make_picture(), "what is top left ?")
    assert found.grid == (4, 6)
    assert found.maps.shape[1:] == (2, 24)
    assert (found.maps.sum(-1) <= 1).all()
    network = provider.model.network
    inputs, batch = provider._prepare(make_picture(), "what is top left ?")
    layer, kept = network.language.layers[0], []
    handle = layer.attn.register_forward_hook(lambda module, args, out: kept.append(module.qkv(args[0])))
    with torch.no_grad():
        network(inputs, batch["ids"], batch["guide"], batch["mask"], batch["images"])
    handle.remove()
    from dense.sequence.networks.transformer import rotate

    q, k, _ = kept[0].unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    logits = rotate(q, 0)[0, :, -1:] @ rotate(k, 0)[0].mT / 8**0.5
    wanted = logits.softmax(-1).mean(0)[0, :24]
    torch.testing.assert_close(found.maps[0, 0], wanted, rtol=1e-4, atol=1e-6)


def test_it_answers_as_the_answerer_and_can_be_asked():
    answerer = make_answerer()
    provider, picture = AnswererVLM(answerer), make_picture()
    found = ask(provider, picture, "what is top ?", layers=(0, 1))
    assert found.first == answerer(np.asarray(picture), question="what is top ?")
    assert found.refined == provider.answer([picture, found.refinement.image], "what is top ?")
    with pytest.raises(ValueError, match="'tops' is not in the vocabulary; did you mean top"):
        provider.attention(picture, "what is tops ?")


def test_recording_keeps_calls_within_layers_alone():
    class Attend(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    layers, x = nn.ModuleList([Attend(), nn.Identity(), Attend()]), torch.randn(2, 1, 5, 4)
    with recording(layers) as rows:
        y = layers[2](layers[1](Attend()(layers[0](x))))
        layers[2](y)
    assert [len(row) for row in rows] == [1, 0, 2]
    torch.testing.assert_close(rows[0][0], last_row(x, x))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_a_language_model_without_softmax_is_refused():
    answerer = make_answerer()
    answerer.model.network.language.layers[0].attn.forward = lambda x, *_: (x, None)
    answerer.model.network.language.layers[1].attn.forward = lambda x, *_: (x, None)
    with pytest.raises(ValueError, match="Transformer: found no softmax attention to record"):
        AnswererVLM(answerer).attention(make_picture(), "what is top ?")
