"""A token opens its own experiment and nothing else; without one there is nothing to learn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from heliostat_proto import control_pb2 as messages
from tests.e2e.conftest import BATCH
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import ServerHarness
    from tests.server.rollout_client import RolloutClient

SEEDS = range(BATCH)
LATENTS = np.zeros((1, 16, 16, 16), np.float32)


@pytest.fixture
def of(server: ServerHarness) -> Iterator[Callable[[str], RolloutClient]]:
    """Clients with an experiment's own token, or with one that is given."""
    admin = server.client()
    clients = [admin]

    def client_of(experiment: str) -> RolloutClient:
        clients.append(server.client(admin.open(experiment)))
        return clients[-1]

    yield client_of
    for client in clients:
        client.close()


def everything_of(name: str) -> list[Callable[[RolloutClient], object]]:
    """All that somebody may try with an experiment."""
    experiment = messages.ExperimentRequest(experiment=name)
    version = messages.VersionRequest(experiment=name, version=1)
    pause = messages.ChangeExperimentRequest(
        experiment=name, share=messages.ShareChange(paused=True)
    )
    return [
        lambda client: client.info(name),
        lambda client: client.ask("Open", messages.OpenRequest(experiment=name)),
        lambda client: client.ask("GetExperiment", experiment),
        lambda client: client.ask("RollBack", version),
        lambda client: client.ask("Pin", version),
        lambda client: client.ask("ChangeExperiment", pause),
        lambda client: client.ask("ListEvents", messages.ListEventsRequest(experiment=name)),
        lambda client: client.publish(random_adapter({"x": (4, 4)}), name),
        lambda client: client.explore(SEEDS, experiment=name),
        lambda client: client.explore(SEEDS, experiment=name, version=1),
    ]


def refusal(action: Callable[[], object]) -> tuple[str, str]:
    """Code and sentence of an error."""
    with pytest.raises((grpc.RpcError, StreamError)) as caught:
        action()
    error: Any = caught.value
    if isinstance(error, StreamError):
        return error.code, error.sentence
    return error.code().name, error.details()


def test_an_experiment_does_everything_with_its_own_token(
    of: Callable[[str], RolloutClient],
) -> None:
    mine = of("mine")
    files = random_adapter(mine.targets())
    assert mine.publish(files, "mine").version == 1
    assert len(mine.rewards(SEEDS, experiment="mine", version=1)) == BATCH
    assert mine.info("mine").latest_version == 1
    (known,) = mine.ask("ListExperiments", messages.ListExperimentsRequest()).experiments
    assert known.name == "mine"
    assert [each.version for each in known.versions] == [1]
    assert len(mine.encode(["a cat"])["POOLED"]) == 1


def test_a_foreign_token_learns_not_even_whether_there_is_such_an_experiment(
    of: Callable[[str], RolloutClient],
) -> None:
    theirs, mine = of("theirs"), of("curious")
    theirs.publish(random_adapter(theirs.targets()), "theirs")
    for of_theirs, of_nobody in zip(everything_of("theirs"), everything_of("nobody"), strict=True):
        code, sentence = refusal(lambda: of_theirs(mine))  # noqa: B023
        assert code == "PERMISSION_DENIED"
        assert refusal(lambda: of_nobody(mine)) == (  # noqa: B023
            code,
            sentence.replace("'theirs'", "'nobody'"),
        )
    assert theirs.info("theirs").latest_version == 1


@pytest.mark.parametrize("token", ["", "heliostat-guess", "Bearer", "~~"])
def test_a_wrong_token_is_told_that_and_no_more(server: ServerHarness, token: str) -> None:
    client = server.client(token)
    sentences = {refusal(lambda: action(client)) for action in everything_of("e")}  # noqa: B023
    assert {code for code, _ in sentences} == {"UNAUTHENTICATED"}
    assert len({sentence for _, sentence in sentences}) == 1
    for ask in (
        lambda: client.encode(["a cat"]),
        lambda: client.score(LATENTS, prompts=["a"], rewards=["colourfulness"]),
    ):
        assert "UNAUTHENTICATED" in refusal(ask)[1]
    client.close()


def test_only_the_administrator_administers(of: Callable[[str], RolloutClient]) -> None:
    mine = of("small")
    own = messages.ExperimentRequest(experiment="small")
    for method, request in (
        ("CreateExperiment", messages.CreateExperimentRequest(experiment="more")),
        ("DeleteExperiment", own),
        ("IssueToken", own),
        ("RevokeTokens", own),
        (
            "ChangeExperiment",
            messages.ChangeExperimentRequest(
                experiment="small", share=messages.ShareChange(weight=100)
            ),
        ),
    ):
        assert refusal(lambda: mine.ask(method, request))[0] == "PERMISSION_DENIED"  # noqa: B023


