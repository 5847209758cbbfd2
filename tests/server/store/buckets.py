"""A real S3 server on loopback, and buckets of it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "shared"
NO_CREDENTIALS = {
    # Else botocore would ask the machine's cloud, and read this user's own files.
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """One with the bucket `shared`; answers what the environment of its users has to say."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = NO_CREDENTIALS | {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "a-user",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            _make_bucket()
        yield environment
    finally:
        server.stop()


def _make_bucket() -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    with suppress(FileExistsError):  # Of another server before: what moto holds, its process holds.
        S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
