"""All that the control plane reads and writes in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_server.store.activity import ActivityStore
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.groups import RedisGroups
from heliostat_server.store.redis import connect
from heliostat_server.store.sessions import Sessions
from heliostat_server.store.sheets import Sheets
from heliostat_server.store.steps import RedisSteps

if TYPE_CHECKING:
    from typing import Self

    import redis

    from heliostat_server.experiments.authority import Authority


@dataclass(frozen=True)
class Stores:
    """The stores of one Redis. They share a client, but for adapters, which it takes longer over."""

    adapters: AdapterStore
    experiments: ExperimentStore
    groups: RedisGroups
    steps: RedisSteps
    activity: ActivityStore
    sheets: Sheets
    _client: redis.Redis

    @classmethod
    def connect(cls, url: str, *, keep_versions: int, adapters_url: str | None = None) -> Self:
        """Those at a redis:// or unix:// URL; the rest as `AdapterStore` has it."""
        client = connect(url)
        return cls(
            AdapterStore.connect(url, keep_versions=keep_versions, adapters_url=adapters_url),
            ExperimentStore(client),
            RedisGroups(client),
            RedisSteps(client),
            ActivityStore(client),
            Sheets(client),
            client,
        )

    def sessions(self, authority: Authority) -> Sessions:
        """Who is signed in; `authority` tells whose tokens are valid."""
        return Sessions(self._client, authority)
