"""Relation-DETR against what is published of it, part by part."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmdet.datasets import CocoDataset
from mmdet.models.detectors import DINO
from mmdet.models.layers import inverse_sigmoid
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from dense.backbones import DaViT
from dense.detection import RelationDETR
from dense.detection.networks.relation_detr.weights import COCO_IDS
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ...tiny import CONFIGS, build, compute_loss, construct, make_batch, read_model, spread

CONFIG = "relation-detr_r50_8xb2-12e_coco.py"
PACKS = Path(__file__).parents[4] / "parity/packs/relation_detr"


@pytest.fixture
def detector():
    return spread(build(read_model(CONFIG)))


def full_model(**changes):
    config = Config.fromfile(CONFIGS / CONFIG)
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return config.model


@torch.no_grad()
def outputs(detector, batch):
    """Logits and boxes of all layers in evaluation."""
    states = detector.forward_transformer(detector.extract_feat(batch["inputs"]), batch["data_samples"])
    return detector.bbox_head(**states)


# ------------------------------------------------------------------------------------ network and weights


def test_parameters():
    with torch.device("meta"):
        network = construct(full_model(**{"bbox_head.num_classes": 91}))

    def count(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    # published frozen norms have buffers where ours have parameters
    norms = [module for module in network.backbone.modules() if isinstance(module, _BatchNorm)]
    assert count(network.backbone) - count(*norms) == 23_454_912
    assert count(network.neck) == 5_638_144
    assert count(network.dn_query_generator) == 23_296
    assert count(network) - count(*norms) == 48_869_312
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert {name for name in frozen if "bn" not in name and "downsample.1" not in name} == {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("backbone.conv1.", "backbone.layer1.")) and "conv" in name
    } | {"backbone.layer1.0.downsample.0.weight"}


@pytest.mark.parametrize("again", [False, True])
def test_initial_weights(again):
    """As published when built, and after MMEngine's initialisation."""
    detector = build(read_model(CONFIG))
    if again:
        spread(detector).init_weights()
    head, decoder = detector.bbox_head, detector.decoder
    for branch in [*head.cls_branches, head.hybrid_cls_branch]:
        torch.testing.assert_close(branch.bias, torch.full_like(branch.bias, -math.log(99)))
    for branch in [*head.reg_branches, head.hybrid_reg_branch]:
        assert not branch[-1].weight.any() and not branch[-1].bias.any()
        assert branch[0].weight.any() and not branch[0].bias.any()
    for table in (detector.query_embedding.weight, detector.hybrid_embedding.weight, detector.level_embed):
        assert abs(table.std() - 1) < 0.15
    assert not decoder.query_scale.layers[0].bias.any()
    assert not decoder.layers[0].cross_attn.sampling_offsets.weight.any()
    assert decoder.layers[0].cross_attn.sampling_offsets.bias.abs().max() == 4
    for weight in (decoder.query_scale.layers[0].weight, decoder.layers[0].self_attn.attn.out_proj.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.9 * bound < weight.abs().max() <= bound
    if not again:
        assert abs(detector.dn_query_generator.label_embedding.weight.std() - 1) < 0.2
        assert decoder.relation.proj.weight.abs().max() <= 1 / 8  # as a convolution, not Xavier


def test_published_weights():
    rows = json.loads((PACKS / "relation_detr_r50_q100.json").read_text())["state_dict"]
    state = {key: torch.rand(shape) for key, shape, _ in rows}
    with torch.device("meta"):
        network = construct(full_model(num_queries=100, hybrid_queries=150))
    network.load_state_dict(network.convert_official({**state, "_classes_": torch.rand(3)}), assign=True)
    # the rows of the 80 classes among 91 ids
    assert len(COCO_IDS) == 80 and COCO_IDS[0] == 1 and COCO_IDS[-1] == 90
    published = state["transformer.decoder.class_head.5.weight"]
    assert torch.equal(network.bbox_head.cls_branches[5].weight, published[COCO_IDS])
    published = state["denoising_generator.label_encoder.weight"]
    assert torch.equal(network.dn_query_generator.label_embedding.weight, published[COCO_IDS])
    # the norm after the self-attention is the second of the published code
    for ours, theirs in enumerate((2, 1, 3)):
        published = state[f"transformer.decoder.layers.3.norm{theirs}.weight"]
        assert torch.equal(network.decoder.layers[3].norms[ours].weight, published)
    published = state["transformer.encoder_bbox_head.layers.1.bias"]
    assert torch.equal(network.bbox_head.reg_branches[6][2].bias, published)
    with pytest.raises(CheckpointError, match="1 keys that no rule names: more"):
        network.convert_official({**state, "transformer.more": torch.rand(2)})


def published():
    """Shapes of a published file."""
    rows = json.loads((PACKS / "relation_detr_r50_q100.json").read_text())["state_dict"]
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in rows}
    for module in {key.rpartition(".")[0] for key in state if key.endswith("running_mean")}:
        for key in ("weight", "bias"):  # of frozen norms, constants that the pack leaves out
            state[f"{module}.{key}"] = torch.empty_like(state[f"{module}.running_mean"])
    return state


