"""The examples of docs/rewards.md work as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import invalidate_caches
from pathlib import Path

import pytest
import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_server.processes.ports import free_ports
from heliostat_server.rewards.definitions import HttpScorer, PluginReward, load_definitions
from heliostat_server.rewards.registry import BUILT_IN, Offer, offered_rewards
from tests.server.rewards.offers import book_of

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"
EXAMPLES = dict(re.findall(r"^`(\S+)`\n```\w+\n(.*?)^```", PAGE.read_text(), re.M | re.S))
NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
IMAGES = torch.linspace(0, 1, 3).reshape(3, 1, 1, 1).expand(3, 3, 8, 8)


def test_the_settings_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rewards.toml"
    path.write_text(EXAMPLES["rewards.toml"].replace("/models/PickScore_v1", str(tmp_path)))
    (tmp_path / "scorer.token").write_text("secret")
    definitions = load_definitions(path)
    names = {entry.name for entry in offered_rewards(Offer("sana", definitions))}
    assert {"hps_finetuned", "mix", "reads", "my_scorer", "vlm_judge", "pickscore"} <= names


def test_the_http_scorer_answers(tmp_path: Path) -> None:
    (tmp_path / "scorer.py").write_text(EXAMPLES["scorer.py"])
    (port,) = free_ports(1)
    definition = HttpScorer(kind="http", url=f"http://127.0.0.1:{port}/score", attempts=10)
    process = subprocess.Popen([sys.executable, tmp_path / "scorer.py", str(port)])
    try:
        rewards = book_of({"bright": definition}).get("bright").score(IMAGES, ["a"] * 3, NO_TEXT)
    finally:
        process.kill()
        process.wait()
    torch.testing.assert_close(rewards, torch.tensor([0.0, 128 / 255, 1.0]))


def test_the_plugin_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads(EXAMPLES["pyproject.toml"])["project"]
    (tmp_path / "sharp_rewards.py").write_text(EXAMPLES["sharp_rewards.py"])
    info = tmp_path / "sharp_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    sharper = PluginReward(kind="plugin", plugin="sharpness", options={"scale": 10.0})
    book = book_of({"sharper": sharper})
    images = torch.rand(2, 3, 8, 8)
    plain = book.get("sharpness").score(images, ["a"] * 2, NO_TEXT)
    torch.testing.assert_close(book.get("sharper").score(images, ["a"] * 2, NO_TEXT), 10 * plain)


def test_the_page_names_every_built_in_reward() -> None:
    text = PAGE.read_text()
    for entry in BUILT_IN:
        assert f"`{entry.name}`" in text
