"""The demo's judges, and their weights."""
