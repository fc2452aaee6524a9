"""Dense matching: for each place of the target image, where it is in the source image.

A network maps two batches of normalised images (B, 3, H, W) to a list of flows, coarse to fine, each
(B, 2, g, g) on the target's grid, x and y in cells, pointing to the source; its ``match(source, target)`` is
``(flow, confidence)``. :class:`Matcher` matches pictures; :class:`DenseMatcher` trains and tests any network.
"""

from pointsuite.engine.registry import import_package

from .predictor import Match, Matcher

__all__ = ["Match", "Matcher"]

import_package(__name__)
