from __future__ import annotations

import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.embedded_store import valkey_binary
from heliostat_server.launcher.waiting import (
    Patience,
    judge_problem,
    judges,
    redis_problem,
    triton_problem,
)
from heliostat_server.processes.ports import free_ports
from heliostat_server.rewards.definitions import HttpScorer, VlmJudgeSettings
from heliostat_server.triton.client import TritonClient, TritonEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_it_waits_until_there_is_no_problem() -> None:
    answers = iter(["it is not there", "it is not there", None])
    Patience(60, lambda: False).until(lambda: next(answers), "start it")
    assert next(answers, "all asked") == "all asked"


def test_it_gives_up_with_what_was_missing_and_what_to_do() -> None:
    with pytest.raises(ServerStartError, match=r"it is away after 0 s: start it, or .* --wait"):
        Patience(0, lambda: False).until(lambda: "it is away", "start it")


def test_it_stops_when_told_to() -> None:
    with pytest.raises(ServerStartError, match="stopped while it is away"):
        Patience(60, lambda: True).until(lambda: "it is away", "start it")


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis whose password is `right`."""
    (port,) = free_ports(1)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "right", "--save", ""]
    process = subprocess.Popen([valkey_binary(), *options], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while redis_problem(f"redis://:right@127.0.0.1:{port}") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait()


@pytest.mark.parametrize("credentials", ["", ":wrong@"])
def test_a_refused_password_is_no_reason_to_wait(guarded_redis: int, credentials: str) -> None:
    with pytest.raises(
        ServerStartError, match=r"refuses the password .*--redis-password-file"
    ) as e:
        redis_problem(f"redis://{credentials}127.0.0.1:{guarded_redis}")
    assert "wrong@" not in str(e.value)


def test_a_redis_that_is_away_is_one_to_wait_for() -> None:
    (port,) = free_ports(1)
    problem = redis_problem(f"redis://:secret@127.0.0.1:{port}/0")
    assert problem is not None
    assert f"redis://127.0.0.1:{port}/0 does not answer" in problem
    assert "secret" not in problem


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ServerStartError, match="--redis http://x"):
        redis_problem("http://x")


def test_a_triton_that_is_away_is_one_to_wait_for() -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with TritonClient(TritonEndpoint(address)) as client:
        assert triton_problem(client, address) == f"the Triton server at {address} does not answer"


class _Judge(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v1/models" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("status", "is_up"), [(200, True), (401, True), (404, True), (503, False)])
def test_a_judge_is_up_once_it_answers(
    status: int, is_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Judge, "status", status)
    with HTTPServer(("127.0.0.1", 0), _Judge) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # of no use on this machine
        for ending in ("/", "/v1"):
            url = f"http://127.0.0.1:{server.server_port}{ending}"
            assert (judge_problem(VlmJudgeSettings(url=url, model="m")) is None) == is_up
        server.shutdown()


def test_a_judge_that_is_away_is_one_to_wait_for() -> None:
    (port,) = free_ports(1)
    problem = judge_problem(VlmJudgeSettings(url=f"http://127.0.0.1:{port}", model="m"))
    assert problem is not None
    assert "does not answer" in problem


def test_only_judges_are_waited_for() -> None:
    rewards = {
        "vlm_judge": VlmJudgeSettings(url="http://judge:8000", model="m"),
        "other": HttpScorer(kind="http", url="http://scorer"),
    }
    assert judges(rewards) == [rewards["vlm_judge"]]
