"""Runs set side by side, from their folders alone: `compare_runs` and `write_page`.

`groups` reads the folders and puts runs together that differ in their seed alone; `costs` is the
arithmetic of what a gain costs; `comparison` holds all the numbers; `page` draws them.
"""

from heliostat_trainer.compare.comparison import Comparison, Counting, compare_runs
from heliostat_trainer.compare.page import write_page

__all__ = ["Comparison", "Counting", "compare_runs", "write_page"]
