"""How fast an engine is here, and how well it ranks."""
