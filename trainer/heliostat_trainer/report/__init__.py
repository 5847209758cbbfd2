"""A run as one self-contained HTML page: `write_report(run)`."""

from heliostat_trainer.report.page import write_report

__all__ = ["write_report"]
