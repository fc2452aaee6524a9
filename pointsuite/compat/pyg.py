"""Operators on points for PyTorch Geometric where pyg-lib, which no package index has, is not installed.

PyTorch Geometric from 2.8 on calls ``torch.ops.pyg.knn``, ``radius``, ``fps``, ``nearest``, ``grid_cluster``
and ``graclus_cluster``, and raises ImportError where pyg-lib did not bring them. ``import pointsuite`` calls
:func:`prepare`, which costs nothing until PyTorch Geometric is imported: then those that are missing are
given, and ``knn_graph``, ``voxel_grid``, ``DynamicEdgeConv``, ``XConv`` and all else that is made from them
work. What a real pyg-lib brings stays.
"""

from collections.abc import Callable
from types import ModuleType
from typing import List, Optional  # noqa: UP035  TorchScript reads no other

from ..engine.mending import mend_on_import

# operator -> the flag by which PyTorch Geometric asks whether it is there
OPERATORS = {
    "knn": "WITH_KNN",
    "radius": "WITH_RADIUS",
    "fps": "WITH_FPS",
    "nearest": "WITH_NEAREST",
    "grid_cluster": "WITH_GRID_CLUSTER",
    "graclus_cluster": "WITH_GRACLUS",
}
# modules that make bounds of batch vectors for these operators
BOUNDS = tuple(
    f"torch_geometric.nn.{name}" for name in ("pool", "conv.edge_conv", "conv.x_conv", "conv.gravnet_conv")
)


def prepare() -> None:
    """Give PyTorch Geometric its operators when it is imported, or now where it is."""
    mends = {"torch_geometric.typing": offer_operators} | dict.fromkeys(BOUNDS, check_batches)
    mend_on_import(("torch_geometric",), lambda: mends)


def offer_operators(typing: ModuleType) -> None:
    """Register the operators that ``torch_geometric.typing`` says are missing, and tell it of them."""
    # versions before 2.8 call torch-cluster and have no such flags
    missing = [name for name, flag in OPERATORS.items() if getattr(typing, flag, None) is False]
    if not missing:
        return
    import torch

    from . import _pyg_operators

    for name in missing:
        if not hasattr(torch.ops.pyg, name):
            _register(name, getattr(_pyg_operators, name))
        setattr(typing, OPERATORS[name], True)


def check_batches(module: ModuleType) -> None:
    """Have what a module makes of batch vectors refuse those that do not ascend.

    PyTorch Geometric turns them into bounds before it calls an operator: others, and strided ones, into wrong
    bounds, in silence.
    """
    import torch

    inner = getattr(module, "index2ptr", None)
    if inner is None or not hasattr(torch.ops.pyg, "knn"):  # another version, or it has no operators
        return

    # optional, since TorchScript does not see that PyTorch Geometric's layers ask
    def index2ptr(index: Optional[torch.Tensor], size: Optional[int] = None) -> torch.Tensor:  # noqa: UP045
        assert index is not None
        index = index.contiguous()
        seen = torch.jit.is_scripting() or not torch.compiler.is_compiling()
        if seen and bool((index[1:] < index[:-1]).any()):
            found: List[int] = index[:20].tolist()  # noqa: UP006
            raise ValueError(f"batch must be ascending, found {found}")
        return inner(index, size)

    module.index2ptr = index2ptr


def _register(name: str, function: Callable) -> None:
    import torch

    operator = torch.library.custom_op(f"pyg::{name}", function, mutates_args=())

    def fake(x, y, *args, **kwargs):
        """The number of results depends on the data, but that of the last three."""
        if name == "graclus_cluster":
            return x.new_empty(len(x) - 1)
        if name in ("nearest", "grid_cluster"):
            return x.new_empty(len(x), dtype=torch.int64)
        count = torch.library.get_ctx().new_dynamic_size()
        return x.new_empty(count if name == "fps" else (2, count), dtype=torch.int64)

    operator.register_fake(fake)
