import os

import pytest

from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import FileError, read_bytes, read_json, read_text, walk_files


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "no regular file but a FIFO"),
        (os.mkdir, "no regular file but a folder"),
        (lambda path: os.symlink("/dev/zero", path), "no regular file but a device"),
        (lambda path: os.symlink("nowhere", path), "no such file"),
        (lambda path: os.symlink(path.name, path), "Too many levels of symbolic links"),
        (lambda path: None, "no such file"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, make, found):
    """A FIFO that nobody writes to, a device that never ends, a folder, links to them."""
    make(tmp_path / "a")
    with pytest.raises(FileError) as info:
        read_bytes(tmp_path / "a", "an image")
    assert str(info.value) == f"{tmp_path / 'a'}: found {found}, wanted an image"
    assert isinstance(info.value, UsageError) and info.value.reason.startswith("found")


def test_a_link_to_a_file_is_that_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert read_bytes(tmp_path / "b") == b"abc"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_the_encodings_that_say_so(tmp_path, encoding):
    (tmp_path / "a").write_bytes("é\n1".encode(encoding))
    assert read_text(tmp_path / "a") == "é\n1"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"ab\xff", "found the byte 0xff at 2, wanted text in UTF-8"),
        (b"\xff\xfea", "wanted text in UTF-16"),
        (b"a\0b", "found a zero byte at 1, wanted text"),
    ],
)
def test_what_is_no_text(tmp_path, data, found):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(FileError, match=found):
        read_text(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "a: found Expecting .* wanted JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "a: found the key 'c' twice, wanted JSON"),
        ("[" * 100_000, "a: found JSON that is nested too deeply"),
        ("9" * 5000, "a: found Exceeds the limit"),
    ],
)
def test_json_that_is_none(tmp_path, text, found):
    (tmp_path / "a").write_text(text)
    with pytest.raises(FileError, match=found):
        read_json(tmp_path / "a")


def test_folders_that_link_in_a_loop_are_walked_once(tmp_path):
    """Three files below links to their own folder, and to another one, are three files."""
    for name in ("a/1", "a/2", "b/3"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "root" / "a" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "root" / "b")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in walk_files(tmp_path / "root")]
    assert found == ["a/1", "a/2", "b/3"]
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path)
    assert [path.name for path in walk_files(tmp_path / "root" / "a")] == ["1", "2"]
