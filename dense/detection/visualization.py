"""Pictures of what detectors find."""

from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer

from ..base.captions import CaptionedPairs


@VISUALIZERS.register_module()
class CaptionedDetVisualizer(CaptionedPairs, DetLocalVisualizer):
    """MMDetection's, which says what is truth, and how many boxes are not drawn for their low scores."""

    def describe(
        self, data_sample: DetDataSample | None, draw_pred: bool, pred_score_thr: float = 0.3, **_
    ) -> str:
        found = getattr(data_sample, "pred_instances", None)
        if not draw_pred or found is None or "scores" not in found:
            return ""
        count = int((found.scores <= pred_score_thr).sum())
        return (
            f"{count} {'box' if count == 1 else 'boxes'} under {pred_score_thr:g} not shown" if count else ""
        )
