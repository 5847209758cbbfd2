"""Rewards that other programs compute, asked over HTTP."""
