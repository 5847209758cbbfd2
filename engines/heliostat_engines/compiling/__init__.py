"""Compiles exported graphs: target, cache, manifest, progress."""
