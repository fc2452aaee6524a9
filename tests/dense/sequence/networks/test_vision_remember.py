import pytest
import torch
from torch.nn import functional as F

from dense.sequence.networks.transformer import Transformer
from dense.sequence.networks.vision_remember import (
    IMAGE,
    VR,
    Span,
    StackedFeatures,
    VisionRemember,
    find_spans,
    insertion_layers,
    join_features,
)

HIDDEN, CHANNELS = 12, (5, 4)


def make(awake=True, **options):
    """A module whose gates, biases and norms are open, unless it is to be as it starts."""
    torch.manual_seed(0)
    module = VR(HIDDEN, CHANNELS, **{"inner": 8, "heads": 2, **options})
    if awake:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module.double()


def features(rows, columns, count=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, rows, columns, c, generator=generator).double() for c in CHANNELS]


def hidden(batch=1, length=10):
    return torch.randn(batch, length, HIDDEN, generator=torch.Generator().manual_seed(2)).double()


def mask(batch, length, *places):
    found = torch.zeros(batch, length, dtype=torch.bool)
    for row, place in places:
        found[row, place] = True
    return found


# ------------------------------------------------------------------------------------------------ the module


def test_it_starts_as_the_identity():
    x = hidden()
    y = make(awake=False)(x, features(4, 4), [Span(0, 2, 0)], (2, 2), mask(1, 10, (0, 7)))
    assert torch.equal(y, x)


def test_defaults_are_the_choices():
    module = VR(512, 10)
    assert module.self_qkv.weight.shape == (3 * 128, 512) and module.heads == 2
    assert module.cross_bias.shape == (2, 4, 4) and module.feature_norm.weight.shape == (30,)
    assert module.self_norm.eps == module.feature_norm.eps == 1e-6
    assert abs(module.cross_kv.weight.std() - 0.02) < 2e-3


def test_parts_are_switched_off():
    x, maps, spans = hidden(), features(4, 4), [Span(0, 2, 0)]
    own, cross = make(cross_attention=False), make(self_attention=False)
    both = make()
    assert not any(name.startswith("cross") for name in own.state_dict())
    assert not any(name.startswith("self") for name in cross.state_dict())
    own.load_state_dict({k: v for k, v in both.state_dict().items() if k in own.state_dict()})
    cross.load_state_dict({k: v for k, v in both.state_dict().items() if k in cross.state_dict()})
    guide = mask(1, 10, (0, 8))
    after = cross(own(x, maps, spans, (2, 2), guide), maps, spans, (2, 2))
    torch.testing.assert_close(after, both(x, maps, spans, (2, 2), guide))


def test_a_halo_over_the_map_without_bias_is_plain_attention():
    module, x, maps = make(halo=4, self_attention=False), hidden(), features(4, 4)
    torch.nn.init.zeros_(module.cross_bias)
    v = x[:, 2:6]
    q = module.cross_q(module.cross_norm(v)).unflatten(2, (2, 4)).transpose(1, 2)
    kv = module.cross_kv(module.feature_norm(torch.cat(maps, -1))).flatten(1, 2).unflatten(2, (2, 2, 4))
    k, value = kv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2)
    wanted = v + module.cross_gate.tanh() * module.cross_out(y)
    torch.testing.assert_close(module(x, maps, [Span(0, 2, 0)], (2, 2))[:, 2:6], wanted)


def test_one_cell_without_halo_is_its_own_value():
    module, x, maps = make(ratio=1, halo=0, self_attention=False), hidden(), features(2, 3)
    value = module.cross_kv(module.feature_norm(torch.cat(maps, -1)))[..., 8:].flatten(1, 2)
    wanted = x[:, 1:7] + module.cross_gate.tanh() * module.cross_out(value)
    torch.testing.assert_close(module(x, maps, [Span(0, 1, 0)], (2, 3))[:, 1:7], wanted)


@pytest.mark.parametrize("grid", [(3, 2), (2, 3)])
def test_tokens_see_their_window_and_no_more(grid):
    """Token (i, j) looks at rows 2 i - 1 .. 2 i + 2 and such columns."""
    module, x = make(self_attention=False), hidden()
    maps = features(2 * grid[0], 2 * grid[1])
    before = module(x, maps, [Span(0, 1, 0)], grid)
    maps[0][0, 3, 2] += 1  # of columns, 2 is in the windows of tokens 0 and 1; of rows, 3 in those of 1 and 2
    changed = (module(x, maps, [Span(0, 1, 0)], grid) - before).abs().amax(2)[0, 1:7].view(grid) > 1e-9
    wanted = [[i in (1, 2) and j in (0, 1) for j in range(grid[1])] for i in range(grid[0])]
    assert changed.tolist() == wanted


