"""What a run shows while it goes on: on the terminal, in TensorBoard and W&B."""
