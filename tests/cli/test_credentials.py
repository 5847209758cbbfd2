from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat.credentials import CredentialsError, keep_token, known_token

if TYPE_CHECKING:
    from pathlib import Path

URL = "grpc://127.0.0.1:8600"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tokens.json"
    monkeypatch.setenv("HELIOSTAT_CREDENTIALS", str(path))
    return path


def test_a_token_is_kept_and_its_neighbours_too(file: Path) -> None:
    for neighbour in ("tokens.new", "tokens.lock"):
        file.with_name(neighbour).write_text("mine")
    keep_token(URL, "one")
    keep_token("grpc://elsewhere:1", "other")
    assert (known_token(URL), known_token("grpc://elsewhere:1")) == ("one", "other")
    assert file.stat().st_mode & 0o777 == 0o600
    for neighbour in ("tokens.new", "tokens.lock"):
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
