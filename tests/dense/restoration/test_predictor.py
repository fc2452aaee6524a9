import tracemalloc

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image, ImageCms
from torch import nn

import dense.restoration
from dense.restoration import EDSR, ImageRestorer, Restorer
from dense.restoration.degradations import imresize
from dense.restoration.images import Picture, read_image, write_image
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.dense.memory import LargestTensor

from .toy import ToyUpscaler, make_image

RNG = np.random.default_rng(0)
IMAGE = make_image(RNG, 13, 18)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (13, 18)])
def test_any_size_and_kind(tmp_path, scale, size):
    """The network repeats pixels, so that everything but the opacity is known exactly."""
    restorer = Restorer(ToyUpscaler(scale), device="cpu", tile=8, overlap=4)
    eight, sixteen = (
        RNG.integers(0, m, (*size, 4)).astype(t) for m, t in ((256, np.uint8), (65536, np.uint16))
    )
    for levels in (eight, sixteen):
        for channels in (1, 3):
            for alpha in (None, levels[..., 3]):
                write_image(tmp_path / "a.png", Picture(levels[..., :channels], alpha))
                restorer(tmp_path / "a.png", tmp_path / "b.png")
                found = read_image(tmp_path / "b.png")
                expected = levels[..., :channels].repeat(scale, 0).repeat(scale, 1)
                np.testing.assert_array_equal(found.pixels, expected)
                assert found.pixels.dtype == levels.dtype
                assert (found.alpha is None) == (alpha is None)
                if alpha is not None:
                    resized = imresize(alpha / np.iinfo(alpha.dtype).max, scale).clip(0, 1)
                    difference = found.alpha / np.iinfo(alpha.dtype).max - resized
                    assert np.abs(difference).max() <= 0.51 / np.iinfo(alpha.dtype).max + 1e-7


def test_palette_and_exif(tmp_path):
    restorer = Restorer(ToyUpscaler(), device="cpu")
    palette = Image.fromarray(IMAGE).quantize(16)
    palette.save(tmp_path / "a.png")
    restorer(tmp_path / "a.png", tmp_path / "b.png")
    expected = np.asarray(palette.convert("RGB")).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(IMAGE).save(tmp_path / "c.png", exif=exif)
    restorer(tmp_path / "c.png", tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as found:
        assert found.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(found), np.rot90(IMAGE, -1).repeat(2, 0).repeat(2, 1))


