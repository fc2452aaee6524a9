"""Weights as .safetensors, wherever .pth is."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pointsuite
from pointsuite.engine.checkpoint import CheckpointError, find_checkpoint, load_checkpoint, save_checkpoint

META = {"model": "risurconv_s_cls", "model_args": {"num_classes": 3}, "classes": ["a", "b", "c"], "epoch": 3}


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[1].running_mean.normal_()
    return net.to(memory_format=torch.preserve_format)


def test_weights_and_meta_come_back(tmp_path):
    state = network().state_dict()
    state["half"], state["transposed"] = torch.ones(3, dtype=torch.bfloat16), torch.randn(3, 5).T
    save_checkpoint({"state_dict": state, "meta": META}, tmp_path / "a.safetensors")
    found = load_checkpoint(tmp_path / "a.safetensors")
    assert found["meta"] == META and found["state_dict"].keys() == state.keys()
    assert all(torch.equal(found["state_dict"][key], value) for key, value in state.items())
    assert all(found["state_dict"][key].dtype == value.dtype for key, value in state.items())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:  # as others read it
        assert json.loads(file.metadata()["meta"]) == META and file.metadata()["format"] == "pt"
    save_checkpoint(state, tmp_path / "bare.safetensors")
    assert load_checkpoint(tmp_path / "bare.safetensors").keys() == state.keys()


def test_weights_that_share_memory_are_all_there(tmp_path):
    tied = torch.randn(4, 4)
    save_checkpoint({"a.weight": tied, "b.weight": tied, "part": tied[1:]}, tmp_path / "a.safetensors")
    found = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(found["a.weight"], tied) and torch.equal(found["part"], tied[1:])


def test_files_of_others(tmp_path):
    state = dict(network().state_dict())
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    found = load_checkpoint(tmp_path / "a.safetensors")
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_work_dir_of_them(tmp_path):
    save_checkpoint(network().state_dict(), tmp_path / "epoch_3.safetensors")
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_3.safetensors")


def test_a_model_takes_them(tmp_path):
    model = pointsuite.create_model("risurconv_s_cls", num_classes=3)
    meta = {"model": "risurconv_s_cls", "model_args": {"num_classes": 3}}
    save_checkpoint({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "a.safetensors")
    path = str(tmp_path / "a.safetensors")
    again = pointsuite.create_model("risurconv_s_cls", pretrained=path, num_classes=3)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    predictor = pointsuite.Classifier(path, classes=["a", "b", "c"], device="cpu")
    assert all(map(torch.equal, predictor.model.state_dict().values(), model.state_dict().values()))


def test_damage_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint({"state_dict": network().state_dict(), "meta": META}, path)
    good = path.read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    cases = {
        "flipped": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
        "truncated": good[:-8],
        "header": good[:8] + good[8 : 8 + length // 2] + b"}" + good[9 + length // 2 :],
        "length": struct.pack("<Q", 2**50) + good[8:],
        "text": b"these are no weights",
        "pth": b"PK\x03\x04" + good,
    }
    for name, content in cases.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}.safetensors: damaged") as error:
            load_checkpoint(bad)
        assert "\n" not in str(error.value)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        load_checkpoint(tmp_path / "empty.safetensors")


def test_what_it_cannot_hold_is_refused(tmp_path):
    path, state = tmp_path / "a.safetensors", network().state_dict()
    with pytest.raises(CheckpointError, match="found optimizer to write, wanted weights and meta alone"):
        save_checkpoint({"state_dict": state, "meta": {}, "optimizer": {"lr": 0.1}}, path)
    with pytest.raises(CheckpointError, match="meta: .*wanted what JSON can hold"):
        save_checkpoint({"state_dict": state, "meta": {"rows": torch.ones(2)}}, path)
    assert not path.exists()
    for meta in ("[1]", "{"):
        save_file(dict(state), path, {"meta": meta})
        with pytest.raises(CheckpointError, match="a.safetensors: meta: "):
            load_checkpoint(path)
