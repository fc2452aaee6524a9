"""Networks of MMDetection and MMSegmentation that configs describe: built by name, called with pictures."""

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope, Registry
from torch import nn

from pointsuite.engine.checkpoint import CheckpointError
from pointsuite.engine.errors import UsageError
from pointsuite.engine.images import SUFFIXES
from pointsuite.engine.network import Network

from .task import Predictor

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE.parent / "configs", PACKAGE / ".mim" / "configs")  # of the repository, of an installation


def find_config(name: str | os.PathLike) -> Path:
    """A config of this project, as ``davit/davit-t_imagenet.py``, or any by its full path.

    Raises:
        UsageError: there is none.
    """
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{FOLDERS[0] / name}: no such config, nor {FOLDERS[1] / name}")


def build_configured(
    config: str | os.PathLike,
    registry: Registry,
    cls: type[nn.Module] | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """The network of a config with its initial weights; nothing is downloaded.

    Args:
        config: see :func:`find_config`.
        registry: of the library; its scope is the default one.
        cls: of the network, where it is not what the config says.
        num_classes: of all heads.
        **options: of the config's ``model``, as ``num_queries=300`` or ``**{"bbox_head.stacked_convs": 2}``.

    Returns:
        The network, whose ``cfg`` is the config.
    """
    cfg = Config.fromfile(find_config(config))
    cfg.merge_from_dict({f"model.{key}": value for key, value in options.items()})
    _prepare(cfg.model, num_classes)

    def build() -> nn.Module:
        model = copy.deepcopy(cfg.model)  # building changes some
        with DefaultScope.overwrite_default_scope(registry.scope):
            return registry.build(model if cls is None else {**model, "type": cls})

    if torch.get_default_device().type == "meta":
        try:
            network = build()
        except RuntimeError:  # some backbones of these libraries compute with numbers when they are built
            with torch.device("cpu"):
                network = build()
        network.to("meta")
    else:
        network = build()
        with _silence():  # MMEngine says of each weight what became of it
            network.init_weights()
    network.cfg = cfg
    return network


@contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _prepare(node: Any, num_classes: int | None) -> None:
    """Set the number of classes everywhere, and forget pretrained weights."""
    for key, value in list(node.items()) if isinstance(node, dict) else enumerate(node):
        if key == "num_classes" and num_classes is not None:
            node[key] = num_classes
        elif key == "pretrained" or (key == "init_cfg" and _is_pretrained(value)):
            node[key] = None
        elif isinstance(value, dict | list):
            _prepare(value, num_classes)


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, Mapping) and init_cfg.get("type") == "Pretrained"


class ConfiguredNetwork(Network):
    """A published network that a config of this project describes: ``archs`` are {"config": its path}."""

    library: ClassVar[Registry]  # mmdet's or mmseg's, of models

    @classmethod
    def create(
        cls, arch: str | Mapping[str, Any], *, num_classes: int | None = None, **options: Any
    ) -> nn.Module:
        """See :func:`build_configured`; ``num_classes`` is that of the config by default."""
        return build_configured(cls.find_arch(arch)["config"], cls.library, cls, num_classes, **options)


class ConfiguredPredictor(Predictor):
    """What predictors of pictures share whose network and pipeline an OpenMMLab config describes.

    The config is that of a run, or the one which a network of ``dense.create_model`` was built from.
    """

    suffixes = tuple(suffix for suffix in SUFFIXES if suffix != ".gif")  # which OpenCV cannot read everywhere
    cfg: Config

    def build_model(self, source: str) -> nn.Module:
        if self.cfg is None and isinstance(self.meta.get("model"), Mapping):
            raise CheckpointError(
                f"{source}: does not say how images are prepared, wanted its config or work dir"
            )
        return super().build_model(source)

    def _take_config(self) -> None:
        """Without a config, use the one that the network was built from."""
        self.cfg = self.cfg or getattr(self.model, "cfg", None)
        if self.cfg is None:
            raise ValueError(
                f"a bare {type(self.model).__name__} does not say how images are prepared, wanted its config "
                "or a network of dense.create_model"
            )

    def _find_names(self) -> dict[str, Any]:
        """Classes and palette: those that the checkpoint was trained with, else those of the test data."""
        config = innermost(self.cfg.test_dataloader.dataset)
        with DATASETS.switch_scope_and_registry(self.registry.scope) as datasets:
            try:
                known = datasets.build({**config, "lazy_init": True}).metainfo
            except (AssertionError, OSError):  # some ask for their files even so
                known = {**datasets.get(config.type).METAINFO, **config.get("metainfo", {})}
        trained = self.meta.get("dataset_meta") or {}
        return {**known, **{key.lower(): value for key, value in trained.items()}}


def innermost(dataset: ConfigDict) -> ConfigDict:
    """A data set without what repeats or joins it."""
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset["datasets"][0] if "datasets" in dataset else dataset
