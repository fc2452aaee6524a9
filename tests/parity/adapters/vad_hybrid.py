"""The bi-directional video predictor: networks, its blocks, its loss, and scores of videos."""

import numpy as np
import torch
from torch import Tensor, nn

from dense.video.losses import MiddleFrameLoss, ssim_and_difference
from dense.video.networks.vad_hybrid import ConvLSTM, DecoderLayer, EncoderLayer, VADHybrid
from dense.video.scoring import macro_auc, micro_auc, score_video
from pointsuite.engine.checkpoint import strip_prefix

from ..adapt import Case, Pack

# what single blocks are called in packs, in published networks and in ours
PLACES = {
    "enc": ("conv_tsfm_en_1.", "encoder.0."),
    "dec": ("conv_tsfm_de_1_f.", "past.decoder.0."),
    "alpha": ("convlstm_1f.", "past.alpha."),
    "beta": ("convlstm_2f.", "past.beta."),
}


def adapt(pack: Pack) -> Case:
    if "mse" in pack.inputs:
        return Case(run=scores)
    if not pack.weights:
        return Case(run=loss, once=True)
    return (network if "clip" in pack.inputs else blocks)(pack)


def network(pack: Pack) -> Case:
    words, clip = pack.words, pack.inputs["clip"]
    prefix = next(key for key in pack.shapes if key.endswith("conv_1.weight")).removesuffix("conv_1.weight")
    prefix = words.get("keys_prefix", prefix)
    shapes = {key.removeprefix(prefix): shape for key, shape in pack.shapes.items()}
    widths = [shapes[f"conv_{i}.weight"][0] for i in (1, 2, 3)]
    arch = {
        **VADHybrid.archs["base"],
        "widths": widths,
        "depth": len(
            [key for key in shapes if key.startswith("conv_tsfm_en_") and key.endswith("ff.conv_1.bias")]
        ),
        "num_heads": words.get("heads", 8),
        "ffn_ratio": shapes["conv_tsfm_en_1.ff.conv_1.weight"][0] // widths[-1],
        "kernel_size": shapes["convlstm_1f.conv.0.weight"][-1],
    }
    words.agree(d_model=list(clip.shape[2:]), kernel=arch["kernel_size"])
    words.agree(lstm_features=widths[0], lstm_inputs=widths[0])
    options = {
        "in_channels": clip.shape[2],
        "clip_length": clip.shape[1],
        "context": words.get("t_src", 3),
        "forward_weight": words.get("lamda", 0.85),
        "dropout": words.get("dropout", 0.1),
        "norm": "batch",
    }
    state = VADHybrid.convert_official(strip_prefix(pack.weights, prefix))
    model = VADHybrid(arch, **options)
    if "pred_quirk" in pack.facts:  # one model of two, with one state
        both = nn.ModuleDict({"quirk": VADHybrid(arch, white_pixel_mask=True, **options), "no_quirk": model})
        state = {f"{name}.{key}": value for name in both for key, value in state.items()}

        def run(inputs):
            clip = inputs["clip"].clone()
            clip[:, [1, 4], :, 0, 0] = 1
            return {f"pred_{name}": network(clip) for name, network in both.items()}

        return Case(both, state, run=run)

    def time_first(y: Tensor, *_) -> Tensor:
        return y.transpose(0, 1)

    taps = {"low": (model.low, lambda y, *_: y.flatten(0, 1))}
    taps |= {f"enc{i + 1}": layer for i, layer in enumerate(model.encoder)}
    for letter, branch in (("f", model.past), ("b", model.future)):
        taps |= {f"dec{i + 1}_{letter}": layer for i, layer in enumerate(branch["decoder"])}
        taps |= {f"lstm_{name}_{letter}": (branch[name], time_first) for name in ("alpha", "beta")}
    return Case(model, state, taps)


def blocks(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    heads = words.get("heads", 8)
    model = nn.ModuleDict()
    for name, kind in (("enc", EncoderLayer), ("dec", DecoderLayer)):
        if pack.has(f"{name}."):
            hidden, channels = shapes[f"{name}.ff.conv_1.weight"][:2]
            model[name] = kind(channels, hidden // channels, heads, words.get("dropout", 0.1), "batch")
            words.agree(encoder_dim=[channels, *pack.inputs["src"].shape[3:]])
    for name in ("alpha", "beta"):
        if pack.has(f"{name}."):
            gates, inputs, kernel = shapes[f"{name}.conv.0.weight"][:3]
            features = gates // 4
            words.agree(lstm_features=features, lstm_inputs=inputs - 2 * features, kernel=kernel)
            model[name] = ConvLSTM(inputs - 2 * features, features, kernel)
    official = {
        PLACES[name][0] + key: value for name in model for key, value in pack.part(f"{name}.").items()
    }
    ours = VADHybrid.convert_official(official)
    state = {}
    for name in model:
        place = PLACES[name][1]
        state |= {f"{name}.{key.removeprefix(place)}": x for key, x in ours.items() if key.startswith(place)}

    def run(inputs):
        found, states = {}, None
        if "enc" in model:
            found["enc"] = model["enc"](inputs["src"])
        if "dec" in model:
            count = inputs["tgt"].shape[1]
            causal = torch.ones(count, count, dtype=torch.bool).tril()
            found["dec"] = model["dec"](inputs["tgt"], found.get("enc", inputs["src"]), causal)
        if "alpha" in model:
            states = model["alpha"](inputs["low"].transpose(0, 1))
            found["alpha"] = states.transpose(0, 1)
        if "beta" in model:
            found["beta"] = model["beta"](inputs["low2"].transpose(0, 1), states).transpose(0, 1)
        return found

    return Case(model, state, run=run)


def loss(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    a, noise = inputs["a"], inputs["n"]
    b = a + 0.1 * noise
    ssim, difference = ssim_and_difference(a, b)
    return {"loss_ssim_gaussl1": torch.stack([MiddleFrameLoss()(2 * a - 1, 2 * b - 1), ssim, difference])}


def scores(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Videos, a row each, all of whose frames are predicted."""
    mse, labels = inputs["mse"] * 0.02 + 1e-4, list(inputs["label"].numpy())
    videos = [score_video(len(row), range(len(row)), row) for row in mse.numpy()]
    found = {name: [getattr(video, name) for video in videos] for name in ("psnr", "score")}
    found["auc"] = [
        micro_auc(found["score"], labels),
        macro_auc(found["score"], labels),
        micro_auc([-values for values in found["psnr"]], labels),
    ]
    return {name: torch.from_numpy(np.array(values)) for name, values in found.items()}
