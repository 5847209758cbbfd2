"""The file of kept tokens, and the variable that goes before it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from heliostat.credentials import CredentialsError, keep_token, known_token, token_for
from heliostat_engines.errors import SecretError

if TYPE_CHECKING:
    from pathlib import Path

URL = "grpc://127.0.0.1:8600"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "credentials.json"
    monkeypatch.setenv("HELIOSTAT_CREDENTIALS", str(path))
    monkeypatch.delenv("HELIOSTAT_TOKEN", raising=False)
    return path


def test_a_token_is_kept_and_found(file: Path) -> None:
    assert known_token(URL) is None
    assert keep_token("grpc://localhost:8600", "abc") == file
    assert token_for(URL) == "abc"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"127.0.0.1:8600": "abc\n"}).encode())
    assert token_for(URL) == "abc"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[]", "is no table of tokens by host:port: mend or delete it"),
        (b'{"127.0.0.1:8600": 3}', "is no table of tokens"),
        (b'{"a": {}}', "is no table of tokens"),
        (b"{\n", "line 2, column 1: this is not JSON: .*; mend or delete it"),
        (b"", "line 1, column 1: this is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "line 1: this is not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_one_sentence(file: Path, content: bytes, sentence: str) -> None:
    file.write_bytes(content)
    for ask in (lambda: token_for(URL), lambda: keep_token(URL, "abc")):
        with pytest.raises(CredentialsError, match=sentence) as error:
            ask()
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)
    assert file.read_bytes() == content


def test_a_kept_token_that_cannot_be_sent_is_not_printed(file: Path) -> None:
    file.write_text(json.dumps({"127.0.0.1:8600": "xyz\nzy"}))
    with pytest.raises(CredentialsError, match=r"the token of 127\.0\.0\.1:8600 is no") as error:
        token_for(URL)
    assert "xyz" not in str(error.value)
    assert f"heliostat login --server {URL}" in str(error.value)


def test_the_variable_goes_first_and_is_stripped(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_token(URL, "kept")
    monkeypatch.setenv("HELIOSTAT_TOKEN", "given\n")
    assert token_for(URL) == "given"
    monkeypatch.setenv("HELIOSTAT_TOKEN", "")
    assert token_for(URL) == "kept"
    monkeypatch.setenv("HELIOSTAT_TOKEN", "gív\u2028xyzzy")
    with pytest.raises(SecretError, match=r"^HELIOSTAT_TOKEN is no token: ") as error:
        token_for(URL)
    assert "xyzzy" not in str(error.value)
    assert file.exists()


def test_a_token_is_kept_and_its_neighbours_too(file: Path) -> None:
    for neighbour in ("credentials.new", "credentials.lock"):
        file.with_name(neighbour).write_text("mine")
    keep_token(URL, "one")
    keep_token("grpc://elsewhere:1", "other")
    assert (known_token(URL), known_token("grpc://elsewhere:1")) == ("one", "other")
    assert file.stat().st_mode & 0o777 == 0o600
    for neighbour in ("credentials.new", "credentials.lock"):
        assert file.with_name(neighbour).read_text() == "mine"


def test_a_link_to_the_file_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    file.symlink_to(tmp_path / "dotfiles" / "tokens.json")
    keep_token(URL, "one")
    assert file.is_symlink()
    assert known_token(URL) == "one"


def test_where_nothing_can_be_written_another_file_is_advised(file: Path) -> None:
    file.mkdir()
    with pytest.raises(CredentialsError, match="cannot read"):
        keep_token(URL, "one")
    file.rmdir()
    file.parent.joinpath("plain").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_CREDENTIALS", str(file.parent / "plain" / "tokens.json"))
        with pytest.raises(CredentialsError, match=r"cannot write .*set HELIOSTAT_CREDENTIALS to"):
            keep_token(URL, "one")
