"""Which of a server's decoders a request means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence


def decoder_of(asked: str, offered: Sequence[DecoderName]) -> DecoderName:
    """The decoder of that name; of none the first that the server has.

    Raises:
        RequestError: it has no such decoder.
    """
    if not asked:
        return offered[0]
    if asked in offered:
        return DecoderName(asked)
    raise RequestError(
        f"no decoder {asked[:50]!r} here: give {' or '.join(offered)}, or leave decoder out"
    )
