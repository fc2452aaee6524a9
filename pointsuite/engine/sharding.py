"""Parameters, gradients and the optimiser's state split over a run's processes: ``strategy="fsdp"``.

PyTorch's ``fully_shard`` does it: a parameter is a ``DTensor``, of which each process holds some rows; while
a part of the model computes, its parameters are whole. Names stay as they were, and checkpoints are whole:
they go from runs with this strategy to runs without, and back, whatever the number of processes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

from .errors import UsageError, nearest

# PyTorch's that change a number by its own gradient and state alone, so that rows may lie apart
ELEMENTWISE = (
    *("SGD", "ASGD", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax"),
    *("NAdam", "RAdam", "RMSprop", "Rprop"),
)


@dataclass(frozen=True)
class Fsdp:
    """How a model is split: what a config's ``strategy`` says, ``"fsdp"`` or ``dict(type="fsdp", ...)``.

    Args:
        min_numbers: parameters of a part that is brought together by itself, for as long as it computes; what
            lies in no such part is together throughout forward and backward.
    """

    min_numbers: int = 1_000_000


def read_strategy(value: Any) -> Fsdp | None:
    """The ``strategy`` of a config; None for "ddp", which is the default: each process holds everything.

    Raises:
        UsageError: it is neither, or has options that mean nothing.
    """
    options = dict(value) if isinstance(value, Mapping) else {"type": "ddp" if value is None else value}
    kind = options.pop("type", None)
    if kind not in ("ddp", "fsdp") or kind == "ddp" and options:
        raise UsageError(f"strategy: found {value!r}, wanted 'ddp', 'fsdp' or dict(type='fsdp', ...)")
    known = [field.name for field in fields(Fsdp)]
    for name, number in options.items():
        if name not in known:
            raise UsageError(f"strategy.{name}: no such option{nearest(name, known, f'; wanted {known[0]}')}")
        if type(number) is not int or number < 1:
            raise UsageError(f"strategy.{name}: found {number!r}, wanted a whole number from 1")
    return None if kind == "ddp" else Fsdp(**options)


# --------------------------------------------------------------------------------------------------- model


def choose_parts(model: nn.Module, min_numbers: int) -> list[nn.Module]:
    """The parts of ``model`` that are split by themselves, inner ones first.

    They are members of containers, as the blocks of a stage: these are called as a whole, where other
    modules may be used by their parents in other ways. A part has ``min_numbers`` parameters beside those of
    the parts in it, and none that is used outside of it, too. A class whose containers have members that are
    used otherwise than called (their methods, their parameters) names them: ``used_in_parts = ("heads",)``.
    """
    uses = _count_uses(model)
    opened = {
        module.get_submodule(name)
        for module in model.modules()
        for name in getattr(module, "used_in_parts", ())
    }
    parts: dict[nn.Module, None] = {}
    taken: set[int] = set()

    def visit(module: nn.Module, is_member: bool) -> None:
        is_container = _is_container(module) and module not in opened
        for child in module.children():
            visit(child, is_container)
        if not is_member or _is_container(module) or module in parts or next(module.children(), None) is None:
            return
        own = _count_uses(module)
        rest = [p for p in module.parameters() if id(p) not in taken]
        is_alone = all(uses[key] == count for key, count in own.items())
        if is_alone and sum(p.numel() for p in rest) >= min_numbers:
            parts[module] = None
            taken.update(map(id, rest))

    visit(model, False)
    return list(parts)


def _count_uses(model: nn.Module) -> Counter:
    """How many modules have a parameter, by its ``id``."""
    return Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)


def _is_container(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, (nn.ModuleList, nn.ModuleDict)) and type(module).forward is nn.Module.forward


def split_model(model: nn.Module, strategy: Fsdp, device: str, uneven: bool = False) -> None:
    """Split the parameters of ``model`` over all processes, in place, part by part.

    Buffers are whole in each process, and so are parameters without an axis.

    Args:
        device: "cuda" or "cpu", where all go.
        uneven: processes may leave out different parameters, as with ``find_unused_parameters``.
    """
    mesh = init_device_mesh(device, (get_world_size(),))
    whole = {p for p in model.parameters() if not p.ndim}
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous() if parameter.ndim else parameter.data.to(device)
    for module in model.modules():
        if isinstance(module, BaseDataPreprocessor):
            module.to(device)  # it notes the device, to which it sends batches
    for part in (*choose_parts(model, strategy.min_numbers), model):
        part.register_forward_hook(lambda module, args, output: _own(output))
        # PyTorch would leave what lies in no part together after forward, where averages are taken
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    model.set_reduce_scatter_unused_params(uneven)
    for module in model.modules():
        module.register_load_state_dict_pre_hook(_split_loaded)


def _own(output: Any) -> Any:
    """Outputs whose views are copies: what is changed in place loses the hook that brings parameters together
    for its backward pass, if it is a view.
    """
    if isinstance(output, Tensor):
        return output.clone() if output.requires_grad and output._base is not None else output
    if type(output) in (list, tuple):
        return type(output)(map(_own, output))
    if type(output) is dict:
        return {key: _own(item) for key, item in output.items()}
    return output


def _split_loaded(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets whole weights be loaded into split ones."""
    for name, parameter in module._parameters.items():
        if (key := prefix + name) in state_dict:
            state_dict[key] = split_like(state_dict[key], parameter)


