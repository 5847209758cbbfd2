"""All that is in Redis, and every script that runs there."""
