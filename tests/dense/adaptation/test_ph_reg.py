import pytest
import torch

from dense.adaptation import PHReg, PHRegDistiller
from dense.adaptation.ph_reg import (
    average_views,
    distillation_losses,
    draw_offsets,
    plant_artifacts,
    shift_views,
)
from dense.backbones import ViT
from dense.base import ClassificationNetwork
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from tests.parity import packs

SPEC = {**ViT.archs["tiny"], "embed_dims": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "img_size": 32}
BACKBONE = {"type": "dense.ViT", "arch": SPEC}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PACKS = packs.__file__.replace("packs.py", "packs/ph_reg")


def make(**options):
    torch.manual_seed(0)
    return PHRegDistiller(BACKBONE, **{"num_registers": 4, "num_views": 3, **options})


# ------------------------------------------------------------------------------------------------------ views


def test_views_by_hand():
    image = torch.arange(12.0).view(1, 1, 2, 6)
    views, places = shift_views(
        image,
        torch.tensor([[[0, 0], [0, 1], [0, 1]]]),
        torch.tensor([[False, False, True]]),
        2,
        -torch.ones(1),
    )
    assert torch.equal(views[:, 0], image)
    assert views[0, 1, 0].tolist() == [[2, 3, 4, 5, -1, -1], [8, 9, 10, 11, -1, -1]]
    assert torch.equal(views[:, 2], views[:, 1].flip(-1))
    assert places.shape == (1, 3, 2, 1, 3)
    assert places[0, :, 1, 0].tolist() == [[0, 1, 2], [1, 2, -1], [-1, 2, 1]]
    assert places[0, :, 0, 0].tolist() == [[0, 0, 0], [0, 0, -1], [-1, 0, 0]]


def test_averages_go_back_to_where_patches_came_from():
    """Features that say nothing but a patch's place come back as they were."""
    grid = torch.randn(2, 3, 4, 5)
    drawn = [draw_offsets(6, (4, 5), 0.5) for _ in range(2)]
    offsets, flips = (torch.stack(part) for part in zip(*drawn, strict=True))
    views, places = shift_views(grid, offsets, flips, 1, torch.full((3,), 1e6))
    features = views.flatten(3).mT
    assert torch.allclose(average_views(features, places), grid.flatten(2).mT, atol=1e-6)
    counts = average_views(torch.ones_like(features), places)
    assert torch.allclose(counts, torch.ones_like(counts))  # the image itself shows all


def test_a_mean_counts_only_the_views_that_show_a_patch():
    places = torch.tensor([[[[[0, 0]], [[0, 1]]], [[[0, -1]], [[1, -1]]]]])  # (1, 2, 2, 1, 2)
    features = torch.tensor([[[[1.0], [2.0]], [[4.0], [100.0]]]])
    assert average_views(features, places).flatten().tolist() == [1.0, 3.0]


