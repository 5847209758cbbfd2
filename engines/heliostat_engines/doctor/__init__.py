"""What this machine can do: its parts, its room for each family, and a small engine tried on it."""
