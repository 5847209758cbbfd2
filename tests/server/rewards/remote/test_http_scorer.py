"""The client of remote scorers against a real HTTP server on this machine."""

from __future__ import annotations

import base64
import io
import json
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

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import SecretError
from heliostat_server.errors import ModelError, UnavailableError
from heliostat_server.processes.ports import free_ports
from heliostat_server.rewards.definitions import HttpScorer
from heliostat_server.rewards.remote import http_scorer
from heliostat_server.rewards.remote.http_scorer import HttpReward
from tests.server.rewards.offers import book_of

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
IMAGES = torch.linspace(0, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 8, 8)
PROMPTS = ["black", "dark", "grey", "light", "white"]


@dataclass
class Scorer:
    decide: Callable[[dict[str, Any]], tuple[int, str]]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def settings(self, **changes: Any) -> HttpScorer:
        return HttpScorer(kind="http", url=self.url, attempts=changes.pop("attempts", 3), **changes)


@contextmanager
def serving(decide: Callable[[dict[str, Any]], tuple[int, str]]) -> Iterator[Scorer]:
    scorer = Scorer(decide)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            scorer.requests.append(body)
            scorer.tokens.append(self.headers["Authorization"])
            status, text = scorer.decide(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Retry-After", "0.05")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scorer.url = f"http://127.0.0.1:{server.server_port}/score"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield scorer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def brightness(body: dict[str, Any]) -> tuple[int, str]:
    images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in body["images"]]
    return 200, json.dumps({"rewards": [float(np.asarray(i).mean() / 255) for i in images]})


def test_each_image_gets_its_reward_in_batches(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" secret\n")
    with serving(brightness) as scorer:
        definition = scorer.settings(batch=2, token_file=token)
        reward = book_of({"bright": definition}).get("bright")
        rewards = reward.score(IMAGES, PROMPTS, NO_TEXT)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, IMAGES[:, 0, 0, 0], atol=1 / 255, rtol=0)
    assert [body["prompts"] for body in scorer.requests] == [PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:]]
    assert set(scorer.tokens) == {"Bearer secret"}


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([503, 429, 200])

    def decide(body: dict[str, Any]) -> tuple[int, str]:
        return next(answers), brightness(body)[1]

    with serving(decide) as scorer:
        rewards = HttpReward("bright", scorer.settings()).score(IMAGES, PROMPTS, NO_TEXT)
    assert len(rewards) == 5
    assert len(scorer.requests) == 3
    assert scorer.tokens == [None] * 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ('{"rewards": [0.1, NaN, 0.2, 0.3, 0.4]}', r"rewards\.1.*finite"),
        ('{"rewards": [0.1, null, 0.2, 0.3, 0.4]}', r"rewards\.1.*number"),
        ('{"rewards": [0.1]}', "1 rewards for 5 images"),
        ('{"scores": [0.1]}', "rewards: Field required"),
        ("oops", "JSON"),
    ],
)
def test_an_answer_that_is_no_reward_is_refused(answer: str, sentence: str) -> None:
    with serving(lambda _: (200, answer)) as scorer:
        reward = HttpReward("bright", scorer.settings())
        with pytest.raises(ModelError, match=sentence):
            reward.score(IMAGES, PROMPTS, NO_TEXT)
    assert len(scorer.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_a_refusal_ends_the_batch_at_once_with_the_scorers_words(status: int) -> None:
    with serving(lambda _: (status, "the prompt\n is too  long")) as scorer:
        reward = HttpReward("bright", scorer.settings())
        sentence = rf"refuses: status {status}: the prompt is too long$"
        with pytest.raises(ModelError, match=sentence):
            reward.score(IMAGES, PROMPTS, NO_TEXT)
    assert len(scorer.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_what_may_pass_is_asked_again(status: int) -> None:
    with serving(lambda _: (status, "not now")) as scorer:
        reward = HttpReward("bright", scorer.settings(attempts=2))
        with pytest.raises(UnavailableError, match=rf"does not answer .status {status}: not now"):
            reward.score(IMAGES, PROMPTS, NO_TEXT)
    assert len(scorer.requests) == 2


def test_what_is_shown_of_the_scorer_is_short_and_has_no_secret(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    with serving(lambda _: (400, "secret " + 1000 * "long ")) as scorer:
        url = scorer.url.replace("http://", "http://me:pass@") + "?key=hidden"
        settings = scorer.settings(token_file=token).model_copy(update={"url": url})
        with pytest.raises(ModelError) as error:
            HttpReward("bright", settings).score(IMAGES, PROMPTS, NO_TEXT)
    sentence = str(error.value)
    assert len(sentence) < 350
    for hidden in ("secret", "pass", "hidden"):
        assert hidden not in sentence


def test_large_images_are_sent_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(brightness) as scorer:
        reward = HttpReward("bright", scorer.settings())
        whole = reward.score(IMAGES, PROMPTS, NO_TEXT)
        size = max(map(len, scorer.requests[0]["images"]))
        monkeypatch.setattr(http_scorer, "MAX_BYTES", 2 * size)
        assert torch.equal(reward.score(IMAGES, PROMPTS, NO_TEXT), whole)
        monkeypatch.setattr(http_scorer, "MAX_BYTES", 1)
        assert torch.equal(reward.score(IMAGES, PROMPTS, NO_TEXT), whole)
    counts = [len(body["prompts"]) for body in scorer.requests]
    assert counts == [5, 2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_scorer_on_this_machine_is_asked_by_no_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with serving(brightness) as scorer:
        for host in ("127.0.0.1", "localhost"):
            settings = scorer.settings().model_copy(
                update={"url": scorer.url.replace("127.0.0.1", host)}
            )
            assert len(HttpReward("bright", settings).score(IMAGES, PROMPTS, NO_TEXT)) == 5


def test_a_proxy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://me:pass@127.0.0.1:9")
    settings = HttpScorer(kind="http", url="http://scorer.invalid/score", attempts=1)
    with pytest.raises(UnavailableError, match="proxy of the variable all_proxy") as error:
        HttpReward("bright", settings).score(IMAGES, PROMPTS, NO_TEXT)
    assert "pass" not in str(error.value)


def test_a_slow_server_is_given_up() -> None:
    def decide(body: dict[str, Any]) -> tuple[int, str]:
        time.sleep(0.5)
        return brightness(body)

    with serving(decide) as scorer:
        reward = HttpReward("bright", scorer.settings(timeout_s=0.1, attempts=1))
        with pytest.raises(UnavailableError, match=r"does not answer .ReadTimeout"):
            reward.score(IMAGES, PROMPTS, NO_TEXT)


def test_no_server_is_said_by_name() -> None:
    (port,) = free_ports(1)
    definition = HttpScorer(kind="http", url=f"http://127.0.0.1:{port}", attempts=1)
    with pytest.raises(UnavailableError, match=r"scorer bright at http://127\.0"):
        HttpReward("bright", definition).score(IMAGES, PROMPTS, NO_TEXT)


def test_a_token_file_has_to_be_there(tmp_path: Path) -> None:
    definition = HttpScorer(kind="http", url="http://127.0.0.1", token_file=tmp_path / "none")
    with pytest.raises(SecretError, match=r"\[rewards\.bright\], token_file: cannot read .*none"):
        HttpReward("bright", definition)
