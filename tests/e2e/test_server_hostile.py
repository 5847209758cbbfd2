"""Whatever is sent, the answer is one sentence, and the server goes on as before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from heliostat_engines.adapters import AdapterFiles
from heliostat_proto import control_pb2 as messages
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_wire.errors import Refusal
from tests.e2e.conftest import BATCH, ServerHarness
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import publish_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.rollout_client import RolloutClient

pytestmark = pytest.mark.slow
SEEDS = range(BATCH)
hostile = settings(
    max_examples=350,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OURS_TO_SAY = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
}

texts = st.text(max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
rollouts = st.fixed_dictionaries(
    {},
    optional={
        "experiment": texts | st.just("e"),
        "version": numbers | st.just(0),
        "prompt": texts,
        "steps": st.integers(-5, 300) | anything,
        "guidance": st.floats() | anything,
        "rewards": st.lists(texts | st.just("colourfulness"), max_size=3) | anything,
        "returnLatents": anything,
    },
)
specs = (
    st.binary(max_size=200)
    | anything.map(lambda value: json.dumps(value).encode())
    | rollouts.map(lambda rollout: json.dumps({"rollout": rollout}).encode())
)


@pytest.fixture(scope="module")
def server(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerHarness]:
    """One of its own: what is sent pauses and deletes whatever experiments there are."""
    harness = ServerHarness(
        ServeSettings(
            checkpoint=str(demo_checkpoint),
            state=tmp_path_factory.mktemp("hostile") / "state",
            limits=LimitSettings(batch=BATCH, max_steps=200),
            max_rank=8,
            threads=1,
            port=0,
            http_port=0,
        )
    )
    harness.start()
    yield harness
    harness.stop()


@pytest.fixture(scope="module")
def client(server: ServerHarness) -> Iterator[RolloutClient]:
    client = server.client()
    client.open("e")
    yield client
    client.close()


@pytest.fixture(scope="module", autouse=True)
def goes_on_as_before(client: RolloutClient) -> Iterator[None]:
    """What the server draws before and after is the same."""
    before = client.rewards(SEEDS, experiment="unheard-of")
    yield
    np.testing.assert_array_equal(client.rewards(SEEDS, experiment="unheard-of"), before)


@hostile
@given(spec=specs, seeds=st.none() | st.lists(numbers | st.sampled_from(SEEDS), max_size=5))
def test_rollouts_of_any_bytes(client: RolloutClient, spec: bytes, seeds: list[int] | None) -> None:
    request = kserve("explore", SPEC=[spec])
    if seeds is not None:
        add(request, "SEEDS", np.array(seeds, np.int64))
    for answer in client._triton.ModelStreamInfer(
        iter([request]), timeout=20, metadata=client._metadata
    ):
        if answer.error_message:
            refusal = Refusal.read(answer.error_message)
            assert refusal is not None, answer.error_message
            assert refusal.code in OURS_TO_SAY, answer.error_message
            assert "\n" not in answer.error_message
            assert "fault of the server" not in answer.error_message


@hostile
@given(
    spec=st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()),
    shape=st.lists(st.integers(0, 5), max_size=5),
    prompts=st.lists(st.binary(max_size=40), max_size=3),
)
def test_latents_and_prompts_of_any_bytes(
    client: RolloutClient, spec: bytes, shape: list[int], prompts: list[bytes]
) -> None:
    score = kserve("score", SPEC=[spec])
    add(score, "LATENTS", np.zeros(shape, np.float32))
    for request in (score, kserve("text_encoder", PROMPTS=prompts)):
        code, sentence = outcome(
            lambda: client._triton.ModelInfer(request, timeout=20, metadata=client._metadata)  # noqa: B023
        )
        assert code in OURS_TO_SAY | {"OK"}, sentence
        assert "fault of the server" not in sentence


@hostile
@given(data=st.data())
def test_messages_of_any_fields(client: RolloutClient, data: st.DataObject) -> None:
    name = data.draw(texts | st.sampled_from(["e", "../e", "e:tokens", "a" * 101]))
    version = messages.VersionRequest(experiment=name, version=data.draw(numbers))
    share = messages.ShareChange(
        weight=data.draw(st.floats()), priority=data.draw(st.integers(-(2**31), 2**31 - 1))
    )
    method, request = data.draw(
        st.sampled_from(
            [
                ("Info", messages.InfoRequest(experiment=name)),
                ("RollBack", version),
                ("Pin", version),
                ("Unpin", version),
                ("GetExperiment", messages.ExperimentRequest(experiment=name)),
                ("ListEvents", messages.ListEventsRequest(experiment=name, count=-1)),
                (
                    "ChangeExperiment",
                    messages.ChangeExperimentRequest(experiment=name, share=share),
                ),
                (
                    "CreateExperiment",
                    messages.CreateExperimentRequest(experiment=name, share=share),
                ),
            ]
        )
    )
    code, sentence = outcome(lambda: client.ask(method, request))
    assert code in OURS_TO_SAY | {"OK"}, sentence
    assert "\n" not in sentence


def test_http_requests_as_its_own_description_allows_them_and_not(server: ServerHarness) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server.record.http}/openapi.json",
    ]
    command += ["--header", f"Authorization: Bearer {server.admin_token}"]
    command += [
        "--checks",
        "not_a_server_error,content_type_conformance,response_schema_conformance",
    ]
    command += ["--max-examples", "25", "--phases", "coverage,fuzzing", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("name", ["mine%3Atokens", "mine%3Ausage", "%20", "a%2Fb"])
def test_what_is_no_experiments_name_deletes_nothing(server: ServerHarness, name: str) -> None:
    """Else a name could be the key of something that belongs to another experiment."""
    url = f"{server.record.http}/v1/experiments/{name}"
    headers = {"Authorization": f"Bearer {server.admin_token}"}
    deleted = requests.delete(url, headers=headers, timeout=30)
    revoked = requests.delete(f"{url}/tokens", headers=headers, timeout=30)
    for answer in (deleted, revoked):
        assert answer.status_code in {404, 422}
        assert "Internal" not in answer.text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda files: AdapterFiles(files.config, files.tensors[:-9]), "no whole safetensors file"),
        (lambda files: AdapterFiles(files.config, b"\x80\x04" + files.tensors), "safetensors"),
        (lambda files: AdapterFiles(b"{", files.tensors), "adapter_config.json"),
        (lambda _: random_adapter({"transformer_blocks.0.attn.of_flux": (64, 64)}), "of_flux"),
        (lambda _: random_adapter({"pos_embed.proj": (7, 9)}), "pos_embed"),
    ],
    ids=["truncated", "a pickle", "no config", "another family's", "another shape"],
)
def test_adapters_that_are_none_leave_nothing(
    client: RolloutClient, spoil: Callable[[AdapterFiles], AdapterFiles], sentence: str
) -> None:
    code, said = outcome(lambda: client.publish(spoil(random_adapter(client.targets())), "broken"))
    assert (code, sentence in said) == ("INVALID_ARGUMENT", True), said
    assert client.info("broken").latest_version == 0


def test_a_slow_upload_and_one_that_stops_hold_nobody_up(
    server: ServerHarness, client: RolloutClient
) -> None:
    files = random_adapter(client.targets())
    client.open("slow")

    def slowly() -> Iterator[messages.PublishRequest]:
        for part in publish_parts(files, "slow", chunk_bytes=len(files.tensors) // 8):
            yield part
            time.sleep(0.2)

    def stopping() -> Iterator[messages.PublishRequest]:
        yield from publish_parts(files, "slow", chunk_bytes=1000)[:2]
        time.sleep(3)

    publish = client._control.Publish
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(publish, slowly(), timeout=60, metadata=client._metadata)
        stopped = pool.submit(
            outcome, lambda: publish(stopping(), timeout=1, metadata=client._metadata)
        )
        other = server.client()
        assert len(other.rewards(SEEDS, experiment="another")) == BATCH
        assert other.publish(files, "quick").version == 1
        other.close()
        assert stopped.result()[0] == "DEADLINE_EXCEEDED"
        assert slow.result().version == 1


def outcome(action: Callable[[], object]) -> tuple[str, str]:
    """OK, or an error's code and sentence."""
    try:
        action()
    except grpc.RpcError as error:
        failed: Any = error
        text = str(failed.details())
        ours = re.match(r"\[([A-Z_]+)[ \]]", text)  # Triton has fewer codes than we.
        if ours is not None:
            return ours[1], text
        return failed.code().name, text
    return "OK", ""


def kserve(model: str, **inputs: list[bytes]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, elements in inputs.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(elements)])
        request.raw_input_contents.append(
            b"".join(len(each).to_bytes(4, "little") + each for each in elements)
        )
    return request


def add(request: Any, name: str, values: np.ndarray) -> None:
    datatype = {"int64": "INT64", "float32": "FP32"}[values.dtype.name]
    request.inputs.add(name=name, datatype=datatype, shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
