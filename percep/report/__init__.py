"""What a run leaves behind: pictures, exact image files and tables."""

from percep.report.attack.overview import save_overview
from percep.report.attack.page import Exhibit, Facts, exhibit, save_report
from percep.report.attack.tables import ImageRow, MinimalRow, Totals, summarise, write_results
from percep.report.common.files import save_summary
from percep.report.common.images import read_image, save_image
from percep.report.common.panel import Panel, Prediction, save_panel
from percep.report.common.verdict import console_lines

__all__ = [
    "Exhibit",
    "Facts",
    "ImageRow",
    "MinimalRow",
    "Panel",
    "Prediction",
    "Totals",
    "console_lines",
    "exhibit",
    "read_image",
    "save_image",
    "save_overview",
    "save_panel",
    "save_report",
    "save_summary",
    "summarise",
    "write_results",
]
