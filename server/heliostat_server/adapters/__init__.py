"""Published adapters: bytes and versions, in Redis."""
