"""Find the adapter of a pack, run it and compare."""

import importlib
import pkgutil

import numpy as np
import torch

from . import adapters, packs

TOLERANCE = 1e-4


def find_adapter(pack):
    """The adapter module whose SOURCE begins the pack's source; the longest match wins.

    A pack of a choice of ours has no published source: an adapter's CHOICES begin the names of its own.
    """
    modules = [
        importlib.import_module(f"{adapters.__name__}.{module.name}")
        for module in pkgutil.iter_modules(adapters.__path__)
    ]
    fitting = [
        module
        for module in modules
        if pack["source"].startswith(module.SOURCE)
        or pack.get("name", "").startswith(getattr(module, "CHOICES", ()))
    ]
    if not fitting:
        raise LookupError(f"no adapter for the source {pack['source']!r}")
    return max(fitting, key=lambda module: len(module.SOURCE))


def probe(shape):
    """The weights of the sum whose gradient a pack pins."""
    return torch.from_numpy(np.random.RandomState(99).standard_normal(tuple(shape)).astype(np.float32))


def run_pack(path):
    """Return ({output: error}, outputs that were not computed, tolerance)."""
    pack = packs.load(path)
    pack["probe"] = probe
    weights = {key: torch.from_numpy(value) for key, value in packs.fill_state_dict(pack).items()}
    inputs = {key: torch.from_numpy(value) for key, value in packs.make_inputs(pack).items()}
    torch.manual_seed(0)
    found = find_adapter(pack).outputs(pack, weights, inputs)
    arrays = {name: value.detach().numpy() for name, value in found.items() if name in pack["outputs"]}
    return (
        packs.compare(pack, arrays),
        sorted(set(pack["outputs"]) - set(arrays)),
        pack.get("tolerance", TOLERANCE),
    )


def main(paths):
    if not paths:
        print("usage: python -m tests.parity PACK.json ...")
        return 2
    good = True
    for path in paths:
        try:
            errors, missing, tolerance = run_pack(path)
        except Exception as error:  # one broken pack must not hide the others
            print(f"FAIL {path}: {type(error).__name__}: {error}")
            good = False
            continue
        # Inner stages ("tap.") help to find a fault; a pack's other outputs must all be there.
        missing = [name for name in missing if not name.startswith("tap.")]
        passed = not missing and all(error <= tolerance for error in errors.values())
        good &= passed
        print(f"{'ok  ' if passed else 'FAIL'} {path} (tolerance {tolerance:g})")
        for name, error in errors.items():
            print(f"     {name:<24} {error:.2e}{'' if error <= tolerance else '  too large'}")
        for name in missing:
            print(f"     {name:<24} not computed")
    return 0 if good else 1
