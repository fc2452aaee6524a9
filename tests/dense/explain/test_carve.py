import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dense.explain.carve import (
    Attention,
    ask,
    carve,
    contrast,
    find_grid,
    fuse,
    label_regions,
    refine,
    select_regions,
)

LAYERS = (0, 2)


def make_maps(steps=3, seed=0, layers=3, tokens=12):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(steps, layers, tokens, generator=generator)).softmax(-1)


def make_image(width=40, height=30, mode="RGB"):
    rng = np.random.default_rng(0)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


# ------------------------------------------------------------------------------------------ contrast, fuse


def test_equal_attention_gives_one_and_a_constant_map():
    ratio = contrast(make_maps(), make_maps())
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-4, atol=0)
    fused = fuse(torch.ones(3, 3, 12), (3, 4), (40, 30), LAYERS)
    np.testing.assert_allclose(fused, (1 + 2 + 3) * 2)


def test_double_attention_gives_a_double_map_and_layers_have_no_order():
    query, general = make_maps(), make_maps(2, 1)
    one = fuse(contrast(query, general), (3, 4), (40, 30), LAYERS)
    np.testing.assert_allclose(fuse(contrast(2 * query, general), (3, 4), (40, 30), LAYERS), 2 * one)
    np.testing.assert_allclose(fuse(contrast(query, general), (3, 4), (40, 30), LAYERS[::-1]), one)
    np.testing.assert_allclose(fuse(contrast(query[:2], general), (3, 4), (40, 30), LAYERS), one)


@pytest.mark.parametrize("size", [(40, 30), (5, 3)])
@pytest.mark.parametrize("mode", ["all", "first"])
def test_resizing_once_is_resizing_each(size, mode):
    ratio = contrast(make_maps(), make_maps(seed=1)).double()
    each = 0
    for step in range(3 if mode == "all" else 1):
        for layer in LAYERS:
            grid = ratio[step, layer].view(1, 1, 3, 4)
            each = each + (step + 1) * F.interpolate(grid, size[::-1], mode="bilinear", antialias=True)
    np.testing.assert_allclose(fuse(ratio, (3, 4), size, LAYERS, mode), each[0, 0].numpy())


def test_layers_beyond_the_depth_are_left_out():
    ratio = contrast(make_maps(), make_maps(seed=1))
    some = fuse(ratio, (3, 4), (8, 6), (2, 3, 9))
    np.testing.assert_array_equal(some, fuse(ratio, (3, 4), (8, 6), (2,)))


def test_the_true_grid_wins_and_the_published_table_is_a_quirk():
    assert find_grid(256, (8, 32)) == (8, 32)
    assert find_grid(256, (8, 32), reference_quirks=True) == (16, 16)
    assert find_grid(300, (8, 32)) == (8, 32)
    assert find_grid(49, None) == (7, 7)
    assert find_grid(49, (8, 8), reference_quirks=True) == (7, 7)
    with pytest.raises(ValueError, match="image tokens: found 49, wanted a grid of 8 by 8"):
        find_grid(49, (8, 8))
    with pytest.raises(ValueError, match="found 50, wanted a square number"):
        find_grid(50, None)


# -------------------------------------------------------------------------------------------------- regions


def test_regions_are_numbered_in_raster_order_and_hang_together_over_sides():
    rows = ["..#..#", ".#..##", "##....", "...#.#"]
    mask = np.array([[c == "#" for c in row] for row in rows])
    regions, count = label_regions(mask)
    wanted = [[0, 0, 1, 0, 0, 2], [0, 3, 0, 0, 2, 2], [3, 3, 0, 0, 0, 0], [0, 0, 0, 4, 0, 5]]
    assert count == 5
    assert regions.tolist() == wanted


