from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import SecretError
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.admin import admin_token
from heliostat_server.logs import configure_logs
from heliostat_server.processes.ports import choose_port, free_ports
from heliostat_server.triton.load_log import LoadLog, log_compilation

if TYPE_CHECKING:
    from pathlib import Path


def test_our_own_token_is_made_once_and_readable_by_us_alone(tmp_path: Path) -> None:
    own = tmp_path / "admin.token"
    token = admin_token(None, own)
    assert admin_token(None, own) == token
    assert own.stat().st_mode & 0o777 == 0o600


def test_a_given_token_is_taken_and_a_short_or_missing_one_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    own = tmp_path / "admin.token"
    with pytest.raises(SecretError, match=r"--admin-token-file: .*given: No such file"):
        admin_token(given, own)
    given.write_text("short\n")
    with pytest.raises(ServerStartError, match="openssl rand"):
        admin_token(given, own)
    given.write_text("0123456789abcdef\n")
    assert admin_token(given, own) == "0123456789abcdef"
    assert not own.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"0123456789abcdef\nsecond line\n",
        b"0123456789abcd\xe9f",
        "0123é456789abcdef".encode(),
    ],
)
def test_what_is_no_token_is_refused_and_not_printed(tmp_path: Path, content: bytes) -> None:
    """Ours too: an empty one would make everybody the administrator."""
    given, own = tmp_path / "given", tmp_path / "admin.token"
    for path, arguments in ((given, (given, own)), (own, (None, own))):
        path.write_bytes(content)
        with pytest.raises(SecretError, match=str(path)) as error:
            admin_token(*arguments)
        assert "0123" not in str(error.value)


def test_a_port_is_the_wanted_the_usual_the_last_or_any(tmp_path: Path) -> None:
    usual, last = free_ports(2)
    host = "127.0.0.1"
    assert choose_port(7, usual, last, host) == 7
    assert choose_port(None, usual, last, host) == usual
    assert choose_port(0, usual, last, host) == last
    assert choose_port(None, None, None, host) not in {None, 0}


def test_the_log_tells_what_was_loaded_since(tmp_path: Path) -> None:
    path = tmp_path / "triton.log"
    path.write_text("I1 model_lifecycle.cc:839] \"successfully loaded 'score'\"\n")
    log = LoadLog(path)
    assert log.loaded() == frozenset()
    with path.open("a") as file:
        file.write("I1 model_lifecycle.cc:839] \"successfully loaded 'explore'\"\n")
        file.write(
            "E1 model_lifecycle.cc:642] \"failed to load 'text_encoder' version 1: Internal: "
            'CheckpointError: there is no \\"weights\\": give a folder\\n\\nAt:\\n  model.py(1)"\n'
        )
    assert log.loaded() == {"explore"}
    assert log.failure() == ("text_encoder", 'there is no "weights": give a folder')


def test_the_log_tells_how_far_a_compilation_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the model's process writes it."""
    path = tmp_path / "triton.log"
    log = LoadLog(path)
    configure_logs(colours=False)
    told = []
    for done in range(3):
        log_compilation("compile", done, 2)
        with path.open("a") as file:
            file.write(capfd.readouterr().err)
        told.append(log.compilation())
    assert told == ["compiled 0 of 2 sizes of images", "compiled 1 of 2 sizes of images", ""]
