"""One optimiser step: rows, advantages, losses' mean, descent."""
