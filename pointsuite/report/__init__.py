"""What a run leaves to look at: a page with curves, tables, and what was wrong, in one file, offline.

Importing this registers the hook that every run gets.
"""

from .findings import Findings, load_findings
from .gallery import Item, write_gallery
from .hook import ReportHook
from .judging import Verdict, judge
from .predicted import is_image, write_images, write_predictions
from .report import report_predictions, write_report

__all__ = [
    "Findings",
    "Item",
    "ReportHook",
    "Verdict",
    "is_image",
    "judge",
    "load_findings",
    "report_predictions",
    "write_gallery",
    "write_images",
    "write_predictions",
    "write_report",
]
