"""Dense prediction on images and video."""

from .registry import ZOO
from .stock import prepare

prepare()

register_model = ZOO.register_model
create_model = ZOO.create_model
list_models = ZOO.list_models

__all__ = ["create_model", "list_models", "register_model"]