def test_guide_tokens_count_in_any_order_and_nothing_else_does():
    module, x, maps = make(), hidden(), features(4, 4)
    spans, guide = [Span(0, 1, 0)], mask(1, 10, (0, 6), (0, 7))
    before = module(x, maps, spans, (2, 2), guide)
    swapped = x[:, [0, 1, 2, 3, 4, 5, 7, 6, 8, 9]]
    torch.testing.assert_close(module(swapped, maps, spans, (2, 2), guide)[:, 1:5], before[:, 1:5])
    answer = x.clone()
    answer[:, 8:] += 1  # not in the guide
    assert torch.equal(module(answer, maps, spans, (2, 2), guide)[:, 1:5], before[:, 1:5])
    assert torch.equal(before[:, [0, 5, 6, 7, 8, 9]], x[:, [0, 5, 6, 7, 8, 9]])
    x.requires_grad_()
    module(x, maps, spans, (2, 2), guide)[:, 1:5].sum().backward()
    assert x.grad[0, 6:8].abs().min() > 0  # the guide learns, too


def test_several_pictures_and_none_in_a_batch():
    """Spans are independent: sequences of two, one and no pictures, at other places."""
    module, x, maps = make(), hidden(3), features(4, 4, 3)
    vision = mask(3, 10, *[(0, i) for i in range(8)], *[(1, i) for i in range(3, 7)])
    guide = mask(3, 10, (0, 9), (1, 1), (1, 8))  # sequence 2 has none
    spans = find_spans(vision, 4)
    assert spans == [Span(0, 0, 0), Span(0, 4, 1), Span(1, 3, 2)]
    together = module(x, maps, spans, (2, 2), guide)
    for span in spans:
        row, places = span.row, slice(span.start, span.start + 4)
        own = [level[span.image : span.image + 1] for level in maps]
        alone = module(x[row : row + 1], own, [Span(0, span.start, 0)], (2, 2), guide[row : row + 1])
        torch.testing.assert_close(together[row, places], alone[0, places])
    assert torch.equal(together[2], x[2])
    shared = module(x, maps, find_spans(vision, 4, [1, 1, 1]), (2, 2), guide)  # one picture, three times
    torch.testing.assert_close(shared[0, 4:8], together[0, 4:8])


def test_ratios_that_are_not_whole_are_resized():
    """5 x 7 cells for 2 x 3 tokens: 3 x 3 cells a token, of a map of 6 x 9."""
    module, x, maps = make(ratio=3), hidden(), features(5, 7)
    resized = [F.interpolate(m.movedim(3, 1), (6, 9), mode="bilinear").movedim(1, 3) for m in maps]
    spans = [Span(0, 1, 0)]
    torch.testing.assert_close(module(x, maps, spans, (2, 3)), module(x, resized, spans, (2, 3)))
    joined = join_features(maps, (2, 3))
    assert joined.shape == (1, 6, 9, 9)
    assert torch.equal(module(x, joined, spans, (2, 3)), module(x, maps, spans, (2, 3)))


def test_ratios_of_each_axis():
    module, x = make(ratio=(2, 3)), hidden()
    assert module.cross_bias.shape == (2, 4, 5)
    assert module(x, features(4, 6), [Span(0, 1, 0)], (2, 2)).shape == x.shape


def test_gradients():
    module, x, maps = make(), hidden(), features(4, 4)
    inputs = [part.requires_grad_() for part in (x, *maps)]
    guide = mask(1, 10, (0, 8))
    assert torch.autograd.gradcheck(
        lambda x, *m: module(x, m, [Span(0, 2, 0)], (2, 2), guide), inputs, fast_mode=True
    )


