"""OverLoCK: its layers against plain formulas, variants, both forms of published weights, head and sizes."""

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import OverLoCK
from dense.backbones.overlock import (
    BRANCHES,
    DOWNSAMPLES,
    DYNAMIC_BLOCK,
    PLACES,
    PLAIN_BLOCK,
    ContextMixing,
    ContMixBlock,
    DilatedReparam,
    DynamicConvBlock,
    RepConvBlock,
)
from dense.classification.model import ImageClassifier
from dense.classification.sample import ImageDataSample
from dense.layers import GlobalResponseNorm, switch_to_deploy
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tests.tools.load import load_tool

SMALL = {
    "embed_dims": (8, 16, 16, 32),
    "depths": (1, 1, 1, 1),
    "sub_depths": (2, 1),
    "num_heads": (2, 2),
    "kernel_sizes": (9, 7, 5, 5),
    "small_kernel": 3,
    "mlp_ratios": (2, 2),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    """Weights and statistics of norms that all count, evaluating."""
    for name, value in module.named_parameters():
        torch.nn.init.normal_(value, 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0, 0.2)
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return module.eval()


# ------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("size", BRANCHES)
def test_large_kernels_merge(size):
    module = noisy(DilatedReparam(3, size)).double()
    x = torch.randn(2, 3, 11, 12).double()
    wanted = module.large.norm(F.conv2d(x, module.large.conv.weight, padding=size // 2, groups=3))
    for (kernel, rate), branch in zip(BRANCHES[size], module.small.values(), strict=True):
        assert kernel + (kernel - 1) * (rate - 1) <= size
        padding = kernel // 2 * rate
        y = F.conv2d(x, branch.conv.weight, padding=padding, dilation=rate, groups=3)
        wanted = wanted + branch.norm(y)
    torch.testing.assert_close(module(x), module.norm(wanted))


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match=r"kernel_size must be one of \[5, 7, .*, 19\], found 6"):
        DilatedReparam(3, 6)


def test_response_norm():
    norm, x = GlobalResponseNorm(4), torch.randn(2, 4, 5, 6)
    assert torch.equal(norm(x), x)
    torch.nn.init.normal_(norm.gamma), torch.nn.init.normal_(norm.beta)
    energy = x.pow(2).sum((2, 3), keepdim=True).sqrt()
    share = energy / (energy.mean(1, keepdim=True) + 1e-6)
    gamma, beta = (t.view(1, 4, 1, 1) for t in (norm.gamma, norm.beta))
    wanted = (gamma * share + 1) * x + beta
    torch.testing.assert_close(norm(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), wanted)
    norm(torch.zeros(1, 4, 5, 6)).sum().backward()
    assert norm.gamma.grad.isfinite().all()


def test_mixing_against_the_formula():
    """Products with a grid of the context, affine map, biases, softmax, windows that stop at borders."""
    module = noisy(ContextMixing(8, 5, 1, 5, 3)).double()
    x, context, values = (torch.randn(2, c, 6, 7).double() for c in (8, 5, 8))
    query = module.query.norm(module.query.conv(x)).unflatten(1, (2, 2)) * 4**-0.5  # (C / G)^-0.5
    key = module.key.norm(module.key.conv(F.adaptive_avg_pool2d(context, 7))).flatten(2).unflatten(1, (2, 2))
    w = torch.einsum("bgdyx,bgdl->bgyxl", query, key)
    logits = (w @ module.proj.weight.T + module.proj.bias).split((9, 25), -1)
    wanted = torch.zeros_like(values)
    for half, (size, rows) in enumerate(zip((3, 5), logits, strict=True)):
        for y in range(6):
            for x0 in range(7):
                top, left = (min(max(p - size // 2, 0), n - size) for p, n in ((y, 6), (x0, 7)))
                table = module.rpb[half][:, top - y + size - 1 :, left - x0 + size - 1 :][:, :size, :size]
                weights = (rows[:, :, y, x0] + table.flatten(1)).softmax(-1)
                seen = values[:, 4 * half : 4 * half + 4, top : top + size, left : left + size]
                mixed = torch.einsum("bgt,bgct->bgc", weights, seen.flatten(2).unflatten(1, (2, 2)))
                wanted[:, 4 * half : 4 * half + 4, y, x0] = mixed.flatten(1)
    torch.testing.assert_close(module(x, context, values), wanted)


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (8, 3), (11, 11)])
def test_small_maps_are_enlarged(size):
    """11 to 15: in floating point 15 / 11 * 11 is below 15."""
    module = noisy(ContextMixing(8, 4, 1, 15))
    values = torch.ones(1, 8, *size)
    y = module(torch.randn(1, 8, *size), torch.randn(1, 4, *size), values)
    torch.testing.assert_close(y, values)


def test_channels_must_divide():
    with pytest.raises(ValueError, match="channels must be a multiple of 12, found 16"):
        ContextMixing(16, 4, 3, 7)
    with pytest.raises(ValueError, match="small kernel must be at most 3, found 5"):
        ContextMixing(16, 4, 2, 3)


def test_the_overview_is_recalled_by_its_scale():
    block = noisy(DynamicConvBlock(8, 5, 1, context_channels=4, small_kernel=3))
    x, first, second = torch.randn(1, 12, 6, 6), torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    assert not torch.allclose(block(x, first), block(x, second))
    torch.nn.init.zeros_(block.h_scale.weight)
    assert torch.equal(block(x, first), block(x, second))
    assert DynamicConvBlock(8, 5, 1, context_channels=4, is_first=True).h_scale is None


@pytest.mark.parametrize("res_scale", [True, False])
def test_factors_of_path_or_branch(res_scale):
    block = noisy(RepConvBlock(4, 5, layer_scale=0.5, res_scale=res_scale))
    x = torch.randn(1, 4, 7, 7)
    torch.nn.init.zeros_(block.ls.weight), torch.nn.init.zeros_(block.ls.bias)
    path = block.dwconv(x)
    branch = block.mlp(block.se(block.large(block.norm(path))))
    torch.testing.assert_close(block(x), branch if res_scale else path)


def test_a_block_alone():
    block = ContMixBlock(16, 7, 2)
    assert block.mixing.rpb[0].std() > 0.01 and block(torch.randn(2, 16, 9, 8)).shape == (2, 16, 9, 8)


# ------------------------------------------------------------------------------------------------- network


def test_maps():
    trunk = dense.create_model("overlock_xt", features_only=True, arch=SMALL).eval()
    maps = trunk(torch.randn(1, 3, 65, 90))
    assert [tuple(y.shape[1:]) for y in maps] == [(8, 17, 23), (16, 9, 12), (24, 5, 6), (40, 3, 3)]
    assert trunk.feature_info.channels() == [8, 16, 24, 40]
    assert trunk.feature_info.reduction() == [4, 8, 16, 32]


@pytest.mark.parametrize("out_indices", [(0, 1), (0, 2), (3,)])
def test_nothing_is_built_in_vain(out_indices):
    trunk = OverLoCK(SMALL, out_indices=out_indices)
    sum(y.sin().sum() for y in trunk(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in trunk.parameters())
    assert (trunk.overview is None) == (out_indices[-1] < 2)


def test_freezing_takes_the_overview_from_stage_three_on():
    for frozen, trained in ((2, True), (3, False)):
        trunk = OverLoCK(SMALL, frozen_stages=frozen)
        assert all(p.requires_grad is trained for p in trunk.overview.parameters())
        assert all(p.requires_grad is trained for p in trunk.base.parameters())
        assert all(p.requires_grad for p in trunk.stages[3].parameters())


def test_guidance():
    trunk = OverLoCK(SMALL).eval()
    assert trunk.guidance(torch.randn(1, 3, 64, 96)).shape == (1, 8, 2, 3)
    with pytest.raises(ValueError, match=r"an overview from out_indices 2 on, found \(0,\)"):
        OverLoCK(SMALL, out_indices=(0,)).guidance(torch.randn(1, 3, 64, 96))


def test_losses_of_both_looks():
    classifier = ImageClassifier(OverLoCK(SMALL, **OverLoCK.classifier_options(SMALL)), 5)
    images = torch.randn(3, 3, 32, 32)
    samples = [ImageDataSample(gt_label=torch.tensor(label)) for label in (0, 3, 4)]
    losses = classifier.loss(images, samples)
    main, auxiliary = classifier.head(classifier.backbone.forward_features(images))
    labels = torch.tensor([0, 3, 4])
    torch.testing.assert_close(losses["loss"], F.cross_entropy(main, labels))
    torch.testing.assert_close(losses["loss_aux"], 0.4 * F.cross_entropy(auxiliary, labels))
    assert classifier.eval()(images).shape == (3, 5)


# ------------------------------------------------------------------------------------------------- weights


def rename(state):
    """Our names as published."""
    found = {}
    for key, value in state.items():
        new = key.removeprefix("backbone.")
        for place, name in ((f"{v}.", f"{k}.") for k, v in PLACES.items()):
            if new.startswith(place):
                index, _, rest = new.removeprefix(place).partition(".")
                names = DYNAMIC_BLOCK if name.startswith("sub") else PLAIN_BLOCK
                new = f"{name}{index}.{published_part(rest, names)}"
                break
        else:
            for name, place in DOWNSAMPLES.items():
                name = name.replace("\\", "")
                new = new.replace(f"{place}.conv.", f"{name}.0.").replace(f"{place}.norm.", f"{name}.1.")
            for i in range(4):
                new = new.replace(f"downsamples.0.convs.{i}.conv", f"patch_embed1.{3 * i}")
                new = new.replace(f"downsamples.0.convs.{i}.norm", f"patch_embed1.{3 * i + 1}")
            for ours, theirs in {
                "overview.proj": "high_level_proj",
                "norms": "extra_norm",
                "head.aux.norm": "aux_head.0",
                "head.aux.fc": "aux_head.2",
                "head.conv.conv": "head.0",
                "head.conv.norm": "head.1",
                "head.fc": "head.4",
            }.items():
                new = new.replace(f"{ours}.", f"{theirs}.")
        if new.endswith(("gamma", "beta")):
            value = value[None, :, None, None]
        elif new.endswith(("ls.weight", "ls1.weight", "ls2.weight", "scale.weight")):
            value = value[:, None, None, None]
        elif new.endswith(("weight_proj.weight", "head.4.weight", "aux_head.2.weight")):
            value = value[:, :, None, None]
        found[new] = value
    return found


def published_part(key, names):
    large = next(name for name, place in names.items() if place == "large")
    if key.startswith("large.small."):
        _, _, branch, layer, leaf = key.split(".")
        return f"{large}.dil_{'conv' if layer == 'conv' else 'bn'}_k{branch}.{leaf}"
    if key.startswith("large.large."):
        _, _, layer, leaf = key.split(".")
        return f"{large}.{'lk_origin' if layer == 'conv' else 'origin_bn'}.{leaf}"
    place = max((p for p in names.values() if f"{key}.".startswith(f"{p}.")), key=len)
    name = next(n for n, p in names.items() if p == place)
    return name.replace("(?:dyconv|fusion)", "dyconv") + key.removeprefix(place)


def merge_branches(network):
    """Weights of a network as published in merged form: of large kernels alone."""
    state = network.state_dict()
    for name, module in network.named_modules():
        if isinstance(module, DilatedReparam):
            weight, bias = module.merge_branches()
            state = {k: v for k, v in state.items() if not k.startswith((f"{name}.large.", f"{name}.small."))}
            state |= {f"{name}.large.conv.weight": weight, f"{name}.large.conv.bias": bias}
    return rename({key: value.detach() for key, value in state.items()})


def published(arch, **options):
    with torch.device("meta"):
        state = OverLoCK.create(arch, **options).state_dict()
    return rename(
        {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    )


@pytest.mark.parametrize("arch", ["xt", "b"])
def test_identification(arch):
    found = ZOO.identify(published(arch))
    assert (found.name, found.options) == (f"overlock_{arch}", {"num_classes": 1000})


def test_identification_of_other_depths_and_of_maps():
    own = {**OverLoCK.archs["t"], "depths": (1, 2, 1, 2), "sub_depths": (3, 1)}
    found = ZOO.identify(published(own, num_classes=7))
    assert found.options == {"num_classes": 7, "arch": own}
    found = ZOO.identify(published("t", features_only=True))
    assert (found.name, found.options) == ("overlock_t", {"features_only": True})


@torch.no_grad()
def test_merged_files_are_found_and_compute_the_same(tmp_path, monkeypatch):
    own = {**OverLoCK.archs["xt"], "depths": (1, 1, 1, 1), "sub_depths": (2, 1)}
    network = noisy(OverLoCK.create(own, num_classes=3))
    save_checkpoint(merge_branches(network), tmp_path / "merged.pth")
    merged = dense.load_official(tmp_path / "merged.pth").eval()
    assert merged.backbone.deploy and merged.backbone.spec == own
    x = torch.randn(2, 3, 64, 64)
    wanted = network(x)
    torch.testing.assert_close(merged(x), wanted, rtol=1e-4, atol=1e-4 * wanted.std().item())
    state = switch_to_deploy(network).state_dict()
    assert state.keys() == merged.state_dict().keys()
    monkeypatch.setitem(OverLoCK.archs, "xt", own)
    files = [str(tmp_path / name) for name in ("merged.pth", "out.pth")]
    load_tool("convert_checkpoint").main(["overlock_xt", *files, "--model-args", "num_classes=3"])
    assert load_checkpoint(files[1])["meta"]["model_args"]["deploy"] is True


@torch.no_grad()
def test_convert_checkpoint_merges(tmp_path, capsys):
    own = {**OverLoCK.archs["xt"], "depths": (1, 1, 1, 1), "sub_depths": (1, 1)}
    network = noisy(OverLoCK.create(own, num_classes=3))
    file, out = str(tmp_path / "published.pth"), str(tmp_path / "out.pth")
    save_checkpoint(rename(network.state_dict()), file)
    tool = load_tool("convert_checkpoint")
    tool.main([file, out, "--deploy"])
    assert "out.pth: overlock_xt" in capsys.readouterr().out
    merged = dense.create_model("overlock_xt", out, num_classes=3, arch=own, deploy=True).eval()
    x = torch.randn(2, 3, 64, 64)
    wanted = network(x)
    torch.testing.assert_close(merged(x), wanted, rtol=1e-4, atol=1e-4 * wanted.std().item())
    with pytest.raises(CheckpointError, match="missing"):
        dense.create_model("overlock_xt", out, num_classes=3, arch=own)


def test_unknown_keys_are_named():
    state = published("xt")
    state["sub_blocks3.0.lepe.0.more"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 keys that no rule names: lepe\.0\.more"):
        OverLoCK.convert_official(state)
