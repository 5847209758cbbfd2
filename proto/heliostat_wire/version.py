"""The version of the wire: told by the server before all else, and compared by whoever speaks to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat_proto.control_pb2 import InfoResponse


@dataclass(frozen=True)
class WireVersion:
    """What one side speaks, and the oldest version that it still understands of the other."""

    version: int
    oldest: int

    @staticmethod
    def of(server: InfoResponse) -> WireVersion:
        """A server's; 1 of those that did not say it yet."""
        return WireVersion(server.wire_version or 1, server.oldest_wire_version or 1)


OURS = WireVersion(version=1, oldest=1)
"""Of this heliostat, on either side.

`version` goes up with a change that a side which does not know it would get wrong. A field that may be
passed over is none, and an ability that a server tells of by itself neither, as `InfoResponse.solvers`.
`oldest` follows once what that version wrote is read no more.
"""


def disagreement(server: InfoResponse, ours: WireVersion) -> str | None:
    """Which of a server and us is too old for the other, and what to update; None: they understand each other."""
    theirs = WireVersion.of(server)
    if theirs.version < ours.oldest:
        return (
            f"the server (heliostat {server.server_version}) is older than heliostat here: it speaks "
            f"version {theirs.version} of the wire, here it is {ours.version} and none below {ours.oldest} is "
            "understood: update heliostat where the server runs"
        )
    if ours.version < theirs.oldest:
        return (
            f"heliostat here is older than the server (heliostat {server.server_version}): it speaks version "
            f"{ours.version} of the wire, there it is {theirs.version} and none below {theirs.oldest} is "
            "understood: update heliostat here"
        )
    return None
