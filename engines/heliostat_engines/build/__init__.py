"""Compiles exported graphs: profiles, cache, manifest, progress."""