def test_half_precision():
    module, x, maps = make(), hidden(), features(4, 4)
    args = [Span(0, 2, 0)], (2, 2), mask(1, 10, (0, 8))
    wanted = module(x, maps, *args)
    found = module.bfloat16()(x.bfloat16(), [m.bfloat16() for m in maps], *args)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(10, HIDDEN)}, r"hidden must be \(B, T, D\), found \(10, 12\)"),
        ({"hidden": torch.zeros(1, 10, 8).double()}, r"hidden must be \(B, T, 12\), found \(1, 10, 8\)"),
        ({"features": [torch.zeros(4, 4, 5)]}, r"features must be \(M, G, G, C\) .*\(4, 4, 5\)"),
        ({"features": features(4, 4)[:1]}, r"features must have \(5, 4\) channels, found \(5,\)"),
        ({"features": torch.zeros(1, 4, 4, 3)}, "features must have 9 channels, found 3"),
        ({"features": features(6, 4)}, "6 x 4 cells are 3 x 2 to each of the 2 x 2 tokens, wanted 2 x 2"),
        ({"features": torch.zeros(1, 3, 3, 9)}, "features of 3 x 3 cells"),
        ({"grid": (0, 2)}, r"grid must be the rows and columns of tokens, from 1, found \(0, 2\)"),
        ({"grid": (4, 1)}, "are 1 x 4 to each of the 4 x 1 tokens, wanted 2 x 2"),
        ({"spans": [Span(1, 2, 0)]}, "found sequence 1, wanted 0 to 0"),
        ({"spans": [Span(0, 7, 0)]}, "4 tokens from 7 on leave the 10 of a sequence"),
        ({"spans": [Span(0, -1, 0)]}, "4 tokens from -1 on leave the 10"),
        ({"spans": [Span(0, 4, 0), Span(0, 2, 0)]}, "4 tokens overlap those of the picture before"),
        ({"spans": [Span(0, 2, 1)]}, "found image 1, wanted 0 to 0"),
        ({"guide": torch.zeros(1, 10)}, r"guide must be bool \(1, 10\), found torch.float32 \(1, 10\)"),
        ({"guide": mask(1, 9)}, r"guide must be bool \(1, 10\), found torch.bool \(1, 9\)"),
        ({"guide": mask(1, 10, (0, 3))}, "tokens of it are in the guide, wanted the question's"),
    ],
)
def test_bad_input(change, message):
    inputs = {"hidden": hidden(), "features": features(4, 4), "spans": [Span(0, 2, 0)], "grid": (2, 2)}
    with pytest.raises(ValueError, match=message):
        make()(**{**inputs, "guide": mask(1, 10, (0, 8)), **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads must divide inner 8, found 3"),
        ({"ratio": 0}, "ratio must be from 1 and halo from 0, found 0 and 1"),
        ({"halo": -1}, "found 2 and -1"),
        ({"self_attention": False, "cross_attention": False}, "found neither"),
        ({"feature_channels": ()}, "feature_channels must be those of one level"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        VR(**{"hidden": HIDDEN, "feature_channels": CHANNELS, "inner": 8, "heads": 2, **options})


def test_spans_are_whole_pictures():
    with pytest.raises(
        ValueError, match="sequence 1: found 3 vision tokens from place 2 on, wanted pictures of 4"
    ):
        find_spans(mask(2, 9, (1, 2), (1, 3), (1, 4)), 4)
    with pytest.raises(ValueError, match="found 2 numbers of images for 1 spans"):
        find_spans(mask(1, 9, (0, 2)), 1, [0, 1])
    with pytest.raises(ValueError, match=r"vision must be bool \(B, T\), found torch.float32 \(1, 9\)"):
        find_spans(torch.zeros(1, 9), 1)


def test_stacked_features_use_each_cell_once():
    dealt = [StackedFeatures(HIDDEN, 9, 3, i, 3).cells for i in range(3)]
    assert sorted(sum(dealt, [])) == list(range(9))
    module = StackedFeatures(HIDDEN, 9, 2, 1, 3).double()
    torch.nn.init.ones_(module.gate)
    x, joined, spans = hidden(), torch.cat(features(4, 6), -1), [Span(0, 1, 0)]
    y = module(x, joined, spans, (2, 3))
    cell = module.proj(module.norm(joined[0, 2, 5]))  # the second cell of token (1, 2)
    torch.testing.assert_close(y[0, 6], x[0, 6] + cell * torch.tensor(1.0).double().tanh())
    assert torch.equal(y[0, 7:], x[0, 7:])
    with pytest.raises(ValueError, match="ratio 1 gives a token 1 cells, not enough for layer 0 of 3"):
        StackedFeatures(HIDDEN, 9, 1, 0, 3)


# ----------------------------------------------------------------------------------------------- the network


ARCH = {
    "vision": {
        **VisionRemember.archs["tiny"]["vision"],
        "arch": {**VisionRemember.archs["tiny"]["vision"]["arch"], "embed_dims": 24, "num_heads": 2},
    },
    "language": {
        "type": "Transformer",
        "arch": {"embed_dims": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0},
        "positions": "rotary",
    },
}


def network(**options):
    torch.manual_seed(0)
    model = VisionRemember(ARCH, 20, **options).double().eval()
    for parameter in model.parameters():
        if parameter.abs().max() < 0.2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("memory", ["vr", "deepstack", "none"])
def test_answers_from_the_cache_are_those_of_whole_passes(memory):
    model = network(memory=memory)
    pictures, ids, guide = model.example_inputs(2, (32, 48))
    pictures = pictures.double()
    found = model.generate(pictures, ids, guide, max_tokens=4)
    whole = ids
    for i in range(4):
        wide = F.pad(guide, (0, i))  # what was answered is no part of it
        token = model(pictures, whole, wide)[:, -1, IMAGE + 1 :].argmax(-1) + IMAGE + 1  # a word
        assert torch.equal(found[:, i], token)
        whole = torch.cat((whole, token[:, None]), 1)
    state = model.language.new_state(2)
    _, state = model(pictures, ids, guide, state=state)
    logits, _ = model.language(found, state=state)
    torch.testing.assert_close(logits[:, -1], model(pictures, whole, F.pad(guide, (0, 4)))[:, -1])


@torch.no_grad()
def test_padding_on_the_left_changes_nothing():
    model = network()
    pictures, ids, guide = model.example_inputs(2, (32, 32))
    pictures = pictures.double()
    padded, wide = F.pad(ids, (3, 0)), F.pad(guide, (3, 0))
    real = F.pad(torch.ones_like(guide), (3, 0))
    found, wanted = model(pictures, padded, wide, real)[:, 3:], model(pictures, ids, guide)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # positions are float32


@torch.no_grad()
def test_sequences_without_pictures_and_questions_of_one():
    model = network()
    pictures, ids, guide = model.example_inputs(1, (32, 32))
    pictures, words = pictures.double(), torch.where(ids == IMAGE, 5, ids)
    both = model(pictures, torch.cat((words, ids, ids)), torch.cat((guide,) * 3), images=[0, 0])
    torch.testing.assert_close(both[1], model(pictures, ids, guide)[0])
    torch.testing.assert_close(both[1], both[2])
    torch.testing.assert_close(both[0], model.language(words)[0])
    with pytest.raises(ValueError, match="found 1 pictures, but ids have room for more"):
        model(pictures, torch.cat((ids, ids)), torch.cat((guide, guide)))


def test_a_frozen_encoder_learns_nothing():
    model = network(frozen=True).train()
    pictures, ids, guide = model.example_inputs(2, (32, 32))
    model(pictures.double(), ids, guide).sum().backward()
    assert not model.vision.training
    assert all(p.grad is None for p in model.vision.parameters())
    assert all(p.grad is not None for p in model.memories.parameters())


def test_levels_of_several_sizes():
    """Of SHViT, whose maps have strides 16, 32 and 64: windows are of the finest."""
    vision = {
        "type": "SHViT",
        "arch": {"embed_dims": (16, 24, 32), "depths": (1, 1, 1), "attention_channels": (None, 8, 8)},
    }
    model = VisionRemember({**ARCH, "vision": vision}, 20, ratio=1).eval()
    assert model.memories[0].ratio == (4, 4)
    pictures, ids, guide = model.example_inputs(1, (128, 64))
    assert model(pictures, ids, guide).shape == (1, ids.shape[1], 20)


def test_insertion_layers():
    assert insertion_layers(28) == (7, 14, 21)
    assert insertion_layers(4) == (1, 2, 3) and insertion_layers(2) == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "deepstak"}, "memory must be one of .*'deepstak'; did you mean deepstack"),
        ({"ratio": 0}, "ratio must be at least 1, found 0"),
        ({"layers": (1, 5)}, "layers: found 5, but the language model has 4 layers; wanted 1 to 4"),
        ({"layers": (2, 2)}, r"layers must differ, found \(2, 2\)"),
        ({"vocab_size": 2}, "vocab_size must be at least 3"),
    ],
)
def test_bad_networks(options, message):
    with pytest.raises(ValueError, match=message):
        VisionRemember(**{"arch": ARCH, "vocab_size": 20, **options})


