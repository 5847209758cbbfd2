"""python -m heliostat_server SETTINGS_JSON: what `heliostat serve` runs, without its options."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from heliostat_engines.errors import HeliostatError
from heliostat_server.serve import serve
from heliostat_server.settings import ServeSettings


def main() -> None:
    """Serve; a wrong setting is one sentence and exit status 1."""
    settings = sys.argv[1] if len(sys.argv) > 1 else "{}"
    try:
        serve(ServeSettings.model_validate_json(settings))
    except (HeliostatError, ValidationError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