@pytest.mark.parametrize("classes", [91, 80, 3])
def test_published_files_are_identified(classes):
    state = published()
    for key in [key for key in state if "class_head" in key or "label_encoder" in key]:
        state[key] = state[key].new_empty(classes, *state[key].shape[1:])
    for layer in (4, 5):  # a decoder of four layers
        state = {key: value for key, value in state.items() if f".decoder.layers.{layer}." not in key}
        state = {key: value for key, value in state.items() if f"_head.{layer}." not in key}
    found = ZOO.identify(state)
    assert found.name == "relation_detr_r50"
    assert found.options == {
        "num_classes": classes,
        "num_queries": 100,
        "hybrid_queries": 150,
        "decoder.num_layers": 4,
    }


def test_weights_of_91_ids_are_those_of_80_classes():
    """When they are loaded, and only into a network of COCO's classes."""
    torch.manual_seed(0)
    of_ids, of_classes, of_others = (RelationDETR.smallest(num_classes=n) for n in (91, 80, 79))
    state = of_ids.state_dict()
    of_classes.load_state_dict(state)
    for name in ("bbox_head.cls_branches.1.weight", "dn_query_generator.label_embedding.weight"):
        assert torch.equal(of_classes.state_dict()[name], state[name][COCO_IDS]), name
    assert len(state["bbox_head.cls_branches.1.weight"]) == 91  # as it was
    with pytest.raises(RuntimeError, match="size mismatch"):
        of_others.load_state_dict(state)


# ----------------------------------------------------------------------------------------- training recipe


def test_weight_decay_and_rates():
    config = Config.fromfile(CONFIGS / CONFIG)
    detector = build(read_model(CONFIG))
    optimizer = build_optim_wrapper(detector, config.optim_wrapper).optimizer
    names = {parameter: name for name, parameter in detector.named_parameters()}
    groups = {names[group["params"][0]]: group for group in optimizer.param_groups}
    assert set(groups) == {name for name, p in detector.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        assert group["weight_decay"] == (0 if "norm" in name or "bias" in name else 1e-4), name
        slow = "backbone" in name or "sampling_offsets" in name
        assert group["lr"] == pytest.approx(1e-5 if slow else 1e-4), name
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert config.optim_wrapper.clip_grad.max_norm == 0.1


@pytest.mark.parametrize(("config", "epochs", "step"), [("12e", 12, 10), ("24e", 24, 20)])
def test_schedules(config, epochs, step):
    config = Config.fromfile(CONFIGS / f"relation-detr_r50_8xb2-{config}_coco.py")
    assert config.train_cfg.max_epochs == epochs
    assert [(s.milestones, s.end) for s in config.param_scheduler] == [([step], epochs)]


# ------------------------------------------------------------------------------------------------ encoder


def test_memory_fusion_is_an_mlp_of_all_states():
    detector = spread(build(read_model(CONFIG)))
    encoder, states = detector.encoder, []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _, __, y: states.append(y))
    shapes = torch.tensor([[4, 6], [2, 3], [1, 2], [1, 1]])
    x, position = torch.randn(2, 2, 33, 32, generator=torch.Generator().manual_seed(0))
    found = encoder(x, position, None, shapes, shapes.prod(1).cumsum(0) - shapes.prod(1), torch.ones(2, 4, 2))
    torch.testing.assert_close(found, encoder.memory_fusion(torch.cat([x, *states], -1)))


