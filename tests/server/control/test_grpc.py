"""What the control plane keeps and answers over gRPC, before a store of its own and no engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from heliostat_engines.machine.given_back import GivenBack
from heliostat_proto import control_pb2
from heliostat_server.control.grpc import UPLOADS, ControlService, start_control
from heliostat_server.control.operations import Operations
from heliostat_server.control.publisher import Publisher
from heliostat_server.errors import UnavailableError
from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.terms import Share
from heliostat_server.experiments.tokens import digest
from heliostat_server.processes.ports import free_ports
from heliostat_server.settings import AskedLimits
from heliostat_server.store.experiments import MAX_TUNED_CHARS, ExperimentStore
from heliostat_server.store.steps import RedisSteps
from heliostat_wire.steps import Decision
from heliostat_wire.version import OURS, WireVersion
from tests.server.checkpoints import random_adapter
from tests.server.control.dashboard.conftest import Engine
from tests.server.control.test_publish import ADAPTER, Loader
from tests.server.rollout_client import RolloutClient
from tests.wire.test_steps import REPORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.store.adapters import AdapterStore


class Models:
    """What Triton's models would answer."""

    busy = False

    def rest(self, timeout_s: float) -> GivenBack:
        assert timeout_s > 60
        if self.busy:
            raise UnavailableError("candidates are still waiting to be drawn")
        return GivenBack(7 * 10**9, 1.5)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def experiments(store: AdapterStore) -> ExperimentStore:
    """Beside the adapter store; it has a, b and e."""
    return ExperimentStore(store._redis)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def client(
    store: AdapterStore, experiments: ExperimentStore, models: Models, loader: Loader
) -> Iterator[RolloutClient]:
    """The administrator's."""
    steps = RedisSteps(store._redis)
    publisher = Publisher(store, loader)
    operations = Operations(Engine(), experiments, store, steps, publisher, models, "1")
    authority = Authority(experiments, (digest("admin"),))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server = start_control(ControlService(operations, authority), address)
    client = RolloutClient(address, address, "admin")
    yield client
    client.close()
    server.stop(None).wait()


def shown(client: RolloutClient) -> str:
    answer = client.ask("GetExperiment", control_pb2.ExperimentRequest(experiment="e"))
    return str(answer.tuned)


def test_a_trainer_is_told_how_much_may_wait(
    client: RolloutClient, experiments: ExperimentStore
) -> None:
    usual, all_together = Share().max_queued_images, AskedLimits().max_queued_images
    assert client.info().max_queued_images == client.info("e").max_queued_images == usual
    assert client.info("not-there").max_queued_images == usual
    for queued, told in ((40, 40), (2 * all_together, all_together)):
        experiments.change("e", {"max_queued_images": queued})
        assert client.info("e").max_queued_images == told


def test_a_server_tells_its_version_of_the_wire(client: RolloutClient) -> None:
    assert WireVersion.of(client.info()) == OURS


def test_what_a_run_decided_comes_with_its_adapters(
    client: RolloutClient, experiments: ExperimentStore
) -> None:
    assert client.publish(ADAPTER).version == 1
    assert shown(client) == ""
    for _ in range(2):
        client.publish(ADAPTER, tuned="from step 5 on: fewer candidates")
        assert shown(client) == experiments.get("e").tuned == "from step 5 on: fewer candidates"
    client.publish(ADAPTER, tuned="x" * 2 * MAX_TUNED_CHARS)
    assert shown(client) == "x" * MAX_TUNED_CHARS
    client.publish(ADAPTER)  # another run, or one of before there was this
    assert shown(client) == ""
    said = [event.detail for event in experiments.events("e") if event.what == "tuned"]
    assert said == ["x" * MAX_TUNED_CHARS, "from step 5 on: fewer candidates"]


def test_while_many_uploads_wait_for_the_engine_others_are_answered(
    client: RolloutClient, loader: Loader
) -> None:
    client.open("e")
    loader.go_on.clear()
    with ThreadPoolExecutor(UPLOADS + 1) as pool:
        uploads = [pool.submit(client.publish, ADAPTER) for _ in range(UPLOADS + 1)]
        try:
            assert loader.asked.wait(30)
            assert client.info("e").latest_version == 0
        finally:
            loader.go_on.set()
        assert {upload.result().version for upload in uploads} == {1}


def test_the_step_that_an_adapter_comes_from_is_kept_with_its_version(
    client: RolloutClient, store: AdapterStore
) -> None:
    decided = Decision(9, REPORT.shape, "x" * 2 * MAX_TUNED_CHARS)
    client.publish(ADAPTER)
    other = random_adapter({"block": (8, 16)})
    client.publish(other, step=replace(REPORT, decision=decided).message())
    first, second = (kept.published for kept in RedisSteps(store._redis).after("e", ""))
    assert (first.version, first.report) == (1, None)
    assert second.version == 2
    assert second.refit_s > 0
    short = decided._replace(why="x" * MAX_TUNED_CHARS)
    assert second.report == replace(REPORT, decision=short)


def test_a_trainer_has_the_models_rest_once_nothing_waits_to_be_drawn(
    client: RolloutClient, models: Models
) -> None:
    asked = control_pb2.ExperimentRequest(experiment="e")
    given = client.ask("Rest", asked)
    assert (given.memory_bytes, given.seconds) == (7 * 10**9, 1.5)
    models.busy = True
    with pytest.raises(grpc.RpcError) as refused:
        client.ask("Rest", asked)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
