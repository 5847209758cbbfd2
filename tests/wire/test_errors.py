"""An error is read as it was written, and its code says who may ask again."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from heliostat_wire.errors import Again, Code, Refusal, foreign_code


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


@pytest.mark.parametrize("status", ["", "INTERNAL", "NOT_FOUND", "UNKNOWN", "CANCELLED", "ABORTED"])
def test_what_is_not_the_servers_own_may_pass(status: str) -> None:
    assert foreign_code(status) is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", Code.INVALID_ARGUMENT),
        ("INVALID_ARG", Code.INVALID_ARGUMENT),
        ("UNIMPLEMENTED", Code.INVALID_ARGUMENT),
        ("PERMISSION_DENIED", Code.PERMISSION_DENIED),
        ("RESOURCE_EXHAUSTED", Code.RESOURCE_EXHAUSTED),
    ],
)
def test_a_status_that_speaks_of_the_request_itself_is_no_reason_to_ask_again(
    status: str, code: Code
) -> None:
    assert Refusal(foreign_code(status), "no").again is Again.NEVER
    assert foreign_code(status) is code
