"""The position relation in MMDetection's detectors: nothing but a bias of self-attention."""

import pytest
import torch
from torch import nn

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from ...tiny import build, compute_loss, make_batch, read_model, spread

CONFIGS = {  # MMDetection's Deformable DETR takes no other width
    "DINO": ("relation-dino_r50_8xb2-12e_coco.py", 32),
    "DeformableDETR": ("relation-deformable-detr_r50_16xb2-50e_coco.py", 256),
    "DABDETR": ("relation-dab-detr_r50_8xb2-50e_coco.py", 32),
}
PLUGINS = pytest.mark.parametrize("name", CONFIGS)


def make(name, **changes):
    model = read_model(*CONFIGS[name], **changes)
    return spread(build(model))


def make_plain(name, plugin, **changes):
    """MMDetection's own, with the weights of the plug-in."""
    model = read_model(*CONFIGS[name], **changes)
    del model.decoder["relation_encoder"]
    model.type = name
    plain = build(model).train(plugin.training)
    plain.load_state_dict({k: v for k, v in plugin.state_dict().items() if "decoder.relation." not in k})
    return plain


@torch.no_grad()
def outputs(detector, batch):
    features = detector.extract_feat(batch["inputs"])
    states = detector.forward_transformer(features, batch["data_samples"])
    return detector.bbox_head(states["hidden_states"], states["references"])


def silence(relation):
    nn.init.zeros_(relation.proj.weight)
    nn.init.constant_(relation.proj.bias, -1)


@PLUGINS
def test_silent_relation_is_the_plain_detector(name):
    detector = make(name)
    plain = make_plain(name, detector)
    batch = make_batch(detector)
    for training in (False, True):
        for network in (detector, plain):
            network.train(training)
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        results = []
        for silent in (False, True):
            if silent:
                silence(detector.decoder.relation)
            torch.manual_seed(0)
            results.append(outputs(detector, batch))
        torch.manual_seed(0)
        torch.testing.assert_close(results[1], outputs(plain, batch), atol=1e-5, rtol=1e-4)
        if not training:  # where the relation spoke before
            assert not torch.allclose(results[0][0], results[1][0], atol=2e-4)


@PLUGINS
def test_no_relation(name):
    detector = make(name, **{"decoder.relation_encoder": None}).eval()
    assert detector.decoder.relation is None
    batch = make_batch(detector)
    torch.testing.assert_close(outputs(detector, batch), outputs(make_plain(name, detector), batch))


@PLUGINS
@torch.no_grad()
def test_relation_of_successive_boxes(name):
    detector = make(name).eval()
    calls = []
    detector.decoder.relation.register_forward_hook(lambda _, boxes, y: calls.append((boxes, y)))
    batch = make_batch(detector)
    _, boxes = outputs(detector, batch)
    assert len(calls) == 2
    for i, ((source, target, *_), y) in enumerate(calls):
        torch.testing.assert_close(target, boxes[i], atol=1e-3, rtol=0)  # heads clamp at other numbers
        if i:
            torch.testing.assert_close(source, calls[i - 1][0][1])
        heads = detector.decoder.layers[0].self_attn.num_heads
        assert y.shape == (2 * heads, source.shape[1], target.shape[1])


@PLUGINS
@pytest.mark.parametrize("boxes", [(3, 1), (0, 0)])
def test_training(name, boxes):
    detector = make(name).train()
    loss, _ = compute_loss(detector, make_batch(detector, boxes))
    loss.backward()
    weight = detector.decoder.relation.proj.weight
    assert loss.isfinite() and weight.grad.isfinite().all() and weight.grad.any()


@PLUGINS
def test_initial_weights(name):
    """MMDetection's, but the relation's are those of a convolution."""
    detector = build(read_model(*CONFIGS[name]))
    detector.init_weights()
    weight = detector.decoder.relation.proj.weight
    assert weight.shape == (4, 64) and 0.8 / 8 < weight.abs().max() <= 1 / 8


def test_points_as_first_references():
    """Of Deformable DETR with one stage: then the first boxes are related to themselves."""
    detector = make("DeformableDETR", as_two_stage=False).eval()
    calls = []
    detector.decoder.relation.register_forward_hook(lambda _, boxes, y: calls.append(boxes))
    plain = make_plain("DeformableDETR", detector, as_two_stage=False)
    batch = make_batch(detector)
    outputs(detector, batch)
    assert calls[0][0] is calls[0][1] and torch.equal(calls[1][0], calls[0][1])
    silence(detector.decoder.relation)
    torch.testing.assert_close(outputs(detector, batch), outputs(plain, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_scale_type": "cond_scalar"},
        {"query_scale_type": "fix_elewise"},
        {"with_modulated_hw_attn": False},
    ],
)
def test_kinds_of_dab_detr(changes):
    changes = {f"decoder.{key}": value for key, value in changes.items()}
    detector = make("DABDETR", **changes).eval()
    plain = make_plain("DABDETR", detector, **changes)
    silence(detector.decoder.relation)
    batch = make_batch(detector)
    torch.testing.assert_close(outputs(detector, batch), outputs(plain, batch), atol=1e-5, rtol=1e-4)


def test_errors():
    detector = make("DeformableDETR", as_two_stage=False, with_box_refine=False).eval()
    with pytest.raises(ValueError, match="needs boxes after each layer: set with_box_refine=True"):
        outputs(detector, make_batch(detector))
    detector = make("DABDETR", **{"decoder.query_dim": 2, "decoder.with_modulated_hw_attn": False}).eval()
    with pytest.raises(ValueError, match="needs boxes: query_dim=4, found 2"):
        outputs(detector, make_batch(detector))
    model = read_model(*CONFIGS["DINO"])
    del model.decoder["relation_encoder"]
    with pytest.raises(TypeError, match="relation_encoder"):
        build(model)
