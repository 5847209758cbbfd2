"""What the Triton models are made of. Imported in Triton's Python backend only."""
