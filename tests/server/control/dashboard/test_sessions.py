"""Signing in, and what a session may see."""

from __future__ import annotations

from html import unescape
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING

import pytest

from heliostat_server.control.dashboard.pages import HEADERS
from heliostat_server.experiments import authority
from heliostat_server.store import sessions
from tests.server.control.dashboard.conftest import ADMIN_TOKEN, Browser, group

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from heliostat_server.store.experiments import ExperimentStore
    from heliostat_server.store.groups import RedisGroups

OPEN = [
    "/",
    "/overview",
    "/experiments/mine",
    "/experiments/mine/live",
    "/experiments/mine/numbers",
    "/experiments/mine/groups/1-1",
]
ACTIONS = [
    "/experiments/theirs/pause",
    "/experiments/theirs/terms",
    "/experiments/theirs/tokens",
    "/experiments/theirs/tokens/revoke",
    "/experiments/theirs/versions/1/pin",
    "/experiments/theirs/versions/1/unpin",
    "/experiments/theirs/versions/1/rollback",
    "/experiments/theirs/groups/1-1/pictures",
]


@pytest.mark.parametrize("path", OPEN)
def test_who_is_not_signed_in_is_asked_to(open_browser: Callable[..., Browser], path: str) -> None:
    browser = open_browser()
    answer = browser.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    part = browser.get(path, **{"hx-request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")


def test_a_wrong_token_is_told_what_the_api_tells(open_browser: Callable[..., Browser]) -> None:
    browser = open_browser()
    api = browser.get("/v1/experiments", authorization="Bearer wrong").json()["error"]
    for token in ("wrong", "", "Bearer", "<script>alert(1)</script>"):
        answer = browser.sign_in(token)
        assert answer.status_code == 401
        assert api in unescape(answer.text)
        assert "set-cookie" not in answer.headers
        assert "<script>alert" not in answer.text


def test_the_cookie_is_not_for_scripts_nor_other_sites(
    open_browser: Callable[..., Browser],
) -> None:
    def cookie(url: str) -> tuple[str, SimpleCookie]:
        header = (
            open_browser(url=url)
            .post("/login", origin=url, token=ADMIN_TOKEN)
            .headers["set-cookie"]
        )
        return header, SimpleCookie(header)

    header, plain = cookie("http://dashboard")
    (morsel,) = plain.values()
    assert morsel["httponly"]
    assert morsel["samesite"] == "strict"
    assert not morsel["secure"]
    assert ADMIN_TOKEN not in header
    (morsel,) = cookie("https://dashboard")[1].values()
    assert morsel["secure"]


def test_a_session_ends_with_its_token(
    open_browser: Callable[..., Browser],
    experiments: ExperimentStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authority, "REMEMBER_S", 0.0)
    browser = open_browser(experiments.issue_token("mine"))
    assert browser.get("/").status_code == 200
    experiments.revoke_tokens("mine")
    assert browser.get("/").status_code == 303


def test_a_session_ends_in_time_and_with_signing_out(
    open_browser: Callable[..., Browser], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, stolen = open_browser(ADMIN_TOKEN), open_browser()
    stolen.http.cookies.update(browser.http.cookies)
    assert browser.get("/").status_code == stolen.get("/").status_code == 200
    browser.post("/logout")
    assert browser.get("/").status_code == stolen.get("/").status_code == 303
    monkeypatch.setattr(sessions, "SESSION_S", 1)
    browser.sign_in(ADMIN_TOKEN)
    (key,) = client.keys("heliostat:session:*")
    assert 0 < client.pttl(key) <= 1000
    client.delete(key)
    assert browser.get("/").status_code == 303


def test_a_forged_session_is_none(
    open_browser: Callable[..., Browser], client: redis.Redis
) -> None:
    browser = open_browser(ADMIN_TOKEN)
    ((name, value),) = browser.http.cookies.items()
    (key,) = client.keys("heliostat:session:*")
    kept, owner = key.decode().rpartition(":")[2], client.get(key).decode()
    assert value not in {kept, owner}
    for forged in (kept, owner, value[:-1], "nonsense", "*", ""):
        browser.http.cookies.clear()
        browser.http.cookies.set(name, forged)
        assert browser.get("/").status_code == 303


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil", "http://dashboard.evil", "http://dashboard:81"]
)
def test_other_sites_can_do_nothing(
    admin: Browser, experiments: ExperimentStore, origin: str
) -> None:
    for path in ("/experiments/mine/pause", "/experiments/mine/tokens/revoke", "/login"):
        answer = admin.post(path, origin=origin, token=ADMIN_TOKEN)
        assert answer.status_code == 403
    assert not experiments.get("mine").share.paused


def test_an_experiment_sees_itself_alone(
    mine: Browser, groups: RedisGroups, experiments: ExperimentStore
) -> None:
    groups.add(group("theirs", prompt="their secret"))
    overview = mine.get("/").text
    assert 'href="/experiments/mine"' in overview
    assert "theirs" not in overview
    (secret,) = groups.latest("theirs", 1)
    foreign = [
        mine.get(f"/experiments/theirs{rest}")
        for rest in ("", "/live", f"/groups/{secret.id}", f"/groups/{secret.id}/pictures.webp")
    ] + [mine.post(path, weight="2") for path in ACTIONS]
    unknown = mine.get("/experiments/nobody")
    for answer in foreign:
        assert answer.status_code == unknown.status_code == 403
        assert "secret" not in answer.text
    assert not experiments.get("theirs").share.paused


def test_only_the_administrator_has_terms_and_tokens(mine: Browser, admin: Browser) -> None:
    assert "Issue a token" not in mine.get("/experiments/mine").text
    assert "Issue a token" in admin.get("/experiments/mine").text
    for path, fields in (
        ("/experiments", {"name": "more"}),
        ("/experiments/mine/terms", {"weight": "2"}),
        ("/experiments/mine/tokens", {}),
        ("/experiments/mine/tokens/revoke", {}),
    ):
        assert mine.post(path, **fields).status_code == 403


@pytest.mark.parametrize(
    "path", ["/login", "/", "/experiments/mine", "/experiments/nobody", "/static/style.css"]
)
def test_every_answer_locks_the_browser_down(admin: Browser, path: str) -> None:
    answer = admin.get(path)
    for name, value in HEADERS.items():
        if name != "Cache-Control" or not path.startswith("/static"):
            assert answer.headers[name] == value
    for unsafe in ("unsafe", "http:", "*"):
        assert unsafe not in answer.headers["Content-Security-Policy"]
    if path != "/static/style.css":
        for inline in ("<script>", " style=", " onclick=", "javascript:", "//cdn"):
            assert inline not in answer.text


def test_only_what_is_there_is_served(admin: Browser) -> None:
    assert admin.get("/static/htmx.min.js").headers["content-type"].startswith("text/javascript")
    for name in ("nothing.js", "..%2froutes.py", "%2e%2e"):
        assert admin.get(f"/static/{name}").status_code == 404
