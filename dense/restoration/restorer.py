"""The name under which :class:`~dense.restoration.predictor.Restorer` was published first."""

from .model import ImageRestorer as ImageRestorer
from .predictor import Restorer as Restorer
