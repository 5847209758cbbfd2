"""The control plane: what a trainer asks before and between rollouts."""
