"""Latents to images to rewards."""
