"""Operators on points for PyTorch Geometric where pyg-lib, which no package index has, is not installed.

PyTorch Geometric from 2.8 on calls ``torch.ops.pyg.knn``, ``radius``, ``fps``, ``nearest`` and
``grid_cluster``, and raises ImportError where pyg-lib did not bring them. ``import pointsuite`` calls
:func:`prepare`, which costs nothing until PyTorch Geometric is imported: then those that are missing are
given, on the operators of :mod:`pointsuite.ops.graph`, and ``knn_graph``, ``voxel_grid``,
``DynamicEdgeConv``, ``XConv`` and all else that is made from them work. What a real pyg-lib brings stays.
"""

from collections.abc import Callable
from types import ModuleType

from ..engine.mending import mend_on_import

# operator -> the flag by which PyTorch Geometric asks whether it is there
OPERATORS = {
    "knn": "WITH_KNN",
    "radius": "WITH_RADIUS",
    "fps": "WITH_FPS",
    "nearest": "WITH_NEAREST",
    "grid_cluster": "WITH_GRID_CLUSTER",
}


def prepare() -> None:
    """Give PyTorch Geometric its operators when it is imported, or now where it is."""
    mends = {"torch_geometric.typing": offer_operators, "torch_geometric.nn.pool": check_batches}
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


def check_batches(pool: ModuleType) -> None:
    """Have ``knn``, ``radius``, ``fps``, ``nearest`` and graphs refuse batch vectors that do not ascend.

    PyTorch Geometric makes bounds of them before it calls an operator: of others, and of strided ones, wrong
    ones, in silence.
    """
    import torch

    inner = getattr(pool, "_batch_to_ptr", None)
    if inner is None or not hasattr(torch.ops.pyg, "knn"):  # another version, or it has no operators
        return

    def _batch_to_ptr(batch, batch_size=None):
        if batch is not None and not torch.compiler.is_compiling():
            batch = batch.contiguous()
            if bool((batch[1:] < batch[:-1]).any()):
                raise ValueError(f"batch must be ascending, found {batch.tolist()[:20]}")
        return inner(batch, batch_size)

    pool._batch_to_ptr = _batch_to_ptr


def _register(name: str, function: Callable) -> None:
    import torch

    operator = torch.library.custom_op(f"pyg::{name}", function, mutates_args=())

    def fake(x, y, *args, **kwargs):
        """The number of results depends on the data; that of `nearest` and `grid_cluster` does not."""
        if name in ("nearest", "grid_cluster"):
            return x.new_empty(len(x), dtype=torch.int64)
        count = torch.library.get_ctx().new_dynamic_size()
        return x.new_empty(count if name == "fps" else (2, count), dtype=torch.int64)

    operator.register_fake(fake)
