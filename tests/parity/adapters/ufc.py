"""UFC: one level and the selection of flows, as chosen here; the aggregator of its predecessor CATs."""

import re
from math import isqrt

import torch
from torch import Tensor

from dense.matching.cost_volume import correlate, mutual_filter, select_flows
from dense.matching.metrics import end_point_error, keypoint_accuracy, keypoint_flow, transfer_keypoints
from dense.matching.networks.cats import Aggregator
from dense.matching.networks.ufc import IntegrativeBlock, cost_tokens
from dense.ops.flow import grid_positions, soft_argmax

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    if pack.has("pos_embed_x"):
        return aggregator(pack)
    if pack.has("isa."):
        return level(pack)
    if "f0" in pack.inputs:
        return Case(run=selection)
    return Case(run=protocol(pack))


def aggregator(pack: Pack) -> Case:
    words, (_, levels, _, grid, half) = pack.words, pack.shapes["pos_embed_x"]
    depth, proj = pack.count(r"blocks\.(\d+)\."), 2 * half - grid**2
    mlp_ratio = pack.shapes["blocks.0.mlp.fc1.weight"][0] // (2 * half)
    words.agree(levels=levels, grid=grid, proj=proj, depth=depth, mlp_ratio=mlp_ratio)
    model = Aggregator(levels, grid, proj, depth, words.get("heads", 6), mlp_ratio)
    return Case(
        model,
        model.convert_official(pack.weights),
        run=lambda inputs: {"cost": model(inputs["corr"], inputs["src"], inputs["trg"])},
        once=True,
    )


def level(pack: Pack) -> Case:
    words, shapes = pack.words, pack.shapes
    dims, cost_dims = shapes["isa.norm_d.weight"][0], shapes["isa.norm_c.weight"][0]
    grid, cost_grid = isqrt(pack.inputs["ds"].shape[1]), isqrt(cost_dims)
    attention_dims = shapes["isa.q.weight"][0]
    words.agree(d=dims, d_attn=attention_dims, grid=grid, cost_grid=cost_grid)
    block = IntegrativeBlock(dims, cost_dims, attention_dims, words.get("heads", 8))

    def run(inputs):
        features, size = torch.cat([inputs["ds"], inputs["dt"]]), (grid, grid)
        cost = cost_tokens(features, size, cost_grid)
        isa = block.isa(features, cost)[0]
        features, cost = block(features, cost, size)
        (ds, dt), (cs, ct) = features.chunk(2), cost.chunk(2)
        found = {"ds": ds, "dt": dt, "cs": cs, "ct": ct, "refined": correlate(ds, dt)}
        return found | dict(zip(("isa_ds", "isa_dt"), isa.chunk(2), strict=True))

    return Case(block, pack.weights, run=run, once=True)


def selection(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    levels = range(len(inputs) // 2)
    flows, backward = ([inputs[f"{name}{i}"] for i in levels] for name in "fb")
    flow, confidence = select_flows(flows, backward)
    return {"flow": flow, "confidence": confidence}


def protocol(pack: Pack):
    """Correlation, read-out, and what keypoints ask for and get; sizes are in the notes only."""
    grid, size = (int(re.search(rf"{name} (\d+)", pack.notes)[1]) for name in ("grid", "image"))
    base, alpha = (float(re.search(rf"{name} ([\d.]+\d)", pack.notes)[1]) for name in ("base", "alpha"))

    def run(inputs):
        correlation = correlate(*(inputs[name].flatten(2).mT for name in ("fs", "ft")), smooth=True)
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

    return run
