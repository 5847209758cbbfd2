from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.connection import AbstractConnection

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import ExistsError, NotFoundError, RequestError, UnavailableError
from heliostat_server.experiments.terms import Share
from heliostat_server.experiments.tokens import digest
from heliostat_server.store.experiments import EVENTS_PAGE, MAX_TOKENS, ExperimentStore
from heliostat_server.store.keys import ExperimentKeys
from heliostat_server.store.shares import StoredShares

if TYPE_CHECKING:
    from heliostat_server.launcher.embedded_store import EmbeddedValkey
    from heliostat_server.store.adapters import AdapterStore


@pytest.fixture
def experiments(store: AdapterStore) -> ExperimentStore:
    """Beside the adapter store; it has a, b and e."""
    return ExperimentStore(store._redis)


def publish(store: AdapterStore, name: str, *texts: str) -> None:
    for text in texts:
        store.commit(name, store.stage(AdapterFiles(b"{}", text.encode())))


def test_an_experiment_is_made_once(experiments: ExperimentStore) -> None:
    experiments.create("new")
    assert experiments.get("new").share == Share()
    with pytest.raises(ExistsError, match="there is an experiment 'new' already"):
        experiments.create("new")
    with pytest.raises(RequestError, match="no experiment name"):
        experiments.create("a b")
    assert [each.name for each in experiments.all()] == ["a", "b", "e", "new"]


def test_terms_change_and_the_scheduler_reads_them(experiments: ExperimentStore) -> None:
    experiments.change("a", {"weight": 2.5, "priority": -1, "paused": True})
    expected = Share(weight=2.5, priority=-1, paused=True)
    assert experiments.get("a").share == expected
    assert StoredShares(experiments._redis).get("a") == expected
    with pytest.raises(NotFoundError, match="there is no experiment 'x'"):
        experiments.change("x", {"weight": 1})
    assert not experiments.exists("x")


def test_a_token_is_looked_up_by_its_digest_alone(experiments: ExperimentStore) -> None:
    tokens = [experiments.issue_token("a"), experiments.issue_token("a")]
    other = experiments.issue_token("b")
    assert [experiments.owner_of(digest(token)) for token in [*tokens, other]] == ["a", "a", "b"]
    everything = b"".join(
        key + repr(dump).encode()
        for key in experiments._redis.keys("*")
        if (dump := experiments._redis.dump(key))
    )
    assert not any(token.encode() in everything for token in tokens)
    assert experiments.revoke_tokens("a") == 2
    assert [experiments.owner_of(digest(token)) for token in [*tokens, other]] == [None, None, "b"]


def test_tokens_are_bounded_and_of_experiments_that_are_there(experiments: ExperimentStore) -> None:
    for _ in range(MAX_TOKENS):
        experiments.issue_token("a")
    with pytest.raises(ExistsError, match="heliostat experiment revoke a"):
        experiments.issue_token("a")
    for ask in (experiments.issue_token, experiments.revoke_tokens, experiments.get):
        with pytest.raises(NotFoundError):
            ask("x")


def test_a_deleted_experiment_leaves_nothing_but_others_adapters(
    experiments: ExperimentStore, store: AdapterStore
) -> None:
    publish(store, "a", "own", "shared")
    publish(store, "b", "shared")
    token = experiments.issue_token("a")
    store.pin("a", 1)
    experiments.delete("a")
    assert experiments._redis.keys("heliostat:experiment:a*") == []
    assert experiments.owner_of(digest(token)) is None
    ttl = {
        text: experiments._redis.ttl(
            f"heliostat:adapter:{AdapterFiles(b'{}', text.encode()).sha256}"
        )
        for text in ("own", "shared")
    }
    assert ttl["own"] > 0
    assert ttl["shared"] == -1
    with pytest.raises(NotFoundError):
        experiments.delete("a")
    experiments.create("a")
    assert experiments.get("a").latest_version == 0


def test_every_key_of_a_deleted_experiment_goes_and_its_events_stay(
    experiments: ExperimentStore, store: AdapterStore
) -> None:
    of = ExperimentKeys("a")
    names = [name for name, each in vars(ExperimentKeys).items() if isinstance(each, property)]
    keys = {getattr(of, name) for name in names if name != "others"}
    assert keys == {of.record, of.tokens, *of.others}
    publish(store, "a", "x")
    store.pin("a", 1)
    experiments.issue_token("a")
    experiments._redis.hset(of.usage, "images", 1)
    experiments._redis.xadd(of.groups, {"prompt": "a fox"})
    experiments._redis.xadd(of.steps, {"version": 1})
    assert experiments._redis.exists(*keys) == len(keys)
    experiments.delete("a")
    assert experiments._redis.exists(*keys) == 0
    assert [event.what for event in experiments.events("a")][:2] == ["deleted", "token issued"]


def test_versions_and_usage_are_told(experiments: ExperimentStore, store: AdapterStore) -> None:
    publish(store, "a", "x", "yy")
    store.pin("a", 1)
    experiments._redis.hset("heliostat:experiment:a:usage", mapping={"images": 24, "seconds": 1.5})
    known = experiments.get("a")
    assert [(each.version, each.pinned, each.bytes) for each in known.versions] == [
        (1, True, 1),
        (2, False, 2),
    ]
    assert (known.usage.images, known.usage.nfes, known.usage.seconds) == (24, 0, 1.5)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time that Redis is asked, and its answer waited for."""
    asked: list[None] = []
    send = AbstractConnection.send_packed_command

    def counted(self: AbstractConnection, *arguments: Any, **more: Any) -> None:
        asked.append(None)
        send(self, *arguments, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    return asked


def test_a_list_takes_no_more_questions_of_many_than_of_few(
    experiments: ExperimentStore, store: AdapterStore, questions: list[None]
) -> None:
    for number in range(20):
        experiments.create(f"m{number}")
        publish(store, f"m{number}", str(number), "same")
    questions.clear()
    known = experiments.all()
    assert len(questions) <= 4
    assert len(known) == 23
    assert [len(each.versions) for each in known] == [0, 0, 0] + [2] * 20


def test_events_are_newest_first_and_ones_own(experiments: ExperimentStore) -> None:
    experiments.change("a", {"weight": 2.0})
    experiments.issue_token("b")
    assert [event.what for event in experiments.events("a")] == ["changed", "created"]
    latest = experiments.events(count=1)
    assert [(event.experiment, event.what) for event in latest] == [("b", "token issued")]
    assert experiments.events("a")[0].detail == "weight = 2.0"


def test_events_of_one_are_found_among_those_of_many(experiments: ExperimentStore) -> None:
    for number in range(2 * EVENTS_PAGE):
        experiments.note("b", "changed", str(number))
        if number % EVENTS_PAGE == 0:
            experiments.note("a", "changed", str(number))
    assert [event.detail for event in experiments.events("a")] == [str(EVENTS_PAGE), "0", ""]
    assert [event.detail for event in experiments.events("a", 2)] == [str(EVENTS_PAGE), "0"]
    assert experiments.events("nobody") == []


def test_while_redis_is_away_it_says_so(valkey: EmbeddedValkey) -> None:
    store = ExperimentStore.connect(f"{valkey.url}-nowhere")
    with pytest.raises(UnavailableError, match="the server's store does not answer"):
        store.get("a")