def test_bad_calls():
    model = network()
    pictures, ids, guide = model.example_inputs(1, (32, 32))
    pictures = pictures.double()
    with pytest.raises(ValueError, match=r"guide must be bool \(1, 9\), found torch.int64 \(1, 9\)"):
        model(pictures, ids, guide.long())
    with pytest.raises(ValueError, match="found tokens of a picture in it"):
        model(pictures, ids, torch.ones_like(guide))
    with pytest.raises(ValueError, match="guide: found padding in it"):
        model(pictures, ids, guide, torch.zeros_like(guide))
    with pytest.raises(ValueError, match="found 4 vision tokens from place 1 on, wanted pictures of 6"):
        model(F.pad(pictures, (0, 16)), ids, guide)
    with pytest.raises(
        ValueError, match="pictures of 24 x 32 pixels make 3 x 4 cells, wanted multiples of the ratio 2"
    ):
        model(pictures[:, :, :24], ids, guide)
    with pytest.raises(ValueError, match="ids must be 0..19"):
        model(pictures, ids.clamp(min=1) + 30 * (ids != IMAGE), guide)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, found 0"):
        model.generate(pictures, ids, guide, max_tokens=0)


def test_modules_are_parts_of_any_language_model():
    language = Transformer(ARCH["language"]["arch"], 20, positions="learned", max_length=40)
    model = VisionRemember({**ARCH, "language": language}, 20, layers=(4,))
    assert model.language is language and len(model.memories) == 1
