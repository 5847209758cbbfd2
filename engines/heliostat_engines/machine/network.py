"""How this machine's network stands: by which proxy an address is asked, and whether its own name resolves.

Proxies are for what is elsewhere. Libraries read the variables each in its own way, and some send
what is asked of this very machine by the proxy too; here one place says what goes straight.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
"""What gRPC's core reads, the first that is set."""
_NO_GRPC = ("no_grpc_proxy", "no_proxy")
RESOLVE_S = 3.0
"""How long this machine's own name may take to resolve."""


def is_here(host: str) -> bool:
    """Whether a host, as an address names it, is this machine. Asks no name server."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or _is_own(address)


def host_of(address: str) -> str:
    """The host of a URL, or of host:port."""
    return urlsplit(address if "://" in address else f"//{address}").hostname or ""


def grpc_options(address: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to host:port: what is on this machine is asked straight."""
    return [("grpc.enable_http_proxy", 0)] if is_here(host_of(address)) else []


def grpc_detour(address: str) -> str:
    """A clause for errors of a gRPC call to host:port that goes by a proxy; "" if it goes straight."""
    return _clause(host_of(address), _GRPC, _NO_GRPC)


def http_detour(url: str) -> str:
    """As `grpc_detour`, for an HTTP request: other variables are read for these."""
    names = [f"{kind}_proxy" for kind in (urlsplit(url).scheme, "all")]
    both_cases = [spelt for name in names for spelt in (name, name.upper())]
    return _clause(host_of(url), both_cases, ("no_proxy", "NO_PROXY"))


def own_name_problem(timeout_s: float = RESOLVE_S) -> str | None:
    """Why torchrun would wait in vain for this machine's own name; None: it does not."""
    name = socket.gethostname()
    if _resolves(name, timeout_s):
        return None
    return (
        f"this machine's own host name, {name!r}, does not resolve, and torchrun waits for it without "
        f'a word: add the line "127.0.0.1 {name}" to /etc/hosts, or start torchrun with --local-addr '
        "127.0.0.1 (with several machines: this one's address in their network, and set "
        "GLOO_SOCKET_IFNAME to its interface)"
    )


def rendezvous_problem(timeout_s: float = RESOLVE_S) -> str | None:
    """Why the processes that torchrun started would wait for one another in vain; None: they do not."""
    master = os.environ.get("MASTER_ADDR")
    if master and not _resolves(master, timeout_s):
        return (
            f"the ranks meet at MASTER_ADDR, and {master!r} does not resolve: add it to /etc/hosts with "
            "its address, or start torchrun with --local-addr 127.0.0.1 (with several machines: with "
            "--master-addr and an address in their network)"
        )
    # On one machine gloo takes loopback in place of a name that does not resolve.
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return None if alone or os.environ.get("GLOO_SOCKET_IFNAME") else own_name_problem(timeout_s)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an interface of this machine has the address: then, and only then, it can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _resolves(name: str, timeout_s: float) -> bool:
    """Whether a name has an address, found within the time: a name server may be silent."""
    found: list[object] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(name, None))
        except (OSError, UnicodeError):
            return

    # A thread, for the system's own look-up takes no time limit.
    thread = Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(found)


def _clause(host: str, variables: Iterable[str], exempting: Iterable[str]) -> str:
    """Names the first of the variables that is set; its value may hold a password."""
    variable = next((name for name in variables if os.environ.get(name)), None)
    exempt = next(filter(None, map(os.environ.get, exempting)), "")
    if variable is None or is_here(host) or _is_exempt(host, exempt):
        return ""
    return (
        f" (it was asked by the proxy of the variable {variable}: unset that, or add {host} to "
        "no_proxy)"
    )


def _is_exempt(host: str, exempt: str) -> bool:
    """Whether a host is in a list such as no_proxy holds: ends of names, addresses, networks."""
    each = [part.strip() for part in exempt.split(",") if part.strip()]
    return any(part == "*" or host.endswith(part) or _is_within(host, part) for part in each)


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
