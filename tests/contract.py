"""Checks that every published network must pass: one function each, which raises where it does not."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

from dense.base import BaseBackbone, ClassificationNetwork
from dense.layers import ConvNorm, ReparameterizedConv, mergeable_layers, switch_to_deploy
from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint
from pointsuite.engine.independence import batch_effect, difference, in_float64
from pointsuite.engine.independence import find_tensors as tensors
from pointsuite.engine.network import Network

PACKS = Path(__file__).parent / "parity" / "packs"
SHARED: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def awaken(network: nn.Module, cls: type[Network]) -> nn.Module:
    """Give a weight to branches that start out (nearly) switched off, and statistics to batch norms."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() and parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.3)
        network.train()(*examples(network, cls, 4))
    return network.eval()


def examples(network: nn.Module, cls: type[Network], batch: int, size=None, seed: int = 0) -> tuple:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network.example_inputs(batch, cls.example_sizes[0] if size is None else size)


def build(cls: type[Network], **options) -> nn.Module:
    torch.manual_seed(0)
    with unset_is_nan():
        network = cls.smallest(**options)
    return awaken(network, cls)


@contextmanager
def unset_is_nan():
    """Memory that is taken and never written is NaN, so that a weight without a start shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def gradients(network: nn.Module, inputs: tuple) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    outputs = tensors(network(*inputs))
    torch.manual_seed(1)
    loss = sum((y * torch.randn_like(y)).sum() for y in outputs)
    network.zero_grad(set_to_none=True)
    loss.backward()  # not torch.autograd.grad, which some libraries' checkpointing does not allow
    return {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


def shared(network: nn.Module, what: str, compute: Callable[[], Any]) -> Any:
    """What several checks of a network want alike is computed by the first of them."""
    known = SHARED.setdefault(network, {})
    if what not in known:
        known[what] = compute()
    return known[what]


@torch.no_grad()
def outputs_of(network: nn.Module, cls: type[Network]) -> Any:
    """Of two examples, by the network as it was when they were first asked for."""
    return shared(network, "outputs", lambda: network(*examples(network, cls, 2)))


def gradients_of(network: nn.Module, cls: type[Network]) -> dict[str, Tensor | None]:
    """In training, of four examples."""
    return shared(
        network, "gradients", lambda: gradients(copy.deepcopy(network).train(), examples(network, cls, 4))
    )


# ------------------------------------------------------------------------------------------------- checks


@torch.no_grad()
def check_forward(network, cls, tmp_path):
    for found in (outputs_of(network, cls), network(*examples(network, cls, 2, cls.example_sizes[1]))):
        outputs = tensors(found)
        assert outputs and all(y.isfinite().all() for y in outputs)
        assert any(y.std() > 0 for y in outputs)


@torch.no_grad()
def check_deterministic(network, cls, tmp_path):
    first, second = tensors(outputs_of(network, cls)), tensors(network(*examples(network, cls, 2)))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def check_gradients(network, cls, tmp_path):
    for name, gradient in gradients_of(network, cls).items():
        assert gradient is not None and gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@torch.no_grad()
def check_batch_independence(network, cls, tmp_path):
    inputs = examples(network, cls, 4)
    if batch_effect(network, inputs) < 2e-5:
        return
    # the order of sums depends on the batch; where a network chooses by its numbers, as queries or keys,
    # their rounding in float32 may choose others
    assert batch_effect(copy.deepcopy(network).double(), in_float64(inputs)) < 1e-9


@torch.no_grad()
def check_bfloat16(network, cls, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        found = network(*examples(network, cls, 2))
    assert difference(found, outputs_of(network, cls)) < 0.05


@torch.no_grad()
def check_round_trip(network, cls, tmp_path):
    save_checkpoint(network.state_dict(), tmp_path / "weights.pth")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.constant_(parameter, torch.nan)
    other.load_state_dict(load_checkpoint(tmp_path / "weights.pth"))
    found = other(*examples(network, cls, 2))
    for x, y in zip(tensors(found), tensors(outputs_of(network, cls)), strict=True):
        assert torch.equal(x, y)


def check_checkpointing(network, cls, tmp_path):
    """``with_cp`` changes no gradient; a network that has no such switch passes."""
    if not any(hasattr(module, "with_cp") for module in network.modules()):
        return
    inputs = examples(network, cls, 4)
    if checkpointing_effect(network, inputs, gradients_of(network, cls)) < 1e-4:
        return
    # where rounding is enlarged, as by logits of 1e6, float32 tells nothing
    double, inputs = copy.deepcopy(network).double(), in_float64(inputs)
    wanted = gradients(copy.deepcopy(double).train(), inputs)
    assert checkpointing_effect(double, inputs, wanted) < 1e-6


def checkpointing_effect(network, inputs, wanted) -> float:
    """The largest change of a parameter's gradient from what it is without, relative to its size."""
    saving = copy.deepcopy(network).train()
    for module in saving.modules():
        if hasattr(module, "with_cp"):
            module.with_cp = True
    found = gradients(saving, inputs)
    assert {name for name in wanted if wanted[name] is None} == {
        name for name in found if found[name] is None
    }
    pairs = [(found[name], wanted[name]) for name in wanted if wanted[name] is not None]
    return max(((f - w).norm() / w.norm().clamp(min=1e-12)).item() for f, w in pairs)


