"""Pictures of what segmentors say."""

from mmseg.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer

from ..base.captions import CaptionedPairs


@VISUALIZERS.register_module()
class CaptionedSegVisualizer(CaptionedPairs, SegLocalVisualizer):
    """MMSegmentation's, which says what is truth and what is prediction."""
