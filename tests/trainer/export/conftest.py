from __future__ import annotations

from tests.engines.conftest import tiny_checkpoint

__all__ = ["tiny_checkpoint"]
