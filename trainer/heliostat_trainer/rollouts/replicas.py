"""Several rollout servers as one: replicas that any group may be drawn by, and that may come and go.

Groups wait in one backlog, and whichever replica has room takes the next. When one fails, only the groups
that it has not answered go back there; it is tried again all the time, and used when it is back.
Only while all fail does `server.patience_s` run. A seed's reward does not depend on who drew it.

Before a replica draws with an adapter it is asked under which version it holds it, by digest: those
on one store all know what one of them was given, any other is given it then.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Self, TypeVar

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.errors import AskAgainError, ServerGoneError, ServerUnableError
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.control import PublishedAdapters
from heliostat_trainer.rollouts.exploration import Backlog
from heliostat_trainer.rollouts.patience import Patience
from heliostat_trainer.rollouts.replica import Likeness, Replica
from heliostat_trainer.rollouts.service import (
    NOTHING_TOLD,
    RefusedPrompts,
    ScoreRequest,
    Scores,
    Told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.rollouts.tokens import Tokens
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter, ServerInfo

T = TypeVar("T")

POLL_S = 0.2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
TRY_AGAIN_S = 30.0
"""After which a replica that failed is asked again for what any of the others can do as well."""


class Replicas:
    """A `RolloutService` of several servers. Close it, or use it as a context manager."""

    def __init__(self, urls: Sequence[str], caller: Caller) -> None:
        """Raises ConfigError."""
        self._likeness, self._published = Likeness(), PublishedAdapters()
        self._replicas = [
            Replica.at(url, caller, self._likeness, self._published)
            for url in in_turn(urls, caller.experiment)
        ]
        self._patience = Patience(caller.patience_s, " or ".join(urls), caller.say)
        self._batch: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for replica in self._replicas:
            replica.client.close()

    def info(self) -> ServerInfo:
        """What those that are there have in common, asked anew."""
        return self._patience.call(self._info)

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        """Make an adapter the experiment's next version at one of them, for all."""
        self._published.keep(files, told)
        return self._anywhere(lambda replica: replica.client.publish(files, told))

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text embeddings, a row a prompt, in float32."""
        return self._anywhere(lambda replica: replica.client.encode(prompts))

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        """Which of the prompts the rewards refuse; none where the server cannot tell."""
        return self._anywhere(lambda replica: replica.client.refused_prompts(prompts, rewards))

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter | None = None
    ) -> Iterator[Group]:
        """As `RolloutClient.explore`, by all of them at once."""
        self._likeness.explored(requests)
        backlog = Backlog(requests)
        answers: queue.SimpleQueue[Group | Exception] = queue.SimpleQueue()
        patience = self._patience.anew()
        for replica in self._replicas:
            threading.Thread(
                target=_draw, args=(replica, backlog, adapter, answers), daemon=True
            ).start()
        try:
            for _ in requests:
                answer = patience.call(lambda: self._next(answers))
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            backlog.close()

    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        """As `RolloutClient.score`, a batch here and a batch there."""
        self._likeness.decoded(decoder)
        request = ScoreRequest(latents, prompts, rewards, return_images, decoder)
        batch = self._batch or self.info().batch
        waiting = deque(range(0, len(request), batch))
        scored: dict[int, Scores] = {}

        def score_some(replica: Replica) -> None:
            with suppress(IndexError):
                while True:
                    start = waiting.popleft()
                    part = request.take(slice(start, start + batch))
                    try:
                        scored[start] = replica.client.score_all(part)
                    except AskAgainError:
                        waiting.appendleft(start)
                        return

        def score_all() -> None:
            replicas = self._there()
            with ThreadPoolExecutor(len(replicas)) as lanes:
                list(lanes.map(score_some, replicas))
            if waiting:
                raise self._none_of_use()

        self._patience.call(score_all)
        return Scores.concat([scored[start] for start in sorted(scored)])

    def _info(self) -> ServerInfo:
        # One that is gone would take its time to show it again. It is heard of by what explores or scores.
        infos = []
        for replica in self._heard_of() or self._replicas:
            with suppress(AskAgainError):
                infos.append(replica.client.info())
        if not infos:
            raise self._none_of_use()
        self._batch = infos[0].batch
        return _common(infos)

    def _anywhere(self, action: Callable[[Replica], T]) -> T:
        """The result of the first that is there."""

        def attempt() -> T:
            for replica in self._there():
                with suppress(AskAgainError):
                    return action(replica)
            raise self._none_of_use()

        return self._patience.call(attempt)

    def _heard_of(self) -> list[Replica]:
        """Those that have not failed at what they were asked last."""
        return [replica for replica in self._replicas if replica.standing.failed_at is None]

    def _there(self) -> list[Replica]:
        """Those heard of, then those that may be back; all if there is neither."""
        now = time.monotonic()
        failed = {replica.url: replica.standing.failed_at for replica in self._replicas}
        heard_of = [replica for replica in self._replicas if failed[replica.url] is None]
        back = [
            replica
            for replica in self._replicas
            if (at := failed[replica.url]) is not None and now - at > TRY_AGAIN_S
        ]
        return heard_of + back or self._replicas

    def _next(self, answers: queue.SimpleQueue[Group | Exception]) -> Group | Exception:
        """The next answer of any. Raises AskAgainError while all fail."""
        while True:
            try:
                return answers.get(timeout=POLL_S)
            except queue.Empty:
                if not self._heard_of():
                    raise self._none_of_use() from None

    def _none_of_use(self) -> AskAgainError:
        """Gone if one of them is: that is what somebody has to look at first."""
        causes = [replica.standing.cause for replica in self._replicas]
        gone = any(isinstance(cause, ServerGoneError) for cause in causes)
        kind = ServerGoneError if gone else ServerUnableError
        return kind("; ".join(dict.fromkeys(map(str, causes))))


def in_turn(urls: Sequence[str], experiment: str) -> list[str]:
    """The servers in an experiment's own order, the same each time.

    Else what any of them can do, as publishing, would be asked of the first by every run that names the same list.

    Source: Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates, 1998.
    """
    return sorted(urls, key=lambda url: sha256(f"{experiment} {url}".encode()).digest())


def open_servers(
    config: TrainConfig, urls: Sequence[str], tokens: Tokens, say: Callable[[str], None]
) -> RolloutClient | Replicas:
    """The run's rollout server, or several as one. Raises ConfigError."""
    settings = config.server
    caller = Caller(
        experiment=config.run.name,
        tokens=tokens,
        authority_file=settings.authority_file,
        patience_s=settings.patience_s,
        groups_in_flight=settings.groups_in_flight,
        say=say,
    )
    if len(urls) == 1:
        return RolloutClient.at(urls[0], caller)
    return Replicas(urls, caller)