# ------------------------------------------------------------------------------------------------ decoder


class Spy(nn.Module):
    """Keeps what a relation is called with."""

    def __init__(self, relation):
        super().__init__()
        self.relation = relation
        self.calls = []

    def forward(self, *arguments):
        self.calls.append(arguments)
        return self.relation(*arguments)


def test_relation_of_successive_boxes(detector):
    detector.eval()
    spy = detector.decoder.relation = Spy(detector.decoder.relation)
    batch = make_batch(detector)
    _, boxes = outputs(detector, batch)
    sources, targets, masks = zip(*spy.calls, strict=True)
    assert len(spy.calls) == len(boxes) - 1 and masks == (None, None)
    torch.testing.assert_close(targets[0], boxes[0])
    torch.testing.assert_close(sources[1], boxes[0])
    torch.testing.assert_close(targets[1], boxes[1])
    assert not torch.allclose(sources[0], boxes[0])  # the proposals


def test_silent_relation_changes_nothing(detector):
    detector.eval()
    batch = make_batch(detector)
    found = outputs(detector, batch)
    nn.init.zeros_(detector.decoder.relation.proj.weight)
    nn.init.constant_(detector.decoder.relation.proj.bias, -1)
    silent = outputs(detector, batch)
    detector.decoder.relation = None
    torch.testing.assert_close(silent, outputs(detector, batch))
    assert not torch.allclose(found[0], silent[0])


