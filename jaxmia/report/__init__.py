"""HTML report of a run, with its figures."""

from jaxmia.report.page import write_report

__all__ = ["write_report"]
