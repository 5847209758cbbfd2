from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat_engines.errors import SecretError
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.redis_url import with_password
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from pathlib import Path

PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1).filter(
    lambda text: text == text.strip()
)


@given(password=PASSWORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_client_reads_the_files_password_out_of_the_url(tmp_path: Path, password: str) -> None:
    file = tmp_path / "password"
    file.write_text(password + "\n", "utf-8")
    for url, user in (("redis://redis:6379/2", None), ("rediss://me@redis:6379/2", "me")):
        told = redis.ConnectionPool.from_url(with_password(url, file)).connection_kwargs
        assert told["password"] == password
        assert told.get("username") == user
        assert (told["host"], told["port"], told["db"]) == ("redis", 6379, 2)


def test_a_url_without_a_file_is_itself() -> None:
    assert with_password("redis://redis:6379", None) == "redis://redis:6379"


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("b")
    with pytest.raises(ServerStartError, match="leave out --redis-password-file"):
        with_password("redis://:a@redis", tmp_path / "password")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    with pytest.raises(SecretError, match=r"--redis-password-file: .*password is empty"):
        with_password("redis://redis", tmp_path / "password")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@redis:6379/0",
        "redis://me:secret@redis:6379/0",
        "redis://redis:6379/0?username=me&password=secret",
    ],
)
def test_what_is_shown_has_no_password(url: str) -> None:
    assert without_secrets(url) == "redis://redis:6379/0"
