"""The bi-directional video predictor: networks, its blocks, and its loss."""

import numpy as np
import torch

from dense.video.losses import MiddleFrameLoss, ssim_and_difference
from dense.video.scoring import macro_auc, micro_auc, score_video
from dense.video.vad_hybrid import ConvLSTM, DecoderLayer, EncoderLayer, VADHybrid
from pointsuite.engine.checkpoint import strip_prefix

SOURCE = "SHENGUODONG19951126/-ConvTTrans-ConvLSTM"
CHOICES = ("choice_anomaly_score",)


def outputs(pack, weights, inputs):
    if "mse" in inputs:
        return scores(inputs)
    if "clip" in inputs:
        return network(pack, weights, inputs["clip"])
    if "encoder_dim" in pack["build"]:
        return blocks(pack["build"], weights, inputs)
    return loss(pack, inputs)


def network(pack, weights, clip):
    build = pack["build"]
    make = {
        "in_channels": build["d_model"][0],
        "clip_length": clip.shape[1],
        "context": build["t_src"],
        "forward_weight": build["lamda"],
        "norm": "batch",
    }
    arch = {**VADHybrid.archs["base"], "num_heads": build["heads"]}
    state = VADHybrid.convert_official(strip_prefix(weights, build.get("keys_prefix", "")))
    model = VADHybrid(arch, **make).eval()
    model.load_state_dict(state)
    if "pred_quirk" in pack["outputs"]:
        clip[:, [1, 4], :, 0, 0] = 1
        quirky = VADHybrid(arch, white_pixel_mask=True, **make).eval()
        quirky.load_state_dict(state)
        with torch.inference_mode():
            return {"pred_quirk": quirky(clip), "pred_no_quirk": model(clip)}

    found = {}

    def tap(name, module, time_first=False):
        def keep(_, __, y):  # a hook that returned it would replace the output
            found[f"tap.{name}"] = y.transpose(0, 1) if time_first else y

        module.register_forward_hook(keep)

    model.low.register_forward_hook(lambda _, __, y: found.update({"tap.low": y.flatten(0, 1)}))
    tap("lstm_alpha_f", model.past["alpha"], time_first=True)
    tap("lstm_beta_b", model.future["beta"], time_first=True)
    for i, layer in enumerate(model.encoder):
        tap(f"enc{i + 1}", layer)
    for letter, branch in (("f", model.past), ("b", model.future)):
        for i, layer in enumerate(branch["decoder"]):
            tap(f"dec{i + 1}_{letter}", layer)
    with torch.inference_mode():
        found["pred"] = model(clip)
    if "grad.clip.of.pred" in pack["outputs"]:
        found = {name: y.clone() for name, y in found.items()}
        clip = clip.requires_grad_()
        y = model(clip)
        found["grad.clip.of.pred"] = torch.autograd.grad((y * pack["probe"](y.shape)).sum(), clip)[0]
    return found


def blocks(build, weights, inputs):
    channels, heads = build["encoder_dim"][0], build["heads"]
    ratio = len(weights["enc.ff.conv_1.bias"]) // channels
    encoder = EncoderLayer(channels, ratio, heads, 0.0, "batch")
    decoder = DecoderLayer(channels, ratio, heads, 0.0, "batch")
    alpha, beta = (ConvLSTM(build["lstm_inputs"], build["lstm_features"], build["kernel"]) for _ in range(2))
    official = {
        "enc": "conv_tsfm_en_1",
        "dec": "conv_tsfm_de_1_f",
        "alpha": "convlstm_1f",
        "beta": "convlstm_2f",
    }
    ours = {"enc": "encoder.0", "dec": "past.decoder.0", "alpha": "past.alpha", "beta": "past.beta"}
    renamed = {f"{official[part]}.{rest}": w for part, rest, w in split(weights)}
    state = VADHybrid.convert_official(renamed)
    for name, module in (("enc", encoder), ("dec", decoder), ("alpha", alpha), ("beta", beta)):
        prefix = f"{ours[name]}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        module.eval()
    with torch.inference_mode():
        memory = encoder(inputs["src"])
        count = inputs["tgt"].shape[1]
        causal = torch.ones(count, count, dtype=torch.bool).tril()
        states = alpha(inputs["low"].transpose(0, 1))
        return {
            "enc": memory,
            "dec": decoder(inputs["tgt"], memory, causal),
            "alpha": states.transpose(0, 1),
            "beta": beta(inputs["low2"].transpose(0, 1), states).transpose(0, 1),
        }


def split(weights):
    return [(*key.split(".", 1), value) for key, value in weights.items()]


def loss(pack, inputs):
    a, noise = inputs["a"], inputs["n"].requires_grad_()
    b = a + 0.1 * noise
    ssim, difference = ssim_and_difference(a, b)
    total = MiddleFrameLoss()(2 * a - 1, 2 * b - 1)
    found = torch.stack([total, ssim, difference])
    (grad,) = torch.autograd.grad((found * pack["probe"](found.shape)).sum(), noise)
    return {"loss_ssim_gaussl1": found, "grad.n.of.loss_ssim_gaussl1": grad}


def scores(inputs):
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
