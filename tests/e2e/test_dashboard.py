"""The dashboard in a real browser, before a real server."""

from __future__ import annotations

import io
import re
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from heliostat_proto import control_pb2 as messages
from heliostat_wire.steps import Decision, Phase
from tests.e2e.browser import CHROMIUM, browser, sign_in
from tests.e2e.conftest import BATCH
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import StreamError
from tests.wire.test_steps import REPORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

    from tests.e2e.conftest import ServerHarness
    from tests.server.rollout_client import RolloutClient

pytestmark = pytest.mark.slow

SEEDS = range(2 * BATCH)
HOSTILE = "a cat <img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with browser() as started:
        yield started


@dataclass
class Window:
    """A page of the dashboard, and all that the browser had to say against it."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, message: Any) -> None:
        # What the browser says of an answer that is an error on purpose.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def sign_in(self, token: str) -> None:
        sign_in(self.page, self.url, token)

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()


@pytest.fixture
def window(server: ServerHarness, chromium: Browser) -> Iterator[Callable[..., Window]]:
    """Opens windows, each with cookies of its own; none may have a complaint or ask elsewhere."""
    windows: list[Window] = []

    def open_(token: str = "", **options: Any) -> Window:
        page = chromium.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        windows.append(Window(page, str(server.record.http)))
        windows[-1].listen()
        if token:
            windows[-1].sign_in(token)
            expect(page.get_by_role("heading", name="Experiments", exact=True)).to_be_visible()
        return windows[-1]

    yield open_
    for each in windows:
        each.page.context.close()
        assert each.complaints == []
        assert {url for url in each.asked if not url.startswith(each.url)} == set()


def test_one_signs_in_and_out(server: ServerHarness, window: Callable[..., Window]) -> None:
    stranger = window()
    stranger.sign_in("heliostat-guess")
    expect(stranger.page.get_by_role("alert")).to_contain_text("this token is not valid here")
    stranger.sign_in(server.admin_token)
    expect(stranger.page.get_by_text("administrator")).to_be_visible()
    assert stranger.page.evaluate("document.cookie") == ""
    stranger.press("Sign out")
    expect(stranger.page.get_by_label("Token")).to_be_visible()
    stranger.open("/")
    assert stranger.page.url.endswith("/login")


def test_curves_come_by_themselves(
    server: ServerHarness, client: RolloutClient, window: Callable[..., Window]
) -> None:
    client.open("seen")
    admin = window(server.admin_token)
    admin.page.get_by_role("link", name="seen").click()
    expect(admin.page.get_by_text("Nothing is explored yet")).to_be_visible()
    client.explore(SEEDS, experiment="seen")
    chart = admin.page.get_by_role("img", name="colourfulness: the groups' mean went from")
    expect(chart).to_be_visible(timeout=PATIENCE_MS)
    expect(admin.page.get_by_role("img", name=re.compile("seen used [1-9]"))).to_be_visible()
    admin.page.get_by_role("link", name="by time").click()
    expect(chart).to_be_visible()


def test_the_gallery_draws_the_very_candidates(
    server: ServerHarness, client: RolloutClient, window: Callable[..., Window]
) -> None:
    token = client.open("drawn")
    rollout: dict[str, Any] = {"experiment": "drawn", "prompt": HOSTILE}
    answers = client.explore(SEEDS, **rollout, return_latents=True)
    rewards, latents = (
        np.concatenate([answer[name] for answer in answers]) for name in ("REWARDS", "LATENTS")
    )
    images = client.score(latents, prompts=["a"], return_images=True)["IMAGES"]
    owner = window(token)

    def is_there() -> bool:
        owner.open("/experiments/drawn")
        return owner.page.get_by_role("article").count() > 0

    wait_for(owner, is_there)
    assert owner.page.get_by_role("heading", name=HOSTILE).is_visible()
    with owner.page.expect_response("**/pictures.webp?*") as sheet:
        owner.press("Draw best and worst")
    assert sheet.value.status == 200
    expect(owner.page.get_by_text(f"{rewards.max():.3f}").last).to_be_visible()
    assert owner.page.evaluate("window.hacked") is None

    ranked = np.argsort(-rewards[:, 0], kind="stable")
    side = images.shape[1]
    cells = np.asarray(Image.open(io.BytesIO(sheet.value.body()))).reshape(2, side, 4, side, 3)
    for row, places in enumerate((ranked[:4], ranked[::-1][:4])):
        for column, place in enumerate(places):
            shown = cells[row, :, column].astype(float)
            distances = np.abs(images - shown).mean((1, 2, 3))
            assert distances.argmin() == place
            assert distances[place] < 12  # WebP is lossy.

    request = messages.ExperimentRequest(experiment="drawn")

    def is_counted() -> bool:
        return client.ask("GetExperiment", request).usage.images == 2 * len(SEEDS)

    wait_for(owner, is_counted)


def test_what_cannot_be_drawn_any_longer_is_said(
    server: ServerHarness, client: RolloutClient, window: Callable[..., Window]
) -> None:
    targets = client.targets()
    client.publish(random_adapter(targets, seed=1), "dropped")
    client.explore(SEEDS, experiment="dropped", version=1)
    admin = window(server.admin_token)

    def is_there() -> bool:
        admin.open("/experiments/dropped")
        return admin.page.get_by_role("article").count() > 0

    wait_for(admin, is_there)
    for seed in range(2, 5):
        client.publish(random_adapter(targets, seed=seed), "dropped")
    admin.press("Draw best and worst")
    expect(admin.page.get_by_role("alert")).to_contain_text("is no longer kept, only 2, 3, 4")
    expect(admin.page.get_by_text("Pin versions that you want to look at later")).to_be_visible()


def test_versions_are_pinned_and_rolled_back(
    client: RolloutClient, window: Callable[..., Window]
) -> None:
    token = client.open("pinned")
    targets = client.targets()
    for seed in (1, 2):
        client.publish(random_adapter(targets, seed=seed), "pinned")
    owner = window(token)
    owner.open("/experiments/pinned")
    first = owner.page.get_by_role("row").filter(has=owner.page.get_by_role("rowheader", name="1"))
    first.get_by_role("button", name="Pin").click()
    expect(first.get_by_role("button", name="Unpin")).to_be_visible()
    first.get_by_role("button", name="Roll back").click()
    expect(owner.page.get_by_text("to version 1, as version 3")).to_be_visible()
    assert client.info("pinned").latest_version == 3


def test_an_experiment_is_paused_and_resumed(
    client: RolloutClient, window: Callable[..., Window]
) -> None:
    owner = window(client.open("resting"))
    owner.open("/experiments/resting")
    owner.press("Pause")
    expect(owner.page.get_by_role("heading", name="resting paused")).to_be_visible()

    def is_put_off() -> bool:
        try:
            client.explore(SEEDS, experiment="resting")
        except StreamError as error:
            return error.code == "RESOURCE_EXHAUSTED"
        return False

    wait_for(owner, is_put_off)
    owner.press("Resume")
    expect(owner.page.get_by_role("heading", name="resting active")).to_be_visible()
    wait_for(owner, lambda: not is_put_off())


def test_a_token_shows_its_own_experiment_alone(
    server: ServerHarness, client: RolloutClient, window: Callable[..., Window]
) -> None:
    client.open("secret")
    owner = window(client.open("own"))
    expect(owner.page.get_by_role("link", name="own", exact=True)).to_be_visible()
    assert "secret" not in owner.page.content()
    owner.open("/experiments/secret")
    expect(owner.page.get_by_role("alert")).to_have_text(
        "this token is not one of experiment 'secret'"
    )
    admin = window(server.admin_token)
    expect(admin.page.get_by_role("link", name="secret")).to_be_visible()


@pytest.fixture(scope="module")
def followed(server: ServerHarness) -> tuple[str, str]:
    """Two experiments whose trainers told of their steps."""
    with closing(server.client()) as client:
        for name, steps in (("followed", 3), ("beside", 2)):
            make_steps(client, name, steps)
    return "followed", "beside"


def make_steps(client: RolloutClient, name: str, steps: int) -> None:
    """Publish and explore as a run of so many steps does."""
    targets = client.targets()
    chosen = replace(REPORT.shape, prompts=REPORT.shape.prompts + 1)
    client.publish(random_adapter(targets, seed=0), name)
    for step in range(1, steps + 1):
        client.explore(SEEDS, experiment=name, version=step)
        report = replace(REPORT, step=step, version=step, shape=chosen, decision=None)
        if step == 1:
            decision = Decision(2, chosen, "it teaches more")
            report = replace(report, shape=REPORT.shape, decision=decision)
        client.publish(random_adapter(targets, seed=step), name, step=report.message())


def test_a_steps_time_is_shown_at_both_ends(
    server: ServerHarness, followed: tuple[str, str], window: Callable[..., Window]
) -> None:
    admin = window(server.admin_token)
    path = f"/experiments/{followed[0]}"

    def is_there() -> bool:
        admin.open(path)
        return admin.page.get_by_text("Below: the server").count() > 0 and all(
            admin.page.locator(".ends").get_by_text(part).count()
            for part in ("denoising", "decoding", "rewards", "refit")
        )

    wait_for(admin, is_there)
    picture = admin.page.get_by_role("img", name="a step took the trainer 9 s in the mean")
    expect(picture).to_be_visible()
    expect(admin.page.get_by_role("img", name="rho went from 0.900 to 0.900")).to_be_visible()
    expect(admin.page.get_by_role("rowheader", name="2", exact=True).first).to_be_visible()
    expect(admin.page.get_by_text("it teaches more")).to_be_visible()
    admin.page.locator("#time-numbers").click()
    table = admin.page.get_by_role("table", name="Seconds of each step")
    expect(table.get_by_role("row")).to_have_count(2 + 3)
    explored = REPORT.seconds[Phase.EXPLORE]
    expect(table.get_by_role("cell", name=f"{explored:.2f}").first).to_be_visible()


def test_two_experiments_are_compared_at_an_address_to_share(
    server: ServerHarness, followed: tuple[str, str], window: Callable[..., Window]
) -> None:
    admin = window(server.admin_token)
    admin.open("/compare")
    for label, name in zip(("First", "Second"), followed, strict=True):
        admin.page.get_by_label(label).fill(name)
    admin.press("Compare")
    shared = window(server.admin_token)
    shared.page.goto(admin.page.url)
    for name in followed:
        expect(shared.page.get_by_role("link", name=name).first).to_be_visible()
    pictures = shared.page.get_by_role("img", name=re.compile("a step took the trainer"))
    expect(pictures).to_have_count(2)
    ticks = [
        pictures.nth(place).locator("text").evaluate_all("all => all.map(each => each.textContent)")
        for place in (0, 1)
    ]
    assert ticks[0] == ticks[1]


def pages_of(followed: tuple[str, str]) -> list[str]:
    """Every kind of page."""
    name, other = followed
    return [
        "/",
        f"/experiments/{name}",
        f"/experiments/{name}?axis=time",
        f"/experiments/{name}/numbers",
        "/compare",
        f"/compare?of={name}&of={other}",
        "/experiments/nobody",
        "/login",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_people_from_using_a_page(
    server: ServerHarness,
    followed: tuple[str, str],
    window: Callable[..., Window],
    width: int,
    scheme: str,
) -> None:
    viewport = {"width": width, "height": 800}
    admin = window(server.admin_token, viewport=viewport, color_scheme=scheme)
    paths = pages_of(followed)
    admin.open(paths[1])
    group = admin.page.get_by_role("article").first.get_attribute("id")
    assert group is not None
    for path in (*paths, f"{paths[1]}/groups/{group.removeprefix('group-')}"):
        admin.open(path)
        assert admin.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        found = Axe().run(admin.page).response["violations"]
        serious = [
            (each["id"], [node["target"] for node in each["nodes"]])
            for each in found
            if each["impact"] in {"serious", "critical"}
        ]
        assert serious == [], path


WALKED = """() => {
  const each = document.activeElement, style = getComputedStyle(each), box = each.getBoundingClientRect();
  const all = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')];
  return {
    place: all.indexOf(each), isSeen: box.width > 0 && box.left >= 0,
    isOutlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    what: each.outerHTML.slice(0, 100),
  };
}"""
"""Of what is focused: its place among all controls, and how one sees that it is."""


def test_the_keyboard_reaches_every_control_in_order_and_shows_where_it_is(
    server: ServerHarness, followed: tuple[str, str], window: Callable[..., Window]
) -> None:
    admin = window(server.admin_token)
    for path in pages_of(followed):
        admin.open(path)
        controls = admin.page.locator(
            "a[href], button, input:not([tabindex='-1']), select, summary, [tabindex='0']"
        )
        # What is in a closed <details> is no control until it is opened.
        count = sum(
            controls.nth(place).evaluate(
                "each => each.checkVisibility({contentVisibilityAuto: true})"
            )
            for place in range(controls.count())
        )
        admin.page.locator(".skip").focus()  # wherever the page wants to begin
        places = [admin.page.evaluate(WALKED)["place"]]
        for _ in range(count - 1):
            admin.page.keyboard.press("Tab")
            walked = admin.page.evaluate(WALKED)
            assert walked["isSeen"], (path, walked)
            assert walked["isOutlined"], (path, walked)
            places.append(walked["place"])
        assert places == sorted(set(places)), path
    admin.open("/")
    admin.page.keyboard.press("Tab")
    expect(admin.page.get_by_role("link", name="Skip to content")).to_be_focused()
    admin.page.keyboard.press("Enter")
    assert admin.page.url.endswith("#main")


def wait_for(window: Window, happened: Callable[[], bool]) -> None:
    """Wait while the browser goes on."""
    for _ in range(60):
        if happened():
            return
        window.page.wait_for_timeout(500)
    pytest.fail("it did not happen within half a minute")
