"""The judge's client against a real HTTP server on this machine that speaks the same API."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.conditioning import Conditioning
from heliostat_server.errors import ModelError, ServerStartError, UnavailableError, code_of
from heliostat_server.processes.ports import free_ports
from heliostat_server.rewards.definitions import VlmJudgeSettings
from heliostat_server.rewards.remote.vlm_judge import VlmJudge
from heliostat_wire.errors import Code
from tests.server.rewards.offers import book_of

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
IMAGES = torch.linspace(0, 1, 4).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
PROMPTS = ["black", "dark", "light", "white"]


@dataclass
class Answer:
    content: Any
    logprobs: dict[str, Any] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    raw: str | None = None
    """The whole body, in place of a completion."""


@dataclass
class Judge:
    """A chat-completions server; `decide` gets (brightness 0..255, the request)."""

    decide: Callable[[int, dict[str, Any]], Answer]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, key: str | None, body: dict[str, Any]) -> Answer:
        assert path == "/v1/chat/completions"
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.decide(brightness(body), body)
        finally:
            with self._lock:
                self._now -= 1

    def settings(self, **changes: Any) -> VlmJudgeSettings:
        return VlmJudgeSettings(url=self.url, model="judge", attempts=3, **changes)


def brightness(body: dict[str, Any]) -> int:
    url = body["messages"][1]["content"][0]["image_url"]["url"]
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return int(np.asarray(Image.open(io.BytesIO(data))).mean())


@contextmanager
def serving(decide: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Judge]:
    judge = Judge(decide)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = judge.answer(self.path, self.headers["Authorization"], body)
            message = {"role": "assistant", "content": answer.content} | answer.message
            choice = {"message": message, "finish_reason": answer.finish}
            completion = {"choices": [choice | {"logprobs": answer.logprobs}]}
            text = (answer.raw or json.dumps(completion)).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def by_brightness(value: int, _body: dict[str, Any]) -> Answer:
    return Answer(json.dumps({"score": round(value / 255 * 9)}))


def token(text: str, **alternatives: float) -> dict[str, Any]:
    """A token and its alternatives' probabilities, as d3=0.5."""
    tops = [
        {"token": name.removeprefix("d"), "logprob": math.log(p)}
        for name, p in alternatives.items()
    ]
    return {"token": text, "logprob": 0.0, "top_logprobs": tops}


def test_each_image_gets_its_own_score() -> None:
    with serving(by_brightness) as judge:
        rewards = VlmJudge(judge.settings()).score(IMAGES, PROMPTS, NO_TEXT)
    assert rewards.tolist() == pytest.approx([0, 3 / 9, 6 / 9, 1])
    assert rewards.dtype == torch.float32
    asked = {body["messages"][1]["content"][1]["text"] for body in judge.requests}
    assert {f"Prompt: {prompt}" for prompt in PROMPTS} <= asked


def test_what_is_asked_is_strict_deterministic_and_carries_rubric_and_key() -> None:
    with serving(by_brightness) as judge:
        VlmJudge(judge.settings(rubric="rate the light", api_key="secret"))
    (body,) = judge.requests
    assert body["messages"][0]["content"].startswith("rate the light\nAnswer with JSON")
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["strict"] is True
    assert judge.keys == ["Bearer secret"]


def test_probabilities_of_the_digits_are_averaged() -> None:
    def decide(_value: int, body: dict[str, Any]) -> Answer:
        assert body["logprobs"] is True
        tokens = [token('{"score": '), token("6", d6=0.5, d8=0.25, dsix=0.25), token("}")]
        return Answer('{"score": 6}', {"content": tokens})

    with serving(decide) as judge:
        rewards = VlmJudge(judge.settings()).score(IMAGES[:1], PROMPTS[:1], NO_TEXT)
    assert rewards.item() == pytest.approx((6 * 0.5 + 8 * 0.25) / 0.75 / 9)