def test_offsets():
    offsets, flips = draw_offsets(10, (37, 37))
    assert offsets.shape == (10, 2) and offsets.abs().max() <= 6 and flips.dtype == torch.bool
    assert not offsets[0].any() and not flips[0]
    apart = torch.cdist(offsets[1:].double(), offsets[1:].double()) + 100 * torch.eye(9)
    assert apart.min() >= 2  # far from each other, where random pairs of ten often meet
    assert not draw_offsets(3, (4, 4), 0.0)[0].any() and draw_offsets(1, (4, 4))[0].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_offsets(0, (4, 4)), "count must be at least 1, found 0"),
        (lambda: draw_offsets(2, (4, 4), 1.0), "max_shift must be at least 0 and below 1, found 1.0"),
        (
            lambda: shift_views(X, *views_of(2, 5), 7, torch.ones(3)),
            r"sides multiples of 7, found \(2, 3, 32",
        ),
        (lambda: shift_views(X, *views_of(1, 5), 8, torch.ones(3)), r"must be \(2, N, 2\) and flips"),
        (
            lambda: shift_views(X, 4 + views_of(2, 1)[0], views_of(2, 1)[1], 8, torch.ones(3)),
            "the grid of 4 x 4",
        ),
        (
            lambda: average_views(torch.ones(1, 2, 6, 3), torch.zeros(1, 2, 2, 2, 2)),
            "h, w. of 6 patches, found",
        ),
        (
            lambda: distillation_losses(torch.ones(1, 2, 3), torch.ones(1, 2, 4)),
            "features and targets differ",
        ),
        (lambda: plant_artifacts(ViT(SPEC), 16), "count must be 1 to 15, found 16"),
        (
            lambda: plant_artifacts(ViT(SPEC, positions=False), 2),
            "artefacts need a table of positions, ViT has",
        ),
        (lambda: make(trained=("positions", "head")), "trained must be some of .*, found 'head'"),
        (
            lambda: make(num_views=0),
            "num_views must be at least 1 and num_registers not negative, found 0 and 4",
        ),
        (
            lambda: PHRegDistiller({**BACKBONE, "num_registers": 2}),
            "backbone must have no registers, found 2",
        ),
        (lambda: PHReg(pos_resize="offset"), "pos_resize must be one of .*, found 'offset'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def views_of(batch, count):
    return torch.zeros(batch, count, 2, dtype=torch.long), torch.zeros(batch, count, dtype=torch.bool)


# ---------------------------------------------------------------------------------------------------- student


def test_registers_stand_first_and_the_class_token_is_found():
    torch.manual_seed(0)
    backbone = PHReg({**SPEC, "num_registers": 3}, out_indices=(1,)).eval()
    head = backbone.make_head(5)
    tokens = backbone.forward_features(X)
    assert tokens.shape == (2, 3 + 1 + 16, 24) and torch.equal(head.pre_logits(tokens), tokens[:, 3])
    backbone.reg_token.data = backbone.reg_token.data[:, [2, 0, 1]]
    permuted = backbone.forward_features(X)
    assert torch.allclose(permuted[:, :3], tokens[:, [2, 0, 1]], atol=1e-5)
    assert torch.allclose(permuted[:, 3:], tokens[:, 3:], atol=1e-5)


def test_without_registers_it_is_the_backbone():
    student, plain = PHReg({**SPEC, "num_registers": 0}), ViT(SPEC, scale_offset=0.1)
    student.load_state_dict(plain.state_dict())
    assert torch.equal(student.eval().forward_features(X), plain.eval().forward_features(X))


def test_resizing_of_positions():
    how = [
        PHReg({**SPEC, "num_registers": 1}, pos_resize=name).scale_offset for name in ("scale_offset", "size")
    ]
    assert how == [0.1, 0.0]


def test_published_sizes():
    """The published file has a mask token of 768 channels besides, which nothing uses."""
    assert PHReg.num_parameters["dinov2_base"] + 768 == 86_592_768
    with torch.device("meta"):
        backbone = {"type": "dense.ViT", "arch": ViT.archs["base_dinov2"]}
        model = PHRegDistiller(backbone)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 8_606_208
    assert {name.split(".")[1] for name in trained} == {"reg_token", "pos_embed", "patch_embed", "blocks"}


def test_published_files_are_known():
    """Most tensors are in them twice, under names of the library."""
    rows = packs.load(f"{PACKS}/ph_reg_dinov2_vitb14_r16_224.json")["state_dict"]
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in rows}
    assert PHReg.names_fit("dinov2_base", state) and PHReg.reads_all(state)
    found = {arch: options for arch, options, _ in PHReg.guess_options(PHReg.convert_official(state))}
    assert found["dinov2_base"] == {"features_only": True}  # 12 blocks, 16 registers, 37 x 37 patches
    with pytest.raises(CheckpointError, match=r"found 'other', wanted registers and model"):
        PHReg.convert_official({**state, "other": torch.ones(1)})
    few = {**state, "registers": torch.empty(1, 4, 768, device="meta")}
    arch = next(PHReg.guess_options(PHReg.convert_official(few)))[1]["arch"]
    assert arch["num_registers"] == 4
    del few["registers"]
    assert not PHReg.names_fit("dinov2_base", few)


