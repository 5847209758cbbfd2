from __future__ import annotations

import pytest

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.server import server_address


def test_addresses() -> None:
    assert server_address("grpc://127.0.0.1:8600") == "127.0.0.1:8600"
    assert server_address("gpu-box.local:8600/") == "gpu-box.local:8600"
    assert server_address("grpc://[::1]:8600") == "[::1]:8600"
    for wrong in ("host:99999", "grpc://", "host:"):
        with pytest.raises(ConfigError):
            server_address(wrong)
