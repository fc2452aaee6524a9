"""The name under which :class:`~dense.matching.predictor.Matcher` was published first."""

from .model import DenseMatcher as DenseMatcher
from .predictor import Match as Match
from .predictor import Matcher as Matcher
