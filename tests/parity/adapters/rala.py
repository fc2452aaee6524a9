"""RAVLT: the classifier, and its two attentions alone."""

import torch

from dense.backbones import RAVLT
from dense.backbones.base import ClassificationNetwork
from dense.backbones.rala import RankAugmentedAttention, SoftmaxAttention

SOURCE = "qhfan/RALA"
ARCHS = {"T": "tiny", "S": "small", "B": "base", "L": "large"}


def outputs(pack, weights, inputs):
    x = inputs["x"].requires_grad_()
    found = (classifier if "model" in pack["build"] else operator)(pack["build"], weights, x)
    for name in pack["outputs"]:
        if name.startswith("grad.x.of."):
            y = found[name.removeprefix("grad.x.of.")]
            (found[name],) = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), x, retain_graph=True)
    return found


def classifier(build, weights, x):
    arch = ARCHS[build["model"].rsplit("_", 1)[-1]]
    inner = RAVLT(arch, out_indices=(3,), output_norm=False)
    network = ClassificationNetwork(inner, build.get("num_classes", 1000)).eval()
    counters = {key: n for key, n in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **network.convert_official(weights)})
    taps = {}
    tapped = {
        "stem": inner.downsamples[0],
        "stage1": inner.downsamples[1],
        "stage2": inner.downsamples[2],
        "stage3": inner.downsamples[3],
        "stage4": inner.stages[3][-1],
    }
    for name, module in tapped.items():
        module.register_forward_hook(lambda _, __, y, name=name: taps.__setitem__(f"tap.{name}", y))
    inner.stages[0][0].attn.register_forward_hook(
        lambda _, __, y: taps.__setitem__("tap.block0_attn", y.permute(0, 3, 1, 2))
    )
    return {"logits": network(x), **taps}


def operator(build, weights, x):
    kind = RankAugmentedAttention if "linear" in build["operator"] else SoftmaxAttention
    attention = kind(build["dim"], build["num_heads"])
    state = {key.removeprefix("attn."): value for key, value in weights.items()}
    attention.load_state_dict(
        {key: value.view_as(attention.get_parameter(key)) for key, value in state.items()}
    )
    return {"out": attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}
