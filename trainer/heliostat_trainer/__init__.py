"""The trainer: explore, select, regenerate, optimise, publish."""
