"""The dashboard in a real browser, before a real server."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from heliostat_proto import control_pb2 as messages
from tests.e2e.browser import CHROMIUM, browser, sign_in
from tests.e2e.conftest import BATCH
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import StreamError

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


def test_it_fits_a_phone_and_the_keyboard(
    server: ServerHarness, client: RolloutClient, window: Callable[..., Window]
) -> None:
    client.open("small")
    phone = window(server.admin_token, viewport={"width": 360, "height": 700}, color_scheme="dark")
    for path in ("/", "/experiments/small", "/login"):
        phone.open(path)
        assert phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.open("/")
    phone.page.keyboard.press("Tab")
    expect(phone.page.get_by_role("link", name="Skip to content")).to_be_focused()


def wait_for(window: Window, happened: Callable[[], bool]) -> None:
    """Wait while the browser goes on."""
    for _ in range(60):
        if happened():
            return
        window.page.wait_for_timeout(500)
    pytest.fail("it did not happen within half a minute")
