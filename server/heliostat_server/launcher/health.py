"""Whether a server answers, as a container's health check asks."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from heliostat_server.triton.client import TritonClient, TritonEndpoint

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_server.processes.state_folder import StateFolder

TIMEOUT_S = 5.0


def find_problem(
    state: StateFolder, certificate: Path | None = None, tls_name: str = ""
) -> str | None:
    """What is wrong with the server of a state folder on this machine; None: nothing.

    certificate, tls_name: those that the server was started with.
    """
    record = state.read_record()
    if record is None:
        return f"no rollout server has run on {state.path}"
    if not record.ready:
        return "it is still starting, or has ended"
    if record.triton is not None and record.rollout is not None:
        pem = None if certificate is None else certificate.read_bytes()
        with TritonClient(TritonEndpoint(record.rollout, pem, tls_name)) as client:
            if not client.is_live(TIMEOUT_S):
                return f"Triton does not answer at {record.rollout}"
    if record.http is None:
        return None
    return _http_problem(f"{record.http}/v1/health", certificate)


def _http_problem(url: str, certificate: Path | None) -> str | None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False  # It is the server's own, and for another name than ours.
    try:
        # Of this machine: no proxy is asked.
        with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(
            url, timeout=TIMEOUT_S
        ):
            return None
    except (URLError, OSError) as error:
        return f"{url} does not answer: {error}"
