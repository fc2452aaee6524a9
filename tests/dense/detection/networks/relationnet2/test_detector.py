"""Detectors by name, and published files of them."""

import pytest
import torch

import dense

pytest.importorskip("mmdet")

from dense.detection import RelationNet2
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from .test_heads import as_published


def published(arch, **options):
    """Weights of a detector under the authors' names, without numbers."""
    with torch.device("meta"):
        network = RelationNet2.create(arch, **options)
        return as_published(network.state_dict())


@pytest.mark.parametrize("arch", RelationNet2.archs)
@pytest.mark.parametrize("classes", [80, 3])
def test_published_files_are_identified(arch, classes):
    found = ZOO.identify(published(arch, num_classes=classes))
    assert found.name == f"relationnet2_{arch}"
    assert found.options == ({} if classes == 80 else {"num_classes": 3})


def test_other_files_are_refused():
    with pytest.raises(CheckpointError, match="no keypoint_head among its 1 keys"):
        RelationNet2.convert_official({"bbox_head.retina_cls.weight": torch.zeros(1)})
    state = published("retinanet_r50")
    state["bbox_head.cls_transformer.embed_trans.weight"] = torch.zeros(1, device="meta")
    with pytest.raises(CheckpointError, match=r"nearest are relationnet2_retinanet_r50 \(1 tensors differ\)"):
        ZOO.identify(state)


def test_a_file_becomes_a_network(tmp_path):
    torch.manual_seed(0)
    small = RelationNet2.smallest()
    state = as_published(small.state_dict())
    converted = small.convert_official(state)
    assert converted.keys() == small.state_dict().keys()
    other = RelationNet2.smallest()
    other.load_state_dict(converted)
    images, samples = small.example_inputs(1, (64, 96))
    with torch.no_grad():
        found, wanted = other.eval()(images, samples)[0], small.eval()(images, samples)[0]
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))


@pytest.mark.parametrize("names", [("cls", "reg"), ("cls", "reg", ""), ("",)])
def test_a_shared_embedding_has_the_names_of_both_branches(names):
    """Under whichever of these a published file has it."""
    torch.manual_seed(0)
    model = RelationNet2.smallest(**{"bbox_head.bvr.shared_embedding": True})
    state = as_published(model.state_dict())
    place = "relative_positional_encoding.embedding_transform.0.conv."
    kept = {key: value for key, value in state.items() if place not in key}
    for key in ("weight", "bias"):
        value = torch.randn_like(state[f"bbox_head.cls_transformer.{place}{key}"])
        for name in names:
            kept[f"bbox_head.{name}_transformer.{place}{key}" if name else f"bbox_head.{place}{key}"] = value
    model.load_state_dict(model.convert_official(kept))
    bvr = model.bbox_head.bvr
    assert bvr.reg_transformer.embedding is bvr.cls_transformer.embedding
    assert torch.equal(bvr.cls_transformer.embedding.proj.bias, value)


def test_published_options_are_reached():
    with torch.device("meta"):
        network = dense.create_model(
            "relationnet2_retinanet_r50",
            **{"bbox_head.bvr.reference_quirks": True, "bbox_head.bvr.num_keys": 9},
        )
    assert network.bbox_head.bvr.num_keys == 9
    assert network.bbox_head.bvr.cls_transformer.embedding.reference_quirks
