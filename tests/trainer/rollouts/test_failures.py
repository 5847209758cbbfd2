"""Which error a failed call of a rollout server is."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from heliostat_trainer.errors import (
    AskAgainError,
    ServerBusyError,
    ServerGoneError,
    ServerRefusedError,
    ServerUnableError,
    TokenRefusedError,
)
from heliostat_trainer.rollouts.failures import refusal_error, triton_error
from heliostat_wire.errors import Again, Code, Refusal


@pytest.mark.parametrize("code", Code)
def test_whether_the_server_is_asked_again_follows_from_its_code(code: Code) -> None:
    error = refusal_error(Refusal(code, "no"))
    assert isinstance(error, AskAgainError) == (Refusal(code, "no").again is not Again.NEVER)
    assert not isinstance(error, ServerGoneError), "it has answered"


@pytest.mark.parametrize(
    "refusal",
    [Refusal(code, " ") for code in Code]
    + [Refusal(Code.RESOURCE_EXHAUSTED, " ", retry_after_s=3, request_id="7")],
)
def test_what_says_nothing_is_told_as_its_code(refusal: Refusal) -> None:
    assert str(refusal_error(refusal)) == refusal.code.value


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("Socket closed", "StatusCode.UNAVAILABLE", ServerGoneError),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", ServerGoneError),
        ("no such input", "StatusCode.INVALID_ARGUMENT", ServerRefusedError),
        ("who?", "StatusCode.UNAUTHENTICATED", TokenRefusedError),
        ("[UNAVAILABLE] loading", "", ServerUnableError),
        ("[RESOURCE_EXHAUSTED retry-after=3 request=7] full", "", ServerBusyError),
        ("[NOT_FOUND] no version 3", "StatusCode.UNAVAILABLE", ServerRefusedError),
    ],
)
def test_the_servers_own_code_goes_before_the_status(
    text: str, status: str, kind: type[Exception]
) -> None:
    assert type(triton_error(InferenceServerException(text, status), "127.0.0.1:1")) is kind
