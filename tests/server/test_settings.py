from __future__ import annotations

import pytest

from heliostat_server.settings import (
    AskedLimits,
    LimitSettings,
    ServeSettings,
    ThreadSettings,
)


def test_scoring_gets_half_of_the_threads_unless_told() -> None:
    assert ServeSettings(threads=8).thread_settings().score == 4
    assert ServeSettings(threads=1).thread_settings() == ThreadSettings(explore=1, score=1)
    assert ServeSettings(threads=8, score_threads=1).thread_settings().score == 1


def test_another_triton_needs_the_redis_of_its_models() -> None:
    with pytest.raises(ValueError, match="--triton-url needs --redis"):
        ServeSettings(triton_url="127.0.0.1:8001")


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ValueError, match="batchs"):
        ServeSettings.model_validate({"batchs": 4})


def test_a_server_that_is_told_no_batch_takes_its_familys() -> None:
    assert ServeSettings(limits=AskedLimits(max_steps=9)).limits.of(8) == LimitSettings(
        batch=8, max_steps=9
    )
    assert AskedLimits(batch=4).of(8).batch == 4
