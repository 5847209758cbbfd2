from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from heliostat_trainer.handshake import checkpoint_warnings

if TYPE_CHECKING:
    from tests.trainer.fake_server import FakeServer


def test_weights_are_told_apart_by_digest_not_by_path(server: FakeServer) -> None:
    info = replace(server.info(), checkpoint="/there/weights", weights_digest="aa")
    assert checkpoint_warnings("/here/weights", "aa", info) == ()
    (sentence,) = checkpoint_warnings("/there/weights", "bb", info)
    assert "the server explores with other weights (/there/weights)" in sentence
    assert "set model.checkpoint" in sentence


def test_without_a_digest_on_either_side_names_are_compared(server: FakeServer) -> None:
    for theirs, ours in (("", "aa"), ("aa", ""), ("", "")):
        info = replace(server.info(), checkpoint="/there/weights", weights_digest=theirs)
        assert checkpoint_warnings("/there/weights", ours, info) == ()
        (sentence,) = checkpoint_warnings("/here/weights", ours, info)
        assert "make sure that they hold the same weights" in sentence


def test_the_server_says_the_digest_of_what_it_loaded(server: FakeServer) -> None:
    assert len(server.engine.describe().weights_digest) == 64
