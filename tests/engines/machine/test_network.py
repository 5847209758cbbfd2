"""Proxies and names, with this machine's real network: nothing is asked beyond it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time

import pytest

from heliostat_engines.machine.network import (
    grpc_detour,
    grpc_options,
    http_detour,
    is_here,
    rendezvous_problem,
)

PROXY = "http://me:secret@127.0.0.1:9"
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy", "no_grpc_proxy")
NAMELESS = ["unshare", "--uts", "--map-root-user"]
"""Starts a program where it may give the machine another name, for itself alone."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "0.0.0.0"],
)
def test_loopback_is_here(host: str) -> None:
    assert is_here(host)
    assert is_here(socket.gethostname())


@pytest.mark.parametrize(
    "host", ["", "example.invalid", "192.0.2.1", "2001:db8::1", "localhost.com"]
)
def test_other_addresses_are_not(host: str) -> None:
    assert not is_here(host)


def test_the_addresses_of_this_machines_interfaces_are_here() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the interface
        except OSError:
            pytest.skip("this machine has no network")
        assert is_here(probe.getsockname()[0])


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_grpc_goes_straight_to_this_machine_and_names_the_proxy_elsewhere(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, PROXY)
    for address in ("127.0.0.1:8600", "grpc://localhost:8600", "[::1]:8600", "grpcs://127.0.0.1:1"):
        assert grpc_options(address) == [("grpc.enable_http_proxy", 0)]
        assert grpc_detour(address) == ""
    assert grpc_options("gpu.invalid:8600") == []
    detour = grpc_detour("grpc://gpu.invalid:8600")
    assert f"the variable {variable}: unset that, or add gpu.invalid to no_proxy" in detour
    assert "secret" not in detour


def test_grpc_reads_no_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", PROXY)
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert grpc_detour("gpu.invalid:8600") == ""


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_http_names_its_own_variables(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, PROXY)
    assert http_detour("http://127.0.0.1:8000/v1") == ""
    assert f"of the variable {variable}:" in http_detour("http://judge.invalid:8000/v1")
    expected = variable.lower() == "all_proxy"
    assert bool(http_detour("https://judge.invalid/v1")) == expected


@pytest.mark.parametrize("exempt", ["*", "judge.invalid", ".invalid, other", "other,invalid"])
def test_what_is_exempt_goes_straight(exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", exempt)
    assert http_detour("http://judge.invalid") == grpc_detour("judge.invalid:1") == ""


def test_an_exempt_network_goes_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "192.0.2.0/24")
    assert http_detour("http://192.0.2.7:8000") == ""
    assert http_detour("http://198.51.100.7:8000")


def test_a_name_that_resolves_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert rendezvous_problem() is None


def test_a_master_that_does_not_resolve_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    started = time.monotonic()
    problem = rendezvous_problem(timeout_s=1.0)
    assert problem is not None
    assert "MASTER_ADDR, and 'nowhere.invalid' does not resolve" in problem
    assert time.monotonic() - started < 5


def under_another_name(name: str, program: str) -> str:
    """What a Python program prints where this machine goes by a name."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*NAMELESS, "true"], check=False).returncode
    ):
        pytest.skip("the machine's name cannot be changed here")
    python = f"import socket; socket.sethostname({name!r}); {program}"
    return subprocess.run(
        [*NAMELESS, sys.executable, "-c", python], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_own_name_that_does_not_resolve_is_named_with_the_remedy() -> None:
    program = "from heliostat_engines.machine.network import own_name_problem; print(own_name_problem(1.0))"
    sentence = under_another_name("nowhere.invalid", program)
    assert sentence.startswith("this machine's own host name, 'nowhere.invalid', does not resolve")
    assert 'the line "127.0.0.1 nowhere.invalid" to /etc/hosts' in sentence
    assert "--local-addr 127.0.0.1" in sentence
    assert "GLOO_SOCKET_IFNAME" in sentence
    assert under_another_name("localhost", program) == "None"


@pytest.mark.parametrize(
    ("variables", "meets"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}, True),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid"}, False),
    ],
)
def test_ranks_that_would_wait_in_vain_are_told(variables: dict[str, str], meets: bool) -> None:
    program = (
        f"import os; os.environ.update({variables}); "
        "from heliostat_engines.machine.network import rendezvous_problem; print(rendezvous_problem(1.0))"
    )
    assert (under_another_name("nowhere.invalid", program) == "None") == meets
