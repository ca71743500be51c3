"""What a run leaves behind: pictures, exact image files and tables."""

from percep.report.html import Exhibit, Facts, exhibit, save_report
from percep.report.images import read_image, save_image
from percep.report.overview import save_overview
from percep.report.panel import Panel, Prediction, save_panel
from percep.report.tables import (
    ImageRow,
    MinimalRow,
    Totals,
    save_summary,
    summarise,
    versions,
    write_results,
)
from percep.report.verdict import console_lines

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
    "versions",
    "write_results",
]
