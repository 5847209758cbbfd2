"""What another of the server's processes tells, as an error here."""

from __future__ import annotations

import pytest

from heliostat_server.errors import (
    ModelError,
    NotFoundError,
    RequestError,
    UnavailableError,
    error_of,
)


@pytest.mark.parametrize(
    ("text", "status", "kind", "sentence"),
    [
        ("[NOT_FOUND] no version 3", "UNAVAILABLE", NotFoundError, "no version 3"),
        ("[INTERNAL] it is NaN\n\nAt:\n  model.py(9)", "INTERNAL", ModelError, "it is NaN"),
        ("no such input", "INVALID_ARG", RequestError, "no such input"),
        ("", "INVALID_ARGUMENT", RequestError, "no reason given"),
        ("Stub died", "INTERNAL", UnavailableError,
         "the model m is not there just now (Stub died): try again in a few seconds"),
    ],
)  # fmt: skip
def test_a_code_of_ours_becomes_its_class_again_and_what_has_none_is_a_model_that_is_down(
    text: str, status: str, kind: type[Exception], sentence: str
) -> None:
    error = error_of("the model m", text, status)
    assert type(error) is kind
    assert str(error) == sentence
