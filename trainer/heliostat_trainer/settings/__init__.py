"""What a run's TOML may say: sections, defaults, and the words for what is wrong with it."""
