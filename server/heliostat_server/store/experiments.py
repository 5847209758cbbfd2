"""Experiments in Redis: records, tokens, events."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from heliostat_server.errors import ExistsError, NotFoundError, StoreFullError
from heliostat_server.experiments.terms import Event, Experiment, Share, Usage, Version
from heliostat_server.experiments.tokens import digest, new_token
from heliostat_server.store.adapters import DROP_VERSION, DROPPING
from heliostat_server.store.keys import (
    EVENTS,
    EXPERIMENTS,
    TOKEN,
    ExperimentKeys,
    adapter_keys,
    check_experiment,
    token_key,
)
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    import redis

MAX_EVENTS = 10_000
MAX_TOKENS = 64
"""Of one experiment: each run that opens it takes one."""
MAX_TUNED_CHARS = 1000
"""Of what a run has decided: more is cut off."""

_CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'created', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2])
return 1
"""

_CHANGE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""

_ISSUE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[3]) then return -1 end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2])
return 1
"""

_VOID_TOKENS = """
local function void_tokens(tokens, token)
  local digests = redis.call('SMEMBERS', tokens)
  for _, digest in ipairs(digests) do redis.call('DEL', token .. digest) end
  redis.call('DEL', tokens)
  return #digests
end
"""
"""Of scripts: forgets whose an experiment's tokens are; gives how many there were."""

_REVOKE = f"""
{_VOID_TOKENS}
local experiment, tokens, token = KEYS[1], KEYS[2], ARGV[1]
if redis.call('EXISTS', experiment) == 0 then return -1 end
return void_tokens(tokens, token)
"""

_DELETE = f"""
{DROP_VERSION}
{_VOID_TOKENS}
local names, experiment, tokens = KEYS[1], KEYS[2], KEYS[3]  -- and others, from the fourth on
local name, token, adapter, users, ttl = unpack(ARGV)
if redis.call('EXISTS', experiment) == 0 then return 0 end
void_tokens(tokens, token)
for _, field in ipairs(redis.call('HKEYS', experiment)) do
  local version = string.match(field, '^v(%d+)$')
  if version then drop_version(experiment, name, version, adapter, users, ttl) end
end
redis.call('DEL', experiment, unpack(KEYS, 4))
redis.call('SREM', names, name)
return 1
"""


