"""What tests need of a machine that have torch compile something."""

from __future__ import annotations

import pytest

from heliostat_engines.torch_compile import compiler_problem

PROBLEM = compiler_problem("cpu")
needs_compiler = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
