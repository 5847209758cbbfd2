from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

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


def test_a_compiled_engine_does_not_sleep() -> None:
    with pytest.raises(ValueError, match=r"--sleep with --engine: .* leave one of them out"):
        ServeSettings(sleep=True, engine=Path("engine"))


def test_what_torch_compiled_does_not_sleep() -> None:
    with pytest.raises(
        ValueError, match=r"--sleep with --runtime torch-compile: .* leave one of them out"
    ):
        ServeSettings(sleep=True, runtime="torch-compile")


def test_an_engine_and_torchs_compiler_are_two_runtimes() -> None:
    with pytest.raises(ValidationError, match="--runtime torch-compile is for servers without"):
        ServeSettings(engine=Path("engine"), runtime="torch-compile")


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ValueError, match="batchs"):
        ServeSettings.model_validate({"batchs": 4})


def test_a_server_that_is_told_no_batch_takes_its_familys() -> None:
    assert ServeSettings(limits=AskedLimits(max_steps=9)).limits.of(8, 64) == LimitSettings(
        batch=8, max_steps=9, resolutions_px=(64,)
    )
    assert AskedLimits(batch=4).of(8, 64).batch == 4


def test_a_servers_own_size_is_the_first_that_may_be_asked_for_and_none_is_twice() -> None:
    limits = AskedLimits.model_validate(
        {"resolutions_px": ["832x1216", 1024, [1024, 1024], [832, 1216]]}
    )
    assert limits.of(8, 1024).resolutions_px == (1024, (832, 1216))
    assert limits.of(8, (1216, 832)).resolutions_px == ((1216, 832), (832, 1216), 1024)