class ExperimentStore:
    """Records, tokens and events of experiments. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._create = client.register_script(_CREATE)
        self._change = client.register_script(_CHANGE)
        self._issue = client.register_script(_ISSUE)
        self._revoke = client.register_script(_REVOKE)
        self._delete = client.register_script(_DELETE)

    @classmethod
    def connect(cls, url: str) -> Self:
        """The one at a redis:// or unix:// URL."""
        return cls(connect(url))

    def create(self, name: str) -> None:
        """Make an experiment of the usual terms.

        Raises:
            RequestError: it is no name.
            ExistsError: there is one of that name.
        """
        check_experiment(name)
        keys = [ExperimentKeys(name).record, EXPERIMENTS]
        arguments = [datetime.now(UTC).isoformat(), name]
        if not answered(lambda: self._create(keys=keys, args=arguments)):
            raise ExistsError(f"there is an experiment {name!r} already: choose another name")
        self.note(name, "created")

    def exists(self, name: str) -> bool:
        """Whether there is one of that name."""
        return bool(answered(lambda: self._redis.exists(ExperimentKeys(name).record)))

    def get(self, name: str) -> Experiment:
        """All that is known of an experiment. Raises NotFoundError."""
        found = self._read([name])
        if not found:
            raise _unknown(name)
        return found[0]

    def share(self, name: str) -> Share:
        """An experiment's terms; the usual ones if there is none of that name."""
        share: Share = answered(lambda: read_share(self._redis, name))
        return share

    def all(self) -> list[Experiment]:
        """All experiments, by name."""
        return self._read(self.names())

    def names(self) -> list[str]:
        """Of all experiments, in order."""
        names = answered(lambda: self._redis.smembers(EXPERIMENTS))
        return sorted(name.decode() for name in names)

    def some(self, names: Sequence[str]) -> list[Experiment]:
        """Those of these names that there are, in their order."""
        return self._read(names)

    def change(self, name: str, terms: Mapping[str, Any]) -> None:
        """Set some terms. Raises NotFoundError."""
        fields = [text for key, value in terms.items() for text in (key, _stored(value))]
        keys = [ExperimentKeys(name).record]
        self._require(name, answered(lambda: self._change(keys=keys, args=fields)))
        self.note(name, "changed", ", ".join(f"{key} = {value}" for key, value in terms.items()))

    def tuned(self, name: str, sentence: str) -> None:
        """Keep what an experiment's run has decided last, unless the store has no room for it."""
        key, kept = ExperimentKeys(name).record, sentence[:MAX_TUNED_CHARS]
        if (answered(lambda: self._redis.hget(key, "tuned")) or b"").decode() == kept:
            return
        with suppress(StoreFullError):
            is_there = answered(lambda: self._change(keys=[key], args=["tuned", kept]))
            if is_there and kept:
                self.note(name, "tuned", kept)

    def delete(self, name: str) -> None:
        """Forget an experiment: its terms, tokens, versions, pins, usage and list of groups.

        Its events stay, and so does for a while what goes by itself (`keys`): pictures of its groups,
        say, which nothing leads to any more.

        Raises:
            NotFoundError: there is none of that name.
        """
        of = ExperimentKeys(name)
        keys = [EXPERIMENTS, of.record, of.tokens, *of.others]
        arguments = [name, TOKEN, *DROPPING]
        self._require(name, answered(lambda: self._delete(keys=keys, args=arguments)))
        self.note(name, "deleted")

    def issue_token(self, name: str) -> str:
        """A new token of an experiment, beside those it has.

        Raises:
            NotFoundError: there is no such experiment.
            ExistsError: it has too many.
        """
        token, of = new_token(), ExperimentKeys(name)
        keys = [of.record, of.tokens, token_key(digest(token))]
        arguments: list[str | int] = [digest(token), name, MAX_TOKENS]
        done = answered(lambda: self._issue(keys=keys, args=arguments))
        if done < 0:
            raise ExistsError(
                f"experiment {name!r} has {MAX_TOKENS} tokens already: revoke them with `heliostat "
                f"experiment revoke {name}`"
            )
        self._require(name, done)
        self.note(name, "token issued")
        return token

    def revoke_tokens(self, name: str) -> int:
        """Make all tokens of an experiment void; answers how many. Raises NotFoundError."""
        of = ExperimentKeys(name)
        revoked = answered(lambda: self._revoke(keys=[of.record, of.tokens], args=[TOKEN]))
        self._require(name, revoked >= 0)
        self.note(name, "tokens revoked", str(revoked))
        return int(revoked)

    def owner_of(self, token_digest: str) -> str | None:
        """The experiment whose token has this digest."""
        owner = answered(lambda: self._redis.get(token_key(token_digest)))
        return None if owner is None else owner.decode()

    def note(self, name: str, what: str, detail: str = "") -> None:
        """Add to the events, unless the store has no room for more: what was done stays done."""
        fields: dict[Any, Any] = {"experiment": name, "what": what, "detail": detail}
        with suppress(StoreFullError):
            answered(lambda: self._redis.xadd(EVENTS, fields, maxlen=MAX_EVENTS, approximate=True))

    def events(self, name: str | None = None, count: int = 100) -> list[Event]:
        """The latest events, of one experiment or of all, newest first."""
        rows = answered(lambda: self._redis.xrevrange(EVENTS, count=MAX_EVENTS if name else count))
        events = [_event(key, fields) for key, fields in rows]
        return [event for event in events if name in {None, event.experiment}][:count]

    def _read(self, names: Sequence[str]) -> list[Experiment]:
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            keys = ExperimentKeys(name)
            pipeline.hgetall(keys.record)
            pipeline.hgetall(keys.usage)
            pipeline.smembers(keys.pinned)
        rows = answered(pipeline.execute)
        return [
            self._experiment(name, *rows[3 * place : 3 * place + 3])
            for place, name in enumerate(names)
            if rows[3 * place]
        ]

    def _experiment(
        self, name: str, record: dict[bytes, bytes], usage: dict[bytes, bytes], pinned: set[bytes]
    ) -> Experiment:
        fields = {key.decode(): value.decode() for key, value in record.items()}
        kept = {int(key[1:]): sha for key, sha in fields.items() if key[1:].isdigit()}
        pipeline = self._redis.pipeline(transaction=False)
        for sha in kept.values():
            pipeline.hget(adapter_keys(sha)[0], "bytes")
        sizes = answered(pipeline.execute)
        return Experiment(
            name=name,
            created=datetime.fromisoformat(fields["created"]),
            share=Share.model_validate({k: fields[k] for k in Share.model_fields if k in fields}),
            latest_version=int(fields.get("latest", 0)),
            versions=tuple(
                Version(
                    version=version,
                    sha256=sha,
                    pinned=str(version).encode() in pinned,
                    bytes=int(size or 0),
                )
                for (version, sha), size in sorted(zip(kept.items(), sizes, strict=True))
            ),
            usage=Usage.model_validate({k.decode(): v.decode() for k, v in usage.items()}),
            tuned=fields.get("tuned", ""),
        )

    @staticmethod
    def _require(name: str, done: object) -> None:
        if not done:
            raise _unknown(name)


def read_share(client: redis.Redis, name: str) -> Share:
    """The terms in an experiment's hash; what is not there is as usual. Raises redis.RedisError."""
    names = list(Share.model_fields)
    values = cast("list[bytes | None]", client.hmget(ExperimentKeys(name).record, names))
    known = [(key, value) for key, value in zip(names, values, strict=True) if value is not None]
    return Share.model_validate({key: value.decode() for key, value in known})


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"there is no experiment {name[:100]!r}: create it first")


def _stored(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _event(key: bytes, fields: dict[bytes, bytes]) -> Event:
    milliseconds = int(key.split(b"-")[0])
    return Event(
        id=key.decode(),
        at=datetime.fromtimestamp(milliseconds / 1000, UTC),
        **cast("dict[str, Any]", {name.decode(): text.decode() for name, text in fields.items()}),
    )
