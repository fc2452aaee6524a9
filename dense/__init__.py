"""Dense prediction on images and video."""

from .compat.wheels import prepare
from .registry import ZOO

prepare()

register_model = ZOO.register_model
create_model = ZOO.create_model
list_models = ZOO.list_models
load_official = ZOO.load_official

__all__ = ["create_model", "list_models", "load_official", "register_model"]