def test_names_of_timm():
    """Registers behind the class token there: their place is no matter of weights."""
    torch.manual_seed(0)
    backbone = PHReg({**SPEC, "num_registers": 2})
    names = {
        "pos_embed": backbone.pos_embed[:, 1:],
        "cls_token": backbone.cls_token + backbone.pos_embed[:, :1],
    }
    state = {**backbone.state_dict(), **names}  # timm adds no position to the class token
    found = PHReg.convert_official(state)
    other = PHReg({**SPEC, "num_registers": 2}).eval()
    other.load_state_dict({key.removeprefix("backbone."): value for key, value in found.items()})
    wanted = backbone.eval().forward_features(X)
    assert torch.allclose(other.forward_features(X), wanted, atol=1e-5)


# ----------------------------------------------------------------------------------------------- distillation


def test_one_view_is_what_the_teacher_sees():
    model = make(num_views=1).eval()
    targets = model.make_targets(X, *model.draw_views(X))
    assert torch.allclose(targets, model.teacher.forward_features(X)[:, 1:], atol=1e-6)
    assert not targets.requires_grad
    losses = distillation_losses(targets, targets)
    assert all(value.abs() < 1e-6 for value in losses.values())


def test_white_lies_outside():
    assert torch.allclose(make().outside, torch.tensor([2.2489083, 2.42857143, 2.64]), atol=1e-5)


def test_only_the_chosen_parts_learn():
    model = make().train()
    losses = model.loss(X, [])
    assert list(losses) == ["loss_cosine", "loss_mse"]
    sum(losses.values()).backward()
    grads = {name for name, p in model.named_parameters() if p.grad is not None}
    assert grads == {name for name, p in model.named_parameters() if p.requires_grad}
    starts = ("backbone.reg_token", "backbone.pos_embed", "backbone.patch_embed.", "backbone.blocks.1.")
    assert grads and all(name.startswith(starts) for name in grads)
    assert all(p.grad is None for p in model.teacher.parameters()) and not model.teacher.training
    assert not any("teacher" in key for key in model.state_dict())


def test_it_starts_from_a_trained_network(tmp_path):
    other = ClassificationNetwork(ViT(SPEC, out_indices=(1,)), 3).eval()
    save_checkpoint(other.state_dict(), tmp_path / "vit.pth")
    model = make(pretrained=tmp_path / "vit.pth", num_registers=0)
    model.init_weights()
    wanted = other.backbone.forward_features(X)[:, 1:]
    assert torch.equal(model(X), wanted) and torch.equal(model.patches(model.teacher, X), wanted)
    registers = make(pretrained=tmp_path / "vit.pth", planted=2)
    before = registers.backbone.reg_token.detach().clone()
    registers.init_weights()
    assert torch.equal(registers.backbone.reg_token, before) and before.std() == pytest.approx(
        24**-0.5, rel=0.3
    )
    moved = (registers.teacher.pos_embed != other.backbone.pos_embed).any(-1)[0]
    assert moved.sum() == 2 and torch.equal(registers.teacher.pos_embed, registers.backbone.pos_embed)
    tested = make(pretrained=tmp_path / "vit.pth", planted=2)  # a test loads the student's weights alone
    tested.load_state_dict(registers.state_dict())
    found, wanted = (
        each.eval().predict(X, [each.sample_class() for _ in X])[1] for each in (tested, registers)
    )
    assert torch.equal(found.norms_before, wanted.norms_before)


def test_planted_artifacts_stand_out_and_the_loss_falls():
    model = make(planted=1, num_views=6, max_shift=0.5)
    model.init_weights()
    sample = model.predict(X, [model.sample_class() for _ in X])[0]
    place = plant_artifacts(ViT(SPEC), 1).item()
    assert sample.norms_before.flatten().argmax() == place and sample.norms_after.shape == (4, 4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        losses.append(sum(model.loss(X, []).values()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_other_networks_get_registers():
    arch = {"embed_dims": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "img_size": 32}
    arch = {**ZOO.find_system("inline_deit_tiny")[0].archs["tiny"], **arch}
    torch.manual_seed(0)
    model = PHRegDistiller({"type": "dense.InLineDeiT", "arch": arch}, num_registers=2, num_views=2)
    assert model.train()(X).shape == (2, 16, 24) and sum(model.loss(X, []).values()) > 0
