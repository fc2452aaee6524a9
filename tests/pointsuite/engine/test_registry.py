import mmengine.registry
import pytest
from mmengine.registry import Registry

import dense.registry  # noqa: F401
import pointsuite.registry  # noqa: F401

ROOTS = [root for root in vars(mmengine.registry).values() if isinstance(root, Registry)]


@pytest.mark.parametrize("scope", ["pointsuite", "dense"])
def test_no_registry_is_said_not_to_be_installed(scope, monkeypatch):
    """MMEngine takes one without a place for one of a package that is not installed."""
    said = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, *_, **__: said.append(message))
    registries = [root.children[scope] for root in ROOTS]
    for registry in registries:
        monkeypatch.setattr(registry, "_imported", False)
        registry.import_from_location()
    assert len(said) >= len(registries) > 15
    assert not [message for message in said if "not installed" in message]
