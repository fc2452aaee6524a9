from pathlib import Path

import numpy as np
import pytest

from pointsuite.datasets import Clouds, DatasetError, PointCloudDataset, read_clouds
from pointsuite.datasets.kicad import (
    CLASSES,
    DEFAULT_CLASSES,
    MAX_BYTES,
    PART_CLASSES,
    Mesh,
    Shapes,
    balanced_splits,
    check_disjoint,
    class_of,
    family_of,
    load_folder,
    load_packed,
    name_of,
    parse_wrl,
    part_of,
    sample_mesh,
    split_class,
)

BUNDLED = Path(__file__).parents[3] / "data" / "kicad" / "kicad.h5"

# as KiCad writes them: materials first, then one Shape a material; here a triangle and a pentagon
WRL = """#VRML V2.0 utf8
Shape { appearance Appearance {material DEF PIN-01 Material { diffuseColor 0.8 0.8 0.8 } } }
Shape { geometry IndexedFaceSet
{ creaseAngle 0.50 coordIndex [0,1,2,-1]
coord Coordinate { point [0 0 0,SIZE 0 0,0 1e0 0]
}}
appearance Appearance{material USE PIN-01 }
}
Shape { geometry IndexedFaceSet
{ creaseAngle 0.50 coordIndex [0, 1, 2, 3, 4, -1]
coord Coordinate { point [0 0 1, 1 0 1, 2 1 1, 1 2 1, 0 2 1]}}
appearance Appearance{material USE IC-BODY-EPOXY-04 }
}"""


def test_parse_wrl_cuts_polygons_into_fans():
    mesh = parse_wrl(WRL.replace("SIZE", "2.5"))
    assert mesh.vertices.shape == (8, 3) and mesh.vertices[1].tolist() == [2.5, 0, 0]
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6], [3, 6, 7]]
    assert mesh.material.tolist() == ["PIN-01"] + ["IC-BODY-EPOXY-04"] * 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("IndexedFaceSet", "Box", None),  # another node around the same numbers is still a face set to us
        ("coordIndex", "colorIndex", "no faces"),
        ("[0,1,2,-1]", "[0,1,9,-1]", "uses vertex 9, the shape has 3 vertices"),
        ("0 1e0 0", "0 1e0", "reshape"),
        ("0 1e0 0", "0 one 0", "could not convert"),
    ],
)
def test_parse_wrl_refuses(old, new, message):
    text = WRL.replace("SIZE", "1").replace(old, new)
    if message is None:
        assert len(parse_wrl(text).faces) == 4
    else:
        with pytest.raises(ValueError, match=message):
            parse_wrl(text)


def test_sampling_is_even_and_carries_normals():
    # two squares, the second with three times the area and facing +x
    vertices = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 0, 0], [5, 1, 0], [5, 1, 3], [5, 0, 3]]
    )
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    mesh = Mesh(vertices.astype(float), faces, np.array(["a", "a", "b", "b"]))
    points, normals, face = sample_mesh(mesh, 4000, np.random.default_rng(0))
    share = np.bincount(face, minlength=4) / 4000
    np.testing.assert_allclose(share, [1 / 8, 1 / 8, 3 / 8, 3 / 8], atol=0.03)
    np.testing.assert_array_equal(normals, np.array([[0, 0, 1.0]] * 2 + [[1, 0, 0]] * 2)[face])
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)
    assert np.isclose(np.linalg.norm(points, axis=1).max(), 1)
    wide = points[face > 1]  # even within the face: uniform along z
    z = (wide[:, 2] - wide[:, 2].min()) / np.ptp(wide[:, 2])
    np.testing.assert_allclose(np.histogram(z, 4, (0, 1))[0] / len(z), 0.25, atol=0.03)


def test_sampling_needs_area():
    with pytest.raises(ValueError, match="the surface has area 0"):
        flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), np.array(["a"]))
        sample_mesh(flat, 5, np.random.default_rng(0))


def test_names():
    assert name_of("/x/Package_SO.3dshapes/SO-8_3.9x4.9mm.wrl") == "Package_SO/SO-8_3.9x4.9mm"
    assert family_of("Package_SO/SO-8_3.9x4.9mm") == family_of("Package_SO/SO-14_3.9x8.65mm")
    assert class_of("Package_SO/SO-8") == "so" and class_of("Package_SON/X") == "dfn_qfn_lga"
    assert class_of("Package_SO_J/x") is None and class_of("Battery/x") is None
    assert class_of("Capacitor_THT/CP_Axial_L18mm") == class_of("Diode_THT/D_DO-41") == "axial_tht"
    assert class_of("Capacitor_THT/C_Disc_D3mm") == "capacitor_tht" and class_of("Diode_THT/D_Bridge") is None
    assert class_of("LED_SMD/LED_0402") == "chip_2term_smd" and class_of("LED_SMD/LED_RGB_1210") is None
    assert [PART_CLASSES[part_of(m)] for m in ("PIN-02", "RES-SMD-01", "PLASTIC-WHITE-01", "GLASS-13")] == [
        "metal",
        "body",
        "marking_board_ceramic",
        "glass_led",
    ]


