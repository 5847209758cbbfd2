from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.waiting import (
    Waiting,
    judge_problem,
    judges,
    triton_problem,
)
from heliostat_server.processes.ports import free_ports
from heliostat_server.rewards.definitions import HttpScorer, VlmJudgeSettings
from heliostat_server.triton.client import TritonClient, TritonEndpoint


def test_it_waits_until_there_is_no_problem() -> None:
    answers = iter(["it is not there", "it is not there", None])
    Waiting(60, lambda: False).until(lambda: next(answers), "start it")
    assert next(answers, "all asked") == "all asked"


def test_it_gives_up_with_what_was_missing_and_what_to_do() -> None:
    with pytest.raises(ServerStartError, match=r"it is away after 0 s: start it, or .* --wait"):
        Waiting(0, lambda: False).until(lambda: "it is away", "start it")


def test_it_stops_when_told_to() -> None:
    with pytest.raises(ServerStartError, match="stopped while it is away"):
        Waiting(60, lambda: True).until(lambda: "it is away", "start it")


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
