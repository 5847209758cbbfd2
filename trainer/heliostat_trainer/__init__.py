"""The trainer: explore, redraw, score, train, publish."""
