"""How large a number on the command line may be. Imports nothing."""

from __future__ import annotations

MOST = 2**31 - 1
"""What tensors' sizes and 32 bits on the wire hold."""
MOST_64 = 2**63 - 1
"""What 64 bits on the wire hold."""
