"""Plots and the HTML page that show what a run found."""

from jaxmia.report.page import write_report

__all__ = ["write_report"]
