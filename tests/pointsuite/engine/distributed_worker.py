"""What each of two processes does in test_distributed.py: distributed_worker.py CONFIG IMAGE_CONFIG."""

import copy
import os
import sys
from pathlib import Path

import pointsuite  # noqa: F401  before PyTorch

# isort: split
import torch
from mmengine.optim import OptimWrapper
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from pointsuite.engine import command
from pointsuite.engine.sharding import Fsdp, gather, split_model, split_optimizer
from pointsuite.engine.sync_batch_norm import allow_cpu, synchronize_batch_norms
from pointsuite.layers import SurfaceConv, mlp

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.tools.load import load_tool


class Layer(SurfaceConv):
    def forward(self, x):
        features, idx = x[..., :14], (x[..., 14].abs() * 2).long()
        return super().forward(features, idx, x[:, 0, :, 15:])


def check_norms(layer: nn.Module, x: torch.Tensor, synchronize=synchronize_batch_norms) -> None:
    """Two unequal parts of a batch in two processes equal the whole batch in one, gradients included."""
    for norm in layer.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)  # negative slopes too
    layer, rank = layer.double().train(), distributed.get_rank()
    whole, parts = copy.deepcopy(layer), copy.deepcopy(layer)
    synchronize(parts)
    assert parts.state_dict().keys() == whole.state_dict().keys()
    mine = slice(0, 2) if rank == 0 else slice(2, len(x))
    for _ in range(2):
        wanted, found = whole(x), parts(x[mine])
    torch.testing.assert_close(found, wanted[mine])
    probe = torch.randn(wanted.shape, dtype=x.dtype)
    (wanted * probe).sum().backward(), (found * probe[mine]).sum().backward()
    for (name, a), b in zip(parts.named_parameters(), whole.parameters(), strict=True):
        if a.requires_grad:
            distributed.all_reduce(a.grad)
            torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, a), b in zip(parts.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(parts.eval()(x), whole.eval()(x))


class Scaled(nn.Module):
    """A table that is used twice, a parameter without an axis, and one that no second process uses."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4)
        blocks = [nn.Sequential(nn.Tanh(), nn.Linear(4, 4)) for _ in range(2)]
        self.blocks = nn.ModuleList(map(Block, blocks))
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.table.weight
        self.scale, self.sometimes = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.ones(5, 4))

    def forward(self, ids, use):
        x = self.table(ids) * self.scale
        for block in self.blocks:
            x = block(x)
            x += 1  # in place, on what is a view of what the block computed
        return self.out(x + self.sometimes[0] if use else x)


class Block(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x).flatten(1).view_as(x)


def check_split(clip: dict | None) -> None:
    """Split and whole networks learn the same, whatever lies across their parts."""
    rank = distributed.get_rank()
    torch.manual_seed(0)
    whole = Scaled()
    part = copy.deepcopy(whole)
    names = {id(p): name for name, p in part.named_parameters()}
    wrappers = [
        OptimWrapper(torch.optim.AdamW(m.parameters(), 0.1), clip_grad=clip and {**clip})
        for m in (whole, part)
    ]
    split_model(part, Fsdp(1), "cpu", uneven=True)
    split_optimizer(wrappers[1], names, part, uneven=True)
    whole = nn.parallel.DistributedDataParallel(whole, find_unused_parameters=True)
    for step in range(3):
        torch.manual_seed(10 * step + rank)
        ids = torch.randint(6, (5,))
        for model, wrapper in zip((whole, part), wrappers, strict=True):
            wrapper.update_params(nn.functional.cross_entropy(model(ids, rank == 0), ids))
    wanted, found = whole.module.state_dict(), gather(part.state_dict(), keep=True)
    assert list(found) == list(wanted)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    part.load_state_dict(wanted)  # whole weights go into split ones
    assert gather(part.state_dict(), keep=True)["scale"].equal(wanted["scale"])


def check_memory(runner) -> None:
    """Each process holds half of the parameters, of the optimiser's state and of the averaged weights."""
    average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, "ema_model"))
    state = [v for entry in runner.optim_wrapper.optimizer.state.values() for v in entry.values() if v.ndim]
    for tensors in (list(runner.model.parameters()), state, list(average.module.parameters())):
        held = torch.tensor(sum(t.to_local().numel() for t in tensors))
        total = sum(t.numel() for t in tensors)
        assert all(isinstance(t, DTensor) for t in tensors) and 0.45 * total < held < 0.55 * total
        distributed.all_reduce(held)
        assert held == total


def train_images(config: str, name: str, resume: str | None = None, **options):
    options = {"experiment_name": name, "train_dataloader.dataset.data_root": "images/data", **options}
    options["val_dataloader.dataset.data_root"] = "images/data"
    cfg = command.read_config(config, options, work_dir=name)
    cfg.launcher, cfg.resume, cfg.load_from = "pytorch", resume is not None, resume
    runner = command.build_runner(cfg)
    runner.train()
    return runner


def main(config: str, images: str) -> None:
    train = load_tool("train").main
    options = [config, "--launcher", "pytorch", "--cfg-options", "train_dataloader.batch_size=16"]
    train([*options, "experiment_name=whole", "--work-dir", "two"])
    train([*options, "experiment_name=rest", "--work-dir", "rest", "--resume", "two/epoch_1.pth"])
    assert distributed.get_backend() == "gloo" and distributed.get_world_size() == 2
    split = ["strategy.type=fsdp", "strategy.min_numbers=200"]
    train([*options, *split, "experiment_name=split", "--work-dir", "split", "--resume", "two/epoch_1.pth"])

    fsdp = {"strategy": {"type": "fsdp", "min_numbers": 1000}}
    train_images(images, "images_ddp")
    check_memory(train_images(images, "images_fsdp", **fsdp))
    train_images(images, "images_rest", "images_fsdp/epoch_1.pth")
    train_images(images, "images_back", "images_ddp/epoch_1.pth", **fsdp)
    for clip in (None, {"max_norm": 0.1}, {"type": "value", "clip_value": 0.01}):
        check_split(clip)

    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 17, dtype=torch.float64)
    x[..., 14] = torch.rand_like(x[..., 14])
    check_norms(Layer(2, 8, 8), x)
    check_norms(mlp(17, 8, 4), x)
    check_norms(nn.BatchNorm2d(3, momentum=None), x)
    check_norms(
        nn.Sequential(nn.BatchNorm2d(3)),
        x,
        lambda parts: allow_cpu(nn.SyncBatchNorm.convert_sync_batchnorm(parts)),
    )
    distributed.barrier()
    distributed.destroy_process_group()
    # Gloo's threads sometimes abort the process while Python shuts down ("terminate called without an active
    # exception"), after all its work: leave without that.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
