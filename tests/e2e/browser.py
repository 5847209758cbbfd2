"""Debian's Chromium, which sees this machine alone."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for as long as the block; there has to be a `CHROMIUM`."""
    # As root, in a container, Chromium has no sandbox of its own.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*sandbox, NO_NETWORK, "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


def sign_in(page: Page, url: str, token: str) -> None:
    """Sign in to the dashboard at a URL, with a token that may be wrong."""
    page.goto(url + "/")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
