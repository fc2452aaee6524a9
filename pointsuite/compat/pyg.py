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
    mend_on_import(("torch_geometric",), lambda: {"torch_geometric.typing": offer_operators})


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
