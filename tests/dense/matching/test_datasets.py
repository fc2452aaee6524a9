"""Published archives are read as their authors packed them; what is wrong with one is said."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dense.matching.datasets import ImageFiles, PFPascal, PFWillow, SPair71k
from dense.matching.transforms import LoadPair, PackPair, ResizePair

from .toy import blobs, write_images, write_willow

PIPELINE = [LoadPair(), ResizePair(32), PackPair()]


# ------------------------------------------------------------------------------------------------ PF-WILLOW


def test_willow_makes_all_ordered_pairs_of_a_class(tmp_path):
    points = write_willow(tmp_path)
    data = PFWillow(tmp_path)
    assert len(data) == 2 * 3 * 2
    pairs = set()
    for i in range(len(data)):
        item = data.get_data_info(i)
        source, target = (item[f"{side}_path"].removeprefix(f"{tmp_path}/") for side in ("source", "target"))
        assert source.split("/")[0] == target.split("/")[0] == item["category"] and source != target
        np.testing.assert_array_equal(item["source_points"], points[source])
        np.testing.assert_array_equal(item["target_points"], points[target])
        assert item["threshold"] == "keypoints" and not item["flip"]
        pairs.add((source, target))
    assert len(pairs) == len(data)


@pytest.mark.parametrize("folder", ["", "PF-dataset/"])
def test_willow_reads_the_published_table(tmp_path, folder):
    points = write_willow(tmp_path)
    listed = PFWillow(tmp_path)
    lines = ["imageA,imageB," + ",".join(f"c{i}" for i in range(40))]
    for i in range(len(listed)):
        item = listed.get_data_info(i)
        names = [item[f"{side}_path"].removeprefix(f"{tmp_path}/") for side in ("source", "target")]
        numbers = np.concatenate([points[name].T.ravel() for name in names])  # x of all, then y of all
        lines.append(",".join([folder + name for name in names] + [f"{x:.2f}" for x in numbers]))
    (tmp_path / "test_pairs.csv").write_text("\n".join(lines))
    (tmp_path / "keypoints.json").unlink()
    table = PFWillow(tmp_path, pipeline=PIPELINE)
    assert len(table) == len(listed)
    for i in range(len(table)):
        found, wanted = table.get_data_info(i), listed.get_data_info(i)
        assert {key: found[key] for key in ("source_path", "target_path", "category")} == {
            key: wanted[key] for key in ("source_path", "target_path", "category")
        }
        for side in ("source", "target"):
            np.testing.assert_allclose(found[f"{side}_points"], wanted[f"{side}_points"])
    assert table[0]["inputs"].shape == (2, 3, 32, 32)


def test_willow_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder, wanted that of PFWillow"):
        PFWillow(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="found neither test_pairs.csv nor keypoints.json"):
        PFWillow(tmp_path)
    with pytest.raises(ValueError, match=r"has the splits \('test',\), found 'trn'"):
        PFWillow(tmp_path, split="trn")
    with pytest.raises(ValueError, match="threshold must be one of .*, found 'diagonal'"):
        PFWillow(tmp_path, threshold="diagonal")
    (tmp_path / "keypoints.json").write_text('{"images": {"a/1.png": {}}}')
    with pytest.raises(OSError, match="keypoints.json: not a list of images with 'kps'"):
        PFWillow(tmp_path)
    (tmp_path / "keypoints.json").write_text('{"images": {"a/1.png": {"kps": [[1, 2]]}}}')
    with pytest.raises(OSError, match="found no two images of one class"):
        PFWillow(tmp_path)
    (tmp_path / "test_pairs.csv").write_text("imageA,imageB,x\n")
    with pytest.raises(OSError, match="found 1 lines, wanted a head and pairs"):
        PFWillow(tmp_path)
    (tmp_path / "test_pairs.csv").write_text("imageA,imageB,x\na/1.png,a/2.png,5\n")
    with pytest.raises(OSError, match="line 2: found 1 columns of keypoints, wanted 40 numbers"):
        PFWillow(tmp_path)
    (tmp_path / "test_pairs.csv").write_text("imageA,imageB,x\na/1.png\n")
    with pytest.raises(OSError, match="line 2: found 1 columns, wanted 3"):
        PFWillow(tmp_path)


def test_pairs_without_fitting_keypoints_are_errors(tmp_path):
    def write(first, second):
        images = {"a/1.png": {"kps": first}, "a/2.png": {"kps": second}}
        (tmp_path / "keypoints.json").write_text(json.dumps({"images": images}))
        return PFWillow(tmp_path)

    with pytest.raises(OSError, match="a/1.png and .*a/2.png: found 1 and 2 keypoints, wanted as many"):
        write([[1, 2]], [[1, 2], [3, 4]]).get_data_info(0)
    with pytest.raises(OSError, match=r"source_points are \(0,\), wanted finite \(n, 2\)"):
        write([], []).get_data_info(0)
    with pytest.raises(OSError, match=r"source_points are \(1, 3\)"):
        write([[1, 2, 3]], [[1, 2, 3]]).get_data_info(0)
    with pytest.raises(OSError, match=r"source_points cannot be read as \(n, 2\) numbers"):
        write([[1, 2], [3]], [[1, 2], [3, 4]]).get_data_info(0)
    with pytest.raises(OSError, match="target_points are"):
        write([[1, 2]], [[1, float("nan")]]).get_data_info(0)


# ------------------------------------------------------------------------------------------------ PF-PASCAL


def write_pascal(folder):
    """Two images of a bus, of 60 x 40 and 50 x 30 pixels, and tables of all splits."""
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "Annotations/bus").mkdir(parents=True)
    nan = np.nan
    points = {
        "a": np.array([[10.0, 5.0], [nan, nan], [60.0, 40.0], [20.0, 30.0]]),
        "b": np.array([[1.0, 2.0], [3.0, 4.0], [nan, nan], [45.0, 28.0]]),
    }
    for name, size in (("a", (60, 40)), ("b", (50, 30))):
        blobs(size, np.random.default_rng(0)).save(folder / f"JPEGImages/{name}.jpg")
        savemat(
            folder / f"Annotations/bus/{name}.mat", {"kps": points[name], "bbox": np.array([[5, 4, 40, 25]])}
        )
    row = "PF-dataset-PASCAL/JPEGImages/a.jpg,PF-dataset-PASCAL/JPEGImages/b.jpg,6"
    (folder / "trn_pairs.csv").write_text(f"source_image,target_image,class,flip\n{row},0\n{row},1\n")
    for split in ("val", "test"):
        (folder / f"{split}_pairs.csv").write_text(f"source_image,target_image,class\n{row}\n")


def test_pascal_takes_what_both_images_show(tmp_path):
    write_pascal(tmp_path)
    item = PFPascal(tmp_path, "test").get_data_info(0)
    assert item["source_path"] == str(tmp_path / "JPEGImages/a.jpg") and item["category"] == "bus"
    np.testing.assert_array_equal(item["source_points"], [[10, 5], [20, 30]])
    np.testing.assert_array_equal(item["target_points"], [[1, 2], [45, 28]])
    assert item["source_box"] == (5, 4, 40, 25) and item["threshold"] == "image"
    assert PFPascal(tmp_path, "test", threshold="box").get_data_info(0)["threshold"] == "box"


def test_pascal_mirrors_about_the_edges(tmp_path):
    write_pascal(tmp_path)
    data = PFPascal(tmp_path, "trn", pipeline=[LoadPair()])
    plain, mirrored = data[0], data[1]
    assert not plain["flip"] and mirrored["flip"]
    np.testing.assert_array_equal(mirrored["source_points"], [[60 - 10, 5], [60 - 20, 30]])
    np.testing.assert_array_equal(mirrored["target_points"], [[50 - 1, 2], [50 - 45, 28]])
    assert mirrored["source_box"] == (20, 4, 55, 25) and mirrored["target_box"] == (10, 4, 45, 25)
    for side in ("source_img", "target_img"):
        np.testing.assert_array_equal(mirrored[side], plain[side][:, ::-1])
    assert not PFPascal(tmp_path, "val").get_data_info(0)["flip"]


def test_pascal_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="val_pairs.csv"):
        PFPascal(tmp_path, "val")
    write_pascal(tmp_path)
    annotation = tmp_path / "Annotations/bus/b.mat"
    savemat(annotation, {"kps": np.zeros((5, 2)), "bbox": np.zeros(4)})
    with pytest.raises(OSError, match=r"a.jpg and .*b.jpg: 4 and 5 keypoints"):
        PFPascal(tmp_path, "test").get_data_info(0)
    savemat(annotation, {"kps": np.full((4, 2), np.nan), "bbox": np.zeros(4)})
    with pytest.raises(OSError, match="found 0 and 0 keypoints, wanted as many, at least 1"):
        PFPascal(tmp_path, "test").get_data_info(0)
    savemat(annotation, {"kps": np.zeros((4, 2)), "bbox": np.zeros(3)})
    with pytest.raises(OSError, match=r"b.mat: kps are \(4, 2\) and bbox \(3,\)"):
        PFPascal(tmp_path, "test").get_data_info(0)
    annotation.write_bytes(b"no matrix")
    with pytest.raises(OSError, match="b.mat: not a file of MATLAB that can be read"):
        PFPascal(tmp_path, "test").get_data_info(0)
    annotation.unlink()
    with pytest.raises(FileNotFoundError, match="b.mat: found no such file"):
        PFPascal(tmp_path, "test").get_data_info(0)
    (tmp_path / "test_pairs.csv").write_text("source_image,target_image,class\na.jpg,b.jpg,21\n")
    with pytest.raises(OSError, match="line 2: found the class '21', wanted 1 to 20"):
        PFPascal(tmp_path, "test")


# ------------------------------------------------------------------------------------------------- SPair-71k


def write_spair(folder):
    (folder / "PairAnnotation/test").mkdir(parents=True)
    (folder / "JPEGImages/cat").mkdir(parents=True)
    for name, size in (("a", (64, 48)), ("b", (32, 64))):
        blobs(size, np.random.default_rng(0)).save(folder / f"JPEGImages/cat/{name}.jpg")
    pair = {
        "src_imname": "a.jpg",
        "trg_imname": "b.jpg",
        "category": "cat",
        "src_kps": [[10, 20], [30, 40]],
        "trg_kps": [[1, 2], [3, 4]],
        "src_bndbox": [8, 12, 40, 44],
        "trg_bndbox": [0, 1, 30, 60],
    }
    for number, change in (("000002", {"src_kps": [[11, 21], [30, 40]]}), ("000001", {})):
        file = folder / f"PairAnnotation/test/{number}-a-b:cat.json"
        file.write_text(json.dumps({**pair, **change}))


def test_spair(tmp_path):
    write_spair(tmp_path)
    data = SPair71k(tmp_path, "test", pipeline=PIPELINE)
    assert len(data) == 2
    first, second = data.get_data_info(0), data.get_data_info(1)
    np.testing.assert_array_equal(first["source_points"], [[10, 20], [30, 40]])
    np.testing.assert_array_equal(second["source_points"][0], [11, 21])
    assert first["target_path"] == str(tmp_path / "JPEGImages/cat/b.jpg")
    assert first["source_box"] == (8, 12, 40, 44) and first["category"] == "cat"
    # the box of 32 x 32 pixels in 64 x 48 becomes 16 x 21.3 in 32 x 32
    sample = data[0]["data_samples"]
    assert sample.pck_base == pytest.approx(32 * 32 / 48)
    np.testing.assert_allclose(sample.source_points[0], [10 * 32 / 64, 20 * 32 / 48], rtol=1e-6)
    np.testing.assert_allclose(sample.target_points[1], [3, 2], rtol=1e-6)


def test_spair_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="PairAnnotation/trn: found no file of a pair"):
        SPair71k(tmp_path, "trn")
    write_spair(tmp_path)
    file = next((tmp_path / "PairAnnotation/test").glob("000001*"))
    pair = json.loads(file.read_text())
    for damage, what in (
        ({"src_bndbox": [1, 2]}, "a box of 2 numbers"),
        ({"trg_bndbox": None}, "TypeError"),
    ):
        file.write_text(json.dumps({**pair, **damage}))
        with pytest.raises(OSError, match=f"000001.*not the annotation of a pair .*{what}"):
            SPair71k(tmp_path).get_data_info(0)
    file.write_text("{")
    with pytest.raises(OSError, match="000001.*found Expecting property name .* wanted JSON"):
        SPair71k(tmp_path).get_data_info(0)


# ------------------------------------------------------------------------------------------------ any images


def test_image_files(tmp_path):
    write_images(tmp_path / "a/deep", 2)
    write_images(tmp_path / "b", 1)
    data = ImageFiles(tmp_path, ["a", "b"], repeat=3)
    names = [data.get_data_info(i)["img_path"].removeprefix(f"{tmp_path}/") for i in range(len(data))]
    assert names == ["a/deep/0.png", "a/deep/1.png", "b/0.png"] * 3
    assert len(ImageFiles(tmp_path)) == 3
    (tmp_path / "c").mkdir()
    with pytest.raises(FileNotFoundError, match="c: found no image"):
        ImageFiles(tmp_path, ["a", "c"])
    with pytest.raises(FileNotFoundError, match="d: no folder that can be read"):
        ImageFiles(tmp_path, ["d"])
    with pytest.raises(ValueError, match="repeat must be at least 1, found 0"):
        ImageFiles(tmp_path, repeat=0)


def test_unreadable_image(tmp_path):
    write_willow(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "cup/1.png")
    (tmp_path / "cup/1.png").write_bytes((tmp_path / "cup/1.png").read_bytes()[:40])
    with pytest.raises(OSError, match="cup/1.png: not an image that can be read"):
        PFWillow(tmp_path, pipeline=PIPELINE)[0]


def test_pictures_that_exif_turns_are_refused_beside_keypoints(tmp_path):
    write_spair(tmp_path)
    dataset = SPair71k(tmp_path)
    path = dataset.get_data_info(0)["source_path"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    with pytest.raises(OSError, match=r"its EXIF wants it turned \(orientation 6\)"):
        dataset.get_data_info(0)
