"""The demo: a tiny latent text-to-image model of SD3.5's structure that draws emoji scenes."""
