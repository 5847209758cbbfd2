"""What this machine can do: its parts, the space that each family takes, and a small engine tried on it."""
