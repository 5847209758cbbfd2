from __future__ import annotations

import time

import pytest

from heliostat_server.errors import ServerStartError
from heliostat_server.processes.waiting import until


def test_it_asks_until_there_is_no_problem() -> None:
    answers = iter(["it is away", "it is late", None])
    assert until(lambda: next(answers), 60, every_s=0.001) is None
    assert next(answers, "all asked") == "all asked"


def test_it_answers_what_is_left_when_time_is_over() -> None:
    before = time.monotonic()
    assert until(lambda: "it is away", 0.05, every_s=0.01) == "it is away"
    assert time.monotonic() - before >= 0.05


def test_it_asks_once_though_there_is_no_time() -> None:
    assert until(lambda: None, 0) is None
    assert until(lambda: "it is away", 0) == "it is away"


def test_it_stops_when_told_to_unless_all_is_well() -> None:
    with pytest.raises(ServerStartError, match="stopped while it is away"):
        until(lambda: "it is away", 60, lambda: True)
    assert until(lambda: None, 60, lambda: True) is None
