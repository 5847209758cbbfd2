"""Engines at work: torch, and what TensorRT has compiled."""
