"""A real server whose adapters are in a bucket of a real S3 server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import pytest

from heliostat_server.errors import ServerStartError
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.e2e.conftest import ServerHarness
from tests.server.checkpoints import random_adapter
from tests.server.store.buckets import BUCKET, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server() as said:
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.slow
def test_what_is_published_is_drawn_with_after_a_restart(
    environment: None, demo_checkpoint: Path, tmp_path: Path
) -> None:
    settings = ServeSettings(
        checkpoint=str(demo_checkpoint),
        state=tmp_path / "state",
        adapters_url=f"s3://{BUCKET}/adapters",
        limits=LimitSettings(batch=4),
        max_rank=8,
        threads=1,
        port=0,
        http_port=0,
    )
    missing = settings.model_copy(update={"adapters_url": "s3://missing"})
    with pytest.raises(ServerStartError, match="--adapters-url s3://missing is no bucket"):
        ServerHarness(missing).start()
    rewards = []
    for start in range(2):
        harness = ServerHarness(settings)
        harness.start()
        try:
            client = harness.client()
            if start == 0:
                client.open("a")
                files = random_adapter(client.targets(), seed=1)
                client.publish(files, "a")
            rewards.append(client.rewards(range(4), experiment="a", version=1))
            client.close()
        finally:
            harness.stop()
        system, root = fsspec.url_to_fs(f"s3://{BUCKET}/adapters")
        assert [system.cat_file(path) for path in system.find(root)] == [files.tensors]
    assert (rewards[0] == rewards[1]).all()