def _draw(
    replica: Replica,
    backlog: Backlog,
    adapter: PublishedAdapter | None,
    answers: queue.SimpleQueue[Group | Exception],
) -> None:
    """Have a replica draw groups of the backlog until all are drawn, however often it fails."""
    wait_s = FIRST_WAIT_S
    while backlog.wait():
        try:
            for group in replica.client.explore_from(backlog, adapter):
                answers.put(group)
                wait_s = FIRST_WAIT_S
        except AskAgainError:
            backlog.rest(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        except Exception as error:  # raised where the groups are read
            answers.put(error)
            return


def _common(infos: Sequence[ServerInfo]) -> ServerInfo:
    """What a run may ask of each of them."""
    return replace(
        infos[0],
        rewards=_in_all([info.rewards for info in infos]),
        max_rank=min(info.max_rank for info in infos),
        max_steps=min(info.max_steps for info in infos),
        max_seeds=min(info.max_seeds for info in infos),
        max_prompt_chars=min(info.max_prompt_chars for info in infos),
        max_adapter_bytes=min(info.max_adapter_bytes for info in infos),
        latest_version=max(info.latest_version for info in infos),
        scores_early=all(info.scores_early for info in infos),
        sleeps=any(info.sleeps for info in infos),
        solvers=_in_all([info.solvers for info in infos]),
        max_queued_images=min(
            filter(None, (info.max_queued_images for info in infos)), default=None
        ),
        decoders=_in_all([info.decoders for info in infos]),
        resolutions_px=_in_all([info.resolutions_px for info in infos]),
    )


def _in_all(lists: Sequence[tuple[T, ...]]) -> tuple[T, ...]:
    """What every one has, in the order of the first."""
    first, *others = lists
    return tuple(each for each in first if all(each in other for other in others))
