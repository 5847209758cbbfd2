"""How the demo's weights were made: drawings, autoencoder, denoiser and judges, from nothing.

`recipe.run` is the whole recipe; each stage is one module and can be resumed.
"""
