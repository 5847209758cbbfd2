"""What the server remembers: every key in Redis, and what is under it.

All begin with `heliostat:`
    experiments               set of the names.
    experiment:<name>         hash: created, the terms that differ from the usual, tuned, latest, and
                              v<N> -> sha256 of the versions kept.
    experiment:<name>:pinned  set of the versions that are kept however many follow.
    experiment:<name>:tokens  set of the digests of its tokens.
    experiment:<name>:usage   hash: images, nfes, seconds.
    experiment:<name>:groups  stream of what was drawn (groups.py).
    experiment:<name>:steps   stream of what its trainer told of its steps (steps.py).
    token:<digest>            the experiment whose token it is.
    events                    stream of what was done, the last ten thousand; those of an experiment
                              outlive it.
    adapter:<sha256>          hash: config, bytes, chunks, and the tensors in chunks 0, 1, ...
                              Whole once `chunks` is there. Expires while staged, stays once
                              committed. With adapters_url the tensors are elsewhere, in the object
                              that `object` names, and `chunks` is 0.
    objects                   sorted set of names of objects by when one has to see whether they are
                              still needed (objects.py).
    adapter:<sha256>:users    set of <experiment>/<version> that need it.
    description:<family>      JSON: what the engine says of itself.

and, going by themselves,
    drawn:<n>                 hash of the n-th stretch of fifteen seconds since 1970, by Redis' own
                              clock: images:<name>, nfes:<name>, seconds:<name>.
    replicas                  set of the processes that draw.
    replica:<id>              JSON: experiment -> images that wait there.
    session:<digest>          of a browser's cookie: the digest of the token that signed in.
    sheet:<experiment>:<group>:<reward>   WebP: a group's best and worst by a reward.
    sheets                    sorted set of these keys by age: only so many are kept.
    redraw:<experiment>       lock of who has pictures drawn; no name: the administrator.

Names of experiments have no colon, so no key of one is another's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from heliostat_server.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

EXPERIMENTS = "heliostat:experiments"
EVENTS = "heliostat:events"
REPLICAS = "heliostat:replicas"
SHEETS = "heliostat:sheets"
OBJECTS = "heliostat:objects"

# Beginnings, for scripts that find out the rest in Redis.
ADAPTER = "heliostat:adapter:"
ADAPTER_USERS = ":users"
"""Follows an adapter's key."""
DRAWN = "heliostat:drawn:"
TOKEN = "heliostat:token:"  # noqa: S105


@dataclass(frozen=True)
class ExperimentKeys:
    """The keys of one experiment."""

    name: str

    @property
    def record(self) -> str:
        """It is there for as long as the experiment is."""
        return f"heliostat:experiment:{self.name}"

    @property
    def tokens(self) -> str:
        """Digests of its tokens."""
        return f"{self.record}:tokens"

    @property
    def pinned(self) -> str:
        """Its pinned versions."""
        return f"{self.record}:pinned"

    @property
    def usage(self) -> str:
        """What it has used."""
        return f"{self.record}:usage"

    @property
    def groups(self) -> str:
        """What was drawn for it."""
        return f"{self.record}:groups"

    @property
    def steps(self) -> str:
        """The steps that were told of."""
        return f"{self.record}:steps"

    @property
    def others(self) -> list[str]:
        """Its keys besides the record and the tokens, which a script has to name, in any order."""
        return [self.pinned, self.usage, self.groups, self.steps]


def token_key(digest: str) -> str:
    """Whose token has this digest."""
    return TOKEN + digest


def adapter_keys(sha256: str) -> list[str]:
    """An adapter's files, and who needs them."""
    return [ADAPTER + sha256, ADAPTER + sha256 + ADAPTER_USERS]


def description_key(family: str) -> str:
    """What the engine of a family says of itself."""
    return f"heliostat:description:{family}"


def drawn_key(stretch: int) -> str:
    """What was drawn in a stretch of time."""
    return f"{DRAWN}{stretch}"


def replica_key(replica: str) -> str:
    """What waits in a process that draws."""
    return f"heliostat:replica:{replica}"


def session_key(digest: str) -> str:
    """Who is signed in with the cookie of this digest."""
    return f"heliostat:session:{digest}"


def sheet_key(experiment: str, group_id: str, reward: str) -> str:
    """The pictures of a group's best and worst by a reward."""
    return f"heliostat:sheet:{experiment}:{group_id}:{reward}"


def redraw_key(experiment: str | None) -> str:
    """Lock of an experiment that has pictures drawn; None: of the administrator."""
    return f"heliostat:redraw:{experiment or ''}"


def check_experiment(name: str) -> None:
    """Refuse names that would not fit a key, a path or a log line. Raises RequestError."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:100]!r} is no experiment name: use up to 100 letters, digits, '.', '_' or "
            "'-', the first a letter or digit"
        )
