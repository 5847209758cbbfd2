"""What came of an input, and who is to blame."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from heliostat_engines.errors import HeliostatError

ROOT = Path(__file__).parents[2]


class Outcome(StrEnum):
    """The first two are as it should be, all others are faults."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """In one sentence, with the status that the product has for a user's mistake."""
    TRACEBACK = "traceback"
    NOT_ONE_SENTENCE = "not one sentence"
    UNUSABLE = "accepted, but cannot be used"
    LEAKED = "a secret was printed"
    LOST = "something was lost"
    HUNG = "hung"
    DIED = "the process died"


GOOD = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})


@dataclass(frozen=True)
class Verdict:
    """sentence: what was said. cause: the same for all inputs that fail for one reason."""

    outcome: Outcome
    sentence: str = ""
    cause: str = ""

    @property
    def is_fault(self) -> bool:
        return self.outcome not in GOOD


ACCEPTED = Verdict(Outcome.ACCEPTED)


def refused(sentence: str) -> Verdict:
    """A refusal, which has to be one sentence."""
    sentence = sentence.strip()
    is_vague = sentence in {"", "Invalid metadata"}  # gRPC's own words for a header
    if is_vague or re.search(r"[\r\n]|Traceback", sentence):
        return Verdict(Outcome.NOT_ONE_SENTENCE, sentence, _alike(sentence))
    return Verdict(Outcome.REFUSED, sentence)


def raised(error: BaseException) -> Verdict:
    """An error of the product's own is a refusal; any other is a bug."""
    if isinstance(error, HeliostatError):
        return refused(str(error))
    sentence = f"{type(error).__name__}: {error}"[:500]
    return Verdict(Outcome.TRACEBACK, sentence, cause_of(error))


def cause_of(error: BaseException) -> str:
    """The kind of an exception, and the innermost line of the product that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if (path := Path(frame.filename)).is_relative_to(ROOT)
        and path.relative_to(ROOT).parts[0] != "tests"
    ]
    where = (ours or frames)[-1:]
    lines = [f"{_short(frame.filename)}:{frame.lineno}" for frame in where]
    return f"{type(error).__name__} at {''.join(lines) or 'nowhere'}"


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def _alike(sentence: str) -> str:
    """A message without what differs from input to input."""
    plain = re.sub(r"(['\"]).*?\1|\d+|/\S+", "_", " ".join(sentence.split()))
    return plain[:80] or "nothing was said"
