"""MMEngine imports ``<scope>.registry`` to find the registries of a scope."""

from .engine.registry import DATASETS, HOOKS, METRICS, MODELS, RUNNERS, TRANSFORMS

__all__ = ["DATASETS", "HOOKS", "METRICS", "MODELS", "RUNNERS", "TRANSFORMS"]
