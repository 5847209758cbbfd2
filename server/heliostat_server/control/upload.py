"""Receiving an adapter in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.adapters import CONFIG_FILE, TENSORS_FILE, AdapterFiles
from heliostat_server.errors import RequestError
from heliostat_server.store.keys import check_experiment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from heliostat_proto.control_pb2 import AdapterHeader, PublishRequest

MAX_CONFIG_BYTES = 2**20


def receive_header(parts: Iterator[PublishRequest], max_bytes: int) -> AdapterHeader:
    """The first message of a Publish stream.

    Raises:
        RequestError: it is no header, or announces what is not taken.
    """
    first = next(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise RequestError("the first message of Publish must be the header")
    _check_header(first.header, max_bytes)
    return first.header


def receive_adapter(header: AdapterHeader, chunks: Iterator[PublishRequest]) -> AdapterFiles:
    """The adapter of a Publish stream, from the chunks after its header.

    Raises:
        RequestError: parts are missing, too many or no chunks, or the digest differs.
    """
    files = AdapterFiles(header.config, _receive_tensors(chunks, header.tensor_bytes))
    check_digest(files, header.sha256)
    return files


def check_digest(files: AdapterFiles, announced: str) -> None:
    """Refuse what is not what was sent. Raises RequestError."""
    if files.sha256 != announced:
        raise RequestError(
            f"the adapter arrived with digest {files.sha256}, its header says "
            f"{announced[:64] or 'nothing'}: the digest is of {CONFIG_FILE} followed by "
            f"{TENSORS_FILE}; send it again"
        )


def _check_header(header: AdapterHeader, max_bytes: int) -> None:
    check_experiment(header.experiment)
    if len(header.config) > MAX_CONFIG_BYTES:
        raise RequestError(
            f"{CONFIG_FILE} has {len(header.config)} bytes, more than {MAX_CONFIG_BYTES}"
        )
    if header.tensor_bytes <= 0:
        raise RequestError("the header announces no tensors: set tensor_bytes")
    if header.tensor_bytes > max_bytes:
        raise RequestError(
            f"the adapter has {header.tensor_bytes} bytes, the server takes up to {max_bytes}: "
            "lower lora.rank, or start the server with --max-adapter-bytes"
        )


def _receive_tensors(stream: Iterable[PublishRequest], announced: int) -> bytearray:
    """Put together as they come: joining 150 MB at once would stop all other threads meanwhile."""
    data, size = bytearray(announced), 0
    for part in stream:
        if part.WhichOneof("part") != "chunk":
            raise RequestError("after the header Publish takes chunks only")
        end = size + len(part.chunk)
        if end > announced:
            raise RequestError(f"more than the announced {announced} bytes of tensors arrived")
        data[size:end] = part.chunk
        size = end
    if size < announced:
        raise RequestError(f"the adapter is truncated: {size} of {announced} bytes arrived")
    return data
