from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.trainer.rollouts.fake_wire import WireServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wire() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server
