"""Reports as pages: what a search, a labelling, a training or several runs found, in one file."""

from icm_fast.reports.folders import Request, read_report
from icm_fast.reports.page import render_page

__all__ = ["Request", "read_report", "render_page"]
