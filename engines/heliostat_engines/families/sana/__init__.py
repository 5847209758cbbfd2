"""SANA 1.6B: linear attention on latents of a 32x autoencoder."""
