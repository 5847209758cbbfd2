"""What a container engine changes of the machine that it runs on, and how that is put back."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
BRIDGE = "docker0"
"""An engine's own; those of its networks are named by their ids."""
TABLES = ("filter", "nat", "mangle", "raw")
TOOLS = ("dockerd", "docker", "iptables", "iptables-save", "iptables-restore", "ip")


def unavailable(reason: str) -> None:
    """Skip the test; in CI, where .ci/run installs all that it needs, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_engine() -> None:
    """Skip or fail unless an engine of our own can run here."""
    if os.geteuid() != 0:
        unavailable("a container engine of our own needs root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        unavailable(f"not installed: {', '.join(missing)} (Debian's docker.io, iptables, iproute2)")
    if BRIDGE in links():
        unavailable("another engine runs here: two would share its bridge and its firewall rules")


def links() -> frozenset[str]:
    """Names of network interfaces."""
    return frozenset(each.name for each in Path("/sys/class/net").iterdir())


def rules() -> dict[str, list[str]]:
    """The firewall's, by table, without counters; tables that hold nothing of their own are left out."""
    found = {}
    for table in TABLES:
        run = subprocess.run(
            ["iptables-save", "--table", table], capture_output=True, text=True, check=False
        )
        lines = [
            line.split(" [")[0]
            for line in run.stdout.splitlines()
            if line.startswith((":", "-")) and not line.split(" [")[0].endswith(" ACCEPT")
        ]
        if lines:
            found[table] = lines
    return found


def mounts_below(folder: Path) -> list[Path]:
    """The deepest first."""
    places = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    below = [Path(place) for place in places if Path(place).is_relative_to(folder)]
    return sorted(below, key=lambda place: len(place.parts), reverse=True)


@dataclass(frozen=True)
class Machine:
    """What it was like before an engine started: forwarding, firewall rules, network interfaces."""

    forwarding: str
    rules: dict[str, list[str]]
    saved: str
    links: frozenset[str]

    @staticmethod
    def now() -> Machine:
        """As it is."""
        saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True)
        return Machine(FORWARDING.read_text(), rules(), saved.stdout, links())

    def put_back(self, folder: Path, bridges: Sequence[str]) -> None:
        """Make it so again, once the engine that had this folder and these bridges has ended."""
        for place in mounts_below(folder):
            subprocess.run(["umount", str(place)], check=True)
        for bridge in links().intersection(bridges) - self.links:
            _run(["ip", "link", "delete", bridge])
        _put_back_rules(self.saved)
        FORWARDING.write_text(self.forwarding)
        # Only now: below a mount lies what is not ours to remove.
        assert not mounts_below(folder)
        shutil.rmtree(folder)

    def differences(self) -> list[str]:
        """What is not as it was."""
        now = Machine.now()
        return [
            f"{name}: {before} became {after}"
            for name in ("forwarding", "rules", "links")
            if (before := getattr(self, name)) != (after := getattr(now, name))
        ]


def _put_back_rules(saved: str) -> None:
    for table, kept in rules().items():
        if f"*{table}\n" in saved:
            continue  # iptables-restore empties it first.
        for line in kept:
            if line.startswith(":") and not line.endswith(" -"):
                _run(["iptables", "--table", table, "--policy", line.split()[0][1:], "ACCEPT"])
        _run(["iptables", "--table", table, "--flush"])
        _run(["iptables", "--table", table, "--delete-chain"])
    if saved:
        subprocess.run(["iptables-restore"], input=saved, text=True, check=True)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