def test_what_a_file_holds_comes_out_again(tmp_path):
    """Depth, profile, opacity; of pages and of what the written kind lacks, one line."""
    restorer = Restorer(ToyUpscaler(), device="cpu")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = RNG.integers(0, 65536, (9, 12, 4)).astype(np.uint16)
    for channels, alpha, suffixes in (
        (3, None, "png tif"),
        (3, 3, "png tif"),
        (1, None, "png tif"),
        (1, 3, "png"),
    ):
        opacity = None if alpha is None else deep[..., alpha]
        for suffix in suffixes.split():
            source = Picture(deep[..., :channels], opacity, profile if channels == 3 else None)
            write_image(tmp_path / "a.png", source)
            restorer(tmp_path / "a.png", tmp_path / f"b.{suffix}")
            found = read_image(tmp_path / f"b.{suffix}")
            np.testing.assert_array_equal(found.pixels, source.pixels.repeat(2, 0).repeat(2, 1))
            assert found.pixels.dtype == np.uint16 and found.icc_profile == source.icc_profile
            assert (found.alpha is None) == (opacity is None)
    (tmp_path / "a.ppm").write_bytes(b"P6\n12 9\n65535\n" + deep[..., :3].astype(">u2").tobytes())
    restorer([tmp_path / "a.ppm"], tmp_path / "out")
    np.testing.assert_array_equal(read_image(tmp_path / "out/a.png").pixels[::2, ::2], deep[..., :3])
    Image.fromarray(IMAGE).convert("CMYK").save(tmp_path / "c.tif")
    restorer(tmp_path / "c.tif", tmp_path / "d.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "d.tif").pixels[::2, ::2], IMAGE)
    for name in ("e.tif", "e.gif", "e.png", "e.webp"):
        pages = [Image.fromarray(255 - IMAGE)]
        Image.fromarray(IMAGE).save(tmp_path / name, save_all=True, append_images=pages)
        with pytest.raises(OSError, match=rf"{name}: .*found 2 pages or frames, wanted one"):
            restorer(tmp_path / name, tmp_path / "f.png")
    with pytest.raises(OSError, match=r"g\.jpg: JPEG does not hold 16 bits a channel, wanted \.png or \.tif"):
        restorer(tmp_path / "a.ppm", tmp_path / "g.jpg")


def test_networks_of_one_channel():
    restorer = Restorer(ToyUpscaler(in_channels=1), device="cpu")
    np.testing.assert_array_equal(restorer.restore_pixels(IMAGE), IMAGE.repeat(2, 0).repeat(2, 1))
    assert restorer.restore_pixels(IMAGE[..., :1]).shape == (26, 36, 1)


def test_a_grey_image_gets_the_mean_of_three_channels():
    class Tint(ToyUpscaler):
        def forward(self, x):
            return super().forward(x) + torch.tensor([0.6, 0.0, 0.0]).view(3, 1, 1)

    grey = np.full((4, 4, 1), 51, np.uint8)
    assert (Restorer(Tint(), device="cpu").restore_pixels(grey) == 51 + 255 * 0.2).all()


def test_wrong_pixels():
    restorer = Restorer(ToyUpscaler(), device="cpu")
    for pixels in (IMAGE[..., 0], IMAGE[..., :2], IMAGE / 255):
        with pytest.raises(ValueError, match=r"\(H, W, 1 or 3\) uint8 or uint16, found"):
            restorer.restore_pixels(pixels)


def test_folders_lists_and_arrays(tmp_path):
    restorer = Restorer(ToyUpscaler(), device="cpu", progress=False)
    (tmp_path / "poor").mkdir()
    names = {"b.png": "b.png", "a.JPG": "a.JPG", "c.gif": "c.png", "d.pgm": "d.png"}
    for name in names:
        image = Image.fromarray(IMAGE)
        image.convert("L").save(tmp_path / "poor" / name) if name == "d.pgm" else image.save(
            tmp_path / "poor" / name
        )
    (tmp_path / "poor" / "notes.txt").write_text("no image")
    assert restorer(tmp_path / "poor", tmp_path / "good") is None
    assert {p.name for p in (tmp_path / "good").iterdir()} == set(names.values())
    for source, target in names.items():
        found, poor = (read_image(tmp_path / p) for p in (f"good/{target}", f"poor/{source}"))
        expected = poor.pixels.repeat(2, 0).repeat(2, 1)
        if target != "a.JPG":
            np.testing.assert_array_equal(found.pixels, expected)
        assert found.pixels.shape == expected.shape
    paths = [tmp_path / "poor" / "b.png", IMAGE, IMAGE[..., :1]]
    pictures = restorer(paths)
    assert [picture.pixels.shape for picture in pictures] == [(26, 36, 3), (26, 36, 3), (26, 36, 1)]
    np.testing.assert_array_equal(pictures[0].pixels, pictures[1].pixels)
    np.testing.assert_array_equal(restorer(IMAGE).pixels, pictures[0].pixels)
    assert restorer(paths, tmp_path / "list") is None
    assert sorted(p.name for p in (tmp_path / "list").iterdir()) == ["1.png", "2.png", "b.png"]


def test_many_images_that_cannot_be_written(tmp_path):
    restorer = Restorer(ToyUpscaler(), device="cpu")
    for name in ("a.gif", "a.png"):
        Image.fromarray(IMAGE).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.gif and .*a.png would both become .*good/a.png"):
        restorer(tmp_path, tmp_path / "good")
    with pytest.raises(ValueError, match="a.png would be written over"):
        restorer([tmp_path / "a.png"], tmp_path)
    assert not (tmp_path / "good").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: a folder without files that end in .bmp"):
        restorer(tmp_path / "empty", tmp_path / "good")


def test_progress(tmp_path, capsys):
    Restorer(ToyUpscaler(), device="cpu", progress=True)([IMAGE] * 3)
    assert "3/3" in capsys.readouterr().err
    Restorer(ToyUpscaler(), device="cpu", progress=True)(IMAGE)
    assert not capsys.readouterr().err


def test_the_first_name_goes_on_working():
    from dense.restoration.restorer import Restorer as published

    assert published is Restorer is dense.restoration.Restorer


def test_nothing_is_half_written(tmp_path):
    class Broken(ToyUpscaler):
        def forward(self, x):
            raise RuntimeError("out of memory")

    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="out of memory"):
        Restorer(Broken(), device="cpu")(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"old"
    write_image(tmp_path / "deep.png", Picture(IMAGE.astype(np.uint16)))
    with pytest.raises(OSError, match="does not hold 16 bits"):  # before the network runs
        Restorer(Broken(), device="cpu")(tmp_path / "deep.png", tmp_path / "c.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "deep.png"]


def test_configs_and_checkpoints(tmp_path):
    arch = {"channels": 4, "depth": 1, "scaling": 1.0}
    (tmp_path / "c.py").write_text(
        f'model = dict(type="ImageRestorer", network=dict(type="EDSR", arch={arch}, scale=2))'
    )
    torch.manual_seed(0)
    network = EDSR(arch)
    expected = Restorer(network, device="cpu").restore_pixels(IMAGE)
    save_checkpoint({"state_dict": ImageRestorer(network).state_dict()}, tmp_path / "run.pth")
    save_checkpoint(network.state_dict(), tmp_path / "bare.pth")
    for name in ("run.pth", "bare.pth"):
        found = Restorer(tmp_path / "c.py", tmp_path / name, device="cpu").restore_pixels(IMAGE)
        np.testing.assert_array_equal(found, expected)
    (tmp_path / "run").mkdir()
    for name in ("c.py", "run.pth"):
        (tmp_path / name).replace(tmp_path / "run" / name)
    (tmp_path / "run" / "last_checkpoint").write_text("run.pth")
    for arguments in ((tmp_path / "run",), (Config.fromfile(tmp_path / "run/c.py"), tmp_path / "run")):
        np.testing.assert_array_equal(Restorer(*arguments, device="cpu").restore_pixels(IMAGE), expected)
    (tmp_path / "run/c.py").rename(tmp_path / "c.py")
    with pytest.raises(UsageError, match="missing.pth: no such checkpoint"):
        Restorer(tmp_path / "c.py", tmp_path / "missing.pth")
    save_checkpoint(EDSR({**arch, "depth": 2}).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="bare.pth does not fit ImageRestorer"):
        Restorer(tmp_path / "c.py", tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="wanted a checkpoint"):
        Restorer(tmp_path / "c.py")


def test_tiles_give_what_the_whole_gives():
    """Where a network looks no further than the overlap."""
    torch.manual_seed(0)
    network = EDSR({"channels": 4, "depth": 1, "scaling": 1.0})  # looks 6 pixels far
    image = make_image(RNG, 40, 50)
    whole = Restorer(network, device="cpu", tile=None).restore_pixels(image)
    tiled = Restorer(network, device="cpu", tile=16, overlap=8).restore_pixels(image)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_memory_is_bounded():
    """The network's tensors are those of a tile; the others take some bytes a pixel of the result."""
    network = EDSR({"channels": 16, "depth": 1, "scaling": 1.0})
    restorer = Restorer(network, device="cpu", tile=32, overlap=8)

    class Watched(nn.Module):
        scale, multiple, in_channels, largest = 2, 1, 3, 0

        def forward(self, x):
            with LargestTensor() as made:
                y = network(x)
            self.largest = max(self.largest, made.numel)
            return y

    restorer.network = Watched()
    largest = []
    for side in (100, 300):
        image = make_image(RNG, side, side)
        restorer.network.largest = 0
        with LargestTensor() as made:
            restorer.restore_pixels(image)
        largest.append(restorer.network.largest)
        assert made.numel <= max(3 * (2 * side) ** 2, largest[-1])
    assert largest[0] == largest[1] <= 4 * 16 * (32 + 2 * 8) ** 2

    tracemalloc.start()  # NumPy's arrays; PyTorch's are the image and the result, of 12 bytes a pixel each
    restorer.restore(Picture(image, image[..., 0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 36 * (2 * 300) ** 2


def test_tiles_are_rounded_to_what_the_network_takes():
    network = EDSR(scale=2)
    network.multiple = 7
    restorer = Restorer(network)
    assert (restorer.tile, restorer.overlap) == (259, 35)
