import numpy as np
import pytest
from PIL import Image

from dense.base.captions import add_captions, write_image, write_note


def test_strips_are_above_and_below_and_the_picture_stays():
    picture = np.full((40, 120, 3), 90, np.uint8)
    found = add_captions(picture, ["poor", "good"], [("right", (0, 200, 0)), ("no colour", None)])
    top = len(add_captions(picture[:0], ["poor", "good"]))
    np.testing.assert_array_equal(found[top : top + 40], picture)
    assert found.shape[1:] == (120, 3) and found.dtype == np.uint8
    for half in (found[:top, :60], found[:top, 60:]):
        assert (half < 128).any() and not (half[:, -1] < 128).any()
    assert (found[top + 40 :] == (0, 200, 0)).all(-1).sum() > 50
    np.testing.assert_array_equal(add_captions(picture), picture)


@pytest.mark.parametrize("width", [24, 60, 200])
def test_words_are_wrapped_not_cut(width):
    text = "a heading of several words and averyveryveryverylongone"
    strip = add_captions(np.zeros((0, width, 3), np.uint8), [text])
    wide = add_captions(np.zeros((0, 800, 3), np.uint8), [text])
    assert not (strip[:, [0, -1]] < 128).any() and not (strip[-1] < 128).any()
    assert (strip < 128).sum() == pytest.approx((wide < 128).sum(), rel=0.1)  # all letters are there


def test_a_note_lies_in_the_corner():
    picture = np.full((60, 200, 3), 90, np.uint8)
    found = write_note(picture, "3 boxes")
    changed = (found != picture).any(-1)
    assert (
        found.shape == picture.shape
        and changed[-1, 0]
        and not changed[:40].any()
        and not changed[:, 100:].any()
    )
    assert (found > 200).any() and (picture == 90).all()


def test_pictures_are_written_as_their_suffix_says(tmp_path):
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    write_image(tmp_path / "new" / "a.PNG", picture)
    with Image.open(tmp_path / "new" / "a.PNG") as image:
        assert image.format == "PNG" and np.array_equal(image, picture)
    with pytest.raises(ValueError, match=r"a\.foo: a suffix of an image format, .*found '.foo'"):
        write_image(tmp_path / "a.foo", picture)
    assert not (tmp_path / "a.foo").exists()