@pytest.mark.parametrize(
    "refused", [{"logprobs"}, {"response_format"}, {"logprobs", "response_format"}]
)
def test_what_the_server_does_not_offer_is_not_asked_again(refused: set[str]) -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        if refused & body.keys():
            return Answer("", status=400)
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings())
        before = len(judge.requests)
        client.score(IMAGES, PROMPTS, NO_TEXT)
        assert len(judge.requests) == before + len(PROMPTS)
    for body in judge.requests[before:]:
        assert not refused & body.keys()


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    waits: list[float] = []

    def decide(value: int, body: dict[str, Any]) -> Answer:
        waits.append(time.monotonic())
        if len(waits) in (2, 3):
            return Answer(
                "", status=429 if len(waits) == 2 else 503, headers={"Retry-After": "0.3"}
            )
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings())
        assert client.score(IMAGES[3:], PROMPTS[3:], NO_TEXT).item() == 1
    assert len(waits) == 4
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(waits[1:]))


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("7", 7),
        ('"7"', 7),
        ("7.5", 7.5),
        (' {"score": 7.5}\n', 7.5),
        ('{"score": "7"}', 7),
        ('{"score": 7, "why": 1}', 7),
        ('```json\n{"score": 4}\n```', 4),
        ("```\n4\n```", 4),
        ('<think>Is it 3? No.</think>\n\n{"score": 8}', 8),
        ([{"type": "text", "text": '{"score": 2}'}], 2),
    ],
)
def test_a_score_is_read_however_it_is_put(content: object, score: float) -> None:
    with serving(lambda *_: Answer(content)) as judge:
        rewards = VlmJudge(judge.settings()).score(IMAGES[:1], PROMPTS[:1], NO_TEXT)
    assert rewards.item() == pytest.approx(score / 9)


@pytest.mark.parametrize(
    "content", ["", "good", '{"score": 11}', '{"score": -1}', '{"score": true}', "NaN", "[7]", "{"]
)
def test_an_answer_without_a_score_is_an_error(content: str) -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        return by_brightness(value, body) if value == 0 else Answer(content)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings())
        with pytest.raises(ModelError, match="digit in JSON"):
            client.score(IMAGES[3:], PROMPTS[3:], NO_TEXT)
    assert len(judge.requests) == 1 + 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(None, message={"refusal": "I do not rate this."}), "declines .*I do not rate"),
        (Answer("", raw="<html>hello</html>"), "no chat completion .*<html>hello.*--vlm-judge-url"),
        (Answer("", raw='{"error": "no such model"}'), "no chat completion .*no such model"),
        (Answer("Let me see", finish="length"), "had said 'Let me see' when its tokens were used"),
        (Answer(None, message={"reasoning": "hm"}, finish="length"), "still thinking"),
    ],
)
def test_what_gives_no_score_is_said_when_it_is_loaded(answer: Answer, sentence: str) -> None:
    with (
        serving(lambda *_: answer) as judge,
        pytest.raises(ModelError, match=f"judge at http://127.* gives no score: .*{sentence}"),
    ):
        VlmJudge(judge.settings())


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_a_model_that_thinks_gets_the_tokens_for_it(key: str) -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        if body["max_tokens"] < 1000:
            return Answer(None, message={key: "The picture is"}, finish="length")
        return by_brightness(value, body)

    with serving(decide) as judge:
        rewards = VlmJudge(judge.settings()).score(IMAGES[3:], PROMPTS[3:], NO_TEXT)
    assert rewards.item() == 1
    assert len(judge.requests) == 3


@pytest.mark.parametrize("refused", [{"max_tokens"}, {"max_tokens", "temperature", "logprobs"}])
def test_another_name_for_the_limit_is_found(refused: set[str]) -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        if refused & body.keys():
            return Answer("", status=400)
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings())
        before = len(judge.requests)
        assert client.score(IMAGES[3:], PROMPTS[3:], NO_TEXT).item() == 1
    (body,) = judge.requests[before:]
    assert body["max_completion_tokens"] > 0
    assert ("temperature" in body) == ("temperature" not in refused)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_url_may_end_in_the_version(ending: str) -> None:
    with serving(by_brightness) as judge:
        settings = judge.settings().model_copy(update={"url": judge.url + ending})
        assert VlmJudge(settings).score(IMAGES[3:], PROMPTS[3:], NO_TEXT).item() == 1