def split_like(value: Any, like: Any) -> Any:
    """This process's rows of a whole tensor, where ``like`` is split and of its shape; others as they are."""
    if (
        not isinstance(like, DTensor)
        or isinstance(value, DTensor)
        or getattr(value, "shape", None) != like.shape
    ):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather(value: Any, keep: bool) -> Any:
    """A value, which may be nested, whose split tensors are whole; all processes have to call it.

    Args:
        keep: False puts None in their place, in a process that only helps.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gather(item, keep) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(gather(item, keep) for item in value)
    return value


def count_numbers(tensors: Sequence[Any]) -> tuple[int, int]:
    """How many numbers of tensors this process holds, and how many there are in all."""
    held = sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in tensors)
    return held, sum(t.numel() for t in tensors)


def explain_split(error: BaseException) -> str | None:
    """What to do about an error of PyTorch's that follows from splitting; None for others."""
    if "got mixed torch.Tensor and DTensor" in str(error):
        return (
            "strategy 'fsdp': parameters of a part are used while it does not compute; wanted the names of "
            "such parts' containers as used_in_parts of their model's class, or more strategy.min_numbers"
        )
    if "Trying to resize storage that is not resizable" in str(error):
        return (
            "strategy 'fsdp': a kernel for the CPU reads a parameter through NumPy, which PyTorch then "
            "cannot take apart; wanted an NVIDIA GPU, or strategy='ddp'"
        )
    return None


# ----------------------------------------------------------------------------------------------- optimiser


def check_optimizer(wrapper: Any) -> None:
    """Raise a UsageError where split parameters would not be changed as whole ones are."""
    where = "strategy 'fsdp': optim_wrapper"
    if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, (ApexOptimWrapper, OptimWrapperDict)):
        raise UsageError(
            f"{where}: found {type(wrapper).__name__}, wanted one OptimWrapper or AmpOptimWrapper"
        )
    if isinstance(wrapper, AmpOptimWrapper) and wrapper.loss_scaler.is_enabled():
        raise UsageError(f"{where}: found a scaled loss, as float16 has it, wanted bfloat16 or float32")
    bases = type(wrapper.optimizer).__mro__
    nearest_base = next((base for base in bases if base.__module__.startswith("torch.optim")), object)
    if nearest_base.__name__ not in ELEMENTWISE:
        found = type(wrapper.optimizer).__name__
        raise UsageError(f"{where}.optimizer: found {found}, wanted one of {', '.join(ELEMENTWISE)}")


def split_optimizer(
    wrapper: OptimWrapper, names: Mapping[int, str], model: nn.Module, uneven: bool = False
) -> None:
    """Let an optimiser that has no state yet change the split parameters of ``model``.

    Gradients are clipped by the norm of all of them. Those of whole parameters, which ``fully_shard`` leaves
    alone, are averaged over the processes before each step.

    Args:
        names: of the parameters that it has, by their ``id``.
        uneven: see :func:`split_model`.
    """
    parameters = dict(model.named_parameters())
    for group in wrapper.optimizer.param_groups:
        group["params"] = [parameters[names[id(p)]] if id(p) in names else p for p in group["params"]]
    if wrapper.clip_grad_kwargs:
        wrapper.clip_func = {clip_grad_norm_: _clip_norm, clip_grad_value_: _clip_value}[wrapper.clip_func]
    if whole := [p for p in parameters.values() if p.requires_grad and not isinstance(p, DTensor)]:
        wrapper.step = partial(_step, wrapper.step, whole, uneven)


def _step(step: Any, whole: Sequence[Tensor], uneven: bool, **kwargs: Any) -> None:
    if uneven:
        for parameter in whole:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if grads := [p.grad for p in whole if p.grad is not None]:
        all_reduce(means := torch.stack([grad.float() for grad in grads]), "mean")
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean)
    step(**kwargs)


def _by_kind(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split and whole ones, which no function of PyTorch takes together."""
    return [p for p in parameters if isinstance(p, DTensor)], [
        p for p in parameters if not isinstance(p, DTensor)
    ]


def _clip_norm(
    parameters: Sequence[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    **kwargs,
) -> Tensor:
    kinds = [kind for kind in _by_kind(parameters) if kind]
    norms = [get_total_norm([p.grad for p in kind], float(norm_type), **kwargs) for kind in kinds]
    total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms])
    total = torch.linalg.vector_norm(total, float(norm_type))
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(f"the norm of the gradients is {total.item()}, so they cannot be clipped")
    for kind in kinds:
        clip_grads_with_norm_(kind, max_norm, total, **kwargs)
    return total


def _clip_value(parameters: Sequence[Tensor], clip_value: float, **kwargs) -> None:
    for kind in _by_kind(parameters):
        clip_grad_value_(kind, clip_value, **kwargs)


def split_optimizer_state(state: Mapping[str, Any], wrapper: OptimWrapper) -> dict[str, Any]:
    """A whole state dict of an optimiser, as its split parameters take it."""
    parameters = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
    parts = {
        key: {name: split_like(value, parameters[key]) for name, value in entry.items()}
        for key, entry in state["state"].items()
    }
    return {**state, "state": parts}
