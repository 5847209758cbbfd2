"""Machines without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import constants

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights on this machine, and no way to the hub; the caches are in `folder`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
