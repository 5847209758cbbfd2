"""Waiting for what runs elsewhere, and may start later than we do."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from heliostat_engines.machine.network import grpc_detour
from heliostat_engines.progress import Stages
from heliostat_server.errors import ServerStartError
from heliostat_server.processes.waiting import until
from heliostat_server.rewards.definitions import VlmJudgeSettings
from heliostat_server.rewards.remote.posting import BusyError, RefusedError, send
from heliostat_server.triton.repository import MODELS
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_server.rewards.definitions import RewardDefinitions
    from heliostat_server.triton.client import TritonClient

POLL_S = 0.5
PROBE_TIMEOUT_S = 5.0


class Waiting:
    """Waits up to `wait_s` for each thing, and says what for; `stages` show it while it lasts."""

    def __init__(
        self, wait_s: float, is_stopping: Callable[[], bool], stages: Stages | None = None
    ) -> None:
        self._wait_s = wait_s
        self._is_stopping = is_stopping
        self._stages = stages or Stages()
        self._log = structlog.get_logger("server")

    def until(self, problem: Callable[[], str | None], remedy: str) -> None:
        """Ask until there is no problem any more.

        problem: what is missing, in a clause, or None; remedy: what to do about it.

        Raises:
            ServerStartError: it did not end in time, or we are to stop.
        """
        start, said = time.monotonic(), ""

        def told() -> str | None:
            nonlocal said
            missing, waited = problem(), time.monotonic() - start
            if missing is not None and waited < self._wait_s:
                self._tell(missing, waited, is_new=missing != said)
                said = missing
            return missing

        missing = until(told, self._wait_s, self._is_stopping, every_s=POLL_S)
        if missing is not None:
            raise ServerStartError(
                f"{missing} after {self._wait_s:g} s: {remedy}, or wait longer with --wait"
            )

    def _tell(self, missing: str, waited_s: float, *, is_new: bool) -> None:
        if is_new:
            left_s = round(self._wait_s - waited_s)
            self._log.info(f"waiting: {missing}", seconds_left=left_s)
            self._stages.part(f"waiting: {missing}")
        self._stages.count(round(waited_s), round(self._wait_s), "s")


def triton_problem(client: TritonClient, address: str) -> str | None:
    """Why a Triton cannot be used yet."""
    if not client.is_live():
        return f"the Triton server at {address} does not answer{grpc_detour(address)}"
    missing = [model for model in MODELS if not client.is_ready(model)]
    if missing:
        return f"the Triton server at {address} does not serve {', '.join(missing)}"
    return None


def judges(rewards: RewardDefinitions) -> list[VlmJudgeSettings]:
    """The vision-language models that rewards ask."""
    return [each for each in rewards.values() if isinstance(each, VlmJudgeSettings)]


def judge_problem(judge: VlmJudgeSettings) -> str | None:
    """Why the server of a vision-language model cannot be used yet."""
    place = without_secrets(judge.url)
    try:
        answer = send("GET", judge.endpoint("models"), PROBE_TIMEOUT_S)
    except BusyError as error:
        return f"the judge at {place} does not answer ({error})"
    except RefusedError as error:
        raise ServerStartError(
            f"the judge at {place} cannot be asked ({error}): check its url"
        ) from error
    # One that asks for a key, or lists no models, is up.
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"the judge at {place} answers {answer.status_code}"
    return None
