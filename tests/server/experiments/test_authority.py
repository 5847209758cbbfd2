from __future__ import annotations

import pytest

from heliostat_server.errors import ForbiddenError, TokenError, UnavailableError
from heliostat_server.experiments.authority import ADMIN, REMEMBER_S, Authority, Caller
from heliostat_server.experiments.tokens import digest, new_token


class Owners:
    """Digests of tokens and whose they are; `away` when it cannot be asked."""

    def __init__(self, **tokens: str) -> None:
        self.owners = {digest(token): owner for owner, token in tokens.items()}
        self.away = False
        self.asked = 0

    def owner_of(self, token_digest: str) -> str | None:
        self.asked += 1
        if self.away:
            raise UnavailableError("the server's store does not answer")
        return self.owners.get(token_digest)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_its_owners_and_the_admins_is_the_admins() -> None:
    authority = Authority(Owners(e="of-e"), (digest("root"), digest("internal")))
    assert authority.caller("Bearer of-e") == Caller("e")
    assert authority.caller("bearer  root ") == authority.caller("Bearer internal") == ADMIN


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (None, "no token"),
        ("", "no token"),
        ("of-e", "must read `Bearer TOKEN`"),
        ("Basic of-e", "must read `Bearer TOKEN`"),
        ("Bearer guess", "not valid here"),
        ("Bearer ", "not valid here"),
        (f"Bearer {digest('of-e')}", "not valid here"),
    ],
)
def test_others_are_refused(header: str | None, sentence: str) -> None:
    with pytest.raises(TokenError, match=sentence):
        Authority(Owners(e="of-e"), (digest("root"),)).caller(header)


def test_no_admin_digest_lets_nobody_in() -> None:
    with pytest.raises(TokenError):
        Authority(Owners(), ("",)).caller("Bearer ")


def test_answers_are_remembered_for_seconds_and_revoked_then() -> None:
    owners, clock = Owners(e="of-e"), Clock()
    authority = Authority(owners, (), clock=clock)
    for _ in range(3):
        authority.caller("Bearer of-e")
    assert owners.asked == 1
    owners.owners.clear()
    assert authority.caller("Bearer of-e") == Caller("e")
    clock.now += REMEMBER_S
    for _ in range(2):
        with pytest.raises(TokenError):
            authority.caller("Bearer of-e")


def test_known_callers_go_on_while_redis_is_away_and_unknown_ones_wait() -> None:
    owners, clock = Owners(e="of-e"), Clock()
    authority = Authority(owners, (digest("root"),), clock=clock)
    authority.caller("Bearer of-e")
    owners.away = True
    clock.now += 10 * REMEMBER_S
    assert authority.caller("Bearer of-e") == Caller("e")
    assert authority.caller("Bearer root") == ADMIN
    with pytest.raises(UnavailableError):
        authority.caller("Bearer other")


def test_an_experiment_owns_itself_alone() -> None:
    Caller("e").check_owns("e")
    ADMIN.check_owns("e")
    ADMIN.check_admin()
    with pytest.raises(ForbiddenError, match="not one of experiment 'f'"):
        Caller("e").check_owns("f")
    with pytest.raises(ForbiddenError, match="administrator"):
        Caller("e").check_admin()


def test_tokens_differ() -> None:
    assert len({new_token() for _ in range(100)}) == 100
