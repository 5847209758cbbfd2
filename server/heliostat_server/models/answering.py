"""One answer a request, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import HeliostatError
from heliostat_server.models.tensors import error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger


def answer_each(
    requests: Sequence[Any], answer: Callable[[Any], Any], log: FilteringBoundLogger
) -> list[Any]:
    """Answer each request on its own: an error ends that request alone."""
    return [_answer(request, answer, log) for request in requests]


def _answer(request: Any, answer: Callable[[Any], Any], log: FilteringBoundLogger) -> Any:
    try:
        return answer(request)
    except HeliostatError as error:
        log.warning("refused", reason=str(error))
        return error_response(error)
    except Exception as error:
        log.exception("failed", exc_info=error)
        return error_response(error)