@pytest.mark.parametrize("logprob", [-9999.0, -math.inf, None])
def test_probabilities_that_say_nothing_are_left_out(logprob: float | None) -> None:
    digit = {"token": "6", "top_logprobs": [{"token": "6", "logprob": logprob}]}
    answer = Answer('{"score": 6}', {"content": [digit]})
    with serving(lambda *_: answer) as judge:
        rewards = VlmJudge(judge.settings()).score(IMAGES[:1], PROMPTS[:1], NO_TEXT)
    assert rewards.item() == pytest.approx(6 / 9)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://judge", "http:///"])
def test_a_url_that_is_none_is_refused_with_the_settings(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        VlmJudgeSettings(url=url, model="judge")
    result = CliRunner().invoke(
        app, ["serve", "--vlm-judge-url", url, "--vlm-judge-model", "judge"]
    )
    assert isinstance(result.exception, ServerStartError)
    assert str(result.exception).startswith(f"--vlm-judge-url = {url!r}: ")


def test_a_refused_picture_ends_the_batch_with_the_judges_words() -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        if value:
            return Answer("", status=422, raw="too bright; your key is Bearer secret-key")
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings(api_key="secret-key"))
        with pytest.raises(ModelError, match=r"refuses: status 422: too bright") as error:
            client.score(IMAGES[3:], PROMPTS[3:], NO_TEXT)
    assert "secret-key" not in str(error.value)
    assert code_of(error.value) is Code.INTERNAL
    assert len(judge.requests) == 2


def test_a_slow_server_is_given_up() -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        time.sleep(0 if value == 0 else 0.6)
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings(timeout_s=0.2))
        with pytest.raises(UnavailableError, match=r"does not answer .ReadTimeout"):
            client.score(IMAGES[3:], PROMPTS[3:], NO_TEXT)


def test_no_server_is_said_at_once_and_is_worth_another_try() -> None:
    (port,) = free_ports(1)
    settings = VlmJudgeSettings(url=f"http://127.0.0.1:{port}", model="judge", attempts=2)
    with pytest.raises(UnavailableError, match=r"check its url .--vlm-judge-url") as error:
        VlmJudge(settings)
    assert code_of(error.value) is Code.UNAVAILABLE


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (401, 1), (400, 16)])
def test_a_server_that_refuses_everything_is_told_apart(status: int, requests: int) -> None:
    with (
        serving(lambda *_: Answer("", status=status)) as judge,
        pytest.raises(ModelError, match=f"refuses every request .status {status}"),
    ):
        VlmJudge(judge.settings())
    assert len(judge.requests) == requests


def test_no_more_requests_at_once_than_asked_for() -> None:
    def decide(value: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return by_brightness(value, body)

    with serving(decide) as judge:
        client = VlmJudge(judge.settings(concurrency=3))
        client.score(IMAGES.repeat(4, 1, 1, 1), PROMPTS * 4, NO_TEXT)
    assert judge.most_at_once == 3


def test_the_reward_is_offered_once_it_is_configured() -> None:
    assert "vlm_judge" not in book_of({}).names
    with serving(by_brightness) as judge:
        book = book_of({"vlm_judge": judge.settings()})
        assert book.names[-1] == "vlm_judge"
        assert not judge.requests  # Nothing is asked before the reward is.
        assert book.get("vlm_judge").score(IMAGES[3:], PROMPTS[3:], NO_TEXT).item() == 1


def test_the_key_may_be_in_a_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("from-file\n")
    with serving(by_brightness) as judge:
        VlmJudge(judge.settings(token_file=token))
    assert set(judge.keys) == {"Bearer from-file"}


def test_url_and_model_belong_together() -> None:
    result = CliRunner().invoke(app, ["serve", "--vlm-judge-url", "http://127.0.0.1:8000"])
    assert result.exit_code == 2
    assert "together" in result.output
