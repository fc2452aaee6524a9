"""What mmcv, mmdet and mmseg open, as their own configs would have them do it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmseg")
pytest.importorskip("mmdet")

from mmcv.ops import FusedBiasLeakyReLU, fused_bias_leakyrelu
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations as LoadBoxes
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from dense.base.images import LoadImage
from dense.base.libraries import make_palette
from pointsuite.engine.errors import UsageError
from tests.dense.detection.coco_toy import CLASSES, write_coco
from tests.hostile.image_corpus import image_files

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
ORIENTATIONS = range(1, 9)


def load(path, **options):
    return LoadImageFromFile(**options).transform({"img_path": str(path)})["img"]


def write_turned(path, orientation, pixels=PIXELS):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return LoadImage()({"img_path": str(path)})["img"]  # as it is shown


def test_damaged_files_are_one_line(tmp_path):
    """Of every format; whole ones are what everything else here reads."""
    for name, (data, right) in image_files(seed=0).items():
        path = tmp_path / name
        path.write_bytes(data)
        if right is None:
            with pytest.raises(OSError, match=name) as error:
                load(path)
            assert "\n" not in str(error.value)
            assert LoadImageFromFile(ignore_empty=True).transform({"img_path": str(path)}) is None
        else:
            assert np.array_equal(load(path)[..., ::-1], right)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load(tmp_path / "none.png")


@pytest.mark.parametrize("backend", ["cv2", "pillow", "turbojpeg"])
def test_colours_depth_and_kinds(tmp_path, backend):
    deep = (RNG.integers(0, 65536, (6, 9))).astype(np.uint16)
    alpha = np.dstack([PIXELS, PIXELS[..., 0]])
    images = {
        "rgb": Image.fromarray(PIXELS),
        "rgba": Image.fromarray(alpha),
        "grey": Image.fromarray(PIXELS[..., 0]),
        "deep": Image.fromarray(deep),
        "palette": Image.fromarray(PIXELS).quantize(16),
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        right = LoadImage()({"img_path": str(path)})["img"]
        found = load(path, imdecode_backend=backend)
        assert np.array_equal(found[..., ::-1], right) and found.flags.c_contiguous
        assert found.flags.writeable
        grey = load(path, color_type="grayscale", imdecode_backend=backend)
        luma = right @ [0.299, 0.587, 0.114]
        assert grey.shape == (6, 9) and grey.dtype == np.uint8 and abs(grey - luma).max() < 1
        whole = load(path, color_type="unchanged", imdecode_backend=backend)
        assert grey.flags.writeable and whole.flags.writeable
        assert whole.dtype == (np.uint16 if name == "deep" else np.uint8)
        assert whole.shape == ((6, 9) if name in ("grey", "deep") else (6, 9, 4 if name == "rgba" else 3))
    assert np.array_equal(load(tmp_path / "rgba.png", color_type="unchanged"), alpha[..., [2, 1, 0, 3]])
    assert load(tmp_path / "rgb.png", to_float32=True).dtype == np.float32


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_and_pictures_that_exif_turns(tmp_path, orientation):
    """A picture is what its annotations are of, as it is shown or as it is stored, or it is refused."""
    shown = write_turned(tmp_path / "a.png", orientation)
    assert np.array_equal(load(tmp_path / "a.png")[..., ::-1], shown)
    stored = load(tmp_path / "a.png", color_type="color_ignore_orientation")
    assert np.array_equal(stored[..., ::-1], PIXELS)
    for right in (shown, PIXELS):
        sample = {"img_path": str(tmp_path / "a.png"), "height": len(right), "width": right.shape[1]}
        if orientation in (2, 3, 4):
            with pytest.raises(OSError, match=rf"a\.png: EXIF turns it \(orientation {orientation}\)"):
                LoadImageFromFile().transform(sample)
        else:
            assert np.array_equal(LoadImageFromFile().transform(sample)["img"][..., ::-1], right)
    with pytest.raises(OSError, match=r"a\.png: is \d x \d pixels, wanted 7 x 7 as its entry in the annot"):
        LoadImageFromFile().transform({"img_path": str(tmp_path / "a.png"), "height": 7, "width": 7})


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_and_pictures_that_exif_turns(tmp_path, orientation):
    shown = write_turned(tmp_path / "a.jpg", orientation)
    stored = load(tmp_path / "a.jpg", color_type="color_ignore_orientation")[..., ::-1]
    for right in (shown, stored):
        Image.fromarray(right[..., 0] // 128).save(tmp_path / "a.png")
        sample = seg_sample(tmp_path)
        if orientation in (2, 3, 4):
            with pytest.raises(OSError, match=r"a\.jpg: EXIF turns it .*a\.png is of the image"):
                LoadImageFromFile().transform(sample)
        else:
            found = LoadAnnotations().transform(LoadImageFromFile().transform(sample))
            assert np.array_equal(found["img"][..., ::-1], right)
            assert np.array_equal(found["gt_seg_map"], right[..., 0] // 128)


# ---------------------------------------------------------------------------------------------------- masks


def seg_sample(folder, **more):
    sample = {"img_path": str(folder / "a.jpg"), "seg_map_path": str(folder / "a.png"), "seg_fields": []}
    return {**sample, "reduce_zero_label": False, "label_map": None, **more}


def read_mask(folder, mask, **more):
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(folder / "a.png")
    Image.fromarray(PIXELS).save(folder / "a.jpg")
    return LoadAnnotations().transform(LoadImageFromFile().transform(seg_sample(folder, **more)))[
        "gt_seg_map"
    ]


LABELS = RNG.integers(0, 5, (6, 9)).astype(np.uint8)


def test_kinds_of_masks(tmp_path):
    palette = Image.fromarray(LABELS)
    palette.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    for mask in (LABELS, palette, LABELS.astype(np.uint16)):
        found = read_mask(tmp_path, mask)
        assert found.dtype == np.uint8 and np.array_equal(found, LABELS)
    found = read_mask(tmp_path, Image.fromarray(LABELS > 2))  # of one bit
    assert np.array_equal(found, LABELS > 2)


def test_labels_are_renamed(tmp_path):
    found = read_mask(tmp_path, LABELS, label_map={0: 1, 1: 0, 4: 255})
    assert np.array_equal(found, np.array([1, 0, 2, 3, 255])[LABELS])
    found = read_mask(tmp_path, LABELS, reduce_zero_label=True, label_map={0: 3})
    assert np.array_equal(found, np.array([255, 3, 1, 2, 3])[LABELS])


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (PIXELS, "found a mask of RGB, wanted one label a pixel"),
        (np.dstack([LABELS, LABELS]), "found a mask of LA, wanted one label a pixel"),
        (np.full((6, 9), 300, np.uint16), "found the label 300, wanted at most 255"),
        (LABELS[:5], r"is 9 x 5 pixels, wanted 9 x 6 as its image .*a\.jpg"),
        (LABELS.T, r"is 6 x 9 pixels, wanted 9 x 6 as its image .*a\.jpg"),
    ],
)
def test_masks_that_are_none(tmp_path, mask, said):
    with pytest.raises(OSError, match=rf"a\.png: {said}"):
        read_mask(tmp_path, mask)


def test_damaged_masks_are_one_line(tmp_path):
    read_mask(tmp_path, LABELS)
    data = (tmp_path / "a.png").read_bytes()
    for damaged in (data[:-20], b"", b"no mask", data[:50] + b"\0" + data[51:]):
        (tmp_path / "a.png").write_bytes(damaged)
        for transform in (LoadAnnotations(), LoadBoxes(with_bbox=False, with_label=False, with_seg=True)):
            with pytest.raises(OSError, match=r"a\.png: not an image that can be read"):
                transform.transform(seg_sample(tmp_path))


def segmentation(folder, count, classes, **options):
    for i in range(count):
        for kind in ("images", "masks"):
            (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(folder / f"images/{i}.jpg")
        Image.fromarray(LABELS).save(folder / f"masks/{i}.png")
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    with DefaultScope.overwrite_default_scope("mmseg"):
        return BaseSegDataset(
            data_root=str(folder),
            data_prefix={"img_path": "images", "seg_map_path": "masks"},
            metainfo={"classes": classes, **options.pop("metainfo", {})},
            pipeline=steps,
            **options,
        )


def test_labels_without_a_class_are_refused(tmp_path):
    """By every data set of the library; what the data set ignores passes."""
    assert segmentation(tmp_path, 2, tuple("abcde"))[1]["inputs"].shape == (3, 6, 9)
    with pytest.raises(OSError, match=r"masks/1\.png: found the label [34], wanted 0 to 2, of its 3 classes"):
        segmentation(tmp_path, 2, tuple("abc"))[1]
    data = segmentation(tmp_path, 1, tuple("abcd"), ignore_index=4)[0]
    assert data["data_samples"].gt_sem_seg.data.max() == 4
    found = PackSegInputs().transform({"gt_seg_map": LABELS, "img": PIXELS})  # of other data sets
    assert found["data_samples"].gt_sem_seg.data.max() == 4


@pytest.mark.parametrize("training", [True, False])
def test_images_that_cannot_be_stacked_are_named(training):
    samples = [SegDataSample(metainfo={"img_path": f"{i}.png"}) for i in range(2)]
    batch = {"inputs": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], "data_samples": samples}
    with pytest.raises(
        UsageError, match=r"0\.png with 8 x 8 pixels and 1\.png with 8 x 9 pixels, wanted one"
    ):
        SegDataPreProcessor(size=(8, 8))(batch, training)
    if training:
        assert SegDataPreProcessor(size=(9, 9))(batch, True)["inputs"].shape == (2, 3, 9, 9)  # padded


@pytest.mark.parametrize(
    "options",
    [
        {"type": "CrossEntropyLoss"},
        {"type": "CrossEntropyLoss", "avg_non_ignore": True},
        {"type": "CrossEntropyLoss", "avg_non_ignore": True, "class_weight": [1.0, 2.0, 3.0]},
        {"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0, 3.0]},
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "avg_non_ignore": True},
        {"type": "LovaszLoss", "per_image": True},
        {"type": "LovaszLoss", "reduction": "none"},
        {"type": "OhemCrossEntropy"},
    ],
    ids=str,
)
def test_nothing_but_ignored_labels_costs_nothing(options):
    """Also where one image of two has nothing else."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        loss = MODELS.build(options)
    more = {} if options["type"] == "OhemCrossEntropy" else {"ignore_index": 255}
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 4, 4), 255)
    value = loss(scores, labels, **more).sum()
    assert value == 0
    value.backward()
    assert (scores.grad == 0).all()
    labels[0] = 1
    assert loss(scores, labels, **more).sum() > 0


