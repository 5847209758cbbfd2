"""The best and worst candidates, drawn again."""

from __future__ import annotations

import io
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from heliostat_server.control.dashboard.pictures import Extremes, _filled, contact_sheet
from heliostat_server.errors import NotFoundError
from heliostat_server.store import sheets
from tests.server.control.dashboard.conftest import BATCH, Browser, Painter, group

if TYPE_CHECKING:
    import redis

    from heliostat_server.store.groups import RedisGroups


@pytest.fixture
def path(groups: RedisGroups) -> str:
    """Of a kept group."""
    groups.add(group(guidance=3.0))
    return f"/experiments/mine/groups/{groups.latest('mine', 1)[0].id}"


def test_draws_the_best_and_worst_seeds_and_keeps_the_sheet(
    mine: Browser, painter: Painter, path: str
) -> None:
    assert mine.get(f"{path}/pictures.webp").status_code == 404
    assert "Draw best and worst" in mine.get(path).text
    page = mine.post(f"{path}/pictures", fetched=True)
    assert page.status_code == 200
    assert page.text.startswith("<article")
    ((rollout, seeds),) = painter.asked
    assert (rollout.experiment, rollout.version, rollout.prompt) == ("mine", 0, "an owl")
    assert (rollout.steps, rollout.guidance, list(rollout.rewards)) == (5, 3.0, [])
    assert not rollout.score_after
    assert not rollout.solver
    assert seeds == [20, 60, 70, 40, 30, 50, 10, 80]
    sheet = mine.get(f"{path}/pictures.webp")
    assert sheet.headers["content-type"] == "image/webp"
    pixels = np.asarray(Image.open(io.BytesIO(sheet.content)))
    assert pixels.shape == (32, 64, 3)
    greys = pixels[8::16, 8::16, 0].reshape(-1)
    assert np.abs(greys.astype(int) - seeds).max() <= 3  # WebP is lossy.
    mine.post(f"{path}/pictures")
    assert len(painter.asked) == 1
    assert "pictures.webp" in mine.get("/experiments/mine").text


def test_what_was_scored_early_is_drawn_as_it_was_scored(
    mine: Browser, groups: RedisGroups, painter: Painter
) -> None:
    groups.add(group(score_after=3, solver="dpm2m", decoder="tiny"))
    path = f"/experiments/mine/groups/{groups.latest('mine', 1)[0].id}"
    assert "scored after 3 of 5 dpm2m steps · tiny decoder" in mine.get(path).text
    mine.post(f"{path}/pictures")
    ((rollout, _),) = painter.asked
    assert (rollout.steps, rollout.score_after, rollout.solver) == (5, 3, "dpm2m")


def test_pictures_have_their_rewards(mine: Browser, path: str) -> None:
    page = mine.post(f"{path}/pictures").text
    assert page.index("0.800") < page.index("0.700") < page.index("seed 30")
    assert 'viewBox="3 1 1 1"' in page


def test_pictures_keep_the_shape_of_what_is_no_square(
    mine: Browser, groups: RedisGroups, painter: Painter
) -> None:
    groups.add(group(resolution_px=(832, 1216)))
    path = f"/experiments/mine/groups/{groups.latest('mine', 1)[0].id}"
    page = mine.post(f"{path}/pictures").text
    ((rollout, _),) = painter.asked
    assert (rollout.width_px, rollout.height_px) == (832, 1216)
    assert 'viewBox="3 1.46154 1 1.46154"' in page
    assert 'width="4" height="2.92308" preserveAspectRatio="none"' in page


def test_several_rewards_rank_the_group_each_by_itself(
    mine: Browser, groups: RedisGroups, painter: Painter
) -> None:
    values = np.arange(8, dtype=np.float32)
    groups.add(group(names=("judge", "colour"), rewards=np.stack([values, -values], axis=1)))
    path = f"/experiments/mine/groups/{groups.latest('mine', 1)[0].id}"
    gallery = mine.get("/experiments/mine?reward=colour").text
    assert '<option value="colour" selected>' in gallery
    assert f'action="{path}/pictures?reward=colour"' in gallery
    assert mine.post(f"{path}/pictures?reward=colour").status_code == 200
    assert painter.asked[0][1] == [10, 20, 30, 40, 80, 70, 60, 50]
    assert "pictures.webp?reward=colour" in mine.get("/experiments/mine?reward=colour").text
    assert "pictures.webp" not in mine.get("/experiments/mine").text
    mine.post(f"{path}/pictures")
    assert painter.asked[1][1] == [80, 70, 60, 50, 10, 20, 30, 40]
    assert mine.get(f"{path}/pictures.webp?reward=nothing").status_code == 200


