"""UFC: one level and the selection of flows, as chosen here; the aggregator of its predecessor CATs."""

import re

import torch

from dense.matching.cats import Aggregator
from dense.matching.correlation import correlate, mutual_filter, select_flows
from dense.matching.metrics import end_point_error, keypoint_accuracy, keypoint_flow, transfer_keypoints
from dense.matching.ufc import IntegrativeBlock, cost_tokens
from dense.ops.flow import grid_positions, soft_argmax

SOURCE = "SunghwanHong/Cost-Aggregation-transformers"
CHOICES = ("choice_integrative_level", "choice_confidence_select")


def outputs(pack, weights, inputs):
    build = pack["build"]
    if "levels" in build:
        return aggregator(pack, weights, inputs)
    if "cost_grid" in build:
        return level(pack, weights, inputs)
    if "f0" in inputs:
        return selection(inputs)
    if "src_kps" in inputs:
        return protocol(pack, inputs)
    raise NotImplementedError(f"pack {pack['name']!r}")


def aggregator(pack, weights, inputs):
    build = pack["build"]
    dims = build["grid"], build["proj"], build["depth"], build["heads"], build["mlp_ratio"]
    network = Aggregator(build["levels"], *dims)
    network.load_state_dict(network.convert_official(weights))
    inputs["corr"].requires_grad_()
    found = {"cost": network.eval()(inputs["corr"], inputs["src"], inputs["trg"])}
    return found | gradients(pack, found, inputs)


def level(pack, weights, inputs):
    build = pack["build"]
    size = (build["grid"], build["grid"])
    block = IntegrativeBlock(build["d"], build["cost_grid"] ** 2, build["d_attn"], build["heads"])
    block.load_state_dict(weights)
    for x in inputs.values():
        x.requires_grad_()
    features = torch.cat([inputs["ds"], inputs["dt"]])
    cost = cost_tokens(features, size, build["cost_grid"])
    isa = block.isa(features, cost)[0]
    features, cost = block(features, cost, size)
    (ds, dt), (cs, ct) = features.chunk(2), cost.chunk(2)
    found = {"ds": ds, "dt": dt, "cs": cs, "ct": ct, "isa_ds": isa.chunk(2)[0], "refined": correlate(ds, dt)}
    return found | gradients(pack, found, inputs)


def selection(inputs):
    levels = range(len(inputs) // 2)
    flows, backward = ([inputs[f"{name}{i}"] for i in levels] for name in "fb")
    flow, confidence = select_flows(flows, backward)
    return {"flow": flow, "confidence": confidence}


def protocol(pack, inputs):
    """Correlation, read-out, and what keypoints ask for and get; sizes are in the notes only."""
    grid, size = (int(re.search(rf"{name} (\d+)", pack["notes"])[1]) for name in ("grid", "image"))
    base, alpha = (float(re.search(rf"{name} ([\d.]+\d)", pack["notes"])[1]) for name in ("base", "alpha"))
    features = [inputs[name].flatten(2).mT for name in ("fs", "ft")]
    correlation = correlate(*features, smooth=True)
    axis = torch.linspace(-1, 1, grid)
    position = (soft_argmax(correlation.mT, (axis, axis)) + 1) * (grid - 1) / 2  # (B, N_t, 2)
    flow = position.mT.unflatten(2, (grid, grid)) - grid_positions((grid, grid), position)
    source, target = (255 * inputs[name].mT for name in ("src_kps", "trg_kps"))  # (B, n, 2)
    wanted = torch.stack([keypoint_flow(s, t, grid, size) for s, t in zip(source, target, strict=True)])

    def transfer(flow):
        pairs = zip(flow, target, strict=True)
        return torch.stack([transfer_keypoints(f, t, size, whole=True) for f, t in pairs])

    def score(points):
        pairs = zip(points, source, strict=True)
        return torch.tensor([keypoint_accuracy(p, s, alpha * base) for p, s in pairs])

    estimated = transfer(flow)
    return {
        "corr": correlation,
        "mutual_nn": mutual_filter(correlation),
        "flow_soft_argmax": flow,
        "flow_gt": wanted,
        "epe": end_point_error(flow, wanted).view(1),
        "estimated_kps": estimated.mT,
        "pck": score(estimated),
        "pck_of_gt_flow": score(transfer(wanted)),
    }


def gradients(pack, found, inputs):
    """The gradients that the pack pins: of an input, of the sum of an output by fixed weights."""
    gradients = {}
    for name in pack["outputs"]:
        if name.startswith("grad."):
            source, of = name.removeprefix("grad.").split(".of.")
            y = (found[of] * pack["probe"](found[of].shape)).sum()
            (gradients[name],) = torch.autograd.grad(y, inputs[source], retain_graph=True)
    return gradients