@torch.no_grad()
def check_deploy(network, cls, tmp_path):
    """Norms and branches that are merged, at each call or for good, change nothing, and ``deploy`` builds
    what the latter leaves; a network without any passes.
    """
    if not mergeable_layers(network):
        return
    if issubclass(cls, BaseBackbone):
        with torch.device("meta"):
            merged = cls.smallest(deploy=True, features_only=isinstance(network, BaseBackbone))
        assert merged.state_dict().keys() == switch_to_deploy(copy.deepcopy(network)).state_dict().keys()
    inputs = examples(network, cls, 2)
    if max(deploying_effects(network, inputs)) < 1e-5:
        return
    # where rounding is enlarged, float32 tells nothing
    assert max(deploying_effects(copy.deepcopy(network).double(), in_float64(inputs))) < 1e-9


def deploying_effects(network, inputs) -> tuple[float, float]:
    """The change of outputs by merging at each call, and by keeping what is merged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvNorm, "merges", property(lambda self: False))
        patch.setattr(ReparameterizedConv, "merges", property(lambda self: False))
        wanted = network(*inputs)
    deployed = switch_to_deploy(copy.deepcopy(network))
    assert not mergeable_layers(deployed)
    return difference(network(*inputs), wanted), difference(deployed(*inputs), wanted)


@torch.no_grad()
def check_classifier(network, cls, tmp_path):
    """The methods that users of timm know; what is no classifier of images passes."""
    if not isinstance(network, ClassificationNetwork):
        return
    inputs, logits = examples(network, cls, 2), outputs_of(network, cls)
    features = network.forward_features(*inputs)
    assert logits.shape == (2, network.num_classes) and torch.equal(network.forward_head(features), logits)
    vectors = network.forward_head(features, pre_logits=True)
    assert vectors.shape == (2, network.head_hidden_size)
    if isinstance(features, Tensor):
        assert network.num_features in features.shape
    network = copy.deepcopy(network)
    network.reset_classifier(3)
    assert network(*inputs).shape == (2, 3) and network.num_classes == 3
    network.reset_classifier(0)
    torch.testing.assert_close(network(*inputs), vectors)
    assert cls.smallest(num_classes=0).eval()(*inputs).shape == vectors.shape


def check_packs(network, cls, tmp_path):
    """What its authors published is pinned; tests/parity runs the packs."""
    assert list((PACKS / (cls.packs or cls.folder or cls.system)).glob("*.json"))


@torch.no_grad()
def check_compile(network, cls, tmp_path):
    inputs = examples(network, cls, 2)
    if compilation_effect(network, inputs) < 1e-5:
        return
    # where rounding is enlarged, as by a softmax of low temperature, float32 tells nothing
    assert compilation_effect(copy.deepcopy(network).double(), in_float64(inputs)) < 1e-9


def compilation_effect(network, inputs) -> float:
    compiled = torch.compile(network, backend="aot_eager")  # the default one wants a C++ compiler
    return difference(compiled(*inputs), network(*inputs))


CHECKS = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}
SLOW = {"compile"}
SYMMETRIES = {"rotation", "translation", "permutation"}  # of clouds: tests/pointsuite/models/test_contract.py


def fulfil(cls: type[Network], name: str, check: Callable[[], None], part: str = "") -> None:
    """The check passes, or it fails and the class says so, of all or of a part ("check:part")."""
    if not cls.exempt.keys() & {name, f"{name}:{part}"}:
        check()
        return
    with pytest.raises(AssertionError):
        check()
        pytest.fail(f"{cls.__name__} is exempt from {name!r}, but passes it", pytrace=False)
