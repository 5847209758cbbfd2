"""OCR: whether the image has the text that the prompt quotes.

    reward = 1 - min(d, n) / n,   d = 0 if the quoted text is in the text that was read,
                                  d = Levenshtein(read, quoted) if it is not,   n = len(quoted)

Case and spaces do not count.

Source: Liu et al., "Flow-GRPO" (arXiv 2505.05470), visual text rendering; Chen et al.,
"TextDiffuser" (arXiv 2305.10855).
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from heliostat_server.errors import RequestError
from heliostat_server.rewards.images import to_uint8

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning

_OPENS = r"(?<![0-9])(?!(?<=[0-9]\s).\s)"
"""Not after a number: that is the mark for inches, also with a space on either side."""
_PAIRS = (
    _OPENS + '"([^"]*)"',
    _OPENS + "[“”]([^“”]*)[“”]",
    "„([^„“”]*)[“”]",
    "«([^«»]*)»",
    "»([^«»]*)«",
    "‹([^‹›]*)›",
    "›([^‹›]*)‹",
    "「([^「」]*)」",
    "『([^『』]*)』",
    "＂([^＂]*)＂",
    "〝([^〝〞〟]*)[〞〟]",
)
"""What English, German, French, Nordic, Chinese and Japanese texts quote with."""
_QUOTED = re.compile("|".join(_PAIRS))


class Ocr:
    """Rewards in 0..1. Reads on the CPU: an image a thread, as many as torch has."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        self._threads = torch.get_num_threads()
        self._readers: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._threads):
            self._readers.put(
                RapidOCR(
                    params={
                        "Global.log_level": "critical",
                        "Global.use_cls": False,
                        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                    }
                )
            )

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] of images[B, 3, H, W] for prompts[B].

        Raises:
            RequestError: a prompt quotes no text.
        """
        wanted = [quoted_text(prompt) for prompt in prompts]
        pictures = to_uint8(images).cpu().numpy()
        with ThreadPoolExecutor(self._threads, "ocr") as pool:
            rewards = list(map(likeness, pool.map(self._read, pictures), wanted))
        return torch.tensor(rewards, dtype=torch.float32)

    def check_prompt(self, prompt: str) -> None:
        """Raises RequestError: it quotes no text."""
        quoted_text(prompt)

    def _read(self, picture: NDArray[np.uint8]) -> str:
        reader = self._readers.get()
        try:
            # As OpenCV has it, which the reader is made for.
            blue_first = np.ascontiguousarray(picture[..., ::-1])
            return "".join(reader(blue_first).txts or ())
        finally:
            self._readers.put(reader)


def quoted_text(prompt: str) -> str:
    """The first text between quotation marks.

    Raises:
        RequestError: there is none.
    """
    quoted = (_bare(text) for match in _QUOTED.finditer(prompt) for text in match.groups(""))
    text = next(filter(None, quoted), "")
    if not text:
        raise RequestError(
            "the reward ocr reads the text that a prompt has in quotation marks, and "
            f"{prompt!r} has none"
        )
    return text


def likeness(read: str, wanted: str) -> float:
    """1: the wanted text was read; 0: nothing like it."""
    read, wanted = _bare(read), _bare(wanted)
    if wanted in read:
        return 1.0
    return 1.0 - min(Levenshtein.distance(read, wanted), len(wanted)) / len(wanted)


def _bare(text: str) -> str:
    return "".join(text.split()).lower()
