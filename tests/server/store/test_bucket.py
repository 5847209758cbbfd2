from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import ConfigError
from heliostat_server.errors import ServerStartError
from heliostat_server.server_toml import load_settings
from heliostat_server.store.bucket import Bucket
from tests.server.store.buckets import BUCKET, NO_CREDENTIALS, s3_server

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ServerStartError, match=rf"--adapters-url file://{tmp_path}/no is no bucket"
    ):
        Bucket(f"file://{tmp_path}/no").problem(writes=True)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    assert Bucket(f"file://{tmp_path}").problem(writes=True) is None
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(
        ServerStartError, match=r"--adapters-url nope://x: Protocol not known: nope: "
    ):
        Bucket("nope://x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec_registry = pytest.importorskip("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(fsspec_registry._registry, "s3", raising=False)
    with pytest.raises(ServerStartError, match=r"is missing: pip install 'heliostat\[s3\]'$"):
        Bucket("s3://bucket/prefix")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("adapters", "is no URL: give one as s3://bucket/prefix"),
        ("s3://key:hidden@bucket/x", "is more than a place: leave out user, password"),
        ("s3://bucket/x?key=hidden", "is more than a place: leave out user, password"),
    ],
)
def test_what_is_no_place_is_refused_and_no_secret_shown(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--adapters-url {why}") as refused:
        load_settings(None, [("", "adapters_url", url)])
    assert "hidden" not in str(refused.value)


def test_s3_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert Bucket(f"s3://{BUCKET}/x").problem(writes=True) is None
        assert Bucket(f"s3://{BUCKET}/x").problem(writes=False) is None
        with pytest.raises(ServerStartError, match="--adapters-url s3://other is no bucket"):
            Bucket("s3://other").problem(writes=True)


def test_s3_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name, value in NO_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServerStartError, match="refuses what the environment has as credentials"):
        Bucket("s3://bucket").problem(writes=True)


def test_s3_that_does_not_answer_may_still_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name, value in (NO_CREDENTIALS | {"AWS_ENDPOINT_URL": place}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    problem = Bucket("s3://bucket").problem(writes=True)
    assert problem is not None
    assert problem.startswith("the adapters' storage at s3://bucket does not answer (")
    assert "a-secret" not in problem
