"""gRPC messages to the control plane: every call, with any fields, bytes and tokens."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from heliostat_engines.adapters import AdapterFiles
from heliostat_proto import control_pb2
from tests.bad_inputs import adapters, odd
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, refused
from tests.bad_inputs.plane import Plane, running_plane
from tests.server.rollout_client import publish_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.protobuf.descriptor import Descriptor

    from tests.bad_inputs.odd import Damage

SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"]
METHODS = tuple(SERVICE.methods)
PUBLISH = "Publish"
TIMEOUT_S = 25.0
THEIR_FAULT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
UNREADABLE = "Exception deserializing request!"
"""What gRPC itself says of bytes that are no message."""
NAMES = ("mine", "theirs", "nosuch", "../mine", "mine:tokens", "a" * 101, "a" * 100, "mine\n", "")
TOKENS = ("admin", "admin", "mine", "mine", "theirs")
HEADERS = (
    "",
    "Bearer",
    "Bearer ",
    "bearer  x",
    "Basic eDp5",
    "Bearer x\ty",
    "Bearer " + "x" * 5000,
)

texts = odd.mostly(
    st.sampled_from(NAMES), st.text(st.characters(codec="utf-8"), max_size=20), times=5
)


@dataclass(frozen=True)
class Call:
    """parts: one message, or those of a stream. caller: whose token; else `header` is sent.

    damages: an upload is of an adapter that fits the engine, but for what befell its two files.
    """

    method: str
    parts: tuple[bytes, ...]
    caller: str = ""
    header: str | None = None
    damages: tuple[Damage | None, Damage | None] | None = None


def message(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Messages of a type, each field set or not."""
    fields = {field.name: _values(field) for field in descriptor.fields}
    make = message_factory.GetMessageClass(descriptor)
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: make(**given))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kinds = FieldDescriptor
    simple = {
        kinds.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 3),
        kinds.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 3),
        kinds.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        kinds.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        kinds.CPPTYPE_DOUBLE: st.floats() | st.sampled_from([0.0, 1e-3, 1e3]),
        kinds.CPPTYPE_FLOAT: st.floats(width=32),
        kinds.CPPTYPE_BOOL: st.booleans(),
        kinds.CPPTYPE_STRING: st.binary(max_size=30) if field.type == kinds.TYPE_BYTES else texts,
    }
    found = simple.get(field.cpp_type)
    return message(field.message_type) if found is None else found


@st.composite
def calls(draw: Callable[..., Any]) -> Call:
    method = draw(st.sampled_from(METHODS))
    if method.client_streaming and draw(st.booleans()):
        damage = st.none() | odd.damages
        damages = draw(st.tuples(damage, damage))
        return Call(method.name, (), draw(st.sampled_from(TOKENS)), damages=damages)
    if method.client_streaming:
        parts = draw(uploads())
    else:
        parts = (draw(message(method.input_type)).SerializeToString(),)
    if draw(st.integers(0, 9)) == 0:
        parts = (*parts[:-1], draw(st.binary(max_size=40)))
    if draw(st.integers(0, 4)):
        return Call(method.name, parts, draw(st.sampled_from(TOKENS)))
    header = st.none() | st.sampled_from(HEADERS) | st.text("Bearer x\u00e9", max_size=20)
    return Call(method.name, parts, header=draw(header))


@st.composite
def uploads(draw: Callable[..., Any]) -> tuple[bytes, ...]:
    """Streams of Publish: whole ones of odd adapters, and others."""
    files = draw(adapters.adapters)
    changes: dict[str, Any] = {}
    if draw(st.integers(0, 2)) == 0:
        changes = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "tensor_bytes": st.sampled_from([0, -1, 1, 2**40, 2**63 - 1]),
                    "sha256": st.just("00") | texts,
                    "config": st.binary(max_size=20),
                },
            )
        )
    parts = publish_parts(files, draw(texts), chunk_bytes=200, **changes)
    match draw(st.integers(0, 7)):
        case 0:
            parts = parts[:-1]
        case 1:
            parts = [*parts, *parts[-1:]]
        case 2:
            parts = draw(st.permutations(parts))
        case 3:
            parts = [draw(message(control_pb2.PublishRequest.DESCRIPTOR))]
    return tuple(part.SerializeToString() for part in parts)


class Caller:
    """Makes calls of raw bytes."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._channel = grpc.insecure_channel(plane.grpc)

    def run(self, call: Call) -> Verdict:
        self._plane.renew()
        return self._plane.judged(self._outcome(call), call.caller)

    def _outcome(self, call: Call) -> Verdict:
        token = self._plane.tokens.get(call.caller)
        header = call.header if token is None else f"Bearer {token}"
        metadata = [] if header is None else [("authorization", header)]
        path = f"/{SERVICE.full_name}/{call.method}"
        raw = {"request_serializer": None, "response_deserializer": None}
        try:
            if call.method == PUBLISH:
                ask = self._channel.stream_unary(path, **raw)
                ask(iter(self._parts(call)), timeout=TIMEOUT_S, metadata=metadata)
            else:
                ask = self._channel.unary_unary(path, **raw)
                ask(call.parts[0], timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            failed: Any = error
            return _told(failed.code(), failed.details() or "", call)
        except ValueError as error:  # gRPC does not send such headers
            return Verdict(Outcome.REFUSED, str(error))
        return ACCEPTED

    def _parts(self, call: Call) -> tuple[bytes, ...]:
        if call.damages is None:
            return call.parts
        whole = self._plane.adapter
        config, tensors = (
            data if damage is None else damage.applied(data) or b""
            for data, damage in zip((whole.config, whole.tensors), call.damages, strict=True)
        )
        parts = publish_parts(AdapterFiles(config, tensors), "mine", chunk_bytes=10_000)
        return tuple(part.SerializeToString() for part in parts)


def _told(code: grpc.StatusCode, details: str, call: Call) -> Verdict:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Verdict(Outcome.HUNG, details, call.method)
    if code in THEIR_FAULT:
        return refused(details)
    if details == UNREADABLE or "llegal header" in details or "nvalid metadata" in details:
        return Verdict(Outcome.REFUSED, details)
    return Verdict(Outcome.TRACEBACK, details, f"{code.name} of {call.method}")


@contextmanager
def opened(root: Path) -> Iterator[Callable[[Call], Verdict]]:
    with running_plane(root) as plane:
        yield Caller(plane).run
