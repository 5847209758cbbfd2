"""Who sent a request to a model: Triton hands on the header `authorization` as a parameter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.tokens import digest
from heliostat_server.store.experiments import ExperimentStore

if TYPE_CHECKING:
    from heliostat_server.experiments.authority import Caller
    from heliostat_server.settings import ModelSettings


class Guard:
    """Lets nobody ask a model without a token."""

    def __init__(self, settings: ModelSettings) -> None:
        self._authority = Authority(
            ExperimentStore.connect(settings.redis),
            (settings.admin_digest, digest(settings.internal_token)),
        )

    def caller(self, request: Any) -> Caller:
        """Who sent it. Raises TokenError, UnavailableError."""
        return self._authority.caller(json.loads(request.parameters()).get("authorization"))
