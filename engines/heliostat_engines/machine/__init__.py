"""What this machine has, what it computes in, and how its network stands."""
