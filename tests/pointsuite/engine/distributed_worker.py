"""What each of two processes does in test_distributed.py: python distributed_worker.py CONFIG."""

import copy
import os
import sys
from pathlib import Path

import pointsuite  # noqa: F401  before PyTorch

# isort: split
import torch
from torch import distributed, nn

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


def main(config: str) -> None:
    train = load_tool("train").main
    options = [config, "--launcher", "pytorch", "--cfg-options", "train_dataloader.batch_size=16"]
    train([*options, "experiment_name=whole", "--work-dir", "two"])
    train([*options, "experiment_name=rest", "--work-dir", "rest", "--resume", "two/epoch_1.pth"])
    assert distributed.get_backend() == "gloo" and distributed.get_world_size() == 2

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