def make_shapes(families, each=10, folder="Package_SO", seed=0):
    """Different random shapes; those of family A are called A1, A2, ..."""
    count = len(families) * each
    rng = np.random.default_rng(seed)
    points = rng.integers(-32000, 32000, (count, 4, 3), np.int16)
    names = np.array([f"{folder}/{family}{i}" for family in families for i in range(each)])
    return Shapes(points, np.full((count, 4, 3), 73, np.int8), np.zeros((count, 4), np.uint8), names)


def test_split_is_disjoint_spread_and_reproducible():
    family = np.repeat(list("abcdefgh"), [40, 20, 20, 10, 10, 5, 3, 2])
    train, test = split_class(family, 24, 12, np.random.default_rng(0))
    assert len(train) == 24 and 0 < len(test) <= 12
    assert not set(family[train]) & set(family[test])
    everything = split_class(family, 1000, 1000, np.random.default_rng(0))
    assert sorted(np.concatenate(everything)) == list(range(110))
    for side, whole in zip((train, test), everything, strict=True):  # nobody gives way to a larger family
        names, sizes = np.unique(family[whole], return_counts=True)
        counts = np.array([np.sum(family[side] == name) for name in names])
        assert (counts >= np.minimum(sizes, counts.max() - 1)).all()
    again = split_class(family, 24, 12, np.random.default_rng(0))
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(test, again[1])


def test_testing_takes_at_most_half_of_the_families():
    family = np.array(["large"] * 80 + [f"small {i}" for i in range(20)])
    train, test = split_class(family, 1000, 1000, np.random.default_rng(0))
    assert len(set(family[test])) == 10 and len(set(family[train])) == 11


def test_class_of_few_families_is_refused():
    shapes = make_shapes(["A-", "B-", "C-"], folder="Connector_FFC-FPC")
    with pytest.raises(DatasetError, match="class 'ffc': 3 families, wanted at least 4"):
        balanced_splits(shapes, ["ffc"], 10, 10, 0)


def test_identical_shapes_join_families_and_are_kept_once():
    shapes = make_shapes(["A-", "B-", "C-", "D-", "E-", "F-"])
    shapes.points[10] = shapes.points[0]  # B-0 is A-0
    shapes.points[20] = shapes.points[11]  # C-0 is B-1
    for seed in range(5):
        splits = balanced_splits(shapes, ["so"], 100, 100, seed)
        names = np.concatenate([clouds.name for clouds in splits.values()])
        assert len(names) == 58 and not {"Package_SO/B-0", "Package_SO/C-0"} & set(names)
        sides = [{name.split("/")[1][0] for name in clouds.name} for clouds in splits.values()]
        assert not sides[0] & sides[1]
        assert any({"A", "B", "C"} <= side for side in sides)
        family = {n: f for clouds in splits.values() for n, f in zip(clouds.name, clouds.family, strict=True)}
        assert family["Package_SO/A-1"] == family["Package_SO/B-5"] == family["Package_SO/C-5"]


def test_shape_in_two_classes_is_left_out():
    so, dip = make_shapes(list("ABCD")), make_shapes(list("ABCD"), folder="Package_DIP", seed=1)
    dip.points[3] = so.points[5]
    both = Shapes(*(np.concatenate([getattr(so, key), getattr(dip, key)]) for key in vars(so)))
    splits = balanced_splits(both, ["so", "dip"], 100, 100, 0)
    names = np.concatenate([clouds.name for clouds in splits.values()])
    assert len(names) == 78 and so.name[5] not in names and dip.name[3] not in names
    for clouds in splits.values():
        assert [class_of(name) for name in clouds.name] == [("so", "dip")[i] for i in clouds.label]


def test_shared_family_is_refused(monkeypatch):
    def clouds(families):
        array = np.array(families)
        return Clouds(*(np.zeros((len(array), 1, 3), np.int16),) * 2, np.zeros(len(array), int), family=array)

    check_disjoint({"train": clouds(["a", "b"]), "test": clouds(["c"])})
    with pytest.raises(DatasetError, match="1 families are in train and in test, e.g. 'b'"):
        check_disjoint({"train": clouds(["a", "b"]), "test": clouds(["c", "b"])})
    everything = np.arange(40)
    monkeypatch.setattr("pointsuite.datasets.kicad.split_class", lambda *_: (everything, everything))
    with pytest.raises(DatasetError, match="4 families are in train and in test"):
        balanced_splits(make_shapes(list("ABCD")), ["so"], 100, 100, 0)


def write_library(root):
    for folder in ("Package_SO.3dshapes", "Battery.3dshapes"):
        (root / folder).mkdir(parents=True)
        for size in (1, 2):
            (root / folder / f"X-{size}.wrl").write_text(WRL.replace("SIZE", str(size)))
    (root / "Package_SO.3dshapes" / "broken.wrl").write_text("#VRML V2.0 utf8")


