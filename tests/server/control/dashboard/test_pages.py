"""What pages show and do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from typing import TYPE_CHECKING

import numpy as np
import pytest

from heliostat_server.control.dashboard.curves import GLANCED_GROUPS, Curves
from heliostat_server.control.dashboard.views import PAGE_ROWS
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.stations import Spent, Station
from heliostat_server.store.steps import PublishedStep, RedisSteps
from heliostat_server.store.usage import RedisUsage
from heliostat_wire.steps import Decision, Shape
from tests.server.checkpoints import random_adapter
from tests.server.control.dashboard.conftest import Browser, Engine, group
from tests.wire.test_steps import REPORT

if TYPE_CHECKING:
    import redis

    from heliostat_server.store.groups import RedisGroups

HOSTILE = "</h3><script>alert('prompt')</script><img src=x onerror=alert(1)>\"'"


def test_an_empty_server_says_what_to_do(admin: Browser, experiments: ExperimentStore) -> None:
    for name in ("mine", "theirs"):
        experiments.delete(name)
    assert "heliostat train examples/demo.toml" in admin.get("/").text
    experiments.create("mine")
    page = admin.get("/experiments/mine").text
    for sentence in (
        "Nothing is explored yet",
        "There are no groups yet",
        "Nothing is published yet",
    ):
        assert sentence in page


def test_the_overview_tells_of_server_and_shares(
    admin: Browser, client: redis.Redis, groups: RedisGroups
) -> None:
    usage = RedisUsage(client)
    usage.count("mine", images=24, nfes=300, seconds=2.0)
    usage.count("theirs", images=24, nfes=100, seconds=1.0)
    usage.queued({"mine": 1200})
    groups.add(group())
    page = admin.get("/").text
    for shown in ("75 %", "25 %", "1,200", "45 of 60 linears", "judge, colour", "no groups yet"):
        assert shown in page
    assert 'aria-label="judge of mine"' in page


def test_many_experiments_come_in_pages(admin: Browser, experiments: ExperimentStore) -> None:
    assert "Pages of experiments" not in admin.get("/").text
    for number in range(PAGE_ROWS + 1):
        experiments.create(f"many-{number:03}")
    first, second = admin.get("/").text, admin.get("/?page=2").text
    assert "page 1 of 2, 53 experiments" in first
    assert first.count('id="to-m') == PAGE_ROWS
    assert 'href="/?page=2"' in first
    assert 'hx-get="/overview?page=2"' in second
    assert 'id="to-theirs"' in second
    assert "page 2 of 2" in admin.get("/overview?page=9").text


def test_a_page_of_experiments_reads_few_groups_and_all_that_are_new(
    client: redis.Redis, groups: RedisGroups, experiments: ExperimentStore
) -> None:
    for name in ("mine", "theirs"):
        for version in range(8):
            groups.add(group(name, version=version))
    curves, read = Curves(groups), []
    news = groups.news
    groups.news = lambda since, count: read.append(answer := news(since, count)) or answer  # type: ignore[method-assign]
    known = experiments.all()
    first = curves.glances(known)
    assert first == [curves.of(each) for each in known]
    groups.add(group("theirs", version=99))
    assert [each[-1].version for each in curves.glances(known)] == [7, 99]
    assert [[len(kept) for kept in answer] for answer in read] == [[8, 8], [0, 1]]
    crowd = [known[0].model_copy(update={"name": f"n{place}"}) for place in range(GLANCED_GROUPS)]
    assert curves.glances([known[0].model_copy(update={"created": datetime.now(UTC)}), *crowd])[
        0
    ] == [first[0][-1]]


def test_what_the_run_decided_last_is_shown_as_text(
    mine: Browser, experiments: ExperimentStore
) -> None:
    assert "What the run decided last" not in mine.get("/experiments/mine").text
    experiments.tuned("mine", f"from step 5 on: {HOSTILE}")
    for path in ("/experiments/mine", "/experiments/mine/live"):
        page = mine.get(path).text
        assert "What the run decided last" in page
        assert f"from step 5 on: {HOSTILE}" in unescape(page)
        assert "<script>alert" not in page
    experiments.tuned("nobody", "from step 5 on: nothing")
    assert not experiments.exists("nobody")


def test_while_models_load_the_rest_is_shown(admin: Browser, engine: Engine) -> None:
    engine.is_ready = False
    page = admin.get("/")
    assert page.status_code == 200
    assert "loading its models" in page.text
    assert 'href="/experiments/mine"' in page.text


def test_curves_go_by_version_and_by_time(admin: Browser, groups: RedisGroups) -> None:
    for version, prompt in ((1, "a red cat"), (1, "a blue dog"), (2, "a red cat")):
        rewards = group().rewards + np.float32(version)
        groups.add(group(version=version, prompt=prompt, rewards=rewards))
    page = admin.get("/experiments/mine").text
    assert "version 1: mean 1.450, best 1.800, worst 1.100, 2 groups" in page
    assert "the groups&#39; mean went from 1.450 to 2.450 over 3 groups" in page
    assert '<td class="n">2.450</td>' in admin.get("/experiments/mine/numbers").text
    assert "<td>20" in admin.get("/experiments/mine/numbers?axis=time").text
    assert " UTC: mean" in admin.get("/experiments/mine/live?axis=time").text
    assert admin.get("/experiments/mine?axis=length").status_code == 422


def test_each_reward_has_its_chart(admin: Browser, groups: RedisGroups) -> None:
    groups.add(group(names=("judge", "colour"), rewards=np.zeros((8, 2), np.float32)))
    groups.add(group(names=("compressible",), rewards=-np.ones((8, 1), np.float32)))
    page = admin.get("/experiments/mine").text
    for reward in ("judge", "colour", "compressible"):
        assert f"<strong>{reward}</strong>" in page


def test_prompts_and_names_are_shown_as_text(admin: Browser, groups: RedisGroups) -> None:
    groups.add(group(prompt=HOSTILE, names=("<b>judge</b>",)))
    page = admin.get("/experiments/mine").text
    assert HOSTILE in unescape(page)
    for part in ("<script>alert", "<img src=x", "<b>judge"):
        assert part not in page


def test_the_gallery_goes_back_and_by_version(admin: Browser, groups: RedisGroups) -> None:
    for number in range(30):
        groups.add(group(version=number % 2, prompt=f"prompt {number}."))
    ids = [kept.id for kept in groups.latest("mine", 30)]
    page = admin.get("/experiments/mine").text
    assert page.index("prompt 29.") < page.index("prompt 18.")
    assert "prompt 17." not in page
    assert f"before={ids[11]}" in page
    older = admin.get(f"/experiments/mine?before={ids[23]}").text
    assert "prompt 5." in older
    assert "Older groups" not in older
    ones = admin.get("/experiments/mine?version=1").text
    assert "prompt 7." in ones
    assert "prompt 8." not in ones
    assert "No group among the last ones" in admin.get("/experiments/mine?version=7").text
    assert "no older groups" in admin.get(f"/experiments/mine?before={ids[-1]}").text
    assert admin.get("/experiments/mine?before=x").status_code == 422


def test_an_experiment_made_anew_begins_new_curves(
    admin: Browser, groups: RedisGroups, experiments: ExperimentStore
) -> None:
    groups.add(group())
    assert "over 1 groups" in admin.get("/experiments/mine").text
    experiments.delete("mine")
    experiments.create("mine")
    assert "Nothing is explored yet" in admin.get("/experiments/mine").text


def test_pausing_resuming_and_new_terms(
    mine: Browser, admin: Browser, experiments: ExperimentStore
) -> None:
    answer = mine.post("/experiments/mine/pause")
    assert (answer.status_code, answer.headers["location"]) == (303, "/experiments/mine")
    assert experiments.get("mine").share.paused
    assert "Resume" in mine.get("/experiments/mine").text
    mine.post("/experiments/mine/resume")
    assert not experiments.get("mine").share.paused
    admin.post("/experiments/mine/terms", weight="2.5", priority="-3")
    share = experiments.get("mine").share
    assert (share.weight, share.priority) == (2.5, -3)
    refused = admin.post("/experiments/mine/terms", weight="-1")
    assert refused.status_code == 422
    assert "weight" in refused.text


def test_tokens_are_shown_once_and_open_the_experiment(
    admin: Browser, open_browser, experiments: ExperimentStore
) -> None:
    page = admin.post("/experiments/mine/tokens").text
    token = page.split('<code id="new-token">')[1].split("<")[0]
    assert token not in admin.get("/experiments/mine").text
    assert open_browser(token).get("/experiments/mine").status_code == 200
    admin.post("/experiments/mine/tokens/revoke")
    assert open_browser().sign_in(token).status_code in {303, 401}
    assert experiments.events("mine")[0].what == "tokens revoked"


def test_a_new_experiment_comes_with_its_token(
    admin: Browser, experiments: ExperimentStore
) -> None:
    page = admin.post("/experiments", name="  fresh ").text
    assert experiments.exists("fresh")
    assert '<code id="new-token">heliostat-' in page
    again = admin.post("/experiments", name="fresh")
    assert again.status_code == 409
    assert "choose another name" in again.text
    assert admin.post("/experiments", name="a b").status_code == 422
    assert admin.post("/experiments").status_code == 422


@pytest.fixture
def published(client: redis.Redis, experiments: ExperimentStore) -> AdapterStore:
    adapters = AdapterStore(client)
    for width in (4, 8):
        adapters.commit("mine", adapters.stage(random_adapter({"block": (width, width)})))
    return adapters


def test_versions_are_pinned_and_unpinned(mine: Browser, published: AdapterStore) -> None:
    assert "Unpin" not in mine.get("/experiments/mine").text
    assert mine.post("/experiments/mine/versions/1/pin").status_code == 303
    assert "Unpin" in mine.get("/experiments/mine").text
    mine.post("/experiments/mine/versions/1/unpin")
    assert "Unpin" not in mine.get("/experiments/mine").text
    refused = mine.post("/experiments/mine/versions/7/pin")
    assert refused.status_code == 404
    assert "version 7" in refused.text


def test_paths_of_the_api_stay_its_own(admin: Browser) -> None:
    assert admin.get("/v1/health").json() == {"status": "ok"}
    assert admin.get("/v1/nothing").json() == {"detail": "Not Found"}
    assert admin.get("/openapi.json").json()["paths"].keys() >= {"/v1/info"}
    assert not any("login" in path for path in admin.get("/openapi.json").json()["paths"])


@pytest.fixture
def followed(client: redis.Redis, groups: RedisGroups) -> RedisSteps:
    """Two steps of `mine`, the second tuned to by the first."""
    steps = RedisSteps(client)
    decided = Decision(2, Shape(2, 8, 1, 3), f"it teaches more {HOSTILE}")
    for step, decision, shape in ((1, decided, REPORT.shape), (2, None, decided.shape)):
        spent = Spent(100.0 * step, 100.0 * step + 4, {Station.DENOISE: 3.0, Station.DECODE: 0.5})
        groups.add(group(version=step, spent=spent))
        report = replace(REPORT, step=step, version=step, shape=shape, decision=decision)
        steps.add("mine", PublishedStep(step + 1, 0.25, report))
    return steps


def test_a_steps_time_ranking_and_make_are_shown(mine: Browser, followed: RedisSteps) -> None:
    for path in ("/experiments/mine", "/experiments/mine/live"):
        page = mine.get(path).text
        assert "a step took the trainer 9 s in the mean, most of it saving" in unescape(page)
        assert "and the server 4.6 s, most of it denoising" in page
        assert "step 1, server: queue 1 s, denoising 3 s, decoding 0.5 s" in page
        assert "rho went from 0.900 to 0.900" in page
        assert f"it teaches more {HOSTILE}" in unescape(page)
        assert "<script>alert" not in page
        assert "as the settings say" in page
    numbers = mine.get("/experiments/mine/numbers").text
    assert '<td class="n">3.00</td>' in numbers  # denoising
    assert '<td class="n">70 %</td>' in numbers  # overlap


def test_what_was_decided_before_steps_were_told_of_is_still_shown(
    mine: Browser, experiments: ExperimentStore, followed: RedisSteps
) -> None:
    experiments.tuned("mine", "from step 2 on: it teaches more")
    assert "What the run decided last" not in mine.get("/experiments/mine").text


def test_a_run_that_told_of_no_steps_has_no_empty_pictures(admin: Browser) -> None:
    page = admin.get("/experiments/mine").text
    for title in ("Where a step", "Does exploration rank", "What steps are made of"):
        assert title not in page


def test_two_experiments_are_compared_over_the_same_axes(
    admin: Browser, groups: RedisGroups, followed: RedisSteps
) -> None:
    groups.add(group("theirs", version=9, names=("judge", "colour"), rewards=np.zeros((8, 2))))
    page = unescape(admin.get("/compare?of=mine&of=theirs").text)
    assert page.count("judge: the groups' mean went from") == 2
    assert "Not explored for this reward." in page  # colour
    assert page.count("a step took the trainer") == 1
    assert "Its trainer told of no steps." in page
    assert 'value="mine"' in page
    one = admin.get("/compare?of=mine").text
    assert "Choose two" in one
    assert admin.get("/compare?of=mine&of=nobody").status_code == 404
    assert admin.get("/compare?of=mine&of=theirs&of=mine").status_code == 422
    assert admin.get("/compare?of=a%20b&of=mine").status_code == 422


def test_a_token_compares_nothing_with_what_it_may_not_see(
    mine: Browser, followed: RedisSteps
) -> None:
    page = mine.get("/compare").text
    assert "sees that one alone" in page
    assert "theirs" not in page
    assert mine.get("/compare?of=mine&of=theirs").status_code == 403


def test_a_thousand_experiments_come_in_pages_and_are_found(
    admin: Browser, experiments: ExperimentStore, client: redis.Redis
) -> None:
    for number in range(1000):
        experiments.create(f"run-{number:04d}")

    def listed(path: str) -> list[str]:
        return re.findall(r'id="to-([^"]+)"', admin.get(path).text)

    before = client.info("stats")["total_commands_processed"]
    assert listed("/") == ["mine", *(f"run-{number:04d}" for number in range(49))]
    asked = client.info("stats")["total_commands_processed"] - before
    assert asked < 500  # of what the page shows, not of every experiment
    assert listed("/?page=2")[0] == "run-0049"
    assert listed("/?page=999") == listed("/?page=21") == ["run-0999", "theirs"]
    assert listed("/?find=RUN-05") == [f"run-{number:04d}" for number in range(500, 550)]
    assert listed("/overview?find=run-05&page=2") == [f"run-{n:04d}" for n in range(550, 600)]
    page = admin.get("/?find=run-05&page=2").text
    assert 'hx-get="/overview?find=run-05&amp;page=2"' in page
    assert "page 2 of 2, 100 experiments" in page
    nothing = admin.http.get("/", params={"find": HOSTILE}).text
    assert f"No experiment's name has “{HOSTILE}”" in unescape(nothing)
    assert "<script>alert" not in nothing
    assert admin.get("/?page=0").status_code == 422
