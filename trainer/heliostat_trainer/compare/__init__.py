"""Runs set side by side, from their folders alone: `compare_runs` and `write_page`, `read_beside`.

`groups` reads the folders and puts runs together that differ in their seed alone; `costs` is the
arithmetic of what a gain costs; `comparison` holds all the numbers; `page` draws them; `beside` is
two of them as the report of one shows both.
"""

from heliostat_trainer.compare.beside import Beside, read_beside
from heliostat_trainer.compare.comparison import Comparison, Counting, compare_runs
from heliostat_trainer.compare.page import write_page

__all__ = ["Beside", "Comparison", "Counting", "compare_runs", "read_beside", "write_page"]
