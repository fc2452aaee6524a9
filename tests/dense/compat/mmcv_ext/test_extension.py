"""How mmcv finds the portable operators, and what it finds."""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec, spec_from_loader

import mmcv
import pytest
import torch
from mmengine.runner import CheckpointLoader

import dense.compat.wheels
from dense.compat.mmcv_ext import FAMILIES, find_operator


def test_mmcv_uses_them():
    import mmcv.ops

    assert sys.modules["mmcv._ext"].__spec__.origin == "dense.compat.mmcv_ext"
    assert mmcv.ops.get_compiler_version() == "none (portable operators of dense)"
    assert mmcv.ops.get_compiling_cuda_version() == (torch.version.cuda or "not available")


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_are_named_are_there(family):
    module = import_module(f"dense.compat.mmcv_ext.{family}")
    assert all(callable(vars(module)[name]) for name in FAMILIES[family])
    assert find_operator(FAMILIES[family][0]) is find_operator(FAMILIES[family][0])


def test_others_fail_when_called():
    from mmcv.ops import knn

    with pytest.raises(
        NotImplementedError, match="'knn_forward' has no portable form.*needs a GPU.*MMCV_WITH_OPS=1"
    ):
        knn(2, torch.zeros(1, 4, 3), torch.zeros(1, 4, 3))


def test_a_compiled_extension_wins(tmp_path, monkeypatch):
    (tmp_path / "_ext.py").touch()
    assert find_spec("mmcv._ext").origin == "dense.compat.mmcv_ext"
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    assert find_spec("mmcv._ext").origin == str(tmp_path / "_ext.py")


def test_one_finder_however_often_prepared():
    dense.compat.wheels.prepare()
    found = [finder for finder in sys.meta_path if isinstance(finder, dense.compat.wheels.PortableExtension)]
    assert len(found) == 1
    assert found[0].find_spec("mmcv._ext.nms", None) is None
    assert found[0].find_spec("mmcv", None) is None


def test_warns_if_mmcv_went_without(monkeypatch):
    import mmcv.cnn  # noqa: F401

    monkeypatch.delitem(sys.modules, "mmcv.ops")
    with pytest.warns(UserWarning, match="import dense first, before mmcv"):
        dense.compat.wheels.prepare()


class Broken:
    @staticmethod
    def find_spec(name, path, target=None):
        return spec_from_loader(name, Broken) if name == "cv2" else None

    @staticmethod
    def create_module(spec):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    exec_module = None


def test_hints_at_headless_opencv(monkeypatch):
    monkeypatch.setattr(dense.compat.wheels, "distribution", lambda name: name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense.compat.wheels.prepare()
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.warns(UserWarning, match=r"libGL\.so\.1.*--force-reinstall --no-deps opencv-python-headless"):
        dense.compat.wheels.prepare()


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision knows the addresses itself")
def test_torchvision_weights_without_torchvision(monkeypatch):
    asked = []
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    dense.compat.wheels._serve_torchvision_weights()  # a runner, once imported, has its own way
    monkeypatch.setitem(CheckpointLoader._schemes, "https://", lambda url, device: asked.append(url))
    CheckpointLoader.load_checkpoint("torchvision://resnet50")
    assert asked == ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]
    with pytest.raises(KeyError, match="torchvision://resnet51: without torchvision installed there are"):
        CheckpointLoader.load_checkpoint("torchvision://resnet51")
