"""Names of experiments, and where Redis keeps what is known of them."""

from __future__ import annotations

import re

from heliostat_server.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def experiment_key(name: str) -> str:
    """Key of an experiment's hash in Redis; what belongs to it begins with it."""
    return f"heliostat:experiment:{name}"


def check_experiment(name: str) -> None:
    """Refuse names that would not fit a key, a path or a log line. Raises RequestError."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:100]!r} is no experiment name: use up to 100 letters, digits, '.', '_' or "
            "'-', the first a letter or digit"
        )
