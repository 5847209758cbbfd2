"""Two sides speak with each other if each understands what the other writes."""

from __future__ import annotations

import pytest

from heliostat_proto.control_pb2 import InfoResponse
from heliostat_wire.version import OURS, WireVersion, disagreement


def server(version: int = 0, oldest: int = 0) -> InfoResponse:
    return InfoResponse(server_version="0.9", wire_version=version, oldest_wire_version=oldest)


def test_a_server_that_does_not_say_its_version_speaks_the_first() -> None:
    assert WireVersion.of(server()) == WireVersion(1, 1)


def test_we_understand_ourselves_and_those_of_before_there_were_versions() -> None:
    assert OURS.oldest <= OURS.version
    assert disagreement(server(OURS.version, OURS.oldest), OURS) is None
    assert disagreement(server(), OURS) is None


@pytest.mark.parametrize(("version", "oldest"), [(2, 1), (3, 3), (4, 2), (9, 3)])
def test_what_both_understand_goes_on(version: int, oldest: int) -> None:
    assert disagreement(server(version, oldest), WireVersion(3, 2)) is None


def test_the_side_that_is_too_old_is_named_with_both_versions() -> None:
    older = disagreement(server(), WireVersion(3, 2))
    assert older is not None
    assert "the server (heliostat 0.9) is older" in older
    assert "speaks version 1 of the wire, here it is 3 and none below 2" in older
    assert older.endswith("update heliostat where the server runs")
    newer = disagreement(server(5, 4), WireVersion(3, 2))
    assert newer is not None
    assert "heliostat here is older than the server (heliostat 0.9)" in newer
    assert "speaks version 3 of the wire, there it is 5 and none below 4" in newer
    assert newer.endswith("update heliostat here")