@torch.no_grad()
def test_training_changes_nothing_for_matching_queries(detector):
    """Neither do denoising queries, though relations to them are computed, nor the hybrid branch."""
    batch = make_batch(detector)
    logits, boxes = outputs(detector.eval(), batch)
    states = detector.train().forward_transformer(
        detector.extract_feat(batch["inputs"]), batch["data_samples"]
    )
    count = states["dn_meta"]["num_denoising_queries"]
    assert count == 2 * 3 * (10 // 3)
    found = detector.bbox_head(states["hidden_states"], states["references"])
    torch.testing.assert_close(found[0][:, :, count:], logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1][:, :, count:], boxes, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_hybrid_branch_knows_no_relation(detector):
    batch, spy = make_batch(detector), Spy(detector.decoder.relation)
    detector.decoder.relation = spy
    features = detector.train().extract_feat(batch["inputs"])
    states = detector.forward_transformer(features, batch["data_samples"])
    assert states["hybrid"]["enc_outputs_class"].shape == (2, 20, 5)
    assert states["hybrid_outputs"]["hidden_states"].shape == (3, 2, 20, 32)
    assert len(spy.calls) == 2  # of the matching queries' three layers
    assert all(mask.shape == (18 + 12, 18 + 12) for _, _, mask in spy.calls)
    assert set(detector.eval().forward_transformer(features, batch["data_samples"])) == {
        "hidden_states",
        "references",
    }


def test_hybrid_queries_are_as_many_as_there_are_positions_at_most():
    detector = build(read_model(CONFIG, hybrid_queries=200)).train()
    loss, _ = compute_loss(detector, make_batch(detector))  # 85 positions
    loss.backward()
    assert detector.hybrid_embedding.weight.grad[:85].any(1).all()
    assert not detector.hybrid_embedding.weight.grad[85:].any()


def test_without_hybrid_branch():
    detector = build(read_model(CONFIG, hybrid_queries=0)).train()
    loss, losses = compute_loss(detector, make_batch(detector))
    assert loss.isfinite()
    assert not [name for name, _ in detector.named_parameters() if "hybrid" in name]
    assert not [name for name in losses if "hybrid" in name]


def test_too_few_positions():
    detector = build(read_model(CONFIG, num_queries=100)).eval()
    with pytest.raises(ValueError, match="the maps have 85 positions, wanted at least num_queries=100"):
        outputs(detector, make_batch(detector))


@torch.no_grad()
def test_proposals(detector):
    """They are the best positions by their best class; what lies in the padding is none of them."""
    detector.eval()
    batch = make_batch(detector)
    head, last = detector.bbox_head, detector.decoder.num_layers
    features = torch.randn(2, 85, 32, generator=torch.Generator().manual_seed(0))
    proposals = torch.randn(2, 85, 4, generator=torch.Generator().manual_seed(1))
    logits, boxes = detector.choose_proposals(
        features, proposals, head.cls_branches[last], head.reg_branches[last], 7
    )
    everything = head.cls_branches[last](features)
    order = everything.max(-1).values.argsort(1, descending=True)[:, :7, None]
    torch.testing.assert_close(logits, everything.gather(1, order.expand(-1, -1, 5)))
    unactivated = head.reg_branches[last](features) + proposals
    torch.testing.assert_close(boxes, unactivated.gather(1, order.expand(-1, -1, 4)).sigmoid())
    states = detector.forward_transformer(detector.extract_feat(batch["inputs"]), batch["data_samples"])
    assert states["references"][0].shape == (2, 12, 4)


def test_images_of_a_batch_do_not_meet(detector):
    detector.eval()
    batch = make_batch(detector, sizes=((128, 96), (128, 96)))
    together = outputs(detector, batch)
    for i in range(2):
        single = {"inputs": batch["inputs"][i : i + 1], "data_samples": batch["data_samples"][i : i + 1]}
        alone = outputs(detector, single)
        torch.testing.assert_close([x[:, i : i + 1] for x in together], list(alone), atol=1e-5, rtol=1e-4)


def test_padding_to_multiples_of_32(detector):
    batch = make_batch(detector, sizes=((70, 90), (64, 64)))
    assert batch["inputs"].shape == (2, 3, 96, 96)
    logits, _ = outputs(detector.eval(), batch)
    assert logits.isfinite().all()


# ------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("boxes", [(3, 1), (2, 0), (0, 0)])
def test_every_parameter_gets_a_gradient(boxes):
    detector = spread(build(read_model(CONFIG))).train()
    loss, losses = compute_loss(detector, make_batch(detector, boxes))
    assert len(losses) == 3 * (2 * (3 + 1) + 3)
    loss.backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if boxes == (3, 1) and parameter.ndim > 1:  # biases of keys have none
                assert parameter.grad.any(), name


def test_loss_of_an_image_without_boxes_is_that_of_background():
    detector = build(read_model(CONFIG)).train()
    _, losses = compute_loss(detector, make_batch(detector, (0, 0)))
    for name, loss in losses.items():
        assert (loss > 0).item() is ("cls" in name and "dn" not in name), name


def test_training_reduces_the_loss():
    detector = build(read_model(CONFIG)).train()
    batch = make_batch(detector)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    torch.manual_seed(0)
    found = []
    for _ in range(10):
        loss, _ = compute_loss(detector, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.85 * found[0], found


def test_mixed_precision(detector):
    detector.train()
    torch.manual_seed(0)
    wanted, _ = compute_loss(detector, batch := make_batch(detector))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = compute_loss(detector, batch)
    found.backward()
    assert abs(found / wanted - 1) < 0.1
    assert detector.decoder.relation.proj.weight.grad.isfinite().all()


# --------------------------------------------------------------------------------------------- predictions


@torch.no_grad()
def test_predictions_are_the_best_of_all_classes(detector):
    detector.eval()
    batch = make_batch(detector, sizes=((64, 64), (64, 48)))
    batch["data_samples"][1].set_metainfo({"scale_factor": (2.0, 4.0)})
    logits, boxes = outputs(detector, batch)
    found = detector.predict(batch["inputs"], batch["data_samples"])[1].pred_instances
    scores = logits[-1, 1].sigmoid()
    torch.testing.assert_close(found.scores, scores.flatten().sort(descending=True).values[:10])
    query = (scores == found.scores[0]).nonzero()[0, 0]
    centre, size = boxes[-1, 1, query].split(2)
    corners = torch.cat([centre - size / 2, centre + size / 2]).clamp(0, 1)
    wanted = corners * torch.tensor([48, 64, 48, 64]) / torch.tensor([2.0, 4.0, 2.0, 4.0])
    torch.testing.assert_close(found.bboxes[0], wanted)


def test_head_uses_the_inverse_sigmoid_of_this_model(detector):
    state, reference = torch.randn(1, 1, 3, 32), torch.tensor([[[[0.0, 1.0, 0.5, 1e-4]]]]).expand(1, 1, 3, 4)
    _, boxes = detector.bbox_head(state, reference)
    offsets = detector.bbox_head.reg_branches[0](state) + inverse_sigmoid(reference, eps=1e-3)
    torch.testing.assert_close(boxes, offsets.sigmoid())


# ------------------------------------------------------------------------------------- configs and datasets


def test_crowds_and_images_without_boxes(tmp_path):
    """From annotations to the loss: crowds are no targets, and images without boxes are trained on."""
    import numpy as np
    from PIL import Image

    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(2)]
    for image in images:
        Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(tmp_path / image["file_name"])
    box = {"image_id": 0, "category_id": 1, "bbox": [5, 6, 30, 20], "area": 600, "segmentation": []}
    annotations = [{**box, "id": 1, "iscrowd": 0}, {**box, "id": 2, "iscrowd": 1, "bbox": [0, 0, 60, 60]}]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    config = Config.fromfile(CONFIGS / CONFIG).train_dataloader.dataset
    pipeline = [step for step in config.pipeline if not step["type"].startswith("Random")]
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = CocoDataset(
            ann_file="boxes.json",
            data_root=str(tmp_path),
            data_prefix={"img": ""},
            metainfo={"classes": ("person",)},
            filter_cfg=config.filter_cfg,
            pipeline=pipeline,
        )
    samples = [dataset[i] for i in range(len(dataset))]
    assert [len(sample["data_samples"].gt_instances) for sample in samples] == [1, 0]
    detector = build(read_model(CONFIG)).train()
    batch = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    loss, _ = compute_loss(detector, detector.data_preprocessor(batch, training=True))
    assert loss.isfinite()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_configs_build(path):
    model = Config.fromfile(path).model
    device = "meta"
    if model.backbone.type == "SwinTransformer":  # computes with numbers when it is built
        device = "cpu"
        model.backbone.depths = [1, 1, 1, 1]
    with torch.device(device):
        detector = construct(model)
    if path.stem.startswith("dino"):
        assert type(detector) is DINO
    else:
        heads = detector.decoder.layers[0].self_attn.num_heads
        assert detector.decoder.relation.proj.out_features == heads
    if "num_classes" in model.bbox_head:
        assert model.test_cfg.max_per_img <= model.num_queries * model.bbox_head.num_classes


def test_compared_configs_differ_in_the_network_alone():
    names = ("dino_r18_pennfudan", "relation-detr_r18_pennfudan")
    plain, ours = (Config.fromfile(CONFIGS / f"{name}.py") for name in names)
    for key in {*plain, *ours} - {"model", "custom_imports"}:
        assert plain[key] == ours[key], key
    for key in ("num_queries", "num_feature_levels", "backbone", "neck", "encoder", "dn_cfg", "test_cfg"):
        assert plain.model[key] == ours.model[key], key


def test_backbones_of_this_project():
    sizes = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model = read_model(CONFIG)
    arch = {**DaViT.archs["tiny"], **sizes}
    model.backbone = {"type": "dense.DaViT", "arch": arch, "out_indices": (1, 2, 3)}
    model.neck.in_channels = [16, 24, 32]
    detector = build(model).train()
    loss, _ = compute_loss(detector, make_batch(detector))
    loss.backward()
    assert all(parameter.grad.any() for parameter in detector.backbone.downsamples[0].parameters())
