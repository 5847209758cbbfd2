"""An error is read as it was written, and its code says who may ask again."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from heliostat_wire.errors import Again, Code, Refusal, says_restarting


@pytest.mark.parametrize("code", Code)
def test_every_code_is_a_status_of_grpc_and_is_read_as_it_was_written(code: Code) -> None:
    assert grpc.StatusCode[code.value]
    refusal = Refusal(code, "a [sentence] of: its own")
    assert str(refusal) == f"[{code.value}] a [sentence] of: its own"
    assert Refusal.read(str(refusal)) == refusal


def test_the_grammar_is_the_one_that_servers_of_before_write_and_read() -> None:
    text = "[RESOURCE_EXHAUSTED retry-after=3 request=7] 96 images wait"
    refusal = Refusal(Code.RESOURCE_EXHAUSTED, "96 images wait", 3, "7")
    assert str(refusal) == text
    assert Refusal.read(text) == refusal
    nameless = "[RESOURCE_EXHAUSTED retry-after=3 request=] paused"
    assert Refusal.read(nameless) == Refusal(Code.RESOURCE_EXHAUSTED, "paused", 3)


@pytest.mark.parametrize(
    "text",
    ["", "Stub process 'score_0' is not healthy.", "[request id: 7] failed", "[INTERNAL]no space"],
)
def test_what_is_not_the_servers_own_is_not_read(text: str) -> None:
    assert Refusal.read(text) is None


def test_a_code_or_a_detail_of_a_newer_server_leaves_the_sentence_readable() -> None:
    assert Refusal.read("[DATA_LOSS] gone") == Refusal(Code.INTERNAL, "gone")
    later = Refusal.read("[RESOURCE_EXHAUSTED retry-after=2 queue=a request=7] full")
    assert later == Refusal(Code.RESOURCE_EXHAUSTED, "full", 2, "7")


def test_beyond_the_limits_only_what_is_put_off_may_come_again() -> None:
    assert Refusal(Code.RESOURCE_EXHAUSTED, "too many").again is Again.NEVER
    assert Refusal(Code.RESOURCE_EXHAUSTED, "too many", 2).again is Again.AFTER_PAUSE
    assert Refusal(Code.UNAVAILABLE, "loading").again is Again.AFTER_PAUSE
    assert Refusal(Code.DEADLINE_EXCEEDED, "late").again is Again.NOW
    assert Refusal(Code.INTERNAL, "a fault").again is Again.NEVER


def test_statuses_over_http_are_errors_and_differ() -> None:
    statuses = [code.http for code in Code]
    assert len(set(statuses)) == len(statuses)
    assert min(statuses) >= HTTPStatus.BAD_REQUEST


def test_triton_says_in_several_ways_that_a_model_is_down() -> None:
    assert says_restarting("Stub process 'score_0' is not healthy.")
    assert says_restarting("Request for unknown model: 'score' has no available versions")
    assert not says_restarting("a reward is NaN")