def test_folder_of_original_files(tmp_path):
    write_library(tmp_path)
    shapes, bad = load_folder(tmp_path, ["so"], 64, workers=1)
    assert shapes.name.tolist() == ["Package_SO/X-1", "Package_SO/X-2"]
    assert shapes.points.shape == shapes.normals.shape == (2, 64, 3)
    assert (shapes.points.dtype, shapes.normals.dtype, shapes.part.dtype) == ("int16", "int8", "uint8")
    assert abs(np.linalg.norm(shapes.points / 32767, axis=-1).max() - 1) < 1e-4
    assert set(np.unique(shapes.part)) == {0, 1}
    # what is metal lies in the lower plane
    z = shapes.points[0, :, 2]
    assert z[shapes.part[0] == 0].max() < z[shapes.part[0] == 1].min()
    assert len(bad) == 1 and "broken.wrl: no faces" in bad[0]
    with pytest.raises(DatasetError, match="no .wrl file of a wanted class"):
        load_folder(tmp_path, ["dip"], 64)


def test_packed_set(tmp_path):
    shapes = make_shapes(["A-"], 3)
    file = tmp_path / "packed.npz"
    arrays = {
        "points": shapes.points,
        "normals": shapes.normals,
        "material": np.array([[0, 1, 0, 1]] * 3, np.uint8),
        "materials": np.array(["LED-RED", "PIN-01"]),
        "path": np.array(
            ["Package_SO.3dshapes/A-0.wrl", "Battery.3dshapes/x.wrl", "Package_SO.3dshapes/A-1.wrl"]
        ),
    }
    np.savez(file, **arrays)
    found = load_packed(file, ["so"], 3)
    np.testing.assert_array_equal(found.points, shapes.points[[0, 2], :3])
    assert found.part.tolist() == [[3, 0, 3]] * 2
    assert found.name.tolist() == ["Package_SO/A-0", "Package_SO/A-1"]
    with pytest.raises(DatasetError, match="4 points a shape, wanted at least 5"):
        load_packed(file, ["so"], 5)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DatasetError, match="packed.npz: not a packed set of KiCad shapes"):
        load_packed(file, ["so"], 3)
    np.savez(file, **{key: value for key, value in arrays.items() if key != "path"})
    with pytest.raises(DatasetError, match="not a packed set .*path"):
        load_packed(file, ["so"], 3)


class TestBundledFile:
    @pytest.fixture(scope="class")
    def splits(self):
        return {split: read_clouds(BUNDLED, split) for split in ("train", "test")}

    def test_size_and_licence(self, splits):
        assert BUNDLED.stat().st_size <= MAX_BYTES == 12_000_000
        info = splits["train"][1]
        assert info.classes == DEFAULT_CLASSES and info.part_classes == PART_CLASSES
        assert "CC-BY-SA-4.0" in info.licence and "KiCad Libraries contributors" in info.attribution
        assert "waives article 3" in (BUNDLED.parent / "LICENSE.md").read_text()

    def test_counts_are_balanced_and_those_of_the_readme(self, splits):
        readme = (BUNDLED.parent / "README.md").read_text()
        train, test = (clouds for clouds, _ in splits.values())
        assert train.points.shape[1:] == test.points.shape[1:] == (1024, 3)
        assert f"{len(train) + len(test)} shapes" in readme
        for i, name in enumerate(DEFAULT_CLASSES):
            cells = []
            for clouds, least, most in ((train, 100, 150), (test, 40, 50)):
                mine = clouds.label == i
                assert least <= mine.sum() <= most
                cells.append(f"{mine.sum()} ({len(np.unique(clouds.family[mine]))})")
            row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
            assert row.endswith(f"| {cells[0]} | {cells[1]} |")

    def test_nothing_is_in_both_splits(self, splits):
        train, test = (clouds for clouds, _ in splits.values())
        check_disjoint({"train": train, "test": test})
        for clouds in (train, test):
            assert list(map(class_of, clouds.name)) == [DEFAULT_CLASSES[i] for i in clouds.label]
        assert not {family_of(name) for name in train.name} & {family_of(name) for name in test.name}
        shapes = [points.tobytes() for clouds in (train, test) for points in clouds.points]
        assert len(set(shapes)) == len(shapes)
        assert not {"ffc", "varistor"} & set(DEFAULT_CLASSES) and {"ffc", "varistor"} < set(CLASSES)

    def test_clouds_are_centred_unit_spheres_with_normals(self):
        dataset = PointCloudDataset(BUNDLED, "test")
        for index in range(0, len(dataset), 50):
            sample = dataset[index]
            np.testing.assert_allclose(sample["points"].mean(0), 0, atol=1e-3)
            assert abs(np.linalg.norm(sample["points"], axis=1).max() - 1) < 1e-3
            np.testing.assert_allclose(np.linalg.norm(sample["normals"], axis=1), 1, atol=1e-6)
