"""The tables of errors.md, read from the code: `python docs/errors_table.py` writes them anew.

A test checks that those of the page are these.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines import errors as of_engines
from heliostat_engines.errors import HeliostatError
from heliostat_server import errors as of_server
from heliostat_trainer import errors as of_trainer
from heliostat_trainer.rollouts.failures import refusal_error
from heliostat_wire.errors import Code, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PAGE = Path(__file__).with_name("errors.md")
BEGIN = "<!-- Written by `python docs/errors_table.py`. -->\n"
END = "<!-- Up to here. -->\n"

CLASSES: dict[str, tuple[ModuleType, ...]] = {
    "Classes of both sides": (of_engines,),
    "Classes of the server": (of_server,),
    "Classes of the trainer": (of_trainer,),
}


def tables() -> str:
    """Every code, and every class of error, as Markdown."""
    return "\n".join([*_codes(), *_classes()])


def write() -> None:
    """Replace the tables of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


def _codes() -> Iterator[str]:
    yield from ("## Codes", "")
    yield "| code | means | over HTTP | in Triton | ask again | raised in the server as | in the trainer as |"
    yield "|---|---|---|---|---|---|---|"
    for code in Code:
        refusals = [Refusal(code, "SENTENCE")]
        if code is Code.RESOURCE_EXHAUSTED:
            refusals.append(Refusal(code, "SENTENCE", retry_after_s=3, request_id="7"))
        told = " ".join(f"`{refusal}`" for refusal in refusals)
        cells = (
            told,
            code.meaning,
            f"{code.http.value} {code.http.phrase}",
            f"`{code.triton}`",
            ", or ".join(_again(refusal) for refusal in refusals),
            ", ".join(_raised(code)),
            ", or ".join(f"`{type(refusal_error(refusal)).__name__}`" for refusal in refusals),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _again(refusal: Refusal) -> str:
    put_off = " if it says retry-after" if refusal.retry_after_s is not None else ""
    return refusal.again.value + put_off


def _raised(code: Code) -> Iterator[str]:
    """The server's classes that are told as a code, those below them left out."""
    for kind, told in of_server.CODES:
        if told is code:
            yield "any other `HeliostatError`" if kind is HeliostatError else f"`{kind.__name__}`"
    if of_server.code_of(Exception()) is code:
        yield "what is no `HeliostatError`"


def _classes() -> Iterator[str]:
    for title, modules in CLASSES.items():
        yield from (f"## {title}", "", "| class | what happened |", "|---|---|")
        for module in modules:
            for name, kind in vars(module).items():
                if isinstance(kind, type) and kind.__module__ == module.__name__:
                    meaning = (kind.__doc__ or "").partition("\n\n")[0]
                    yield f"| `{name}` | {' '.join(meaning.split())} |"
        yield ""


if __name__ == "__main__":
    write()
