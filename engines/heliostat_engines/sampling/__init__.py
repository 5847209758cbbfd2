"""From a seed's noise to latents: samplers, with and without noise of their own."""
