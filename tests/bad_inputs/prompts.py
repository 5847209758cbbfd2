"""Prompt files: text and JSONL, in encodings and with line ends as people have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from heliostat_trainer.prompts.sources import read_prompts
from heliostat_trainer.rollouts.wire import infer_inputs
from heliostat_wire.tensors import encode_inputs
from tests.bad_inputs import odd
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bad_inputs.sandbox import Sandbox

ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-7")
ENDS = ("\n", "\n", "\r\n", "\r", "\u2028", "\x0c", "\n\n")
plain = st.text(st.characters(categories=("L", "M", "N", "P", "Zs", "Zl")), max_size=20)
breaks = st.builds(
    lambda left, between, right: f"{left}{between}{right}",
    plain,
    st.sampled_from(["\u2028", "\x0c", "\x85", "\x1d", "\u2029", "\x0b", " "]),
    plain,
)


@dataclass(frozen=True)
class PromptFile:
    """expected: what is to be read; None where the file is not as the documentation has it."""

    name: str
    content: bytes
    expected: tuple[str, ...] | None = None


@st.composite
def prompt_files(draw: Callable[..., Any]) -> PromptFile:
    return draw(draw(st.sampled_from([good_files, bad_files, bad_files])))


@st.composite
def _good_files(draw: Callable[..., Any]) -> PromptFile:
    """Files that are right, however odd."""
    prompts = draw(st.lists((plain | breaks).filter(str.strip), min_size=1, max_size=5))
    name = draw(st.sampled_from(["p.txt", "p.jsonl"]))
    if name == "p.jsonl":
        ascii_ = draw(st.booleans())
        lines = [json.dumps({"prompt": each}, ensure_ascii=ascii_) for each in prompts]
    else:
        lines = prompts
        prompts = [each for each in prompts if each.strip()[:1] != "#"]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig"]))
    prompts = [each.strip() for each in prompts]
    expected = tuple(dict.fromkeys(prompts))
    return PromptFile(name, text.encode(encoding), expected or None)


@st.composite
def _bad_files(draw: Callable[..., Any]) -> PromptFile:
    name = draw(st.sampled_from(["p.txt", "p.jsonl", "p", "p.json", "p.JSONL"]))
    objects = odd.anything.map(lambda value: json.dumps({"prompt": value}))
    lines = draw(st.lists(odd.texts | objects | odd.json_texts, max_size=5))
    text = draw(st.sampled_from(ENDS)).join(lines)
    encoding = draw(st.sampled_from(ENCODINGS))
    errors = "surrogatepass" if encoding.startswith("utf-") and encoding != "utf-7" else "replace"
    content = text.encode(encoding, errors)
    if draw(st.integers(0, 4)) == 0:
        content = draw(odd.damages).applied(content) or b""
    return PromptFile(name, content)


good_files, bad_files = _good_files(), _bad_files()


def run(file: PromptFile, sandbox: Sandbox) -> Verdict:
    """Read it; what is accepted has to be what was written, and has to fit on the wire."""
    sandbox.write({file.name: file.content})
    try:
        prompts = read_prompts(sandbox.work / file.name, "prompts.train")
        infer_inputs(encode_inputs(prompts))
    except Exception as error:
        verdict = raised(error)
    else:
        verdict = ACCEPTED
        if file.expected is not None and prompts != file.expected:
            verdict = Verdict(Outcome.UNUSABLE, f"read as {prompts}", "read otherwise than written")
    if file.expected is not None and verdict.outcome is Outcome.REFUSED:
        verdict = Verdict(Outcome.UNUSABLE, verdict.sentence, "a right file is refused")
    return sandbox.tidied(verdict)
