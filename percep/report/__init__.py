"""What a run leaves behind: pictures, exact image files and tables."""

from percep.report.images import read_image, save_image
from percep.report.overview import save_overview
from percep.report.panel import Panel, Prediction, save_panel
from percep.report.tables import ImageRow, summarise, versions, write_results, write_summary

__all__ = [
    "ImageRow",
    "Panel",
    "Prediction",
    "read_image",
    "save_image",
    "save_overview",
    "save_panel",
    "summarise",
    "versions",
    "write_results",
    "write_summary",
]
