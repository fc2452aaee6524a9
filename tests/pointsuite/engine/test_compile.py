"""``compile`` of a config."""

import pytest
import torch
from mmengine.logging import MessageHub

from pointsuite.engine.runner import Runner

from . import tiny, toy


def losses(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, torch.tensor(MessageHub.get_current_instance().get_scalar("train/loss").data[0])


def test_compiled_network_follows_the_eager_one(tmp_path):
    options = {"train_cfg.max_epochs": 1, "val_cfg": None, "val_dataloader": None, "val_evaluator": None}
    network = {"centres": (16,), "neighbours": (8,), "channels": (8, 16)}  # one layer and the global one
    options |= {f"model.network.{key}": value for key, value in network.items()}
    options["optim_wrapper.optimizer.lr"] = 0.01  # a larger one amplifies rounding
    _, wanted = losses(tiny.make_config(tmp_path / "eager", **options))
    runner, found = losses(
        tiny.make_config(tmp_path / "compiled", compile={"backend": "aot_eager"}, **options)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "compiled" / "epoch_1.pth").is_file()
    assert "_orig_mod" not in "".join(runner.model.state_dict())


def test_only_the_network_part_is_compiled(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: compiled.append((f.__qualname__, options)) or f
    )
    for cfg in (tiny.make_config(tmp_path / "tiny"), toy.make_config(tmp_path / "toy")):
        cfg.compile = {"backend": "eager"}
        Runner.from_cfg(cfg)._maybe_compile("train_step")
    cfg = toy.make_config(tmp_path / "off", compile=False)
    Runner.from_cfg(cfg)._maybe_compile("train_step")
    names = ("RISurConvClassifier.forward_geometry", "BaseModel.train_step")  # a toy has no geometry
    assert compiled == [(name, {"backend": "eager"}) for name in names]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_missing_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    cfg = toy.make_config(tmp_path, compile=True)
    with pytest.raises(
        FileNotFoundError, match=r"C\+\+ compiler on the CPU, found no 'no-such-compiler'; .*aot"
    ):
        Runner.from_cfg(cfg).train()
