"""Stable Diffusion 3's structure (MMDiT), and SD3.5 Large and Medium."""
