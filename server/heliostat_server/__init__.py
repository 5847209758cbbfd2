"""The rollout server: Triton models, rewards, adapters, control plane and launcher."""