def test_a_load_is_for_the_control_plane_alone(of: Callable[[str], RolloutClient]) -> None:
    mine = of("loader")
    request = service_pb2.ModelInferRequest(model_name="explore")
    spec = json.dumps({"load": {"sha256": "0" * 64}}).encode()
    request.inputs.add(name="SPEC", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(spec).to_bytes(4, "little") + spec)
    answers = mine._triton.ModelStreamInfer(iter([request]), timeout=10, metadata=mine._metadata)
    assert "[PERMISSION_DENIED]" in next(iter(answers)).error_message


def test_revoked_tokens_end_and_new_ones_begin(server: ServerHarness) -> None:
    admin = server.client()
    old = server.client(admin.open("revoked"))
    revoke = messages.ExperimentRequest(experiment="revoked")
    assert admin.ask("RevokeTokens", revoke).revoked == 1
    assert refusal(lambda: old.info("revoked"))[0] == "UNAUTHENTICATED"
    new = server.client(admin.open("revoked"))
    new.info("revoked")
    for client in (admin, old, new):
        client.close()


def test_tritons_other_endpoints_are_closed(server: ServerHarness) -> None:
    client = server.client()
    triton = client._triton
    for method, request in (
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="explore")),
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="score")),
        ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
        ("ModelConfig", service_pb2.ModelConfigRequest(name="explore")),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest()),
        ("LogSettings", service_pb2.LogSettingsRequest()),
        ("TraceSetting", service_pb2.TraceSettingRequest()),
    ):
        code, sentence = refusal(
            lambda: getattr(triton, method)(request, timeout=10, metadata=client._metadata)  # noqa: B023
        )
        assert (code, "restricted" in sentence) == ("UNAVAILABLE", True), method
    client.close()


def test_a_paused_experiment_is_put_off_and_goes_on(of: Callable[[str], RolloutClient]) -> None:
    mine = of("paused")

    def set_paused(paused: bool) -> None:
        share = messages.ShareChange(paused=paused)
        change = messages.ChangeExperimentRequest(experiment="paused", share=share)
        assert mine.ask("ChangeExperiment", change).share.paused is paused

    set_paused(True)
    code, sentence = refusal(lambda: mine.explore(SEEDS, experiment="paused"))
    assert code == "RESOURCE_EXHAUSTED"
    assert "heliostat experiment resume paused" in sentence


def test_http_does_what_grpc_does(server: ServerHarness) -> None:
    status, answer = http(server, "POST", "/v1/experiments", {"name": "web"}, server.admin_token)
    assert status == 201
    token = answer["token"]
    assert http(server, "GET", "/v1/experiments/web", token=token)[1]["name"] == "web"
    assert (
        http(server, "GET", "/v1/info", token=token)[1]["description"]["limits"]["batch"] == BATCH
    )
    assert http(server, "GET", "/v1/experiments/other", token=token)[0] == 403
    assert http(server, "GET", "/v1/experiments/web")[0] == 401
    assert http(server, "POST", "/v1/experiments", {"name": "web"}, server.admin_token)[0] == 409
    paused = http(server, "PATCH", "/v1/experiments/web", {"paused": True}, token)
    assert paused[1]["share"]["paused"] is True
    assert http(server, "PATCH", "/v1/experiments/web", {"weight": 2}, token)[0] == 403
    wrong = http(server, "PATCH", "/v1/experiments/web", {"weight": -1}, server.admin_token)
    assert wrong[0] == 422
    events = http(server, "GET", "/v1/events?experiment=web", token=token)[1]
    assert [event["what"] for event in events] == ["changed", "token issued", "created"]
    assert http(server, "DELETE", "/v1/experiments/web", token=server.admin_token)[0] == 204
    assert http(server, "GET", "/v1/experiments/web", token=server.admin_token)[0] == 404
    assert http(server, "GET", "/v1/health") == (200, {"status": "ok"})


def http(
    server: ServerHarness, method: str, path: str, body: object = None, token: str = ""
) -> tuple[int, Any]:
    """Status and answer of a request."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{server.record.http}{path}", data, headers, method=method)
    try:
        with urlopen(request, timeout=10) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except HTTPError as error:
        return error.code, json.loads(error.read())
