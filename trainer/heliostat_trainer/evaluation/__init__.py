"""Held-out prompts before, while and after a run trains, and what their numbers say."""