def test_weights_of_classes_beside_ignored_labels():
    """The mean as PyTorch takes it."""
    weights = [1.0, 2.0, 3.0]
    options = {"type": "mmseg.CrossEntropyLoss", "class_weight": weights, "avg_non_ignore": True}
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels[0, 0] = 255
    right = torch.nn.functional.cross_entropy(scores, labels, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(MODELS.build(options)(scores, labels, ignore_index=255), right)


# ------------------------------------------------------------------------------------------------- palettes


def test_a_palette_is_made_for_other_classes(tmp_path):
    assert make_palette(3) == make_palette(5)[:3] and len(set(make_palette(200))) == 200
    data = segmentation(tmp_path, 1, ("a", "b"), metainfo={"palette": [[1, 2, 3]] * 5})
    assert len(data.metainfo["palette"]) == 2
    write_coco(tmp_path, [1])
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = CocoDataset(
            data_root=str(tmp_path),
            ann_file="instances.json",
            data_prefix={"img": "images/"},
            metainfo={"classes": CLASSES, "palette": [(220, 20, 60)]},
            pipeline=[
                {"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True},
                {"type": "PackDetInputs"},
            ],
        )
    drawing = DetLocalVisualizer(name="palette")
    drawing.dataset_meta = data.metainfo
    sample = data[0]["data_samples"]
    sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
    sample.gt_instances.labels[:] = 2
    drawing.add_datasample("a", np.zeros((64, 96, 3), np.uint8), sample, draw_pred=False)
    assert drawing.get_image().any()


# -------------------------------------------------------------------------------------------------- imports

ORDERS = [
    "import dense, mmdet.datasets, mmseg.datasets",
    "import mmdet.datasets, mmseg.datasets, dense",
]


@pytest.mark.parametrize("order", ORDERS)
def test_whoever_imports_the_libraries(tmp_path, order):
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "bad.json").write_text(json.dumps({"images": []}))
    code = f"""
import warnings
warnings.simplefilter("ignore")
{order}
from mmcv.ops import FusedBiasLeakyReLU, fused_bias_leakyrelu
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.api_wrappers import COCO
from mmseg.datasets import LoadAnnotations
for read in (lambda: LoadImageFromFile().transform(dict(img_path="bad.png")), lambda: COCO("bad.json"),
             lambda: LoadAnnotations().transform(dict(seg_map_path="bad.png", reduce_zero_label=False))):
    try:
        read()
    except (OSError, ValueError) as error:
        print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-3:] == [
        "bad.png: not an image that can be read (of no kind that is known)",
        "bad.json: has no images, wanted at least one",
        "bad.png: not an image that can be read (of no kind that is known)",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leaky_relu_with_a_bias_on_a_cpu(dtype):
    maps = torch.tensor([[[[-1.0]], [[1.0]]]], dtype=dtype, requires_grad=True)
    layer = FusedBiasLeakyReLU(2, scale=2.0).to(dtype)
    layer.bias.data += 0.5
    found = layer(maps)
    assert found.flatten().tolist() == pytest.approx([-0.2, 3.0])
    found.sum().backward()
    assert maps.grad.flatten().tolist() == pytest.approx([0.4, 2.0])
    assert torch.equal(fused_bias_leakyrelu(input=maps, bias=layer.bias, scale=2.0), found)