def test_numbers_are_those_of_first_pixels():
    """Branches that meet late are one region, numbered by its first pixel."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        regions, count = label_regions(rng.random((9, 11)) < 0.55)
        found = regions.ravel()[regions.ravel() > 0]
        assert list(dict.fromkeys(found)) == list(range(1, count + 1))


def make_fused():
    """A region of four pixels, one of two with a larger sum, and two single ones."""
    fused = np.zeros((5, 8))
    fused[0, :4] = 1.0
    fused[2, 1:3] = 4.0
    fused[4, 0] = fused[4, 6] = 2.0
    return fused


def regions_of(mask):
    return sorted(np.unique(label_regions(mask | (make_fused() > 0))[0][mask]).tolist())


def test_strategies_by_hand():
    how = {"top_percent": 0.2, "min_keep_regions": 1}  # all eight of forty pixels are candidates
    assert regions_of(select_regions(make_fused(), "size", **how)) == [1]
    assert regions_of(select_regions(make_fused(), "attention_sum", **how)) == [2]
    how["min_keep_regions"] = 3
    assert regions_of(select_regions(make_fused(), "size", **how)) == [1, 2, 3]  # the tie by its number
    assert regions_of(select_regions(make_fused(), "remove_small", 0.2, outlier_percent=25)) == [1, 2]
    assert regions_of(select_regions(make_fused(), "remove_small", 0.2)) == [1, 2, 3, 4]


def test_equal_numbers_may_be_more_than_their_share():
    """A tenth of ten pixels is one, but three have the number at which candidates begin."""
    fused = np.array([[0, 0, 5, 5, 5, 0, 0, 0, 0, 0.0]])
    assert select_regions(fused, "remove_small", 0.1).tolist() == (fused == 5).tolist()


@pytest.mark.parametrize("strategy", ["remove_small", "size", "attention_sum"])
def test_kept_regions_are_whole_and_candidates(strategy):
    fused = fuse(contrast(make_maps(tokens=64), make_maps(seed=1, tokens=64)), (8, 8), (40, 30), LAYERS)
    candidates = fused >= np.percentile(fused, 80)
    mask = select_regions(fused, strategy)
    assert mask.any()
    assert not (mask & ~candidates).any()
    regions, count = label_regions(candidates)
    for number in range(1, count + 1):
        assert len(np.unique(mask[regions == number])) == 1


# --------------------------------------------------------------------------------------------------- refine


def test_the_box_touches_what_is_kept_and_the_picture_covers_the_original():
    mask = np.zeros((30, 40), bool)
    mask[4:9, 7:20] = True
    mask[12, 15] = True
    image = make_image()
    box, refined = refine(image, mask)
    assert box == (7, 4, 20, 13)
    assert refined.size == (43, 30)  # 13 x 9 by 30 / 9, rounded down
    whole = np.zeros((30, 40), bool)
    whole[:] = True
    box, same = refine(image, whole)
    assert box == (0, 0, 40, 30)
    assert np.array_equal(np.asarray(same), np.asarray(image))
    box, black = refine(image, np.zeros((30, 40), bool))
    assert box == (0, 0, 40, 30)
    assert not np.asarray(black).any()


def test_grey_images_become_colour():
    mask = np.ones((30, 40), bool)
    assert refine(make_image(mode="L"), mask)[1].mode == "RGB"


def test_versions_differ_in_steps_and_strategies():
    query, general = make_maps(tokens=64), make_maps(seed=1, tokens=64)
    found = {
        v: carve(make_image(), query, general, (8, 8), version=v, layers=LAYERS) for v in ("v1", "v3", "v4")
    }
    np.testing.assert_array_equal(found["v1"].fused, found["v3"].fused)
    assert not np.allclose(found["v3"].fused, found["v4"].fused)
    assert found["v1"].mask.sum() >= found["v3"].mask.sum()


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: contrast(make_maps()[0], make_maps()), "query: found"),
        (lambda: contrast(make_maps(), make_maps(layers=2)), r"general: found \(3, 2, 12\), wanted \(steps"),
        (lambda: contrast(make_maps() * torch.nan, make_maps()), "query: found NaN"),
        (lambda: contrast(make_maps(), -make_maps()), "general: found NaN, infinity or a negative"),
        (lambda: contrast(make_maps(), make_maps(), 0.0), "lam: found 0.0"),
        (lambda: fuse(make_maps(), (3, 4), (8, 6)), "layers: found 20, 21.*wanted some of 0 to 2"),
        (lambda: fuse(make_maps(), (3, 4), (8, 6), (-1,)), "layers: found -1"),
        (lambda: fuse(make_maps(), (3, 4), (8, 6), (0,), "last"), "mode: found 'last'"),
        (lambda: fuse(make_maps(), (3, 4), (0, 6), (0,)), "size: found"),
        (lambda: select_regions(make_fused(), "sizes"), "strategy: found 'sizes'.*did you mean size"),
        (lambda: select_regions(make_fused(), top_percent=20), "top_percent: found 20"),
        (lambda: select_regions(make_fused(), min_keep_regions=0), "min_keep_regions: found 0"),
        (lambda: select_regions(np.ones((3, 3))), "map: found 1 everywhere"),
        (lambda: select_regions(np.full((3, 3), np.nan)), "NaN"),
        (lambda: refine(make_image(), np.ones((3, 3), bool)), r"mask: found \(3, 3\), wanted \(30, 40\)"),
        (lambda: carve(make_image(), make_maps(), make_maps(), version="v5"), "version: found 'v5'"),
        (lambda: ask(None, make_image(), " "), "question: found no text"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# ----------------------------------------------------------------------------------------------------- ask


class Oracle:
    """Looks at one token where a question is asked, anywhere for a description."""

    def __init__(self):
        self.asked = []

    def attention(self, image, prompt):
        maps = torch.full((2, 3, 12), 1 / 12)
        if "red" in prompt:
            maps[..., 6] = 0.9
        self.asked.append(prompt)
        return Attention("blue", maps, (3, 4))

    def answer(self, images, prompt):
        self.images = images
        return "red"


def test_asking_takes_three_passes():
    oracle, image = Oracle(), make_image()
    found = ask(oracle, image, "what is red?", layers=LAYERS, min_keep_regions=1)
    assert (found.first, found.refined) == ("blue", "red")
    assert oracle.asked[0].startswith("what is red? Answer the question using")
    assert oracle.asked[1].startswith("Write a general description of the image.")
    assert [picture.size for picture in oracle.images] == [(40, 30), found.refinement.image.size]
    x0, y0, x1, y1 = found.refinement.box
    assert x0 <= 25 < x1  # the centre of token 6, in row 1 and column 2 of 3 by 4
    assert y0 <= 15 < y1
    assert (x1 - x0) * (y1 - y0) < 40 * 30 / 2
