"""What every published network of both zoos must fulfil: its smallest variant, on small inputs.

What a system cannot fulfil it declares on its class (``exempt``: check and reason). An exemption must be
true: the check is run all the same and has to fail.
"""

import pytest

import dense
import pointsuite
from dense.base import BaseBackbone
from dense.registry import ZOO
from pointsuite.engine.skeleton import skeletons
from pointsuite.engine.zoo import ZOO as CLOUD_ZOO

from .contract import CHECKS, SLOW, SYMMETRIES, build, fulfil

SYSTEMS = {**CLOUD_ZOO.systems(), **ZOO.systems()}
BACKBONES = [system for system, cls in SYSTEMS.items() if issubclass(cls, BaseBackbone)]
# a backbone is a classifier, and alone it gives maps
SUBJECTS = {
    **{system: (cls, {"num_classes": 5} if system in BACKBONES else {}) for system, cls in SYSTEMS.items()},
    **{f"{system}:maps": (SYSTEMS[system], {"features_only": True}) for system in BACKBONES},
}


@pytest.fixture(scope="module")
def networks():
    return {}


# all checks of a network after each other, so that they share what they compute, and only one network is kept
@pytest.mark.parametrize("check", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CHECKS])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_contract(subject, check, networks, tmp_path):
    cls, options = SUBJECTS[subject]
    if subject not in networks:
        networks.clear()
        networks[subject] = build(cls, **options)
    part = "maps" if "features_only" in options else "classifier"
    fulfil(cls, check, lambda: CHECKS[check](networks[subject], cls, tmp_path), part)


# -------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize("system", SYSTEMS)
def test_facts(system):
    """A paper, only known exemptions with reasons, and the stated number of parameters of every variant."""
    cls = SYSTEMS[system]
    assert cls.paper and (cls.licence or not cls.code)
    exempt = {key.removesuffix(":maps").removesuffix(":classifier") for key in cls.exempt}
    assert not exempt - CHECKS.keys() - SYMMETRIES and all(cls.exempt.values())
    assert cls.num_parameters.keys() == cls.archs.keys()
    assert cls.published.keys() <= cls.archs.keys()
    found = {}
    for arch in cls.archs:
        with skeletons():
            found[arch] = sum(p.numel() for p in cls.create(arch).parameters())
    assert found == cls.num_parameters


def test_names():
    """A system's name is that of its file, and of the folder of its configs where it has one."""
    for system, cls in SYSTEMS.items():
        assert system in cls.__module__.split("."), f"{system} lies in {cls.__module__}"
    names = {*pointsuite.list_models(), *dense.list_models()}
    for cls in SYSTEMS.values():
        for arch in cls.archs:
            assert cls.model_name(arch) in names
