"""Several processes as one: torchrun, messages, signals."""