def test_what_cannot_be_drawn_is_said_on_the_card(
    mine: Browser, painter: Painter, path: str
) -> None:
    painter.error = NotFoundError("version 3 is <no> longer kept")
    answer = mine.post(f"{path}/pictures", fetched=True)
    assert answer.status_code == 404
    assert answer.text.startswith("<article")
    assert "version 3 is &lt;no&gt; longer kept" in answer.text
    painter.error = None
    assert mine.post(f"{path}/pictures").status_code == 200


def test_a_version_that_is_gone_has_no_button(mine: Browser, groups: RedisGroups) -> None:
    groups.add(group(version=3))
    page = mine.get("/experiments/mine").text
    assert "Version 3 is no longer kept" in page
    assert "Draw best and worst" not in page


def test_one_at_a_time_for_each_caller(
    mine: Browser, admin: Browser, painter: Painter, path: str
) -> None:
    entered, leave = Event(), Event()

    def hold() -> None:
        entered.set()
        leave.wait(10)

    painter.before = hold
    first = Thread(target=mine.post, args=(f"{path}/pictures",))
    first.start()
    assert entered.wait(10)
    painter.before = lambda: None
    refused = mine.post(f"{path}/pictures", fetched=True)
    assert refused.status_code == 429
    assert "being drawn already" in refused.text
    assert admin.post(f"{path}/pictures").status_code == 200
    leave.set()
    first.join(10)
    assert mine.post(f"{path}/pictures").status_code == 200


def test_only_so_many_sheets_are_kept(
    mine: Browser, groups: RedisGroups, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "MAX_SHEETS", 2)
    for _ in range(4):
        groups.add(group())
    newest_first = [kept.id for kept in groups.latest("mine", 4)]
    for group_id in newest_first:
        mine.post(f"/experiments/mine/groups/{group_id}/pictures")
    kept = {key.decode().split(":")[3] for key in client.keys("heliostat:sheet:*")}
    assert kept == set(newest_first[2:])
    assert client.zcard("heliostat:sheets") == 2
    assert 0 < client.ttl(f"heliostat:sheet:mine:{newest_first[3]}:judge") <= sheets.SHEET_TTL_S


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_extremes_fill_whole_batches_of_different_seeds(
    candidates: int, batch: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.integers(0, 5), min_size=candidates, max_size=candidates))
    seeds = tuple(range(100, 100 + candidates))
    rewards = np.array(values, np.float32)[:, None]
    extremes = Extremes.of(group(seeds=seeds, rewards=rewards))
    places = extremes.best + extremes.worst
    assert len(set(places)) == len(places)
    assert rewards[extremes.best[0]] == rewards.max()
    if extremes.worst:
        assert rewards[extremes.worst[0]] == rewards.min()
    shown = [seeds[place] for place in places]
    filled = _filled(shown, seeds, batch)
    assert filled[: len(shown)] == shown
    assert len(set(filled)) == len(filled)
    assert len(filled) % batch == 0
    assert len(filled) - len(shown) < batch


def test_a_sheet_is_small_however_large_the_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 600, 1000, 3), dtype=np.uint8)
    sheet = contact_sheet(noise, columns=4)
    assert Image.open(io.BytesIO(sheet)).size == (4 * 192, 2 * 115)
    assert len(sheet) < 160_000


def test_the_batch_is_the_servers(mine: Browser, painter: Painter, groups: RedisGroups) -> None:
    groups.add(group(seeds=(1, 2), rewards=np.array([[0.0], [1.0]], np.float32)))
    mine.post(f"/experiments/mine/groups/{groups.latest('mine', 1)[0].id}/pictures")
    ((_, seeds),) = painter.asked
    assert seeds[:2] == [2, 1]
    assert len(set(seeds)) == BATCH
