"""A process that tries inputs: chunks come by standard input as JSON, verdicts go back a line each.

    {"kind": "settings", "seed": 0, "chunk": 3, "first": 0, "count": 50, "root": "/tmp/x"}

Before each input a line `{"at": 7}`: where the process ends or hangs, that was it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bad_inputs.kinds import inputs_of, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bad_inputs.kinds import Try

MOST_BYTES = 12 * 2**30
"""Of address space: what would need more fails here instead of taking the machine down."""
SHOWN = 4000
TELL_AFTER_S = 25.0


class Worker:
    """Keeps what tries a kind open for as long as chunks of it come."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name = ""
        self._try: Try | None = None

    def verdicts(self, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A line before and one after each input of a chunk."""
        kind = kind_of(task["kind"])
        if kind.name != self._name:
            self.close()
            self._try = self._stack.enter_context(kind.opened(Path(task["root"]) / kind.name))
            self._name = kind.name
        assert self._try is not None
        inputs = inputs_of(kind, task["seed"], task["chunk"])[: task["count"]]
        for place, one in enumerate(inputs[task["first"] :], task["first"]):
            yield {"at": place, "input": repr(one)[:SHOWN]}
            faulthandler.dump_traceback_later(TELL_AFTER_S, file=sys.__stderr__)
            verdict = self._try(one)
            faulthandler.cancel_dump_traceback_later()
            yield {"place": place, **asdict(verdict)}
        yield {"done": True}

    def close(self) -> None:
        self._stack.close()
        self._name = ""


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is printed past Python must not be taken for a verdict
    worker = Worker()
    try:
        for line in sys.stdin:
            for answer in worker.verdicts(json.loads(line)):
                print(json.dumps(answer), file=tell)
    finally:
        worker.close()


if __name__ == "__main__":
    main()
