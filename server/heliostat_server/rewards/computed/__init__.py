"""Rewards that need no trained model of ours: pixels, text that is read, sums of others."""
